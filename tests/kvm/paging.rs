//! RAM whose pages come from an image at first touch: unplugs, given up and carried
//! out, while a vCPU and a thread of the VMM that holds the region are both asleep
//! for a page of it.
use std::error::Error;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::kvm::End;
use gracefault::mm::WriteError;
use libtest_mimic::{Completion, Trial};

use crate::support::paging::{BLOCK, Late, PAGE, Rig, START, word};
use crate::support::{guest, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test_if("paging_unplug_that_is_given_up", || in_time(given_up)),
        kvm_test_if("paging_unplug_that_waits_for_pages", || in_time(waits)),
        kvm_test_if("paging_deadline_beside_a_vcpu_that_waits", || {
            in_time(deadline)
        }),
        kvm_test_if("paging_vcpu_that_is_stopped", || in_time(stopped)),
        kvm_test_if("paging_image_that_fails", || in_time(failing)),
    ]
}

type Judged = Result<Completion, Box<dyn Error>>;

/// Runs a test, and fails it if it hangs.
fn in_time(test: fn() -> Result<Completion, String>) -> Judged {
    let (done, waiting) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        let _ = done.send(());
        result
    });
    match waiting.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => Err("it hangs".into()),
        _ => match thread.join() {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// The vCPU and the reader are both asleep, no page comes, and an unplug gives up:
/// nothing has changed by it, and all that comes later is the image's.
fn given_up() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(reason) => return Ok(reason),
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
    let vcpu = rig.start(code, told, |value| value != word(0x3008));
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0x5010));
        image.wait_begun(2);
        for _ in 0..3 {
            let deadline = Instant::now() + Duration::from_millis(100);
            let error = rig.region.unplug(0, Consent::Surprise, Some(deadline));
            let error = error.expect_err("the reader holds the block");
            let in_time = matches!(error, HotplugError::Map(WriteError::TimedOut { .. }));
            assert!(in_time, "{error:?}");
            assert!(!reader.is_finished());
        }
        assert_eq!(rig.region.plugged(), [(0, BlockKind::Cooperative)]);
        image.open();
        assert_eq!(reader.join().unwrap(), word(0x5010));
    });
    assert_eq!(tells.recv().unwrap(), word(0x3008));
    let sum = (0..BLOCK / PAGE).map(|page| word(page * PAGE)).sum::<u64>();
    assert_eq!(tells.recv().unwrap(), sum, "the guest saw every page");
    assert!(matches!(vcpu.join().end, End::Handler(())));
    for offset in (0..BLOCK).step_by(8) {
        assert_eq!(rig.read(offset), word(offset));
    }
    let report = rig.region.unplug(0, Consent::Surprise, None).unwrap();
    assert!(report.unmap_error.is_none(), "{report:?}");
    assert_eq!(rig.read(0), u64::MAX);
    Ok(Completion::Completed)
}

/// Each page takes a second. The unplug waits for the reader's, KVM for the
/// vCPU's, and both get the image's.
fn waits() -> Result<Completion, String> {
    let image = Late::new(true, Duration::from_secs(1), u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(reason) => return Ok(reason),
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
        // A change elsewhere waits in KVM, for the vCPU's page only.
        let other = scope.spawn(|| rig.region.plug(1, BlockKind::Cooperative).unwrap());
        let report = rig.region.unplug(0, Consent::Surprise, None).unwrap();
        assert!(report.unmap_error.is_none(), "{report:?}");
        assert_eq!(reader.join().unwrap(), word(0x5010));
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
    assert_eq!(told.remove(0), word(0x3008));
    assert!(told.iter().all(|&value| value == word(0x4008)), "{told:x?}");
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
        Err(reason) => return Ok(reason),
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
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    for block in [0, 1] {
        rig.region
            .unplug(block, Consent::Surprise, deadline)
            .unwrap();
    }
    Ok(Completion::Completed)
}

/// A vCPU that waits for a page that never comes can be stopped, and its memory
/// goes: but for the handler that is at the page, which is waited for.
fn stopped() -> Result<Completion, String> {
    let image = Late::new(false, Duration::ZERO, u64::MAX);
    let rig = match Rig::new(image.clone()) {
        Ok(rig) => rig,
        Err(reason) => return Ok(reason),
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
        Err(reason) => return Ok(reason),
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
    let ended = rig.start_as(1, code, told, |_| true).join();
    assert!(matches!(ended.end, End::Failed(_)), "{ended:?}");
    assert_eq!(tells.iter().next(), None);
    rig.region.unplug(0, Consent::Surprise, None).unwrap();
    Ok(Completion::Completed)
}
