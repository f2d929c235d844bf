//! What others do beside an unplug, or a plug, that fails.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "api")]
use gracefault::api::{
    Cancel, MachineVm, Vm as _,
    model::{PlugRequest, UnplugRequest},
};
use gracefault::devices::BlockPhase;
use gracefault::hotplug::{
    BlockKind, Churn, ChurnReport, Consent, HotplugError, HotplugRegion, ResizeOptions, Resizer,
};
#[cfg(feature = "api")]
use gracefault::machine::{Machine, MachineConfig, MemoryConfig};
use gracefault::memory::Device;
use gracefault::memory::faults::{Fault, Step, Watch};
use gracefault_guest::abi::{HOTPLUG_GPA, event, hotplug as regs};
use libtest_mimic::Trial;

use crate::support::blocks::{Blocks, eventually};
use crate::support::{Outcome, kvm_test};

const BLOCK: u64 = 2 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("beside_an_unplug_a_withdrawal", withdrawal),
        kvm_test("beside_an_unplug_a_look", look),
        kvm_test("beside_an_unplug_a_churn", churn),
        kvm_test("beside_a_slot_that_stays_a_churn", churn_and_stuck),
        #[cfg(feature = "api")]
        kvm_test("beside_a_slot_that_stays_the_api", api_and_stuck),
        #[cfg(feature = "api")]
        kvm_test("beside_a_slot_that_stays_a_name", name_and_stuck),
    ]
}

/// A resize asks the guest for a block and is superseded, while another thread unplugs
/// the block unasked, which then fails: the guest gets the block again that it gives back.
fn withdrawal() -> Outcome {
    let blocks = Blocks::new(BLOCK, 2)?;
    let (region, guest) = (&blocks.region, &blocks.controller);
    let tell = |register, word: u64| guest.write(register, &word.to_le_bytes());
    // What the guest is told next; it has then done so.
    let acknowledge = || {
        let mut word = [0; 8];
        guest.read(regs::EVENT, &mut word).expect("a register");
        let word = u64::from_le_bytes(word);
        if word != 0 {
            tell(regs::ACK, word).expect("a register");
        }
        (word >> 32) as u32
    };
    tell(regs::JOIN, 1)?;
    region.plug_all(&[0, 1], BlockKind::Cooperative)?;
    assert_eq!([acknowledge(), acknowledge()], [event::OFFERED; 2]);
    let resizer = Resizer::new(region.clone())?;
    let options = ResizeOptions {
        patience: Duration::from_secs(60),
        ..ResizeOptions::default()
    };
    resizer.request(0, options)?;
    // It begins with the last one.
    let is_at_it = || region.slots().iter().all(|(block, _)| *block != 1);
    eventually(|| is_at_it() && guest.phase(0) == BlockPhase::AskedBack);
    let watch = Watch::begin(&[Fault::once(Step::RemoveSlot, 0)]);
    let guard = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| -> Outcome {
        let (held, is_held) = std::sync::mpsc::channel();
        let reader = scope.spawn({
            let let_go = guard.clone();
            let space = &blocks.space;
            let gpa = region.block_range(0).start();
            move || {
                let vma = space.mm().lock_vma_under_rcu_wait(gpa);
                let vma = vma.expect("no section").expect("plugged");
                held.send(()).expect("it is waited for");
                while !let_go.load(SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
                drop(vma);
            }
        });
        is_held.recv()?;
        let unplug = scope.spawn(|| region.unplug(0, Consent::Surprise, None));
        let is_taken = || region.slots().is_empty();
        eventually(is_taken);
        let result = (|| -> Outcome {
            assert!(is_taken(), "{:?}", region.slots());
            let both = resizer.request(2 * BLOCK, options)?;
            both.wait(Instant::now() + Duration::from_secs(60))?;
            Ok(())
        })();
        guard.store(true, SeqCst);
        reader.join().expect("no panic");
        let failed = unplug.join().expect("no panic");
        assert!(matches!(failed, Err(HotplugError::Slot(_))), "{failed:?}");
        result
    })?;
    assert_eq!(watch.failed(Step::RemoveSlot), 1);
    drop(watch);
    for block in [1, 0] {
        assert_eq!(guest.phase(block), BlockPhase::AskedBack);
        assert_eq!(acknowledge(), event::ASKED_BACK);
    }
    for block in [1, 0] {
        assert_eq!(guest.phase(block), BlockPhase::Offered, "block {block}");
    }
    assert_eq!(region.plugged().len(), 2);
    Ok(())
}

/// Two threads look at a block all the time: who unplugs it is not told that it is not
/// there, and is the only one to have its memory.
fn look() -> Outcome {
    for lazy in [false, true] {
        let blocks = Blocks::with(BLOCK, 1, |region| region.lazy(lazy).with_dirty_log(true))?;
        let region = &blocks.region;
        let (over, seen) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| -> Outcome {
            let looks = || {
                while !over.load(SeqCst) {
                    match region.take_dirty_pages(0) {
                        Ok(_) => drop(seen.fetch_add(1, SeqCst)),
                        Err(HotplugError::NotPlugged { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let lookers = [scope.spawn(looks), scope.spawn(looks)];
            let cycles = || -> Outcome {
                let mut done = 0;
                while done < 500 || seen.load(SeqCst) < 500 {
                    region.plug(0, BlockKind::Volatile)?;
                    blocks.space.put_in_missing(None)?;
                    let report = region.unplug(0, Consent::Surprise, None)?;
                    assert!(report.unmap_error.is_none(), "{report:?}");
                    done += 1;
                }
                Ok(())
            };
            let result = cycles();
            over.store(true, SeqCst);
            for looker in lookers {
                looker.join().expect("no panic");
            }
            result
        })?;
    }
    Ok(())
}

/// Runs a churn until `beside` is done; it must have left nothing plugged but `kept`.
fn churned(
    region: &HotplugRegion,
    kept: &[u32],
    beside: impl FnOnce() -> Outcome + Send,
) -> Outcome {
    let stop = AtomicBool::new(false);
    let mut report = ChurnReport::default();
    thread::scope(|scope| -> Outcome {
        let churn = scope.spawn(|| Churn::new(7).run(region, &stop, &|| false, &mut report));
        let result = beside();
        stop.store(true, SeqCst);
        churn.join().expect("no panic")?;
        result
    })?;
    let left: Vec<_> = region.plugged().iter().map(|(block, _)| *block).collect();
    assert_eq!(left, kept, "forgotten by who has plugged it");
    Ok(())
}

/// Another thread looks at the blocks of a churn, and tries to unplug them, which fails
/// each time, since it holds something of the map.
fn churn() -> Outcome {
    let blocks = Blocks::with(BLOCK, 4, |region| region.with_dirty_log(true))?;
    let region = &blocks.region;
    churned(region, &[], || {
        let held = blocks.space.mm().lock_vma_under_rcu_wait(HOTPLUG_GPA)?;
        assert!(held.is_some());
        let sections = || blocks.space.mm().stats().sections;
        let enough = sections() + 2_000;
        while sections() < enough {
            for block in 0..4 {
                match region.take_dirty_pages(block) {
                    Ok(_) | Err(HotplugError::NotPlugged { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                let unplug = region.unplug(block, Consent::Surprise, None);
                unplug.expect_err("a guard is held");
            }
        }
        Ok(())
    })
}

/// Has KVM keep the slot of block 0, which is not plugged, and of no other, until it has
/// been asked so often.
fn stuck(region: &HotplugRegion, times: u64) -> Watch {
    let stays = Fault {
        times,
        ..Fault::once(Step::RemoveSlot, 0)
    };
    let watch = Watch::begin(&[Fault::once(Step::AddSlot, 1), stays]);
    let plug = region.plug_all(&[0, 1], BlockKind::Cooperative);
    plug.expect_err("the second slot is refused");
    assert_eq!(watch.failed(Step::RemoveSlot), 1);
    watch
}

fn churn_and_stuck() -> Outcome {
    const TIMES: u64 = 20;
    let blocks = Blocks::new(BLOCK, 2)?;
    let region = &blocks.region;
    let watch = stuck(region, TIMES);
    region.plug(1, BlockKind::Cooperative)?;
    churned(region, &[1], || {
        eventually(|| watch.failed(Step::RemoveSlot) == TIMES);
        assert_eq!(watch.failed(Step::RemoveSlot), TIMES);
        Ok(())
    })
}

/// A machine with room for three blocks.
#[cfg(feature = "api")]
fn machine() -> Result<Machine, Box<dyn std::error::Error>> {
    let config = MachineConfig {
        memory: MemoryConfig {
            hotplug_size: 3 * BLOCK,
            block: BLOCK,
            ..MemoryConfig::default()
        },
        ..MachineConfig::default()
    };
    Ok(Machine::new(config, Box::new(std::io::sink()))?)
}

/// Blocks that were to be unplugged, and are put back, are called what they were.
#[cfg(feature = "api")]
fn name_and_stuck() -> Outcome {
    let machine = machine()?;
    let vm = MachineVm::new(machine.handle()?);
    let plug = PlugRequest {
        start: None,
        size: 2 * BLOCK,
        id: Some("x".into()),
    };
    let text = |failure| format!("{failure:?}");
    vm.plug(&plug, &Cancel::default()).map_err(text)?;
    let unplug = UnplugRequest {
        id: plug.id,
        forced: true,
        ..UnplugRequest::default()
    };
    let watch = Watch::begin(&[Fault::once(Step::RemoveSlot, 1)]);
    vm.unplug(&unplug, &Cancel::default())
        .expect_err("KVM keeps the second slot");
    assert_eq!(watch.failed(Step::RemoveSlot), 1);
    drop(watch);
    let report = vm.unplug(&unplug, &Cancel::default()).map_err(text)?;
    assert_eq!(report.blocks, 2);
    vm.unplug(&unplug, &Cancel::default())
        .expect_err("nothing is called that any more");
    Ok(())
}

/// A plug that names no place goes elsewhere; one that does is told.
#[cfg(feature = "api")]
fn api_and_stuck() -> Outcome {
    let machine = machine()?;
    let handle = machine.handle()?;
    let region = handle.hotplug().clone();
    let _watch = stuck(&region, u64::MAX);
    let vm = MachineVm::new(handle);
    let plug = |start, blocks: u64| {
        let request = PlugRequest {
            start,
            size: blocks * BLOCK,
            id: None,
        };
        vm.plug(&request, &Cancel::default())
    };
    let first = region.block_range(0).start();
    let text = |failure| format!("{failure:?}");
    let report = plug(None, 2).map_err(text)?;
    assert_eq!(report.range.start, first + BLOCK);
    for start in [None, Some(first)] {
        let failure = plug(start, 1).expect_err("its slot is not out");
        assert_eq!(failure.status(), 409);
        assert!(text(failure).contains("block 0"));
    }
    Ok(())
}
