//! The configuration file: TOML, in which a key is a flag's long name, and the table `[limits]`. Its
//! values are handed to clap as defaults; whether they fit each other is not looked at here.

use std::{collections::BTreeMap, fmt::Display, fs, io::Read, path::Path};

use clap::{Arg, ArgAction};
use toml::{Table, Value};
use worker::Limits;

use super::{Refusal, SUBCOMMANDS, long, settings};
use crate::quantity::ByteCount;

/// A longer file is none of a configuration: a running process reads it too.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the configuration file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// By the long name of the flag.
    settings: BTreeMap<String, Vec<String>>,
    /// The table `[limits]`.
    pub(super) limits: Table,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Refusal> {
        let wrong = |what: &dyn Display| Refusal::Sentence(format!("{}: {what}", path.display()));
        let file = fs::File::open(path).map_err(|error| wrong(&error))?;
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| wrong(&error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(wrong(&format!("a configuration has at most {FILE_BYTES_MAX} bytes")));
        }
        Self::parse(&text).map_err(|sentence| wrong(&sentence))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| syntax(text, &error))?;
        let known = settings();
        let mut file = Self::default();
        for (key, value) in table {
            if let ("limits", Value::Table(limits)) = (key.as_str(), &value) {
                file.limits = limits_table(limits)?;
                continue;
            }
            let argument = known.iter().find(|argument| long(argument) == key && key != "config");
            let Some(argument) = argument else {
                let names = known.iter().map(long).filter(|name| *name != "config");
                return Err(unknown("key", &key, names.chain(["limits"])));
            };
            let values = values(argument, value).ok_or_else(|| wrong_type(argument))?;
            file.settings.insert(key, values);
        }
        Ok(file)
    }

    /// Whether it says what a flag's value is, as the flag or as a bound.
    pub(super) fn names(&self, flag: &str) -> bool {
        self.settings.contains_key(flag) || self.limits.contains_key(&flag.replace('-', "_"))
    }

    /// The command with the file's values as defaults. A bound that is both a flag and a key of
    /// `[limits]` is looked for in both, first as the flag.
    pub(super) fn below(&self, mut command: clap::Command) -> clap::Command {
        for subcommand in SUBCOMMANDS {
            command = command.mut_subcommand(subcommand, |mut subcommand| {
                for argument in settings() {
                    let limit = self.limits.get(&long(&argument).replace('-', "_"));
                    let limit = limit.map(|limit| vec![limit.to_string()]);
                    let values = self.settings.get(long(&argument)).cloned().or(limit);
                    if let Some(values) = values {
                        subcommand = subcommand
                            .mut_arg(argument.get_id(), |argument| argument.default_values(values));
                    }
                }
                subcommand
            });
        }
        command
    }
}

/// A TOML value as clap would have got it on the command line. `None`: the flag takes no such.
fn values(argument: &Arg, value: Value) -> Option<Vec<String>> {
    let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
    let is_repeatable = matches!(argument.get_action(), ArgAction::Append);
    Some(match value {
        Value::String(text) => vec![text],
        Value::Integer(number) if !is_switch => vec![number.to_string()],
        Value::Boolean(state) if is_switch => vec![state.to_string()],
        Value::Boolean(state) => vec![if state { "on" } else { "off" }.to_owned()],
        Value::Array(array) if is_repeatable => {
            let text = |value: Value| value.as_str().map(str::to_owned);
            array.into_iter().map(text).collect::<Option<_>>()?
        }
        _ => return None,
    })
}

fn wrong_type(argument: &Arg) -> String {
    let takes = match argument.get_action() {
        ArgAction::SetTrue => "true or false",
        ArgAction::Append => "a string or an array of strings",
        _ => "a string or a whole number",
    };
    format!("{} takes {takes}", long(argument))
}

/// The keys of `[limits]`, with sizes written as numbers.
fn limits_table(table: &Table) -> Result<Table, String> {
    let known = Table::try_from(Limits::default()).expect("limits are a table of numbers");
    let mut limits = Table::new();
    for (key, value) in table {
        if !known.contains_key(key) {
            return Err(unknown("limit", key, known.keys().map(String::as_str)));
        }
        let size = value.as_str().filter(|_| key.contains("bytes"));
        let number = match size.map(str::parse) {
            Some(Ok(ByteCount(bytes))) => i64::try_from(bytes).ok(),
            Some(Err(error)) => return Err(format!("limits.{key}: {error}")),
            None => value.as_integer(),
        };
        let Some(number) = number else {
            return Err(format!("limits.{key} takes a whole number"));
        };
        limits.insert(key.clone(), number.into());
    }
    Ok(limits)
}

/// A name that nobody knows, with the known one that looks most like it.
fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let likeness = known.map(|known| (strsim::jaro(known, name), known));
    let best = likeness.max_by(|(one, _), (other, _)| one.total_cmp(other));
    match best.filter(|(likeness, _)| *likeness > 0.7) {
        Some((_, best)) => format!("there is no {what} {name:?}: did you mean {best:?}?"),
        None => format!("there is no {what} {name:?}"),
    }
}

/// A syntax error as one line.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    format!("line {line}: {}", error.message().replace('\n', ", "))
}
