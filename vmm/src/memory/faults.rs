//! Makes a step fail that the system would have let pass: for tests of what is
//! undone.
//!
//! A step that can fail asks here first, by its name, so that each can be made to
//! fail, and none is forgotten: a test goes through [`Step::ALL`]. While nobody
//! watches that costs one load of a byte that nobody writes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

macro_rules! steps {
    ($($step:ident = $name:literal),+ $(,)?) => {
        /// A step that can fail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "each has a name to print")]
        pub enum Step { $($step),+ }

        impl Step {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$step),+];

            /// What is done: the system call, and what for.
            pub fn name(self) -> &'static str {
                match self { $(Self::$step => $name),+ }
            }
        }
    };
}

steps! {
    OpenKvm = "open of the KVM device",
    SupportedCpuid = "KVM_GET_SUPPORTED_CPUID",
    CreateVm = "KVM_CREATE_VM",
    SetTss = "KVM_SET_TSS_ADDR",
    EnableEmulationExits = "KVM_ENABLE_CAP of emulation failures",
    DisableQuirk = "KVM_ENABLE_CAP of what a slot takes along",
    MakeGuestMemfd = "KVM_CREATE_GUEST_MEMFD",
    MakeMemfd = "memfd_create for guest memory",
    OpenFile = "open of a file of guest memory",
    LockFile = "fcntl lock of a file of guest memory",
    TryHole = "fallocate of a hole behind a file of guest memory",
    SizeFile = "ftruncate of a file of guest memory",
    ReserveAddresses = "mmap of addresses to align in",
    MapMemory = "mmap of guest memory",
    TrimAddresses = "munmap of addresses left by aligning",
    AdviseMemory = "madvise of huge pages",
    PopulateMemory = "madvise that prefaults",
    OpenUserfaultfd = "userfaultfd, or its device",
    StartUserfaultfd = "UFFDIO_API",
    MakePager = "eventfd, and memfd_create, of a pager",
    StartPager = "thread of a pager",
    WatchMemory = "UFFDIO_REGISTER of guest memory",
    UnwatchMemory = "UFFDIO_UNREGISTER of guest memory",
    BringPage = "UFFDIO_COPY of a page of guest memory",
    ReplacePage = "mmap of an error for a page of guest memory",
    WakeSleeper = "UFFDIO_WAKE of who waits for a page",
    PunchHole = "fallocate of a hole in a file of guest memory",
    UnmapMemory = "munmap of guest memory",
    DiscardMemory = "madvise of guest memory that munmap left",
    FillBlock = "writing the patterns of a volatile block",
    AddSlot = "KVM_SET_USER_MEMORY_REGION, adding",
    RemoveSlot = "KVM_SET_USER_MEMORY_REGION, removing",
    StartConsole = "thread of the guest's console",
    CreateVcpu = "KVM_CREATE_VCPU",
    MapRunPage = "mmap of a vCPU's run page",
    SetCpuid = "KVM_SET_CPUID2",
    GetSystemRegisters = "KVM_GET_SREGS",
    SetSystemRegisters = "KVM_SET_SREGS",
    SetRegisters = "KVM_SET_REGS",
    TscRate = "KVM_GET_TSC_KHZ",
    CatchSigbus = "sigaction of SIGBUS",
    CatchKick = "sigaction of the kick",
    UnblockKick = "pthread_sigmask of the kick",
    StartVcpu = "thread of a vCPU",
    CatchViolation = "sigaction of SIGSYS",
    Confine = "seccomp filter of a vCPU's thread",
    StartHotplug = "thread of the run's hotplug",
    StartResizer = "thread of a resizer",
}

impl Step {
    const COUNT: usize = Self::ALL.len();
}

/// Which times a step is to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The step.
    pub step: Step,
    /// So often it passes first.
    pub after: u64,
    /// So often it then fails.
    pub times: u64,
}

impl Fault {
    /// The step fails once, after it has passed so often.
    pub fn once(step: Step, after: u64) -> Self {
        let times = 1;
        Self { step, after, times }
    }
}

/// While it lives, this process's steps are counted, and fail as they are to. One
/// at a time: others wait for it to be dropped.
#[derive(Debug)]
pub struct Watch {
    _only: MutexGuard<'static, ()>,
}

#[derive(Debug)]
struct State {
    faults: Vec<Fault>,
    reached: [u64; Step::COUNT],
    failed: [u64; Step::COUNT],
}

static WATCHED: AtomicBool = AtomicBool::new(false);
static ONLY: Mutex<()> = Mutex::new(());
static STATE: Mutex<State> = Mutex::new(State {
    faults: Vec::new(),
    reached: [0; Step::COUNT],
    failed: [0; Step::COUNT],
});

fn state() -> MutexGuard<'static, State> {
    // Nothing that runs under the lock can panic half-way.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to count, from 0. Each of the faults happens; a step that fails
    /// does so with `ENOMEM`, without having been tried.
    pub fn begin(faults: &[Fault]) -> Self {
        let only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        *state() = State {
            faults: faults.to_vec(),
            reached: [0; Step::COUNT],
            failed: [0; Step::COUNT],
        };
        WATCHED.store(true, Ordering::Relaxed);
        Self { _only: only }
    }

    /// How often the step was reached so far.
    pub fn reached(&self, step: Step) -> u64 {
        state().reached[step as usize]
    }

    /// How often it was made to fail so far.
    pub fn failed(&self, step: Step) -> u64 {
        state().failed[step as usize]
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::Relaxed);
    }
}

/// Fails if a [`Watch`] says that this step is to fail now.
#[inline]
pub(crate) fn check(step: Step) -> io::Result<()> {
    match WATCHED.load(Ordering::Relaxed) {
        false => Ok(()),
        true => watched(step),
    }
}

#[cold]
fn watched(step: Step) -> io::Result<()> {
    let mut state = state();
    let before = state.reached[step as usize];
    state.reached[step as usize] += 1;
    let now = |fault: &Fault| {
        fault.step == step && before >= fault.after && before - fault.after < fault.times
    };
    if !state.faults.iter().any(now) {
        return Ok(());
    }
    state.failed[step as usize] += 1;
    Err(io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fails_when_it_is_to_and_only_then() {
        // A step of whole machines, which no test beside this one makes.
        let step = Step::StartHotplug;
        let fails = || (0..4).map(|_| check(step).is_err()).collect::<Vec<_>>();
        let watch = Watch::begin(&[Fault {
            step,
            after: 1,
            times: 2,
        }]);
        assert_eq!(fails(), [false, true, true, false]);
        assert!(check(Step::StartResizer).is_ok());
        assert_eq!((watch.reached(step), watch.failed(step)), (4, 2));
        drop(watch);
        assert_eq!(fails(), [false; 4]);
        let watch = Watch::begin(&[]);
        assert_eq!((watch.reached(step), watch.failed(step)), (0, 0));
    }

    #[test]
    fn names_are_different() {
        let names: std::collections::BTreeSet<_> = Step::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        for (i, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, i);
        }
    }
}
