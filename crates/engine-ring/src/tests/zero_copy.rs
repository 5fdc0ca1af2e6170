//! Large frames out of the arena, on loopback, where the kernel always copies and says so.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use bytes::Bytes;
use rustix::system::uname;
use sockets::rig::reset;
use worker::{Closing, Engine, EngineCounts, Failure, Slot};

use crate::{RingOptions, ZeroCopy, engine::Start};

use super::rig::{Event, Rig, all_descriptors, from, listener, loopback, options, started, tiny};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What a start says that has none.
const NO_ARENA: &str = "large frames are copied as all others: there is no arena for them, or this kernel \
    does not take SEND_ZC with IORING_SEND_ZC_REPORT_USAGE as needed, which Linux 6.2 has";

/// Whose connections are sent to from the arena although the kernel copies.
const ALL: Start = Start { avoids_copies: false, ..Start::USUAL };

fn bytes_of(byte: u8, count: usize) -> Bytes {
    Bytes::from(vec![byte; count])
}

/// `None` where this kernel cannot report copies, as before 6.2: the start says so then.
fn rig(options: &RingOptions, start: Start) -> Option<Rig> {
    let rig = started(options, listener(loopback()), start);
    if rig.engine.arena.is_some() {
        return Some(rig);
    }
    let notes = rig.engine.notes().join("\n");
    assert!(notes.contains(NO_ARENA), "{notes}");
    let release = uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert!(version < (6, 2), "{release}: {notes}");
    None
}

/// Frames of at least 1 KiB from an arena of one huge page.
fn small_arena() -> RingOptions {
    let zero_copy = Some(ZeroCopy { bytes_min: 1024, arena_bytes: 1 });
    RingOptions { zero_copy, ..options() }
}

/// Waits until the kernel has notified of all but so many sends.
fn until_outstanding(rig: &mut Rig, count: u64) {
    let deadline = rig.engine.now() + super::rig::PATIENCE;
    while rig.engine.arena.as_ref().unwrap().outstanding() > count {
        assert!(rig.engine.now() < deadline, "never notified");
        // Notifications are not told: each ends a wait in the kernel, and the engine waits on.
        let soon = rig.engine.now() + Duration::from_millis(1);
        rig.wait(soon);
    }
}

fn counts(rig: &Rig) -> EngineCounts {
    rig.engine.counts()
}

fn read(mut client: &TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_large_frame_leaves_from_the_arena_and_the_route_is_off_once_the_kernel_has_copied() {
    for descriptors in all_descriptors() {
        let Some(mut rig) = rig(&RingOptions { descriptors, ..small_arena() }, Start::USUAL) else {
            return;
        };
        let clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
        let targets: Vec<Slot> = clients.iter().map(|(connection, _)| connection.slot).collect();
        for round in 0..3 {
            let frame = bytes_of(round, 20 * KIB);
            rig.offer(&frame, &targets);
            rig.turn();
            assert_eq!(rig.events.pop_front(), Some(Event::Offered(3)));
            until_outstanding(&mut rig, 0);
            assert!(frame.is_unique() || round == 0, "somebody still holds the frame");
            for (_, client) in &clients {
                assert_eq!(read(client, 20 * KIB), frame);
            }
        }
        let counts = counts(&rig);
        assert_eq!((counts.zero_copy_sends, counts.zero_copy_copied), (3, 3));
        assert_eq!((counts.zero_copy_routes_off, counts.zero_copy_exhausted), (3, 0));
        rig.assert_clean();
    }
}

#[test]
fn a_small_frame_leaves_as_without_an_arena() {
    let Some(mut rig) = rig(&small_arena(), ALL) else { return };
    let (connection, client) = rig.client();
    rig.offer(&bytes_of(b'x', 1023), &[connection.slot]);
    rig.turn();
    assert_eq!(counts(&rig).zero_copy_sends, 0);
    rig.offer(&bytes_of(b'x', 1024), &[connection.slot]);
    rig.turn();
    assert_eq!(counts(&rig).zero_copy_sends, 1);
    assert_eq!(read(&client, 2047), [b'x'; 2047]);
}

#[test]
fn the_next_connection_of_a_slot_is_tried_anew() {
    let Some(mut rig) = rig(&RingOptions { connections_max: 1, ..small_arena() }, Start::USUAL)
    else {
        return;
    };
    for round in 1..=2 {
        let (connection, client) = rig.client();
        assert_eq!(connection.slot, 0);
        for _ in 0..2 {
            rig.offer(&bytes_of(b'x', 4 * KIB), &[0]);
            rig.turn();
            until_outstanding(&mut rig, 0);
        }
        assert_eq!(counts(&rig).zero_copy_sends, round);
        assert_eq!(read(&client, 8 * KIB).len(), 8 * KIB);
        rig.close(connection, Closing::Finish);
        rig.expect(&Event::Closed(connection));
    }
}

#[test]
fn a_partial_send_is_refused_with_the_frame_that_was_offered_and_the_rest_follows() {
    let zero_copy = Some(ZeroCopy { bytes_min: 1024, arena_bytes: 16 << 20 });
    let Some(mut rig) = rig(&RingOptions { zero_copy, ..options() }, ALL) else { return };
    let (connection, client) = rig.slow_client();
    let frame: Bytes = (0..16 * MIB).map(|index| u8::try_from(index % 251).unwrap()).collect();
    rig.offer(&frame, &[connection.slot]);
    let taken = rig.refused(connection).unwrap();
    assert_eq!(taken.bytes.as_ptr(), frame.as_ptr());
    assert!(taken.taken > 0 && taken.taken < frame.len());
    assert_eq!(rig.events.pop_front(), Some(Event::Offered(1)));
    assert_eq!(counts(&rig).zero_copy_sends, 1);
    let reader = thread::spawn(move || read(&client, 16 * MIB));
    rig.drain(connection, frame.slice(taken.taken..));
    assert!(reader.join().unwrap() == frame, "the stream is not what was sent");
    until_outstanding(&mut rig, 0);
    rig.assert_clean();
}

/// Fills a socket with frames from the arena until it takes nothing; says how much it took.
fn fill(rig: &mut Rig, slot: Slot, frame: &Bytes) -> usize {
    let mut taken_in_all = 0;
    loop {
        rig.events.clear();
        rig.offer(frame, &[slot]);
        rig.turn();
        let first = rig.events.pop_front();
        let taken = match first {
            Some(Event::Refused(_, Ok(taken))) => taken.taken,
            Some(Event::Offered(1)) => frame.len(),
            other => panic!("{other:?}"),
        };
        taken_in_all += taken;
        if taken == 0 {
            return taken_in_all;
        }
    }
}

/// What a client has for bytes that it has not read: with less, its kernel lets itself be asked for
/// a window again and again, ever more seldom, once it has read what was copied for it.
const UNREAD: usize = 256 * KIB;

/// Offers once what is more than the client's kernel takes; says how much the socket took.
fn stall(rig: &mut Rig, slot: Slot) -> usize {
    let frame = bytes_of(b'a', MIB);
    rig.offer(&frame, &[slot]);
    rig.turn();
    match rig.events.pop_front() {
        Some(Event::Refused(_, Ok(taken))) => taken.taken,
        Some(Event::Offered(1)) => frame.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_refused_whole_says_nothing_about_the_route() {
    let Some(mut rig) = rig(&small_arena(), Start::USUAL) else { return };
    let (connection, _client) = rig.slow_client();
    // By frames that leave as without an arena, of which nothing is notified; what was under way is
    // acknowledged a moment later, and makes room again.
    let small = bytes_of(b'a', 1023);
    while fill(&mut rig, connection.slot, &small) > 0 {
        let soon = rig.engine.now() + Duration::from_millis(20);
        rig.wait(soon);
    }
    rig.offer(&bytes_of(b'b', MIB), &[connection.slot]);
    assert_eq!(rig.refused(connection).unwrap().taken, 0);
    until_outstanding(&mut rig, 0);
    let counts = counts(&rig);
    assert_eq!((counts.zero_copy_sends, counts.zero_copy_copied), (1, 0));
    assert_eq!(counts.zero_copy_routes_off, 0);
}

#[test]
fn an_arena_without_room_sends_as_without_one() {
    let Some(mut rig) = rig(&small_arena(), ALL) else { return };
    let (slow, slow_client) = rig.slow_client();
    let (quick, quick_client) = rig.client();
    let (other, other_client) = rig.client();
    // What a slow reader has not read is not notified of.
    stall(&mut rig, slow.slot);
    assert!(rig.engine.arena.as_ref().unwrap().outstanding() > 0);
    rig.events.clear();
    let whole = bytes_of(b'b', 2 * MIB);
    let readers =
        [quick_client, other_client].map(|client| thread::spawn(move || read(&client, 2 * MIB)));
    rig.offer(&whole, &[quick.slot, other.slot]);
    rig.turn();
    drain_all(&mut rig);
    let after = counts(&rig);
    assert_eq!((after.zero_copy_exhausted, after.zero_copy_sends), (1, 1), "one offer, no target");
    for reader in readers {
        assert!(reader.join().unwrap() == whole);
    }
    reset(slow_client);
    until_outstanding(&mut rig, 0);
    rig.offer(&whole, &[quick.slot]);
    rig.turn();
    assert_eq!(counts(&rig).zero_copy_sends, 2, "there is room again");
}

#[test]
fn a_connection_is_closed_while_a_notification_is_outstanding() {
    let Some(mut rig) = rig(&RingOptions { connections_max: 1, ..small_arena() }, ALL) else {
        return;
    };
    let (connection, client) = rig.client_with_buffer(UNREAD);
    let taken = stall(&mut rig, connection.slot);
    assert!(rig.engine.arena.as_ref().unwrap().outstanding() > 0);
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert!(rig.engine.arena.as_ref().unwrap().outstanding() > 0, "the peer has read nothing");
    // The slot is used again, and told nothing of what was sent before.
    let (next, _next_client) = rig.client();
    assert_eq!(next.slot, connection.slot);
    let copied = counts(&rig).zero_copy_copied;
    assert!(read(&client, taken).iter().all(|byte| *byte == b'a'));
    until_outstanding(&mut rig, 0);
    assert_eq!(counts(&rig).zero_copy_copied, copied);
    rig.assert_clean();
}

#[test]
fn a_peer_that_resets_gives_its_part_of_the_arena_back() {
    let Some(mut rig) = rig(&small_arena(), ALL) else { return };
    let (connection, client) = rig.slow_client();
    rig.receive(connection);
    fill(&mut rig, connection.slot, &bytes_of(b'a', 100 * KIB));
    assert!(rig.engine.arena.as_ref().unwrap().outstanding() > 0);
    reset(client);
    rig.expect(&Event::Failed(connection, Failure::Reset));
    until_outstanding(&mut rig, 0);
    rig.offer(&bytes_of(b'b', 10 * KIB), &[connection.slot]);
    assert_eq!(rig.refused(connection), Err(Failure::Reset));
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    until_outstanding(&mut rig, 0);
    rig.assert_clean();
}

#[test]
fn what_was_sent_arrives_after_the_engine_has_gone() {
    let Some(mut rig) = rig(&small_arena(), ALL) else { return };
    let (connection, client) = rig.client_with_buffer(UNREAD);
    let taken = stall(&mut rig, connection.slot);
    assert!(rig.engine.arena.as_ref().unwrap().outstanding() > 0);
    drop(rig);
    // Memory that is mapped now may have the addresses of the arena.
    let _other = vec![b'b'; 8 * MIB];
    assert!(read(&client, taken).iter().all(|byte| *byte == b'a'));
}

/// Sends the rest of all that was refused.
fn drain_all(rig: &mut Rig) {
    let (refused, others): (Vec<Event>, Vec<Event>) =
        rig.events.drain(..).partition(|event| matches!(event, Event::Refused(..)));
    rig.events.extend(others);
    for event in refused {
        let Event::Refused(to, Ok(taken)) = event else { panic!("{event:?}") };
        rig.drain(to, taken.bytes.slice(taken.taken..));
    }
    rig.events.retain(|event| !matches!(event, Event::Offered(_)));
}

#[test]
fn frames_that_change_under_load_arrive_as_they_were() {
    const ROUNDS: u32 = 400;
    let zero_copy = from(1000);
    for options in [RingOptions { zero_copy, ..options() }, RingOptions { zero_copy, ..tiny() }] {
        let Some(mut rig) = rig(&options, ALL) else { return };
        let clients: Vec<_> = (0..6).map(|_| rig.client()).collect();
        let targets: Vec<Slot> = clients.iter().map(|(connection, _)| connection.slot).collect();
        let frame = |round: u32| -> Bytes {
            let length = 1 + round.wrapping_mul(2_654_435_761) % 40_000;
            (0..length)
                .map(|at| round.wrapping_mul(31).wrapping_add(at / 7).to_le_bytes()[0])
                .collect()
        };
        let expected: Vec<u8> = (0..ROUNDS).flat_map(frame).collect();
        let readers: Vec<_> = clients
            .into_iter()
            .map(|(_, client)| {
                let length = expected.len();
                thread::spawn(move || read(&client, length))
            })
            .collect();
        for round in 0..ROUNDS {
            let frame = frame(round);
            rig.offer(&frame, &targets);
            rig.turn();
            drain_all(&mut rig);
        }
        for reader in readers {
            assert!(reader.join().unwrap() == expected, "a stream is not what was sent");
        }
        until_outstanding(&mut rig, 0);
        let counts = counts(&rig);
        assert!(counts.zero_copy_sends > u64::from(ROUNDS), "{counts:?}");
        rig.assert_clean();
    }
}

#[test]
fn an_arena_that_cannot_be_had_is_named_and_the_engine_starts() {
    let zero_copy = Some(ZeroCopy { bytes_min: 1024, arena_bytes: u32::MAX });
    let options = RingOptions { zero_copy, ..options() };
    let mut rig = started(&options, listener(loopback()), Start::USUAL);
    let notes = rig.engine.notes().join("\n");
    assert!(notes.contains("the arena of large frames cannot be had"), "{notes}");
    assert!(notes.contains(NO_ARENA), "{notes}");
    let (connection, mut client) = rig.client();
    rig.offer(&bytes_of(b'x', 2 * KIB), &[connection.slot]);
    rig.turn();
    assert_eq!(read(&client, 2 * KIB), [b'x'; 2 * KIB]);
    client.write_all(b"x").unwrap();
    assert_eq!(counts(&rig).zero_copy_sends, 0);
}

#[test]
fn the_arena_is_counted_and_its_pages_are_named() {
    let without = Rig::new(&options()).engine.fixed_bytes();
    let Some(rig) = rig(&small_arena(), Start::USUAL) else { return };
    assert!(rig.engine.fixed_bytes() >= without + 2 * MIB);
    let notes = rig.engine.notes().join("\n");
    assert!(notes.contains("large frames are sent without a copy, out of"), "{notes}");
}

#[test]
fn an_arena_that_the_self_test_rejects_is_given_back() {
    let without = Rig::new(&options()).engine.fixed_bytes();
    let start = Start { takes_arena: false, ..Start::USUAL };
    let mut rig = started(&small_arena(), listener(loopback()), start);
    assert!(rig.engine.arena.is_none());
    assert_eq!(rig.engine.fixed_bytes(), without);
    assert!(rig.engine.notes().iter().any(|note| note == NO_ARENA), "{:?}", rig.engine.notes());
    let (connection, client) = rig.client();
    rig.offer(&bytes_of(b'x', 2 * KIB), &[connection.slot]);
    rig.turn();
    assert_eq!(read(&client, 2 * KIB), [b'x'; 2 * KIB]);
}
