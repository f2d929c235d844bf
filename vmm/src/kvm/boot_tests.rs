use super::*;

/// Tables in a sparse memory, and what an address translates to.
struct Memory(std::collections::BTreeMap<u64, Vec<u8>>);

impl Memory {
    fn with(mapped_end: u64, tables: u64) -> Self {
        let mut pages = std::collections::BTreeMap::new();
        let mut write = |gpa: u64, bytes: &[u8]| -> WriteResult {
            assert!(
                pages.insert(gpa, bytes.to_vec()).is_none(),
                "{gpa:#x} written twice"
            );
            Ok(())
        };
        write_tables(mapped_end, 47, tables, table_bytes(mapped_end), &mut write).unwrap();
        Self(pages)
    }

    fn entry(&self, table: u64, index: u64) -> u64 {
        let bytes = &self.0[&table][index as usize * 8..][..8];
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    fn translate(&self, tables: u64, address: u64) -> Option<u64> {
        let mut table = tables;
        for shift in [39, 30, 21] {
            let entry = self.entry(table, address >> shift & 511);
            if entry == 0 {
                return None;
            }
            assert_eq!(entry & 0b111, 0b111, "present, writable, user at {shift}");
            assert_eq!(
                entry & 1 << 7 != 0,
                shift == 21,
                "a page only at the lowest level"
            );
            table = entry & !0xfff;
        }
        Some(table + (address & (LARGE - 1)))
    }
}

#[test]
fn everything_below_the_end_is_mapped_to_itself_and_nothing_else() {
    for end in [
        LARGE,
        1 << 30,
        4 << 30,
        (4 << 30) + LARGE,
        512 << 30,
        513 << 30,
        (1 << 40) - LARGE,
    ] {
        for tables in [0x4000, 0x20_0000] {
            let memory = Memory::with(end, tables);
            for address in [
                0,
                0x1234,
                LARGE - 1,
                0xd010_0000,
                end / 2 + 77,
                end - LARGE,
                end - 1,
            ] {
                let expected = (address < end).then_some(address);
                assert_eq!(
                    memory.translate(tables, address),
                    expected,
                    "{address:#x} of {end:#x}"
                );
            }
            let beyond = end & ((512 << 30) - 1);
            if beyond & ((1 << 30) - 1) != 0 {
                assert_eq!(memory.translate(tables, end), None, "{end:#x}");
            }
        }
    }
}

#[test]
fn the_tables_stay_in_the_bytes_they_ask_for() {
    for end in [1, LARGE, 1 << 30, (1 << 30) + 1, 512 << 30, 600 << 30] {
        let memory = Memory::with(end, 0x10_0000);
        let bytes = memory
            .0
            .range(0x10_0000..)
            .map(|(_, b)| b.len() as u64)
            .sum::<u64>();
        assert_eq!(bytes, table_bytes(end), "{end:#x}");
        let last = memory.0.keys().next_back().unwrap();
        assert_eq!(last + PAGE, 0x10_0000 + table_bytes(end));
    }
    assert_eq!(table_bytes(4 << 30), 6 * PAGE);
    assert!(table_bytes(506 << 30) <= TABLES_ROOM && table_bytes(507 << 30) > TABLES_ROOM);
}

#[test]
fn what_does_not_fit_is_refused_unwritten() {
    let mut none = |_: u64, _: &[u8]| -> WriteResult { panic!("written") };
    let mut tables =
        |end, bits, at, room| write_tables(end, bits, at, room, &mut none).unwrap_err();
    let e = tables((1 << 36) + 1, 36, 0x4000, u64::MAX);
    assert!(matches!(e, BootError::TooWide { bits: 36, .. }));
    assert!(e.to_string().contains("36 bits"), "{e}");
    assert!(matches!(
        tables(1 << 48, 52, 0x4000, u64::MAX),
        BootError::TooWide { bits: 47, .. }
    ));
    let e = tables(4 << 30, 40, 0x4000, 5 * PAGE);
    assert!(
        matches!(
            e,
            BootError::NoRoom {
                needed: 0x6000,
                room: 0x5000,
                ..
            }
        ),
        "{e}"
    );
    for at in [0x4001, 0x3000, 0] {
        assert!(matches!(
            tables(4 << 30, 40, at, 1 << 30),
            BootError::Misplaced { .. }
        ));
    }
}

#[test]
fn a_writer_that_fails_is_named_with_its_address() {
    let mut fail = |_: u64, _: &[u8]| -> WriteResult { Err("no memory there".into()) };
    let text = write_tables(1 << 30, 40, 0x4000, 1 << 20, &mut fail)
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "the start state cannot be written to GPA 0x4000: no memory there"
    );
}

#[test]
fn the_registers_are_those_of_the_abi() {
    let start = Start {
        entry: 1,
        params: 2,
        stack_top: 0x100,
        report: 4,
        tables: 0x4000,
    };
    let regs = start.regs(7);
    assert_eq!(
        (regs.rip, regs.rdi, regs.rsi, regs.rsp, regs.rflags),
        (1, 2, 7, 0xf8, 0x3002)
    );
    let reset = kvm_sregs {
        apic_base: 99,
        ..Default::default()
    };
    let s = start.sregs(reset);
    assert_eq!(
        (s.cr0, s.cr3, s.cr4, s.efer),
        (0x8005_0033, 0x4000, 0x620, 0x500)
    );
    assert_eq!((s.cs.selector, s.cs.dpl, s.cs.l, s.cs.db), (0x1b, 3, 1, 0));
    for d in [s.ds, s.es, s.fs, s.gs, s.ss] {
        assert_eq!((d.selector, d.dpl, d.l, d.type_), (0x23, 3, 0, 3));
    }
    assert_eq!((s.gs.base, s.fs.base), (4, 0));
    assert_eq!((s.gdt.base, s.gdt.limit), (0x2000, 47));
    assert_eq!((s.idt.base, s.idt.limit), (0x3000, 0xfff));
    assert_eq!(s.apic_base, 99, "what is not the start state's stays");
}
