//! The access table, row by row, with the guest as witness: what it loads it pushes
//! on its stack, and what it stores is looked at where it belongs.
use std::error::Error;
use std::sync::{Arc, Mutex};

use gracefault::kvm::{MemSlot, SlotAccess, VcpuThread};
use gracefault::memory::{
    AccessSizes, Device, DeviceError, GuestSpace, Mapping, OtherSizes, Served,
};
use libtest_mimic::Trial;

use crate::support::space::{ByMap, DONE, Met, map_lazy, met, range, space, word};
use crate::support::{MMIO, Machine, Outcome, guest, kvm_test, with_regs};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        kvm_test("access_to_nothing", nothing),
        kvm_test("access_to_rom", rom),
        kvm_test("access_to_a_device_at_every_length", every_length),
        kvm_test("access_of_a_length_a_device_does_not_take", other_lengths),
        kvm_test("access_to_a_device_that_fails", a_device_that_fails),
        kvm_test("access_across_hole_and_ram", hole_and_ram),
        kvm_test("access_across_hole_and_lazy_ram", hole_and_lazy_ram),
        kvm_test("access_across_two_devices", two_devices),
    ]
}

const PAGE: u64 = 4096;
/// Where memory is; holes on both sides.
const RAM: u64 = 4 << 30;
/// What guests store.
const STORED: u64 = 0x8877_6655_4433_2211;

/// Notes what it sees; reads as its offsets.
struct Probe {
    sizes: AccessSizes,
    seen: Mutex<Vec<Seen>>,
}

/// Offset and length, and the bytes of a write.
type Seen = (u64, usize, Option<Vec<u8>>);

/// Offsets at which it fails.
const ERROR: u64 = 0x80;
const PANIC: u64 = 0x90;

impl Device for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn sizes(&self) -> AccessSizes {
        self.sizes
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.seen.lock().unwrap().push((offset, data.len(), None));
        match offset {
            ERROR => Err(DeviceError::NoRegister),
            PANIC => panic!("on purpose"),
            _ => {
                for (byte, offset) in data.iter_mut().zip(offset..) {
                    *byte = offset as u8;
                }
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let bytes = Some(data.to_vec());
        self.seen.lock().unwrap().push((offset, data.len(), bytes));
        match offset {
            ERROR => Err(DeviceError::BadValue),
            PANIC => panic!("on purpose"),
            _ => Ok(()),
        }
    }
}

/// Maps a page of device at `gpa`.
fn probe(space: &GuestSpace, gpa: u64, sizes: AccessSizes) -> Result<Arc<Probe>, Box<dyn Error>> {
    let probe = Arc::new(Probe {
        sizes,
        seen: Mutex::default(),
    });
    space.map_device(range(gpa, PAGE), probe.clone())?;
    Ok(probe)
}

/// A page of memory filled with `byte`, and its slot.
fn page(
    machine: &Machine,
    gpa: u64,
    byte: u8,
    access: SlotAccess,
) -> Result<(Arc<Mapping>, MemSlot), Box<dyn Error>> {
    let memory = Arc::new(Mapping::anonymous(PAGE)?);
    memory.write(0, &[byte; PAGE as usize])?;
    let slot = machine.vm.add_slot(gpa, memory.clone(), access)?;
    Ok((memory, slot))
}

/// Runs `code` with `rbx` at `at`, `rcx` 8 and `rdx` [`STORED`] until it has pushed
/// `pushes` values and written to what `rbp` points to: those, and what it met.
fn run(
    machine: &Machine,
    space: &Arc<GuestSpace>,
    at: u64,
    code: &[u8],
    pushes: u64,
) -> Result<(Vec<u64>, Met), Box<dyn Error>> {
    let mut vcpu = machine.vcpu(0, code)?;
    let mut stack = 0;
    with_regs(&mut vcpu, |r| {
        (r.rbx, r.rcx, r.rdx, r.rbp) = (at, 8, STORED, DONE);
        stack = r.rsp;
    })?;
    let met = met(VcpuThread::spawn_with(vcpu, ByMap::new(space))?)?;
    let pushed = (1..=pushes).map(|i| machine.ram.read_u64(stack - 8 * i));
    Ok((pushed.collect(), met))
}

fn served(met: &Met) -> Vec<Served> {
    met.accesses.iter().map(|(_, a)| a.served).collect()
}

fn nothing() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let code = guest!(
        "push qword ptr [rbx]",
        "mov [rbx], rdx",
        "push qword ptr [rbx]",
        "movzx eax, byte ptr [rbx + 3]",
        "push rax",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, RAM, code, 3)?;
    assert_eq!(loaded, [u64::MAX, u64::MAX, 0xff]);
    assert_eq!(served(&met), [Served::Unmapped; 4]);
    Ok(())
}

fn rom() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let (rom, _slot) = page(&machine, RAM, 0x22, SlotAccess::ReadOnly)?;
    space.map_rom(range(RAM, PAGE), rom.clone())?;
    let code = guest!(
        "push qword ptr [rbx]",
        "mov [rbx], rdx",
        "push qword ptr [rbx]",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, RAM, code, 2)?;
    assert_eq!(loaded, [0x2222_2222_2222_2222; 2]);
    assert_eq!(served(&met), [Served::RomWrite], "loads do not exit");
    assert_eq!(word(&rom, 0), 0x2222_2222_2222_2222);
    Ok(())
}

fn every_length() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let probe = probe(&space, MMIO, AccessSizes::ANY)?;
    let code = guest!(
        "5: movzx eax, byte ptr [rbx]",
        "push rax",
        "movzx eax, word ptr [rbx]",
        "push rax",
        "mov eax, [rbx]",
        "push rax",
        "mov rax, [rbx]",
        "push rax",
        "mov [rbx], dl",
        "mov [rbx], dx",
        "mov [rbx], edx",
        "mov [rbx], rdx",
        "inc rbx",
        "dec rcx",
        "jnz 5b",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, MMIO, code, 8 * 4)?;
    let mut loads = loaded.into_iter();
    let mut seen = Vec::new();
    for offset in 0..8 {
        for len in [1, 2, 4, 8] {
            let expected = (0..len as u64).fold(0, |v, i| v | (offset + i) << (8 * i));
            assert_eq!(loads.next(), Some(expected), "{len} at {offset}");
            seen.push((offset, len, None));
        }
        for len in [1, 2, 4, 8] {
            seen.push((offset, len, Some(STORED.to_le_bytes()[..len].to_vec())));
        }
    }
    assert_eq!(*probe.seen.lock().unwrap(), seen);
    assert_eq!(served(&met), [Served::Device; 64]);
    Ok(())
}

fn other_lengths() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let only_4 = |others| AccessSizes::only(&[4], others);
    let split = probe(&space, MMIO, only_4(OtherSizes::Split))?;
    let refuse = probe(&space, MMIO + PAGE, only_4(OtherSizes::AllOnes))?;
    let code = guest!(
        "push qword ptr [rbx + 0x10]",
        "mov [rbx + 0x10], rdx",
        "push qword ptr [rbx + 0x1010]",
        "mov [rbx + 0x1010], rdx",
        "mov eax, [rbx + 0x1010]",
        "push rax",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, MMIO, code, 3)?;
    assert_eq!(loaded, [0x1716_1514_1312_1110, u64::MAX, 0x1312_1110]);
    let (device, failed) = (Served::Device, Served::DeviceFailed);
    assert_eq!(served(&met), [device, device, failed, failed, device]);
    let halves = STORED.to_le_bytes();
    let written = |at: usize| Some(halves[at..at + 4].to_vec());
    let in_two = [
        (0x10, 4, None),
        (0x14, 4, None),
        (0x10, 4, written(0)),
        (0x14, 4, written(4)),
    ];
    assert_eq!(*split.seen.lock().unwrap(), in_two);
    assert_eq!(*refuse.seen.lock().unwrap(), [(0x10, 4, None)]);
    Ok(())
}

/// By an error and by a panic: the guest goes on.
fn a_device_that_fails() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    probe(&space, MMIO, AccessSizes::ANY)?;
    let code = guest!(
        "push qword ptr [rbx + 0x80]",
        "push qword ptr [rbx + 0x90]",
        "mov [rbx + 0x80], rdx",
        "mov [rbx + 0x90], rdx",
        "push qword ptr [rbx]",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, MMIO, code, 3)?;
    assert_eq!(loaded, [u64::MAX, u64::MAX, 0x0706_0504_0302_0100]);
    let mut expected = [Served::DeviceFailed; 5];
    expected[4] = Served::Device;
    assert_eq!(served(&met), expected);
    Ok(())
}

/// Loads and stores across the borders of a page at `rbx`, 4 and 4 bytes, and 3
/// and 5.
fn across() -> &'static [u8] {
    guest!(
        "push qword ptr [rbx - 4]",
        "push qword ptr [rbx + 0xffc]",
        "push qword ptr [rbx - 5]",
        "push qword ptr [rbx + 0xffb]",
        "mov [rbx - 4], rdx",
        "mov [rbx + 0xffc], rdx",
        "mov [rbp], eax",
    )
}

fn hole_and_ram() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let (ram, _slot) = page(&machine, RAM, 0x11, SlotAccess::ReadWrite)?;
    space.map_ram(range(RAM, PAGE), ram.clone())?;
    let (loaded, met) = run(&machine, &space, RAM, across(), 4)?;
    check_across(&loaded, &ram);
    // Only the hole's parts exit.
    assert_eq!(served(&met), [Served::Unmapped; 6]);
    let at = |gpa: u64| met.accesses.iter().filter(|(at, _)| *at == gpa).count();
    assert_eq!((at(RAM - 4), at(RAM - 5), at(RAM + PAGE)), (2, 1, 3));
    Ok(())
}

/// What [`across`] finds and leaves at a page full of 0x11.
fn check_across(loaded: &[u64], ram: &Mapping) {
    let expected = [
        0x1111_1111_ffff_ffff,
        0xffff_ffff_1111_1111,
        0x1111_11ff_ffff_ffff,
        0xffff_ff11_1111_1111,
    ];
    assert_eq!(loaded, expected, "{loaded:x?}");
    // The upper half of what went to its start, the lower half at its end.
    assert_eq!(word(ram, 0), 0x1111_1111_8877_6655);
    assert_eq!(word(ram, PAGE - 8), 0x4433_2211_1111_1111);
}

/// The part in the lazy page goes to it, whichever it was that put it in.
fn hole_and_lazy_ram() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let (ram, slot) = map_lazy(&machine.vm, &space, RAM, PAGE, |slot| slot)?;
    ram.write(0, &[0x11; PAGE as usize])?;
    let (loaded, met) = run(&machine, &space, RAM, across(), 4)?;
    check_across(&loaded, &ram);
    assert!(slot.is_in());
    assert_eq!(met.slots, 1);
    // And where a store is the first to miss it.
    let (next, _) = map_lazy(&machine.vm, &space, RAM + 4 * PAGE, PAGE, |slot| slot)?;
    let code = guest!("mov [rbx - 4], rdx", "mov [rbp], eax");
    let mut vcpu = machine.vcpu(1, code)?;
    with_regs(&mut vcpu, |r| {
        (r.rbx, r.rdx, r.rbp) = (RAM + 4 * PAGE, STORED, DONE);
    })?;
    let met = met_by(vcpu, &space)?;
    assert_eq!((met.slots, word(&next, 0)), (1, 0x8877_6655));
    assert_eq!(served(&met), [Served::Unmapped, Served::Memory]);
    Ok(())
}

fn met_by(vcpu: gracefault::kvm::Vcpu, space: &Arc<GuestSpace>) -> Result<Met, Box<dyn Error>> {
    met(VcpuThread::spawn_with(vcpu, ByMap::new(space))?)
}

/// In each way in which 8 bytes can be split, so that each device sees each length from
/// 1 to 7.
fn two_devices() -> Outcome {
    let (machine, space) = (Machine::new()?, space());
    let first = probe(&space, MMIO, AccessSizes::ANY)?;
    let second = probe(&space, MMIO + PAGE, AccessSizes::ANY)?;
    let code = guest!(
        "mov ecx, 7",
        "5: inc rbx",
        "push qword ptr [rbx + 0xff8]",
        "mov [rbx + 0xff8], rdx",
        "dec ecx",
        "jnz 5b",
        "mov [rbp], eax",
    );
    let (loaded, met) = run(&machine, &space, MMIO, code, 7)?;
    assert_eq!(served(&met), [Served::Device; 4 * 7]);
    let stored = STORED.to_le_bytes();
    let (mut of_first, mut of_second) = (Vec::new(), Vec::new());
    for (beyond, loaded) in (1..8).zip(loaded) {
        let at = PAGE - 8 + beyond as u64;
        // The last bytes of the one, the first of the other.
        let bytes = (at..PAGE)
            .chain(0..beyond as u64)
            .map(|offset| offset as u8);
        assert!(bytes.eq(loaded.to_le_bytes()), "{beyond}: {loaded:x?}");
        let (lower, upper) = stored.split_at(8 - beyond);
        of_first.extend([
            (at, 8 - beyond, None),
            (at, 8 - beyond, Some(lower.to_vec())),
        ]);
        of_second.extend([(0, beyond, None), (0, beyond, Some(upper.to_vec()))]);
    }
    assert_eq!(*first.seen.lock().unwrap(), of_first);
    assert_eq!(*second.seen.lock().unwrap(), of_second);
    Ok(())
}
