//! The orders of a load process: lines of its standard input, read without waiting for more
//! than is there.

use std::io;

use serde::de::DeserializeOwned;

use crate::failure::{Failure, Outcome};

/// The longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The lines of the standard input.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    partial: Vec<u8>,
}

impl Orders {
    /// Reads what is there, waiting for something; false at the end.
    pub(crate) fn read(&mut self) -> Outcome<bool> {
        let mut bytes = [0; 4096];
        let count = rustix::io::read(io::stdin(), &mut bytes).map_err(io::Error::from)?;
        self.partial.extend_from_slice(&bytes[..count]);
        if self.partial.len() > LINE_BYTES_MAX {
            return Err(Failure::run("an order is too long"));
        }
        Ok(count > 0)
    }

    /// Takes the next whole line.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Outcome<Option<T>> {
        let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.partial.drain(..=end).collect();
        serde_json::from_slice(&line).map(Some).map_err(Failure::run)
    }
}
