//! A rolling restart: a second process starts on the addresses of the first, which then drains.
//! Subscribers move, publications go on through both control planes, and visitors come and go all
//! the time. What the clients saw must be complete but for the time that each of them was away.

mod crowd;
mod picture;
mod publisher;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use self::crowd::{Crowd, Gap, Move, Seen};
use self::publisher::{Posted, Publisher};
use super::Claims;
use super::gateway::Gateway;
use crate::failure::{Failure, Outcome};
use crate::payload::now_ns;
use crate::proc;
use crate::units;

/// How long everything runs between two steps.
const STEP: Duration = Duration::from_secs(2);
/// How long anything may take beside the drain.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What may lie between the process and the client: a message that is published this long before
/// the client sees its Close may have come too late for it.
const SLACK_NS: u64 = 100_000_000;

#[derive(Args, Clone, Debug)]
pub(super) struct Options {
    /// Command line of both processes, read by sh; --drain is added.
    #[arg(long, default_value = "./ringway serve --workers 2")]
    server: String,
    /// Subscribers, in a hundred rooms.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=8000))]
    connections: u32,
    /// Visitors, each of which comes five times a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1000))]
    visitors: u32,
    /// How long the first process drains.
    #[arg(long, value_parser = units::duration, default_value = "10s")]
    drain: Duration,
    /// A closed subscriber comes back after a random part of this.
    #[arg(long, value_parser = units::duration, default_value = "1s")]
    jitter: Duration,
    /// Draws who was connected where, and the closes, into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// What happened when, on the clock of `now_ns`.
#[derive(Debug)]
struct Times {
    second_ns: u64,
    signal_ns: u64,
    ended_ns: u64,
}

pub(super) fn run(options: &Options) -> Outcome<bool> {
    let migrate = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req")?;
    println!("kernel       net.ipv4.tcp_migrate_req = {}", migrate.trim());
    let command = format!("{} --drain {}ms", options.server, options.drain.as_millis());
    let mut first = Gateway::start(&command)?;
    let crowd = Crowd::start(crowd::Options {
        address: first.data(),
        subscribers: options.connections,
        visitors: options.visitors,
        jitter_ns: u64::try_from(options.jitter.as_nanos()).map_err(Failure::run)?,
    })?;
    all_open(&crowd, options.connections)?;
    let publisher = Publisher::start(first.admin()?);
    thread::sleep(STEP);
    let moved_before = proc::migrated_requests()?;
    let second = Gateway::start_at(&command, first.data())?;
    publisher.add(second.admin()?)?;
    let second_ns = now_ns();
    thread::sleep(STEP);
    let signal_ns = now_ns();
    first.terminate()?;
    let code = first.await_end(options.drain + PATIENCE)?;
    let times = Times { second_ns, signal_ns, ended_ns: now_ns() };
    all_open(&crowd, options.connections)?;
    thread::sleep(STEP);
    let posted = publisher.finish()?;
    let stats = second.stats_until(|stats| stats["connections"] == options.connections)?;
    thread::sleep(STEP);
    let seen = crowd.finish()?;
    let moved = proc::migrated_requests()?.0 - moved_before.0;
    let lost = proc::migrated_requests()?.1 - moved_before.1;
    println!("kernel       moved {moved} requests to another listener, failed to move {lost}");
    let mut claims = Claims::new();
    claims.add(
        "the first process ends with code 0",
        code == Some(0),
        &format!("{code:?}, {:.1} s after the signal", seconds(times.signal_ns, times.ended_ns)),
    );
    claims.add(
        "every subscriber is connected to the second one",
        stats["connections"] == options.connections,
        &format!("{} of {}", stats["connections"], options.connections),
    );
    judge(options, &seen, &posted, &mut claims);
    if let Some(path) = &options.svg {
        let title = format!("net.ipv4.tcp_migrate_req = {}", migrate.trim());
        picture::draw(path, &title, options.connections, &seen.moves, &times)?;
    }
    Ok(claims.hold)
}

/// Waits until all subscribers are connected.
fn all_open(crowd: &Crowd, subscribers: u32) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while crowd.open() < subscribers {
        if Instant::now() > deadline {
            let open = crowd.open();
            return Err(Failure::run(format!("only {open} of {subscribers} are connected")));
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

/// What the clients saw.
fn judge(options: &Options, seen: &Seen, posted: &[Posted], claims: &mut Claims) {
    let expected = [("1012 restarting".to_owned(), options.connections)];
    let closes: Vec<(String, u32)> = seen.closes.clone().into_iter().collect();
    claims.add(
        "every subscriber was closed once, with 1012",
        closes == expected,
        &format!("{closes:?}"),
    );
    let mut away: Vec<u64> = seen.moves.iter().map(|it| it.opened_ns - it.closed_ns).collect();
    away.sort_unstable();
    let at = |part: usize| {
        let ns = away.get((away.len() * part / 1000).min(away.len().saturating_sub(1)));
        ns.map_or(0.0, |ns| *ns as f64 / 1e6)
    };
    println!(
        "away         p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms, {:.0} ms of it jitter at most",
        at(500),
        at(990),
        at(1000),
        options.jitter.as_secs_f64() * 1000.0
    );
    let missed = Missed::of(seen, posted);
    claims.add(
        "who was away missed what was published meanwhile, and nothing else",
        missed.unexplained == 0 && seen.repeated == 0,
        &format!(
            "{} messages came, {} were missed while away, {} otherwise, {} came twice",
            seen.messages, missed.explained, missed.unexplained, seen.repeated
        ),
    );
    println!("visits       {}; refusals by status {:?}", seen.visits, seen.statuses);
    claims.add(
        "nobody was reset, and somebody was listening all the time",
        seen.resets.is_empty() && seen.refused == 0,
        &format!("resets {:?}, {} refused", seen.resets, seen.refused),
    );
}

/// Messages that subscribers did not get.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missed {
    /// Published while they were away.
    explained: u64,
    unexplained: u64,
}

impl Missed {
    fn of(seen: &Seen, posted: &[Posted]) -> Missed {
        let published = publisher::numbers(posted.len());
        let last = (0..).zip(&seen.ends).map(|(index, (next, away)): (u32, _)| Gap {
            room: index % publisher::ROOMS,
            first: *next,
            next: published,
            away: *away,
        });
        let mut missed = Missed::default();
        for gap in seen.gaps.iter().copied().chain(last) {
            for number in gap.first..gap.next {
                let tick = posted.get(publisher::tick_of(gap.room, number));
                let is_explained =
                    gap.away.zip(tick).is_some_and(|(away, posted)| is_while_away(away, *posted));
                missed.explained += u64::from(is_explained);
                missed.unexplained += u64::from(!is_explained);
            }
        }
        missed
    }
}

/// Whether a message may have been taken for delivery while the subscriber was away.
fn is_while_away(away: Move, posted: Posted) -> bool {
    posted.until_ns + SLACK_NS >= away.closed_ns && posted.from_ns <= away.opened_ns
}

fn seconds(from_ns: u64, until_ns: u64) -> f64 {
    Duration::from_nanos(until_ns.saturating_sub(from_ns)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn posted(ticks: u64) -> Vec<Posted> {
        let tick = |tick| Posted { from_ns: tick * 10 * MS, until_ns: (tick * 10 + 1) * MS };
        (0..ticks).map(tick).collect()
    }

    #[test]
    fn what_was_published_while_a_subscriber_was_away_explains_its_gap() {
        // Room 0 has its messages at 0, 100, 200 ms and so on.
        let away = Some(Move { closed_ns: 2_150 * MS, opened_ns: 2_450 * MS });
        let gap = |first, next, away| Gap { room: 0, first, next, away };
        let missed = |gaps| {
            let seen = Seen { gaps, ..Seen::default() };
            Missed::of(&seen, &posted(100 * 10))
        };
        // 2.2, 2.3, 2.4 s.
        assert_eq!(missed(vec![gap(22, 25, away)]), Missed { explained: 3, unexplained: 0 });
        // And 1.9 s, which it was there for, and 2.5 s.
        assert_eq!(missed(vec![gap(19, 20, away)]), Missed { explained: 0, unexplained: 1 });
        assert_eq!(missed(vec![gap(22, 26, away)]), Missed { explained: 3, unexplained: 1 });
        assert_eq!(missed(vec![gap(22, 25, None)]), Missed { explained: 0, unexplained: 3 });
    }

    #[test]
    fn what_never_came_at_the_end_is_missed_too() {
        let seen = Seen { ends: vec![(9, None), (10, None)], ..Seen::default() };
        assert_eq!(Missed::of(&seen, &posted(100)), Missed { explained: 0, unexplained: 1 });
    }
}
