//! Sizes and times as they are written on the command line of `ringway serve`: `100`, `1KiB`,
//! `500ms`, `5s`, `2m` and plain `0`.

use std::time::Duration;

/// Reads a size in bytes: a whole number with `B`, `KiB`, `MiB`, `GiB` or no unit.
///
/// # Errors
///
/// One sentence that says how sizes are written.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{text}`: write a size as 100, 1KiB, 2MiB or 1GiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("`{text}` is not a size"))?;
    number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
}

/// Reads a time: a whole number with `ms`, `s` or `m`, or plain `0`.
///
/// # Errors
///
/// One sentence that says how times are written.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let number: u32 = number.parse().map_err(|_| format!("`{text}` is not a time"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number) * 60)),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(format!("`{text}`: write a time as 500ms, 5s or 2m")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_serve_reads_them() {
        assert_eq!(size("100"), Ok(100));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("2MiB"), Ok(2_097_152));
        assert!(size("1kb").is_err());
        assert!(size("KiB").is_err());
        assert!(size("99999999999999GiB").is_err());
    }

    #[test]
    fn times_are_read_as_serve_reads_them() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("5").is_err());
        assert!(duration("5h").is_err());
    }
}
