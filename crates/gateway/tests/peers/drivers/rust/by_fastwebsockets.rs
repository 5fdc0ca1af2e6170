//! A socket of `fastwebsockets`: a task that reads, and one that does what is ordered. The halves
//! are split, because a read of this library must not be given up half way.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, WebSocket, WebSocketError, WebSocketWrite,
    handshake,
};
use http_body_util::Empty;
use hyper::{Request, Response, body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::WriteHalf,
    net::TcpStream,
    sync::{Mutex, mpsc::UnboundedReceiver},
};

use crate::lines::{Event, Message, Order, Target, say, say_binary, say_closed, say_text};

type Stream = TokioIo<Upgraded>;
type Writer = Arc<Mutex<WebSocketWrite<WriteHalf<Stream>>>>;

/// What the library spawns its HTTP connection with.
#[derive(Debug)]
struct Executor;

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

async fn open(target: &Target) -> Result<(WebSocket<Stream>, Response<Incoming>), String> {
    let mut request = Request::get(target.url.replacen("ws://", "http://", 1))
        .header("Host", target.authority())
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", handshake::generate_key());
    if let Some(offered) = target.offered() {
        request = request.header("Sec-WebSocket-Protocol", offered);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let stream = TcpStream::connect(target.authority()).await.map_err(|e| e.to_string())?;
    handshake::client(&Executor, request, stream).await.map_err(|e| e.to_string())
}

/// Does what is ordered until a write fails, which the reader sees as well.
async fn obey(writer: Writer, mut orders: UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        let frame = match order {
            Order::Send(Message::Text(text)) => Frame::text(Payload::Owned(text.into_bytes())),
            Order::Send(Message::Binary(bytes)) => Frame::binary(Payload::Owned(bytes)),
            Order::Close { code, reason } => Frame::close(code, reason.as_bytes()),
        };
        if writer.lock().await.write_frame(frame).await.is_err() {
            return;
        }
    }
}

/// Opens a socket and lives its life.
pub(crate) async fn run(id: usize, target: Target, orders: UnboundedReceiver<Order>) {
    let (socket, response) = match open(&target).await {
        Ok(opened) => opened,
        Err(error) => return say(&Event::Failed { id, error }),
    };
    let protocol = response.headers().get("Sec-WebSocket-Protocol");
    let protocol = protocol.map_or("", |value| value.to_str().unwrap());
    say(&Event::Open { id, protocol, extensions: "" });
    let (reader, writer) = socket.split(tokio::io::split);
    let writer = Arc::new(Mutex::new(writer));
    tokio::spawn(obey(Arc::clone(&writer), orders));
    let mut reader = FragmentCollectorRead::new(reader);
    // Pongs and the answer to a Close.
    let mut reply = |frame: Frame<'static>| {
        let writer = Arc::clone(&writer);
        async move { writer.lock().await.write_frame(frame).await }
    };
    let close = loop {
        match reader.read_frame::<_, WebSocketError>(&mut reply).await {
            Ok(frame) => match frame.opcode {
                OpCode::Text => say_text(id, std::str::from_utf8(&frame.payload).unwrap()),
                OpCode::Binary => say_binary(id, &frame.payload),
                OpCode::Close => break Some(frame.payload.to_vec()),
                _ => {}
            },
            Err(_) => break None,
        }
    };
    let close = close.as_deref().map(|payload| match payload.split_first_chunk() {
        Some((code, reason)) => {
            (Some(u16::from_be_bytes(*code)), std::str::from_utf8(reason).unwrap())
        }
        None => (None, ""),
    });
    say_closed(id, close);
}
