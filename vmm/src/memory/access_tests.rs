//! A test for each row of the access table; all of them at once by the calls that DMA
//! makes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::mm::{AddrRange, LookupPath, Waited};

const RAM: u64 = 0x1000;
const ROM: u64 = 0x3000;
const DEVICE: u64 = 0x4000;
const SIZE: u64 = 0x10000;

/// Notes what it sees; reads as its offsets.
struct Probe {
    sizes: AccessSizes,
    seen: Mutex<Vec<(char, u64, usize)>>,
}

impl Device for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn sizes(&self) -> AccessSizes {
        self.sizes
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.seen.lock().unwrap().push(('r', offset, data.len()));
        match offset {
            0x80.. if offset < 0x88 => Err(DeviceError::NoRegister),
            0x88.. if offset < 0x90 => panic!("on purpose"),
            _ => {
                data.iter_mut()
                    .zip(offset..)
                    .for_each(|(byte, o)| *byte = o as u8);
                Ok(())
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.seen.lock().unwrap().push(('w', offset, data.len()));
        if data == [0xde, 0xad] {
            panic!("on purpose")
        }
        Ok(())
    }
}

/// Two pages of RAM, a page of ROM filled with 0x22, a page of device; holes
/// around them.
fn space(sizes: AccessSizes) -> (GuestSpace, Arc<Probe>) {
    let space = GuestSpace::physical(AddrRange::new(0, SIZE).unwrap());
    let range = |start, pages| AddrRange::new(start, pages * PAGE).unwrap();
    for page in [RAM, RAM + PAGE] {
        space
            .map_ram(range(page, 1), Arc::new(Mapping::anonymous(PAGE).unwrap()))
            .unwrap();
    }
    let rom = Mapping::anonymous(PAGE).unwrap();
    rom.write(0, &[0x22; PAGE as usize]).unwrap();
    space.map_rom(range(ROM, 1), Arc::new(rom)).unwrap();
    let probe = Arc::new(Probe {
        sizes,
        seen: Mutex::default(),
    });
    space.map_device(range(DEVICE, 1), probe.clone()).unwrap();
    (space, probe)
}

fn read<const N: usize>(space: &GuestSpace, addr: u64) -> ([u8; N], Access) {
    let mut data = [0x77; N];
    let access = space.read(addr, &mut data, None).unwrap();
    (data, access)
}

#[test]
fn unmapped_reads_all_ones_and_drops_writes() {
    let (space, _) = space(AccessSizes::ANY);
    let (data, access) = read::<8>(&space, 0x8000);
    assert_eq!(
        (data, access.served, access.vma),
        ([0xff; 8], Served::Unmapped, None)
    );
    let access = space.write(0x8000, &[1; 8], None).unwrap();
    assert_eq!((access.served, access.parts), (Served::Unmapped, 1));
    assert_eq!(read::<8>(&space, 0x8000).0, [0xff; 8]);
}

#[test]
fn a_border_between_ram_regions_joins_byte_for_byte() {
    let (space, _) = space(AccessSizes::ANY);
    let access = space
        .write(RAM + PAGE - 3, &[1, 2, 3, 4, 5, 6, 7, 8], None)
        .unwrap();
    assert_eq!((access.served, access.parts), (Served::Memory, 2));
    assert_eq!(read::<4>(&space, RAM + PAGE - 1).0, [3, 4, 5, 6]);
}

#[test]
fn borders_of_holes_and_devices_split_the_access() {
    let (space, probe) = space(AccessSizes::ANY);
    // Hole to RAM.
    space.write(RAM, &[9; 4], None).unwrap();
    let (data, access) = read::<8>(&space, RAM - 4);
    assert_eq!(data, [0xff, 0xff, 0xff, 0xff, 9, 9, 9, 9]);
    assert_eq!((access.served, access.parts), (Served::Unmapped, 2));
    // ROM to device: the device sees offset 0 and its own part only.
    let (data, access) = read::<8>(&space, DEVICE - 5);
    assert_eq!(data, [0x22, 0x22, 0x22, 0x22, 0x22, 0, 1, 2]);
    assert_eq!((access.served, access.vma), (Served::Device, Some(DEVICE)));
    // Device to hole.
    let (data, _) = read::<4>(&space, DEVICE + PAGE - 2);
    assert_eq!(data, [0xfe, 0xff, 0xff, 0xff]);
    assert_eq!(
        *probe.seen.lock().unwrap(),
        [('r', 0, 3), ('r', PAGE - 2, 2)]
    );
}

/// All of them in one access, as only DMA can make it.
#[test]
fn a_store_reaches_each_region_with_its_own_bytes() {
    let (space, probe) = space(AccessSizes::ANY);
    let beside = Arc::new(Probe {
        sizes: AccessSizes::ANY,
        seen: Mutex::default(),
    });
    let next = AddrRange::new(DEVICE + PAGE, PAGE).unwrap();
    space.map_device(next, beside.clone()).unwrap();
    // Hole, RAM, RAM, ROM, two devices, hole.
    let (from, to) = (RAM - 4, DEVICE + 2 * PAGE + 4);
    let data: Vec<u8> = (0..to - from).map(|i| (i / 8) as u8).collect();
    let access = space.write(from, &data, None).unwrap();
    assert_eq!(access.parts, 7);
    let mut found = vec![0; data.len()];
    space.read(from, &mut found, None).unwrap();
    let at = |addr: u64| (addr - from) as usize;
    assert_eq!(found[..4], [0xff; 4]);
    assert_eq!(found[4..at(ROM)], data[4..at(ROM)]);
    assert!(found[at(ROM)..at(DEVICE)].iter().all(|&byte| byte == 0x22));
    assert_eq!(found[at(DEVICE + 2 * PAGE)..], [0xff; 4]);
    for probe in [probe, beside] {
        let seen = probe.seen.lock().unwrap();
        let pieces = (0..PAGE).step_by(8);
        let expected: Vec<_> = pieces.clone().map(|o| ('w', o, 8)).collect();
        assert_eq!(seen[..512], expected);
        assert_eq!(seen.len(), 2 * pieces.count());
    }
}

#[test]
fn length_0_does_nothing_anywhere() {
    let (space, probe) = space(AccessSizes::ANY);
    for addr in [RAM, DEVICE, 0x8000, SIZE, u64::MAX] {
        assert_eq!(space.read(addr, &mut [], None).unwrap().parts, 0);
        assert_eq!(space.write(addr, &[], None).unwrap().parts, 0);
    }
    assert!(probe.seen.lock().unwrap().is_empty());
}

#[test]
fn a_device_sees_offset_and_exact_length_at_any_alignment() {
    let (space, probe) = space(AccessSizes::ANY);
    let mut expected = Vec::new();
    for offset in 0..8 {
        for len in 1..=8 {
            let mut data = vec![0; len];
            space.read(DEVICE + offset, &mut data, None).unwrap();
            assert!(data.iter().zip(offset..).all(|(&byte, o)| byte == o as u8));
            space.write(DEVICE + offset, &data, None).unwrap();
            expected.extend([('r', offset, len), ('w', offset, len)]);
        }
    }
    assert_eq!(*probe.seen.lock().unwrap(), expected);
}

#[test]
fn sizes_a_device_does_not_take_are_split_or_all_ones_as_declared() {
    let (split, probe) = space(AccessSizes::only(&[1, 4], OtherSizes::Split));
    assert_eq!(read::<6>(&split, DEVICE + 1).0, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        *probe.seen.lock().unwrap(),
        [('r', 1, 4), ('r', 5, 1), ('r', 6, 1)]
    );
    let (refuse, probe) = space(AccessSizes::only(&[8], OtherSizes::AllOnes));
    let (data, access) = read::<4>(&refuse, DEVICE);
    assert_eq!((data, access.served), ([0xff; 4], Served::DeviceFailed));
    assert!(probe.seen.lock().unwrap().is_empty());
}

#[test]
fn past_the_end_is_an_error_and_does_not_wrap() {
    let (space, _) = space(AccessSizes::ANY);
    for addr in [SIZE - 4, SIZE, u64::MAX - 3, u64::MAX] {
        let past_end = Err(AccessError::PastEnd { addr, len: 8 });
        assert_eq!(space.read(addr, &mut [0; 8], None).map(drop), past_end);
        assert_eq!(space.write(addr, &[0; 8], None).map(drop), past_end);
    }
}

#[test]
fn writes_to_rom_are_dropped() {
    let (space, _) = space(AccessSizes::ANY);
    assert_eq!(
        space.write(ROM + 8, &[1; 4], None).unwrap().served,
        Served::RomWrite
    );
    let (data, access) = read::<4>(&space, ROM + 8);
    assert_eq!((data, access.served), ([0x22; 4], Served::Memory));
}

#[test]
fn a_device_that_fails_or_panics_costs_all_ones_only() {
    let (space, _) = space(AccessSizes::ANY);
    for addr in [DEVICE + 0x80, DEVICE + 0x88] {
        let (data, access) = read::<8>(&space, addr);
        assert_eq!((data, access.served), ([0xff; 8], Served::DeviceFailed));
    }
    let access = space.write(DEVICE, &[0xde, 0xad], None).unwrap();
    assert_eq!(access.served, Served::DeviceFailed);
    assert_eq!(read::<1>(&space, DEVICE + 3).0, [3]);
    // Nothing is left held: the device can be removed at once.
    let range = AddrRange::new(DEVICE, PAGE).unwrap();
    let soon = std::time::Instant::now() + std::time::Duration::from_secs(60);
    assert!(
        space
            .mm()
            .unmap(range, Some(soon))
            .unwrap()
            .drain
            .holders
            .is_empty()
    );
}

/// As by the others, but that no device is reached.
#[test]
fn a_device_finds_the_same_by_its_own_calls() {
    let (space, probe) = space(AccessSizes::ANY);
    let data = [1, 2, 3, 4, 5, 6, 7, 8];
    let (nobody, memory) = (Served::Unmapped, Served::Memory);
    let (rom, device) = (Served::RomWrite, Served::DeviceFailed);
    // Where, who answers a store, of how many parts it is, what a load then finds.
    let cases = [
        (0x8000, nobody, 1, [0xff; 8]),
        (RAM + 8, memory, 1, data),
        (RAM + PAGE - 3, memory, 2, data),
        (RAM - 4, nobody, 2, [0xff, 0xff, 0xff, 0xff, 5, 6, 7, 8]),
        (ROM + 8, rom, 1, [0x22; 8]),
        (ROM - 5, rom, 2, [1, 2, 3, 4, 5, 0x22, 0x22, 0x22]),
        (DEVICE + 8, device, 1, [0xff; 8]),
        (
            DEVICE - 2,
            device,
            2,
            [0x22, 0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        (DEVICE + PAGE - 4, nobody, 2, [0xff; 8]),
    ];
    for (addr, served, parts, expected) in cases {
        let access = space.write_memory(addr, &data, None).unwrap();
        assert_eq!((access.served, access.parts), (served, parts), "{addr:#x}");
        let mut found = [0x77; 8];
        let access = space.read_memory(addr, &mut found, None).unwrap();
        let readable = match served {
            Served::RomWrite => memory,
            other => other,
        };
        assert_eq!(
            (access.served, access.parts),
            (readable, parts),
            "{addr:#x}"
        );
        assert_eq!(found, expected, "{addr:#x}");
    }
    for addr in [RAM, DEVICE, 0x8000, SIZE, u64::MAX] {
        assert_eq!(space.read_memory(addr, &mut [], None).unwrap().parts, 0);
        assert_eq!(space.write_memory(addr, &[], None).unwrap().parts, 0);
    }
    for addr in [SIZE - 4, SIZE, u64::MAX - 3, u64::MAX] {
        let past_end = Err(AccessError::PastEnd { addr, len: 8 });
        let read = space.read_memory(addr, &mut [0; 8], None);
        assert_eq!(read.map(drop), past_end);
        assert_eq!(space.write_memory(addr, &data, None).map(drop), past_end);
    }
    assert!(probe.seen.lock().unwrap().is_empty());
}

#[test]
fn long_accesses_reach_a_device_in_pieces_of_8() {
    let (space, probe) = space(AccessSizes::ANY);
    let (data, _) = read::<20>(&space, DEVICE);
    assert!(data.iter().zip(0..).all(|(&byte, o)| byte == o));
    assert_eq!(
        *probe.seen.lock().unwrap(),
        [('r', 0, 8), ('r', 8, 8), ('r', 16, 4)]
    );
}

#[test]
fn an_access_is_nested_if_one_of_its_parts_was_and_waited_as_the_first_that_did() {
    let wait = |section| Waited {
        section,
        time: Duration::ZERO,
        from: 0,
        until: 0,
    };
    let part = |nested, section: Option<u64>| Access {
        path: LookupPath {
            nested,
            waited: section.map(wait),
            retries: 0,
        },
        parts: 1,
        ..Access::default()
    };
    for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
        for sections in [
            [None, None],
            [None, Some(3)],
            [Some(1), None],
            [Some(1), Some(3)],
        ] {
            let mut whole = part(first, sections[0]);
            whole.add(&part(second, sections[1]));
            assert_eq!((whole.path.nested, whole.parts), (first || second, 2));
            let waited = whole.path.waited.map(|waited| waited.section);
            assert_eq!(waited, sections[0].or(sections[1]));
        }
    }
}

/// Its accesses do what the space's do, and are stamped as who asks says.
#[cfg(feature = "kvm")]
#[test]
fn a_reader_of_the_space_finds_the_same() {
    use crate::clock::Clock;
    use crate::mm::KillFlag;

    let (space, probe) = space(AccessSizes::ANY);
    let space = Arc::new(space);
    let reader = SpaceReader::new(space.clone());
    let kill = KillFlag::default();
    let clock = Clock::of_this_machine();
    for (addr, stamp) in [(ROM - 4, None), (ROM - 4, Some(clock)), (DEVICE - 4, None)] {
        let (mut data, mut access) = ([0; 8], Access::default());
        let before = clock.ticks();
        reader
            .read(addr, &mut data, (stamp, &kill), &mut access)
            .unwrap();
        let (same, direct) = read::<8>(&space, addr);
        assert_eq!(data, same);
        assert_eq!(
            (access.served, access.vma, access.parts),
            (direct.served, direct.vma, direct.parts)
        );
        match stamp {
            Some(clock) => assert!((before..=clock.ticks()).contains(&access.looked_up)),
            None => assert_eq!(access.looked_up, 0),
        }
    }
    let mut access = Access::default();
    let past = reader.write(SIZE - 4, &[1; 8], (None, &kill), &mut access);
    assert_eq!(
        past,
        Err(AccessError::PastEnd {
            addr: SIZE - 4,
            len: 8
        })
    );
    reader
        .write(DEVICE, &[1; 4], (None, &kill), &mut access)
        .unwrap();
    assert_eq!(probe.seen.lock().unwrap().last(), Some(&('w', 0, 4)));
}
