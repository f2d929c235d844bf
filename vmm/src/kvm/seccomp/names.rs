//! Names of system calls, for messages: those that somebody might want to make, or have
//! made.

macro_rules! names {
    ($($number:ident),+ $(,)?) => {
        const NAMES: &[(libc::c_long, &str)] = &[$((libc::$number, stringify!($number))),+];
    };
}

names! {
    SYS_accept4, SYS_access, SYS_bind, SYS_bpf, SYS_brk, SYS_chdir, SYS_chmod, SYS_chroot,
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone, SYS_clone3, SYS_close, SYS_connect,
    SYS_copy_file_range, SYS_dup, SYS_dup2, SYS_dup3, SYS_epoll_ctl, SYS_epoll_wait,
    SYS_eventfd2, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_fallocate, SYS_fchmod,
    SYS_fcntl, SYS_fork, SYS_fstat, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_getdents64,
    SYS_getpid, SYS_getrandom, SYS_gettid, SYS_gettimeofday, SYS_io_uring_enter,
    SYS_io_uring_setup, SYS_ioctl, SYS_kill, SYS_listen, SYS_lseek, SYS_madvise, SYS_membarrier,
    SYS_memfd_create, SYS_mmap, SYS_mount, SYS_mprotect, SYS_mremap, SYS_munmap, SYS_nanosleep,
    SYS_newfstatat, SYS_open, SYS_openat, SYS_openat2, SYS_perf_event_open, SYS_pidfd_open,
    SYS_pipe2, SYS_pkey_mprotect, SYS_poll, SYS_ppoll, SYS_prctl, SYS_pread64,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_pwrite64, SYS_pwritev2, SYS_read,
    SYS_readlink, SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_rename, SYS_restart_syscall, SYS_rseq,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_sched_getaffinity, SYS_sched_setaffinity,
    SYS_sched_yield, SYS_seccomp, SYS_sendmsg, SYS_sendto, SYS_set_robust_list, SYS_setns,
    SYS_setuid, SYS_shmat, SYS_shutdown, SYS_sigaltstack, SYS_socket, SYS_socketpair, SYS_splice,
    SYS_statx, SYS_tgkill, SYS_timer_create, SYS_tkill, SYS_unlink, SYS_unlinkat, SYS_unshare,
    SYS_userfaultfd, SYS_vfork, SYS_wait4, SYS_write, SYS_writev,
}

/// The name of a system call, if it is one of these.
pub(super) fn of(number: libc::c_long) -> &'static str {
    let name = NAMES.iter().find(|(of, _)| *of == number);
    name.and_then(|(_, name)| name.strip_prefix("SYS_"))
        .unwrap_or("see `ausyscall`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_name() {
        assert_eq!(of(libc::SYS_socket), "socket");
        assert_eq!(of(-1), "see `ausyscall`");
        for call in super::super::calls() {
            assert_eq!(of(call.number), call.name);
        }
    }
}
