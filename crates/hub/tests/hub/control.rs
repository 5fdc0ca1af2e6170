//! Letters of the control thread.

use std::{sync::Arc, time::Duration};

use mesh::Member;
use ringway_hub::{
    Batch, Findings, Inquiry, Letter, OriginRule, Question, Receipt, Reply, Settings,
};
use wire::DataOpcode;
use worker::{Limits, Publication, Time};

use crate::rig::{Rig, Setting};

/// One that is posted as of now.
fn batch(rig: &Rig, id: u64, messages: &[(Option<&str>, &str)]) -> Arc<Batch> {
    let publications = messages.iter().map(|(topic, text)| {
        let topic = topic.map(|topic| topic.as_bytes().into());
        Arc::new(Publication::new(topic, DataOpcode::Text, text.as_bytes(), None, Time(0)))
    });
    Arc::new(Batch {
        id,
        as_of: rig.interest.of(Some(b"any")).as_of(),
        publications: publications.collect(),
    })
}

pub(crate) fn ask(id: u64, inquiry: Inquiry) -> Letter {
    Letter::Ask(Arc::new(Question { id, inquiry }))
}

fn receipts(told: Vec<(u16, Letter)>) -> Vec<(u16, Receipt)> {
    let receipts = told.into_iter().map(|(from, letter)| match letter {
        Letter::Receipt(receipt) => (from, *receipt),
        other => panic!("{other:?}"),
    });
    receipts.collect()
}

pub(crate) fn replies(told: Vec<(u16, Letter)>) -> Vec<(u16, Reply)> {
    let replies = told.into_iter().map(|(from, letter)| match letter {
        Letter::Tell(reply) => (from, *reply),
        other => panic!("{other:?}"),
    });
    replies.collect()
}

#[test]
fn a_batch_is_published_in_order_and_acknowledged_with_its_receivers() {
    let mut rig = Rig::new(Setting::PLAIN);
    let first = rig.connect(0, 0, "/ws/a");
    let second = rig.connect(0, 1, "/ws/a?topic=b");
    let third = rig.connect(1, 0, "/ws/b");
    let batch =
        batch(&rig, 7, &[(Some("a"), "1"), (Some("b"), "2"), (Some("c"), "3"), (Some("a"), "4")]);
    (0..2).for_each(|worker| rig.tell(worker, Letter::Batch(Arc::clone(&batch))));
    rig.settle();
    assert_eq!(rig.received(first), ["1", "4"]);
    let of_both = rig.received(second);
    assert_eq!(of_both.len(), 3);
    assert!(of_both.iter().filter(|it| *it != "2").eq(["1", "4"]));
    assert_eq!(rig.received(third), ["2"]);
    let mut receipts = receipts(rig.told());
    receipts.sort_by_key(|(from, _)| *from);
    let expected = |receivers: [u32; 4]| Receipt { id: 7, receivers: receivers.to_vec() };
    assert_eq!(receipts, [(0, expected([2, 1, 0, 2])), (1, expected([0, 1, 0, 0]))]);
}

/// The worker hears of the first for what else is in the batch. Of what follows it might not have.
#[test]
fn what_was_posted_before_a_topic_began_is_for_none_of_its_subscribers() {
    let mut rig = Rig::new(Setting::PLAIN);
    let early = rig.connect(0, 0, "/ws/a");
    let before = batch(&rig, 1, &[(Some("a"), "1"), (Some("b"), "2"), (None, "3")]);
    let late = rig.connect(0, 1, "/ws/b");
    let after = batch(&rig, 2, &[(Some("a"), "4"), (Some("b"), "5")]);
    for batch in [before, after] {
        rig.tell(0, Letter::Batch(batch));
    }
    rig.settle();
    assert_eq!(rig.received(early), ["1", "3", "4"]);
    assert_eq!(rig.received(late), ["3", "5"]);
    let told: Vec<_> = receipts(rig.told()).into_iter().map(|(_, it)| it.receivers).collect();
    assert_eq!(told, [vec![1, 0, 2], vec![1, 1]]);
}

#[test]
fn a_topic_whose_subscribers_do_not_come_back_from_a_move_is_of_interest_for_a_turn_only() {
    let mut rig = Rig::new(Setting::PLAIN);
    rig.connect(1, 0, "/ws/a");
    rig.settle();
    let is_heard = |rig: &Rig| rig.interest.of(Some(b"a")).contains(Member(1));
    assert!(is_heard(&rig));
    rig.lose(1);
    assert!(is_heard(&rig), "they may still come");
    rig.turn(1);
    assert!(!is_heard(&rig));
}

#[test]
fn a_broadcast_reaches_every_open_connection_whatever_it_is_there_for() {
    let mut rig = Rig::new(Setting::PLAIN);
    let clients = [
        rig.connect(0, 0, "/ws/a"),
        rig.connect(0, 200, "/ws/b?topic=c"),
        rig.connect(0, 3, "/echo"),
    ];
    let gone = rig.connect(0, 64, "/ws/a");
    rig.leave(gone);
    rig.settle();
    rig.received(gone);
    let batch = batch(&rig, 1, &[(None, "all")]);
    rig.tell(0, Letter::Batch(batch));
    rig.settle();
    for client in clients {
        assert_eq!(rig.received(client), ["all"]);
    }
    assert!(rig.received(gone).is_empty());
    assert_eq!(receipts(rig.told()), [(0, Receipt { id: 1, receivers: vec![3] })]);
}

#[test]
fn answers_wait_for_room_and_keep_their_order() {
    let mut rig = Rig::new(Setting { guest_letters_max: 1, ..Setting::PLAIN });
    let mut answers = Vec::new();
    for id in 0..4 {
        let batch = batch(&rig, id, &[(Some("a"), "x")]);
        rig.tell(0, Letter::Batch(batch));
        rig.turn(0);
    }
    for _ in 0..4 {
        let told = rig.told();
        assert_eq!(told.len(), 1);
        answers.extend(receipts(told).into_iter().map(|(_, receipt)| receipt.id));
        rig.turn(0);
    }
    assert_eq!(answers, [0, 1, 2, 3]);
    assert!(rig.told().is_empty());
}

#[test]
fn topics_are_listed_in_pages_and_counted() {
    let mut rig = Rig::new(Setting::PLAIN);
    for (slot, target) in (0..).zip(["/ws/b", "/ws/a?topic=b", "/ws/c", "/echo"]) {
        rig.connect(0, slot, target);
    }
    rig.tell(0, ask(1, Inquiry::Topics { after: None, entries_max: 2 }));
    rig.tell(0, ask(2, Inquiry::Topics { after: Some("b".into()), entries_max: 2 }));
    rig.tell(0, ask(3, Inquiry::Topic("b".into())));
    rig.tell(0, ask(4, Inquiry::Topic("d".into())));
    rig.settle();
    let reply = |id, topics: &[(&str, u32)]| {
        let topics = topics.iter().map(|(name, count)| ((*name).into(), *count)).collect();
        (0, Reply { id, findings: Findings::Topics(topics) })
    };
    assert_eq!(
        replies(rig.told()),
        [
            reply(1, &[("a", 1), ("b", 2)]),
            reply(2, &[("c", 1)]),
            reply(3, &[("b", 2)]),
            reply(4, &[]),
        ]
    );
}

#[test]
fn a_report_says_how_many_topics_and_subscriptions_there_are() {
    let mut rig = Rig::new(Setting::PLAIN);
    let first = rig.connect(0, 0, "/ws/a?topic=b");
    rig.connect(0, 1, "/ws/b");
    rig.connect(0, 2, "/echo");
    let counts = |rig: &mut Rig| {
        let gauges = rig.report(0).gauges;
        (gauges.connections, gauges.topics, gauges.subscriptions)
    };
    assert_eq!(counts(&mut rig), (3, 2, 3));
    rig.leave(first);
    rig.settle();
    assert_eq!(counts(&mut rig), (2, 1, 1));
}

#[test]
fn a_drain_closes_every_connection_as_restarting() {
    let mut rig = Rig::new(Setting::PLAIN);
    let clients = [rig.connect(0, 0, "/ws/a"), rig.connect(0, 1, "/echo")];
    rig.tell(0, Letter::Drain(0));
    rig.settle();
    for client in clients {
        assert_eq!(rig.received(client), ["close 1012 restarting"]);
        rig.leave(client);
    }
    rig.settle();
    assert!(rig.is_drained(0));
    assert!(!rig.is_drained(1));
}

/// Who is connected stays, and goes by the bounds of now with what it sends.
#[test]
fn settings_count_for_who_comes_and_for_what_comes() {
    let mut rig = Rig::new(Setting::PLAIN);
    let client = rig.connect(0, 0, "/ws/long-name");
    let settings = Settings {
        client_publish: true,
        echo: false,
        compression: false,
        origins: OriginRule::Any,
        worker: worker::Settings {
            handshake_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
            addresses: None,
            trusted: Arc::default(),
            publish_rate_max: None,
            limits: Limits {
                message_bytes_max: 3,
                topic_bytes_max: 8,
                topics_per_connection_max: 1,
                ..Limits::default()
            },
        },
    };
    rig.tell(0, Letter::Settings(Box::new(settings.clone())));
    rig.settle();
    rig.send(client, "abc");
    rig.settle();
    assert_eq!(rig.received(client), ["abc"]);
    rig.send(client, "abcd");
    rig.settle();
    let received = rig.received(client);
    assert!(received[0].starts_with("close 1009 "), "{received:?}");
    // Who comes now: a name that is too long, a topic too many, and what is served no more.
    for (target, status) in [("/ws/long-name", "400"), ("/ws/a?topic=b", "400"), ("/echo", "404")] {
        let answer = String::from_utf8(rig.ask(0, 1, target)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
    }
    let client = rig.connect(0, 2, "/ws/short");
    rig.tell(0, Letter::Settings(Box::new(Settings { client_publish: false, ..settings })));
    rig.settle();
    rig.send(client, "abc");
    rig.settle();
    assert_eq!(rig.received(client), ["close 1008 publishing is off"]);
}
