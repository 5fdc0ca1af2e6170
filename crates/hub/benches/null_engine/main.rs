//! What a worker and its hub cost by themselves: instructions on an engine that does nothing,
//! counted by callgrind, so that the figure is the same on a busy machine. What the engine itself
//! does, a few instructions a completion, is counted too.
//!
//! ```text
//! cargo bench -p ringway-hub --bench null_engine --profile bench-fast            # and the bounds
//! cargo bench -p ringway-hub --bench null_engine --profile bench-fast -- chunks  # by chunk size
//! ```
//!
//! Fails where a figure is above its bound. A bound is the figure when it was last set and 5 % for
//! another libc: who makes a figure smaller sets its bound anew.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_types, reason = "it runs itself under valgrind")]

mod bed;

use std::{error::Error, process::Command};

use bed::Bed;

/// What is measured, and what one item of it may cost.
struct Case {
    name: &'static str,
    /// What is counted.
    item: &'static str,
    /// Instructions an item.
    bound: f64,
    run: fn() -> u32,
}

const CASES: [Case; 6] = [
    Case { name: "broadcast", item: "delivery to 10,000", bound: 25.5, run: || broadcast(64) },
    Case { name: "rooms", item: "delivery to rooms of 8", bound: 575.0, run: rooms },
    Case { name: "echo", item: "message and its echo", bound: 1_700.0, run: echo },
    Case { name: "handshake", item: "handshake", bound: 32_000.0, run: handshakes },
    Case { name: "ping", item: "ping and its pong", bound: 980.0, run: pings },
    Case { name: "idle", item: "visit of the ping cursor", bound: 22.0, run: visits },
];

/// Subscribers offered a frame in one turn.
const CHUNKS: [u32; 6] = [16, 32, 64, 128, 256, 512];

/// Payload bytes of every message.
const PAYLOAD_BYTES: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => hold_bounds(),
        ["chunks"] => compare_chunks(),
        ["run", name] => {
            let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
            println!("{}", (case.run)());
            Ok(())
        }
        ["run", "broadcast", chunk] => {
            println!("{}", broadcast(chunk.parse()?));
            Ok(())
        }
        _ => Err("usage: null_engine [chunks | run CASE]".into()),
    }
}

fn hold_bounds() -> Result<(), Box<dyn Error>> {
    let mut is_over = false;
    println!("{:<26} {:>12} {:>8}", "item", "instructions", "bound");
    for Case { name, item, bound, .. } in &CASES {
        let figure = instructions_per_item(&[name])?;
        let remark = if figure > *bound { "  above its bound" } else { "" };
        println!("{item:<26} {figure:>12.1} {bound:>8.1}{remark}");
        is_over |= figure > *bound;
    }
    if is_over { Err("a figure is above its bound".into()) } else { Ok(()) }
}

fn compare_chunks() -> Result<(), Box<dyn Error>> {
    println!("subscribers a turn  instructions per delivery");
    for chunk in CHUNKS {
        let figure = instructions_per_item(&["broadcast", &chunk.to_string()])?;
        println!("{chunk:<19} {figure:.1}");
    }
    Ok(())
}

/// Runs a case under callgrind, which counts only while `measured` runs.
fn instructions_per_item(case: &[&str]) -> Result<f64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=null_engine::bed::Bed::measured")
        .arg(std::env::current_exe()?)
        .arg("run")
        .args(case)
        .output()
        .map_err(|error| format!("valgrind does not start: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    let (Some((_, collected)), true) = (collected, output.status.success()) else {
        return Err(format!("{case:?}: {told}").into());
    };
    let items: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let instructions: f64 = collected.trim().parse()?;
    if instructions == 0.0 {
        return Err(format!("{case:?}: nothing was counted; is `measured` still its name?").into());
    }
    Ok(instructions / items)
}

/// One topic for everyone, ten publications of a client, one after the other.
fn broadcast(chunk: u32) -> u32 {
    let mut bed = Bed::new(|options| options.limits.fanout_targets_max = chunk);
    let clients = bed.connect(10_000, |_| "/ws/news".to_owned());
    for _ in 0..10 {
        bed.say(0, PAYLOAD_BYTES);
        bed.measured();
    }
    assert_eq!(bed.offered(), 10 * clients);
    bed.offered()
}

/// A publication in each of 1,000 rooms.
fn rooms() -> u32 {
    let mut bed = Bed::new(|_| ());
    let clients = bed.connect(8_000, |slot| format!("/ws/room/{}", slot / 8));
    for room in 0..1_000 {
        bed.say(room * 8, PAYLOAD_BYTES);
    }
    bed.measured();
    assert_eq!(bed.offered(), clients);
    bed.offered()
}

fn echo() -> u32 {
    let mut bed = Bed::new(|_| ());
    let clients = bed.connect(1_000, |_| "/echo".to_owned());
    (0..clients).for_each(|slot| bed.say(slot, PAYLOAD_BYTES));
    bed.measured();
    assert_eq!(bed.offered(), clients);
    bed.offered()
}

/// Accepted until the 101 was sent, each client in a topic that exists.
fn handshakes() -> u32 {
    let mut bed = Bed::new(|_| ());
    bed.connect(1, |_| "/ws/news".to_owned());
    bed.knock(1_000, |_| "/ws/news".to_owned());
    bed.measured();
    assert_eq!(bed.sent(), 1_001);
    1_000
}

/// An interval in which nobody says anything but pong.
fn pings() -> u32 {
    let mut bed = Bed::new(|options| options.ping_interval = Some(bed::PING_INTERVAL));
    let clients = bed.connect(10_000, |_| "/ws/news".to_owned());
    bed.pass_unmeasured(bed::PING_INTERVAL);
    let before = bed.offered();
    bed.pass(bed::PING_INTERVAL);
    assert_eq!(bed.offered() - before, clients);
    clients
}

/// Part of an interval in which the cursor comes to those who were heard in its last half.
fn visits() -> u32 {
    const PART: u32 = 5;
    let mut bed = Bed::new(|options| options.ping_interval = Some(bed::PING_INTERVAL));
    let clients = bed.connect(10_000, |_| "/ws/news".to_owned());
    // The wheel lets go of the deadlines of the handshakes.
    bed.pass_unmeasured(bed::HANDSHAKE_TIMEOUT * 2);
    bed.pass(bed::PING_INTERVAL / PART);
    assert_eq!(bed.offered(), 0, "the cursor has not come round to the last half");
    clients / PART
}
