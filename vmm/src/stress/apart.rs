//! Threads that have to run at the same moment.

/// Keeps the calling thread on the `index`-th of the processors that it may use, counted
/// round. Where the host refuses that it stays where it likes.
pub(super) fn stay_on(index: usize) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of processors is bits, all of which may be 0.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is as large as is said, and 0 means this thread.
    if unsafe { libc::sched_getaffinity(0, size, &mut set) } != 0 {
        return;
    }
    let cpus: Vec<usize> = (0..8 * size)
        // SAFETY: below the number of bits in a set.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect();
    let Some(cpu) = cpus.get(index % cpus.len().max(1)) else {
        return;
    };
    // SAFETY: as above; the processor is one of the set's.
    unsafe {
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(*cpu, &mut set);
        libc::sched_setaffinity(0, size, &set);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_stays_where_it_is_put() {
        let cpus = std::thread::available_parallelism().unwrap().get();
        for index in 0..cpus + 1 {
            std::thread::spawn(move || {
                super::stay_on(index);
                assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            })
            .join()
            .unwrap();
        }
    }
}
