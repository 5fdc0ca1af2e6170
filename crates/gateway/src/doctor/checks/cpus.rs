//! Where the workers would run, and who takes packets in for them.

use super::{Subject, UNTOLD};
use crate::doctor::report::{Check, Severity};

/// Devices or cores that a row names; more are counted.
const NAMED_MAX: usize = 8;

const NET: &str = "sys/class/net";

pub(super) fn checks(subject: &Subject) -> Vec<Check> {
    vec![cores(subject), governors(subject), nodes(subject), packets(subject)]
}

/// Names with commas between them, not too many.
fn list(names: &[String]) -> String {
    match names.get(..NAMED_MAX) {
        Some(first) if names.len() > NAMED_MAX => {
            format!("{} and {} more", first.join(","), names.len() - NAMED_MAX)
        }
        _ => names.join(","),
    }
}

fn cores(subject: &Subject) -> Check {
    let cores: Vec<String> = subject.cores.iter().map(ToString::to_string).collect();
    let quota = match subject.cpus.quota {
        None => "no quota".to_owned(),
        Some(cpus) => format!("a quota of {cpus}"),
    };
    let mask = if subject.cpus.is_subset { "a CPU set" } else { "no CPU set" };
    let (pins, reason) = subject.cpus.pins();
    Check {
        name: "CPUs",
        severity: Severity::Advice,
        holds: Some(pins),
        value: format!("cores {}; {quota}, {mask}", list(&cores)),
        wanted: "a CPU set where there is a quota".to_owned(),
        why: format!(
            "without --cores, workers take the CPUs of the mask, at most the quota rounded up; \
             --pin auto is {} here: {reason}",
            if pins { "on" } else { "off" }
        ),
        how: "AllowedCPUs= beside CPUQuota=, or a CPU set instead of a quota; --cores chooses \
              among them"
            .to_owned(),
    }
}

fn governors(subject: &Subject) -> Check {
    let governor = |core: &usize| {
        let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        subject.root.word(path)
    };
    let mut governors: Vec<String> = subject.cores.iter().filter_map(governor).collect();
    governors.sort_unstable();
    governors.dedup();
    let is_told = !governors.is_empty();
    Check {
        name: "CPU governor",
        severity: Severity::Advice,
        holds: is_told.then(|| governors == ["performance"]),
        value: if is_told { list(&governors) } else { UNTOLD.to_owned() },
        wanted: "performance".to_owned(),
        why: "a core that sleeps between messages wakes at its lowest frequency; virtual machines \
              mostly do not tell"
            .to_owned(),
        how: "cpupower frequency-set -g performance".to_owned(),
    }
}

fn nodes(subject: &Subject) -> Check {
    let directory = "sys/devices/system/node";
    let names = subject.root.names(directory);
    let is_node = |name: &&String| {
        name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let nodes = names.iter().filter(is_node).count();
    let of_devices = devices(subject).into_iter().filter_map(|device| {
        let node = subject.root.word(format!("{NET}/{device}/device/numa_node"))?;
        (node != "-1").then(|| format!("{device} on {node}"))
    });
    let of_devices: Vec<String> = of_devices.collect();
    let devices =
        if of_devices.is_empty() { String::new() } else { format!("; {}", list(&of_devices)) };
    Check {
        name: "NUMA nodes",
        severity: Severity::Advice,
        holds: (nodes == 1).then_some(true),
        value: if nodes == 0 { UNTOLD.to_owned() } else { format!("{nodes}{devices}") },
        wanted: "one, or cores of the network device's".to_owned(),
        why: "a pinned worker makes its ring and buffers on its own node; packets come in on that \
              of the device"
            .to_owned(),
        how: "--cores with the CPUs of that node (/sys/devices/system/node/nodeN/cpulist)"
            .to_owned(),
    }
}

/// Network devices that are backed by a device: not loopback, bridges and their like.
fn devices(subject: &Subject) -> Vec<String> {
    let mut names = subject.root.names(NET);
    names.retain(|name| subject.root.path(format!("{NET}/{name}/device")).exists());
    names
}

/// A mask such as `00000000,00000003`.
fn is_empty_mask(mask: &str) -> bool {
    mask.chars().all(|digit| matches!(digit, '0' | ','))
}

fn packets(subject: &Subject) -> Check {
    let cores = subject.cores.len();
    let mut is_spread = true;
    let told = devices(subject).into_iter().map(|device| {
        let directory = format!("{NET}/{device}/queues");
        let mut queues = subject.root.names(&directory);
        queues.retain(|name| name.starts_with("rx-"));
        let steered = queues.iter().filter(|queue| {
            let mask = subject.root.word(format!("{directory}/{queue}/rps_cpus"));
            mask.is_some_and(|mask| !is_empty_mask(&mask))
        });
        let steered = steered.count();
        is_spread &= queues.len() >= cores || steered == queues.len();
        format!("{device}: receive queues {}, RPS on {steered}", queues.len())
    });
    let told: Vec<String> = told.collect();
    Check {
        name: "IRQ and RPS",
        severity: Severity::Advice,
        holds: (!told.is_empty()).then_some(is_spread),
        value: if told.is_empty() { "no device".to_owned() } else { list(&told) },
        wanted: format!("a receive queue for each of {cores} cores, or RPS"),
        why: "a queue's packets are taken in on the core of its interrupt, whoever they are for"
            .to_owned(),
        how: "tune queues, in /usr/share/ringway or kernel-tuning, prints what to set; ethtool -L \
              DEVICE combined N"
            .to_owned(),
    }
}
