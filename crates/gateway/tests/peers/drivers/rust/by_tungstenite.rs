//! A socket of `tungstenite`, which blocks: a thread that reads for a few milliseconds at a time and
//! looks for orders in between.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use tokio::sync::mpsc::{UnboundedReceiver, error::TryRecvError};
use tungstenite::{
    Error, Message, WebSocket, client::IntoClientRequest, handshake::client::Response,
    http::HeaderValue, protocol::CloseFrame,
};

use crate::lines::{self, Event, Order, Target, say, say_binary, say_closed, say_text};

/// How long a read may keep an order waiting.
const TURN: Duration = Duration::from_millis(5);

fn open(target: &Target) -> Result<(WebSocket<TcpStream>, Response), String> {
    let mut request = target.url.as_str().into_client_request().map_err(|e| e.to_string())?;
    if let Some(offered) = target.offered() {
        let value = HeaderValue::from_str(&offered).map_err(|e| e.to_string())?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", value);
    }
    let stream = TcpStream::connect(target.authority()).map_err(|e| e.to_string())?;
    tungstenite::client(request, stream).map_err(|e| e.to_string())
}

/// Does what is ordered.
fn obey(socket: &mut WebSocket<TcpStream>, order: Order) -> Result<(), Error> {
    match order {
        Order::Send(lines::Message::Text(text)) => socket.send(Message::text(text)),
        Order::Send(lines::Message::Binary(bytes)) => socket.send(Message::binary(bytes)),
        Order::Close { code, reason } => {
            socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
        }
    }
}

/// Opens a socket and lives its life.
pub(crate) fn run(id: usize, target: &Target, mut orders: UnboundedReceiver<Order>) {
    let (mut socket, response) = match open(target) {
        Ok(opened) => opened,
        Err(error) => return say(&Event::Failed { id, error }),
    };
    let protocol = response.headers().get("Sec-WebSocket-Protocol");
    let protocol = protocol.map_or("", |value| value.to_str().unwrap());
    say(&Event::Open { id, protocol, extensions: "" });
    socket.get_ref().set_read_timeout(Some(TURN)).unwrap();
    let mut close = None;
    loop {
        match orders.try_recv() {
            Ok(order) => {
                // What goes wrong here is seen by the next read as well.
                let _ = obey(&mut socket, order);
                continue;
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {}
        }
        match socket.read() {
            Ok(Message::Text(text)) => say_text(id, &text),
            Ok(Message::Binary(bytes)) => say_binary(id, &bytes),
            Ok(Message::Close(frame)) => close = Some(frame),
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let close = close.as_ref().map(|frame| match frame {
        Some(frame) => (Some(u16::from(frame.code)), frame.reason.as_str()),
        None => (None, ""),
    });
    say_closed(id, close);
}
