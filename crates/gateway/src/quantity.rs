//! Sizes and times as users write them: `64KiB`, `250ms`. Parsed once, at the edge; everything
//! behind it has bytes and durations.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes: `512B`, `64KiB`, `1MiB`, `2GiB`, or plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteCount(pub(crate) u64);

/// Units of a size, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_unit(text);
        let factor = match SIZES.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => *factor,
            None if unit.is_empty() => 1,
            None => return Err(wrong_size()),
        };
        let count: u64 = digits.parse().map_err(|_| wrong_size())?;
        count.checked_mul(factor).map(Self).ok_or_else(|| "this is too large".to_owned())
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact =
            SIZES.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (name, factor) = exact.unwrap_or(&("B", 1));
        write!(formatter, "{}{name}", self.0 / factor)
    }
}

fn wrong_size() -> String {
    "a size is a whole number with B, KiB, MiB or GiB, or bytes without a unit".to_owned()
}

/// A length of time: `250ms`, `10s`, `2m`, or plain `0`. At most 49 days, which fit 32 bits of
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

/// Units of a time in milliseconds, the largest first.
const SPANS: [(&str, u64); 3] = [("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, unit) = split_unit(text);
        let factor = match SPANS.iter().find(|(name, _)| *name == unit) {
            Some((_, factor)) => *factor,
            None if digits == "0" && unit.is_empty() => 1,
            None => return Err(wrong_span()),
        };
        let count: u64 = digits.parse().map_err(|_| wrong_span())?;
        let ms = count.checked_mul(factor).filter(|ms| *ms <= u32::MAX.into());
        let ms = ms.ok_or_else(|| "a time is at most 49 days".to_owned())?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let exact = SPANS.iter().find(|(_, factor)| {
            ms >= u128::from(*factor) && ms.is_multiple_of(u128::from(*factor))
        });
        match exact {
            Some((name, factor)) => write!(formatter, "{}{name}", ms / u128::from(*factor)),
            None => formatter.write_str("0"),
        }
    }
}

fn wrong_span() -> String {
    "a time is a whole number with ms, s or m, or plain 0".to_owned()
}

/// Splits `64KiB` into `64` and `KiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_with_binary_units_or_as_bytes() {
        let bytes = |text: &str| text.parse().map(|ByteCount(bytes)| bytes);
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("512B"), Ok(512));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("3MiB"), Ok(3_145_728));
        assert_eq!(bytes("2GiB"), Ok(2_147_483_648));
        assert_eq!(bytes("0"), Ok(0));
        for wrong in ["", "KiB", "64kb", "64 KiB", "-1", "1.5KiB", "64K", "99999999999999999999"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(bytes("99999999999GiB"), Err("this is too large".to_owned()));
    }

    #[test]
    fn times_are_written_with_a_unit_or_as_zero() {
        let ms = |text: &str| text.parse().map(|Span(span)| span.as_millis());
        assert_eq!(ms("0"), Ok(0));
        assert_eq!(ms("0ms"), Ok(0));
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("10s"), Ok(10_000));
        assert_eq!(ms("2m"), Ok(120_000));
        assert_eq!(ms("4294967295ms"), Ok(4_294_967_295));
        for wrong in ["", "5", "5h", "1.5s", "s", "-1s", "10 s", "4294967296ms", "71583m"] {
            assert!(ms(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn both_are_shown_as_they_would_be_written() {
        for size in ["0B", "1B", "1023B", "1KiB", "1536B", "64KiB", "256MiB", "2GiB"] {
            assert_eq!(size.parse::<ByteCount>().unwrap().to_string(), size);
        }
        for span in ["0", "1ms", "1500ms", "25s", "90s", "2m"] {
            assert_eq!(span.parse::<Span>().unwrap().to_string(), span);
        }
    }
}
