//! Divides the growth of the kernel's slab caches between the two ends of the connections, which
//! on loopback live in the same kernel.

use std::collections::BTreeMap;

use std::thread;
use std::time::Duration;

use crate::failure::Outcome;
use crate::order::{Note, Order};
use crate::proc::Slabs;
use crate::processes::Processes;
use crate::report::SlabFigures;
use crate::spread::to_f64;

/// Connections that are opened to weigh the client's half. The kernel counts what lies in its
/// caches for each CPU as live, some hundred objects, so a few pairs would not do.
const PAIRS: u32 = 8000;

/// Caches of which only the end that connects has an object: it takes a port.
const CLIENT_ONLY: [&str; 2] = ["tcp_bind_bucket", "tcp_bind2_bucket"];

/// Caches that are none of a connection's: looking at a process's descriptors in /proc makes an
/// inode for each, in the hundred thousands.
const OTHERS: [&str; 1] = ["proc_inode_cache"];

/// A cache below this many bytes per connection is not named in the report.
const NAMED_BYTES_MIN: f64 = 4.0;

/// Sockets of earlier runs are freed bit by bit: how often and how long to look, and how much
/// change between two looks is none.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);
const SETTLE_LOOKS_MAX: u32 = 40;
const SETTLED_BYTES: u64 = 64 << 10;

/// The slab caches once they have stopped moving, or as they are after ten seconds. Without
/// root there are none.
pub(crate) fn settled_slabs() -> Slabs {
    let mut before = Slabs::read().unwrap_or_default();
    for _ in 0..SETTLE_LOOKS_MAX {
        thread::sleep(SETTLE_INTERVAL);
        let after = Slabs::read().unwrap_or_default();
        let moved = after.network_bytes().abs_diff(before.network_bytes());
        before = after;
        if moved < SETTLED_BYTES {
            break;
        }
    }
    before
}

/// Weighs the client's half of a connection's kernel memory, within the first process, which has
/// no connection yet.
pub(crate) fn weigh_halves(processes: &mut Processes) -> Outcome<HalfWeights> {
    let mut after = |order| -> Outcome<Slabs> {
        processes.tell(0, order)?;
        while !matches!(processes.next()?.1, Note::Ready) {}
        Ok(settled_slabs())
    };
    let empty = settled_slabs();
    let paired = after(Order::Pairs { count: PAIRS })?;
    let armed = after(Order::ArmPairs)?;
    after(Order::ClosePairs)?;
    Ok(HalfWeights::new(&paired.since(&empty), &armed.since(&paired)))
}

/// The client's half by cache, in bytes per connection.
#[derive(Debug)]
pub(crate) struct HalfWeights(BTreeMap<String, f64>);

impl HalfWeights {
    /// From the growth while [`PAIRS`] connections were opened, and while a receive was armed on
    /// the client's end of each.
    fn new(opened: &BTreeMap<String, u64>, armed: &BTreeMap<String, u64>) -> HalfWeights {
        let mut weights = BTreeMap::new();
        for (cache, bytes) in opened {
            let share = if CLIENT_ONLY.contains(&cache.as_str()) { 1.0 } else { 0.5 };
            weights.insert(cache.clone(), per(*bytes, PAIRS) * share);
        }
        for (cache, bytes) in armed {
            *weights.entry(cache.clone()).or_default() += per(*bytes, PAIRS);
        }
        HalfWeights(weights)
    }
}

/// The server's half of the growth while `connections` were opened.
pub(crate) fn server_half(
    growth: &BTreeMap<String, u64>,
    client: &HalfWeights,
    connections: u32,
) -> SlabFigures {
    let mut figures = SlabFigures::default();
    for (cache, bytes) in growth.iter().filter(|(cache, _)| !OTHERS.contains(&cache.as_str())) {
        let all = per(*bytes, connections);
        let client = client.0.get(cache).copied().unwrap_or(0.0).min(all);
        figures.client_bytes_per_connection += client;
        figures.server_bytes_per_connection += all - client;
        if all - client >= NAMED_BYTES_MIN {
            figures.server_caches.push((cache.clone(), all - client));
        }
    }
    figures.server_caches.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    figures
}

fn per(bytes: u64, connections: u32) -> f64 {
    to_f64(bytes) / f64::from(connections.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(caches: &[(&str, u64)]) -> BTreeMap<String, u64> {
        caches.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect()
    }

    #[test]
    fn the_clients_half_and_its_armed_receive_are_taken_off() {
        let opened = growth(&[("TCP", 32_000_000), ("tcp_bind_bucket", 1_024_000)]);
        let armed = growth(&[("io_kiocb", 2_048_000)]);
        let weights = HalfWeights::new(&opened, &armed);
        let all = growth(&[
            ("TCP", 40_000),
            ("tcp_bind_bucket", 1280),
            ("io_kiocb", 5120),
            ("proc_inode_cache", 9),
        ]);
        let figures = server_half(&all, &weights, 10);
        assert!((figures.server_bytes_per_connection - (2000.0 + 256.0)).abs() < 1e-6);
        assert!((figures.client_bytes_per_connection - (2000.0 + 128.0 + 256.0)).abs() < 1e-6);
        assert_eq!(figures.server_caches[0].0, "TCP");
        assert_eq!(figures.server_caches.len(), 2);
    }
}
