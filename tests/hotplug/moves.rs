//! An address that is mapped before and after a change is mapped all the time, for
//! a guest, too.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::kvm::{End, Exit, VcpuThread};
use gracefault::memory::{Device, DeviceError, Mapping};
use gracefault::mm::{AddrRange, VmFlags};
use libtest_mimic::Trial;

use crate::support::blocks::Blocks;
use crate::support::{MMIO, Outcome, guest, kvm_test};

const PAGE: u64 = 4096;
/// A device of three pages here, moved up by one and down again: the page of
/// [`MMIO`], and the next, are its own in both places.
const LOW: u64 = MMIO - PAGE;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("moves_never_hide_a_device_from_a_guest", device),
        kvm_test("changes_of_memory_never_hide_it", memory),
    ]
}

/// Answers with the page number of the access, from 1.
struct Pages;

impl Device for Pages {
    fn name(&self) -> &str {
        "pages"
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        data.fill(1 + (offset / PAGE) as u8);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }
}

fn device() -> Outcome {
    let blocks = Blocks::new(PAGE, 1)?;
    let range = |start| AddrRange::new(start, 3 * PAGE).expect("a range");
    blocks.space.map_device(range(LOW), Arc::new(Pages))?;
    // Ends with what it read if that is neither of the two answers.
    let code = guest!(
        "5: mov al, [rdi]",
        "inc r14",
        "cmp al, 1",
        "je 5b",
        "cmp al, 2",
        "je 5b",
        "mov [rdi + 0x100000], al",
        "jmp 5b",
    );
    let vcpu = blocks.machine.vcpu(0, code)?;
    let space = blocks.space.clone();
    let mut seen = [0_u64; 3];
    let thread = VcpuThread::spawn(vcpu, move |exit, _| {
        match exit {
            Exit::MmioRead { gpa, data, .. } => {
                space.read(gpa, data, None).expect("inside the space");
                seen[usize::from(data[0]).min(2)] += 1;
            }
            Exit::MmioWrite { data, .. } => return std::ops::ControlFlow::Break((seen, data[0])),
            _ => {}
        }
        match seen[1] > 2_000 && seen[2] > 2_000 {
            true => std::ops::ControlFlow::Break((seen, 0)),
            false => std::ops::ControlFlow::Continue(()),
        }
    })?;
    let mut moves = 0_u64;
    let limit = Instant::now() + Duration::from_secs(120);
    while !thread.is_finished() && Instant::now() < limit {
        for (from, to) in [(LOW, LOW + PAGE), (LOW + PAGE, LOW)] {
            let mut section = blocks.space.mm().mmap_write_lock()?;
            section.relocate(range(from), to)?;
            section.lock()?.publish();
            moves += 1;
            // The guest is to see both.
            thread::sleep(Duration::from_micros(50));
        }
    }
    let end = thread.stop().end;
    println!("{moves} moves, {end:?}");
    assert!(matches!(end, End::Handler((_, 0))), "{end:?}");
    Ok(())
}

fn memory() -> Outcome {
    let blocks = Blocks::new(PAGE, 1)?;
    let mm = blocks.space.mm();
    let range = |start, pages| AddrRange::new(start, pages * PAGE).expect("a range");
    let base = 1 << 30;
    let ram = Arc::new(Mapping::anonymous(4 * PAGE)?);
    for page in 0..4 {
        ram.write(page * PAGE, &[page as u8 + 1; 8])?;
    }
    blocks.space.map_ram(range(base, 4), ram)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut reads = 0_u64;
                while !done.load(Relaxed) {
                    for page in 0..4 {
                        let mut found = [0; 8];
                        let at = base + page * PAGE;
                        let access = blocks.space.read(at, &mut found, None).expect("inside");
                        assert_eq!(access.vma.map(|vma| vma <= at), Some(true), "page {page}");
                        assert_eq!(found, [page as u8 + 1; 8]);
                        reads += 1;
                    }
                }
                reads
            })
        });
        let (plain, less) = (
            VmFlags::READ | VmFlags::WRITE | VmFlags::EXEC,
            VmFlags::READ,
        );
        for _ in 0..5_000 {
            // Cut in three, and made whole again.
            for flags in [less, plain] {
                let mut section = mm.mmap_write_lock().expect("no guard is held");
                section
                    .protect(range(base + PAGE, 2), flags)
                    .expect("mapped");
                section.lock().expect("drained").publish();
            }
        }
        done.store(true, Relaxed);
        let reads = readers.map(|reader| reader.join().expect("no read missed"));
        println!("{reads:?} reads beside 10000 changes");
        assert!(reads.iter().all(|reads| *reads > 0));
    });
    Ok(())
}
