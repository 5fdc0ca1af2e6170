//! What waits in the kernel. Each wait is a task of the runtime and owns what the kernel works with:
//! a read its socket and its buffer, an accept its listener. A task ends by itself and says once what
//! it has found. It is never dropped before: an accept would lose its connection and a read its
//! bytes.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use sockets::EventWaker;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::sleep,
};
use tokio_uring::net::{TcpListener, TcpStream};
use worker::{ConnectionId, Slot};

use crate::{receive::FIRST_BYTES, socket::Socket};

/// Between two tries where the kernel had no memory for something.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(1);

/// A wait that is to begin at the next turn.
#[derive(Debug)]
pub(crate) enum Start {
    /// Somebody is to be accepted into a slot.
    Accept { index: usize, slot: Slot, listener: Rc<Listening> },
    /// The first bytes are to be read.
    Read { connection: ConnectionId, socket: Rc<Socket> },
    /// The socket is to be watched for room to write, until the other end of `end` is dropped.
    Watch { connection: ConnectionId, socket: Rc<Socket>, end: oneshot::Receiver<Infallible> },
}

/// How a wait has ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Accepted { index: usize, slot: Slot, outcome: io::Result<(Socket, SocketAddr)> },
    Read { connection: ConnectionId, outcome: io::Result<Vec<u8>> },
    Watched { connection: ConnectionId },
    Woken,
}

/// A listener whose accepts wait in the ring.
pub(crate) struct Listening(TcpListener);

impl Listening {
    pub(crate) fn new(listener: std::net::TcpListener) -> Self {
        Self(TcpListener::from_std(listener))
    }

    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (stream, peer): (TcpStream, SocketAddr) = self.0.accept().await?;
        // An IPv6 listener that takes IPv4 too says ::ffff:a.b.c.d.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        Ok((Socket::new(stream), peer))
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Listening({})", self.0.as_raw_fd())
    }
}

/// Where tasks leave what they have found, in order, and whoever waits for the first of it.
#[derive(Default)]
pub(crate) struct Endings {
    ended: RefCell<Vec<Ended>>,
    waiting: Cell<Option<Waker>>,
}

impl std::fmt::Debug for Endings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Endings({})", self.ended.borrow().len())
    }
}

impl Endings {
    fn push(&self, ended: Ended) {
        self.ended.borrow_mut().push(ended);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ended.borrow().is_empty()
    }

    /// All that there is, in exchange for an empty list.
    pub(crate) fn swap(&self, empty: &mut Vec<Ended>) {
        std::mem::swap(&mut *self.ended.borrow_mut(), empty);
    }

    /// Waits until there is something.
    pub(crate) async fn some(&self) {
        poll_fn(|context| {
            if !self.is_empty() {
                return Poll::Ready(());
            }
            self.waiting.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Start {
    /// True exactly when it takes an entry of the submission queue.
    pub(crate) fn takes_entry(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::Read { .. })
    }

    /// Begins to wait. Within the runtime.
    pub(crate) fn spawn(self, endings: &Rc<Endings>) {
        let endings = Rc::clone(endings);
        match self {
            Self::Accept { index, slot, listener } => {
                tokio_uring::spawn(async move {
                    let outcome = listener.accept().await;
                    drop(listener);
                    endings.push(Ended::Accepted { index, slot, outcome });
                });
            }
            Self::Read { connection, socket } => {
                tokio_uring::spawn(async move {
                    let outcome = socket.read(FIRST_BYTES).await;
                    // The engine closes the socket, and only with the last handle.
                    drop(socket);
                    endings.push(Ended::Read { connection, outcome });
                });
            }
            Self::Watch { connection, socket, end } => {
                tokio_uring::spawn(async move {
                    watch(socket, end).await;
                    endings.push(Ended::Watched { connection });
                });
            }
        }
    }
}

/// Waits until the socket has room or has failed, or nobody asks any more.
async fn watch(socket: Rc<Socket>, end: oneshot::Receiver<Infallible>) {
    let mut end = pin!(end);
    let Ok(watched) = registered(socket, Interest::WRITABLE) else {
        // ENOMEM, or ENOSPC: fs.epoll.max_user_watches is reached. Whoever asks tries it and sees.
        return sleep(BACK_OFF).await;
    };
    let mut writable = pin!(watched.writable());
    poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        writable.as_mut().poll(context).map(drop)
    })
    .await;
}

/// Has the runtime's epoll instance watch a descriptor.
#[expect(
    deprecated,
    reason = "tokio asks for a descriptor that is open as long as it is watched: it is owned here"
)]
fn registered<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, interest)
}

/// The eventfd of a waker, by number as the runtime wants it.
#[derive(Debug)]
struct Event(EventWaker);

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.event().as_raw_fd()
    }
}

/// Says whenever somebody has called, as long as the runtime lives. The eventfd is not read: each
/// write to it is an edge.
///
/// # Errors
/// The kernel has no memory for the registration.
pub(crate) fn watch_wakes(waker: EventWaker, endings: &Rc<Endings>) -> io::Result<()> {
    let calls = registered(Event(waker), Interest::READABLE)?;
    let endings = Rc::clone(endings);
    tokio_uring::spawn(async move {
        // It ends with the runtime, which asks for nothing any more.
        while let Ok(mut call) = calls.readable().await {
            call.clear_ready();
            endings.push(Ended::Woken);
        }
    });
    Ok(())
}
