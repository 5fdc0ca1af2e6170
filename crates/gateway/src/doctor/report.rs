//! What is said: a row for each thing that was looked at, as a table for people or as JSON. Both
//! are made of the same rows.

use std::fmt::{self, Write};

use serde::Serialize;

/// Whether the connections can be held without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// They cannot.
    Required,
    /// They can, at a price that `why` names.
    Advice,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What it is.
    pub(crate) name: &'static str,
    pub(crate) severity: Severity,
    /// Whether it is as wanted. `None`: of what is required it cannot be told; advice is not judged.
    pub(crate) holds: Option<bool>,
    /// What it is here.
    pub(crate) value: String,
    pub(crate) wanted: String,
    pub(crate) why: String,
    /// How to change it.
    pub(crate) how: String,
}

impl Check {
    /// True exactly when the connections cannot be held for this, or nobody can tell.
    fn is_in_the_way(&self) -> bool {
        self.severity == Severity::Required && self.holds != Some(true)
    }

    /// True exactly when it is not as wanted, or nobody can tell of something that is required.
    fn is_to_be_changed(&self) -> bool {
        self.is_in_the_way() || self.holds == Some(false)
    }

    fn state(&self) -> &'static str {
        match (self.holds, self.severity) {
            (Some(true), _) => "ok",
            (Some(false), Severity::Required) => "MISSING",
            (Some(false), Severity::Advice) => "advice",
            (None, Severity::Required) => "UNKNOWN",
            (None, Severity::Advice) => "-",
        }
    }
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// `CARGO_PKG_VERSION`.
    pub(crate) version: &'static str,
    /// How many are to be held.
    pub(crate) connections: u32,
    /// How many workers `ringway serve` would hold them with.
    pub(crate) workers: u16,
    /// Whether all that is required holds.
    holds: bool,
    pub(crate) checks: Vec<Check>,
    /// What else to know, a sentence each.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        connections: u32,
        workers: u16,
        checks: Vec<Check>,
        notes: Vec<String>,
    ) -> Self {
        let holds = !checks.iter().any(Check::is_in_the_way);
        let version = env!("CARGO_PKG_VERSION");
        Self { version, connections, workers, holds, checks, notes }
    }

    /// Whether all that is required holds.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// One JSON document, with a line feed behind it.
    pub(crate) fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("strings and numbers are JSON") + "\n"
    }
}

/// Columns are as wide as what stands in them, up to this; what is longer moves the rest of its row.
const COLUMN_MAX: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, connections, workers, checks, .. } = self;
        writeln!(formatter, "ringway {version}: {connections} connections, {workers} workers\n")?;
        let width = |cell: fn(&Check) -> &str, head: &str| {
            let widths = checks.iter().map(|check| cell(check).chars().count());
            widths.filter(|width| *width <= COLUMN_MAX).max().unwrap_or(0).max(head.len())
        };
        let name = width(|check| check.name, "WHAT");
        let value = width(|check| &check.value, "VALUE");
        let mut row = |state: &str, what: &str, is: &str, wanted: &str| {
            writeln!(formatter, "{state:<8} {what:<name$}  {is:<value$}  {wanted}")
        };
        row("STATE", "WHAT", "VALUE", "WANTED")?;
        for check in checks {
            row(check.state(), check.name, &check.value, &check.wanted)?;
        }
        formatter.write_char('\n')?;
        for check in checks {
            writeln!(formatter, "{}: {}", check.name, check.why)?;
            if check.is_to_be_changed() {
                writeln!(formatter, "    {}", check.how)?;
            }
        }
        formatter.write_char('\n')?;
        for note in &self.notes {
            writeln!(formatter, "{note}")?;
        }
        let missing = checks.iter().filter(|check| check.is_in_the_way());
        let missing: Vec<&str> = missing.map(|check| check.name).collect();
        if self.holds {
            writeln!(formatter, "all that {connections} connections require holds")
        } else {
            writeln!(formatter, "{connections} connections cannot be held: {}", missing.join(", "))
        }
    }
}

/// A number of bytes with the largest unit that leaves at least 1, to one decimal.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        None => format!("{count}B"),
        Some((name, unit)) if count.is_multiple_of(*unit) => format!("{}{name}", count / unit),
        Some((name, unit)) => {
            // A tenth is lost to rounding down: that is never less than there is.
            let tenths = u128::from(count) * 10 / u128::from(*unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(severity: Severity, holds: Option<bool>) -> Check {
        Check {
            name: "thing",
            severity,
            holds,
            value: "1".to_owned(),
            wanted: "2".to_owned(),
            why: "because".to_owned(),
            how: "so".to_owned(),
        }
    }

    fn report(checks: &[(Severity, Option<bool>)]) -> Report {
        let checks = checks.iter().map(|(severity, holds)| check(*severity, *holds));
        Report::new(10, 1, checks.collect(), vec!["a note".to_owned()])
    }

    #[test]
    fn only_what_is_required_is_in_the_way() {
        use Severity::{Advice, Required};
        assert!(report(&[(Required, Some(true)), (Advice, Some(false)), (Advice, None)]).holds());
        assert!(!report(&[(Required, Some(true)), (Required, Some(false))]).holds());
        assert!(!report(&[(Required, None)]).holds(), "what nobody can tell does not hold");
    }

    #[test]
    fn how_stands_where_something_is_to_be_changed() {
        let text = |holds| report(&[(Severity::Required, holds)]).to_string();
        assert_eq!(
            text(Some(false)),
            format!(
                "ringway {}: 10 connections, 1 workers\n\nSTATE    WHAT   VALUE  WANTED\n\
                 MISSING  thing  1      2\n\nthing: because\n    so\n\na note\n\
                 10 connections cannot be held: thing\n",
                env!("CARGO_PKG_VERSION")
            )
        );
        assert!(text(None).contains("\nUNKNOWN  thing"));
        assert!(!text(Some(true)).contains("    so\n"));
    }

    #[test]
    fn bytes_are_written_with_the_largest_unit() {
        for (count, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (8 << 20, "8MiB"),
            ((23 << 30) + (1 << 29), "23.5GiB"),
            (u64::MAX, "16777215.9TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
