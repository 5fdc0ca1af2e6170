//! Sending: whole or refused, never in pieces that mix.

use bytes::Bytes;

use super::{
    Bed, Check, Event, Make, Peer,
    rig::{Rig, pattern, slots},
};
use crate::operation::{Failure, OFFER_TARGETS_MAX};

pub(super) fn checks<B: Bed>() -> Vec<Check<B>> {
    vec![
        Check { name: "a_whole_send_says_so", run: a_whole_send_says_so },
        Check { name: "an_offer_reaches_each_target_whole", run: an_offer_reaches_each_target },
        Check { name: "many_offers_arrive_in_order", run: many_offers_arrive_in_order },
        Check {
            name: "a_stalled_peer_refuses_the_rest_and_gets_it_when_it_reads",
            run: a_stalled_peer_refuses_the_rest,
        },
        Check {
            name: "a_short_send_says_how_much_was_taken_and_writable_follows",
            run: a_short_send_says_how_much_was_taken,
        },
        Check { name: "a_full_socket_refuses_all", run: a_full_socket_refuses_all },
        Check {
            name: "a_stalled_target_leaves_the_others_alone",
            run: a_stalled_target_leaves_the_others_alone,
        },
        Check {
            name: "whole_sends_of_one_batch_to_one_connection_arrive_in_order",
            run: whole_sends_of_one_batch_arrive_in_order,
        },
        Check {
            name: "sends_of_one_batch_to_one_connection_never_mix",
            run: sends_of_one_batch_never_mix,
        },
        Check {
            name: "an_offer_behind_a_short_send_is_refused_whole",
            run: an_offer_behind_a_short_send_is_refused_whole,
        },
        Check {
            name: "refusals_come_before_everything_else_of_their_batch",
            run: refusals_come_first,
        },
        Check { name: "a_reset_peer_fails_what_is_sent", run: a_reset_peer_fails_what_is_sent },
        Check {
            name: "a_stalled_peer_that_resets_is_writable_and_then_fails",
            run: a_stalled_peer_that_resets_is_writable,
        },
    ]
}

fn bytes_of(byte: u8, count: usize) -> Bytes {
    vec![byte; count].into()
}

fn a_whole_send_says_so<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    for _ in 0..10 {
        rig.send(connection, &b"hello"[..]);
        let taken = rig.sent(connection).expect("the peer is there");
        assert_eq!((&taken.bytes[..], taken.taken), (&b"hello"[..], 5));
        assert_eq!(rig.read(&mut peer, 5), b"hello");
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn an_offer_reaches_each_target<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for count in [1, 2, 37, OFFER_TARGETS_MAX] {
        let mut clients = rig.clients(count);
        let frame = pattern(1000 + count);
        rig.offer(&frame, &slots(&clients));
        rig.offered(u32::try_from(count).expect("at most 64"));
        for (_, peer) in &mut clients {
            assert!(rig.read(peer, frame.len()) == frame);
        }
        rig.assert_silent();
        for (connection, _) in clients {
            rig.close(connection, crate::operation::Closing::Finish);
            rig.expect(&Event::Closed(connection));
        }
    }
    rig.assert_clean();
}

fn many_offers_arrive_in_order<B: Bed>(make: Make<'_, B>) {
    const OFFERS: u8 = 50;
    let mut rig = Rig::new(make);
    let mut clients = rig.clients(20);
    let targets = slots(&clients);
    // In one batch, though no two of them may leave in one enter.
    for offer in 0..OFFERS {
        rig.offer(&bytes_of(offer, 40), &targets);
    }
    rig.offered(u32::from(OFFERS) * 20);
    for (_, peer) in &mut clients {
        let received = rig.read(peer, usize::from(OFFERS) * 40);
        assert!(received.iter().enumerate().all(|(at, byte)| at / 40 == usize::from(*byte)));
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn a_stalled_peer_refuses_the_rest<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let frame = pattern(B::OVERWHELMING_BYTES);
    rig.offer(&frame, &[connection.slot]);
    let taken = rig.refused(connection).expect("the peer is there");
    assert!(taken.bytes == frame, "what was offered comes back");
    assert!(taken.taken < frame.len(), "it was not overwhelmed");
    rig.offered(1);
    let rest = frame.slice(taken.taken..);
    let received = rig.drain(connection, rest, &mut peer, frame.len());
    assert!(received == frame, "the stream is not what was sent");
    rig.assert_silent();
    rig.assert_clean();
}

fn a_short_send_says_how_much_was_taken<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let bytes = pattern(B::OVERWHELMING_BYTES);
    rig.send(connection, bytes.clone());
    let taken = rig.sent(connection).expect("the peer is there");
    assert!(taken.bytes == bytes, "what was sent comes back");
    assert!(taken.taken < bytes.len(), "it was not overwhelmed");
    let rest = bytes.slice(taken.taken..);
    let received = rig.drain(connection, rest, &mut peer, bytes.len());
    assert!(received == bytes, "the stream is not what was sent");
    rig.assert_silent();
    rig.assert_clean();
}

fn a_full_socket_refuses_all<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let (all, rest) = rig.fill(connection);
    // The peer reads nothing, so there is no Writable, however long one waits.
    rig.assert_silent();
    let received = rig.drain(connection, rest, &mut peer, all.len());
    assert!(received == all, "the stream is not what was sent");
    rig.assert_silent();
    rig.assert_clean();
}

fn a_stalled_target_leaves_the_others_alone<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let mut clients = rig.clients(9);
    let targets = slots(&clients);
    let (stalled, mut stalled_peer) = clients.remove(4);
    let frame = pattern(B::OVERWHELMING_BYTES);
    // The stalled one gets a large frame of its own in front of what all get.
    rig.offer(&frame, &[stalled.slot]);
    let news = bytes_of(b'n', 100);
    rig.offer(&news, &targets);
    let first = rig.refused(stalled).expect("the peer is there");
    let second = rig.refused(stalled).expect("the peer is there");
    assert_eq!((&second.bytes, second.taken), (&news, 0));
    rig.offered(10);
    for (_, peer) in &mut clients {
        assert_eq!(rig.read(peer, 100), news);
    }
    let mut rest = frame[first.taken..].to_vec();
    rest.extend_from_slice(&news);
    let count = frame.len() + news.len();
    let received = rig.drain(stalled, rest.into(), &mut stalled_peer, count);
    assert!(received[..frame.len()] == frame && received[frame.len()..] == news);
    rig.assert_silent();
    rig.assert_clean();
}

fn whole_sends_of_one_batch_arrive_in_order<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    for _ in 0..20 {
        rig.offer(&bytes_of(b'a', 10), &[connection.slot]);
        rig.send(connection, bytes_of(b'b', 10));
        rig.offer(&bytes_of(b'c', 10), &[connection.slot]);
        assert_eq!(rig.sent(connection).map(|taken| taken.taken), Ok(10));
        rig.offered(2);
        assert_eq!(rig.read(&mut peer, 30), b"aaaaaaaaaabbbbbbbbbbcccccccccc");
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn sends_of_one_batch_never_mix<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let count = B::OVERWHELMING_BYTES;
    let (first, second) = (bytes_of(b'a', count), bytes_of(b'b', 5000));
    rig.offer(&first, &[connection.slot]);
    rig.send(connection, second.clone());
    rig.offer(&bytes_of(b'c', 5), &[connection.slot]);
    let cut = rig.refused(connection).expect("the peer is there");
    assert!(cut.bytes == first && cut.taken < count);
    // Those behind it are refused whole, though some room may have come meanwhile.
    let whole = rig.sent(connection).expect("the peer is there");
    assert!(whole.bytes == second && whole.taken == 0);
    let last = rig.refused(connection).expect("the peer is there");
    assert_eq!((&last.bytes[..], last.taken), (&b"ccccc"[..], 0));
    rig.offered(2);
    let mut rest = first[cut.taken..].to_vec();
    rest.extend_from_slice(&second);
    rest.extend_from_slice(b"ccccc");
    let received = rig.drain(connection, rest.into(), &mut peer, count + 5005);
    assert!(received[..count] == first);
    assert!(received[count..count + 5000] == second);
    assert_eq!(&received[count + 5000..], b"ccccc");
    rig.assert_silent();
    rig.assert_clean();
}

fn an_offer_behind_a_short_send_is_refused_whole<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let bytes = pattern(B::OVERWHELMING_BYTES);
    rig.send(connection, bytes.clone());
    rig.offer(&bytes_of(b'c', 5), &[connection.slot]);
    let cut = rig.sent(connection).expect("the peer is there");
    assert!(cut.bytes == bytes && cut.taken < bytes.len());
    let behind = rig.refused(connection).expect("the peer is there");
    assert_eq!((&behind.bytes[..], behind.taken), (&b"ccccc"[..], 0));
    rig.offered(1);
    let mut rest = bytes[cut.taken..].to_vec();
    rest.extend_from_slice(b"ccccc");
    let received = rig.drain(connection, rest.into(), &mut peer, bytes.len() + 5);
    assert!(received[..bytes.len()] == bytes && &received[bytes.len()..] == b"ccccc");
    rig.assert_silent();
    rig.assert_clean();
}

fn refusals_come_first<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (stalled, _stalled_peer) = rig.client();
    let mut others = rig.clients(20);
    for (connection, _) in &others {
        rig.receive(*connection);
    }
    rig.turn();
    // Much is ready when the offer is submitted: bytes, ends, clients, a close.
    for (index, (_, peer)) in others.iter_mut().enumerate() {
        rig.write(peer, b"ready");
        if index % 3 == 0 {
            peer.finish();
        }
    }
    rig.events.clear();
    let _waiting: Vec<B::Peer> = (0..5).map(|_| rig.connect()).collect();
    rig.close(others[19].0, crate::operation::Closing::Finish);
    rig.offer(&pattern(B::OVERWHELMING_BYTES), &[stalled.slot]);
    let first = rig.next();
    assert!(matches!(first, Event::Refused(to, Ok(_)) if to == stalled), "{first:?}");
    rig.offered(1);
    rig.assert_clean();
}

fn a_reset_peer_fails_what_is_sent<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    peer.reset();
    rig.settle();
    rig.offer(&bytes_of(b'x', 10), &[connection.slot]);
    assert_eq!(rig.refused(connection), Err(Failure::Reset));
    rig.offered(1);
    rig.send(connection, bytes_of(b'x', 10));
    assert_eq!(rig.sent(connection), Err(Failure::Reset));
    rig.assert_silent();
    rig.assert_clean();
}

fn a_stalled_peer_that_resets_is_writable<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    let (_, rest) = rig.fill(connection);
    peer.reset();
    rig.expect(&Event::Writable(connection));
    rig.send(connection, rest);
    assert_eq!(rig.sent(connection), Err(Failure::Reset));
    rig.assert_silent();
    rig.assert_clean();
}
