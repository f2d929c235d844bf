//! The controller, by its registers.

use gracefault_guest::abi::{BANK, decode_event, encode_event};

use super::*;

fn next(controller: &HotplugController, vcpu: u64) -> (u32, u32) {
    let mut data = [0; 8];
    controller
        .read(vcpu * BANK + regs::EVENT, &mut data)
        .unwrap();
    decode_event(u64::from_le_bytes(data))
}

fn write(c: &HotplugController, vcpu: u64, reg: u64, word: u64) -> Result<(), DeviceError> {
    c.write(vcpu * BANK + reg, &word.to_le_bytes())
}

fn ack(c: &HotplugController, vcpu: u64, event: u32, block: u32) {
    write(c, vcpu, regs::ACK, encode_event(event, block)).unwrap();
}

#[test]
fn a_block_is_released_when_its_last_user_has_acknowledged() {
    let c = HotplugController::new(2);
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(7, false);
    assert_eq!(next(&c, 0), (event::OFFERED, 7));
    assert_eq!((next(&c, 0), next(&c, 1)), ((0, 0), (0, 0)));
    assert_eq!(c.phase(7), BlockPhase::Offered);
    ack(&c, 0, event::OFFERED, 7);
    assert_eq!(c.phase(7), BlockPhase::InUse);
    // Who joins late is told what is there.
    write(&c, 1, regs::JOIN, 1).unwrap();
    c.ask_back(7);
    c.ask_back(7);
    assert_eq!(next(&c, 0), (event::ASKED_BACK, 7));
    assert_eq!(next(&c, 0), (0, 0));
    ack(&c, 0, event::ASKED_BACK, 7);
    assert_eq!(c.phase(7), BlockPhase::AskedBack);
    let error = c.wait_released(7, Instant::now(), &|| false).unwrap_err();
    assert_eq!(error.users, [1]);
    assert_eq!(
        (next(&c, 1), next(&c, 1)),
        ((event::OFFERED, 7), (event::ASKED_BACK, 7))
    );
    ack(&c, 1, event::OFFERED, 7);
    ack(&c, 1, event::ASKED_BACK, 7);
    assert_eq!(c.phase(7), BlockPhase::Released);
    c.wait_released(7, Instant::now(), &|| false).unwrap();
}

#[test]
fn a_request_that_is_withdrawn_leaves_the_block_with_the_guest() {
    let c = HotplugController::new(2);
    for vcpu in [0, 1] {
        write(&c, vcpu, regs::JOIN, 1).unwrap();
    }
    let take = |vcpu| {
        assert_eq!(next(&c, vcpu), (event::OFFERED, 1));
        ack(&c, vcpu, event::OFFERED, 1);
    };
    let give = |vcpu| {
        assert_eq!(next(&c, vcpu), (event::ASKED_BACK, 1));
        ack(&c, vcpu, event::ASKED_BACK, 1);
    };
    c.offer(1, false);
    take(0);
    take(1);
    c.ask_back(1);
    give(0);
    c.withdraw(1, false);
    assert_eq!((c.phase(1), next(&c, 0)), (BlockPhase::AskedBack, (0, 0)));
    give(1);
    assert_eq!(c.phase(1), BlockPhase::Offered);
    take(0);
    take(1);
    // Asked again, it is really given back; and withdrawn too late, offered.
    c.ask_back(1);
    c.withdraw(1, false);
    c.ask_back(1);
    give(0);
    give(1);
    assert_eq!(c.phase(1), BlockPhase::Released);
    c.withdraw(1, false);
    take(0);
    take(1);
    // Gone is gone.
    c.ask_back(1);
    c.withdraw(1, false);
    c.gone(1);
    give(0);
    give(1);
    assert_eq!((c.phase(1), next(&c, 0)), (BlockPhase::Released, (0, 0)));
}

#[test]
fn leaving_releases_and_an_unused_block_is_released_at_once() {
    let c = HotplugController::new(1);
    c.offer(1, false);
    c.ask_back(1);
    assert_eq!(c.phase(1), BlockPhase::Released);
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(2, true);
    c.gone(2);
    assert_eq!(c.phase(2), BlockPhase::AskedBack);
    write(&c, 0, regs::JOIN, 0).unwrap();
    assert_eq!(c.phase(2), BlockPhase::Released);
    assert_eq!(next(&c, 0), (0, 0));
}

#[test]
fn refuses_what_was_not_asked() {
    let c = HotplugController::new(1);
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(3, false);
    for (event, block) in [(event::ASKED_BACK, 3), (event::OFFERED, 4), (9, 3)] {
        let word = encode_event(event, block);
        assert_eq!(write(&c, 0, regs::ACK, word), Err(DeviceError::BadValue));
    }
    assert_eq!(write(&c, 0, regs::JOIN, 2), Err(DeviceError::BadValue));
    assert_eq!(write(&c, 0, regs::ACK + 8, 0), Err(DeviceError::NoRegister));
    assert_eq!(c.read(regs::ACK, &mut [0; 8]), Err(DeviceError::NoRegister));
    assert_eq!(write(&c, 1, regs::JOIN, 1), Err(DeviceError::NoRegister));
}

#[test]
fn what_was_not_read_cannot_be_acknowledged_so_no_queue_grows() {
    let c = HotplugController::new(1);
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(1, false);
    c.ask_back(1);
    for event in [event::OFFERED, event::ASKED_BACK] {
        let word = encode_event(event, 1);
        assert_eq!(write(&c, 0, regs::ACK, word), Err(DeviceError::BadValue));
    }
    assert_eq!(c.phase(1), BlockPhase::AskedBack);
    assert_eq!(
        (next(&c, 0), next(&c, 0)),
        ((event::OFFERED, 1), (event::ASKED_BACK, 1))
    );
    ack(&c, 0, event::ASKED_BACK, 1);
    assert_eq!(c.phase(1), BlockPhase::Released);
}

#[test]
fn a_waiter_is_woken_by_the_release_and_by_a_cancel() {
    let c = HotplugController::new(1);
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(1, false);
    c.ask_back(1);
    assert_eq!(
        (next(&c, 0), next(&c, 0)),
        ((event::OFFERED, 1), (event::ASKED_BACK, 1))
    );
    let far = Instant::now() + Duration::from_secs(600);
    let cancelled = std::sync::atomic::AtomicBool::new(false);
    let is_cancelled = || cancelled.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|s| {
        let waiter = s.spawn(|| c.wait_released(1, far, &is_cancelled));
        cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        c.wake();
        assert!(waiter.join().unwrap().is_err());
        let waiter = s.spawn(|| c.wait_released(1, far, &|| false));
        ack(&c, 0, event::ASKED_BACK, 1);
        waiter.join().unwrap().unwrap();
    });
}

/// What says whether to go on may wait for a thread that is at the controller, and be told
/// to look again meanwhile.
#[test]
fn whether_it_is_cancelled_is_asked_unlocked() {
    let c = std::sync::Arc::new(HotplugController::new(1));
    write(&c, 0, regs::JOIN, 1).unwrap();
    c.offer(1, false);
    c.ask_back(1);
    let asked = std::sync::atomic::AtomicU32::new(0);
    let cancelled = || {
        let (done, is_done) = std::sync::mpsc::channel();
        let other = c.clone();
        std::thread::spawn(move || {
            other.wake();
            done.send(()).unwrap();
        });
        let waited = is_done.recv_timeout(Duration::from_secs(10));
        assert!(waited.is_ok(), "it is asked with the controller locked");
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2
    };
    // Woken while it looks, it looks again: no wake-up is lost.
    let far = Instant::now() + Duration::from_secs(600);
    assert!(c.wait_released(1, far, &cancelled).is_err());
    assert_eq!(asked.into_inner(), 3);
}
