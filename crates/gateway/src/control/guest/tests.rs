//! The guest against workers that answer letters, on a clock that only moves when nobody has
//! anything to do.

use std::{net::SocketAddr, os::unix::net::UnixDatagram};

use serde_json::json;
use worker::{CloseReason, ClosedConnection, ConnectionId};

use super::*;
use crate::control::{
    Access,
    testing::{LETTERS_MAX, Plane, token_files},
};

fn plane(workers: u16) -> Plane {
    Plane::new(workers, Access::Loopback)
}

#[tokio::test(start_paused = true)]
async fn a_publication_reaches_every_worker_and_its_receivers_are_summed() {
    let mut plane = plane(2);
    plane.subscribe(0, "a/b", 3);
    plane.subscribe(1, "a/b", 4);
    let taken: Vec<_> = plane.workers.iter().map(|worker| Arc::clone(&worker.taken)).collect();
    plane.start();
    let answered = plane.send("POST", "/publish/a%2Fb", "hello").await;
    assert_eq!((answered.status, answered.body), (200, json!({"receivers": 7})));
    for taken in taken {
        let expected = (Some("a/b".to_owned()), b"hello".to_vec(), wire::DataOpcode::Text);
        assert_eq!(*taken.lock().unwrap(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_stays_in_order_and_a_broadcast_has_no_topic() {
    let mut plane = plane(2);
    plane.subscribe(0, "x", 1);
    plane.subscribe(0, "y", 5);
    plane.subscribe(1, "y", 2);
    let taken = Arc::clone(&plane.workers[1].taken);
    plane.start();
    let batch = r#"{"messages":[{"topic":"y","text":"1"},{"topic":"x","base64":"Mg=="}]}"#;
    let answered = plane.send("POST", "/publish", batch).await;
    assert_eq!((answered.status, answered.body), (200, json!({"receivers": [7, 1]})));
    let answered = plane.send("POST", "/broadcast?as=binary", "3").await;
    assert_eq!((answered.status, answered.body), (200, json!({"receivers": 8})));
    let encoded = plane.send("GET", "/latency", "").await.body["stages"]["encode"]["count"].take();
    assert_eq!(encoded, 3, "publications over HTTP are timed too");
    let taken = taken.lock().unwrap();
    let order: Vec<_> =
        taken.iter().map(|(topic, payload, _)| (topic.as_deref(), &payload[..])).collect();
    assert_eq!(order, [(Some("y"), &b"1"[..]), (Some("x"), b"2"), (None, b"3")]);
}

#[tokio::test(start_paused = true)]
async fn when_one_worker_has_no_room_nobody_gets_it_and_the_client_may_repeat() {
    let mut plane = plane(2);
    plane.subscribe(0, "a", 1);
    plane.subscribe(1, "a", 2);
    let slow = plane.workers.pop().unwrap();
    let taken = Arc::clone(&plane.workers[0].taken);
    plane.start();
    plane.settle().await;
    // The slow worker's queue holds its first report, and keeps two places free.
    let fit = LETTERS_MAX - RESERVED_LETTERS - 1;
    for _ in 0..fit {
        let answered = plane.send("POST", "/publish/a", "x").await;
        assert_eq!(answered.status, 503, "taken by one worker, and the other does not answer");
    }
    assert_eq!(taken.lock().unwrap().len(), fit);
    let answered = plane.send("POST", "/publish/a", "x").await;
    assert_eq!(answered.status, 429);
    assert_eq!(answered.headers["retry-after"], "1");
    assert!(answered.body["error"].is_string());
    let answered = plane.send("GET", "/topics", "").await;
    assert_eq!(answered.status, 429, "a question needs the same room");
    assert_eq!(taken.lock().unwrap().len(), fit, "nobody got what was refused");
    assert_eq!(plane.control.record().totals.publications_refused, 1);

    // Once the slow worker takes its letters, the next publication is taken.
    plane.workers.push(slow);
    plane.start();
    plane.settle().await;
    let answered = plane.send("POST", "/publish/a", "x").await;
    assert_eq!((answered.status, answered.body), (200, json!({"receivers": 3})));
}

#[tokio::test(start_paused = true)]
async fn a_batch_says_which_topics_had_begun_when_it_was_posted() {
    let mut plane = plane(2);
    plane.subscribe(1, "a", 1);
    let as_of = Arc::clone(&plane.workers[1].as_of);
    let interest = Arc::clone(&plane.control.facts.interest);
    plane.start();
    assert_eq!(plane.send("POST", "/publish/a", "1").await.status, 200);
    let begun = interest.announce(interest.hash(b"b"), Member(1)).begun;
    assert_eq!(plane.send("POST", "/publish/a", "2").await.status, 200);
    let as_of = as_of.lock().unwrap();
    assert!(as_of[0] < begun && as_of[1..] == [begun], "{as_of:?}, {begun:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publication_goes_to_workers_with_subscribers_and_needs_room_there_alone() {
    let mut plane = plane(2);
    plane.subscribe(0, "here", 1);
    plane.subscribe(1, "there", 1);
    let slow = plane.workers.pop().unwrap();
    let taken = Arc::clone(&plane.workers[0].taken);
    plane.start();
    plane.settle().await;
    // Worker 1 takes nothing: its queue fills up.
    while plane.send("POST", "/publish/there", "x").await.status == 503 {}
    for (target, receivers) in [("/publish/here", 1), ("/publish/nowhere", 0)] {
        let answered = plane.send("POST", target, "x").await;
        assert_eq!((answered.status, answered.body), (200, json!({"receivers": receivers})));
    }
    let batch = r#"{"messages":[{"topic":"here","text":"1"},{"topic":"there","text":"2"}]}"#;
    assert_eq!(plane.send("POST", "/publish", batch).await.status, 429);
    assert_eq!(plane.send("POST", "/broadcast", "x").await.status, 429);
    assert_eq!(taken.lock().unwrap().len(), 1, "nothing of what was for both, or for the other");
    drop(slow);
}

#[tokio::test(start_paused = true)]
async fn answers_never_overflow_a_workers_queue_however_late_they_are() {
    let mut plane = plane(1);
    let mut slow = plane.workers.pop().unwrap();
    plane.settle().await;
    let mut statuses = Vec::new();
    for _ in 0..3 * LETTERS_MAX {
        statuses.push(plane.send("POST", "/publish/a", "x").await.status);
        // The worker takes its letters and answers only later: its queue fills with receipts.
        slow.is_stuck = true;
        slow.turn();
        plane.settle().await;
    }
    assert!(statuses.contains(&503) && statuses.contains(&429), "{statuses:?}");
    let outstanding = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(outstanding, LETTERS_MAX - 2, "all but the report's place and what it brings");
}

#[tokio::test(start_paused = true)]
async fn topics_of_all_workers_are_one_list_in_pages() {
    let mut plane = plane(2);
    for (worker, topic, subscribers) in
        [(0, "a", 1), (0, "c+d", 2), (0, "e", 3), (1, "b", 5), (1, "c+d", 7)]
    {
        plane.subscribe(worker, topic, subscribers);
    }
    plane.start();
    let answered = plane.send("GET", "/topics?limit=3", "").await;
    assert_eq!(answered.status, 200);
    let page = json!({"topics": [
        {"topic": "a", "subscribers": 1},
        {"topic": "b", "subscribers": 5},
        {"topic": "c+d", "subscribers": 9},
    ], "next": "c+d"});
    assert_eq!(answered.body, page);
    let answered = plane.send("GET", "/topics?limit=3&after=c+d", "").await;
    assert_eq!(answered.body, json!({"topics": [{"topic": "e", "subscribers": 3}]}));
    let answered = plane.send("GET", "/topics/c%2Bd", "").await;
    assert_eq!(answered.body, json!({"topic": "c+d", "subscribers": 9}));
    let answered = plane.send("GET", "/topics/nobody", "").await;
    assert_eq!(answered.body, json!({"topic": "nobody", "subscribers": 0}));
    for target in ["/topics?limit=0", "/topics?limit=x", "/topics?after=%FF", "/topics/a//b"] {
        assert_eq!(plane.send("GET", target, "").await.status, 400, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_listings_are_gathered_at_once_and_who_waits_too_long_for_them_is_told_so() {
    let mut plane = plane(1);
    plane.workers[0].is_stuck = true;
    plane.start();
    let pages = ["/connections", "/topics", "/connections", "/topics", "/connections", "/topics"];
    let asked = tokio::time::Instant::now();
    let ask = async |target| {
        let answered = plane.send("GET", target, "").await;
        (answered.status, answered.headers.contains_key("retry-after"), asked.elapsed().as_secs())
    };
    let [a, b, c, d, e, f] = pages.map(ask);
    let answers = tokio::join!(a, b, c, d, e, f);
    let (gathered, refused) = ((503, false, 10), (429, true, 2));
    assert_eq!(answers, (gathered, gathered, gathered, gathered, refused, refused));
    let stats = plane.send("GET", "/stats", "").await;
    assert_eq!(stats.body["listings_refused"], 2);
    // There is room again for those that were given up.
    assert_eq!(plane.send("GET", "/topics", "").await.status, 503);
}

#[tokio::test(start_paused = true)]
async fn reports_come_every_second_and_closes_become_lines() {
    let mut plane = plane(1);
    let report = &mut plane.workers[0].report;
    report.opened = 2;
    report.gauges.connections = 1;
    report.closes.push(ClosedConnection {
        connection: ConnectionId { slot: 7, generation: 3 },
        peer: SocketAddr::from(([192, 0, 2, 1], 5000)),
        purpose: "a b".into(),
        reason: CloseReason::SlowConsumer,
    });
    report.closes_unlogged[CloseReason::NoPong as usize] = 12;
    plane.start();
    plane.settle().await;
    assert_eq!(plane.control.record().totals.workers[0].opened, 2);
    assert_eq!(plane.control.record().totals.connections(), 1);
    plane.pass(Duration::from_millis(3_500)).await;
    assert_eq!(plane.control.record().totals.connections(), 0, "later reports have come");
    let lines = plane.lines.lock().unwrap();
    let fields: Vec<_> =
        lines[0].fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(lines[0].text, "connection closed");
    assert_eq!(
        fields,
        [
            ("id", "0-7-3"),
            ("address", "192.0.2.1:5000"),
            ("topics", "a b"),
            ("code", "1013"),
            ("reason", "slow_consumer"),
        ]
    );
    let fields: Vec<_> =
        lines[1].fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(fields, [("worker", "0"), ("reason", "no_pong"), ("count", "12")]);
    assert_eq!(lines.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_signal_ends_readiness_at_once_and_drains_after_the_delay() {
    let mut plane = plane(2);
    plane.start();
    plane.settle().await;
    assert_eq!(plane.send("GET", "/readyz", "").await.status, 200);
    let before = tokio::time::Instant::now();
    plane.signals.send(Asked::Stop).await.unwrap();
    plane.settle().await;
    let answered = plane.send("GET", "/readyz", "").await;
    assert_eq!((answered.status, answered.body), (503, json!({"error": "draining"})));
    assert_eq!(plane.send("GET", "/healthz", "").await.status, 200);
    assert_eq!(plane.send("GET", "/stats", "").await.body["draining"], true);
    assert_eq!(plane.send("POST", "/publish/a", "x").await.status, 200, "workers still serve");
    assert_eq!((&mut plane.guest).await.unwrap(), Exit::Drained);
    assert_eq!(before.elapsed().as_secs(), 3, "after the delay, and as soon as all have ended");
    assert_eq!(plane.texts(), ["draining"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_gets_the_drain_as_soon_as_it_has_room() {
    let mut plane = plane(1);
    let mut slow = plane.workers.pop().unwrap();
    plane.settle().await;
    while slow.endpoint.waiting() < LETTERS_MAX - RESERVED_LETTERS {
        assert_eq!(plane.send("POST", "/publish/a", "x").await.status, 503);
    }
    plane.signals.send(Asked::Stop).await.unwrap();
    plane.pass(Duration::from_secs(4)).await;
    assert!(slow.turn(), "the drain is behind the publications");
    slow.ends.send(WorkerEnd { worker: 0, outcome: Ok(()) }).await.unwrap();
    assert_eq!(plane.guest.await.unwrap(), Exit::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once() {
    let mut plane = plane(1);
    let _slow = plane.workers.pop();
    plane.signals.send(Asked::Stop).await.unwrap();
    plane.signals.send(Asked::Stop).await.unwrap();
    assert_eq!((&mut plane.guest).await.unwrap(), Exit::Cut);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_fails_ends_the_process_with_its_sentence() {
    let mut plane = plane(2);
    let ends = plane.workers[0].ends.clone();
    plane.start();
    ends.send(WorkerEnd { worker: 1, outcome: Err("the ring is gone".into()) }).await.unwrap();
    let exit = (&mut plane.guest).await.unwrap();
    assert_eq!(exit, Exit::WorkerFailed("worker 1: the ring is gone".into()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_untold_is_a_failure() {
    let mut plane = plane(1);
    let ends = plane.workers[0].ends.clone();
    plane.start();
    ends.send(WorkerEnd { worker: 0, outcome: Ok(()) }).await.unwrap();
    let exit = (&mut plane.guest).await.unwrap();
    assert_eq!(exit, Exit::WorkerFailed("worker 0 has ended without being told to".into()));
}

#[tokio::test(start_paused = true)]
async fn a_failure_during_the_drain_waits_for_the_others() {
    let mut plane = plane(2);
    let mut slow = plane.workers.remove(0);
    let mut failing = plane.workers.remove(0);
    plane.signals.send(Asked::Stop).await.unwrap();
    plane.pass(Duration::from_secs(4)).await;
    assert!(failing.turn());
    let failure = WorkerEnd { worker: 1, outcome: Err("out of memory".into()) };
    failing.ends.send(failure).await.unwrap();
    plane.pass(Duration::from_secs(1)).await;
    assert!(!plane.guest.is_finished(), "worker 0 is still draining");
    let waiting = plane.send("POST", "/broadcast", "x");
    let answering = async {
        plane.settle().await;
        assert!(slow.turn());
    };
    let (answered, ()) = tokio::join!(waiting, answering);
    assert_eq!(answered.status, 200, "who has ended is not waited for");
    slow.ends.send(WorkerEnd { worker: 0, outcome: Ok(()) }).await.unwrap();
    let exit = (&mut plane.guest).await.unwrap();
    assert_eq!(exit, Exit::WorkerFailed("worker 1: out of memory".into()));
}

/// A plane of two workers whose supervisor has so much patience, and the supervisor's end.
fn supervised(patience: Duration) -> (Plane, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let supervisor = Supervisor::new(ours, Some(patience));
    (Plane::with(2, Access::Loopback, None, supervisor), theirs)
}

/// What the supervisor was told since it last looked.
fn told(supervisor: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut buffer = [0; 200];
    std::iter::from_fn(|| supervisor.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())).collect()
}

/// Signs of life among it.
fn beats(told: &[Vec<u8>]) -> usize {
    told.iter().filter(|it| **it == b"WATCHDOG=1").count()
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_stops_the_signs_of_life() {
    let (mut plane, supervisor) = supervised(Duration::from_secs(4));
    let hanging = plane.workers.pop().unwrap();
    plane.start();
    plane.pass(Duration::from_secs(20)).await;
    let until_now = told(&supervisor);
    assert!(until_now[0].starts_with(b"READY=1\n"));
    // One at the start and one every two seconds, until its silence has lasted for 3 s.
    assert_eq!(beats(&until_now), 2, "{until_now:?}");
    // It goes on, and so do they.
    tokio::spawn(hanging.run());
    plane.pass(Duration::from_secs(5)).await;
    assert_eq!(told(&supervisor)[0], b"WATCHDOG=1");
}

#[tokio::test(start_paused = true)]
async fn a_silence_that_patience_outlasts_stops_no_sign_of_life() {
    let (mut plane, supervisor) = supervised(Duration::from_secs(20));
    let mut hanging = plane.workers.pop().unwrap();
    plane.start();
    for _ in 0..50 {
        plane.pass(Duration::from_millis(100)).await;
        hanging.turn();
    }
    plane.pass(Duration::from_secs(30)).await;
    // At the start and after 10 s; when the silence had lasted for about 15 and 25, none.
    assert_eq!(beats(&told(&supervisor)), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_has_ended_is_not_missed_while_another_drains() {
    let (mut plane, supervisor) = supervised(Duration::from_secs(2));
    let mut slow = plane.workers.pop().unwrap();
    plane.start();
    plane.signals.send(Asked::Stop).await.unwrap();
    let mut is_drained = false;
    for _ in 0..100 {
        plane.pass(Duration::from_millis(100)).await;
        is_drained |= slow.turn();
    }
    assert!(is_drained, "the other one was told so, and has ended, 7 s ago");
    told(&supervisor);
    for _ in 0..50 {
        plane.pass(Duration::from_millis(100)).await;
        slow.turn();
    }
    assert_eq!(beats(&told(&supervisor)), 5);
}

/// Two workers where clients need tokens. The wall clock was at its beginning when the process
/// started, as far as they know.
fn guarded(name: &str) -> Plane {
    let path = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
    std::fs::write(&path, "a secret of thirty-two bytes or more").unwrap();
    let files = token_files(&path);
    let verifier = files.read().unwrap();
    std::fs::remove_file(&path).unwrap();
    let access = Arc::new(hub::Access { verifier, unix_at_zero_ms: 0 });
    let tokens = ClientTokens::new(files, access, 2);
    Plane::with(2, Access::Loopback, Some(tokens), Supervisor::default())
}

#[tokio::test(start_paused = true)]
async fn a_removal_blocks_until_the_last_token_has_ended_and_the_workers_are_told() {
    let mut plane = guarded("block");
    let told: Vec<_> = plane.workers.iter().map(|it| Arc::clone(&it.unblocked)).collect();
    plane.workers[0].removal = hub::Removal { closed: 3, tokens_end: Some(40) };
    plane.workers[1].removal = hub::Removal { closed: 1, tokens_end: Some(70) };
    plane.start();
    plane.settle().await;
    let answered = plane.send("DELETE", "/connections?sub=alice", "").await;
    let until = "1970-01-01T00:01:40.000Z";
    let expected = json!({"closed": 4, "blocked_until": until});
    assert_eq!((answered.status, answered.body), (200, expected), "half a minute after the last");
    let blocked = |stats: &serde_json::Value| stats["blocked_subs"].as_u64().unwrap();
    assert_eq!(blocked(&plane.send("GET", "/stats", "").await.body), 1);
    plane.pass(Duration::from_secs(2)).await;
    assert_eq!(blocked(&plane.send("GET", "/stats", "").await.body), 0);
    for told in &told {
        assert_eq!(*told.lock().unwrap(), [Arc::from("alice")], "long ago");
    }
    // Who is removed by anything else is not blocked.
    let answered = plane.send("DELETE", "/connections?topic=a", "").await;
    assert_eq!((answered.status, answered.body), (200, json!({"closed": 4})));
    let answered = plane.send("DELETE", "/connections?topic=a&block=1m", "").await;
    assert_eq!(answered.status, 400);
    let answered = plane.send("DELETE", "/connections?sub=a&block=1h", "").await;
    assert_eq!(answered.status, 400);
    let answered = plane.send("DELETE", "/connections?sub=bob&block=90m", "").await;
    assert_eq!(answered.status, 200);
    assert!(answered.body["blocked_until"].as_str() > Some("2020"), "{}", answered.body);
    plane.pass(Duration::from_secs(2)).await;
    assert_eq!(blocked(&plane.send("GET", "/stats", "").await.body), 1);
}

#[tokio::test(start_paused = true)]
async fn no_block_ends_before_all_have_said_what_they_refused_and_one_lasts_as_long_as_that() {
    let mut plane = guarded("refused");
    let mut late = plane.workers.pop().unwrap();
    late.keeps_report = true;
    plane.workers[0].removal = hub::Removal { closed: 1, tokens_end: Some(40) };
    let told = Arc::clone(&plane.workers[0].unblocked);
    plane.start();
    for subject in ["alice", "bob"] {
        let target = format!("/connections?sub={subject}");
        let removing = plane.send("DELETE", &target, "");
        let answering = async {
            plane.settle().await;
            late.turn();
        };
        let (answered, ()) = tokio::join!(removing, answering);
        assert_eq!(answered.body["blocked_until"], "1970-01-01T00:01:10.000Z", "long ago");
    }
    plane.pass(Duration::from_secs(3)).await;
    assert_eq!(plane.send("GET", "/stats", "").await.body["blocked_subs"], 2);
    late.refused = Some(Box::new(hub::Refused { ends: [("alice".into(), u64::MAX)].into() }));
    late.give_report();
    plane.pass(Duration::from_secs(2)).await;
    assert_eq!(plane.send("GET", "/stats", "").await.body["blocked_subs"], 1);
    assert_eq!(*told.lock().unwrap(), [Arc::from("bob")]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_only_a_worker_has_not_answered_that_ends_is_settled() {
    let mut plane = guarded("ended");
    let hanging = plane.workers.pop().unwrap();
    plane.workers[0].removal = hub::Removal { closed: 3, tokens_end: Some(40) };
    plane.start();
    let removing = plane.send("DELETE", "/connections?sub=alice", "");
    let ending = async {
        plane.settle().await;
        hanging.ends.send(WorkerEnd { worker: 1, outcome: Ok(()) }).await.unwrap();
    };
    let (answered, ()) = tokio::join!(removing, ending);
    let expected = json!({"closed": 3, "blocked_until": "1970-01-01T00:01:10.000Z"});
    assert_eq!((answered.status, answered.body), (200, expected));
}

#[tokio::test(start_paused = true)]
async fn a_removal_without_room_blocks_nobody_and_one_that_hangs_blocks() {
    let mut plane = guarded("no-room");
    let _hanging = plane.workers.pop();
    plane.start();
    plane.settle().await;
    // Its queue holds its first report and the clock's letter, and keeps two places free.
    let fit = LETTERS_MAX - RESERVED_LETTERS - 2;
    for number in 0..fit {
        let answered = plane.send("DELETE", &format!("/connections?sub=s{number}"), "").await;
        assert_eq!(answered.status, 503, "one worker does not answer");
    }
    let answered = plane.send("DELETE", "/connections?sub=alice", "").await;
    assert_eq!(answered.status, 429, "nothing was done");
    let stats = plane.send("GET", "/stats", "").await.body;
    assert_eq!((&stats["blocked_subs"], &stats["removals_refused"]), (&json!(fit), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn where_clients_need_no_tokens_nobody_is_blocked() {
    let mut plane = plane(1);
    plane.start();
    let answered = plane.send("DELETE", "/connections?sub=alice", "").await;
    assert_eq!((answered.status, answered.body), (200, json!({"closed": 0})));
    assert_eq!(plane.send("GET", "/stats", "").await.body["blocked_subs"], 0);
}

#[tokio::test(start_paused = true)]
async fn workers_are_told_when_the_wall_clock_was_set() {
    let mut plane = guarded("clock");
    let told: Vec<_> = plane.workers.iter().map(|it| Arc::clone(&it.accesses)).collect();
    plane.start();
    plane.pass(Duration::from_secs(5)).await;
    for told in told {
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 1, "once");
        assert!(told[0].unix_at_zero_ms > 1_600_000_000_000, "in this century");
    }
}
