//! The flags, each defined once: its name, its default and its help. The environment and the
//! configuration file are read by the same definitions (`config.rs`).

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    address::{AddressOrOff, Listen, Network},
    cores::CoreList,
    log::{Format, Level},
    quantity::{ByteCount, Span},
};

/// The most workers: each pair of them has two queues.
pub(crate) const WORKERS_MAX: u16 = hub::WORKERS_MAX;

/// How the values come together, below the flags in every help text.
const AFTER_HELP: &str = "\
Every flag is also a variable of the environment (--message-bytes-max is \
RINGWAY_MESSAGE_BYTES_MAX; several values are separated by spaces) and a key of the configuration \
file (message-bytes-max; several values are an array), whose table [limits] holds all other \
bounds. Flags go over the environment, the environment over the file.

Sizes are written with B, KiB, MiB or GiB, or as plain bytes; times with ms, s or m, or as 0.";

/// An io_uring, thread-per-core WebSocket gateway.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway.
    #[command(after_help = AFTER_HELP)]
    Serve(ServeArgs),
    /// Look at the configuration without running.
    #[command(after_help = AFTER_HELP)]
    Config(ConfigArgs),
    /// Look at the machine: what it must have for so many connections, and what it should.
    #[command(after_help = AFTER_HELP)]
    Doctor(DoctorArgs),
    /// Write manual pages, and completions for bash, zsh and fish, into a directory.
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// `ringway generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// A directory that exists.
    pub(crate) directory: PathBuf,
}

/// `ringway config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) action: ConfigAction,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// One of them is asked for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigAction {
    /// Print what applies, as a configuration file.
    #[arg(long)]
    pub(crate) print: bool,
    /// Say whether it is valid.
    #[arg(long)]
    pub(crate) check: bool,
}

/// `ringway doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Connections to be held; else those of --connections-max, else 100000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: Option<u32>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// `ringway serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Data plane: host:port or [v6]:port; [::] takes IPv4 too. With ,proxy every connection begins
    /// with a PROXY header, version 2. Repeatable.
    #[arg(long, value_name = "ADDR[,OPTION]", value_delimiter = ' ')]
    #[arg(default_value = "127.0.0.1:9000")]
    pub(crate) listen: Vec<Listen>,

    /// Control plane, or off.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9001")]
    pub(crate) admin: AddressOrOff,

    /// Tokens for the control plane, one a line, optionally after its scope (read, publish,
    /// admin); read again on SIGHUP. Without it --admin takes loopback addresses only.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// Listener for /metrics, /healthz and /readyz without a token, or off.
    #[arg(long, value_name = "ADDR", default_value = "off")]
    pub(crate) metrics: AddressOrOff,

    /// CPUs to run on, as 0-3,6; else those of the affinity mask, within the CPU quota.
    #[arg(long, value_name = "LIST")]
    pub(crate) cores: Option<CoreList>,

    /// Workers; else one a core. More than cores share them round-robin.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub(crate) workers: Option<u16>,

    /// Bind each worker to its core; auto: unless a CPU quota is set without a CPU set.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub(crate) pin: Toggle,

    /// Connections of the whole process; else what the descriptors allow.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections_max: Option<u32>,

    /// Sockets of connections: direct ones stand in a table of each worker's ring, ordinary ones
    /// count against the process's limit and are seen by ss -p and lsof; auto: direct where the
    /// kernel lets go of them, unless there is --zero-copy-bytes-min.
    #[arg(long, value_name = "KIND", value_enum, default_value = "auto")]
    pub(crate) descriptors: SocketDescriptors,

    /// auto takes the first that this kernel allows.
    #[arg(long, default_value = "auto", value_enum)]
    pub(crate) engine: Engine,

    /// Whether clients may publish; auto: while every listener is on loopback and no proxy speaks
    /// for others (--listen with ,proxy, --trusted-proxy).
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto")]
    pub(crate) client_publish: Toggle,

    /// Messages a second and connection; over it the connection is not read from.
    #[arg(long, value_name = "N")]
    pub(crate) client_publish_rate_max: Option<NonZeroU32>,

    /// Origins of browsers: exact, with a wildcard as first label (https://*.example.com), any;
    /// auto: any where --client-publish auto would be on, else the host of the
    /// request. Repeatable.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ' ', default_value = "auto")]
    pub(crate) allow_origin: Vec<String>,

    /// Serve /echo: every message comes back to its sender.
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) echo: bool,

    /// Longer messages are closed with 1009.
    #[arg(long, value_name = "SIZE", default_value = "64KiB")]
    pub(crate) message_bytes_max: ByteCount,

    /// Longer request heads are answered 431.
    #[arg(long, value_name = "SIZE", default_value = "16KiB")]
    pub(crate) handshake_bytes_max: ByteCount,

    /// Request heads that take longer are answered 408.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) handshake_timeout: Span,

    /// Receive buffers of a core, divided among its workers; else 1 MiB of them.
    #[arg(long, value_name = "N")]
    pub(crate) receive_buffers: Option<u32>,

    /// Bytes of one receive buffer.
    #[arg(long, value_name = "SIZE", default_value = "1KiB")]
    pub(crate) receive_buffer_bytes: ByteCount,

    /// SO_SNDBUF; else the kernel's.
    #[arg(long, value_name = "SIZE")]
    pub(crate) socket_send_buffer_bytes: Option<ByteCount>,

    /// Frames of so many bytes or more are sent without a copy, on the ring engine, whose sockets are
    /// ordinary descriptors then; 0: none are.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    pub(crate) zero_copy_bytes_min: ByteCount,

    /// Bytes queued for one connection; at least --message-bytes-max + 14.
    #[arg(long, value_name = "SIZE", default_value = "256KiB")]
    pub(crate) send_queue_bytes_max: ByteCount,

    /// Bytes queued for all connections, divided among the workers.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) send_queue_total_bytes_max: ByteCount,

    /// What becomes of a subscriber that does not keep up.
    #[arg(long, value_name = "POLICY", default_value = "close")]
    pub(crate) slow_consumer: SlowConsumer,

    /// The oldest queued byte may wait this long.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) write_timeout: Span,

    /// From our Close frame to cutting the connection.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) close_timeout: Span,

    /// Each connection is pinged once in this time unless it was heard; 0: no pings.
    #[arg(long, value_name = "TIME", default_value = "25s")]
    pub(crate) ping_interval: Span,

    /// Any byte must come within this of a ping; at most 60m.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) pong_timeout: Span,

    /// A topic's publications wait at most this long to leave in one send.
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    pub(crate) coalesce_delay: Span,

    /// Connections are closed as moving after this, a tenth more or less.
    #[arg(long, value_name = "TIME")]
    pub(crate) connection_age_max: Option<Span>,

    /// Connections of one address; an IPv6 address counts as its /64.
    #[arg(long, value_name = "N")]
    pub(crate) connections_per_address_max: Option<NonZeroU32>,

    /// Handshakes of one address a second; an IPv6 address counts as its /64.
    #[arg(long, value_name = "N")]
    pub(crate) handshakes_per_address_rate: Option<NonZeroU32>,

    /// permessage-deflate: a publication is compressed once for all who agreed on it.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "off")]
    pub(crate) compression: Switch,

    /// How long the closing of connections is spread on SIGTERM or SIGINT.
    #[arg(long, value_name = "TIME", default_value = "25s")]
    pub(crate) drain: Span,

    /// From the signal, when /readyz turns 503, until accepting ends.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub(crate) drain_delay: Span,

    /// Lines less important are left out.
    #[arg(long, value_name = "LEVEL", value_enum, default_value = "info")]
    pub(crate) log_level: Level,

    /// How lines are written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log: Format,

    /// Key of clients' tokens, which are needed then: a public key in PEM (RS256, ES256, EdDSA), or
    /// the bytes of a secret (HS256); read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_key_file: Option<PathBuf>,

    /// Keys of clients' tokens, which are needed then, as a JWK set; read again on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_jwks_file: Option<PathBuf>,

    /// The iss that tokens must have.
    #[arg(long, value_name = "ISSUER")]
    pub(crate) token_issuer: Option<String>,

    /// Of what tokens may name as aud; without it they must name none. Repeatable.
    #[arg(long, value_name = "AUDIENCE", value_delimiter = ' ')]
    pub(crate) token_audience: Vec<String>,

    /// Whether a token without exp is refused.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "required")]
    pub(crate) token_expiry: TokenExpiry,

    /// Proxies whose X-Forwarded-For names the client: an address, or a network as 10.0.0.0/8.
    /// Repeatable.
    #[arg(long, value_name = "NETWORK", value_delimiter = ' ')]
    pub(crate) trusted_proxy: Vec<Network>,
}

/// On, off, or as the circumstances are: then the start says which and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Toggle {
    On,
    Off,
    Auto,
}

/// What the sockets of connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SocketDescriptors {
    /// Direct where the kernel lets go of them.
    Auto,
    /// In a table of each worker's ring.
    Direct,
    /// Descriptors of the process.
    Ordinary,
}

/// The engines of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// The first of the others that the kernel allows.
    Auto,
    /// Raw io_uring, from Linux 6.1.
    Ring,
    /// io_uring by tokio-uring, from Linux 5.11.
    TokioUring,
    /// epoll.
    Epoll,
}

/// What becomes of a subscriber that does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SlowConsumer {
    /// It is closed with 1013 once its queue is full.
    Close,
    /// Its oldest messages are dropped.
    DropOldest,
    /// Only the newest message of each topic waits for it.
    Latest,
}

/// Whether tokens must expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenExpiry {
    /// One without an expiry is refused.
    Required,
    /// One without an expiry is good for as long as its key.
    Optional,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}
