//! `kernel-tuning/tune` sets what is wanted of the kernel's settings and puts back what was there:
//! on a tree of files, and as root on the settings of a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rustix::process::geteuid;

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
