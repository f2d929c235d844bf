//! Each step of boot, plug, unplug and resize fails once, in turn: then all is as
//! it was, and the same done again succeeds. Prints the steps; one that no
//! operation has reached is a failure.
//!
//! A process of its own, one test at a time: what fails, fails in all of it.
mod support;

#[path = "faults/beside.rs"]
mod beside;
#[path = "faults/causes.rs"]
mod causes;
#[path = "faults/file.rs"]
mod file;
#[path = "faults/operations.rs"]
mod operations;
#[path = "faults/paging.rs"]
mod paging;
#[path = "faults/put_back.rs"]
mod put_back;
#[path = "faults/scene.rs"]
mod scene;

use std::collections::BTreeMap;

use gracefault::kvm::{SlotZap, Vm};
use gracefault::memory::faults::{Fault, Step, Watch};
use libtest_mimic::{Arguments, Trial};

use operations::{OPERATIONS, POOL, gives_huge_pages, gives_pages};
use scene::Scene;
use support::pool::Pool;
use support::{Outcome, blocks, kvm_test};

fn main() {
    blocks::one_arena();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut trials: Vec<Trial> = vec![kvm_test("faults_of_each_step", of_each_step)];
    trials.extend(causes::trials());
    trials.extend(file::trials());
    trials.extend(paging::trials());
    trials.extend(put_back::trials());
    trials.extend(beside::trials());
    libtest_mimic::run(&arguments, trials).exit();
}

fn of_each_step() -> Outcome {
    let mut uncovered: Vec<Step> = Step::ALL.to_vec();
    // Without it, one backend less is tried.
    let _pool = Pool::grow(POOL).inspect_err(|reason| println!("no huge pages: {reason}"));
    let vm = Vm::new(&gracefault::kvm::Kvm::open()?)?;
    // Whether this host has what may fail.
    let is_had = |step: &Step| match step {
        Step::DisableQuirk => vm.slot_zap() == SlotZap::ThatSlot,
        Step::ReserveAddresses | Step::TrimAddresses | Step::AdviseMemory => gives_huge_pages(),
        Step::OpenUserfaultfd
        | Step::StartUserfaultfd
        | Step::MakePager
        | Step::StartPager
        | Step::WatchMemory
        | Step::UnwatchMemory
        | Step::BringPage
        | Step::ReplacePage
        | Step::WakeSleeper => gives_pages(),
        Step::MakeGuestMemfd => vm.create_guest_memfd(4096).is_ok(),
        _ => true,
    };
    println!();
    for operation in OPERATIONS {
        let scene = Scene::new(operation);
        let reached = reached(&scene)?;
        for (step, times) in &reached {
            let times = *times.min(&operation.most);
            for after in 0..times {
                let fault = [Fault::once(*step, after)];
                let mut failed = scene.fail(&fault)?;
                // A machine's run takes as many steps as it finds the time for.
                for _ in 0..if operation.is_machine { 50 } else { 0 } {
                    if failed[step] == 1 {
                        break;
                    }
                    failed = scene.fail(&fault)?;
                }
                assert_eq!(failed[step], 1, "{}, {step:?}", operation.name);
            }
            println!("  {:26} {times:3} x {}", operation.name, step.name());
            uncovered.retain(|other| other != step);
        }
        for second in operation.undoing {
            let times = undoing(&scene, &reached, *second)?;
            println!(
                "  {:26} {times:3} x {}, after another",
                operation.name,
                second.name()
            );
            assert!(
                times > 0 || !is_had(second),
                "{second:?} is not reached by undoing"
            );
            uncovered.retain(|other| other != second);
        }
    }
    uncovered.retain(is_had);
    assert!(
        uncovered.is_empty(),
        "reached by no operation: {uncovered:?}"
    );
    Ok(())
}

/// How often the operation reaches each step when all goes well.
fn reached(scene: &Scene<'_>) -> Result<BTreeMap<Step, u64>, String> {
    // What is allocated once is there afterwards.
    scene.run().and_then(|()| scene.reset())?;
    let watch = Watch::begin(&[]);
    scene.run()?;
    let reached = Step::ALL.iter().map(|step| (*step, watch.reached(*step)));
    let reached = reached.filter(|(_, times)| *times > 0).collect();
    drop(watch);
    scene.reset()?;
    Ok(reached)
}

/// Has `second` fail, too, in what is done because some other step has failed; in
/// how many ways that can be.
fn undoing(scene: &Scene<'_>, reached: &BTreeMap<Step, u64>, second: Step) -> Result<u64, String> {
    let mut ways = 0;
    for (first, times) in reached.iter().filter(|(first, _)| **first != second) {
        for after in 0..*times {
            // Until it is reached so often no more.
            for again in 0.. {
                let failed =
                    scene.fail(&[Fault::once(*first, after), Fault::once(second, again)])?;
                if failed[&second] == 0 {
                    break;
                }
                ways += u64::from(failed[first] > 0);
            }
        }
    }
    Ok(ways)
}
