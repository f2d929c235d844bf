//! Which events a view is of.

use super::super::event::{Exit, Section, Space};
use super::super::links::{Links, space_of};
use super::super::{ExitKind, TraceFile};

/// Which events a view is of: those that all of it lets through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// One vCPU.
    pub vcpu: Option<u32>,
    /// Addresses or ports, both ends included: of an exit, where it began; of a write
    /// section, any that it changed.
    pub addr: Option<(u64, u64)>,
    /// The VMA that answered.
    pub vma: Option<VmaFilter>,
    /// When, in nanoseconds since the recording began: it began in this time, both
    /// ends included.
    pub time: Option<(u64, u64)>,
}

/// A VMA, as somebody asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmaFilter {
    /// By a name that is shown for it: a device's, `ram`, `block 3`, `unmapped`.
    Name(String),
    /// By its first address.
    Start(u64),
}

/// A filter that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// Not an address, or a range of them.
    #[error(
        "'{0}' is no address: write it like 0xd0000000, 0xd0000000-0xd0000fff or 0xd0000000+4K"
    )]
    Addr(String),
    /// Not a time, or a range of times.
    #[error("'{0}' is no time: write it like 1.5s-2s, 200ms- or -3s, since the beginning")]
    Time(String),
}

impl Filter {
    /// Addresses as somebody writes them: one, `first-last`, or `first+length`.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn parse_addr(text: &str) -> Result<(u64, u64), BadFilter> {
        let bad = || BadFilter::Addr(text.to_owned());
        let range = if let Some((first, last)) = text.split_once('-') {
            Some((
                number(first).ok_or_else(bad)?,
                number(last).ok_or_else(bad)?,
            ))
        } else if let Some((first, len)) = text.split_once('+') {
            let (first, len) = (number(first).ok_or_else(bad)?, number(len).ok_or_else(bad)?);
            let last = len.checked_sub(1).and_then(|more| first.checked_add(more));
            last.map(|last| (first, last))
        } else {
            number(text).map(|addr| (addr, addr))
        };
        range.filter(|(first, last)| first <= last).ok_or_else(bad)
    }

    /// A time as somebody writes it: `from-to`, either of which may be left out; each
    /// a number of seconds, or with a unit (ns, us, ms, s).
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn parse_time(text: &str) -> Result<(u64, u64), BadFilter> {
        let bad = || BadFilter::Time(text.to_owned());
        let (from, to) = text.split_once('-').ok_or_else(bad)?;
        let end = |text: &str, usual| match text.trim() {
            "" => Ok(usual),
            text => time(text).ok_or_else(bad),
        };
        let range = (end(from, 0)?, end(to, u64::MAX)?);
        (range.0 <= range.1).then_some(range).ok_or_else(bad)
    }

    /// A VMA as somebody writes it: its first address, or a name.
    pub fn parse_vma(text: &str) -> VmaFilter {
        match number(text) {
            Some(start) => VmaFilter::Start(start),
            None => VmaFilter::Name(text.to_owned()),
        }
    }

    /// Whether an exit is let through.
    pub fn takes_exit(&self, trace: &TraceFile, links: &Links<'_>, exit: &Exit) -> bool {
        let is_access = !matches!(exit.kind, ExitKind::Halt | ExitKind::Interrupted);
        let inside = |(first, last)| is_access && (first..=last).contains(&exit.addr);
        self.vcpu.is_none_or(|vcpu| vcpu == u32::from(exit.vcpu))
            && self.addr.is_none_or(inside)
            && self.takes_time(trace, exit.start)
            && match &self.vma {
                None => true,
                Some(VmaFilter::Start(start)) => exit.vma == Some(*start),
                Some(VmaFilter::Name(name)) => {
                    links.answered(exit) == *name
                        || (name == "ram"
                            && exit.vma.is_some_and(|start| {
                                links.block(space_of(exit.kind), start).is_some()
                            }))
                }
            }
    }

    /// Whether a write section is let through.
    pub fn takes_section(&self, trace: &TraceFile, links: &Links<'_>, section: &Section) -> bool {
        let is_there = section.changes() > 0;
        let overlaps = |(first, last)| is_there && section.start <= last && first <= section.last;
        self.addr.is_none_or(overlaps)
            && self.takes_time(trace, section.opened)
            && match &self.vma {
                None => true,
                Some(VmaFilter::Start(start)) => overlaps((*start, *start)),
                Some(VmaFilter::Name(name)) => {
                    is_there
                        && (links.name(section.space, section.start) == *name
                            || (name == "ram" && section.space == Space::Memory))
                }
            }
    }

    fn takes_time(&self, trace: &TraceFile, at: u64) -> bool {
        self.time
            .is_none_or(|(from, to)| (from..=to).contains(&trace.time.since_start(at)))
    }
}

/// A number, in hexadecimal after 0x, with K, M or G for powers of 1024.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A time, in nanoseconds.
fn time(text: &str) -> Option<u64> {
    let units = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
    ];
    let unit = units.iter().find(|(unit, _)| text.ends_with(unit));
    let (digits, scale) = match unit {
        Some((unit, scale)) => (&text[..text.len() - unit.len()], *scale),
        None => (text, 1e9),
    };
    let number: f64 = digits.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number * scale) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text| Filter::parse_addr(text).ok();
        assert_eq!(parse("0xd0000000"), Some((0xd000_0000, 0xd000_0000)));
        assert_eq!(parse("0x10-0x1f"), Some((0x10, 0x1f)));
        assert_eq!(parse("0x1000+4K"), Some((0x1000, 0x1fff)));
        assert_eq!(parse("1016"), Some((1016, 1016)));
        let last = 0xffff_ffff_ffff_ffff;
        assert_eq!(parse("0xffffffffffffffff+1"), Some((last, last)));
        for bad in [
            "",
            "x",
            "0x",
            "0x20-0x10",
            "5+0",
            "0xffffffffffffffff+2",
            "-",
            "1-",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let parse = |text| Filter::parse_time(text).ok();
        assert_eq!(parse("1.5-2"), Some((1_500_000_000, 2_000_000_000)));
        assert_eq!(parse("200ms-"), Some((200_000_000, u64::MAX)));
        assert_eq!(parse("-3us"), Some((0, 3_000)));
        for bad in ["", "1", "2s-1s", "x-1", "inf-", "1--2"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn vmas() {
        assert_eq!(Filter::parse_vma("0x1000"), VmaFilter::Start(4096));
        let name = VmaFilter::Name("test".to_owned());
        assert_eq!(Filter::parse_vma("test"), name);
    }
}
