//! Calling readers back from a wait, on purpose: the writer keeps a section open until
//! those who wait for it, with a flag that it raises, have returned.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::linger;
use crate::mm::KillFlag;

/// How long a writer waits for somebody to come.
const COME: Duration = Duration::from_millis(20);
/// How long one who was called may take to return.
const RETURN: Duration = Duration::from_secs(10);

/// Where readers find out that they are wanted.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Bumped with each call.
    epoch: AtomicU64,
    open: Mutex<Option<Arc<Call>>>,
}

/// An address that is locked until those who look it up with the flag have returned.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) addr: u64,
    pub(super) flag: KillFlag,
    came: AtomicU32,
    left: AtomicU32,
}

impl Calls {
    /// The call that is open, if it is another one than that of `epoch`.
    pub(super) fn since(&self, epoch: &mut u64) -> Option<Arc<Call>> {
        let now = self.epoch.load(Ordering::Relaxed);
        if now == std::mem::replace(epoch, now) {
            return None;
        }
        let call = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let call = call.clone()?;
        call.came.fetch_add(1, Ordering::SeqCst);
        Some(call)
    }

    /// For a writer that has what is at `addr` locked and drained: lets readers come,
    /// raises their flag after `pause`, and waits until they have left, `patience` times as
    /// long as usual. Returns how many there were; an error if one did not return.
    pub(super) fn hold_open(&self, addr: u64, pause: Duration, patience: u32) -> Result<u32, u32> {
        let call = Arc::new(Call {
            addr,
            flag: KillFlag::new(),
            came: AtomicU32::new(0),
            left: AtomicU32::new(0),
        });
        let set = |call| *self.open.lock().unwrap_or_else(PoisonError::into_inner) = call;
        set(Some(call.clone()));
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let came = || call.came.load(Ordering::SeqCst);
        wait(COME, || came() > 0);
        linger::spin(pause);
        set(None);
        call.flag.raise();
        let all = wait(patience * RETURN, || {
            came() == call.left.load(Ordering::SeqCst)
        });
        match all {
            true => Ok(came()),
            false => Err(came()),
        }
    }
}

impl Call {
    pub(super) fn leave(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
    }
}

/// Looks again and again until `done`, or the time is over. Returns whether it was.
fn wait(time: Duration, done: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    let mut looks = 0;
    while !done() {
        // Not if the process was not let run meanwhile.
        if since.elapsed() > time && looks > time.as_millis() / 2 {
            return false;
        }
        std::thread::sleep(Duration::from_micros(20));
        looks += 1;
    }
    true
}
