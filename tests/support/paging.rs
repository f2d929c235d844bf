//! An image whose pages come late, and a machine with a region of blocks from it.
use std::error::Error;
use std::io;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use gracefault::devices::HotplugController;
use gracefault::hotplug::{BlockKind, HotplugRegion};
use gracefault::kvm::{Exit, VcpuThread};
use gracefault::memory::{GuestSpace, PageSource, RamError, RamSizes, RamSource};
use gracefault::mm::AddrRange;
use libtest_mimic::Completion;

use super::required::{self, left_out};
use super::{MMIO, Machine, with_regs};

/// Runs a test, and fails it if it hangs.
pub(crate) fn in_time(
    test: fn() -> Result<Completion, String>,
) -> Result<Completion, Box<dyn Error>> {
    let (done, waiting) = mpsc::channel();
    let thread = thread::spawn(move || {
        let result = test();
        let _ = done.send(());
        result
    });
    match waiting.recv_timeout(Duration::from_secs(120)) {
        Err(mpsc::RecvTimeoutError::Timeout) => Err("it hangs".into()),
        _ => match thread.join() {
            Ok(result) => Ok(result?),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

pub(crate) const PAGE: u64 = 4096;
pub(crate) const BLOCK: u64 = 2 << 20;
/// Where the blocks are for the guest.
pub(crate) const START: u64 = 4 << 30;

/// An image each of whose words is its own offset and a bit. Its pages come late.
pub(crate) struct Late {
    /// Which pages come yet.
    open: Mutex<Open>,
    opened: Condvar,
    delay: Duration,
    /// How many reads are delayed.
    delayed: u64,
    /// Reads that have begun.
    begun: AtomicU64,
    /// From here on it cannot be read.
    end: u64,
}

#[derive(Default)]
struct Open {
    all: bool,
    /// Offsets.
    pages: Vec<u64>,
}

pub(crate) fn word(offset: u64) -> u64 {
    offset << 8 | 1
}

impl Late {
    pub(crate) fn new(open: bool, delay: Duration, end: u64) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(Open {
                all: open,
                pages: Vec::new(),
            }),
            opened: Condvar::new(),
            delay,
            delayed: u64::MAX,
            begun: AtomicU64::new(0),
            end,
        })
    }

    /// The first two reads take so long, and no other.
    pub(crate) fn slow_twice(delay: Duration) -> Arc<Self> {
        let mut image = Self::new(true, delay, u64::MAX);
        Arc::get_mut(&mut image).expect("new").delayed = 2;
        image
    }

    pub(crate) fn open(&self) {
        self.open.lock().unwrap().all = true;
        self.opened.notify_all();
    }

    /// One page comes from now on.
    pub(crate) fn open_page(&self, offset: u64) {
        self.open.lock().unwrap().pages.push(offset);
        self.opened.notify_all();
    }

    /// Pages that have been asked for.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(SeqCst)
    }

    /// Returns when so many pages have been asked for.
    pub(crate) fn wait_begun(&self, reads: u64) {
        while self.begun() < reads {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl PageSource for Late {
    fn read_page(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        let before = self.begun.fetch_add(1, SeqCst);
        let open = self.open.lock().unwrap();
        let is_shut = |open: &mut Open| !open.all && !open.pages.contains(&offset);
        drop(self.opened.wait_while(open, is_shut).unwrap());
        if before < self.delayed {
            thread::sleep(self.delay);
        }
        if offset >= self.end {
            return Err(io::Error::other("the image ends before"));
        }
        for (i, bytes) in page.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&word(offset + 8 * i as u64).to_le_bytes());
        }
        Ok(())
    }
}

/// A machine with a region of two blocks, the first of them plugged.
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) space: Arc<GuestSpace>,
    pub(crate) region: HotplugRegion,
    /// Reads by guests that found no memslot.
    pub(crate) missed: Arc<AtomicU64>,
}

impl Rig {
    /// `Err`: how a test ends, for want of demand paging here.
    pub(crate) fn new(image: Arc<Late>) -> Result<Self, Result<Completion, String>> {
        let sizes = RamSizes {
            boot: 0,
            hotplug: 2 * BLOCK,
            block: BLOCK,
        };
        let source = match RamSource::of_pages(sizes, image) {
            Err(RamError::Paging(error)) => return Err(left_out(required::UFFD, error)),
            other => other.unwrap(),
        };
        let machine = Machine::new().unwrap();
        let range = AddrRange::new(0, 1 << 36).expect("not empty");
        let space = Arc::new(GuestSpace::physical(range));
        let controller = Arc::new(HotplugController::new(1));
        let vm = Arc::new(machine.vm.clone());
        let region = HotplugRegion::new(vm, space.clone(), controller, START, BLOCK, 2);
        let region = region.with_ram(Arc::new(source));
        region.plug(0, BlockKind::Cooperative).unwrap();
        Ok(Self {
            machine,
            space,
            region,
            missed: Arc::default(),
        })
    }

    pub(crate) fn read(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.space.read(START + offset, &mut bytes, None).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Starts a guest that runs `code`, with `rsi` at the first block and `rdx` at
    /// its end. What it writes to the device goes to `told`, until that is enough.
    pub(crate) fn start(
        &self,
        code: &[u8],
        told: mpsc::Sender<u64>,
        enough: fn(u64) -> bool,
    ) -> VcpuThread<()> {
        self.start_at(0, code, 0, told, enough)
    }

    /// As [`start`](Self::start), on a vCPU of another number (a VM keeps what it has),
    /// and with `rsi` so far into the block.
    pub(crate) fn start_at(
        &self,
        id: u32,
        code: &[u8],
        offset: u64,
        told: mpsc::Sender<u64>,
        enough: fn(u64) -> bool,
    ) -> VcpuThread<()> {
        let mut vcpu = self.machine.vcpu(id, code).unwrap();
        with_regs(&mut vcpu, |regs| {
            (regs.rsi, regs.rdx) = (START + offset, START + BLOCK)
        })
        .unwrap();
        let (space, missed) = (self.space.clone(), self.missed.clone());
        VcpuThread::spawn(vcpu, move |exit, _| match exit {
            Exit::MmioRead { gpa, data, .. } => {
                missed.fetch_add(1, SeqCst);
                space.read(gpa, data, None).unwrap();
                Continue(())
            }
            Exit::MmioWrite {
                gpa: MMIO, data, ..
            } => {
                let value = u64::from_le_bytes(data.try_into().unwrap());
                told.send(value).unwrap();
                if enough(value) {
                    Break(())
                } else {
                    Continue(())
                }
            }
            _ => Continue(()),
        })
        .unwrap()
    }
}
