//! What RFC 6455 demands of a server that receives, as one table of streams: the frames, what is
//! heard of them, and the byte by which a broken rule must be noticed. Each case has the section in
//! its name. The decoder is held to it here, and the real binary by its own tests.
//!
//! | section | demand | where |
//! |---|---|---|
//! | 5.1, 5.3 | client frames are masked, each with a key of its own | `framing` |
//! | 5.2 | reserved bits and opcodes, lengths in their shortest form | `framing` |
//! | 5.4 | order of fragments, control frames between them | `fragments` |
//! | 5.5, 7.4 | control frames, close codes and reasons, nothing after a Close | `control` |
//! | 5.6, 8.1 | text is UTF-8, and fails at its first wrong byte | `text` |
//! | 10.4 | messages have a limit | `size` |

mod control;
mod fragments;
mod framing;
mod size;
pub(crate) mod text;

/// The longest message that the server under test takes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 100_000;

pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub(crate) const FINAL: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = FINAL | 0x8;
pub(crate) const PING: u8 = FINAL | 0x9;
pub(crate) const PONG: u8 = FINAL | 0xA;

/// One stream.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The section, and what is tried.
    pub(crate) name: String,
    /// What the client sends.
    pub(crate) stream: Vec<u8>,
    /// What is heard of it. A Close is the last.
    pub(crate) heard: Vec<Heard>,
    /// The rule that is broken behind that, if one is.
    pub(crate) broken: Option<Broken>,
}

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken {
    /// What to close with.
    pub(crate) rule: Rule,
    /// Bytes of the stream that tell: the last of them breaks the rule.
    pub(crate) bytes: usize,
}

/// Code and reason of the Close frame that answers a broken rule.
pub(crate) type Rule = (u16, &'static str);

pub(crate) const RESERVED_BITS: Rule = (1002, "reserved bits must be 0");
pub(crate) const RESERVED_OPCODE: Rule = (1002, "reserved opcode");
pub(crate) const FRAGMENTED_CONTROL: Rule = (1002, "control frames must not be fragmented");
pub(crate) const NOTHING_TO_CONTINUE: Rule =
    (1002, "continuation frame without a message to continue");
pub(crate) const MESSAGE_NOT_ENDED: Rule =
    (1002, "new message before the last fragment of another");
pub(crate) const UNMASKED: Rule = (1002, "client frames must be masked");
pub(crate) const CONTROL_TOO_LONG: Rule = (1002, "control frames carry at most 125 bytes");
pub(crate) const LENGTH_NOT_MINIMAL: Rule = (1002, "payload length must be in its shortest form");
pub(crate) const LENGTH_TOP_BIT: Rule = (1002, "payload length must have 63 bits");
pub(crate) const CLOSE_BODY_OF_ONE_BYTE: Rule =
    (1002, "a close body must begin with a code of two bytes");
pub(crate) const CLOSE_CODE: Rule = (1002, "close code must not be sent");
pub(crate) const INVALID_UTF8: Rule = (1007, "text must be valid UTF-8");
pub(crate) const MESSAGE_TOO_BIG: Rule = (1009, "message too big");

/// What a peer has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    framing::add(&mut cases);
    fragments::add(&mut cases);
    control::add(&mut cases);
    text::add(&mut cases);
    size::add(&mut cases);
    cases
}

/// A stream that follows the rules.
fn kept(name: impl Into<String>, frames: &[Vec<u8>], heard: &[Heard]) -> Case {
    let (name, stream, heard) = (name.into(), frames.concat(), heard.to_vec());
    Case { name, stream, heard, broken: None }
}

/// A stream that breaks a rule and goes on for `rest` bytes behind the byte that breaks it.
fn broken(
    name: impl Into<String>,
    frames: &[Vec<u8>],
    heard: &[Heard],
    rule: Rule,
    rest: usize,
) -> Case {
    let case = kept(name, frames, heard);
    let bytes = case.stream.len() - rest;
    Case { broken: Some(Broken { rule, bytes }), ..case }
}

fn text(payload: &str) -> Heard {
    Heard::Text(payload.to_owned())
}

/// The body of a Close frame.
pub(crate) fn body(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A masked frame whose first byte is `first`, its length in the shortest form.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_with_key(first, KEY, payload)
}

pub(crate) fn frame_with_key(first: u8, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).expect("at most 125")),
        length @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            let length = u16::try_from(length).expect("at most 65535");
            bytes.extend(length.to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}
