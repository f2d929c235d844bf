//! Sizes and times as people write and read them.

use std::time::Duration;

/// Parses a number of bytes, with K, M, G or T for powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        other => return Err(format!("'{other}' is no unit: use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no size: write it like 64M or 1G"))?;
    number
        .checked_mul(1 << unit)
        .ok_or_else(|| format!("'{text}' is more than 2^64 bytes"))
}

/// `64 MiB (67108864 bytes)`; the unit is the largest that leaves a whole number.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units
        .iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match whole {
        Some((shift, unit)) => format!("{} {unit} ({bytes} bytes)", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// A size to be read at a glance.
pub(crate) fn about(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >= 1 << shift) {
        Some((shift, unit)) => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}

/// Milliseconds, of a time that is longer than any the most that there are: it is refused
/// as too long, and does not become a short one.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds in a unit that leaves one to four digits.
pub(crate) fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "-1", "1.5G", "1X", "1 M", "999999999999T", "é"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(size(64 << 20), "64 MiB (67108864 bytes)");
        assert_eq!(size(4097), "4097 bytes");
        assert_eq!(size(0), "0 bytes");
        assert_eq!(about(1536 << 20), "1.5 GiB");
    }

    #[test]
    fn times() {
        assert_eq!(
            [time(7), time(1500), time(2_500_000)],
            ["7 ns", "1.5 µs", "2.5 ms"]
        );
        assert_eq!(millis(Duration::from_secs(2)), 2000);
        // 2^64 ms and a bit, which would be 384 ms.
        let long = Duration::from_secs(18_446_744_073_709_552);
        assert_eq!([long, Duration::MAX].map(millis), [u64::MAX; 2]);
    }
}
