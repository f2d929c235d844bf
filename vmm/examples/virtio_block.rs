//! A virtio block device over a file, whose buffers cross into memory that is unplugged
//! and plugged meanwhile.
//!
//! ```text
//! cargo run --release --example virtio_block
//! ```
//!
//! The device is written for any `GuestAddressSpace`, as are others', and knows nothing of
//! Gracefault; nor does the driver, which this program plays in the guest's place: it
//! writes and reads sectors through buffers that lie across the border of two regions,
//! while another thread takes regions out and puts new ones in. Only `run`, `plug` and
//! `resize`, the VMM, have our types in them. No KVM is needed. Ends with status 1 if a byte is wrong, or a
//! request that had its memory fails.

use std::fs::File;
use std::num::Wrapping;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gracefault::memory::vm_memory::GuestRam;
use gracefault::memory::{GuestSpace, Mapping};
use gracefault::mm::AddrRange;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestAddressSpace, GuestMemory, Permissions};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The device.
struct Block<M> {
    memory: M,
    queue: Queue,
    disk: File,
}

/// How a request begins.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

// SAFETY: plain numbers without padding.
unsafe impl ByteValued for Header {}

const READ: u32 = 0;
const WRITE: u32 = 1;
const SECTOR: u64 = 512;

impl<M: GuestAddressSpace> Block<M> {
    /// Serves what the driver has made available; how many requests.
    fn serve(&mut self) -> Result<usize, Failure> {
        let mut served = 0;
        while let Some(chain) = self.queue.pop_descriptor_chain(self.memory.memory()) {
            let memory = chain.memory();
            let parts: Vec<_> = chain.clone().collect();
            let [header, data, status] = parts[..] else {
                return Err("a request has three parts".into());
            };
            let header: Header = memory.read_obj(header.addr())?;
            let done = self.transfer(memory, header, data);
            memory.write_obj(u8::from(done.is_err()), status.addr())?;
            let head = chain.head_index();
            self.queue.add_used(memory, head, data.len())?;
            served += 1;
        }
        Ok(served)
    }

    fn transfer(&self, memory: &M::M, header: Header, buffer: Descriptor) -> Result<(), Failure> {
        let mut data = vec![0; buffer.len() as usize];
        let offset = header.sector * SECTOR;
        match header.kind {
            READ => {
                self.disk.read_exact_at(&mut data, offset)?;
                memory.write_slice(&data, buffer.addr())?;
            }
            WRITE => {
                memory.read_slice(&mut data, buffer.addr())?;
                self.disk.write_all_at(&data, offset)?;
            }
            kind => return Err(format!("there is no request {kind}").into()),
        }
        Ok(())
    }
}

const BOOT: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 4;
const QUEUE: u16 = 8;
const DESCRIPTORS: GuestAddress = GuestAddress(0x1000);
const AVAILABLE: GuestAddress = GuestAddress(0x2000);
const USED: GuestAddress = GuestAddress(0x3000);
const HEADER: GuestAddress = GuestAddress(0x4000);
const STATUS: GuestAddress = GuestAddress(0x4100);

fn main() -> ExitCode {
    match run(Duration::from_secs(1)) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("virtio_block: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(time: Duration) -> Result<String, Failure> {
    let all = AddrRange::new(0, 1 << 40).expect("not empty");
    let ram = GuestRam::new(Arc::new(GuestSpace::physical(all)));
    ram.insert_region(GuestAddress(0), Arc::new(Mapping::anonymous(BOOT)?))?;
    for block in 0..BLOCKS {
        plug(&ram, block)?;
    }
    let mut queue = Queue::new(QUEUE)?;
    queue.try_set_desc_table_address(DESCRIPTORS)?;
    queue.try_set_avail_ring_address(AVAILABLE)?;
    queue.try_set_used_ring_address(USED)?;
    queue.set_ready(true);
    let disk = tempfile::tempfile()?;
    disk.set_len(1 << 20)?;
    let mut device = Block {
        memory: ram.dma(),
        queue,
        disk,
    };

    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        let resizer = s.spawn(|| resize(&ram, &stop));
        let driven = drive(&ram.dma(), &mut device, time);
        stop.store(true, Ordering::Relaxed);
        let (resized, waited) = resizer.join().expect("no panic")?;
        let (served, failed) = driven?;
        if served == 0 || resized == 0 {
            return Err(format!("{served} requests and {resized} resizes: nothing shown").into());
        }
        Ok(format!(
            "{served} requests across a border verified beside {resized} unplugs and plugs, \
             {waited} of which waited for a request; {failed} requests found their memory \
             unplugged, and failed"
        ))
    })
}

fn base(block: u64) -> GuestAddress {
    GuestAddress(BOOT + block * BLOCK)
}

fn plug(ram: &GuestRam, block: u64) -> Result<(), Failure> {
    let memory = Arc::new(Mapping::anonymous(BLOCK)?);
    Ok(ram.insert_region(base(block), memory)?)
}

/// Takes blocks out and puts them in again; how often, and how often it had to wait.
fn resize(ram: &GuestRam, stop: &AtomicBool) -> Result<(u64, u64), Failure> {
    let (mut done, mut waited) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let block = done % BLOCKS;
        let gone = ram.remove_region(base(block), BLOCK, None)?;
        waited += u64::from(!gone.drain.holders.is_empty());
        // A late write to it would be seen by the next one who gets this memory: not ours.
        drop(gone);
        thread::sleep(Duration::from_micros(50));
        plug(ram, block)?;
        thread::sleep(Duration::from_micros(50));
        done += 1;
    }
    Ok((done, waited))
}

/// The driver: requests one by one, until the time is over. How many were served and
/// verified, and how many failed for want of memory.
fn drive<M: GuestAddressSpace>(
    memory: &M,
    device: &mut Block<M>,
    time: Duration,
) -> Result<(u64, u64), Failure> {
    let (mut served, mut failed) = (0, 0);
    let mut next = Wrapping(0_u16);
    let begun = Instant::now();
    for round in 0.. {
        if begun.elapsed() >= time {
            break;
        }
        // Across the border before this block, with more on one side or the other.
        let len = SECTOR as usize * 8;
        let shift = round * 37 % len as u64;
        let at = GuestAddress(base(round % BLOCKS).0 - shift);
        // What was there when it was asked for is there until the round is over.
        let guest = memory.memory();
        let is_there = guest.check_range(at, len, Permissions::ReadWrite);
        let pattern: Vec<u8> = (0..len as u64).map(|i| (i * 7 + round) as u8).collect();
        if is_there {
            guest.write_slice(&pattern, at)?;
        }
        let mut ask = |kind| request(&*guest, device, &mut next, kind, round % 64, at, len as u32);
        let written = ask(WRITE)?;
        if is_there {
            guest.write_slice(&vec![0; len], at)?;
        }
        let read = ask(READ)?;
        match is_there {
            true if !(written && read) => {
                return Err("a request failed with its memory there".into());
            }
            true => {
                let mut back = vec![0; len];
                guest.read_slice(&mut back, at)?;
                if back != pattern {
                    return Err(format!("wrong data at {:#x}", at.0).into());
                }
                served += 2;
            }
            // It may be there again by now.
            false => failed += u64::from(!written) + u64::from(!read),
        }
    }
    Ok((served, failed))
}

/// One request; whether the device could serve it.
fn request<M: GuestAddressSpace>(
    guest: &M::M,
    device: &mut Block<M>,
    next: &mut Wrapping<u16>,
    kind: u32,
    sector: u64,
    at: GuestAddress,
    len: u32,
) -> Result<bool, Failure> {
    let header = Header {
        kind,
        reserved: 0,
        sector,
    };
    guest.write_obj(header, HEADER)?;
    guest.write_obj(0xff_u8, STATUS)?;
    let (more, device_writes) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
    let data_flags = more | if kind == READ { device_writes } else { 0 };
    let chain = [
        Descriptor::new(HEADER.0, size_of::<Header>() as u32, more, 1),
        Descriptor::new(at.0, len, data_flags, 2),
        Descriptor::new(STATUS.0, 1, device_writes, 0),
    ];
    for (i, descriptor) in chain.into_iter().enumerate() {
        let place = GuestAddress(DESCRIPTORS.0 + 16 * i as u64);
        guest.write_obj(RawDescriptor::from(descriptor), place)?;
    }
    let slot = GuestAddress(AVAILABLE.0 + 4 + 2 * u64::from(next.0 % QUEUE));
    guest.write_obj(0_u16, slot)?;
    *next += 1;
    guest.store(next.0, GuestAddress(AVAILABLE.0 + 2), Ordering::Release)?;
    if device.serve()? != 1 {
        return Err("the device did not see the request".into());
    }
    let used: u16 = guest.load(GuestAddress(USED.0 + 2), Ordering::Acquire)?;
    if used != next.0 {
        return Err("the device did not return the request".into());
    }
    Ok(guest.read_obj::<u8>(STATUS)? == 0)
}
