//! `kernel-tuning/tune` sets what is wanted of the kernel's settings and puts back what was there:
//! on a tree of files, and as root on the settings of a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rustix::process::geteuid;
use serde_json::Value;

/// The repository.
const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

const TUNE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel-tuning/tune");

/// Settings of every kind, one of them absent.
const WANTED: &str = "# a comment\n\
    net.ipv4.tcp_migrate_req = 1\n\
    #: at-least net.core.somaxconn = 4096\n\
    #: at-least net.ipv4.tcp_max_syn_backlog = 4096\n\
    #: scaled net.ipv4.tcp_mem = 100 200 300\n\
    #: scaled fs.file-max = 105000\n\
    #: scaled net.netfilter.nf_conntrack_max = 131072\n";

/// A tree with `/proc/sys`, gone when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("{name}-{}", std::process::id())));
        for (key, value) in [
            ("net.ipv4.tcp_migrate_req", "0"),
            ("net.core.somaxconn", "128"),
            ("net.ipv4.tcp_max_syn_backlog", "65536"),
            ("net.ipv4.tcp_mem", "50\t500\t50"),
            ("fs.file-max", "9223372036854775807"),
        ] {
            let path = tree.setting(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        fs::write(tree.0.join("wanted"), WANTED).unwrap();
        tree
    }

    fn setting(&self, key: &str) -> PathBuf {
        self.0.join("proc/sys").join(key.replace('.', "/"))
    }

    fn value(&self, key: &str) -> String {
        fs::read_to_string(self.setting(key)).unwrap().trim().to_owned()
    }

    /// What it says, and its exit code.
    fn tune(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let mut command = Command::new(TUNE);
        command.args(arguments).arg("--root").arg(&self.0);
        command.arg("--settings").arg(self.0.join("wanted"));
        command.arg("--state").arg(self.state());
        said(&command.output().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> (String, Option<i32>) {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    (String::from_utf8(bytes).unwrap(), output.status.code())
}

#[test]
fn what_was_applied_is_reverted_but_for_what_was_changed_since() {
    let tree = Tree::new("tune-revert");
    assert_eq!(tree.tune(&["check"]).1, Some(1));
    let (text, code) = tree.tune(&["apply"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("absent  net.netfilter.nf_conntrack_max"), "{text}");
    assert_eq!(tree.value("net.ipv4.tcp_migrate_req"), "1");
    assert_eq!(tree.value("net.core.somaxconn"), "4096");
    assert_eq!(tree.value("net.ipv4.tcp_max_syn_backlog"), "65536", "more is not lowered");
    assert_eq!(tree.value("net.ipv4.tcp_mem"), "100 500 300", "nor is a part of it");
    assert_eq!(tree.value("fs.file-max"), "9223372036854775807");
    assert_eq!(tree.tune(&["check"]).1, Some(0));

    // A second time nothing is set, and what was there first is not forgotten.
    let recorded = fs::read_to_string(tree.state()).unwrap();
    let (text, code) = tree.tune(&["apply"]);
    assert!(code == Some(0) && !text.contains("set  "), "{text}");
    assert_eq!(fs::read_to_string(tree.state()).unwrap(), recorded);

    fs::write(tree.setting("net.core.somaxconn"), "777\n").unwrap();
    let (text, code) = tree.tune(&["apply"]);
    assert!(code == Some(1) && text.contains("left    net.core.somaxconn = 777"), "{text}");
    let (text, code) = tree.tune(&["revert"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("left    net.core.somaxconn = 777"), "{text}");
    assert!(text.contains("before 128"), "what it was is not lost: {text}");
    assert_eq!(tree.value("net.core.somaxconn"), "777");
    assert_eq!(tree.value("net.ipv4.tcp_migrate_req"), "0");
    assert_eq!(tree.value("net.ipv4.tcp_mem"), "50 500 50");
    assert_eq!(tree.tune(&["revert"]), ("nothing was applied\n".to_owned(), Some(0)));
}

/// As after an upgrade, whose file wants more than the one before.
#[test]
fn a_target_raised_since_is_set_and_reverted_to_what_was_there_first() {
    let tree = Tree::new("tune-raise");
    tree.tune(&["apply"]);
    fs::write(tree.0.join("wanted"), WANTED.replace("somaxconn = 4096", "somaxconn = 8192"))
        .unwrap();
    let (text, code) = tree.tune(&["apply"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("set     net.core.somaxconn = 8192, before 4096\n"), "{text}");
    let (text, code) = tree.tune(&["revert"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("set     net.core.somaxconn = 128, before 8192\n"), "{text}");
    assert_eq!(tree.value("net.core.somaxconn"), "128");
    assert_eq!(tree.value("net.ipv4.tcp_mem"), "50 500 50");
}

#[test]
fn what_only_the_boot_sets_is_advice_with_how_and_no_failure() {
    let tree = Tree::new("tune-boot");
    let key = "net.ipv4.tcp_ehash_entries";
    fs::write(tree.0.join("wanted"), format!("#: scaled {key} = 100000\n")).unwrap();
    fs::write(tree.setting(key), "-65536\n").unwrap();
    fs::set_permissions(tree.setting(key), PermissionsExt::from_mode(0o444)).unwrap();
    let advice = "advice  net.ipv4.tcp_ehash_entries = -65536, wanted at-least 100000: boot with \
                  thash_entries=131072, or set net.ipv4.tcp_child_ehash_entries=131072 and run in \
                  a network namespace made afterwards\n";
    for command in ["check", "apply"] {
        assert_eq!(tree.tune(&[command]), (advice.to_owned(), Some(0)));
    }
    assert_eq!(tree.tune(&["revert"]).0, "nothing was applied\n");
}

/// Two cores; a virtio device, whose interrupts are those of the PCI device around it, with two
/// queues of each direction, and one with a single queue.
#[test]
fn queues_says_what_to_set_for_each_device() {
    let tree = Tree::new("tune-queues");
    let write = |path: &str, content: &str| {
        let path = tree.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("sys/devices/system/cpu/online", "0-1\n");
    let interrupts = "           CPU0  CPU1\n\
         24:  0  0  PCI-MSIX-0000:00:03.0  0-edge  virtio0-config\n\
         25:  9  0  PCI-MSIX-0000:00:03.0  1-edge  virtio0-input.0\n\
         26:  9  0  PCI-MSIX-0000:00:03.0  2-edge  virtio0-output.0\n\
         27:  0  9  PCI-MSIX-0000:00:03.0  3-edge  virtio0-input.1\n\
         28:  0  9  PCI-MSIX-0000:00:03.0  4-edge  virtio0-output.1\n\
         30:  0  9  PCI-MSIX-0000:00:04.0  0-edge  eth1-TxRx-0@pci:0000:00:04.0\n";
    write("proc/interrupts", interrupts);
    for irq in 24..29 {
        write(&format!("sys/devices/pci/0000:00:03.0/msi_irqs/{irq}"), "msix\n");
    }
    for (bus, device, around, queues) in
        [("virtio", "eth0", "0000:00:03.0/virtio0", 2), ("pci", "eth1", "0000:00:04.0", 1)]
    {
        let of = format!("sys/devices/pci/{around}");
        write(&format!("sys/bus/{bus}/uevent"), "");
        write(&format!("{of}/uevent"), "");
        symlink(tree.0.join("sys/bus").join(bus), tree.0.join(&of).join("subsystem")).unwrap();
        write(&format!("sys/class/net/{device}/address"), "");
        let link = tree.0.join("sys/class/net").join(device).join("device");
        symlink(tree.0.join(&of), link).unwrap();
        for queue in 0..queues {
            write(&format!("sys/class/net/{device}/queues/rx-{queue}/rps_cpus"), "0\n");
            write(&format!("sys/class/net/{device}/queues/tx-{queue}/xps_cpus"), "0\n");
        }
    }
    write("sys/devices/pci/0000:00:04.0/msi_irqs/30", "msix\n");
    write("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n");
    let expected = "eth0: receive queues 2, cores 2\n\
        \x20 a core each for the interrupts of a queue, with irqbalance off; their names\n\
        \x20 stand in /proc/interrupts:\n\
        \x20   echo 0 > /proc/irq/25/smp_affinity_list\n\
        \x20   echo 0 > /proc/irq/26/smp_affinity_list\n\
        \x20   echo 1 > /proc/irq/27/smp_affinity_list\n\
        \x20   echo 1 > /proc/irq/28/smp_affinity_list\n\
        \x20 each core sends through a queue of its own:\n\
        \x20   echo 1 > /sys/class/net/eth0/queues/tx-0/xps_cpus\n\
        \x20   echo 2 > /sys/class/net/eth0/queues/tx-1/xps_cpus\n\
        eth1: receive queues 1, cores 2\n\
        \x20 fewer queues than cores. More queues (ethtool -L eth1 combined 2), where the\n\
        \x20 device has them; else packets are handed on by RPS, an interrupt to another core each:\n\
        \x20   echo 3 > /sys/class/net/eth1/queues/rx-0/rps_cpus\n";
    assert_eq!(tree.tune(&["queues"]), (expected.to_owned(), Some(0)));
    // One core and one queue; the name of its interrupt has the device's behind it.
    write("sys/devices/system/cpu/online", "1\n");
    let (text, _) = tree.tune(&["queues"]);
    assert!(text.contains("eth1: receive queues 1, cores 1\n"), "{text}");
    assert!(text.contains("echo 1 > /proc/irq/30/smp_affinity_list\n"), "{text}");
}

#[test]
fn shellcheck_has_nothing_to_say_of_the_shell_scripts() {
    let listing = ["-c", "safe.directory=*", "-C", TOP, "ls-files", "-z"];
    let git = Command::new("git").args(listing).output().unwrap();
    assert!(git.status.success(), "the scripts are those of a checkout: {git:?}");
    let files = String::from_utf8(git.stdout).unwrap();
    let is_script = |file: &&str| {
        let text = fs::read(Path::new(TOP).join(file)).unwrap_or_default();
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        line.starts_with(b"#!") && line.ends_with(b"sh")
    };
    let scripts: Vec<&str> = files.split_terminator('\0').filter(is_script).collect();
    assert!(scripts.contains(&"kernel-tuning/tune") && scripts.contains(&".ci/run"), "{scripts:?}");
    let mut command = Command::new("shellcheck");
    let output = command.current_dir(TOP).args(&scripts).output().expect("shellcheck is installed");
    assert_eq!(said(&output), (String::new(), Some(0)));
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let tree = Tree::new("tune-dry");
    let (text, code) = tree.tune(&["apply", "--dry-run"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("would   net.core.somaxconn = 4096, now 128"), "{text}");
    assert_eq!(tree.value("net.core.somaxconn"), "128");
    assert!(!tree.state().exists());
    tree.tune(&["apply"]);
    let (text, _) = tree.tune(&["revert", "--dry-run"]);
    assert!(text.contains("would   net.core.somaxconn = 128, now 4096"), "{text}");
    assert_eq!(tree.value("net.core.somaxconn"), "4096");
    assert!(tree.state().exists());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [&[][..], &["set"], &["apply", "--force"], &["apply", "--state"]] {
        let (text, code) = said(&Command::new(TUNE).args(arguments).output().unwrap());
        assert_eq!((code, text.starts_with("usage: ")), (Some(2), true), "{arguments:?}: {text}");
    }
}

/// The shipped settings, where nothing but a namespace of the test's own can be changed: the file
/// has only those of a namespace that can be set in it.
#[test]
fn the_settings_of_a_network_namespace_are_exactly_as_before() {
    if !geteuid().is_root() {
        // Whether others may make namespaces is the machine's choice.
        return;
    }
    let tree = Tree::new("tune-namespace");
    let settings = "net.ipv4.tcp_migrate_req = 1\n\
        #: at-least net.core.somaxconn = 999999\n\
        #: at-least net.ipv4.tcp_max_syn_backlog = 999999\n";
    fs::write(tree.0.join("wanted"), settings).unwrap();
    let script = r#"
        values() { cat /proc/sys/net/ipv4/tcp_migrate_req /proc/sys/net/core/somaxconn; }
        tune() { "$0" "$1" --settings "$2/wanted" --state "$2/state"; }
        values
        tune apply "$1" && values
        echo 4321 > /proc/sys/net/ipv4/tcp_max_syn_backlog
        tune revert "$1"
        echo "code $?"
        values
        cat /proc/sys/net/ipv4/tcp_max_syn_backlog
    "#;
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", script, TUNE]).arg(Path::new(&tree.0));
    let (text, _) = said(&command.output().unwrap());
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains('=')).collect();
    let [migrate, backlog, "1", "999999", "code 1", migrate_after, backlog_after, "4321"] =
        lines[..]
    else {
        panic!("{text}");
    };
    assert_eq!((migrate, backlog), (migrate_after, backlog_after), "{text}");
    assert!(text.contains("left    net.ipv4.tcp_max_syn_backlog = 4321"), "{text}");
}

/// The lines of the shipped settings that belong to a network namespace, in one of the test's own
/// where they are too low.
#[test]
fn doctor_sees_what_was_applied_and_after_the_revert_what_was_before() {
    if !geteuid().is_root() {
        // Whether others may make namespaces is the machine's choice.
        return;
    }
    let tree = Tree::new("tune-doctor");
    let shipped = fs::read_to_string(format!("{TOP}/kernel-tuning/sysctl.d/60-ringway.conf"));
    let shipped = shipped.unwrap();
    let of_namespace: Vec<&str> = shipped.lines().filter(|line| line.contains("net.")).collect();
    fs::write(tree.0.join("wanted"), of_namespace.join("\n") + "\n").unwrap();
    let script = r#"
        set -e
        ip link set lo up
        echo 0 > /proc/sys/net/ipv4/tcp_migrate_req
        echo 128 > /proc/sys/net/core/somaxconn
        echo 0 > /proc/sys/net/ipv4/tcp_syncookies
        echo 128 > /proc/sys/net/ipv4/tcp_max_syn_backlog
        tune() { "$0" "$1" --settings "$2/wanted" --state "$2/state"; }
        doctor() { "$2" doctor --json --connections 1000 --workers 1 > "$1"; }
        doctor "$1/before" "$2"
        tune apply "$1"
        doctor "$1/applied" "$2"
        tune revert "$1"
        doctor "$1/reverted" "$2"
    "#;
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", script, TUNE]).arg(&tree.0);
    let (text, code) = said(&command.arg(env!("CARGO_BIN_EXE_ringway")).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    let report = |name: &str| {
        let text = fs::read_to_string(tree.0.join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let [before, applied, reverted] = ["before", "applied", "reverted"].map(report);
    let [before, applied, reverted] = [&before, &applied, &reverted].map(rows);
    assert_eq!(before, reverted);
    assert_eq!(before.len(), 23);
    let changed = before.iter().zip(&applied).filter(|(before, applied)| before != applied);
    let text = |row: &Value, key| row[key].as_str().unwrap().to_owned();
    let mut told = Vec::new();
    for (before, applied) in changed {
        assert_eq!((&before["holds"], &applied["holds"]), (&false.into(), &true.into()));
        told.push([text(before, "name"), text(before, "value"), text(applied, "value")]);
    }
    let expected = [
        ["net.core.somaxconn", "128", "4096"],
        ["net.ipv4.tcp_max_syn_backlog", "128, SYN cookies off", "4096, SYN cookies off"],
        ["net.ipv4.tcp_migrate_req", "0", "1"],
    ];
    assert_eq!(told, expected);
}

/// The rows of a report without what lives: free memory, open files and tracked connections.
fn rows(report: &Value) -> Vec<Value> {
    let mut rows = report["checks"].as_array().unwrap().clone();
    for row in &mut rows {
        let name = row["name"].as_str().unwrap();
        if ["memory", "memory under load", "fs.file-max", "net.netfilter.nf_conntrack_max"]
            .contains(&name)
        {
            let row = row.as_object_mut().unwrap();
            row.retain(|key, _| matches!(key.as_str(), "name" | "severity" | "holds"));
        }
    }
    rows
}
