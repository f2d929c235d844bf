//! What a confined vCPU's thread does in a child that a test has started. Its handler
//! holds a VMA meanwhile, and another thread waits to remove that.
use std::ffi::{c_int, c_long};
use std::fs::File;
use std::hint::black_box;
use std::ops::ControlFlow::Break;
use std::os::fd::AsRawFd;
use std::process::exit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::kvm::{End, Seccomp, VcpuFilter, VcpuThread};
use gracefault::memory::{GuestSpace, Mapping};
use gracefault::mm::AddrRange;

use crate::support::{Machine, Outcome, guest};

/// Set in the child: what its handler is to do.
pub(crate) const ACT: &str = "GRACEFAULT_TEST_ACT";
/// Set in the child: `on`, `log`, or `off`; or the number of a system call that is
/// allowed besides.
pub(crate) const FILTER: &str = "GRACEFAULT_TEST_FILTER";
/// What it prints when all is over, if it comes to that.
pub(crate) const OVER: &str = "it is over";

/// If this process is such a child it does what it is for, and does not return.
pub(crate) fn be_one() {
    let Ok(what) = std::env::var(ACT) else { return };
    let filter = std::env::var(FILTER).unwrap_or_default();
    let core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a limit to read.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &core) };
    match run(what, &filter) {
        Ok(()) => println!("{OVER}"),
        Err(error) => println!("{error}"),
    }
    exit(0);
}

fn run(what: String, filter: &str) -> Outcome {
    let (asked, more) = match filter {
        "on" => (Seccomp::On, None),
        "log" => (Seccomp::Log, None),
        "off" => (Seccomp::Off, None),
        number => (Seccomp::On, Some(number.parse()?)),
    };
    prepare(&what)?;
    let machine = Machine::new()?;
    let space = Arc::new(GuestSpace::physical(AddrRange::new(0, 1 << 30).unwrap()));
    let range = AddrRange::new(0, 4096).unwrap();
    space.map_ram(range, Arc::new(Mapping::anonymous(4096)?))?;
    let mut vcpu = machine.vcpu(0, guest!("5: mov [rdi], rax", "jmp 5b"))?;
    vcpu.confine(VcpuFilter::new(asked, more.as_slice())?);
    let (held, is_held) = mpsc::channel();
    let of_thread = space.clone();
    let thread = VcpuThread::spawn(vcpu, move |_, _| {
        let guard = of_thread.mm().lock_vma_under_rcu_wait(0);
        held.send(guard.is_ok()).expect("somebody waits for it");
        // Until the writer waits, or a while.
        let since = Instant::now();
        while of_thread.mm().stats().drain_rounds == 0 && since.elapsed().as_millis() < 500 {
            thread::yield_now();
        }
        act(&what);
        drop(guard);
        Break(())
    })?;
    assert!(is_held.recv()?);
    space.mm().unmap(range, None)?;
    match thread.join().end {
        End::Handler(()) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// A byte of a file's mapping, where there is a byte in the file no more.
static LOST: AtomicPtr<u8> = AtomicPtr::new(null_mut());

/// What must be done before the thread is confined.
fn prepare(what: &str) -> Outcome {
    if what == "touch what a file has lost" {
        let file = tempfile::tempfile()?;
        file.set_len(4096)?;
        let (prot, flags, fd) = (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd());
        // SAFETY: a new mapping of a file that nobody else has.
        let at = unsafe { libc::mmap(null_mut(), 4096, prot, flags, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        file.set_len(0)?;
        LOST.store(at.cast(), Relaxed);
    }
    Ok(())
}

fn act(what: &str) {
    match what {
        "open a socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "open a file" => drop(File::open("/dev/null")),
        "start a thread" => drop(thread::Builder::new().spawn(|| ())),
        "write to stdout" => call(libc::SYS_write, [1, 0, 0, 0]),
        "kill" => call(libc::SYS_kill, [0, 0, 0, 0]),
        // SAFETY: a signal that does nothing by default.
        "signal a thread" => drop(unsafe { libc::raise(libc::SIGURG) }),
        "map to execute" => map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_ANONYMOUS),
        "map a file" => map(libc::PROT_READ, 0),
        "protect to execute" => call(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into(), 0]),
        "another ioctl" => call(libc::SYS_ioctl, [2, libc::FIONREAD as c_long, 0, 0]),
        "an ioctl of KVM" => call(libc::SYS_ioctl, [2, KVM_CREATE_VM, 0, 0]),
        "a lock with priorities" => call(libc::SYS_futex, [0, libc::FUTEX_LOCK_PI.into(), 0, 0]),
        "poll and wait" => call(libc::SYS_poll, [0, 1, 1, 0]),
        "catch a signal" => call(libc::SYS_rt_sigaction, [libc::SIGINT.into(), 0, 0, 8]),
        "sleep" => thread::sleep(Duration::from_micros(1)),
        "another filter" => call(libc::SYS_seccomp, [1, 0, 0, 0]),
        "a call, with SIGSYS blocked" => {
            block_sigsys();
            call(libc::SYS_getppid, [0; 4]);
        }
        "allocate" => allocate(),
        "lock and wait" => lock_and_wait(),
        "log" => eprintln!("a message"),
        "tell the time" => call(libc::SYS_clock_gettime, [0; 4]),
        "panic, caught" => drop(std::panic::catch_unwind(|| panic!("on purpose"))),
        "abort" => std::process::abort(),
        "touch nothing" => touch(8 as *const u8),
        "touch what a file has lost" => touch(LOST.load(Relaxed)),
        other => panic!("nobody can {other}"),
    }
}

const KVM_CREATE_VM: c_long = 0xae01;

/// Made with arguments with which it does nothing.
fn call(number: c_long, [a, b, c, d]: [c_long; 4]) {
    // SAFETY: each caller passes what makes it fail, or a question.
    unsafe { libc::syscall(number, a, b, c, d) };
}

/// Dies of it.
fn touch(at: *const u8) {
    // SAFETY: a volatile load, of which nothing but a signal comes: the page at 0 is
    // never mapped, and a page without a byte of a file behind it cannot be read.
    black_box(unsafe { black_box(at).read_volatile() });
}

fn map(prot: c_int, flags: c_int) {
    let flags = libc::MAP_PRIVATE | flags;
    // SAFETY: a new mapping at an address that the kernel chooses, or none.
    black_box(unsafe { libc::mmap(null_mut(), 4096, prot, flags, -1, 0) });
}

fn block_sigsys() {
    // SAFETY: plain data, for which zeroes are valid.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of this function's own.
    unsafe {
        libc::sigaddset(&mut set, libc::SIGSYS);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, null_mut());
    }
}

/// Small and large, grown and given back.
fn allocate() {
    for _ in 0..20 {
        let mut some: Vec<Vec<u8>> = (0..200).map(|i| vec![1; 1 << (i % 22)]).collect();
        for bytes in &mut some {
            bytes.extend_from_within(..);
        }
        black_box(some);
    }
}

fn lock_and_wait() {
    let pair = (Mutex::new(false), Condvar::new());
    let (lock, changed) = &pair;
    let guard = lock.lock().unwrap();
    // While it waits the test stops the process, and lets it go on.
    eprintln!("waiting");
    drop(changed.wait_timeout(guard, Duration::from_secs(2)));
}
