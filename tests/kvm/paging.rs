//! RAM whose pages come from an image at first touch: unplugs, given up and carried
//! out, while a vCPU and a thread of the VMM that holds the region are both asleep
//! for a page of it.
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::devices::DmaDevice;
use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::kvm::End;
use gracefault::memory::Mapping;
use gracefault::mm::WriteError;
use gracefault_guest::abi;
use libtest_mimic::{Completion, Trial};

use crate::support::paging::{BLOCK, Late, PAGE, Rig, START, in_time, word};
use crate::support::space::range;
use crate::support::{guest, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test_if("paging_unplug_that_is_given_up", || in_time(given_up)),
        kvm_test_if("paging_drain_that_times_out_with_both_asleep", || {
            in_time(both_asleep)
        }),
        kvm_test_if("paging_unplug_that_waits_for_pages", || in_time(waits)),
        kvm_test_if("paging_deadline_beside_a_vcpu_that_waits", || {
            in_time(deadline)
        }),
        kvm_test_if("paging_unplug_beside_a_thread_that_waits", || {
            in_time(beside_a_thread)
        }),
        kvm_test_if("paging_unplug_beside_vcpus_that_go_on", || {
            in_time(beside_a_stream)
        }),
        kvm_test_if("paging_vcpu_that_is_stopped", || in_time(stopped)),
        kvm_test_if("paging_image_that_fails", || in_time(failing)),
    ]
}

/// The vCPU and the reader are both asleep, no page comes, and an unplug gives up:
/// nothing has changed by it, and all that comes later is the image's.
fn given_up() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    let code = guest!(
        "mov rax, [rsi + 0x3008]",
        "mov [rdi], rax",
        "xor eax, eax",
        "5: add rax, [rsi]",
        "add rsi, 0x1000",
        "cmp rsi, rdx",
        "jne 5b",
        "mov [rdi], rax",
    );
    let (told, tells) = mpsc::channel();
    let give_up = || {
        let deadline = Instant::now() + Duration::from_millis(100);
        let result = rig.region.unplug(0, Consent::Surprise, Some(deadline));
        result.expect_err("no page comes")
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0x5010));
        image.wait_begun(1);
        // First it is the reader that is waited for, and then the vCPU.
        let error = give_up();
        let held = matches!(error, HotplugError::Map(WriteError::TimedOut { .. }));
        assert!(held, "{error:?}");
        let vcpu = rig.start(code, told, |value| value != word(0x3008));
        image.wait_begun(2);
        for _ in 0..2 {
            let error = give_up();
            let awaited = matches!(error, HotplugError::PageAwaited { block: 0 });
            assert!(awaited, "{error:?}");
        }
        assert!(!reader.is_finished());
        assert_eq!(rig.region.plugged(), [(0, BlockKind::Cooperative)]);
        image.open();
        assert_eq!(reader.join().unwrap(), word(0x5010));
        assert_eq!(tells.recv().unwrap(), word(0x3008));
        let sum = (0..BLOCK / PAGE).map(|page| word(page * PAGE)).sum::<u64>();
        assert_eq!(tells.recv().unwrap(), sum, "the guest saw every page");
        assert!(matches!(vcpu.join().end, End::Handler(())));
    });
    for offset in (0..BLOCK).step_by(8) {
        assert_eq!(rig.read(offset), word(offset));
    }
    let report = rig.region.unplug(0, Consent::Surprise, None).unwrap();
    assert!(report.unmap_error.is_none(), "{report:?}");
    assert_eq!(rig.read(0), u64::MAX);
    Ok(Completion::Completed)
}

/// Where the DMA device is, a descriptor for it and the target of its copy, and what the
/// guest waits for.
const DMA: u64 = abi::DMA_GPA;
const DESCRIPTOR: u64 = 1 << 28;
const TARGET: u64 = DESCRIPTOR + 0x800;
const GO: u64 = 0x3f_f000;

/// A vCPU sleeps for one page, and a device's thread for another, under the locks of the
/// device and of the block, when an unplug begins. The vCPU's comes, so that the drain
/// begins; then it sleeps for the next. The drain is given up with both asleep, the
/// section rolled back, and all that comes later is the image's.
fn both_asleep() -> Result<Completion, String> {
    for seconds in [1, 4, 16] {
        if let Some(completion) = try_both_asleep(Duration::from_secs(seconds))? {
            return Ok(completion);
        }
    }
    Err("its deadline is too soon each time".into())
}

/// `None`: the deadline passed before both were asleep.
fn try_both_asleep(patience: Duration) -> Result<Option<Completion>, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out.map(Some),
    };
    let device = DmaDevice::new(Arc::downgrade(&rig.space), Arc::default());
    let device = Arc::new(device);
    rig.space.map_device(range(DMA, PAGE), device).unwrap();
    let ram = Arc::new(Mapping::anonymous(PAGE).unwrap());
    rig.space
        .map_ram(range(DESCRIPTOR, PAGE), ram.clone())
        .unwrap();
    for (i, word) in [START + 0x5010, TARGET, 8, 0].into_iter().enumerate() {
        ram.write(8 * i as u64, &u64::to_le_bytes(word)).unwrap();
    }
    let code = guest!(
        "mov rax, [rsi + 0x3008]",
        "mov [rdi], rax",
        "mov ecx, 0x3ff000",
        "6: pause",
        "cmp qword ptr [rcx], 0",
        "je 6b",
        "mov rax, [rsi + 0x4008]",
        "mov [rdi], rax",
        "xor eax, eax",
        "5: add rax, [rsi]",
        "add rsi, 0x1000",
        "cmp rsi, rdx",
        "jne 5b",
        "mov [rdi], rax",
    );
    let (told, tells) = mpsc::channel();
    let mut is_late = false;
    thread::scope(|scope| {
        let copy = || {
            rig.space
                .write(DMA + abi::dma::START, &DESCRIPTOR.to_le_bytes(), None)
        };
        let device = thread::Builder::new().name("device".into());
        let device = device.spawn_scoped(scope, copy).unwrap();
        image.wait_begun(1);
        let vcpu = rig.start(code, told, |value| {
            value != word(0x3008) && value != word(0x4008)
        });
        image.wait_begun(2);
        let deadline = Some(Instant::now() + patience);
        let region = &rig.region;
        let unplug = scope.spawn(move || region.unplug(0, Consent::Surprise, deadline));
        // It waits for the vCPU's page, before it locks anything.
        wait(|| rig.region.slots().is_empty());
        image.open_page(0x3000);
        assert_eq!(tells.recv().unwrap(), word(0x3008));
        // Then for the device.
        let is_locked = || rig.space.mm().lock_vma_under_rcu(START).is_none();
        wait(|| is_locked() || unplug.is_finished());
        rig.machine.ram.write(GO, &1_u64.to_le_bytes());
        wait(|| image.begun() == 3 || unplug.is_finished());
        is_late = unplug.is_finished();
        let error = unplug.join().unwrap().expect_err("the device stays");
        if !is_late {
            let HotplugError::Map(WriteError::TimedOut { report }) = &error else {
                panic!("{error:?}");
            };
            assert_eq!(report.holders[0].thread, "device");
            assert!(!device.is_finished());
            assert_eq!(image.begun(), 3);
            assert!(tells.try_recv().is_err());
            assert_eq!(rig.region.plugged(), [(0, BlockKind::Cooperative)]);
        }
        image.open();
        device.join().unwrap().unwrap();
        assert_eq!(tells.recv().unwrap(), word(0x4008));
        let sum = (0..BLOCK / PAGE).map(|page| word(page * PAGE)).sum::<u64>();
        assert_eq!(tells.recv().unwrap(), sum, "the guest saw every page");
        assert!(matches!(vcpu.join().end, End::Handler(())));
    });
    let copied = |offset| {
        let mut bytes = [0; 8];
        ram.read(offset, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    assert_eq!(copied(TARGET - DESCRIPTOR), word(0x5010));
    assert_eq!(copied(abi::dma::STATUS), abi::dma::COMPLETE);
    assert_eq!(rig.missed.load(SeqCst), 0, "its slot has never been out");
    for offset in (0..BLOCK).step_by(8) {
        assert_eq!(rig.read(offset), word(offset));
    }
    let report = rig.region.unplug(0, Consent::Surprise, None).unwrap();
    assert!(report.unmap_error.is_none(), "{report:?}");
    assert_eq!(rig.read(0), u64::MAX);
    Ok((!is_late).then_some(Completion::Completed))
}

fn wait(is_so: impl Fn() -> bool) {
    while !is_so() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// The unplug waits for the reader's page, and then in KVM for the vCPU's. The reader gets
/// the image's; the vCPU does too, unless its slot is gone before it has done its
/// instruction again.
fn waits() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    let code = guest!(
        "mov rax, [rsi + 0x3008]",
        "mov [rdi], rax",
        "5: mov rax, [rsi + 0x4008]",
        "mov [rdi], rax",
        "jmp 5b",
    );
    let (told, tells) = mpsc::channel();
    let vcpu = rig.start(code, told, |value| value == u64::MAX);
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0x5010));
        image.wait_begun(2);
        let unplug = scope.spawn(|| rig.region.unplug(0, Consent::Surprise, None).unwrap());
        // A change elsewhere waits in KVM, for the vCPU's page only.
        let other = scope.spawn(|| rig.region.plug(1, BlockKind::Cooperative).unwrap());
        thread::sleep(Duration::from_millis(50));
        let was_drained = reader.is_finished() || unplug.is_finished();
        image.open_page(0x5000);
        let read = reader.join().unwrap();
        thread::sleep(Duration::from_millis(50));
        let was_removed = unplug.is_finished();
        image.open();
        assert!(!was_drained, "the reader is at its page");
        assert_eq!(read, word(0x5010));
        assert!(!was_removed, "the vCPU is at its page");
        let report = unplug.join().unwrap();
        assert!(report.unmap_error.is_none(), "{report:?}");
        other.join().unwrap();
        eprintln!(
            "  drained {:?} of {} readers, KVM {:?}",
            report.drain.waited,
            report.drain.holders.len(),
            report.kvm
        );
    });
    assert!(matches!(vcpu.join().end, End::Handler(())));
    let mut told: Vec<_> = tells.iter().collect();
    assert_eq!(told.pop(), Some(u64::MAX), "then nothing is there");
    if let Some((first, others)) = told.split_first() {
        assert_eq!(*first, word(0x3008));
        assert!(others.iter().all(|&v| v == word(0x4008)), "{others:x?}");
    }
    assert_eq!(rig.read(0x5010), u64::MAX);
    // The other block has the image's pages, too.
    assert_eq!(rig.read(BLOCK + 8), word(BLOCK + 8));
    Ok(Completion::Completed)
}

/// A vCPU sleeps for a page that does not come, so KVM would let no slot go. The
/// unplug does not try, and gives up in time.
fn deadline() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    rig.region.plug(1, BlockKind::Cooperative).unwrap();
    let (told, tells) = mpsc::channel();
    let code = guest!(
        "mov rax, [rsi + 0x3008]",
        "mov [rdi], rax",
        "mov rax, [rdx + 0x3008]",
        "mov [rdi], rax",
    );
    let vcpu = rig.start(code, told, |value| value == u64::MAX);
    image.wait_begun(1);
    // Of its own block, and of another.
    for block in [0, 1] {
        let deadline = Some(Instant::now() + Duration::from_millis(50));
        let result = rig.region.unplug(block, Consent::Surprise, deadline);
        assert!(
            matches!(result, Err(HotplugError::PageAwaited { block: b }) if b == block),
            "{result:?}"
        );
    }
    let plugged: Vec<_> = rig.region.plugged().iter().map(|(b, _)| *b).collect();
    assert_eq!(plugged, [0, 1]);
    image.open();
    assert_eq!(tells.recv().unwrap(), word(0x3008));
    assert_eq!(tells.recv().unwrap(), word(BLOCK + 0x3008));
    vcpu.stop();
    for block in [0, 1] {
        let done = rig.region.unplug(block, Consent::Surprise, in_a_minute());
        done.unwrap();
    }
    Ok(Completion::Completed)
}

fn in_a_minute() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

/// A thread of the VMM sleeps for a page that does not come: KVM does not wait for that,
/// nor does an unplug of another block.
fn beside_a_thread() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    rig.region.plug(1, BlockKind::Cooperative).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0x5010));
        image.wait_begun(1);
        let report = rig.region.unplug(1, Consent::Surprise, in_a_minute());
        image.open();
        report.unwrap();
        assert_eq!(reader.join().unwrap(), word(0x5010));
    });
    Ok(Completion::Completed)
}

/// Three vCPUs go through an image, so that one of them sleeps at any moment. An unplug
/// with a deadline does not need a moment at which none does.
fn beside_a_stream() -> Result<Completion, String> {
    let image = Late::new(true, Duration::from_millis(5), u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    rig.region.plug(1, BlockKind::Cooperative).unwrap();
    let code = guest!(
        "5: mov rax, [rsi]",
        "add rsi, 0x1000",
        "cmp rsi, rdx",
        "jne 5b",
        "mov [rdi], rax",
    );
    let (told, _tells) = mpsc::channel();
    let pages = BLOCK / PAGE;
    let vcpus: Vec<_> = (0..3)
        .map(|id| {
            rig.start_at(id, code, id as u64 * pages / 3 * PAGE, told.clone(), |_| {
                true
            })
        })
        .collect();
    image.wait_begun(6);
    rig.region
        .unplug(1, Consent::Surprise, in_a_minute())
        .unwrap();
    assert!(image.begun() < pages, "they have come to the end first");
    for vcpu in vcpus {
        vcpu.stop();
    }
    Ok(Completion::Completed)
}

/// A vCPU that waits for a page that never comes can be stopped, and its memory
/// goes: but for the handler that is at the page, which is waited for.
fn stopped() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    let (told, tells) = mpsc::channel();
    let code = guest!("mov rax, [rsi + 0x3008]", "mov [rdi], rax");
    let vcpu = rig.start(code, told, |_| true);
    image.wait_begun(1);
    vcpu.request_stop();
    let ended = vcpu.join();
    assert!(matches!(ended.end, End::Stopped), "{ended:?}");
    assert!(tells.try_recv().is_err());
    thread::scope(|scope| {
        let unplug = scope.spawn(|| rig.region.unplug(0, Consent::Surprise, None).unwrap());
        thread::sleep(Duration::from_millis(50));
        let was_over = unplug.is_finished();
        image.open();
        assert!(!was_over, "a handler is at its page");
        let report = unplug.join().unwrap();
        assert!(report.unmap_error.is_none(), "{report:?}");
    });
    Ok(Completion::Completed)
}

/// Neither hangs, and the vCPU's error says what is wrong.
fn failing() -> Result<Completion, String> {
    gracefault::memory::sigbus::install().unwrap();
    let image = Late::new(true, Duration::ZERO, 4 * PAGE);
    let rig = match Rig::new(image) {
        Ok(rig) => rig,
        Err(left_out) => return left_out,
    };
    let code = guest!(
        "mov rax, [rsi + 0x3008]",
        "mov [rdi], rax",
        "mov rax, [rsi + 0x4008]",
        "mov [rdi], rax",
    );
    let (told, tells) = mpsc::channel();
    let ended = rig.start(code, told, |value| value != word(0x3008)).join();
    assert!(matches!(ended.end, End::Failed(_)), "{ended:?}");
    eprintln!("  {:?}", ended.end);
    assert_eq!(tells.iter().collect::<Vec<_>>(), [word(0x3008)]);
    // The VMM's touch of another page is an error each time, and leaves nothing there
    // that the guest would take for the image's.
    for _ in 0..2 {
        let mut bytes = [0; 8];
        let error = rig.space.read(START + 5 * PAGE, &mut bytes, None);
        let error = error.unwrap_err();
        assert!(error.to_string().contains("no page"), "{error}");
    }
    let code = guest!("mov rax, [rsi + 0x5008]", "mov [rdi], rax");
    let (told, tells) = mpsc::channel();
    let ended = rig.start_at(1, code, 0, told, |_| true).join();
    assert!(matches!(ended.end, End::Failed(_)), "{ended:?}");
    assert_eq!(tells.iter().next(), None);
    rig.region.unplug(0, Consent::Surprise, None).unwrap();
    Ok(Completion::Completed)
}
