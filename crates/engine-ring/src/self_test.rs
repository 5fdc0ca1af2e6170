//! The proof, on a loopback pair before the first accept, of what the engine's correctness rests on
//! and no manual promises: a send with `MSG_DONTWAIT` is decided when the enter that consumed it
//! returns, and with `MSG_WAITALL` and `IOSQE_CQE_SKIP_SUCCESS` a whole send posts nothing while a
//! partial or refused one posts what became of it; that a send from the arena is decided like that too,
//! and notified of. Takes less than a millisecond, and with an arena at most a second more where the
//! notifications do not come.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use crate::{
    arena::Arena,
    descriptors::{Descriptors, File, Places},
    queue::{Entry, Queue, Stay},
    sends::Sends,
    setup::{SELF_TEST_PLACE, StartError, explain},
    tag::{Kind, Tag},
};
use bytes::Bytes;
use io_uring::cqueue;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

/// The socket buffers asked for: small, so that they are full soon.
const SOCKET_BUFFER_BYTES: usize = 4096;

/// More than both of them take.
const LONG_BYTES: usize = 1 << 20;

/// Sends of that until the socket is full for good: bytes move on while it is being filled.
const LONG_SENDS_MAX: u32 = 64;

/// How long the kernel may take to say that it reads what was received no more.
const NOTIFIED_WITHIN: Duration = Duration::from_secs(1);

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

/// What was proved.
pub(crate) struct Proofs {
    /// A whole send may skip its completion.
    pub(crate) inline: bool,
    /// Sends from the arena are decided like others, and notified of.
    pub(crate) zero_copy: bool,
}

/// Tries sends of each kind, if there is a pair: else nothing is proved, and noted. The pair's sender
/// stands in the table's place for it, if there is a table, which is empty afterwards, as is the arena
/// where sends from it were proved.
///
/// # Errors
/// Sends are not even decided when the enter returns.
pub(crate) fn run(
    queue: &mut Queue,
    arena: Option<&mut Arena>,
    pair: io::Result<Pair>,
    places: Places,
    notes: &mut Vec<String>,
) -> Result<Proofs, StartError> {
    let pair = match pair {
        Ok(pair) => pair,
        Err(error) => {
            notes.push(format!("no loopback connection for the self-test: {error}"));
            return Ok(Proofs { inline: false, zero_copy: false });
        }
    };
    let file = places.file(SELF_TEST_PLACE, &pair.sender);
    // The first enter is here: a filter may allow all that came before.
    let failed = |error| explain("the self-test", error);
    let has_arena = arena.is_some();
    let mut test = Test { queue, arena, file, pair };
    let inline = test.run(Way::Skipping).map_err(failed)?;
    if !inline && !test.run(Way::Completing).map_err(failed)? {
        return Err(StartError::SendsWait);
    }
    let zero_copy = has_arena && test.run(Way::FromArena).map_err(failed)?;
    if places.descriptors == Descriptors::Direct {
        let tag = Tag::of_engine(Kind::Close, SELF_TEST_PLACE);
        test.complete(&Entry::close_place(SELF_TEST_PLACE, tag)).map_err(failed)?;
    }
    Ok(Proofs { inline, zero_copy })
}

/// How a send is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without a completion where it is whole.
    Skipping,
    /// With a completion.
    Completing,
    /// With a completion, and a notification that is waited for at the end.
    FromArena,
}

struct Test<'a> {
    queue: &'a mut Queue,
    arena: Option<&'a mut Arena>,
    file: File,
    pair: Pair,
}

impl Test<'_> {
    /// Whole, partial, refused.
    fn run(&mut self, way: Way) -> io::Result<bool> {
        let posted = self.send(way, Bytes::from_static(WHOLE))?;
        let expected: &[i32] = if way == Way::Skipping { &[] } else { &[5] };
        if posted != expected {
            return Ok(false);
        }
        let mut received = [0; WHOLE.len()];
        self.pair.receiver.read_exact(&mut received)?;
        let Some(taken) = self.fill(way)? else { return Ok(false) };
        self.skip(taken)?;
        Ok(received == WHOLE && self.is_notified()?)
    }

    /// Sends until the socket is full: each send posts once, the first ones what was taken of them,
    /// the last one EAGAIN. How much was taken, or `None` if it was not so.
    fn fill(&mut self, way: Way) -> io::Result<Option<u64>> {
        let long = Bytes::from(vec![0; LONG_BYTES]);
        let mut taken_in_all = 0;
        for _ in 0..LONG_SENDS_MAX {
            match self.send(way, long.clone())?[..] {
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
    fn send(&mut self, way: Way, bytes: Bytes) -> io::Result<Vec<i32>> {
        let mut sends = Sends::new(way == Way::Skipping);
        let mark = sends.hold(bytes.clone());
        let entry = match self.arena.as_mut().filter(|_| way == Way::FromArena) {
            Some(arena) => {
                let place = arena.hold(&bytes);
                place.map(|place| arena.send(place, mark, (SELF_TEST_PLACE, 0), self.file))
            }
            None => sends.offer(mark, SELF_TEST_PLACE, self.file),
        };
        let Some(entry) = entry else { return Ok(Vec::new()) };
        let posted = self.complete(&entry);
        sends.settle();
        posted
    }

    fn complete(&mut self, entry: &Entry) -> io::Result<Vec<i32>> {
        self.queue.push(entry);
        self.queue.enter(Stay::Submit)?;
        Ok(self.drain())
    }

    /// Takes what has completed, and says so of all but notifications.
    fn drain(&mut self) -> Vec<i32> {
        let mut posted = Vec::new();
        let arena = &mut self.arena;
        self.queue.drain(|completion| {
            let tag = Tag::unpack(completion.user_data()).filter(|it| it.kind == Kind::ZeroCopy);
            if let (Some(tag), Some(arena)) = (tag, arena.as_mut()) {
                arena.complete(tag, !cqueue::more(completion.flags()));
            }
            if !cqueue::notif(completion.flags()) {
                posted.push(completion.result());
            }
        });
        posted
    }

    /// Whether the kernel says in time that it reads nothing of the arena any more.
    fn is_notified(&mut self) -> io::Result<bool> {
        let until = Instant::now() + NOTIFIED_WITHIN;
        while self.arena.as_ref().is_some_and(|arena| arena.outstanding() > 0) {
            let left = until.saturating_duration_since(Instant::now());
            match self.queue.enter(Stay::Wait(left)) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Ok(false),
                outcome => outcome?,
            }
            self.drain();
        }
        if let Some(arena) = &mut self.arena {
            arena.settle();
        }
        Ok(true)
    }

    /// Makes room again.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let receiver = &self.pair.receiver;
        let skipped = io::copy(&mut receiver.take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
