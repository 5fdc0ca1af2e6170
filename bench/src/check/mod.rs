//! `ringway-bench check`: what Ringway promises and no test can show, because it takes tens of
//! thousands of connections or minutes. Each check starts the real binary, puts it in the
//! situation, prints what it sees and says of each claim whether it holds. Unlike the rest of this
//! crate it knows Ringway: its flags, its start lines and `/stats`.

mod article;
mod back;
mod bad;
mod broadcast;
mod capacity;
mod churn;
mod coalescing;
mod crowd;
mod figures;
mod fixed_memory;
mod floor;
mod gateway;
mod heartbeats;
mod hostile;
mod isolation;
mod kernel_memory;
mod memory;
mod million;
mod pause;
mod peers;
mod restart;
mod rooms;
mod rounds;
mod scaling;
mod slow_consumer;
mod stalled_memory;
mod system_calls;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::order::Counts;
use crate::proc;

/// Which check, and of what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(subcommand)]
    check: Check,
}

#[derive(Clone, Debug, Subcommand)]
enum Check {
    /// More connections than RLIMIT_NOFILE, then 503 until somebody leaves.
    Capacity(capacity::Options),
    /// Connections come and go; nothing of them stays.
    Rounds(rounds::Options),
    /// A worker makes no system call but `io_uring_enter`, and idle it sleeps. Needs strace.
    SystemCalls(system_calls::Options),
    /// A process that stood still closes nobody who answers.
    Pause(pause::Options),
    /// A subscriber that stops reading is dropped, and costs the others nothing.
    SlowConsumer(slow_consumer::Options),
    /// A thousand subscribers that never read, and memory that is bounded.
    StalledMemory(stalled_memory::Options),
    /// Bad clients beside good ones: what the good ones notice.
    Isolation(isolation::Options),
    /// Attacks from one address while others are served.
    Hostile(hostile::Options),
    /// User memory of an idle connection.
    Memory(memory::Options),
    /// Kernel memory of an idle connection beside a bare socket's. As root.
    KernelMemory(kernel_memory::Options),
    /// User memory without connections, and of each further worker.
    FixedMemory(fixed_memory::Options),
    /// CPU of heartbeats beside a bare loop's.
    Heartbeats(heartbeats::Options),
    /// One message a second to very many, beside a bare loop of several rings.
    Broadcast(broadcast::Options),
    /// Connections come and go for minutes beside many that stay.
    Churn(churn::Options),
    /// A second process takes over while the first drains.
    Restart(restart::Options),
    /// The article's table: very many connections on one core.
    Article(article::Options),
    /// A million connections in one process. Needs root, unshare, ip and sysctl.
    Million(million::Options),
    /// Everybody comes back after kill -9 and a restart.
    Back(back::Options),
    /// What workers cost that share a core, or have one each.
    Scaling(scaling::Options),
    /// Deliveries for a second of CPU, by publications a second.
    Coalescing(coalescing::Options),
    /// Many small topics against a big one.
    Rooms(rooms::Options),
}

/// Runs a check. False when a claim does not hold.
pub(crate) fn run(options: &Options) -> Outcome<bool> {
    println!("machine      {}; load average {}", proc::machine(), proc::load_average());
    match &options.check {
        Check::Capacity(options) => capacity::run(options),
        Check::Rounds(options) => rounds::run(options),
        Check::SystemCalls(options) => system_calls::run(options),
        Check::Pause(options) => pause::run(options),
        Check::SlowConsumer(options) => slow_consumer::run(options),
        Check::StalledMemory(options) => stalled_memory::run(options),
        Check::Isolation(options) => isolation::run(options),
        Check::Hostile(options) => hostile::run(options),
        Check::Memory(options) => memory::run(options),
        Check::KernelMemory(options) => kernel_memory::run(options),
        Check::FixedMemory(options) => fixed_memory::run(options),
        Check::Heartbeats(options) => heartbeats::run(options),
        Check::Broadcast(options) => broadcast::run(options),
        Check::Churn(options) => churn::run(options),
        Check::Restart(options) => restart::run(options),
        Check::Article(options) => article::run(options),
        Check::Million(options) => million::run(options),
        Check::Back(options) => back::run(options),
        Check::Scaling(options) => scaling::run(options),
        Check::Coalescing(options) => coalescing::run(options),
        Check::Rooms(options) => rooms::run(options),
    }
}

/// Very many connections to a gateway on one core, whose load has another.
#[derive(Args, Clone, Debug)]
struct OneCore {
    /// Command line of the gateway, read by sh.
    #[arg(long, default_value = "./ringway serve --cores 0 --workers 6 --handshake-timeout 30s")]
    server: String,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..))]
    connections: u32,
}

/// A gateway and a bare loop on one core, whose load has another.
#[derive(Args, Clone, Debug)]
struct Beside {
    /// Command line of the gateway, read by sh; --workers is added.
    #[arg(long, default_value = "./ringway serve --cores 0 --handshake-timeout 30s")]
    server: String,
    /// Command line of the bare loop, read by sh; --rings is added.
    #[arg(long, default_value = "./ringway-floor ring --core 0")]
    floor: String,
    /// CPU of the load.
    #[arg(long, default_value_t = 1)]
    core_load: usize,
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
}

impl Beside {
    /// Workers of the one and rings of the other, that have room for the connections though the
    /// kernel deals them unevenly: a table of direct descriptors ends at RLIMIT_NOFILE.
    fn tables(&self) -> u32 {
        self.connections.div_ceil(CONNECTIONS_PER_TABLE)
    }

    /// The command line of the gateway, with these flags too.
    fn gateway(&self, flags: &str) -> String {
        format!("{} --workers {} {flags}", self.server, self.tables())
    }

    /// The command line of the bare loop, with these flags too.
    fn floor(&self, flags: &str) -> String {
        format!("{} --rings {} {flags}", self.floor, self.tables())
    }
}

/// Connections that a table of 20,000 direct descriptors is given.
const CONNECTIONS_PER_TABLE: u32 = 17_000;

/// The claims of a check, printed as they are made.
#[derive(Debug)]
pub(crate) struct Claims {
    hold: bool,
}

impl Claims {
    /// None yet.
    pub(crate) fn new() -> Claims {
        Claims { hold: true }
    }

    /// True exactly when all do.
    pub(crate) fn hold(&self) -> bool {
        self.hold
    }

    /// Prints one line: whether `claim` holds, and what was seen.
    pub(crate) fn add(&mut self, claim: &str, holds: bool, seen: &str) {
        let separator = if seen.is_empty() { "" } else { ": " };
        println!("{:<12} {claim}{separator}{seen}", if holds { "holds" } else { "FAILS" });
        self.hold &= holds;
    }

    /// The same of a claim about who got what; `more` was seen besides.
    fn add_counts(
        &mut self,
        claim: &str,
        holds: bool,
        (counts, why): (&Counts, Option<String>),
        more: &str,
    ) {
        let Counts { published, delivered, missing, lost, .. } = counts;
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        let seen = format!(
            "{published} published, {delivered} delivered, {missing} missing, {lost} lost{why}; \
             {more}"
        );
        self.add(claim, holds, &seen);
    }
}
