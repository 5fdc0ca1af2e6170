//! What a topic's name may be, and how it is read from a URL. Names are compared byte by byte;
//! nothing is normalised.

use std::{borrow::Cow, fmt};

use percent_encoding::percent_decode_str;

/// Why a name is no topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum BadTopic {
    Encoding,
    Utf8,
    Empty,
    TooLong { bytes_max: usize },
    Control,
    Segment,
    Dollar,
    Wildcard,
}

impl fmt::Display for BadTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Encoding => "write two hex digits behind every % of the topic",
            Self::Utf8 => "the topic must be UTF-8 after percent-decoding",
            Self::Empty => "name a topic: /ws/TOPIC or /ws?topic=TOPIC",
            Self::TooLong { bytes_max } => {
                return write!(formatter, "the topic must have at most {bytes_max} bytes");
            }
            Self::Control => "the topic must have no control character",
            Self::Segment => "the topic must have no empty, . or .. segment between slashes",
            Self::Dollar => "the topic must not begin with $, which is reserved",
            Self::Wildcard => "the topic must not contain * or >, which are reserved",
        })
    }
}

impl std::error::Error for BadTopic {}

/// Checks a decoded name.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_topic(name: &str, bytes_max: usize) -> Result<(), BadTopic> {
    if name.is_empty() {
        return Err(BadTopic::Empty);
    }
    if name.len() > bytes_max {
        return Err(BadTopic::TooLong { bytes_max });
    }
    // Exactly U+0000 to U+001F and U+007F to U+009F.
    if name.chars().any(char::is_control) {
        return Err(BadTopic::Control);
    }
    if name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(BadTopic::Segment);
    }
    if name.starts_with('$') {
        return Err(BadTopic::Dollar);
    }
    if name.contains(['*', '>']) {
        return Err(BadTopic::Wildcard);
    }
    Ok(())
}

/// Decodes and checks a name as it stands in a path or behind `topic=` in a query. `+` is `+`.
///
/// # Errors
/// It cannot be decoded, or the first rule that it breaks.
pub fn decode_topic(encoded: &str, bytes_max: usize) -> Result<Box<str>, BadTopic> {
    let name = percent_decode(encoded)?;
    check_topic(&name, bytes_max)?;
    Ok(name.into_owned().into_boxed_str())
}

/// Decodes one part of a URL. The decoder by itself lets a `%` without its two digits pass.
pub(crate) fn percent_decode(encoded: &str) -> Result<Cow<'_, str>, BadTopic> {
    let is_escape = |rest: &str| {
        rest.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !encoded.split('%').skip(1).all(is_escape) {
        return Err(BadTopic::Encoding);
    }
    percent_decode_str(encoded).decode_utf8().map_err(|_| BadTopic::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_byte_by_byte_and_nothing_else_is_changed() {
        let cases: [(&str, &str); 14] = [
            ("a", "a"),
            ("room%201", "room 1"),
            ("a+b", "a+b"),
            ("a%2Bb", "a+b"),
            ("a/b", "a/b"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("%61%62", "ab"),
            ("100%25", "100%"),
            ("a%2525", "a%25"),
            ("gr%C3%BC%C3%9Fe", "grüße"),
            ("grüße", "grüße"),
            ("a$b", "a$b"),
            ("...", "..."),
        ];
        for (encoded, name) in cases {
            assert_eq!(decode_topic(encoded, 255).as_deref(), Ok(name), "{encoded}");
        }
    }

    #[test]
    fn names_that_break_a_rule_are_refused_with_it() {
        let cases: [(&str, BadTopic); 34] = [
            ("", BadTopic::Empty),
            ("%", BadTopic::Encoding),
            ("a%2", BadTopic::Encoding),
            ("a%zz", BadTopic::Encoding),
            ("%%41", BadTopic::Encoding),
            ("a%é1", BadTopic::Encoding),
            ("%FF", BadTopic::Utf8),
            ("%C3", BadTopic::Utf8),
            ("%ED%A0%80", BadTopic::Utf8),
            ("%C0%80", BadTopic::Utf8),
            ("a%00", BadTopic::Control),
            ("%01", BadTopic::Control),
            ("a%0Ab", BadTopic::Control),
            ("%1F", BadTopic::Control),
            ("%7F", BadTopic::Control),
            ("%C2%80", BadTopic::Control),
            ("%C2%9F", BadTopic::Control),
            ("/", BadTopic::Segment),
            ("/a", BadTopic::Segment),
            ("a/", BadTopic::Segment),
            ("a//b", BadTopic::Segment),
            ("a%2F%2Fb", BadTopic::Segment),
            (".", BadTopic::Segment),
            ("..", BadTopic::Segment),
            ("a/./b", BadTopic::Segment),
            ("a/../b", BadTopic::Segment),
            ("a/%2E%2E", BadTopic::Segment),
            ("$", BadTopic::Dollar),
            ("$sys", BadTopic::Dollar),
            ("%24sys/a", BadTopic::Dollar),
            ("*", BadTopic::Wildcard),
            ("a/%2A", BadTopic::Wildcard),
            ("a/>", BadTopic::Wildcard),
            ("a%3Eb", BadTopic::Wildcard),
        ];
        for (encoded, rule) in cases {
            assert_eq!(decode_topic(encoded, 255), Err(rule), "{encoded}");
        }
    }

    #[test]
    fn characters_beside_the_control_characters_are_allowed() {
        for name in ["\u{20}", "\u{7E}", "\u{A0}", "\u{2028}", "\u{10FFFF}"] {
            assert_eq!(check_topic(name, 255), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn a_name_has_one_to_255_bytes_after_decoding() {
        let longest = "é".repeat(127) + "a";
        assert_eq!(longest.len(), 255);
        assert_eq!(check_topic(&longest, 255), Ok(()));
        let too_long = "é".repeat(128);
        assert_eq!(check_topic(&too_long, 255), Err(BadTopic::TooLong { bytes_max: 255 }));
        assert!(decode_topic(&"%61".repeat(255), 255).is_ok());
        assert!(decode_topic(&"%61".repeat(256), 255).is_err());
    }
}
