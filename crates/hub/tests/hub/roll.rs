//! Open connections shown and closed at the wish of the control thread.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{EncodingKey, Header, encode};
use mesh::Member;
use ringway_hub::{Entry, Findings, Inquiry, Letter, Removal, Roll, Selection};
use serde_json::{Value, json};
use worker::{CloseReason, RefusalReason, Slot};

use crate::{
    control::{ask, replies},
    rig::{Client, Rig, Setting},
};

const SECRET: &str = "a secret of at least thirty-two bytes";

const REMOVED: &str = "close 1008 removed";

fn everyone() -> Selection {
    Selection::default()
}

pub(crate) fn of_topic(topic: &str) -> Selection {
    Selection { topic: Some(topic.into()), ..Selection::default() }
}

fn of_subject(subject: &str) -> Selection {
    Selection { subject: Some(subject.into()), ..Selection::default() }
}

pub(crate) fn page(
    selection: Selection,
    after: Option<(u16, Slot)>,
    entries_max: usize,
) -> Inquiry {
    let after = after.map(|(worker, slot)| (Member(worker), slot));
    Inquiry::Connections { selection, after, entries_max }
}

/// What a worker finds, and how many turns that takes.
pub(crate) fn find(rig: &mut Rig, worker: u16, inquiry: Inquiry) -> (Findings, usize) {
    rig.tell(worker, ask(7, inquiry));
    let mut turns = 0;
    let mut told = Vec::new();
    while told.is_empty() {
        rig.turn(worker.into());
        turns += 1;
        told = rig.told();
    }
    let (from, reply) = replies(told).pop().unwrap();
    assert_eq!((from, reply.id), (worker, 7));
    (reply.findings, turns)
}

fn list(rig: &mut Rig, worker: u16, inquiry: Inquiry) -> Roll {
    match find(rig, worker, inquiry).0 {
        Findings::Connections(roll) => roll,
        other => panic!("{other:?}"),
    }
}

fn remove(rig: &mut Rig, worker: u16, selection: Selection) -> Removal {
    match find(rig, worker, Inquiry::Remove(selection)).0 {
        Findings::Removed(removal) => removal,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn slots(roll: &Roll) -> Vec<Slot> {
    roll.entries.iter().map(|entry| entry.sight.connection.slot).collect()
}

fn topics(entry: &Entry) -> Vec<&str> {
    entry.topics.iter().map(|topic| &**topic).collect()
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).unwrap()
}

/// A client of `subject` whose token ends at `exp`.
fn connect_as(rig: &mut Rig, slot: Slot, subject: &str, exp: u64) -> Client {
    let token = token(&json!({ "sub": subject, "exp": exp, "topics": ["*"] }));
    rig.connect(0, slot, &format!("/ws/a?token={token}"))
}

#[test]
fn connections_are_shown_with_topics_address_and_times() {
    let mut rig = Rig::new(Setting::PLAIN);
    rig.connect(0, 3, "/ws/b?topic=a");
    rig.connect(0, 1, "/echo");
    rig.pass(Duration::from_secs(3));
    rig.turn(0);
    let heard = rig.connect(0, 70, "/ws/a");
    rig.pass(Duration::from_secs(2));
    rig.turn(0);
    rig.send(heard, "here");
    rig.settle();
    let Roll { entries, is_cut } = list(&mut rig, 0, page(everyone(), None, 10));
    assert!(!is_cut);
    let shown: Vec<_> = entries
        .iter()
        .map(|entry| {
            let sight = entry.sight;
            let (age, silence) = (sight.age.as_secs(), sight.silence.as_secs());
            (sight.connection.slot, topics(entry), age, silence)
        })
        .collect();
    let expected = [(1, vec![], 5, 5), (3, vec!["b", "a"], 5, 5), (70, vec!["a"], 2, 0)];
    assert_eq!(shown, expected);
    assert_eq!(entries[2].sight.connection, heard.connection);
    assert_eq!(entries[2].sight.peer.to_string(), "127.0.0.1:1");
    assert_eq!((entries[2].sight.send_queue_bytes, entries[2].subject.as_ref()), (0, None));
}

#[test]
fn a_page_begins_behind_what_the_last_one_ended_with_whatever_worker_that_was_of() {
    let mut rig = Rig::new(Setting::PLAIN);
    for (worker, slot) in [(0, 2), (0, 5), (0, 9), (1, 4)] {
        rig.connect(worker, slot, "/ws/a");
    }
    let first = list(&mut rig, 0, page(everyone(), None, 2));
    assert_eq!((slots(&first), first.is_cut), (vec![2, 5], true));
    let rest = list(&mut rig, 0, page(everyone(), Some((0, 5)), 2));
    assert_eq!((slots(&rest), rest.is_cut), (vec![9], false));
    assert_eq!(slots(&list(&mut rig, 1, page(everyone(), Some((0, 5)), 2))), [4]);
    assert!(slots(&list(&mut rig, 0, page(everyone(), Some((1, 0)), 2))).is_empty());
    assert!(slots(&list(&mut rig, 0, page(everyone(), Some((0, Slot::MAX)), 2))).is_empty());
}

#[test]
fn all_that_is_named_must_hold_of_a_connection() {
    let mut rig = Rig::new(Setting::PLAIN);
    let first = rig.connect(0, 0, "/ws/a");
    let second = rig.connect(0, 1, "/ws/a?topic=b");
    rig.connect(0, 2, "/echo");
    let mut met = |selection| slots(&list(&mut rig, 0, page(selection, None, 10)));
    let of_id =
        |worker, connection| Selection { id: Some((Member(worker), connection)), ..everyone() };
    let of_address = |address: &str, port| Selection {
        address: Some((address.parse().unwrap(), port)),
        ..everyone()
    };
    assert_eq!(met(of_topic("a")), [0, 1]);
    assert_eq!(met(of_topic("b")), [1]);
    assert!(met(of_topic("nobody")).is_empty());
    assert_eq!(met(of_id(0, second.connection)), [1]);
    assert!(met(of_id(1, second.connection)).is_empty(), "another worker's");
    let earlier = worker::ConnectionId { generation: 0, ..second.connection };
    assert!(met(of_id(0, earlier)).is_empty(), "another connection's of this slot");
    assert_eq!(met(of_address("127.0.0.1", None)), [0, 1, 2]);
    assert_eq!(met(of_address("127.0.0.1", Some(1))), [0, 1, 2]);
    assert!(met(of_address("127.0.0.1", Some(2))).is_empty());
    assert!(met(of_address("127.0.0.2", None)).is_empty());
    assert!(met(of_subject("alice")).is_empty(), "nobody has a token");
    assert_eq!(met(Selection { topic: Some("b".into()), ..of_address("127.0.0.1", None) }), [1]);
    assert!(met(Selection { topic: Some("b".into()), ..of_id(0, first.connection) }).is_empty());
}

#[test]
fn a_roll_ends_where_its_names_are_a_mebibyte() {
    let mut rig = Rig::new(Setting::PLAIN);
    // Sixteen topics of 255 bytes each: 257 such connections pass a MiB.
    for slot in 0..260 {
        let query: Vec<_> =
            (0..16).map(|number| format!("topic={slot:03}{number:03}{:t<249}", "")).collect();
        rig.connect(0, slot, &format!("/ws?{}", query.join("&")));
    }
    let roll = list(&mut rig, 0, page(everyone(), None, 1000));
    assert_eq!((roll.entries.len(), roll.is_cut), (258, true));
    let rest = list(&mut rig, 0, page(everyone(), Some((0, 257)), 1000));
    assert_eq!((slots(&rest), rest.is_cut), (vec![258, 259], false));
}

#[test]
fn subjects_are_among_the_names_that_end_a_roll() {
    let mut rig = Rig::new(Setting { secret: Some(SECRET), ..Setting::PLAIN });
    // With sixteen topics of 255 bytes and a subject of as many, 242 connections pass a MiB.
    let token = token(&json!({ "sub": "s".repeat(255), "exp": 100, "topics": ["*"] }));
    let topics: Vec<_> = (0..16).map(|number| format!("topic={number:t>255}")).collect();
    let target = format!("/ws?{}&token={token}", topics.join("&"));
    (0..245).for_each(|slot| _ = rig.connect(0, slot, &target));
    let roll = list(&mut rig, 0, page(everyone(), None, 1000));
    assert_eq!((roll.entries.len(), roll.is_cut), (242, true));
}

#[test]
fn who_is_removed_is_told_so_and_nobody_else_is() {
    let mut rig = Rig::new(Setting::PLAIN);
    let first = rig.connect(0, 0, "/ws/a");
    let second = rig.connect(0, 1, "/ws/b?topic=a");
    let other = rig.connect(0, 2, "/ws/b");
    let nobody = Removal { closed: 0, tokens_end: None };
    assert_eq!(remove(&mut rig, 0, of_topic("c")), nobody);
    assert_eq!(remove(&mut rig, 0, of_topic("a")), Removal { closed: 2, tokens_end: None });
    assert_eq!(remove(&mut rig, 0, of_topic("a")), nobody, "they are gone already");
    rig.settle();
    assert_eq!(rig.received(first), [REMOVED]);
    assert_eq!(rig.received(second), [REMOVED]);
    assert!(rig.received(other).is_empty());
    assert_eq!(rig.report(0).closed[CloseReason::Removed as usize], 2);
    assert_eq!(slots(&list(&mut rig, 0, page(everyone(), None, 10))), [2]);
}

#[test]
fn many_are_shown_and_removed_in_bounded_turns() {
    let mut rig = Rig::new(Setting::PLAIN);
    let clients: Vec<Client> = (0..150).map(|slot| rig.connect(0, slot, "/ws/a")).collect();
    let (found, turns) = find(&mut rig, 0, page(everyone(), None, 1000));
    assert!(matches!(found, Findings::Connections(roll) if roll.entries.len() == 150));
    assert_eq!(turns, 2, "64 a step, and two steps in the turn that it comes in");
    rig.tell(0, ask(1, Inquiry::Remove(everyone())));
    let told = [0; 3].map(|_| {
        rig.turn(0);
        clients.iter().filter(|client| !rig.received(**client).is_empty()).count()
    });
    assert_eq!(told, [128, 22, 0]);
}

#[test]
fn a_removal_says_when_the_last_token_of_those_removed_ends() {
    let mut rig = Rig::new(Setting { secret: Some(SECRET), ..Setting::PLAIN });
    let alice = [connect_as(&mut rig, 0, "alice", 300), connect_as(&mut rig, 1, "alice", 100)];
    let bob = connect_as(&mut rig, 2, "bob", 500);
    let roll = list(&mut rig, 0, page(of_subject("alice"), None, 10));
    assert_eq!(slots(&roll), [0, 1]);
    assert_eq!(roll.entries[0].subject.as_deref(), Some("alice"));
    let removal = remove(&mut rig, 0, of_subject("alice"));
    assert_eq!(removal, Removal { closed: 2, tokens_end: Some(300) });
    rig.settle();
    for client in alice {
        assert_eq!(rig.received(client), [REMOVED]);
    }
    assert!(rig.received(bob).is_empty());
}

#[test]
fn whoever_is_removed_by_subject_is_blocked_until_the_worker_is_told_otherwise() {
    let mut rig = Rig::new(Setting { secret: Some(SECRET), ..Setting::PLAIN });
    let refused = |rig: &mut Rig| rig.report(0).refused[RefusalReason::TokenBlocked as usize];
    let target = |subject: &str| {
        format!("/ws/a?token={}", token(&json!({ "sub": subject, "exp": 100, "topics": ["*"] })))
    };
    assert_eq!(remove(&mut rig, 0, of_subject("alice")), Removal::default(), "before she came");
    assert!(rig.ask(0, 0, &target("alice")).starts_with(b"HTTP/1.1 403 "));
    rig.connect(0, 1, &target("bob"));
    rig.settle();
    assert_eq!(refused(&mut rig), 1);
    // A question is no removal, and neither blocks nor unblocks.
    list(&mut rig, 0, page(of_subject("bob"), None, 10));
    list(&mut rig, 0, page(of_subject("alice"), None, 10));
    rig.connect(0, 2, &target("bob"));
    assert!(rig.ask(0, 3, &target("alice")).starts_with(b"HTTP/1.1 403 "));
    rig.settle();
    assert_eq!(refused(&mut rig), 1);
    rig.tell(0, Letter::Unblock(Arc::new(vec!["alice".into(), "nobody".into()])));
    rig.settle();
    rig.connect(0, 4, &target("alice"));
}

#[test]
fn a_removal_overtakes_listings_and_no_other_removal() {
    let mut rig = Rig::new(Setting::PLAIN);
    let clients: Vec<Client> = (0..200).map(|slot| rig.connect(0, slot, "/ws/a")).collect();
    let of = |client: Client| Selection { id: Some((Member(0), client.connection)), ..everyone() };
    let ids = |rig: &mut Rig| -> Vec<u64> {
        replies(rig.told()).into_iter().map(|(_, reply)| reply.id).collect()
    };
    rig.tell(0, ask(1, page(everyone(), None, 1000)));
    rig.tell(0, ask(2, Inquiry::Topics { after: None, entries_max: 10 }));
    rig.turn(0);
    assert!(ids(&mut rig).is_empty(), "four steps of 64, two of them taken");
    rig.tell(0, ask(3, Inquiry::Remove(of(clients[198]))));
    rig.tell(0, ask(4, Inquiry::Remove(of(clients[199]))));
    rig.turn(0);
    assert_eq!(ids(&mut rig), [3, 4]);
    assert_eq!(rig.received(clients[198]), [REMOVED]);
    // What it has overtaken goes on where it was.
    let mut others = Vec::new();
    let turns = (1..).find(|_| {
        rig.turn(0);
        others.extend(replies(rig.told()));
        others.len() == 2
    });
    assert_eq!(turns, Some(2), "the last step, and the topics");
    let Findings::Connections(roll) = &others[0].1.findings else { panic!("{others:?}") };
    assert_eq!((others[0].1.id, roll.entries.len(), others[1].1.id), (1, 198, 2));
}

#[test]
fn of_refused_tokens_the_last_end_is_told_before_the_next_report() {
    let mut rig = Rig::new(Setting { secret: Some(SECRET), ..Setting::PLAIN });
    let told = |rig: &mut Rig| {
        rig.tell(0, Letter::Report(Box::default()));
        rig.turn(0);
        let letters = rig.told().into_iter().map(|(_, letter)| match letter {
            Letter::Refused(refused) => refused.ends.into_iter().collect(),
            Letter::Report(_) => Vec::new(),
            other => panic!("{other:?}"),
        });
        letters.collect::<Vec<_>>()
    };
    remove(&mut rig, 0, of_subject("alice"));
    assert_eq!(told(&mut rig), [Vec::new()], "a report, and nobody was refused");
    let mut slots = 0..;
    let mut ask = |subject: &str, exp: u64| {
        let token = token(&json!({ "sub": subject, "exp": exp, "topics": ["*"] }));
        rig.ask(0, slots.next().unwrap(), &format!("/ws/a?token={token}"));
    };
    for (subject, exp) in [("alice", 300), ("alice", 900), ("alice", 600), ("bob", 999)] {
        ask(subject, exp);
    }
    let ends = vec![(Arc::from("alice"), 900)];
    assert_eq!(told(&mut rig), [ends, Vec::new()], "and then the report");
    assert_eq!(told(&mut rig), [Vec::new()], "once");
}
