//! How the paper's Table 1 writes counts and bytes.
//!
//! * Counts: thousands `K` and millions `M` of 1000, three significant digits: `4.8K`, `147K`, `8.39M`.
//! * Bytes: `KB` of 1024 bytes and `MB` of 1024 `KB`. Kilobytes have one decimal below 50 (`18.8KB`) and none above
//!   (`94KB`); megabytes have two below 10 (`1.13MB`) and one above.
//!
//! Halves round up, trailing zeros are dropped (`3MB`). The table itself departs from this in a few cells;
//! [`mod@super::table1`] names each.

/// A number of parameters, as `147K`.
pub fn count(parameters: u64) -> String {
    let (unit, suffix) = match parameters {
        0..1_000 => (1, ""),
        // What would round up to 1000K is written 1M, and so on.
        1_000..999_500 => (1_000, "K"),
        999_500..999_500_000 => (1_000_000, "M"),
        _ => (1_000_000_000, "B"),
    };
    let decimals = match parameters / unit {
        _ if unit == 1 => 0,
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    decimal(parameters, unit, decimals) + suffix
}

/// A number of bytes, as `1.13MB`.
pub fn bytes(bytes: u64) -> String {
    const KB: u64 = 1 << 10;
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    let (unit, decimals, suffix) = match bytes {
        0..KB => (1, 0, "B"),
        KB..MB => (KB, if bytes < 50 * KB { 1 } else { 0 }, "KB"),
        MB..GB => (MB, if bytes < 10 * MB { 2 } else { 1 }, "MB"),
        _ => (GB, 2, "GB"),
    };
    decimal(bytes, unit, decimals) + suffix
}

/// `value / unit` with at most `decimals` decimals, halves up, no trailing zeros. Integer arithmetic throughout, so
/// that a half is a half.
fn decimal(value: u64, unit: u64, decimals: u32) -> String {
    let scale = 10u128.pow(decimals);
    let unit = u128::from(unit);
    let scaled = (u128::from(value) * scale * 2 + unit) / (unit * 2);
    let (whole, fraction) = (scaled / scale, scaled % scale);
    if fraction == 0 {
        return whole.to_string();
    }
    let fraction = format!("{fraction:0width$}", width = decimals as usize);
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1K"),
            (4_800, "4.8K"),
            (147_456, "147K"),
            (999_499, "999K"),
            (999_500, "1M"),
            (1_474_560, "1.47M"),
            (8_388_608, "8.39M"),
            (52_428_800, "52.4M"),
            (999_500_000, "1B"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(count(u64::MAX), "18446744074B");
    }

    #[test]
    fn byte_sizes() {
        for (value, text) in [
            (0, "0B"),
            (1_023, "1023B"),
            (1_024, "1KB"),
            (19_200, "18.8KB"),
            (96_000, "94KB"),
            (1_179_648, "1.13MB"),
            (3 << 20, "3MB"),
            (6_291_456, "6MB"),
            (1_920_000, "1.83MB"),
            (33_554_432, "32MB"),
            (5 << 29, "2.5GB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }
}
