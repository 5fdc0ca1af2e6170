//! A hub on tokio-uring: a task for each connection reads, and one more exists while something is
//! queued for it. What a client of any path but `/echo` sends goes to all of them. A client whose
//! queue is full is dropped.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ringway_wire::{
    DataOpcode, Decoder, Event, Input, PING, encode_message, encode_pong, encode_upgrade,
    parse_request,
};
use socket2::{Domain, Socket, Type};
use tokio_uring::net::{TcpListener, TcpStream};

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
        let Some((request, bytes)) = parse_request(&head).map_err(|error| error.0)? else {
            continue;
        };
        let response = encode_upgrade(&request, None).map_err(|_| "no upgrade")?;
        stream.write_all(response).await.0?;
        return Ok((request.uri().path() == "/echo", head.split_off(bytes)));
    }
}

/// Reads until the connection ends.
async fn read(
    client: &Rc<Client>,
    hub: &Hub,
    echoes: bool,
    mut received: Vec<u8>,
) -> Result<(), AnyError> {
    let (mut capacity, capacity_max) = READ_BUFFER_BYTES;
    let mut decoder = Decoder::default();
    let mut answer = Vec::new();
    loop {
        let mut input = Input::new(&mut received);
        while let Some(event) =
            decoder.poll(&mut input, MESSAGE_BYTES_MAX).map_err(|violation| violation.reason)?
        {
            match event {
                Event::Message(message) if echoes => {
                    answer.extend_from_slice(&encode_message(message.opcode, message.payload));
                }
                Event::Message(message) => hub.publish(message.opcode, message.payload),
                Event::Ping(payload) => encode_pong(payload, &mut answer),
                Event::Pong(_) => {}
                Event::Close(_) => return Ok(()),
            }
        }
        // What is answered together leaves together.
        if !answer.is_empty() {
            client.send(Bytes::from(std::mem::take(&mut answer)));
        }
        if received.len() == capacity {
            capacity = (capacity * 2).min(capacity_max);
        }
        received.clear();
        received.reserve_exact(capacity);
        let (count, buffer) = client.stream.read(received).await;
        if count? == 0 {
            return Ok(());
        }
        client.is_silent.set(false);
        received = buffer;
    }
}

impl Hub {
    /// Queues a message for every client.
    fn publish(&self, opcode: DataOpcode, payload: &[u8]) {
        let frame = encode_message(opcode, payload);
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
