//! More connections in one process than it may have descriptors; then more than it takes, which are
//! answered 503; then as many again as have left.

use clap::Args;

use super::Claims;
use super::crowd::{Crowd, Purpose};
use super::gateway::{self, Gateway};
use crate::failure::Outcome;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of the gateway, read by sh; --connections-max is added.
    #[arg(long, default_value = "./ringway serve --workers 2")]
    server: String,
    /// What --connections-max is.
    #[arg(long, default_value_t = 38_000, value_parser = clap::value_parser!(u32).range(1000..))]
    connections: u32,
    /// RLIMIT_NOFILE of the gateway, soft and hard.
    #[arg(long, default_value_t = 20_000)]
    descriptors: u32,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let Options { server, connections, descriptors } = options;
    let limited = format!("sh -c 'ulimit -n {descriptors}; exec \"$0\" \"$@\"' {server}");
    let gateway = Gateway::start(&format!("{limited} --connections-max {connections}"))?;
    let url = gateway.url("/ws/room")?;
    let mut claims = Claims::new();
    // A tenth of the clients comes last, so that it can leave first.
    let leaving = connections / 10;
    let staying = Crowd::open_all(&url, &Purpose::idle(connections - leaving))?;
    let last = Purpose { first: connections - leaving, ..Purpose::idle(leaving) };
    let last = Crowd::open_all(&url, &last)?;
    let wanted = u64::from(*connections);
    let stats = gateway.stats_until(|stats| stats["connections"] == wanted)?;
    claims.add(
        &format!("{connections} connections with {descriptors} descriptors"),
        stats["connections"] == wanted,
        &format!("{} on {} workers", stats["connections"], gateway.workers()?.len()),
    );
    // Each worker may take a twentieth more than its share.
    let more = Purpose { first: *connections, ..Purpose::idle(connections / 10) };
    let more = Crowd::open(&url, &more)?;
    let why = more.why.as_deref().unwrap_or_default();
    claims.add(
        "a full process answers 503",
        more.failed > 0 && why.contains("HTTP/1.1 503"),
        &format!("{} more, {} refused: {why}", more.open, more.failed),
    );
    let full = gateway
        .stats_until(|stats| gateway::sum(stats, &["refused", "full"]) >= u64::from(more.failed))?;
    claims.add(
        "every refusal is counted",
        gateway::by_reason(&full, "refused") == [("full".to_owned(), u64::from(more.failed))],
        &format!("{:?}", gateway::by_reason(&full, "refused")),
    );
    let (head, _) = gateway::get(gateway.data(), "/readyz")?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    claims.add(
        "a full worker is not ready and says when to come back",
        status.contains("503") && head.to_ascii_lowercase().contains("retry-after:"),
        &status,
    );
    drop((last, more));
    let remaining = u64::from(connections - leaving);
    gateway.stats_until(|stats| stats["connections"] == remaining)?;
    let again = Purpose { first: connections - leaving, ..Purpose::idle(leaving) };
    let again = Crowd::open(&url, &again)?;
    claims.add(
        "who comes when others have left is taken",
        again.failed == 0 && again.open == leaving,
        &format!("{} of {leaving}", again.open),
    );
    drop((staying, again));
    let held = gateway.stats_at_rest()?;
    claims.add("nothing is held in the end", held.is_empty(), &held.join(", "));
    Ok(claims.hold)
}
