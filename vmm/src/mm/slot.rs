//! A VMA as the tree has it: with its lock.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use super::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use super::sync::{Life, mutant, unless};
use super::{AddrRange, Vma, VmaInfo};

/// A VMA with what the protocol needs beside it. What a walk looks at comes first,
/// and the payload after it: with one of up to 32 bytes (an `Arc` takes 8), a lookup
/// and the access that it is for load a single cache line of it.
///
/// The [`Vma`] itself may be looked at by those who hold it and by the writer:
/// when the writer takes it out, walks may still come by, and find the slot
/// detached.
///
/// The lock and the detached mark need no ordering of their own: a reader compares
/// them with an `mm_lock_seq` that it has acquired, and whose stores release what
/// was marked before.
#[repr(C, align(64))]
pub(super) struct Slot<T> {
    /// All of it, so that a pointer made of a `&Slot` may be what frees it, and a
    /// reference that ends later than the hold forbids nothing.
    cell: UnsafeCell<Inner<T>>,
}

#[repr(C)]
pub(super) struct Inner<T> {
    /// `vm_lock_seq`: the section that write-locked it last, 0 for none; with
    /// [`TRIED`] flipped, the one that tries to.
    lock_seq: AtomicU64,
    /// Removed for good.
    detached: AtomicBool,
    /// One more than the holds that are kept here (see
    /// [`strategy`](super::strategy)); 0 for good once it is detached.
    count: AtomicU32,
    life: Life,
    held: Life,
    vma: UnsafeCell<MaybeUninit<Vma<T>>>,
}

impl<T> std::ops::Deref for Slot<T> {
    type Target = Inner<T>;
    #[inline(always)]
    fn deref(&self) -> &Inner<T> {
        // SAFETY: nobody ever makes a `&mut` of it.
        unsafe { &*self.cell.get() }
    }
}

/// Tells a section that tries to lock a VMA from one that has locked it. The two
/// are 2^62 sections apart.
const TRIED: u64 = 1 << 63;

// SAFETY: the VMA is only ever shared between threads as `&Vma<T>` (which wants
// `T: Sync`) or handed from one to another (`T: Send`); all else is atomic or
// never changes.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

impl<T> Slot<T> {
    /// A slot that is in no tree yet.
    pub(super) fn new(vma: Vma<T>) -> Box<Self> {
        let inner = Inner {
            lock_seq: AtomicU64::new(0),
            detached: AtomicBool::new(false),
            count: AtomicU32::new(1),
            life: Life::begin(),
            held: Life::begin(),
            vma: UnsafeCell::new(MaybeUninit::new(vma)),
        };
        let cell = UnsafeCell::new(inner);
        Box::new(Self { cell })
    }

    #[inline]
    pub(super) fn range(&self) -> AddrRange {
        self.life.touch();
        // SAFETY: written before the slot was published and never again: taking the
        // VMA out copies it.
        unsafe { Vma::<T>::range_of(self.vma.get().cast()) }
    }

    /// Whether section `seq`, which is odd, has it write-locked.
    #[inline]
    pub(super) fn is_locked(&self, seq: u64) -> bool {
        self.life.touch();
        self.lock_seq.load(Ordering::Relaxed) == seq
    }

    /// Whether section `seq`, which is odd, has it write-locked or tries to.
    #[inline]
    pub(super) fn is_locked_or_tried(&self, seq: u64) -> bool {
        self.life.touch();
        let apart = self.lock_seq.load(Ordering::Relaxed) ^ seq;
        apart & !TRIED == 0 && !(mutant("tried-look") && apart != 0)
    }

    /// Whether section `seq`, which is odd, tries to write-lock it. It does not for
    /// long: see [`merge`](super::merge).
    pub(super) fn is_tried(&self, seq: u64) -> bool {
        self.life.touch();
        self.lock_seq.load(Ordering::Relaxed) == seq ^ TRIED
    }

    /// Says that section `seq` tries to write-lock it. Ended by
    /// [`mark`](Self::mark) or [`unmark`](Self::unmark).
    pub(super) fn try_mark(&self, seq: u64) {
        self.lock_seq.store(seq ^ TRIED, Ordering::Relaxed);
    }

    /// No section has it write-locked.
    pub(super) fn unmark(&self) {
        self.lock_seq.store(0, Ordering::Relaxed);
    }

    /// Puts it into the write set of section `seq`. Takes effect when
    /// `mm_lock_seq` becomes `seq`.
    pub(super) fn mark(&self, seq: u64) {
        self.lock_seq.store(seq, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn is_detached(&self) -> bool {
        self.life.touch();
        self.detached.load(Ordering::Relaxed)
    }

    /// Removes it for good.
    pub(super) fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
    }

    /// Counts one hold more. Relaxed: what tells a drain of it is the entry, which
    /// changes afterwards. The caller's record holds the VMA, so that it is not
    /// detached, nor drained, meanwhile.
    pub(super) fn count_up(&self) {
        let up = |count: u32| {
            if count == 0 {
                None
            } else {
                count.checked_add(1)
            }
        };
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, up)
            .expect("not detached, and held less than four billion times");
    }

    /// Counts one hold less. What its holder did happens before whatever a writer
    /// does that finds it gone.
    pub(super) fn count_down(&self) {
        let before = self
            .count
            .fetch_sub(1, unless("count-release", Ordering::Release));
        debug_assert!(before > 1, "a hold that was never counted");
    }

    /// Whether no hold is counted.
    pub(super) fn is_uncounted(&self) -> bool {
        self.count.load(unless("count-acquire", Ordering::Acquire)) <= 1
    }

    /// The VMA.
    ///
    /// # Safety
    ///
    /// The caller holds the VMA read-locked, or has it in a drained write set, or
    /// has the map lock (either way) and found it in the tree; and does so for as
    /// long as it uses the result. [`take`](Self::take) has not been called.
    #[inline]
    pub(super) unsafe fn vma(&self) -> &Vma<T> {
        self.held.touch();
        // SAFETY: it has not been taken, and what the caller has keeps the writer
        // from taking it.
        unsafe { (*self.vma.get()).assume_init_ref() }
    }

    /// What the VMA is, but for its payload. For bare walks: this never changes,
    /// and stays readable when the VMA has been taken out.
    pub(super) fn info(&self) -> VmaInfo {
        self.life.touch();
        let vma = self.vma.get().cast::<Vma<T>>();
        // SAFETY: written before the slot was published and never again (taking
        // the VMA out copies it), and none of these fields is the payload, which
        // alone may have been dropped or changed by who has it now.
        unsafe { Vma::info_of(vma) }
    }

    /// Takes the VMA out; the slot is a husk from now on.
    ///
    /// # Safety
    ///
    /// Called once; nobody else has or will get a reference from
    /// [`vma`](Self::vma): it was in a drained write set and the tree is published
    /// without it, or it was never in a tree.
    pub(super) unsafe fn take(&self) -> Vma<T> {
        self.held.end();
        // SAFETY: initialised at birth and taken once, says the caller. This reads
        // the bytes and leaves them, so it races with no walk.
        unsafe { (*self.vma.get()).assume_init_read() }
    }

    /// Called by whoever frees it.
    #[cfg_attr(not(any(loom, shuttle)), allow(dead_code, reason = "the models'"))]
    pub(super) fn end(&self) {
        self.life.end();
    }
}
