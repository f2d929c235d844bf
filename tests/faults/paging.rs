//! A roll-back while pages are awaited.
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use gracefault::hotplug::{BlockKind, Consent, HotplugError};
use gracefault::kvm::End;
use gracefault::memory::faults::{Fault, Step, Watch};
use libtest_mimic::{Completion, Trial};

use crate::support::paging::{BLOCK, Late, PAGE, Rig, in_time, word};
use crate::support::{guest, kvm_test_if};

pub(crate) fn trials() -> Vec<Trial> {
    vec![kvm_test_if("paging_unplug_that_is_rolled_back", || {
        in_time(rolled_back)
    })]
}

/// A vCPU and a thread that holds the block are both asleep for a page of it, each of
/// which takes a second. KVM refuses to take the slot out, after the drain: the block
/// is as before, and every page of it is the image's.
fn rolled_back() -> Result<Completion, String> {
    let image = Late::slow_twice(Duration::from_secs(1));
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
    let vcpu = rig.start(code, told, |value| value != word(0x3008));
    thread::scope(|scope| {
        let reader = scope.spawn(|| rig.read(0x5010));
        image.wait_begun(2);
        let watch = Watch::begin(&[Fault::once(Step::RemoveSlot, 0)]);
        let error = rig.region.unplug(0, Consent::Surprise, None).unwrap_err();
        assert_eq!(watch.failed(Step::RemoveSlot), 1);
        assert!(matches!(error, HotplugError::Slot(_)), "{error:?}");
        assert_eq!(rig.region.plugged(), [(0, BlockKind::Cooperative)]);
        assert_eq!(reader.join().expect("no panic"), word(0x5010));
    });
    assert_eq!(tells.recv().unwrap(), word(0x3008));
    let sum = (0..BLOCK / PAGE).map(|page| word(page * PAGE)).sum::<u64>();
    assert_eq!(tells.recv().unwrap(), sum, "the guest saw every page");
    assert!(matches!(vcpu.join().end, End::Handler(())));
    assert_eq!(rig.missed.load(SeqCst), 0, "its slot has never been out");
    for offset in (0..BLOCK).step_by(8) {
        assert_eq!(rig.read(offset), word(offset));
    }
    let report = rig.region.unplug(0, Consent::Surprise, None).unwrap();
    assert!(report.unmap_error.is_none(), "{report:?}");
    assert_eq!(rig.read(0), u64::MAX);
    Ok(Completion::Completed)
}
