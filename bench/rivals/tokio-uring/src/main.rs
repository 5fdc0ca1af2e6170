//! A hub on tokio-uring: a task for each connection reads, and one more exists while something is
//! queued for it. What a client of any path but `/echo` sends goes to all of them. A client whose
//! queue is full is dropped.

mod frame;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use frame::PING;
use socket2::{Domain, Socket, Type};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};
use tungstenite::protocol::frame::coding::{Control, OpCode};

const BACKLOG: i32 = 4096;
/// Entries of the rings: a fan-out completes many sends at once.
const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 32_768;
const QUEUE_MESSAGES: usize = 256;
/// Every connection is pinged in one of the seconds of this interval.
const PING_SECONDS: u32 = 25;
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// A receive buffer starts small and doubles for those that fill it.
const READ_BUFFER_BYTES: (usize, usize) = (256, 16 << 10);

type AnyError = Box<dyn Error>;

struct Client {
    stream: TcpStream,
    /// Behind what is being written. Few have any.
    queue: RefCell<VecDeque<Bytes>>,
    /// True exactly while a task writes what is queued.
    is_writing: Cell<bool>,
    /// True exactly when nothing was heard since the last ping.
    is_silent: Cell<bool>,
}

#[derive(Default)]
struct Hub {
    clients: RefCell<HashMap<u32, Rc<Client>>>,
    next: Cell<u32>,
}

fn main() -> Result<(), AnyError> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("say where to listen")?.parse()?;
    let listener = listen(address)?;
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS);
    tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&ring).start(async {
        let hub = Rc::new(Hub::default());
        tokio_uring::spawn(ping(Rc::clone(&hub)));
        loop {
            let (stream, _) = listener.accept().await?;
            let hub = Rc::clone(&hub);
            tokio_uring::spawn(async move {
                // A connection that fails is over; there is nobody to tell.
                let _ = serve(stream, &hub).await;
            });
        }
    })
}

fn listen(address: SocketAddr) -> Result<TcpListener, AnyError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

async fn serve(stream: TcpStream, hub: &Hub) -> Result<(), AnyError> {
    let (echoes, rest) = upgrade(&stream).await?;
    let client = Rc::new(Client {
        stream,
        queue: RefCell::default(),
        is_writing: Cell::new(false),
        is_silent: Cell::new(false),
    });
    let number = hub.next.replace(hub.next.get().wrapping_add(1));
    if !echoes {
        hub.clients.borrow_mut().insert(number, Rc::clone(&client));
    }
    let outcome = read(&client, hub, echoes, rest).await;
    hub.clients.borrow_mut().remove(&number);
    outcome
}

/// Completes the handshake; true for `/echo`, with what came behind the request.
async fn upgrade(stream: &TcpStream) -> Result<(bool, Vec<u8>), AnyError> {
    let mut head = Vec::new();
    loop {
        let (count, buffer) = stream.read(Vec::with_capacity(READ_BUFFER_BYTES.0)).await;
        if count? == 0 || head.len() > READ_BUFFER_BYTES.1 {
            return Err("no request".into());
        }
        head.extend_from_slice(&buffer);
        let Some((response, echoes, bytes)) = frame::upgrade(&head)? else { continue };
        stream.write_all(response).await.0?;
        return Ok((echoes, head.split_off(bytes)));
    }
}

/// Reads until the connection ends. `bytes` are those that were received already.
async fn read(
    client: &Rc<Client>,
    hub: &Hub,
    echoes: bool,
    mut bytes: Vec<u8>,
) -> Result<(), AnyError> {
    let (mut capacity, capacity_max) = READ_BUFFER_BYTES;
    let mut answer = Vec::new();
    loop {
        let mut taken = 0;
        while let Some(frame) = frame::take(&mut bytes[taken..], MESSAGE_BYTES_MAX)? {
            match frame.opcode {
                OpCode::Data(_) if echoes => {
                    frame::append(frame.opcode, frame.payload, &mut answer);
                }
                OpCode::Data(_) => hub.publish(frame.opcode, frame.payload),
                OpCode::Control(Control::Ping) => {
                    frame::append(OpCode::Control(Control::Pong), frame.payload, &mut answer);
                }
                OpCode::Control(Control::Close) => return Ok(()),
                OpCode::Control(_) => {}
            }
            taken += frame.bytes;
        }
        bytes.drain(..taken);
        // What is answered together leaves together.
        if !answer.is_empty() {
            client.send(Bytes::from(std::mem::take(&mut answer)));
        }
        let start = bytes.len();
        bytes.reserve_exact(capacity);
        let (count, slice) = client.stream.read(bytes.slice(start..)).await;
        bytes = slice.into_inner();
        match count? {
            0 => return Ok(()),
            count if count >= capacity => capacity = (capacity * 2).min(capacity_max),
            _ => {}
        }
        client.is_silent.set(false);
    }
}

impl Hub {
    /// Queues a message for every client.
    fn publish(&self, opcode: OpCode, payload: &[u8]) {
        let mut frame = Vec::new();
        frame::append(opcode, payload, &mut frame);
        let frame = Bytes::from(frame);
        for client in self.clients.borrow().values() {
            client.send(frame.clone());
        }
    }
}

impl Client {
    /// Queues `frame`, and starts to write unless that is under way. A full queue ends the
    /// connection.
    fn send(self: &Rc<Client>, frame: Bytes) {
        if !self.is_writing.replace(true) {
            tokio_uring::spawn(write(Rc::clone(self), frame));
            return;
        }
        let mut queue = self.queue.borrow_mut();
        if queue.len() == QUEUE_MESSAGES {
            self.end();
        } else {
            queue.push_back(frame);
        }
    }

    /// Lets the reading task see the end.
    fn end(&self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Writes `frame` to `client`, and what is queued until then.
async fn write(client: Rc<Client>, frame: Bytes) {
    let mut next = Some(frame);
    while let Some(frame) = next {
        if client.stream.write_all(frame).await.0.is_err() {
            client.end();
            break;
        }
        next = client.queue.borrow_mut().pop_front();
    }
    client.is_writing.set(false);
}

/// Pings a share of the clients every second, and ends those that the last ping had no answer from.
async fn ping(hub: Rc<Hub>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for second in (0..PING_SECONDS).cycle() {
        seconds.tick().await;
        for (number, client) in hub.clients.borrow().iter() {
            if number % PING_SECONDS != second {
                continue;
            }
            if client.is_silent.replace(true) {
                client.end();
            } else {
                client.send(PING);
            }
        }
    }
}
