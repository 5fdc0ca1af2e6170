//! Access tokens of clients: JSON Web Tokens (RFC 7519) that an issuer elsewhere has signed. This
//! crate reads the keys, verifies a token against them at a given moment, and says what it lets its
//! bearer do. It reads no file and no clock, keeps nothing about tokens, and never shows one: a
//! refusal names the rule that was broken and nothing of the token.

#![forbid(unsafe_code)]

mod claims;
mod keys;
mod names;
mod verifier;

pub use crate::{
    keys::{BadKeys, Keys},
    names::Names,
    verifier::{BadToken, Grant, Rules, SKEW_SECONDS, SUBJECT_BYTES_MAX, Verifier},
};
