//! The ten words of a record.
//!
//! The layout is part of the file format: [`SCHEMA`] describes it, and each file
//! carries that description.

use super::super::ExitKind;
use super::{Change, Event, Exit, Round, Section, Space, Wait, What};
use crate::memory::Served;

/// Words of a record.
pub const WORDS: usize = 10;

/// A record as it is stored.
pub type Words = [u64; WORDS];

/// What the words of a record mean, as each file says it: JSON.
pub const SCHEMA: &str = include_str!("schema.json");

const EXIT: u64 = 1;
const SECTION: u64 = 2;
const CHANGE: u64 = 3;
const ROUND: u64 = 4;

const SERVED: [Option<Served>; 6] = [
    None,
    Some(Served::Memory),
    Some(Served::Device),
    Some(Served::DeviceFailed),
    Some(Served::Unmapped),
    Some(Served::RomWrite),
];
const WHATS: [What; 4] = [What::Map, What::Unmap, What::Change, What::Nothing];
const SPACES: [Space; 2] = [Space::Memory, Space::Ports];

const FRAGMENT: u64 = 1 << 0;
const FAILED: u64 = 1 << 1;
const NESTED: u64 = 1 << 2;
const HAS_VMA: u64 = 1 << 3;
const WAITED: u64 = 1 << 4;
/// Two bits: 1, 2, 3 for pieces of 1, 2, 4 bytes.
const PIECE: u32 = 5;
const PIECES: [u8; 4] = [0, 1, 2, 4];

impl Event {
    /// As it is stored.
    #[inline(always)]
    pub fn encode(&self) -> Words {
        match self {
            Self::Exit(exit) => exit.encode(),
            Self::Section(section) => section.encode(),
            Self::Change(change) => change.encode(),
            Self::Round(round) => {
                let head = ROUND | (round.space as u64) << 8;
                [head, round.section, round.at, 0, 0, 0, 0, 0, 0, 0]
            }
        }
    }

    /// What `words` are, unless they are none.
    pub fn decode(words: &Words) -> Option<Self> {
        match words[0] & 0xff {
            EXIT => Exit::decode(words).map(Self::Exit),
            SECTION => Section::decode(words).map(Self::Section),
            CHANGE => Change::decode(words).map(Self::Change),
            ROUND => Some(Self::Round(Round {
                space: *SPACES.get(byte(words[0], 1))?,
                section: words[1],
                at: words[2],
            })),
            _ => None,
        }
    }
}

/// Byte `n` of a word.
fn byte(word: u64, n: u32) -> usize {
    (word >> (8 * n) & 0xff) as usize
}

impl Exit {
    #[inline(always)]
    pub(in super::super) fn encode(&self) -> Words {
        // As in `SERVED`, reckoned: a table would be one page more for each exit.
        let served = self.served.map_or(0, |served| served as u64 + 1);
        let piece = match self.piece {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => 3,
        };
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        let flags = flag(self.fragment, FRAGMENT)
            | flag(self.failed, FAILED)
            | flag(self.nested, NESTED)
            | flag(self.vma.is_some(), HAS_VMA)
            | flag(self.wait.is_some(), WAITED)
            | piece << PIECE;
        let head = EXIT
            | (self.kind as u64) << 8
            | served << 16
            | flags << 24
            | u64::from(self.len) << 32
            | u64::from(self.vcpu) << 48;
        let (section, from, until) = match self.wait {
            Some(wait) => (wait.section, wait.from, wait.until),
            None => (0, 0, 0),
        };
        [
            head,
            self.start,
            self.looked_up,
            self.end,
            self.addr,
            self.vma.unwrap_or(0),
            section,
            from,
            until,
            self.data,
        ]
    }

    fn decode(words: &Words) -> Option<Self> {
        let head = words[0];
        let flags = head >> 24 & 0xff;
        let wait = Wait {
            section: words[6],
            from: words[7],
            until: words[8],
        };
        Some(Self {
            kind: *ExitKind::ALL.get(byte(head, 1))?,
            served: *SERVED.get(byte(head, 2))?,
            fragment: flags & FRAGMENT != 0,
            failed: flags & FAILED != 0,
            nested: flags & NESTED != 0,
            len: (head >> 32) as u16,
            piece: PIECES[(flags >> PIECE & 3) as usize],
            vcpu: (head >> 48) as u16,
            start: words[1],
            looked_up: words[2],
            end: words[3],
            addr: words[4],
            vma: (flags & HAS_VMA != 0).then_some(words[5]),
            wait: (flags & WAITED != 0).then_some(wait),
            data: words[9],
        })
    }
}

impl Section {
    fn encode(&self) -> Words {
        let what = match self.what {
            What::Map => 0,
            What::Unmap => 1,
            What::Change => 2,
            What::Nothing => 3,
        };
        let head = SECTION
            | (self.space as u64) << 8
            | what << 16
            | u64::from(self.published) << 24
            | u64::from(self.rounds) << 32
            | u64::from(self.holders) << 48;
        [
            head,
            self.number,
            self.opened,
            self.planned,
            self.drained,
            self.applied,
            self.ended,
            self.start,
            self.last,
            u64::from(self.added) | u64::from(self.removed) << 32,
        ]
    }

    fn decode(words: &Words) -> Option<Self> {
        let head = words[0];
        Some(Self {
            space: *SPACES.get(byte(head, 1))?,
            what: *WHATS.get(byte(head, 2))?,
            published: byte(head, 3) & 1 != 0,
            rounds: (head >> 32) as u16,
            holders: (head >> 48) as u16,
            number: words[1],
            opened: words[2],
            planned: words[3],
            drained: words[4],
            applied: words[5],
            ended: words[6],
            start: words[7],
            last: words[8],
            added: words[9] as u32,
            removed: (words[9] >> 32) as u32,
        })
    }
}

impl Change {
    fn encode(&self) -> Words {
        let head = CHANGE
            | (self.space as u64) << 8
            | u64::from(self.added) << 16
            | u64::from(self.flags) << 32;
        [
            head,
            self.section,
            self.at,
            self.start,
            self.last,
            self.offset,
            self.generation,
            0,
            0,
            0,
        ]
    }

    fn decode(words: &Words) -> Option<Self> {
        let head = words[0];
        Some(Self {
            space: *SPACES.get(byte(head, 1))?,
            added: byte(head, 2) & 1 != 0,
            flags: (head >> 32) as u32,
            section: words[1],
            at: words[2],
            start: words[3],
            last: words[4],
            offset: words[5],
            generation: words[6],
        })
    }
}

#[cfg(test)]
pub(in super::super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn event() -> impl Strategy<Value = Event> {
        let exit = (
            (0..6_usize, 0..6_usize, any::<[bool; 4]>()),
            (any::<u16>(), any::<u16>(), any::<[u64; 6]>(), 0..4_usize),
            any::<Option<(u64, u64, u64)>>(),
        );
        let exit = exit.prop_map(|((kind, served, bits), (len, vcpu, words, piece), wait)| {
            Event::Exit(Exit {
                kind: ExitKind::ALL[kind],
                served: SERVED[served],
                fragment: bits[0],
                failed: bits[1],
                nested: bits[2],
                piece: PIECES[piece],
                len,
                vcpu,
                start: words[0],
                looked_up: words[1],
                end: words[2],
                addr: words[3],
                vma: bits[3].then_some(words[4]),
                wait: wait.map(|(section, from, until)| Wait {
                    section,
                    from,
                    until,
                }),
                data: words[5],
            })
        });
        let section = (
            (0..2_usize, 0..4_usize, any::<bool>()),
            any::<(u16, u16, u32, u32)>(),
            any::<[u64; 8]>(),
        );
        let section = section.prop_map(|((space, what, published), n, w)| {
            Event::Section(Section {
                space: SPACES[space],
                what: WHATS[what],
                published,
                rounds: n.0,
                holders: n.1,
                number: w[0],
                opened: w[1],
                planned: w[2],
                drained: w[3],
                applied: w[4],
                ended: w[5],
                start: w[6],
                last: w[7],
                added: n.2,
                removed: n.3,
            })
        });
        let change = (0..2_usize, any::<bool>(), any::<u32>(), any::<[u64; 6]>());
        let change = change.prop_map(|(space, added, flags, w)| {
            Event::Change(Change {
                space: SPACES[space],
                added,
                flags,
                section: w[0],
                at: w[1],
                start: w[2],
                last: w[3],
                offset: w[4],
                generation: w[5],
            })
        });
        let round = (0..2_usize, any::<u64>(), any::<u64>());
        let round = round.prop_map(|(space, section, at)| {
            let space = SPACES[space];
            Event::Round(Round { space, section, at })
        });
        prop_oneof![4 => exit, 2 => section, 2 => change, 1 => round]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(event in event()) {
            prop_assert_eq!(Event::decode(&event.encode()), Some(event));
        }

        #[test]
        fn any_words_are_an_event_or_none(words: Words) {
            if let Some(event) = Event::decode(&words) {
                event.at();
                if let Event::Exit(exit) = event {
                    let _ = (exit.ticks(), exit.waited(), exit.handler());
                }
                if let Event::Section(section) = event {
                    prop_assert!(section.has_number(section.number));
                    prop_assert!(section.has_number(section.last_number()));
                    let _ = (section.ticks(), section.drain());
                }
                if let Event::Change(change) = event {
                    change.bytes();
                }
            }
        }
    }

    /// The schema says where each field is, and nothing overlaps.
    #[test]
    fn the_schema_fits() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(schema["words"], WORDS);
        for (n, name) in ["exit", "section", "change", "round"].iter().enumerate() {
            let record = &schema["records"][n];
            assert_eq!(
                (&record["tag"], &record["name"]),
                (&(n + 1).into(), &(*name).into())
            );
            let mut taken = [0_u64; WORDS];
            for field in record["fields"].as_array().unwrap() {
                let at = |key: &str| field[key].as_u64().unwrap();
                let mask = u64::MAX >> (64 - at("bits")) << at("bit");
                let word = &mut taken[at("word") as usize];
                assert_eq!(*word & mask, 0, "{field}");
                *word |= mask;
            }
        }
    }
}
