//! The system calls of a vCPU's thread, and who makes each. vmm/docs/seccomp.md has
//! the same table for users; a test compares them.
//!
//! One that is not here was not needed by any test. Which C library is behind std makes
//! a difference to what its allocator and the end of a thread call: where only one of
//! them needs it that is said.
use kvm_bindings::{KVMIO, kvm_regs, kvm_userspace_memory_region, kvm_userspace_memory_region2};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use super::super::ioctls::KVM_RUN;

ioctl_ior_nr!(KVM_GET_REGS, KVMIO, 0x81, kvm_regs);
ioctl_iow_nr!(
    KVM_SET_USER_MEMORY_REGION,
    KVMIO,
    0x46,
    kvm_userspace_memory_region
);
ioctl_iow_nr!(
    KVM_SET_USER_MEMORY_REGION2,
    KVMIO,
    0x49,
    kvm_userspace_memory_region2
);

/// A system call that is allowed.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number.
    pub number: libc::c_long,
    /// Its name.
    pub name: &'static str,
    /// With which arguments: all of one of these alternatives hold. Empty: with any.
    pub when: Vec<Vec<When>>,
}

/// What the low 32 bits of an argument must be: those that the kernel looks at, for all
/// arguments that are looked at here. (A C library may extend their sign.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Argument (from 0 on), its value.
    Is(u8, u32),
    /// Argument, mask, the value of what the mask leaves.
    Masked(u8, u32, u32),
}

impl Call {
    pub(super) fn rules(&self) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |all: &Vec<When>| {
            let conditions = all.iter().map(|when| when.condition());
            SeccompRule::new(conditions.collect::<Result<_, _>>()?)
        };
        self.when.iter().map(rule).collect()
    }
}

impl When {
    fn condition(self) -> Result<SeccompCondition, BackendError> {
        let (argument, operator, value) = match self {
            Self::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Self::Masked(argument, mask, value) => {
                (argument, SeccompCmpOp::MaskedEq(mask.into()), value)
            }
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

/// Calls with any arguments.
fn any(number: libc::c_long, name: &'static str) -> Call {
    call(number, name, Vec::new())
}

fn call(number: libc::c_long, name: &'static str, when: Vec<Vec<When>>) -> Call {
    Call { number, name, when }
}

/// One alternative for each value that an argument may have.
fn one_of(argument: u8, values: impl IntoIterator<Item = u32>) -> Vec<Vec<When>> {
    let alternative = |value| vec![When::Is(argument, value)];
    values.into_iter().map(alternative).collect()
}

/// All that is allowed.
pub fn calls() -> Vec<Call> {
    use When::{Is, Masked};
    const EXEC: u32 = libc::PROT_EXEC as u32;
    const ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
    // Without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME, with which all of them may
    // come.
    const FUTEX: u32 = libc::FUTEX_CMD_MASK as u32;
    let futexes = [
        libc::FUTEX_WAIT,
        libc::FUTEX_WAKE,
        // Condition variables of musl, and of older C libraries.
        libc::FUTEX_REQUEUE,
        libc::FUTEX_CMP_REQUEUE,
        libc::FUTEX_WAIT_BITSET,
        libc::FUTEX_WAKE_BITSET,
    ];
    let futex = |command: i32| vec![Masked(1, FUTEX, command as u32)];
    let ioctls = [
        // The guest.
        KVM_RUN(),
        // Where it was, when it has ended.
        KVM_GET_REGS(),
        // A block of lazy RAM that is met for the first time, in memory of ours or in a
        // guest_memfd.
        KVM_SET_USER_MEMORY_REGION(),
        KVM_SET_USER_MEMORY_REGION2(),
    ];
    let stderr = libc::STDERR_FILENO as u32;
    let faults = [libc::SIGSEGV, libc::SIGBUS].map(|n| n as u32);
    let raised = [libc::SIGABRT, libc::SIGBUS].map(|n| n as u32);
    vec![
        call(
            libc::SYS_ioctl,
            "ioctl",
            one_of(1, ioctls.map(|n| n as u32)),
        ),
        // Locks, condition variables, channels, and waiting for a writer.
        call(libc::SYS_futex, "futex", futexes.map(futex).to_vec()),
        // A reader that meets a writer in the middle of a step, and std's channels.
        any(libc::SYS_sched_yield, "sched_yield"),
        // The kick, and what the kernel does when a wait is interrupted by a stop of the
        // process.
        any(libc::SYS_rt_sigreturn, "rt_sigreturn"),
        any(libc::SYS_restart_syscall, "restart_syscall"),
        // The allocator: no file, and nothing to execute.
        call(
            libc::SYS_mmap,
            "mmap",
            vec![vec![Masked(2, EXEC, 0), Masked(3, ANONYMOUS, ANONYMOUS)]],
        ),
        call(
            libc::SYS_mprotect,
            "mprotect",
            vec![vec![Masked(2, EXEC, 0)]],
        ),
        any(libc::SYS_munmap, "munmap"),
        any(libc::SYS_mremap, "mremap"),
        any(libc::SYS_madvise, "madvise"),
        // With more threads than arenas (glibc), and always (musl).
        any(libc::SYS_brk, "brk"),
        // What is logged, and a panic's message. Whether it can be written without
        // waiting is asked first where the process is about to end.
        call(libc::SYS_write, "write", vec![vec![Is(0, stderr)]]),
        call(libc::SYS_poll, "poll", vec![vec![Is(1, 1), Is(2, 0)]]),
        // The time, where the vDSO cannot tell it.
        any(libc::SYS_clock_gettime, "clock_gettime"),
        // The recorder names the thread.
        any(libc::SYS_gettid, "gettid"),
        // The end of a thread.
        any(libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
        any(libc::SYS_sigaltstack, "sigaltstack"),
        any(libc::SYS_exit, "exit"),
        // The end of the process by what it did itself, and not by SIGSYS: out of memory,
        // a panic in a panic, a fault that is nobody's.
        any(libc::SYS_exit_group, "exit_group"),
        any(libc::SYS_getpid, "getpid"),
        call(libc::SYS_rt_sigaction, "rt_sigaction", one_of(0, faults)),
        call(libc::SYS_tgkill, "tgkill", one_of(2, raised)),
        // musl's way of raising a signal.
        call(libc::SYS_tkill, "tkill", one_of(1, raised)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page for users has a row for each, in this order, and no other.
    #[test]
    fn the_documentation_has_the_same_table() {
        let page = include_str!("../../../docs/seccomp.md");
        let names: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let ours: Vec<_> = calls().iter().map(|call| call.name).collect();
        assert_eq!(names, ours);
    }

    #[test]
    fn nothing_can_be_made_executable_and_no_file_be_mapped() {
        for call in calls() {
            match call.name {
                "mmap" | "mprotect" => {
                    let no_exec = When::Masked(2, libc::PROT_EXEC as u32, 0);
                    assert!(call.when.iter().all(|all| all.contains(&no_exec)));
                    assert!(!call.when.is_empty());
                }
                "pkey_mprotect" | "shmat" | "remap_file_pages" => panic!("{}", call.name),
                _ => {}
            }
        }
    }
}
