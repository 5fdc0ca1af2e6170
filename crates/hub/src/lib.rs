//! Topics, subscribers and publications: what the gateway does with connections. The hub of a
//! worker knows that worker's subscribers only; publications of the others arrive as letters.

#![forbid(unsafe_code)]

mod letter;

pub use crate::letter::{Batch, Inquiry, Letter, Question, Receipt, Reply};
