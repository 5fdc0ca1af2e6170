//! What tokens let clients do while they are connected.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{EncodingKey, Header, encode};
use ringway_hub::{Access, Letter};
use serde_json::json;
use worker::{CloseReason, Time};

use crate::rig::{Client, Rig, Setting, access};

const SECRET: &str = "a secret of at least thirty-two bytes";

const GUARDED: Setting = Setting { secret: Some(SECRET), ..Setting::PLAIN };

const EXPIRED: &str = "close 1008 token expired";

/// A target with a token that names every topic to subscribe to, and these to publish to.
fn target(topic: &str, exp: u64, publish: &[&str]) -> String {
    let claims = json!({ "sub": "alice", "exp": exp, "topics": ["*"], "publish": publish });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("/ws/{topic}?token={}", encode(&Header::default(), &claims, &key).unwrap())
}

#[test]
fn a_connection_ends_with_its_token_and_not_before() {
    let mut rig = Rig::new(GUARDED);
    let first = rig.connect(0, 0, &target("a", 100, &["a"]));
    let second = rig.connect(0, 1, &target("a", 200, &["a"]));
    rig.settle();
    rig.pass(Duration::from_millis(99_999));
    rig.settle();
    rig.send(first, "in time");
    rig.settle();
    assert_eq!(rig.received(first), ["in time"]);
    rig.pass(Duration::from_millis(2));
    rig.settle();
    assert_eq!(rig.received(first), [EXPIRED]);
    rig.send(second, "still here");
    rig.settle();
    assert_eq!(rig.received(second), ["in time", "still here"]);
    assert_eq!(rig.report(0).closed[CloseReason::TokenExpired as usize], 1);
}

#[test]
fn a_turn_does_not_verify_more_than_64_tokens_and_nobody_else_waits_for_a_verification() {
    let waited = |setting, target: &str| {
        let mut rig = Rig::new(setting);
        (0..65).for_each(|slot| _ = rig.request(0, slot, target, ""));
        rig.settle();
        rig.report(0).verification_deferrals
    };
    let target = target("a", 100, &[]);
    assert_eq!(waited(GUARDED, &target), 1);
    assert_eq!(waited(GUARDED, "/ws/a"), 0);
    assert_eq!(waited(Setting::PLAIN, &target), 0);
}

#[test]
fn a_worker_wakes_when_the_first_token_ends_by_the_wall_clock() {
    let mut rig = Rig::new(GUARDED);
    let client = rig.connect(0, 0, &target("a", 100, &[]));
    rig.settle();
    // The wall clock was set forward: half a second is left.
    let Access { verifier, .. } = Arc::into_inner(access(SECRET)).unwrap();
    rig.tell(0, Letter::Access(Arc::new(Access { verifier, unix_at_zero_ms: 99_500 })));
    rig.settle();
    assert_eq!(rig.waits_until(0), Time(500_000_000));
    rig.pass(Duration::from_millis(499));
    rig.settle();
    assert!(rig.received(client).is_empty());
    rig.pass(Duration::from_millis(1));
    rig.settle();
    assert_eq!(rig.received(client), [EXPIRED]);
}

#[test]
fn whoever_left_before_its_token_expired_is_not_closed_for_it_nor_is_its_successor() {
    let mut rig = Rig::new(GUARDED);
    let left = rig.connect(0, 0, &target("a", 100, &[]));
    rig.reset(left);
    rig.settle();
    let successor = rig.connect(0, 0, &target("a", 200, &["a"]));
    rig.pass(Duration::from_secs(150));
    rig.settle();
    rig.send(successor, "mine is longer");
    rig.settle();
    assert_eq!(rig.received(successor), ["mine is longer"]);
}

#[test]
fn many_tokens_that_expire_at_once_are_a_few_turns_work() {
    let mut rig = Rig::new(GUARDED);
    let clients: Vec<Client> =
        (0..150).map(|slot| rig.connect(0, slot, &target("a", 100, &[]))).collect();
    rig.settle();
    rig.pass(Duration::from_secs(101));
    // A report tells of the turns before its own.
    let reported = [0; 4].map(|_| rig.report(0).closed[CloseReason::TokenExpired as usize]);
    assert_eq!(reported, [0, 64, 64, 22]);
    rig.settle();
    for client in clients {
        assert_eq!(rig.received(client), [EXPIRED]);
    }
}

#[test]
fn a_token_names_where_its_bearer_may_publish() {
    let mut rig = Rig::new(GUARDED);
    let writer = rig.connect(0, 0, &target("room/1", 100, &["room/*"]));
    let reader = rig.connect(1, 0, &target("room/1", 100, &["other"]));
    rig.send(writer, "hello");
    rig.settle();
    assert_eq!(rig.received(reader), ["hello"]);
    rig.send(reader, "hello");
    rig.settle();
    assert_eq!(rig.received(reader), ["close 1008 not allowed"]);
    assert_eq!(rig.received(writer), ["hello"]);
}

#[test]
fn other_keys_are_for_those_who_come_then() {
    let mut rig = Rig::new(GUARDED);
    let client = rig.connect(0, 0, &target("a", 100, &["a"]));
    rig.tell(0, Letter::Access(access("another secret of at least thirty-two bytes")));
    rig.settle();
    rig.send(client, "still here");
    rig.settle();
    assert_eq!(rig.received(client), ["still here"]);
    rig.pass(Duration::from_secs(101));
    rig.settle();
    assert_eq!(rig.received(client), [EXPIRED]);
}
