//! Topics, subscribers and publications: what the gateway does with connections. The hub of a
//! worker knows that worker's subscribers only; publications of the others arrive as letters. It
//! answers requests, keeps who subscribes to what, and hands publications to the worker's fan-out;
//! it encodes nothing twice, copies no subscriber list, and never waits.

#![forbid(unsafe_code)]

mod access;
mod blocked;
mod connections;
#[cfg(test)]
mod footprint;
mod held;
mod hub;
mod interest;
mod letter;
mod listing;
mod options;
mod origin;
mod passes;
mod route;
mod runs;
mod search;
mod subscribers;
mod topic;
mod topics;
mod walk;

pub use crate::{
    access::Access,
    hub::Hub,
    interest::{Announced, Epoch, Interest, Interested, WORKERS_MAX},
    letter::{
        Batch, Entry, Findings, Inquiry, Letter, Question, Receipt, Refused, Removal, Reply, Roll,
        Selection,
    },
    options::{Options, Settings},
    origin::{AllowedOrigin, BadOrigin, OriginRule},
    passes::Pass,
    route::{Admission, Asked},
    topic::{BadTopic, check_topic, decode_topic},
};
