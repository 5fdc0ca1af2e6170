//! Closing: three ways in which a connection ends, and the one in which that is told.

use bytes::Bytes;

use super::{
    Bed, BedOptions, Check, Event, Make, Peer, PeerRead,
    rig::{OPTIONS, Rig, pattern, slots},
};
use crate::operation::{Closing, Failure};

pub(super) fn checks<B: Bed>() -> Vec<Check<B>> {
    vec![
        Check { name: "finish_sends_fin_behind_what_was_sent", run: finish_sends_fin },
        Check { name: "finish_works_whatever_goes_on", run: finish_works_whatever_goes_on },
        Check {
            name: "linger_delivers_the_reply_though_bytes_are_unread",
            run: linger_delivers_the_reply,
        },
        Check {
            name: "linger_ends_with_the_end_of_the_peer",
            run: linger_ends_with_the_end_of_the_peer,
        },
        Check {
            name: "linger_ends_when_the_peer_writes_on_and_on",
            run: linger_ends_when_the_peer_writes_on_and_on,
        },
        Check { name: "abort_resets_the_peer", run: abort_resets_the_peer },
        Check { name: "abort_may_follow_a_linger", run: abort_may_follow_a_linger },
        Check {
            name: "abort_may_follow_a_close_of_the_same_batch",
            run: abort_may_follow_a_close_of_the_same_batch,
        },
        Check {
            name: "after_close_nothing_but_closed_is_told",
            run: after_close_nothing_but_closed_is_told,
        },
        Check {
            name: "what_leaves_in_the_batch_of_a_close_is_decided",
            run: what_leaves_in_the_batch_of_a_close_is_decided,
        },
        Check {
            name: "what_is_refused_in_the_batch_of_a_close_is_not_told",
            run: what_is_refused_in_the_batch_of_a_close_is_not_told,
        },
        Check {
            name: "a_broken_connection_closes_in_every_way",
            run: a_broken_connection_closes_in_every_way,
        },
        Check {
            name: "every_connection_of_many_is_closed_once",
            run: every_connection_of_many_is_closed_once,
        },
    ]
}

const EVERY_WAY: [Closing; 3] = [Closing::Finish, Closing::Linger, Closing::Abort];

fn finish_sends_fin<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.write(&mut peer, b"bye");
    assert_eq!(rig.received(connection, 3), b"bye");
    rig.send(connection, &b"goodbye"[..]);
    assert_eq!(rig.sent(connection).map(|taken| taken.taken), Ok(7));
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.read_to_end(&mut peer), (b"goodbye".to_vec(), PeerRead::Finished));
    rig.assert_silent();
    rig.assert_clean();
}

fn finish_works_whatever_goes_on<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    // Accepted only.
    let (connection, mut peer) = rig.client();
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Finished));
    // Receiving for long, and no longer.
    for stopped in [false, true] {
        let (connection, mut peer) = rig.client();
        rig.receive(connection);
        for _ in 0..20 {
            rig.write(&mut peer, b"x");
            rig.received(connection, 1);
        }
        if stopped {
            rig.submit(crate::operation::Operation::StopReceiving { connection });
        }
        rig.turn();
        rig.close(connection, Closing::Finish);
        rig.expect(&Event::Closed(connection));
        assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Finished));
    }
    // At the end of the stream.
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    peer.finish();
    rig.expect(&Event::Finished(connection));
    rig.close(connection, Closing::Finish);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Finished));
    rig.assert_silent();
    rig.assert_clean();
}

fn linger_delivers_the_reply<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for receiving in [false, true] {
        let (connection, mut peer) = rig.client();
        if receiving {
            rig.receive(connection);
            rig.turn();
        }
        rig.write(&mut peer, &[b'x'; 20_000]);
        rig.send(connection, &b"the reply"[..]);
        assert_eq!(rig.sent(connection).map(|taken| taken.taken), Ok(9));
        rig.events.clear();
        rig.close(connection, Closing::Linger);
        rig.turn();
        // The peer goes on writing before it reads.
        rig.write(&mut peer, &[b'x'; 20_000]);
        rig.assert_silent();
        assert_eq!(rig.read_to_end(&mut peer), (b"the reply".to_vec(), PeerRead::Finished));
        rig.assert_silent();
        peer.finish();
        rig.expect(&Event::Closed(connection));
        rig.assert_silent();
    }
    rig.assert_clean();
}

fn linger_ends_with_the_end_of_the_peer<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    // It has ended before.
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    peer.finish();
    rig.expect(&Event::Finished(connection));
    rig.close(connection, Closing::Linger);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Finished));
    // It is cut.
    let (connection, mut peer) = rig.client();
    rig.close(connection, Closing::Linger);
    rig.assert_silent();
    peer.reset();
    rig.expect(&Event::Closed(connection));
    rig.assert_silent();
    rig.assert_clean();
}

fn linger_ends_when_the_peer_writes_on_and_on<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::with(make, &BedOptions { linger_bytes_max: 10_000, ..OPTIONS });
    let (connection, mut peer) = rig.client();
    rig.close(connection, Closing::Linger);
    rig.repeat(|rig| {
        peer.write(&[b'x'; 1000]);
        rig.find(|event| (*event == Event::Closed(connection)).then_some(()))
    });
    rig.assert_silent();
    rig.assert_clean();
}

fn abort_resets_the_peer<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for receiving in [false, true] {
        let (connection, mut peer) = rig.client();
        if receiving {
            rig.receive(connection);
            rig.turn();
        }
        rig.close(connection, Closing::Abort);
        rig.expect(&Event::Closed(connection));
        assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Reset));
    }
    // What is queued for a peer that does not read is not worth waiting for.
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.fill(connection);
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    assert_eq!(rig.read_to_end(&mut peer).1, PeerRead::Reset);
    rig.assert_silent();
    rig.assert_clean();
}

fn abort_may_follow_a_linger<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.close(connection, Closing::Linger);
    assert_eq!(rig.read_to_end(&mut peer), (Vec::new(), PeerRead::Finished));
    rig.assert_silent();
    rig.close(connection, Closing::Abort);
    rig.expect(&Event::Closed(connection));
    rig.assert_silent();
    rig.assert_clean();
}

fn abort_may_follow_a_close_of_the_same_batch<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for how in [Closing::Finish, Closing::Linger] {
        for receiving in [false, true] {
            let (connection, _peer) = rig.client();
            if receiving {
                rig.receive(connection);
                rig.turn();
            }
            rig.close(connection, how);
            rig.close(connection, Closing::Abort);
            rig.expect(&Event::Closed(connection));
            rig.assert_silent();
        }
    }
    rig.assert_clean();
}

fn after_close_nothing_but_closed_is_told<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for how in EVERY_WAY {
        let (connection, mut peer) = rig.client();
        rig.receive(connection);
        rig.turn();
        // Bytes are on their way, a Writable is awaited, and the end of the stream comes.
        let frame = pattern(B::OVERWHELMING_BYTES);
        rig.offer(&frame, &[connection.slot]);
        rig.refused(connection).expect("the peer is there");
        rig.offered(1);
        rig.write(&mut peer, b"too late");
        rig.turn();
        rig.events.clear();
        rig.close(connection, how);
        rig.settle();
        peer.finish();
        let mut received = Vec::new();
        rig.repeat(|_| match peer.read(&mut received) {
            PeerRead::Finished | PeerRead::Reset => Some(()),
            PeerRead::Bytes | PeerRead::Nothing => None,
        });
        assert!(frame.starts_with(&received), "nothing was sent but the frame");
        assert_eq!(rig.next(), Event::Closed(connection));
        rig.assert_silent();
    }
    rig.assert_clean();
}

fn what_leaves_in_the_batch_of_a_close_is_decided<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for how in EVERY_WAY {
        let mut clients = rig.clients(5);
        let targets = slots(&clients);
        let (closing, mut peer) = clients.remove(2);
        rig.offer(&Bytes::from_static(b"news"), &targets);
        rig.close(closing, how);
        // It counts as a target, whatever it took.
        rig.offered(5);
        for (_, peer) in &mut clients {
            assert_eq!(rig.read(peer, 4), b"news");
        }
        let (received, end) = rig.read_to_end(&mut peer);
        if how == Closing::Abort {
            assert_eq!(end, PeerRead::Reset);
        } else {
            assert_eq!((&received[..], end), (&b"news"[..], PeerRead::Finished));
        }
        peer.finish();
        rig.expect(&Event::Closed(closing));
        rig.assert_silent();
        for (connection, _) in clients {
            rig.close(connection, Closing::Finish);
            rig.expect(&Event::Closed(connection));
        }
    }
    rig.assert_clean();
}

fn what_is_refused_in_the_batch_of_a_close_is_not_told<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for how in EVERY_WAY {
        for alone in [false, true] {
            let (connection, mut peer) = rig.client();
            let bytes = pattern(B::OVERWHELMING_BYTES);
            if alone {
                rig.send(connection, bytes);
            } else {
                rig.offer(&bytes, &[connection.slot]);
            }
            rig.close(connection, how);
            if !alone {
                rig.offered(1);
            }
            rig.settle();
            peer.finish();
            rig.read_to_end(&mut peer);
            // Neither the refusal nor a Writable: `Closed` is the one thing left to tell.
            assert_eq!(rig.next(), Event::Closed(connection));
            rig.assert_silent();
        }
    }
    rig.assert_clean();
}

fn a_broken_connection_closes_in_every_way<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for how in EVERY_WAY {
        for told in [false, true] {
            let (connection, mut peer) = rig.client();
            peer.reset();
            if told {
                rig.receive(connection);
                rig.expect(&Event::Failed(connection, Failure::Reset));
            } else {
                rig.settle();
            }
            rig.close(connection, how);
            rig.expect(&Event::Closed(connection));
            rig.assert_silent();
        }
    }
    rig.assert_clean();
}

fn every_connection_of_many_is_closed_once<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    for round in 0..5 {
        let mut clients = rig.clients(99);
        for (index, (connection, peer)) in clients.iter_mut().enumerate() {
            rig.receive(*connection);
            rig.send(*connection, Bytes::from_static(b"hello"));
            if (index + round) % 4 == 0 {
                rig.write(peer, b"unread");
            }
            if (index + round) % 5 == 0 {
                rig.turn();
            }
        }
        rig.events.clear();
        for (index, (connection, _)) in clients.iter().enumerate() {
            rig.close(*connection, EVERY_WAY[(index + round) % 3]);
        }
        for (_, peer) in &mut clients {
            peer.finish();
        }
        for (connection, _) in &clients {
            rig.expect(&Event::Closed(*connection));
        }
        rig.assert_silent();
    }
    rig.assert_clean();
}
