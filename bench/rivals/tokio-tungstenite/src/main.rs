//! A broadcast hub: one task for each connection on a current-thread runtime, one
//! `tokio::sync::broadcast` between them. What a client of any path but `/echo` sends goes to all
//! of them. A client that falls more than `QUEUE_MESSAGES` behind is dropped.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{Sender, channel};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

const BACKLOG: i32 = 4096;
const QUEUE_MESSAGES: usize = 256;
const PING_INTERVAL: Duration = Duration::from_secs(25);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const READ_BUFFER_BYTES: usize = 1 << 10;

type AnyError = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), AnyError> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("say where to listen")?.parse()?;
    let listener = listen(address)?;
    let (sender, _) = channel(QUEUE_MESSAGES);
    loop {
        let (stream, _) = listener.accept().await?;
        let sender = sender.clone();
        tokio::spawn(async move {
            // A connection that fails is over; there is nobody to tell.
            let _ = serve(stream, sender).await;
        });
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, AnyError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn serve(stream: TcpStream, sender: Sender<Message>) -> Result<(), AnyError> {
    // Boxed, so that a connection's task does not keep the handshake's room.
    let (socket, is_echo) = Box::pin(accept(stream)).await?;
    if is_echo { echo(socket).await } else { subscribe(socket, sender).await }
}

/// Completes the handshake; true for `/echo`.
async fn accept(stream: TcpStream) -> Result<(WebSocketStream<TcpStream>, bool), AnyError> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX));
    let mut is_echo = false;
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    let look = |request: &Request, response: Response| {
        is_echo = request.uri().path() == "/echo";
        Ok(response)
    };
    let socket = accept_hdr_async_with_config(stream, look, Some(config)).await?;
    Ok((socket, is_echo))
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Result<(), AnyError> {
    while let Some(message) = socket.next().await.transpose()? {
        if message.is_binary() || message.is_text() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn subscribe(
    mut socket: WebSocketStream<TcpStream>,
    sender: Sender<Message>,
) -> Result<(), AnyError> {
    let mut messages = sender.subscribe();
    let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        let message = tokio::select! {
            // Fails when this client is too far behind.
            message = messages.recv() => message?,
            message = socket.next() => match message.transpose()? {
                Some(message @ (Message::Binary(_) | Message::Text(_))) => {
                    sender.send(message)?;
                    continue;
                }
                Some(_) => continue,
                None => return Ok(()),
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        timeout(WRITE_TIMEOUT, socket.send(message)).await??;
    }
}
