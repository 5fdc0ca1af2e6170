//! What `send.rs` rests on: a write through the ring would wait in the kernel, and not be refused.

use std::{
    future::poll_fn,
    io::{self, ErrorKind, Write},
    net::TcpStream,
    pin::pin,
    task::Poll,
};

use sockets::peer;
use tokio_uring::buf::fixed::FixedBufPool;

use crate::setup;

/// Times that room may appear between a refused send and a write, as the peer's kernel takes bytes over.
const TRIES_MAX: u32 = 50;

/// Bytes of a write.
const WRITE_BYTES: usize = 100;

/// On a socket that does not block, too. If this fails sends can go through the ring.
#[test]
fn a_write_through_the_ring_waits_where_a_send_is_refused() {
    assert_waits(async |stream| stream.write(vec![0; WRITE_BYTES]).submit().await.0);
}

/// If this fails they can leave from buffers that are registered.
#[test]
fn a_write_from_a_registered_buffer_waits_where_a_send_is_refused() {
    assert_waits(async |stream| {
        let pool = FixedBufPool::new([vec![0; WRITE_BYTES]]);
        pool.register().unwrap();
        let buffer = pool.try_next(WRITE_BYTES).unwrap();
        let (written, _buffer) = stream.write_fixed(buffer).await;
        pool.unregister().unwrap();
        written
    });
}

fn assert_waits(write: impl AsyncFn(&tokio_uring::net::TcpStream) -> io::Result<usize>) {
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
            match decided(write(&stream)).await {
                None => return true,
                Some(outcome) => drop(outcome.expect("no write is refused")),
            }
        }
        false
    });
    assert!(waits, "each write was decided at once");
}

/// What becomes of a write, if the kernel decides it at once.
async fn decided<T>(write: impl Future<Output = T>) -> Option<T> {
    let mut write = pin!(write);
    let mut outcome =
        async || match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
            Poll::Pending => None,
            Poll::Ready(outcome) => Some(outcome),
        };
    // It is given to the ring by the first look at it.
    if let Some(outcome) = outcome().await {
        return Some(outcome);
    }
    // Whatever the kernel decides at once has been collected when this has come back.
    tokio_uring::no_op().await.unwrap();
    outcome().await
}
