//! The lines: commands as they come in, events as they go out.

use std::io::Write;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// One line of the input.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    pub(crate) id: usize,
    #[serde(flatten)]
    pub(crate) command: Command,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Command {
    Open(Target),
    Send(Encoded),
    Close { code: u16, reason: String },
}

/// What a socket is opened to. None of these libraries has permessage-deflate.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) protocols: Vec<String>,
}

impl Target {
    /// Host and port.
    pub(crate) fn authority(&self) -> &str {
        let (_, rest) = self.url.split_once("://").unwrap();
        rest.split('/').next().unwrap()
    }

    /// The value of `Sec-WebSocket-Protocol`, where there is one.
    pub(crate) fn offered(&self) -> Option<String> {
        (!self.protocols.is_empty()).then(|| self.protocols.join(", "))
    }
}

/// A payload on a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoded {
    Text(String),
    /// In base64.
    Binary(String),
}

/// A payload.
#[derive(Debug)]
pub(crate) enum Message {
    Text(String),
    Binary(Vec<u8>),
}

impl Encoded {
    pub(crate) fn decode(self) -> Message {
        match self {
            Self::Text(text) => Message::Text(text),
            Self::Binary(bytes) => Message::Binary(BASE64_STANDARD.decode(bytes).unwrap()),
        }
    }
}

/// What a socket is to do.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Message),
    Close { code: u16, reason: String },
}

/// One line of the output.
#[derive(Debug, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    Open {
        id: usize,
        protocol: &'a str,
        extensions: &'a str,
    },
    Message {
        id: usize,
        #[serde(flatten)]
        payload: Encoded,
    },
    Closed {
        id: usize,
        code: u16,
        reason: &'a str,
    },
    Failed {
        id: usize,
        error: String,
    },
    /// The first one.
    #[serde(untagged)]
    Peer {
        peer: &'a str,
        version: &'a str,
    },
}

/// Writes an event, whole, whichever thread it is.
pub(crate) fn say(event: &Event<'_>) {
    let line = serde_json::to_string(event).unwrap();
    writeln!(std::io::stdout().lock(), "{line}").unwrap();
}

/// Tells of a text message.
pub(crate) fn say_text(id: usize, text: &str) {
    say(&Event::Message { id, payload: Encoded::Text(text.to_owned()) });
}

/// Tells of a binary message.
pub(crate) fn say_binary(id: usize, bytes: &[u8]) {
    say(&Event::Message { id, payload: Encoded::Binary(BASE64_STANDARD.encode(bytes)) });
}

/// Tells of a closing handshake: what the other side's Close frame said, or that there was none.
pub(crate) fn say_closed(id: usize, close: Option<(Option<u16>, &str)>) {
    let (code, reason) = close.map_or((1006, ""), |(code, reason)| (code.unwrap_or(1005), reason));
    say(&Event::Closed { id, code, reason });
}
