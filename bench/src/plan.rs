//! The flags of `load`, and how a run is divided among load processes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::dialect::Dialect;
use crate::failure::{Failure, Outcome};
use crate::order::Plan;
use crate::payload::Kind;
use crate::scenario::{Scenario, Traffic};
use crate::units;
use crate::url::Url;

/// Connections of a load process: a hard RLIMIT_NOFILE is often 20,000.
pub(crate) const CONNECTIONS_PER_PROCESS: u32 = 19_000;

/// Puts a load on a WebSocket server and measures both.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where to connect; {i} is the number of the connection, {room} that of its room.
    #[arg(long)]
    pub(crate) url: String,
    /// A built-in scenario (idle, open, echo, fanout, small-rooms, storm, slow-readers,
    /// heartbeat, churn) or a scenario file.
    #[arg(long)]
    pub(crate) scenario: String,
    /// What is spoken inside WebSocket messages.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dialect: Dialect,
    /// Offer permessage-deflate; compressed messages are inflated and checked as all others.
    #[arg(long)]
    pub(crate) compression: bool,
    /// Connections in all [default: the scenario's].
    #[arg(long)]
    pub(crate) connections: Option<u32>,
    /// Publications, messages or reconnections per second in all; 0: closed loop [default: the
    /// scenario's].
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Payload bytes of a message, as 100 or 1KiB, at least 16, of JSON 61 [default: the
    /// scenario's].
    #[arg(long, value_parser = units::size)]
    pub(crate) size: Option<usize>,
    /// What payloads consist of.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) payload: Kind,
    /// How long to measure, as 500ms, 5s or 2m [default: the scenario's].
    #[arg(long, value_parser = units::duration)]
    pub(crate) duration: Option<Duration>,
    /// How long to send before measuring.
    #[arg(long, value_parser = units::duration, default_value = "1s")]
    pub(crate) warmup: Duration,
    /// How long messages may still be under way at the end before they count as missing.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    pub(crate) grace: Duration,
    /// Write latencies to this HdrHistogram interval log.
    #[arg(long, value_name = "FILE.hlog")]
    pub(crate) out: Option<PathBuf>,
    /// Write the figures to this JSON file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Measure CPU and memory of this process and its descendants; may be repeated.
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Run the load processes on this CPU.
    #[arg(long)]
    pub(crate) core: Option<usize>,
    /// Most connections of one load process.
    #[arg(
        long,
        default_value_t = CONNECTIONS_PER_PROCESS,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) connections_per_process: u32,
    /// Messages that a load process waits for before it wakes up, in a closed loop. Few: the
    /// server spends its time on waking it. Many: its sockets hold more.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// Measure with a build that has debug assertions, whose figures mean nothing.
    #[arg(long)]
    pub(crate) allow_debug: bool,
}

/// Divides the run among as many processes as its connections need.
pub(crate) fn plans(options: &Options, scenario: &Scenario, url: &Url) -> Outcome<Vec<Plan>> {
    let connections = options.connections.unwrap_or(scenario.connections);
    let size =
        options.size.map_or_else(|| units::size(&scenario.size), Ok).map_err(Failure::Usage)?;
    let rate = options.rate.unwrap_or(scenario.rate);
    if connections == 0 || size < options.payload.bytes_min() || !(rate >= 0.0 && rate.is_finite())
    {
        return Err(Failure::usage(format!(
            "at least 1 connection, {} bytes and a rate of 0 or more",
            options.payload.bytes_min()
        )));
    }
    let room_members = if url.target.contains("{room}") { scenario.room_members } else { 1 };
    if scenario.traffic == Traffic::Rooms && room_members == 1 && !url.target.contains("{i}") {
        return Err(Failure::usage("rooms need {room} or {i} in the URL"));
    }
    let one_topic = matches!(scenario.traffic, Traffic::None | Traffic::Fanout);
    if options.dialect != Dialect::Plain && !one_topic {
        return Err(Failure::usage("NATS and MQTT are spoken on one topic for all"));
    }
    if scenario.traffic == Traffic::Churn && rate == 0.0 {
        return Err(Failure::usage("churn needs a rate"));
    }
    // A room lies within one process.
    let most = options.connections_per_process.max(room_members);
    let most = most - most % room_members;
    let count = connections.div_ceil(most);
    let shared = scenario.traffic == Traffic::Fanout && count > 1;
    let plan = |number: u32| {
        let first = number * most;
        let publisher = scenario.traffic == Traffic::Fanout && number == 0;
        let rate = match scenario.traffic {
            Traffic::None => 0.0,
            Traffic::Fanout => rate,
            _ => rate / f64::from(count),
        };
        Plan {
            url: url.clone(),
            dialect: options.dialect,
            compression: options.compression,
            traffic: scenario.traffic,
            first,
            connections: most.min(connections - first),
            publisher,
            shared,
            size,
            payload: options.payload,
            rate,
            room_members,
            stalled_percent: scenario.stalled_percent,
            batch: options.batch,
            returns: false,
            core: options.core,
        }
    };
    Ok((0..count).map(plan).collect())
}
