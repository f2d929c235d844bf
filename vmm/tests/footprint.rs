//! What many VMAs take, and what finding room among them takes: a million of them in
//! a release build, and fewer in a debug build, which would take a minute. A process
//! of its own, since it counts what the whole process has allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gracefault::mm::{AddrRange, AddressSpace, Gap, Payload, VmFlags};

/// Counts what is allocated and not yet freed.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone)]
struct Number(#[allow(dead_code, reason = "takes its room")] u64);

impl Payload for Number {}

const VMAS: u64 = if cfg!(debug_assertions) {
    50_000
} else {
    1_000_000
};

/// From one VMA's first address to the next one's; half of it is free.
const PITCH: u64 = 0x2000;

/// Mapped in an order that leaves the nodes about as empty as they get.
fn many() -> AddressSpace<Number> {
    let mm = AddressSpace::new("many", AddrRange::new(0, VMAS * PITCH).unwrap());
    let mut numbers = (0..VMAS).map(|i| i * 611_953 % VMAS);
    loop {
        let some: Vec<_> = numbers.by_ref().take(1000).collect();
        if some.is_empty() {
            return mm;
        }
        let mut section = mm.mmap_write_lock().unwrap();
        for number in some {
            let range = AddrRange::new(number * PITCH, PITCH / 2).unwrap();
            section
                .map(range, VmFlags::READ, 0, Number(number))
                .unwrap();
        }
        section.lock().unwrap().publish();
    }
}

#[test]
fn many_vmas() {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mm = many();
    let bytes = (ALLOCATED.load(Ordering::Relaxed) - before) as u64 / VMAS;
    println!("{bytes} bytes for each VMA");
    assert!(bytes <= 256, "{bytes} bytes for each VMA");

    // One wider gap, in the middle, and its like just before the end.
    let hole = |number: u64| AddrRange::new(number * PITCH + PITCH / 2, 3 * PITCH / 2).unwrap();
    let (low, high) = (hole(VMAS / 2), hole(VMAS - 3));
    for hole in [low, high] {
        mm.unmap(hole, None).unwrap();
    }
    let section = mm.mmap_write_lock().unwrap();
    let begun = Instant::now();
    let searches = 1000;
    for _ in 0..searches {
        let find = |len, align, highest| {
            let window = mm.range();
            section.find_gap(Gap {
                len,
                align,
                window,
                highest,
            })
        };
        assert_eq!(find(3 * PITCH / 2, 1, false), Some(low));
        assert_eq!(find(3 * PITCH / 2, 1, true), Some(high));
        assert_eq!(find(3 * PITCH / 2 + 1, 1, false), None);
        // Nearly all gaps are long enough, and none of these in the right place.
        let pitched = find(PITCH / 2, PITCH, false).unwrap();
        assert_eq!(pitched.start(), low.start() + PITCH / 2);
    }
    let each = begun.elapsed() / (4 * searches);
    println!("{each:?} for each search");
    // Looking at all of them takes many times as long.
    assert!(each < Duration::from_millis(1), "{each:?} for each search");
}
