//! One worker's connections as a state machine, without a socket, a clock or a thread. The crate
//! defines the two boundaries between which a worker lives: below, the engine ([`Operation`],
//! [`Completion`], [`Engine`]); above, the [`Handler`] that knows what messages mean. A worker
//! accepts, shakes hands, decodes, queues for slow readers, fans publications out, pings, times
//! out and closes; it does not know what a topic is, and it has never seen a file descriptor.

#![forbid(unsafe_code)]

mod actions;
mod addresses;
/// One-line breaks for the simulator to catch.
#[cfg(feature = "breakage")]
pub mod breakage;
#[cfg(not(feature = "breakage"))]
#[path = "breakage_none.rs"]
mod breakage;
mod compression;
/// The contract of the engine boundary as a suite of checks that every engine runs.
#[cfg(feature = "conformance")]
pub mod conformance;
mod connections;
mod core;
mod fanout;
mod handler;
mod heartbeat;
mod limits;
mod operation;
mod options;
mod proxies;
mod publication;
mod rates;
mod record;
mod send_queue;
mod shares;
mod sight;
mod slots;
mod stats;
mod wheel;
mod worker;

pub use crate::{
    actions::Actions,
    addresses::{AddressLimits, Addresses},
    handler::{Answer, Audience, Chunk, Flow, Handler, HandlerCounts, Readiness, Response},
    heartbeat::PONG_TIMEOUT_MAX,
    limits::{FRAME_HEADER_BYTES_MAX, LimitError, Limits},
    operation::{
        Closing, Completion, ConnectionId, Engine, EngineCounts, Failure, ListenerId, Lost,
        OFFER_TARGETS_MAX, Operation, Reception, Slot, Taken, Time, Waker,
    },
    options::{Options, Settings, SlowConsumer},
    proxies::Proxies,
    publication::Publication,
    record::Record,
    sight::Sight,
    slots::SlotSet,
    stats::{
        CloseReason, ClosedConnection, DropReason, Gauges, RefusalReason, Report, Stage,
        StageHistogram,
    },
    worker::{Worker, run},
};
