//! Which crate knows which, as ARCHITECTURE draws it. The arrows are what makes the worker run the
//! same on a ring and in simulation, so they are held where a dependency is one line to add.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

const WIRE: &str = "ringway-wire";
const MESH: &str = "ringway-mesh";
const WORKER: &str = "ringway-worker";
const TOKENS: &str = "ringway-tokens";
const HUB: &str = "ringway-hub";
const SOCKETS: &str = "ringway-sockets";
const SIM: &str = "ringway-sim";
const GATEWAY: &str = "ringway";

/// Crates by which a crate would see a socket, a clock or a thread.
const IO: [&str; 9] = [
    "core_affinity",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "rustix",
    "socket2",
    "tokio",
    "tokio-uring",
];

fn workspace() -> Metadata {
    MetadataCommand::new().no_deps().other_options(["--offline".to_owned()]).exec().unwrap()
}

fn is_engine(package: &str) -> bool {
    package.starts_with("ringway-engine-")
}

/// Whether the crate may have the other, which is ours too, as a dependency.
fn may_know(package: &str, other: &str) -> bool {
    match package {
        WIRE | MESH | TOKENS => false,
        WORKER => [WIRE, MESH].contains(&other),
        HUB => [WIRE, MESH, WORKER, TOKENS].contains(&other),
        SOCKETS => other == WORKER,
        SIM => [WIRE, MESH, WORKER, HUB, TOKENS].contains(&other),
        GATEWAY => [WIRE, MESH, WORKER, TOKENS, HUB, SOCKETS].contains(&other) || is_engine(other),
        _ if is_engine(package) => [WIRE, MESH, WORKER, SOCKETS].contains(&other),
        // What measures is a client, and looks into no crate but that of the protocol.
        "ringway-bench" | "ringway-floor" => other == WIRE,
        _ => panic!("say here what {package} may know"),
    }
}

fn depends<'a>(package: &'a Package, kinds: &[DependencyKind]) -> impl Iterator<Item = &'a str> {
    let dependencies = package.dependencies.iter().filter(|it| kinds.contains(&it.kind));
    dependencies.map(|it| it.name.as_str())
}

#[test]
fn every_crate_knows_only_those_it_may_know() {
    let workspace = workspace();
    let packages = workspace.workspace_packages();
    let is_ours = |name: &str| packages.iter().any(|package| *package.name == name);
    let mut arrows = 0;
    for package in &packages {
        let name = package.name.as_str();
        let shipped = [DependencyKind::Normal, DependencyKind::Build];
        for other in depends(package, &shipped).filter(|other| is_ours(other)) {
            assert!(may_know(name, other), "{name} must not know {other}");
            arrows += 1;
        }
        // A test may run in simulation, and check its own crate's features.
        for other in depends(package, &[DependencyKind::Development]).filter(|it| is_ours(it)) {
            let is_allowed = other == SIM || other == name || may_know(name, other);
            assert!(is_allowed, "the tests of {name} must not know {other}");
        }
    }
    assert!(arrows >= 10, "there are fewer arrows than crates: {arrows}");
}

#[test]
fn no_crate_of_the_core_depends_on_one_that_does_io() {
    let workspace = workspace();
    for package in workspace.workspace_packages() {
        if [WIRE, MESH, WORKER, TOKENS, HUB].contains(&package.name.as_str()) {
            let mut io = depends(package, &[DependencyKind::Normal]).filter(|it| IO.contains(it));
            assert_eq!(io.next(), None, "{} does no I/O", package.name);
        }
    }
}
