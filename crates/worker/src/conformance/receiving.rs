//! Receiving: in order, on and on, until told to stop or until the stream ends.

use super::{
    Bed, Check, Event, Make, Peer,
    rig::{Rig, pattern},
};
use crate::operation::{ConnectionId, Failure, Operation};

pub(super) fn checks<B: Bed>() -> Vec<Check<B>> {
    vec![
        Check { name: "nothing_is_received_before_receive", run: nothing_before_receive },
        Check { name: "receiving_goes_on_and_keeps_the_order", run: receiving_goes_on_in_order },
        Check {
            name: "many_connections_receive_each_their_own_bytes",
            run: many_connections_receive_each_their_own_bytes,
        },
        Check {
            name: "stop_receiving_holds_the_peer_up_and_receive_goes_on_without_loss",
            run: stop_receiving_holds_the_peer_up,
        },
        Check {
            name: "stop_receiving_and_receive_in_one_batch_go_on",
            run: stop_receiving_and_receive_in_one_batch_go_on,
        },
        Check {
            name: "the_end_of_the_stream_comes_once_behind_its_bytes",
            run: the_end_comes_once_behind_its_bytes,
        },
        Check {
            name: "a_peer_that_has_finished_can_be_sent_to",
            run: a_peer_that_has_finished_can_be_sent_to,
        },
        Check { name: "a_reset_is_a_failure_told_once", run: a_reset_is_a_failure_told_once },
        Check {
            name: "a_reset_before_receive_is_told_by_receive",
            run: a_reset_before_receive_is_told_by_receive,
        },
    ]
}

fn nothing_before_receive<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.write(&mut peer, b"early");
    peer.finish();
    rig.assert_silent();
    rig.receive(connection);
    assert_eq!(rig.received(connection, 5), b"early");
    rig.expect(&Event::Finished(connection));
    rig.assert_silent();
    rig.assert_clean();
}

fn receiving_goes_on_in_order<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    // One Receive, then bursts with pauses and one large flood.
    for _ in 0..20 {
        rig.write(&mut peer, b"a few bytes");
        assert_eq!(rig.received(connection, 11), b"a few bytes");
    }
    assert_flows(&mut rig, connection, &mut peer, &pattern(1 << 20), 0);
    rig.assert_silent();
    rig.assert_clean();
}

/// All of a flood comes through, of which the peer has written so much. On the smallest queues that
/// takes its time, but it never stands still.
#[track_caller]
fn assert_flows<B: Bed>(
    rig: &mut Rig<B>,
    connection: ConnectionId,
    peer: &mut B::Peer,
    flood: &[u8],
    mut written: usize,
) {
    let mut received = Vec::new();
    while received.len() < flood.len() {
        received.extend(rig.repeat(|rig| {
            written += peer.write(&flood[written..]);
            rig.find(|event| bytes_of(event, connection))
        }));
    }
    assert!(received == flood, "the stream is not what was written");
}

fn bytes_of(event: &Event, connection: ConnectionId) -> Option<Vec<u8>> {
    match event {
        Event::Bytes(from, bytes) if *from == connection => Some(bytes.clone()),
        _ => None,
    }
}

fn many_connections_receive_each_their_own_bytes<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let mut clients = rig.clients(100);
    for (connection, _) in &clients {
        rig.receive(*connection);
    }
    for round in 0..3 {
        for (index, (_, peer)) in clients.iter_mut().enumerate() {
            let line = format!("{index:3} {round}");
            rig.write(peer, line.repeat(200).as_bytes());
        }
        for (index, (connection, _)) in clients.iter().enumerate() {
            let line = format!("{index:3} {round}");
            assert_eq!(rig.received(*connection, 1000), line.repeat(200).as_bytes());
        }
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn stop_receiving_holds_the_peer_up<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.write(&mut peer, b"go");
    assert_eq!(rig.received(connection, 2), b"go");
    rig.submit(Operation::StopReceiving { connection });
    let flood = pattern(B::OVERWHELMING_BYTES);
    // Writes until the peer's socket takes nothing for as long as things take.
    let mut written = 0;
    loop {
        let before = written;
        rig.repeat(|_| {
            let count = peer.write(&flood[written..]);
            written += count;
            (count == 0).then_some(())
        });
        rig.settle();
        if written == before {
            break;
        }
    }
    assert!(written < flood.len(), "the peer was not held up");
    rig.receive(connection);
    assert_flows(&mut rig, connection, &mut peer, &flood, written);
    rig.assert_silent();
    rig.assert_clean();
}

fn stop_receiving_and_receive_in_one_batch_go_on<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.turn();
    for _ in 0..50 {
        rig.submit(Operation::StopReceiving { connection });
        rig.receive(connection);
        rig.write(&mut peer, b"go on");
        assert_eq!(rig.received(connection, 5), b"go on");
    }
    rig.assert_silent();
    rig.assert_clean();
}

fn the_end_comes_once_behind_its_bytes<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.write(&mut peer, &[b'x'; 30_000]);
    peer.finish();
    let mut received = 0;
    loop {
        match rig.next() {
            Event::Bytes(from, bytes) if from == connection => received += bytes.len(),
            event => {
                assert_eq!(event, Event::Finished(connection));
                break;
            }
        }
    }
    assert_eq!(received, 30_000);
    rig.assert_silent();
    rig.assert_clean();
}

fn a_peer_that_has_finished_can_be_sent_to<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    peer.finish();
    rig.expect(&Event::Finished(connection));
    rig.send(connection, &b"the answer"[..]);
    assert_eq!(rig.sent(connection).map(|taken| taken.taken), Ok(10));
    rig.offer(&b"the news".as_slice().into(), &[connection.slot]);
    rig.offered(1);
    assert_eq!(rig.read(&mut peer, 18), b"the answerthe news");
    rig.assert_silent();
    rig.assert_clean();
}

fn a_reset_is_a_failure_told_once<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    rig.receive(connection);
    rig.turn();
    peer.reset();
    rig.expect(&Event::Failed(connection, Failure::Reset));
    rig.assert_silent();
    rig.assert_clean();
}

fn a_reset_before_receive_is_told_by_receive<B: Bed>(make: Make<'_, B>) {
    let mut rig = Rig::new(make);
    let (connection, mut peer) = rig.client();
    peer.reset();
    rig.assert_silent();
    rig.receive(connection);
    rig.expect(&Event::Failed(connection, Failure::Reset));
    rig.assert_silent();
    rig.assert_clean();
}
