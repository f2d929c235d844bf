//! The map as a strip: what is where, in as many cells as there is room for. Pure, and
//! of any numbers: whoever answers at a socket need not be a VM that means well.

use gracefault::api::model::{Backing, Live, MapEntry, Range};

/// What a cell shows of the addresses that it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) there: There,
    /// Something here has changed since the look before.
    pub(super) changed: bool,
    /// A section that is open has locked some of it.
    pub(super) locked: bool,
}

/// How much of it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing.
    #[default]
    Nothing,
    /// Some of it.
    Some,
    /// All of it.
    All,
    /// A device.
    Device,
    /// Memory that is only read.
    Rom,
}

/// A part of the strip: its name, the addresses, the cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) range: Range,
    pub(super) cells: Vec<Cell>,
}

/// The most cells of a VMA that is always there.
const FIXED: usize = 3;

/// The strip in about `width` cells: what is always there, each VMA for itself, and then
/// the range that blocks are plugged into, to scale. Where there is no such range all is
/// to scale.
pub(super) fn strip(live: &Live, before: Option<&Live>, width: usize) -> Vec<Part> {
    let memory = &live.info.memory;
    let changes = Changes::new(live, before);
    let blocks = Range {
        start: memory.start,
        size: memory.total,
    };
    if memory.total == 0 || memory.block_size == 0 {
        let Some((first, last)) = live.map.first().zip(live.map.last()) else {
            return Vec::new();
        };
        let size = last
            .start
            .saturating_add(last.size)
            .saturating_sub(first.start);
        let all = Range {
            start: first.start,
            size,
        };
        return vec![changes.scaled("map", all, width.max(1), 4096)];
    }
    let is_fixed = |vma: &&MapEntry| !overlaps(range_of(vma), blocks);
    let mut parts: Vec<Part> = Vec::new();
    for vma in live.map.iter().filter(is_fixed) {
        let cell = changes.cell(range_of(vma));
        // Devices that follow one another share a part.
        match parts.last_mut() {
            Some(part) if vma.backing == Backing::Mmio && part.name == "devices" => {
                let end = vma.start.saturating_add(vma.size);
                part.range.size = end.saturating_sub(part.range.start);
                part.cells.push(cell);
            }
            _ => parts.push(Part {
                name: match vma.backing {
                    Backing::Mmio => "devices".to_owned(),
                    _ => vma.name.clone(),
                },
                range: range_of(vma),
                cells: vec![
                    cell;
                    if vma.backing == Backing::Mmio {
                        1
                    } else {
                        FIXED
                    }
                ],
            }),
        }
    }
    // A gap after each part.
    let used: usize = parts.iter().map(|part| part.cells.len() + 1).sum();
    let left = width.saturating_sub(used).max(8);
    parts.push(changes.scaled("blocks", blocks, left, memory.block_size));
    parts
}

fn range_of(vma: &MapEntry) -> Range {
    Range {
        start: vma.start,
        size: vma.size,
    }
}

fn overlaps(a: Range, b: Range) -> bool {
    a.start < b.start.saturating_add(b.size) && b.start < a.start.saturating_add(a.size)
}

struct Changes<'a> {
    map: &'a [MapEntry],
    /// What has changed since the look before.
    changed: Vec<Range>,
    locked: &'a [Range],
}

impl<'a> Changes<'a> {
    fn new(live: &'a Live, before: Option<&Live>) -> Self {
        let newest = |live: &Live| {
            live.sections
                .last
                .first()
                .map_or(0, |change| change.section)
        };
        let changed = before.map_or(Vec::new(), |before| {
            let since = newest(before);
            let new = live
                .sections
                .last
                .iter()
                .filter(|change| change.section > since);
            new.filter_map(|change| change.range).collect()
        });
        Self {
            map: &live.map,
            changed,
            locked: live.sections.open.as_ref().map_or(&[], |open| &open.ranges),
        }
    }

    /// A range in cells of the same size, whole granules each.
    fn scaled(&self, name: &str, range: Range, width: usize, granule: u64) -> Part {
        let granules = range.size.div_ceil(granule).max(1);
        let each = granules.div_ceil(width as u64).max(1);
        let each = each.saturating_mul(granule);
        let cells = (0..range.size.div_ceil(each).max(1)).map(|i| {
            let start = range.start.saturating_add(i * each);
            let end = range.start.saturating_add(range.size);
            let end = start.saturating_add(each).min(end);
            self.cell(Range {
                start,
                size: end.saturating_sub(start),
            })
        });
        Part {
            name: name.to_owned(),
            range,
            cells: cells.collect(),
        }
    }

    fn cell(&self, range: Range) -> Cell {
        let end = range.start.saturating_add(range.size);
        // The map is in order: from the first that ends after the start on.
        let from = self
            .map
            .partition_point(|vma| vma.start.saturating_add(vma.size) <= range.start);
        let here = self.map[from..].iter().take_while(|vma| vma.start < end);
        let (mut covered, mut kind) = (0_u64, There::Nothing);
        for vma in here {
            let last = vma.start.saturating_add(vma.size).min(end);
            covered = last
                .saturating_sub(vma.start.max(range.start))
                .saturating_add(covered);
            kind = match vma.backing {
                Backing::Mmio => There::Device,
                Backing::Rom => There::Rom,
                Backing::Ram | Backing::LazyRam => There::All,
            };
        }
        let touched = |some: &[Range]| some.iter().any(|other| overlaps(*other, range));
        Cell {
            there: match kind {
                There::All if covered < range.size => There::Some,
                kind => kind,
            },
            changed: touched(&self.changed),
            locked: touched(self.locked),
        }
    }
}
