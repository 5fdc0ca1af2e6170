//! `ringway generate`: manual pages and completions, for those who make packages. It is a part of the
//! binary and not a program beside it because the flags are defined in the binary, and so what is
//! installed with it cannot be of another version.

use std::{io, path::Path};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

use crate::cli::Cli;

/// What is looked for by the package.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes a page for each command, and a file for each shell, into a directory that exists.
///
/// # Errors
/// A file could not be written.
pub(crate) fn generate(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command(), directory)?;
    for shell in SHELLS {
        generate_to(shell, &mut Cli::command(), "ringway", directory)?;
    }
    Ok(())
}
