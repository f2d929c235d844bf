//! Promise 3, as far as a test can see it: a lookup that nobody is in the way of
//! allocates nothing and gives the processor up for nothing. (That it writes no line
//! which others write is in `mm::tests::lines` and in the benches.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gracefault::mm::{AddrRange, AddressSpace, Payload, VmFlags};

/// Counts the calls of each thread.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone)]
struct Ram;
impl Payload for Ram {}

const PAGE: u64 = 0x1000;
const VMAS: u64 = 1000;

/// How often this thread has gone to sleep.
fn sleeps() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes what it points to, whose bytes are all initialised anyway.
    unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
        usage.assume_init().ru_nvcsw
    }
}

/// Also beside a writer that is at work elsewhere, and with another VMA held.
#[test]
fn promise_3_a_lookup_allocates_nothing_and_never_sleeps() {
    let mm = AddressSpace::new("test", AddrRange::new(0, 2 * VMAS * PAGE).unwrap());
    for n in 0..VMAS {
        let range = AddrRange::new(n * PAGE, PAGE).unwrap();
        mm.map(range, VmFlags::READ, 0, Ram).unwrap();
    }
    let look = || {
        for n in 0..VMAS - 1 {
            let outer = mm.lock_vma_under_rcu_wait(n * PAGE).unwrap();
            let inner = mm.lock_vma_under_rcu(VMAS * PAGE - PAGE - n);
            assert!(outer.is_some() && inner.is_some());
            assert!(
                mm.lock_vma_under_rcu_wait(VMAS * PAGE + n)
                    .unwrap()
                    .is_none()
            );
        }
    };
    // The thread's record.
    look();
    let before = (CALLS.get(), sleeps());
    look();
    assert_eq!((CALLS.get(), sleeps()), before);
    let mut section = mm.mmap_write_lock().unwrap();
    let last = AddrRange::new((VMAS - 1) * PAGE, PAGE).unwrap();
    section.unmap(last).unwrap();
    let drained = section.lock().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let elsewhere = || {
                for n in 0..VMAS - 1 {
                    let found = mm.lock_vma_under_rcu_wait(n * PAGE).unwrap();
                    assert!(found.is_some());
                }
            };
            elsewhere();
            let before = (CALLS.get(), sleeps());
            elsewhere();
            assert_eq!((CALLS.get(), sleeps()), before);
        });
        reader.join().unwrap();
    });
    drop(drained);
}
