//! The figures of one run: kept as plain numbers, printed for people, written as JSON, and put
//! above the interval log as comments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::order::Counts;

/// Everything that is reported of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) question: String,
    pub(crate) url: String,
    pub(crate) machine: String,
    pub(crate) commit: String,
    /// 1, 5 and 15 minutes, before the run.
    pub(crate) load_average: String,
    pub(crate) size: usize,
    /// Publications per second; 0: closed loop.
    pub(crate) rate: f64,
    pub(crate) processes: usize,
    pub(crate) connecting: Connecting,
    pub(crate) traffic: TrafficFigures,
    pub(crate) memory: Option<Memory>,
    /// Percentiles in nanoseconds by tag.
    pub(crate) latency: BTreeMap<String, Percentiles>,
    /// Doubts about the figures.
    pub(crate) warnings: Vec<String>,
    /// What went wrong. A run with errors exits 1.
    pub(crate) errors: Vec<String>,
}

/// Opening the connections.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Connecting {
    pub(crate) wanted: u32,
    pub(crate) open: u32,
    pub(crate) seconds: f64,
    pub(crate) per_second: f64,
    pub(crate) server_us_per_handshake: Option<f64>,
}

/// The measured part of the run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct TrafficFigures {
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) delivered_per_second: f64,
    /// Of WebSocket frames, as they came.
    pub(crate) frame_bytes_per_delivery: f64,
    pub(crate) server_cpu_percent: Option<f64>,
    pub(crate) server_us_per_delivery: Option<f64>,
    /// CPU microseconds per second and connection.
    pub(crate) server_us_per_connection_second: Option<f64>,
    /// Of the busiest load process.
    pub(crate) load_cpu_percent: f64,
}

/// The server's memory.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) pss_bytes_before: u64,
    pub(crate) pss_bytes_after: u64,
    /// Slope between a third and all of the connections, where these steps were taken.
    pub(crate) pss_bytes_per_connection: Option<f64>,
    pub(crate) slabs: Option<SlabFigures>,
}

/// Kernel memory per connection.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SlabFigures {
    pub(crate) server_bytes_per_connection: f64,
    pub(crate) client_bytes_per_connection: f64,
    /// The server's half by cache, largest first.
    pub(crate) server_caches: Vec<(String, f64)>,
}

/// Percentiles of one histogram, in its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    /// Those of `histogram`.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Percentiles {
        Percentiles {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

impl Report {
    /// The report as lines of text.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("scenario     {} - {}", self.scenario, self.question),
            format!("url          {}", self.url),
            format!("machine      {}; load average {}", self.machine, self.load_average),
            format!("commit       {}", self.commit),
        ];
        lines.push(self.connecting_line());
        self.push_traffic(&mut lines);
        if let Some(memory) = &self.memory {
            push_memory(memory, &mut lines);
        }
        self.push_latency(&mut lines);
        lines.extend(self.warnings.iter().map(|warning| format!("warning      {warning}")));
        lines.extend(self.errors.iter().map(|error| format!("error        {error}")));
        lines
    }

    fn connecting_line(&self) -> String {
        let Connecting { wanted, open, seconds, per_second, .. } = self.connecting;
        let mut line = format!(
            "connections  {open} of {wanted} in {seconds:.2} s, {per_second:.0} handshakes/s, \
             {} load process{}",
            self.processes,
            if self.processes == 1 { "" } else { "es" }
        );
        if let Some(us) = self.connecting.server_us_per_handshake {
            let _ = write!(line, "; server CPU {us:.1} µs each");
        }
        line
    }

    fn push_traffic(&self, lines: &mut Vec<String>) {
        let traffic = &self.traffic;
        let counts = &traffic.counts;
        let mode = match self.rate {
            0.0 => "closed loop".to_owned(),
            rate => format!("{rate}/s"),
        };
        if counts.published > 0 {
            lines.push(format!(
                "traffic      {} published ({mode}, {} B) in {:.2} s; {} delivered, {:.0}/s",
                counts.published,
                self.size,
                traffic.seconds,
                counts.delivered,
                traffic.delivered_per_second
            ));
        } else if traffic.seconds > 0.0 {
            lines.push(format!("traffic      none for {:.2} s", traffic.seconds));
        } else {
            return;
        }
        if counts.pings > 0 || counts.reopened > 0 {
            lines.push(format!(
                "also         {} pings answered, {} connections opened again",
                counts.pings, counts.reopened
            ));
        }
        if counts.compressed > 0 {
            lines.push(format!(
                "wire         {:.0} B per delivery; {} of {} messages came compressed",
                traffic.frame_bytes_per_delivery, counts.compressed, counts.delivered
            ));
        }
        if let Some(percent) = traffic.server_cpu_percent {
            let mut line = format!("server CPU   {percent:.1} %");
            if let Some(us) = traffic.server_us_per_delivery {
                let _ = write!(line, "; {us:.2} µs per delivery");
            }
            if let Some(us) = traffic.server_us_per_connection_second {
                let _ = write!(line, "; {us:.3} µs/s per connection");
            }
            lines.push(line);
        }
        lines.push(format!("load CPU     {:.1} % (busiest process)", traffic.load_cpu_percent));
    }

    fn push_latency(&self, lines: &mut Vec<String>) {
        if self.latency.is_empty() {
            return;
        }
        lines.push(format!(
            "latency µs   {:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "tag", "count", "p50", "p90", "p99", "p99.9", "max"
        ));
        for (tag, p) in &self.latency {
            let us = |ns: u64| ns.div_ceil(1000);
            lines.push(format!(
                "             {tag:<10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
                p.count,
                us(p.p50),
                us(p.p90),
                us(p.p99),
                us(p.p999),
                us(p.max)
            ));
        }
    }
}

fn push_memory(memory: &Memory, lines: &mut Vec<String>) {
    let mut line = format!(
        "server Pss   {} KiB before, {} KiB after",
        memory.pss_bytes_before / 1024,
        memory.pss_bytes_after / 1024
    );
    if let Some(slope) = memory.pss_bytes_per_connection {
        let _ = write!(line, "; {slope:.0} B per connection (slope from a third to all)");
    }
    lines.push(line);
    let Some(slabs) = &memory.slabs else { return };
    lines.push(format!(
        "kernel slab  server's half {:.0} B per connection (client's half {:.0} B taken off)",
        slabs.server_bytes_per_connection, slabs.client_bytes_per_connection
    ));
    for (cache, bytes) in &slabs.server_caches {
        lines.push(format!("             {cache:<24} {bytes:>8.0} B"));
    }
}
