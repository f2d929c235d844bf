//! Numbers in few columns.

/// A count, in four columns at most: `7`, `1234`, `12k`, `1.2M`.
pub(super) fn count(n: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    if n < 9_999.5 {
        return format!("{n:.0}");
    }
    let found = units.iter().find(|(unit, _)| n >= *unit * 0.9995);
    let (unit, name) = found.unwrap_or(&units[3]);
    match n / unit {
        few if few < 9.95 => format!("{few:.1}{name}"),
        many => format!("{many:.0}{name}"),
    }
}

/// A time, in six columns at most: `351ns`, `4.1ms`.
pub(super) fn time(ns: u64, micro: char) -> String {
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (1e3, format!("{micro}s")),
        1_000_000..1_000_000_000 => (1e6, "ms".to_owned()),
        _ => (1e9, "s".to_owned()),
    };
    match ns as f64 / unit {
        few if few < 99.95 => format!("{few:.1}{name}"),
        many => format!("{many:.0}{name}"),
    }
}

/// A share, in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// Bytes: `64M`, `1.5G`, `12345`.
pub(super) fn bytes(n: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match units.iter().find(|(shift, _)| n >= 1 << shift) {
        Some((shift, unit)) if n.is_multiple_of(1 << shift) => format!("{}{unit}", n >> shift),
        Some((shift, unit)) => format!("{:.1}{unit}", n as f64 / (1_u64 << shift) as f64),
        None => n.to_string(),
    }
}

/// `1:02:03`.
pub(super) fn clock(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours}:{minutes:02}:{seconds:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_keep_to_their_columns() {
        let counts = [0.0, 9999.0, 9999.6, 12_345.0, 999_400.0, 999_600.0, 3.26e9].map(count);
        assert_eq!(counts, ["0", "9999", "10k", "12k", "999k", "1.0M", "3.3G"]);
        let times =
            [7, 1500, 99_960, 2_500_000, 123_456_789, 61_000_000_000].map(|ns| time(ns, 'u'));
        assert_eq!(times, ["7ns", "1.5us", "100us", "2.5ms", "123ms", "61.0s"]);
        assert_eq!(
            [bytes(64 << 20), bytes(1536 << 20), bytes(100)],
            ["64M", "1.5G", "100"]
        );
        assert_eq!([percent(0.465), percent(1.0)], ["46.5", "100.0"]);
        assert_eq!(clock(3_723_000_000_000), "1:02:03");
    }
}
