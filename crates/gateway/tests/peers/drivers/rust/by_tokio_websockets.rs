//! A socket of `tokio-websockets`: a task that takes messages and orders as they come.

use futures_util::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Response};
use tokio::{net::TcpStream, sync::mpsc::UnboundedReceiver};
use tokio_websockets::{
    ClientBuilder, CloseCode, Limits, MaybeTlsStream, Message, WebSocketStream,
};

use crate::lines::{self, Event, Order, Target, say, say_binary, say_closed, say_text};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(target: &Target) -> Result<(Socket, Response<()>), String> {
    let mut builder = ClientBuilder::new()
        .uri(&target.url)
        .map_err(|e| e.to_string())?
        .limits(Limits::unlimited());
    if let Some(offered) = target.offered() {
        let name = HeaderName::from_static("sec-websocket-protocol");
        let value = HeaderValue::from_str(&offered).map_err(|e| e.to_string())?;
        builder = builder.add_header(name, value).map_err(|e| e.to_string())?;
    }
    builder.connect().await.map_err(|e| e.to_string())
}

fn message(order: Order) -> Message {
    match order {
        Order::Send(lines::Message::Text(text)) => Message::text(text),
        Order::Send(lines::Message::Binary(bytes)) => Message::binary(bytes),
        Order::Close { code, reason } => {
            Message::close(Some(CloseCode::try_from(code).unwrap()), &reason)
        }
    }
}

/// Opens a socket and lives its life.
pub(crate) async fn run(id: usize, target: Target, mut orders: UnboundedReceiver<Order>) {
    let (mut socket, response) = match open(&target).await {
        Ok(opened) => opened,
        Err(error) => return say(&Event::Failed { id, error }),
    };
    let protocol = response.headers().get("Sec-WebSocket-Protocol");
    let protocol = protocol.map_or("", |value| value.to_str().unwrap());
    say(&Event::Open { id, protocol, extensions: "" });
    let mut close = None;
    loop {
        tokio::select! {
            Some(order) = orders.recv() => {
                // What goes wrong here is seen by the next read as well.
                let _ = socket.send(message(order)).await;
            }
            received = socket.next() => match received {
                Some(Ok(message)) => {
                    if let Some((code, reason)) = message.as_close() {
                        close = Some((u16::from(code), reason.to_owned()));
                    } else if let Some(text) = message.as_text() {
                        say_text(id, text);
                    } else if message.is_binary() {
                        say_binary(id, message.as_payload());
                    }
                }
                Some(Err(_)) | None => break,
            },
        }
    }
    say_closed(id, close.as_ref().map(|(code, reason)| (Some(*code), reason.as_str())));
}
