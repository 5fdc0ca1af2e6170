use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use super::*;

/// The files of a machine on which everything is as wanted for 100,000 connections.
const HEALTHY: [(&str, &str); 24] = [
    ("proc/sys/kernel/osrelease", "6.18.44\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\nSeccomp:\t0\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 100064               files     \n\
         Max locked memory         8388608              8388608              bytes     \n",
    ),
    ("proc/self/cgroup", "0::/unit\n"),
    ("proc/meminfo", "MemTotal:       24684096 kB\nMemAvailable:    8000000 kB\n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-nr", "1000\t0\t2466183\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "2048\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/tcp_mem", "287901\t383869\t575802\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t33554432\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_notsent_lowat", "4294967295\n"),
    ("proc/sys/net/ipv4/tcp_ehash_entries", "-262144\n"),
    ("proc/sys/net/ipv4/tcp_migrate_req", "1\n"),
    ("sys/fs/cgroup/unit/memory.max", "max\n"),
    ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
    ("sys/devices/system/node/node0/cpulist", "0\n"),
    ("sys/class/net/eth0/device/numa_node", "-1\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
];

/// A tree of files, gone when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringway-doctor-{}-{count}", std::process::id());
        let tree = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(&tree.0).unwrap();
        for (path, content) in files {
            tree.write(path, content.as_bytes());
        }
        tree
    }

    fn healthy() -> Self {
        Self::new(&HEALTHY)
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// With one core, whose worker may have 100,000 connections.
    fn subject(&self) -> Subject {
        Subject {
            engine: Kind::Ring,
            root: Root::new(&self.0),
            wanted: Wanted::new(100_000),
            connections: 100_000,
            workers: 1,
            workers_asked: None,
            workers_needed: 1,
            descriptors: Descriptors::OfWorker(100_064),
            connections_allowed: 100_000,
            listen_backlog: 4096,
            unsent_bytes_max: 16_384,
            send_queue_total_bytes_max: 256 << 20,
            limits: vec![Limits::default()],
            cpus: Cpus::new(vec![0], &self.0),
            cores: vec![0],
            started: Ok(Vec::new()),
        }
    }

    fn check(&self, name: &str) -> Check {
        check(&self.subject(), name)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn check(subject: &Subject, name: &str) -> Check {
    let report = report(subject);
    let check = report.checks.iter().find(|check| check.name == name);
    check.unwrap_or_else(|| panic!("{name} is not looked at")).clone()
}

#[test]
fn a_machine_that_has_everything_is_told_so() {
    let tree = Tree::healthy();
    let report = report(&tree.subject());
    assert!(report.holds());
    assert_eq!(report.checks.len(), 23);
    for check in &report.checks {
        assert_ne!(check.holds, Some(false), "{check:?}");
        assert!(!check.why.is_empty() && !check.how.is_empty(), "{check:?}");
    }
    let unjudged = report.checks.iter().filter(|check| check.holds.is_none());
    let unjudged: Vec<&str> = unjudged.map(|check| check.name).collect();
    let names = ["net.ipv4.ip_local_port_range", "tcp_rmem, tcp_wmem", "tcp_notsent_lowat"];
    assert_eq!(unjudged, names);
}

#[test]
fn each_thing_that_is_wrong_is_seen_by_its_row_and_no_other() {
    let status = |seccomp: u32| format!("CapEff:\t0000000000000000\nSeccomp:\t{seccomp}\n");
    let status = status(2);
    for (path, content, name, severity, value) in [
        ("proc/sys/kernel/osrelease", "6.0.9-lts", "kernel", "required", "6.0.9-lts"),
        ("proc/sys/kernel/osrelease", "5.15.0", "kernel", "required", "5.15.0"),
        (
            "proc/self/limits",
            "Max locked memory         65536      65536     bytes",
            "RLIMIT_MEMLOCK",
            "required",
            "64KiB",
        ),
        ("proc/meminfo", "MemAvailable: 400000 kB", "memory", "required", "390.6MiB available"),
        ("proc/sys/fs/nr_open", "524288", "fs.nr_open", "advice", "524288"),
        ("proc/sys/fs/file-max", "105999", "fs.file-max", "required", "105999"),
        ("proc/sys/net/core/somaxconn", "128", "net.core.somaxconn", "advice", "128"),
        (
            "proc/sys/net/ipv4/tcp_syncookies",
            "0",
            "net.ipv4.tcp_max_syn_backlog",
            "advice",
            "2048, SYN cookies off",
        ),
        (
            "proc/sys/net/ipv4/tcp_mem",
            "150000 199999 300000",
            "net.ipv4.tcp_mem",
            "advice",
            "150000 199999 300000",
        ),
        (
            "proc/sys/net/ipv4/tcp_ehash_entries",
            "65536",
            "net.ipv4.tcp_ehash_entries",
            "advice",
            "65536",
        ),
        (
            "proc/sys/net/netfilter/nf_conntrack_max",
            "65536",
            "net.netfilter.nf_conntrack_max",
            "advice",
            "65536",
        ),
        ("proc/sys/net/ipv4/tcp_migrate_req", "0", "net.ipv4.tcp_migrate_req", "advice", "0"),
        ("sys/fs/cgroup/unit/cpu.max", "150000 100000", "CPUs", "advice", "a quota of 2"),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "powersave",
            "CPU governor",
            "advice",
            "powersave",
        ),
    ] {
        let tree = Tree::healthy();
        tree.write(path, content.as_bytes());
        let report = report(&tree.subject());
        let wrong = report.checks.iter().filter(|check| check.holds == Some(false));
        let wrong: Vec<&Check> = wrong.collect();
        // Memory that is not there is missing under load too.
        assert_eq!(wrong[0].name, name, "{wrong:?}");
        assert!(wrong.len() == 1 || name == "memory", "{wrong:?}");
        assert!(wrong[0].value.contains(value), "{wrong:?}");
        let is_required = wrong[0].severity == Severity::Required;
        assert_eq!(is_required, severity == "required", "{wrong:?}");
        assert_eq!(report.holds(), !is_required);
    }
    let tree = Tree::healthy();
    tree.write("proc/self/status", status.as_bytes());
    assert!(tree.check("io_uring").why.contains("a seccomp filter"));
}

#[test]
fn a_ring_that_does_not_start_is_in_the_way_with_the_engines_own_sentence() {
    let tree = Tree::healthy();
    let sentence = "io_uring is forbidden by kernel.io_uring_disabled = 2".to_owned();
    let subject = Subject { started: Err(sentence.clone()), ..tree.subject() };
    let check = check(&subject, "io_uring");
    assert_eq!((check.holds, check.how), (Some(false), sentence));
    assert!(!report(&subject).holds());
}

#[test]
fn connections_are_held_by_as_many_workers_as_they_need() {
    let tree = Tree::healthy();
    let few = Subject {
        workers: 6,
        workers_needed: 6,
        descriptors: Descriptors::OfWorker(20_000),
        connections_allowed: 19_936,
        ..tree.subject()
    };
    let descriptors = check(&few, "RLIMIT_NOFILE");
    assert_eq!(descriptors.holds, Some(true));
    assert_eq!(descriptors.wanted, "at least 16731, for 6 workers");
    let workers = check(&few, "workers");
    assert_eq!((workers.holds, workers.wanted.as_str()), (Some(false), "at least 6"));
    assert!(workers.how.contains("--workers 6") && workers.how.contains("100064"), "{workers:?}");
    let told = Subject { workers_asked: Some(6), ..few };
    assert_eq!(check(&told, "workers").holds, Some(true));
    let too_few = Subject { workers: 5, workers_asked: Some(5), ..told };
    assert_eq!(check(&too_few, "RLIMIT_NOFILE").holds, Some(false));
    assert!(!report(&too_few).holds());
    let none = Subject { connections_allowed: 0, ..tree.subject() };
    assert_eq!(check(&none, "RLIMIT_NOFILE").holds, Some(false));
}

#[test]
fn an_engine_that_shares_descriptors_needs_those_of_all_workers_in_one_limit() {
    let tree = Tree::healthy();
    // 100,000 and 64 for each of two workers, and 320 of the process.
    let shared = |limit, allowed| Subject {
        engine: Kind::Epoll,
        workers: 2,
        cores: vec![0, 1],
        descriptors: Descriptors::OfProcess(limit),
        connections_allowed: allowed,
        ..tree.subject()
    };
    let enough = shared(100_448, 100_000);
    let row = check(&enough, "RLIMIT_NOFILE");
    assert_eq!((row.holds, row.wanted.as_str()), (Some(true), "at least 100448, for 2 workers"));
    assert!(row.value.ends_with(": 100000 connections, of the process"), "{row:?}");
    assert_eq!(check(&enough, "workers").holds, Some(true));
    let short = shared(100_447, 99_998);
    let row = check(&short, "RLIMIT_NOFILE");
    assert_eq!((row.holds, row.severity), (Some(false), Severity::Required));
    assert!(row.how.contains("LimitNOFILE=100448") && !row.how.contains("--workers"), "{row:?}");
    assert!(!report(&short).holds());
    let lines = report(&short).to_string();
    assert!(!lines.contains("lsof"), "its sockets are those of the process: {lines}");
}

#[test]
fn what_others_have_taken_and_what_the_flags_ask_for_is_wanted_as_well() {
    let tree = Tree::healthy();
    tree.write("proc/sys/net/netfilter/nf_conntrack_max", b"131100\n");
    tree.write("proc/sys/net/netfilter/nf_conntrack_count", b"29\n");
    assert_eq!(tree.check("net.netfilter.nf_conntrack_max").holds, Some(false));
    tree.write("proc/sys/net/netfilter/nf_conntrack_count", b"28\n");
    assert_eq!(tree.check("net.netfilter.nf_conntrack_max").holds, Some(true));
    let subject = Subject { listen_backlog: 4097, ..tree.subject() };
    assert_eq!(check(&subject, "net.core.somaxconn").wanted, "at least 4097");
}

#[test]
fn epoll_needs_neither_io_uring_nor_a_new_kernel_nor_memory_to_lock() {
    let tree = Tree::healthy();
    tree.write("proc/sys/kernel/osrelease", b"4.19.0\n");
    tree.write("proc/sys/kernel/io_uring_disabled", b"2\n");
    tree.write("proc/self/limits", b"Max open files 9 9 files\nMax locked memory 0 0 bytes\n");
    let epoll = || Subject { engine: Kind::Epoll, ..tree.subject() };
    assert!(report(&epoll()).holds());
    for name in ["kernel", "io_uring", "RLIMIT_MEMLOCK"] {
        let row = check(&epoll(), name);
        assert_eq!((row.holds, row.severity), (None, Severity::Advice), "{row:?}");
    }
    assert_eq!(check(&epoll(), "epoll").value, "1 workers start");
    let sentence = "the epoll engine cannot start".to_owned();
    let subject = Subject { started: Err(sentence.clone()), ..epoll() };
    assert_eq!(check(&subject, "epoll").how, sentence);
    assert!(report(&subject).to_string().contains("cannot be held: epoll\n"));
    // The same machine, for rings.
    let missing = report(&tree.subject()).to_string();
    assert!(missing.contains("cannot be held: kernel, RLIMIT_MEMLOCK\n"), "{missing}");
}

#[test]
fn tokio_uring_needs_io_uring_of_5_11_and_has_no_ring_of_buffers() {
    let tree = Tree::healthy();
    let subject = || Subject { engine: Kind::TokioUring, ..tree.subject() };
    tree.write("proc/sys/kernel/osrelease", b"5.11.0\n");
    assert!(report(&subject()).holds());
    tree.write("proc/sys/kernel/osrelease", b"5.10.99\n");
    assert_eq!(check(&subject(), "kernel").holds, Some(false));
    // 16 KiB of buffers' places less than the ring engine.
    assert_eq!(check(&subject(), "RLIMIT_MEMLOCK").wanted, "at least 324KiB");
    assert_eq!(check(&subject(), "io_uring").value, "1 rings start");
}

#[test]
fn memory_to_lock_is_that_of_all_rings_and_does_not_bind_who_may_lock_any() {
    // A page and 16,384 completions of 16 B, 1,024 submissions of 64, 1,024 buffers of 16.
    let tree = Tree::healthy();
    assert_eq!(tree.check("RLIMIT_MEMLOCK").wanted, "at least 340KiB");
    let three = Subject { limits: vec![Limits::default(); 3], ..tree.subject() };
    assert_eq!(check(&three, "RLIMIT_MEMLOCK").wanted, "at least 1020KiB");
    // With an arena of 3 MiB, which is two huge pages.
    let limits =
        Limits { zero_copy_bytes_min: 4096, zero_copy_arena_bytes: 3 << 20, ..Limits::default() };
    let arena = Subject { limits: vec![limits], ..tree.subject() };
    assert_eq!(check(&arena, "RLIMIT_MEMLOCK").wanted, "at least 4.3MiB");
    tree.write("proc/self/limits", b"Max locked memory  0  0  bytes\n");
    assert_eq!(tree.check("RLIMIT_MEMLOCK").holds, Some(false));
    tree.write("proc/self/status", b"CapEff:\t0000000000004000\n");
    let exempt = tree.check("RLIMIT_MEMLOCK");
    assert_eq!(
        (exempt.holds, exempt.value.as_str()),
        (Some(true), "0B, not counted: CAP_IPC_LOCK")
    );
    tree.write("proc/self/status", b"CapEff:\t0000000000000000\n");
    tree.write("proc/self/limits", b"Max locked memory  unlimited  unlimited  bytes\n");
    assert_eq!(tree.check("RLIMIT_MEMLOCK").holds, Some(true));
}

#[test]
fn the_tightest_control_group_bounds_memory_and_its_cache_does_not_count() {
    let tree = Tree::healthy();
    let group = |path: &str, content: &str| tree.write(path, content.as_bytes());
    // 100,000 × 4,736 B and a worker of 2 MiB.
    assert_eq!(tree.check("memory").wanted, "at least 453.6MiB");
    group("sys/fs/cgroup/unit/memory.max", "1073741824\n");
    group("sys/fs/cgroup/unit/memory.current", "1063256064\n");
    group("sys/fs/cgroup/unit/memory.stat", "anon 1\ninactive_file 838860800\n");
    let memory = tree.check("memory");
    assert_eq!(memory.value, "810MiB left in the control group");
    assert_eq!(memory.holds, Some(true));
    assert_eq!(tree.check("memory under load").holds, Some(false));
    group("sys/fs/cgroup/unit/memory.stat", "anon 1\n");
    assert_eq!(tree.check("memory").holds, Some(false));

    let tree = Tree::healthy();
    let group = |path: &str, content: &str| tree.write(path, content.as_bytes());
    group("proc/self/cgroup", "4:memory:/a/b\n3:cpu:/\n");
    group("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(tree.check("memory").value, "7.6GiB available");
    group("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "104857600\n");
    group("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "52428800\n");
    assert_eq!(tree.check("memory").value, "50MiB left in the control group");
}

/// 100,000 × 4,736 B and 2 MiB are 475,697,152 B; of a group of version 1 × 1,664 B, 168,497,152 B.
#[test]
fn a_control_group_of_version_1_is_judged_by_what_it_counts() {
    let tree = Tree::healthy();
    tree.write("proc/self/cgroup", b"4:memory:/a\n");
    tree.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", b"0\n");
    let limit = |bytes: u64| {
        let bytes = bytes.to_string();
        tree.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", bytes.as_bytes());
        let memory = tree.check("memory");
        (memory.holds, memory.value, memory.wanted)
    };
    let told =
        |holds, value: &str, wanted: &str| (Some(holds), value.to_owned(), wanted.to_owned());
    let wanted = "at least 160.6MiB";
    assert_eq!(limit(168_497_152), told(true, "160.6MiB left in the control group", wanted));
    assert_eq!(limit(168_497_151), told(false, "160.6MiB left in the control group", wanted));
    // The machine lacks some of what it counts, while the group, which has less, has enough.
    tree.write("proc/meminfo", b"MemAvailable: 400000 kB\n");
    let of_machine = told(false, "390.6MiB available", "at least 453.6MiB");
    assert_eq!(limit(209_715_200), of_machine);
    // Version 2 is taken to count all.
    let tree = Tree::healthy();
    tree.write("sys/fs/cgroup/unit/memory.max", b"475697151\n");
    assert_eq!(tree.check("memory").holds, Some(false));
    tree.write("sys/fs/cgroup/unit/memory.max", b"475697152\n");
    assert_eq!(tree.check("memory").holds, Some(true));
}

#[test]
fn features_are_what_the_engines_notes_do_not_miss() {
    let tree = Tree::healthy();
    let with_notes = |notes: &[&str]| {
        let started = Ok(notes.iter().map(|note| (*note).to_owned()).collect());
        check(&Subject { started, ..tree.subject() }, "kernel features")
    };
    let has = ["sockets are direct descriptors, in a table of the ring's own"];
    assert_eq!(with_notes(&has).holds, Some(true));
    let lacks = with_notes(&[
        "sockets are ordinary descriptors of the process",
        "the kernel does not take IORING_SETUP_NO_SQARRAY",
        "the ring's descriptor is looked up at every enter (Invalid argument (os error 22))",
    ]);
    assert_eq!((lacks.holds, lacks.severity), (Some(false), Severity::Advice));
    let value = "without plain submissions, a registered ring, direct descriptors";
    assert_eq!(lacks.value, value);
    for engine in [Kind::Epoll, Kind::TokioUring] {
        let row = check(&Subject { engine, ..tree.subject() }, "kernel features");
        assert_eq!(row.holds, None, "{row:?}");
    }
    let failed = Subject { started: Err("no".to_owned()), ..tree.subject() };
    let row = check(&failed, "kernel features");
    assert_eq!((row.holds, row.value.as_str()), (None, "not told here"));
}

#[test]
fn the_notes_that_tell_of_a_missing_feature_are_the_engines_own() {
    let sources = [
        include_str!("../../../../engine-ring/src/engine.rs"),
        include_str!("../../../../engine-ring/src/setup.rs"),
        include_str!("../../../../engine-ring/src/zero_copy.rs"),
    ]
    .concat();
    for (name, sentence) in engine::FEATURES {
        // The flag's name is put behind the rest of its sentence.
        let parts = match sentence.split_once(" IORING_") {
            Some((before, _)) => vec![before, &sentence[before.len() + 1..]],
            None => vec![sentence],
        };
        for part in parts {
            assert!(sources.contains(&format!("\"{part}")), "{name}: {part}");
        }
    }
}

#[test]
fn queues_are_enough_where_each_core_has_one_or_all_are_steered() {
    let tree = Tree::healthy();
    let two = || Subject { cores: vec![0, 1], ..tree.subject() };
    let check = |subject: Subject| check(&subject, "IRQ and RPS");
    assert_eq!(check(tree.subject()).holds, Some(true));
    assert_eq!(check(two()).holds, Some(false));
    tree.write("sys/class/net/eth0/queues/rx-0/rps_cpus", b"00000000,00000003\n");
    assert_eq!(check(two()).value, "eth0: receive queues 1, RPS on 1");
    assert_eq!(check(two()).holds, Some(true));
    tree.write("sys/class/net/eth0/queues/rx-0/rps_cpus", b"0\n");
    tree.write("sys/class/net/eth0/queues/rx-1/rps_cpus", b"0\n");
    assert_eq!(check(two()).holds, Some(true));
    tree.write("sys/class/net/br0/queues/rx-0/rps_cpus", b"0\n");
    assert_eq!(check(two()).holds, Some(true), "a bridge has no interrupt");
}

#[test]
fn a_network_namespace_that_does_not_see_a_setting_is_told_so() {
    let tree = Tree::healthy();
    fs::remove_file(tree.0.join("proc/sys/net/ipv4/tcp_mem")).unwrap();
    let check = tree.check("net.ipv4.tcp_mem");
    assert_eq!(check.holds, None);
    assert_eq!(check.value, "not told here: set outside of this network namespace");
    assert!(report(&tree.subject()).holds(), "advice is in nobody's way");
}

#[test]
fn where_nothing_can_be_read_nothing_that_is_required_is_taken_to_hold() {
    let tree = Tree::new(&[]);
    let report = report(&tree.subject());
    assert!(!report.holds());
    let unknown = report.checks.iter().filter(|check| check.holds.is_none());
    let unknown = unknown.filter(|check| check.severity == Severity::Required);
    let unknown: Vec<&str> = unknown.map(|check| check.name).collect();
    assert_eq!(unknown, ["kernel", "RLIMIT_MEMLOCK", "memory", "fs.file-max"]);
    assert!(report.to_string().contains("UNKNOWN  kernel"));
}

#[test]
fn whatever_a_file_holds_there_is_a_report() {
    let long = "9 ".repeat(1 << 20);
    let odd: [&[u8]; 7] = [
        b"",
        b"\xff\xfe\x00\x80",
        b"-9223372036854775808 -9223372036854775808 -9223372036854775808",
        b"18446744073709551616",
        b"9223372036854775807 9223372036854775807",
        b"Max open files\nMax locked memory x\nMemAvailable:\nCapEff: zz\n0::/../../..\n:::\n",
        long.as_bytes(),
    ];
    for (path, _) in HEALTHY {
        let tree = Tree::healthy();
        for content in odd {
            tree.write(path, content);
            let report = report(&tree.subject());
            assert_eq!(report.checks.len(), 23, "{path}");
            serde_json::from_str::<Value>(&report.json()).unwrap();
            assert!(report.to_string().lines().all(|line| line.len() < 1000), "{path}");
        }
        fs::remove_file(tree.0.join(path)).unwrap();
        fs::create_dir(tree.0.join(path)).unwrap();
        assert_eq!(report(&tree.subject()).checks.len(), 23, "{path}");
    }
}

#[test]
fn the_table_and_the_json_say_the_same() {
    let tree = Tree::healthy();
    tree.write("proc/sys/net/core/somaxconn", b"128\n");
    tree.write("proc/sys/kernel/osrelease", b"5.15.0\n");
    let report = report(&tree.subject());
    let json: Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["holds"], false);
    assert_eq!((&json["connections"], &json["workers"]), (&100_000.into(), &1.into()));
    let text = report.to_string();
    let rows: Vec<&str> = text.lines().skip(3).take_while(|line| !line.is_empty()).collect();
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(rows.len(), checks.len());
    for (row, check) in rows.iter().zip(checks) {
        let cell = |name: &str| check[name].as_str().unwrap();
        let state = match (check["holds"].as_bool(), cell("severity")) {
            (Some(true), _) => "ok",
            (Some(false), "required") => "MISSING",
            (Some(false), _) => "advice",
            (None, _) => "-",
        };
        let expected = [state, cell("name"), cell("value"), cell("wanted")].join(" ");
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row.join(" "), expected);
        assert!(text.contains(&format!("\n{}: {}\n", cell("name"), cell("why"))), "{check}");
        let is_how_told = text.contains(&format!("\n    {}\n", cell("how")));
        assert!(is_how_told || state == "ok" || state == "-", "{check}");
    }
    assert!(text.ends_with("100000 connections cannot be held: kernel\n"), "{text}");
    for note in json["notes"].as_array().unwrap() {
        assert!(text.contains(note.as_str().unwrap()));
    }
}
