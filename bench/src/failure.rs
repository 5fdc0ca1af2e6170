//! Why a command ends early, and its exit code.

use std::fmt;
use std::io;

/// Why a command could not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line or a scenario file is wrong: exit code 2.
    Usage(String),
    /// Something failed while running: exit code 1.
    Run(String),
}

/// The outcome of most functions here.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure at run time, in one sentence.
    pub(crate) fn run(what: impl fmt::Display) -> Failure {
        Failure::Run(what.to_string())
    }

    /// A mistake in what was asked for, in one sentence.
    pub(crate) fn usage(what: impl fmt::Display) -> Failure {
        Failure::Usage(what.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(what) | Failure::Run(what) => formatter.write_str(what),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::run(error)
    }
}
