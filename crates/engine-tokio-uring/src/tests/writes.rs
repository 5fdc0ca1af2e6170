//! What `send.rs` rests on: a write through the ring would wait in the kernel, and not be refused.

use std::{
    future::poll_fn,
    io::{ErrorKind, Write},
    net::TcpStream,
    task::Poll,
};

use sockets::peer;

use crate::setup;

/// Times that room may appear between a refused send and a write, as the peer's kernel takes bytes over.
const TRIES_MAX: u32 = 50;

/// On a socket that does not block, too. If this fails sends can go through the ring.
#[test]
fn a_write_through_the_ring_waits_where_a_send_is_refused() {
    let (listener, address) = peer::listener().unwrap();
    let _stalled = TcpStream::connect(address).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    let writer = socket.try_clone().unwrap();
    let runtime = setup::runtime(8, 16).unwrap();
    let waits = runtime.block_on(async {
        let stream = tokio_uring::net::TcpStream::from_std(writer);
        for _ in 0..TRIES_MAX {
            let refused = loop {
                if let Err(error) = socket.write(&[0; 1 << 16]) {
                    break error;
                }
            };
            assert_eq!(refused.kind(), ErrorKind::WouldBlock);
            let mut write = Box::pin(stream.write(vec![0; 100]).submit());
            // Whatever the kernel decides at once has been collected when this has come back.
            tokio_uring::no_op().await.unwrap();
            match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
                Poll::Pending => return true,
                Poll::Ready((outcome, _)) => drop(outcome.expect("no write is refused")),
            }
        }
        false
    });
    assert!(waits, "each write was decided at once");
}
