//! The peers in Rust: `peer LIBRARY VERSION` holds WebSockets of that library and speaks the lines
//! of `peer.py`. Each socket is a task (or a thread) with a queue of commands.

#![allow(clippy::unwrap_used, reason = "a peer that cannot go on fails its suite")]

mod by_fastwebsockets;
mod by_tokio_websockets;
mod by_tungstenite;
mod lines;

use std::{collections::HashMap, io::stdin, thread};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use self::lines::{Command, Event, Line, Order, say};

/// The next line of the input; its end is the channel's.
fn read_lines(lines: &UnboundedSender<Line>) {
    for line in stdin().lines() {
        if lines.send(serde_json::from_str(&line.unwrap()).unwrap()).is_err() {
            return;
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let [library, version] = std::env::args().skip(1).collect::<Vec<_>>().try_into().unwrap();
    say(&Event::Peer { peer: &library, version: &version });
    let (sender, mut lines) = unbounded_channel();
    thread::spawn(move || read_lines(&sender));
    let mut sockets = HashMap::new();
    while let Some(Line { id, command }) = lines.recv().await {
        match command {
            Command::Open(target) => {
                let (sender, orders) = unbounded_channel();
                sockets.insert(id, sender);
                match library.as_str() {
                    "tungstenite" => {
                        thread::spawn(move || by_tungstenite::run(id, &target, orders));
                    }
                    "tokio-websockets" => {
                        tokio::spawn(by_tokio_websockets::run(id, target, orders));
                    }
                    "fastwebsockets" => {
                        tokio::spawn(by_fastwebsockets::run(id, target, orders));
                    }
                    other => panic!("no peer for {other}"),
                }
            }
            // A socket that has ended hears nothing more.
            Command::Send(message) => drop(sockets[&id].send(Order::Send(message.decode()))),
            Command::Close { code, reason } => {
                drop(sockets[&id].send(Order::Close { code, reason }));
            }
        }
    }
}
