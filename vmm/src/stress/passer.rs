//! Threads that only pass by, and the one that what is pinned is sent to.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::layout::Layout;
use super::linger;
use super::reader::{Reader, Sent};
use super::steps::Passing;
use super::world::{Ended, World};

/// Passers-by that leave with a guard forgotten. Each keeps a record for good.
const FORGETFUL: u64 = 2;

/// Some lookups, a pin that outlives the thread, at first a guard that is forgotten,
/// and a section that changes nothing; then the thread is gone, and its record the next
/// one's.
pub(super) fn pass(world: &Arc<World>, id: u64, pins: SyncSender<Sent>) -> Result<(), Ended> {
    let aside = Layout::aside();
    // First of all, as one who comes into a record that another left.
    match world.mm().mmap_write_lock() {
        Ok(section) => drop(section),
        Err(error) => return Err(world.failed("a section of a new thread", &error, &[aside])),
    }
    let mut reader = Reader::new(world.clone(), 1 << 20 | id, Some(pins));
    reader.lot(32)?;
    if id <= FORGETFUL
        && let Ok(Some(guard)) = world.mm().lock_vma_under_rcu_wait(aside.start())
        && world.config.strategy.capabilities().names_holders
    {
        mem::forget(guard);
    }
    Ok(())
}

/// Drops what it is sent, after a while, as a disk would that has done its part.
pub(super) fn receive(world: &World, pins: &Receiver<Sent>, heart: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(world.config.seed ^ 0x494f);
    if world.config.delays {
        linger::start(random.u64(..));
        linger::aim(world.config.aims());
    }
    let Passing { copies, keeps, .. } = world.config.steps().passing;
    loop {
        heart.fetch_add(1, Ordering::Relaxed);
        let (pin, seen) = match pins.recv_timeout(Duration::from_millis(100)) {
            Ok(sent) => sent,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if random.u8(..) < 64 {
            std::thread::sleep(Duration::from_micros(random.u64(0..100)));
        }
        // A copy takes over from the first.
        let copy = (random.u8(..) < copies).then(|| pin.clone());
        let last = match copy {
            Some(copy) => {
                drop(pin);
                // Time for a writer that has overlooked it.
                linger::pass(Duration::from_micros(random.u64(0..keeps)));
                copy
            }
            None => pin,
        };
        // What is wrong has been noted.
        let _ = world
            .is_in_force(seen)
            .and_then(|()| world.ends(seen, &last));
    }
}
