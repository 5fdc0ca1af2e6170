//! What `/proc` says about the server, about ourselves and about the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::failure::{Failure, Outcome};
use crate::spread::to_f64;

/// A process and its descendants.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    roots: Vec<u32>,
}

impl Tree {
    /// The trees under `roots`.
    pub(crate) fn new(roots: Vec<u32>) -> Tree {
        Tree { roots }
    }

    /// CPU seconds, user and system, of all threads of all processes.
    ///
    /// # Errors
    ///
    /// A root has ended.
    pub(crate) fn cpu_seconds(&self) -> Outcome<f64> {
        let mut ticks = 0;
        for pid in self.pids() {
            match fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) => ticks += cpu_ticks(&stat).ok_or_else(|| malformed("stat"))?,
                Err(_) if !self.roots.contains(&pid) => {}
                Err(error) => return Err(Failure::run(format!("process {pid}: {error}"))),
            }
        }
        Ok(to_f64(ticks) / to_f64(rustix::param::clock_ticks_per_second()))
    }

    /// The same to the nanosecond, from `/proc/PID/task/TID/schedstat`, of the threads that there
    /// are now: for processes whose threads do not end meanwhile.
    ///
    /// # Errors
    ///
    /// A root has ended.
    pub(crate) fn thread_seconds(&self) -> Outcome<f64> {
        let mut ns = 0;
        for pid in self.pids() {
            match fs::read_dir(format!("/proc/{pid}/task")) {
                Ok(threads) => {
                    ns += threads.flatten().filter_map(|task| run_ns(&task)).sum::<u64>()
                }
                Err(_) if !self.roots.contains(&pid) => {}
                Err(error) => return Err(Failure::run(format!("process {pid}: {error}"))),
            }
        }
        Ok(to_f64(ns) / 1e9)
    }

    /// Proportional set size in bytes, of all processes.
    ///
    /// # Errors
    ///
    /// A root has ended, or may not be looked at.
    pub(crate) fn pss_bytes(&self) -> Outcome<u64> {
        let mut bytes = 0;
        for pid in self.pids() {
            match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                Ok(rollup) => bytes += pss(&rollup).ok_or_else(|| malformed("smaps_rollup"))?,
                Err(_) if !self.roots.contains(&pid) => {}
                Err(error) => return Err(Failure::run(format!("process {pid}: {error}"))),
            }
        }
        Ok(bytes)
    }

    /// The roots and all their descendants, each once.
    fn pids(&self) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        let mut next = self.roots.clone();
        while let Some(pid) = next.pop() {
            if pids.insert(pid) {
                next.extend(children(pid));
            }
        }
        pids
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

/// utime and stime, fields 14 and 15 of `/proc/PID/stat` (proc(5)). The command's name before
/// them may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// How long a thread has run, in nanoseconds: the first number of its `schedstat`. `None`: it has
/// ended.
fn run_ns(task: &fs::DirEntry) -> Option<u64> {
    let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes of live objects by slab cache, from `/proc/slabinfo`, which only root may read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slabs(BTreeMap<String, u64>);

impl Slabs {
    /// Reads them.
    pub(crate) fn read() -> Outcome<Slabs> {
        let text = fs::read_to_string("/proc/slabinfo")
            .map_err(|error| Failure::run(format!("/proc/slabinfo: {error}")))?;
        Ok(Slabs::parse(&text))
    }

    fn parse(text: &str) -> Slabs {
        let cache = |line: &str| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?.to_owned();
            let active: u64 = fields.next()?.parse().ok()?;
            let object_bytes: u64 = fields.nth(1)?.parse().ok()?;
            Some((name, active * object_bytes))
        };
        Slabs(text.lines().filter_map(cache).collect())
    }

    /// Bytes in sockets, which is what a run moves most.
    pub(crate) fn network_bytes(&self) -> u64 {
        ["TCP", "TCPv6", "sock_inode_cache"].iter().filter_map(|name| self.0.get(*name)).sum()
    }

    /// True exactly when nothing could be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The growth since `before` by cache, in bytes, nothing where it shrank.
    pub(crate) fn since(&self, before: &Slabs) -> BTreeMap<String, u64> {
        let growth = |(name, bytes): (&String, &u64)| {
            let before = before.0.get(name).copied().unwrap_or(0);
            bytes
                .checked_sub(before)
                .filter(|growth| *growth > 0)
                .map(|bytes| (name.clone(), bytes))
        };
        self.0.iter().filter_map(growth).collect()
    }
}

/// Times that a thread has gone to sleep, from `/proc/PID/task/TID/status` (proc(5)).
pub(crate) fn sleeps(pid: u32, thread: u32) -> Outcome<u64> {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let status =
        fs::read_to_string(&path).map_err(|error| Failure::run(format!("{path}: {error}")))?;
    number_behind(&status, "voluntary_ctxt_switches:").ok_or_else(|| malformed("task/TID/status"))
}

/// Sockets of this network namespace that are in use, from `/proc/net/sockstat`.
pub(crate) fn sockets_used() -> Outcome<u64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    number_behind(&text, "sockets: used").ok_or_else(|| malformed("net/sockstat"))
}

/// What the kernel holds for TCP on this machine, from `/proc/net/sockstat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketMemory {
    /// Sockets that no process has any more and whose bytes the kernel still wants to deliver.
    pub(crate) orphans: u64,
    /// Pages of all socket buffers.
    pub(crate) pages: u64,
}

impl SocketMemory {
    /// Reads it.
    pub(crate) fn read() -> Outcome<SocketMemory> {
        let text = fs::read_to_string("/proc/net/sockstat")?;
        SocketMemory::parse(&text).ok_or_else(|| malformed("net/sockstat"))
    }

    fn parse(text: &str) -> Option<SocketMemory> {
        let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
        let mut words = line.split_whitespace();
        words.find(|word| *word == "orphan")?;
        let orphans = words.next()?.parse().ok()?;
        words.find(|word| *word == "mem")?;
        Some(SocketMemory { orphans, pages: words.next()?.parse().ok()? })
    }
}

/// TCP sockets of IPv4 at this local port that have a peer, but for those in TIME_WAIT.
pub(crate) fn sockets_at(port: u16) -> Outcome<usize> {
    Ok(sockets_in(&fs::read_to_string("/proc/net/tcp")?, port))
}

/// Lines of `/proc/net/tcp` (proc_net(5)) with this port and a state that is neither 06, TIME_WAIT,
/// nor 0A, LISTEN.
fn sockets_in(text: &str, port: u16) -> usize {
    let end = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let is_local = words.next().is_some_and(|address| address.ends_with(&end));
        is_local && !matches!(words.nth(1), None | Some("06" | "0A"))
    };
    text.lines().skip(1).filter(is_one).count()
}

/// A size in `/proc/PID/status` (proc(5)), as `VmData:`, in bytes.
pub(crate) fn status_bytes(pid: u32, name: &str) -> Outcome<u64> {
    let path = format!("/proc/{pid}/status");
    let status =
        fs::read_to_string(&path).map_err(|error| Failure::run(format!("{path}: {error}")))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.map(|kibibytes| kibibytes * 1024).ok_or_else(|| malformed("status"))
}

/// Connections that the kernel has moved from a closed listener to another of its address in this
/// network namespace, and those that it failed to move (`net.ipv4.tcp_migrate_req`).
pub(crate) fn migrated_requests() -> Outcome<(u64, u64)> {
    let text = fs::read_to_string("/proc/net/netstat")?;
    let number = |name| tcp_counter(&text, name).ok_or_else(|| malformed("net/netstat"));
    Ok((number("TCPMigrateReqSuccess")?, number("TCPMigrateReqFailure")?))
}

/// A counter of `/proc/net/netstat`: a line of names, and below it a line of numbers.
fn tcp_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|other| other == name)?;
    numbers.split_whitespace().nth(place)?.parse().ok()
}

fn number_behind(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// The machine in words, for reports: kernel, CPUs, memory.
pub(crate) fn machine() -> String {
    let name = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0);
    format!(
        "{} {}, {cpus} CPUs, {} GiB",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy(),
        (kibibytes + (1 << 19)) >> 20
    )
}

/// The load averages of 1, 5 and 15 minutes, as the kernel writes them.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn malformed(file: &str) -> Failure {
    Failure::run(format!("/proc/PID/{file} is not as expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_strange_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 99";
        assert_eq!(cpu_ticks(stat), Some(200));
    }

    #[test]
    fn a_counter_of_tcp_stands_below_its_name() {
        let text = "TcpExt: SyncookiesSent TCPMigrateReqSuccess\nTcpExt: 3 17\n\
                    IpExt: InOctets\nIpExt: 5\n";
        assert_eq!(tcp_counter(text, "TCPMigrateReqSuccess"), Some(17));
        assert_eq!(tcp_counter(text, "InOctets"), None);
    }

    #[test]
    fn pss_is_in_kibibytes() {
        let rollup = "00400000-7fff0000 ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:    12 kB\n";
        assert_eq!(pss(rollup), Some(12_288));
    }

    #[test]
    fn a_number_is_found_behind_its_name_and_no_other() {
        let status = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t42\n";
        assert_eq!(number_behind(status, "voluntary_ctxt_switches:"), Some(42));
        assert_eq!(number_behind("sockets: used 297\nTCP: inuse 5\n", "sockets: used"), Some(297));
    }

    #[test]
    fn socket_memory_is_that_of_tcp() {
        let text = "sockets: used 235\nTCP: inuse 128 orphan 3 tw 198 alloc 134 mem 59\n\
            UDP: inuse 0 mem 7\n";
        assert_eq!(SocketMemory::parse(text), Some(SocketMemory { orphans: 3, pages: 59 }));
    }

    #[test]
    fn sockets_at_a_port_are_those_that_it_has_accepted() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n\
            0: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000\n\
            1: 0100007F:2328 0100007F:C001 01 00000000:00000000 00:00000000\n\
            2: 0100007F:C001 0100007F:2328 01 00000000:00000000 00:00000000\n\
            3: 0100007F:2328 0100007F:C002 04 00000000:00000000 00:00000000\n\
            4: 0100007F:2328 0100007F:C003 06 00000000:00000000 00:00000000\n";
        assert_eq!(sockets_in(text, 0x2328), 2);
        assert_eq!(sockets_in(text, 0xc001), 1);
    }

    #[test]
    fn slab_growth_is_live_objects_times_their_size() {
        let header = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize> ...\n";
        let before =
            Slabs::parse(&format!("{header}TCP 10 12 2048 8 : tunables\nfile 5 6 256 9\n"));
        let after = Slabs::parse(&format!("{header}TCP 13 16 2048 8 : tunables\nfile 4 6 256 9\n"));
        assert_eq!(after.since(&before), BTreeMap::from([("TCP".to_owned(), 6144)]));
    }

    #[test]
    fn our_own_tree_has_memory_and_has_run() {
        let tree = Tree::new(vec![std::process::id()]);
        assert!(tree.pss_bytes().unwrap() > 100_000);
        assert!(tree.cpu_seconds().unwrap() >= 0.0);
        assert!(tree.thread_seconds().unwrap() > 0.0);
    }
}
