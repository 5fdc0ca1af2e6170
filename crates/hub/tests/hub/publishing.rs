//! Messages of clients.

use mesh::Member;
use ringway_hub::{Admission, Asked};
use worker::{CloseReason, Handler};

use crate::rig::{Rig, Setting};

#[test]
fn every_subscriber_of_every_worker_gets_a_message_its_publisher_too() {
    let mut rig = Rig::new(Setting::PLAIN);
    let publisher = rig.connect(0, 0, "/ws/a");
    let here = rig.connect(0, 1, "/ws?topic=b&topic=a");
    let elsewhere = rig.connect(0, 2, "/ws/b");
    let there = rig.connect(1, 0, "/ws/a");
    rig.send(publisher, "hello");
    rig.settle();
    for client in [publisher, here, there] {
        assert_eq!(rig.received(client), ["hello"]);
    }
    assert!(rig.received(elsewhere).is_empty());
}

/// It is posted to a worker that has a topic which shares its row.
#[test]
fn what_came_for_nothing_is_not_heard_by_who_subscribes_behind_it() {
    let mut rig = Rig::new(Setting::PLAIN);
    rig.connect(1, 0, "/ws/other");
    let hears =
        |rig: &Rig, topic: &str| rig.interest.of(Some(topic.as_bytes())).contains(Member(1));
    let mut names = (0..).map(|number| format!("a{number}"));
    let shares_row = names.find(|name| hears(&rig, name)).unwrap();
    let target = format!("/ws/{shares_row}");
    let publisher = rig.connect(0, 0, &target);
    rig.send(publisher, "1");
    rig.turn(0);
    assert_eq!(rig.letters(1), 1);
    let late = rig.connect(1, 1, &target);
    rig.send(publisher, "2");
    rig.settle();
    assert_eq!(rig.received(publisher), ["1", "2"]);
    assert_eq!(rig.received(late), ["2"]);
}

#[test]
fn a_message_goes_to_the_first_topic_only() {
    let mut rig = Rig::new(Setting::PLAIN);
    let publisher = rig.connect(0, 0, "/ws/b?topic=a");
    let [of_a, of_b] = [rig.connect(1, 0, "/ws/a"), rig.connect(1, 1, "/ws/b")];
    rig.send(publisher, "hello");
    rig.settle();
    assert!(rig.received(of_a).is_empty());
    assert_eq!(rig.received(of_b), ["hello"]);
}

#[test]
fn with_own_off_a_publisher_gets_the_others_messages_only() {
    let mut rig = Rig::new(Setting::PLAIN);
    let quiet = rig.connect(0, 0, "/ws/a?own=off");
    let other = rig.connect(0, 1, "/ws/a");
    // The same slot at another worker is another connection.
    let there = rig.connect(1, 0, "/ws/a");
    rig.send(quiet, "mine");
    rig.send(other, "yours");
    rig.settle();
    assert_eq!(rig.received(quiet), ["yours"]);
    assert_eq!(rig.received(other), ["mine", "yours"]);
    assert_eq!(rig.received(there), ["mine", "yours"]);
}

#[test]
fn an_echo_goes_back_to_its_sender_alone() {
    let mut rig = Rig::new(Setting::PLAIN);
    let [first, second] = [rig.connect(0, 0, "/echo"), rig.connect(0, 1, "/echo")];
    rig.send(first, "one");
    rig.send(first, "two");
    rig.settle();
    assert_eq!(rig.received(first), ["one", "two"]);
    assert!(rig.received(second).is_empty());
}

#[test]
fn where_publishing_is_off_a_message_closes_its_connection() {
    let mut rig = Rig::new(Setting { client_publish: false, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a");
    let [subscriber, echo] = [rig.connect(0, 1, "/ws/a"), rig.connect(0, 2, "/echo")];
    rig.send(publisher, "hello");
    rig.send(echo, "hello");
    rig.settle();
    assert_eq!(rig.received(publisher), ["close 1008 publishing is off"]);
    assert!(rig.received(subscriber).is_empty());
    assert_eq!(rig.received(echo), ["hello"]);
    assert_eq!(rig.report(0).closed[CloseReason::PublishingIsOff as usize], 1);
}

#[test]
fn who_has_left_gets_nothing_and_neither_does_who_has_its_slot_now() {
    let mut rig = Rig::new(Setting::PLAIN);
    let publisher = rig.connect(0, 0, "/ws/a");
    let leaver = rig.connect(0, 1, "/ws/a");
    rig.leave(leaver);
    rig.settle();
    rig.received(leaver);
    let successor = rig.connect(0, 1, "/ws/b");
    rig.send(publisher, "hello");
    rig.settle();
    assert!(rig.received(leaver).is_empty());
    assert!(rig.received(successor).is_empty());
    assert_eq!(rig.received(publisher), ["hello"]);
}

#[test]
fn a_message_that_one_worker_has_no_room_for_is_given_to_nobody_until_it_has() {
    let mut rig = Rig::new(Setting { workers: 3, letters_max: 1, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a");
    let subscribers =
        [rig.connect(0, 1, "/ws/a"), rig.connect(1, 0, "/ws/a"), rig.connect(2, 0, "/ws/a")];
    rig.send(publisher, "1");
    rig.turn(0);
    rig.send(publisher, "2");
    // Worker 2 has taken nothing, so its queue is full.
    for _ in 0..5 {
        rig.turn(1);
        rig.turn(0);
    }
    assert_eq!(subscribers.map(|it| rig.received(it)), [vec!["1"], vec!["1"], vec![]]);
    assert!(!rig.is_read_from(publisher));
    assert_eq!(rig.report(0).publications_refused, 1);
    rig.settle();
    assert_eq!(subscribers.map(|it| rig.received(it)), [vec!["2"], vec!["2"], vec!["1", "2"]]);
    assert!(rig.is_read_from(publisher));
    assert_eq!(rig.report(0).publications_refused, 0);
}

#[test]
fn a_message_goes_to_workers_with_subscribers_and_needs_room_there_alone() {
    let mut rig = Rig::new(Setting { workers: 3, letters_max: 1, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a");
    let subscriber = rig.connect(1, 0, "/ws/a");
    let other = rig.connect(2, 0, "/ws/b");
    // Worker 2 takes nothing meanwhile, and has a queue of one.
    for text in ["1", "2", "3"] {
        rig.send(publisher, text);
        rig.turn(0);
        (0..3).for_each(|_| rig.turn(1));
    }
    assert_eq!(rig.letters(2), 0);
    let late = rig.connect(2, 1, "/ws/a");
    rig.send(publisher, "4");
    rig.settle();
    assert_eq!(rig.received(late), ["4"]);
    rig.leave(late);
    rig.settle();
    rig.send(publisher, "5");
    rig.turn(0);
    assert_eq!(rig.letters(2), 0, "nobody is left there");
    rig.settle();
    assert_eq!(rig.received(subscriber), ["1", "2", "3", "4", "5"]);
    assert!(rig.received(other).is_empty());
}

#[test]
fn a_message_that_this_worker_has_no_room_for_is_given_to_nobody_until_it_has() {
    let mut rig = Rig::new(Setting { fanout_publications_max: 1, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a");
    let there = rig.connect(1, 0, "/ws/a");
    rig.send(publisher, "1");
    rig.send(publisher, "2");
    rig.turn(0);
    assert!(!rig.is_read_from(publisher));
    (0..3).for_each(|_| rig.turn(1));
    assert_eq!(rig.received(there), ["1"]);
    rig.settle();
    assert_eq!(rig.received(there), ["2"]);
    assert_eq!(rig.received(publisher), ["1", "2"]);
}

#[test]
fn messages_of_one_publisher_stay_in_order_through_a_queue_of_one() {
    let mut rig = Rig::new(Setting { letters_max: 1, ..Setting::PLAIN });
    let publishers = [rig.connect(0, 0, "/ws/a"), rig.connect(0, 1, "/ws/a")];
    let subscriber = rig.connect(1, 0, "/ws/a");
    for number in 0..50 {
        publishers.iter().for_each(|it| rig.send(*it, &format!("{number}")));
    }
    rig.settle();
    let received = rig.received(subscriber);
    assert_eq!(received.len(), 100);
    // Both publishers sent the same numbers: in the order of each, every number stands twice, and
    // the first of a number before the first of the next.
    let firsts = (0..50).map(|number| received.iter().position(|it| *it == format!("{number}")));
    assert!(firsts.clone().all(|first| first.is_some()));
    assert!(firsts.is_sorted());
    assert!(publishers.iter().all(|it| rig.is_read_from(*it)));
}

#[test]
fn held_messages_go_out_in_the_order_of_their_coming_whoever_sent_them() {
    let mut rig = Rig::new(Setting { letters_max: 1, ..Setting::PLAIN });
    let publishers = [0, 1, 2].map(|slot| rig.connect(0, slot, "/ws/a"));
    let subscriber = rig.connect(1, 0, "/ws/a");
    for (publisher, text) in publishers.into_iter().zip(["1", "2", "3"]) {
        rig.send(publisher, text);
    }
    rig.turn(0);
    // Room for one: it belongs to the message that is held, not to this one.
    rig.turn(1);
    rig.send(publishers[0], "4");
    rig.settle();
    assert_eq!(rig.received(subscriber), ["1", "2", "3", "4"]);
}

#[test]
fn the_held_message_of_a_publisher_that_has_left_is_published() {
    let mut rig = Rig::new(Setting { letters_max: 1, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a");
    let witness = rig.connect(0, 9, "/ws/a");
    let there = rig.connect(1, 0, "/ws/a");
    rig.send(publisher, "1");
    rig.send(publisher, "2");
    rig.turn(0);
    assert!(!rig.is_read_from(publisher));
    rig.reset(publisher);
    (0..3).for_each(|_| rig.turn(0));
    let successor = rig.connect(0, 0, "/ws/a");
    rig.settle();
    assert_eq!(rig.received(there), ["1", "2"]);
    assert_eq!(rig.received(witness), ["1", "2"]);
    assert_eq!(rig.received(successor), ["2"], "it subscribed before that was published");
    assert!(rig.is_read_from(successor));
}

/// Seeds 37 and 170 of the simulation: it went to its publisher, who wanted none of its own, and who
/// was never read from again.
#[test]
fn the_held_message_of_a_publisher_that_stands_elsewhere_on_another_engine_is_still_its_own() {
    let mut rig = Rig::new(Setting { letters_max: 1, ..Setting::PLAIN });
    let publisher = rig.connect(0, 0, "/ws/a?own=off");
    let other = rig.connect(0, 1, "/ws/a?own=off");
    let there = rig.connect(1, 0, "/ws/a");
    rig.send(publisher, "1");
    rig.send(publisher, "2");
    rig.turn(0);
    assert!(!rig.is_read_from(publisher));
    let mut exchanged = [publisher, other];
    for _ in 0..3 {
        // The name of each is now what the other was called before.
        exchanged = rig.exchange(exchanged);
    }
    let [publisher, other] = exchanged;
    assert!(!rig.is_read_from(publisher));
    rig.settle();
    assert!(rig.received(publisher).is_empty());
    assert!(rig.is_read_from(publisher));
    assert_eq!(rig.received(other), ["1", "2"]);
    assert_eq!(rig.received(there), ["1", "2"]);
    rig.send(publisher, "3");
    rig.settle();
    assert_eq!(rig.received(other), ["3"]);
}

#[test]
fn what_cannot_even_be_held_closes_its_publisher_and_is_counted() {
    let mut rig = Rig::new(Setting { letters_max: 1, held_bytes_max: 300, ..Setting::PLAIN });
    let publishers = [0, 1, 2].map(|slot| rig.connect(0, slot, "/ws/a"));
    let there = rig.connect(1, 0, "/ws/a");
    for (publisher, text) in publishers.into_iter().zip(["1", "2", "3"]) {
        rig.send(publisher, text);
    }
    rig.turn(0);
    (0..3).for_each(|_| rig.turn(0));
    assert_eq!(rig.received(publishers[2]).last().unwrap(), "close 1013 overloaded");
    rig.settle();
    assert_eq!(rig.received(there), ["1", "2"]);
    let report = rig.report(0);
    assert_eq!(report.publications_refused, 2);
    assert_eq!(report.closed[CloseReason::Overloaded as usize], 1);
}

#[test]
fn a_connection_can_be_told_by_its_admission_and_its_purpose() {
    let mut rig = Rig::new(Setting::PLAIN);
    let single = rig.connect(0, 0, "/ws/a?own=off").connection;
    let several = rig.connect(0, 1, "/ws/b?topic=a&topic=c%2Fd").connection;
    let echo = rig.connect(0, 2, "/echo").connection;
    let hub = rig.hub(0);
    let subscribe = |topics: &[&str], own| Admission {
        asked: Asked::Subscribe { topics: topics.iter().map(|it| (*it).into()).collect(), own },
        pass: None,
    };
    assert_eq!(hub.admission(single), subscribe(&["a"], false));
    assert_eq!(hub.admission(several), subscribe(&["b", "a", "c/d"], true));
    assert_eq!(hub.admission(echo), Admission { asked: Asked::Echo, pass: None });
    assert_eq!(hub.purpose(single), "a");
    assert_eq!(hub.purpose(several), "b, a, c/d");
    assert_eq!(hub.purpose(echo), "/echo");
}

#[test]
fn a_purpose_is_cut_between_characters() {
    let mut rig = Rig::new(Setting::PLAIN);
    let [short, long] = ["a".repeat(101), "é".repeat(100)];
    let client = rig.connect(0, 0, &format!("/ws/{short}?topic={long}"));
    let purpose = rig.hub(0).purpose(client.connection);
    assert_eq!(purpose, format!("{short}, {}…", "é".repeat(48)));
}
