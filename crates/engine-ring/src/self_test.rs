//! The proof, on a loopback pair before the first accept, of what the engine's correctness rests on
//! and no manual promises: a send with `MSG_DONTWAIT` is decided when the enter that consumed it
//! returns, and with `MSG_WAITALL` and `IOSQE_CQE_SKIP_SUCCESS` a whole send posts nothing while a
//! partial or refused one posts what became of it. Takes less than a millisecond.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
};

use crate::{
    descriptors::{Descriptors, File, Places},
    queue::{Entry, Queue, Stay},
    sends::Sends,
    setup::{SELF_TEST_PLACE, StartError, explain},
    tag::{Kind, Tag},
};
use bytes::Bytes;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

/// The socket buffers asked for: small, so that they are full soon.
const SOCKET_BUFFER_BYTES: usize = 4096;

/// More than both of them take.
const LONG_BYTES: usize = 1 << 20;

/// Sends of that until the socket is full for good: bytes move on while it is being filled.
const LONG_SENDS_MAX: u32 = 64;

/// What a socket takes whole.
const WHOLE: &[u8] = b"whole";

/// A connection of this machine with itself.
pub(crate) struct Pair {
    /// The end that sends.
    pub(crate) sender: OwnedFd,
    receiver: TcpStream,
}

impl Pair {
    pub(crate) fn new() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        set_socket_recv_buffer_size(&listener, SOCKET_BUFFER_BYTES)?;
        let sender = TcpStream::connect(listener.local_addr()?)?;
        set_socket_send_buffer_size(&sender, SOCKET_BUFFER_BYTES)?;
        let (receiver, _) = listener.accept()?;
        Ok(Self { sender: sender.into(), receiver })
    }

    /// The end that receives, alone.
    pub(crate) fn into_receiver(self) -> TcpStream {
        self.receiver
    }
}

/// Whether a whole send may skip its completion. The pair's sender stands in the table's place for
/// it, if there is a table, which is empty afterwards.
///
/// # Errors
/// Sends are not even decided when the enter returns.
pub(crate) fn sends_are_inline(
    queue: &mut Queue,
    pair: Pair,
    places: Places,
) -> Result<bool, StartError> {
    let file = places.file(SELF_TEST_PLACE, &pair.sender);
    // The first enter is here: a filter may allow all that came before.
    let failed = |error| explain("the self-test", error);
    let mut test = Test { queue, file, pair };
    let inline = test.run(true).map_err(failed)?;
    if !inline && !test.run(false).map_err(failed)? {
        return Err(StartError::SendsWait);
    }
    if places.descriptors == Descriptors::Direct {
        let tag = Tag::of_engine(Kind::Close, SELF_TEST_PLACE);
        test.complete(&Entry::close_place(SELF_TEST_PLACE, tag)).map_err(failed)?;
    }
    Ok(inline)
}

struct Test<'a> {
    queue: &'a mut Queue,
    file: File,
    pair: Pair,
}

impl Test<'_> {
    /// Whole, partial, refused.
    fn run(&mut self, inline: bool) -> io::Result<bool> {
        let posted = self.send(inline, Bytes::from_static(WHOLE))?;
        let expected: &[i32] = if inline { &[] } else { &[5] };
        if posted != expected {
            return Ok(false);
        }
        let mut received = [0; WHOLE.len()];
        self.pair.receiver.read_exact(&mut received)?;
        let Some(taken) = self.fill(inline)? else { return Ok(false) };
        self.skip(taken)?;
        Ok(received == WHOLE)
    }

    /// Sends until the socket is full: each send posts once, the first ones what was taken of them,
    /// the last one EAGAIN. How much was taken, or `None` if it was not so.
    fn fill(&mut self, inline: bool) -> io::Result<Option<u64>> {
        let long = Bytes::from(vec![0; LONG_BYTES]);
        let mut taken_in_all = 0;
        for _ in 0..LONG_SENDS_MAX {
            match self.send(inline, long.clone())?[..] {
                [refused] if refused == -libc::EAGAIN => {
                    return Ok(Some(taken_in_all).filter(|taken| *taken > 0));
                }
                [taken] => match u64::try_from(taken) {
                    Ok(taken) if taken > 0 && taken < LONG_BYTES as u64 => taken_in_all += taken,
                    _ => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Offers bytes and says what has been posted when the enter returns. The bytes are gone then.
    fn send(&mut self, inline: bool, bytes: Bytes) -> io::Result<Vec<i32>> {
        let mut sends = Sends::new(inline);
        let mark = sends.hold(bytes);
        let Some(entry) = sends.offer(mark, SELF_TEST_PLACE, self.file) else {
            return Ok(Vec::new());
        };
        let posted = self.complete(&entry);
        sends.settle();
        posted
    }

    fn complete(&mut self, entry: &Entry) -> io::Result<Vec<i32>> {
        self.queue.push(entry);
        self.queue.enter(Stay::Submit)?;
        let mut posted = Vec::new();
        self.queue.drain(|completion| posted.push(completion.result()));
        Ok(posted)
    }

    /// Makes room again.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let receiver = &self.pair.receiver;
        let skipped = io::copy(&mut receiver.take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
