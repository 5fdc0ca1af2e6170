//! One line each on stderr, as text or JSON. A line is a message and fields: the message says what
//! happened, the fields say to what. Lines below the level cost a comparison. Written by hand over
//! `serde_json`, because a logging framework would bring more code than all of this binary's lines.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
use serde_json::{Map, Value};

/// How important a line is, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // `2026-01-31T12:00:00.000Z info message key=value`
    Text,
    // An object with `time`, `level`, `message` and the fields.
    Json,
}

/// Where lines go. Clones share the level.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    /// Lines less important than this [`Level`] are left out.
    level: Arc<AtomicU8>,
    /// How they are written.
    format: Format,
}

/// What a line says of something.
pub(crate) type Field<'a> = (&'a str, Value);

impl Log {
    /// One that leaves out what is less important than `level`.
    pub(crate) fn new(level: Level, format: Format) -> Self {
        Self { level: Arc::new(AtomicU8::new(level as u8)), format }
    }

    /// Leaves out what is less important than `level` from now on, in all clones.
    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
    }

    /// Something that ends the process or loses data.
    pub(crate) fn error(&self, message: &str, fields: &[Field<'_>]) {
        self.write(Level::Error, message, fields);
    }

    /// Something that an operator should look at.
    pub(crate) fn warn(&self, message: &str, fields: &[Field<'_>]) {
        self.write(Level::Warn, message, fields);
    }

    /// Something that happens in ordinary operation.
    pub(crate) fn info(&self, message: &str, fields: &[Field<'_>]) {
        self.write(Level::Info, message, fields);
    }

    /// Everything else.
    pub(crate) fn debug(&self, message: &str, fields: &[Field<'_>]) {
        self.write(Level::Debug, message, fields);
    }

    fn write(&self, level: Level, message: &str, fields: &[Field<'_>]) {
        if level as u8 > self.level.load(Ordering::Relaxed) {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = match self.format {
            Format::Text => text(since, level, message, fields),
            Format::Json => json(since, level, message, fields),
        };
        line.push('\n');
        // One call a line, so that lines of several threads do not mix. A process that has lost
        // its stderr goes on without it.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

fn text(since: Duration, level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let mut line = format!("{} {} {message}", moment(since), name(level));
    for (key, value) in fields {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        match value {
            Value::String(word) if is_plain(word) => line.push_str(word),
            other => line.push_str(&other.to_string()),
        }
    }
    line.replace('\n', " ")
}

/// Whether a value can stand without quotes.
fn is_plain(word: &str) -> bool {
    let plain = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '"';
    !word.is_empty() && word.chars().all(|letter| plain(letter) && letter != '=')
}

fn json(since: Duration, level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), moment(since).into());
    object.insert("level".to_owned(), name(level).into());
    object.insert("message".to_owned(), message.into());
    for (key, value) in fields {
        object.insert((*key).to_owned(), value.clone());
    }
    Value::Object(object).to_string()
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// UTC to the millisecond, as RFC 3339 writes it.
pub(crate) fn moment(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let ms = since_epoch.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day, from days since 1 January 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Four hundred years have 146,097 days and repeat.
    let (mut year, mut days) = (1970 + days / 146_097 * 400, days % 146_097);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        let at = |seconds: u64, ms: u32| moment(Duration::new(seconds, ms * 1_000_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(951_868_799, 999), "2000-02-29T23:59:59.999Z");
        assert_eq!(at(1_709_164_800, 0), "2024-02-29T00:00:00.000Z");
        assert_eq!(at(1_735_689_599, 5), "2024-12-31T23:59:59.005Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
        // 146,097 days from the start, when the calendar repeats for the first time.
        assert_eq!(at(12_622_780_800, 0), "2370-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_text_line_quotes_only_what_needs_it() {
        let fields = [
            ("address", "127.0.0.1:9000".into()),
            ("reason", "slow consumer".into()),
            ("count", 3.into()),
            ("empty", "".into()),
            ("lines", "a\nb".into()),
        ];
        assert_eq!(
            text(Duration::ZERO, Level::Info, "closed", &fields),
            "1970-01-01T00:00:00.000Z info closed address=127.0.0.1:9000 reason=\"slow consumer\" \
             count=3 empty=\"\" lines=\"a\\nb\""
        );
    }

    #[test]
    fn a_message_never_breaks_its_line() {
        let line = text(Duration::ZERO, Level::Error, "first\nsecond", &[]);
        assert_eq!(line, "1970-01-01T00:00:00.000Z error first second");
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = json(Duration::ZERO, Level::Warn, "a \"b\"", &[("n", 1.into())]);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "time": "1970-01-01T00:00:00.000Z",
                "level": "warn",
                "message": "a \"b\"",
                "n": 1,
            })
        );
    }

    #[test]
    fn the_most_important_level_is_the_least() {
        assert!(Level::Error < Level::Warn && Level::Warn < Level::Info);
        assert!(Level::Info < Level::Debug);
    }
}
