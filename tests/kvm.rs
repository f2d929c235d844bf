//! The KVM layer on real KVM. Guests are a few instructions of assembly at
//! CPL 3.
//!
//! A harness of its own, because whether `/dev/kvm` can be opened is known only
//! at run time; one test at a time, because some count the process's threads,
//! descriptors and mappings. `GRACEFAULT_REQUIRE_KVM=1` turns "ignored" into
//! "failed".
mod support;

#[path = "kvm/access.rs"]
mod access;
#[path = "kvm/backends.rs"]
mod backends;
#[path = "kvm/confined.rs"]
mod confined;
#[path = "kvm/confined_child.rs"]
mod confined_child;
#[path = "kvm/dirty.rs"]
mod dirty;
#[path = "kvm/dma.rs"]
mod dma;
#[path = "kvm/exits.rs"]
mod exits;
#[path = "kvm/fragments.rs"]
mod fragments;
#[path = "kvm/lazy.rs"]
mod lazy;
#[path = "kvm/paging.rs"]
mod paging;
#[path = "kvm/pending_faults.rs"]
mod pending_faults;
#[path = "kvm/slots.rs"]
mod slots;
#[path = "kvm/threads.rs"]
mod threads;

fn main() {
    confined_child::be_one();
    let mut arguments = libtest_mimic::Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [
        backends::trials(),
        access::trials(),
        confined::trials(),
        dirty::trials(),
        dma::trials(),
        exits::trials(),
        fragments::trials(),
        lazy::trials(),
        paging::trials(),
        pending_faults::trials(),
        slots::trials(),
        threads::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit();
}
