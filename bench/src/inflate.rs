//! permessage-deflate (RFC 7692) on the client's side: what is offered, what a server answered, and
//! its compressed messages put back together. Messages are sent plain, which is always allowed.
//! Where a server takes its context over, its every connection has a window here too. Where it
//! does not, equal bytes are equal messages, so what a server has compressed once for all is
//! inflated once; every byte is still compared.

use std::collections::HashMap;

use flate2::{Decompress, FlushDecompress, Status};

/// The header that offers it, with the parameter that browsers send.
pub(crate) const OFFER: &str =
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// What a payload goes without (RFC 7692 section 7.2.1).
const FLUSH_END: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// What a server and a client have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// Nothing is compressed.
    #[default]
    Plain,
    /// Every message begins with an empty window.
    Fresh,
    /// A message may refer to those before it.
    Kept,
}

/// Inflates the messages of all connections of a process.
#[derive(Debug)]
pub(crate) struct Inflaters {
    /// By connection, where windows are kept.
    kept: HashMap<u32, Decompress>,
    fresh: Decompress,
    /// The last payload that was inflated with an empty window; none before the first.
    payload: Vec<u8>,
    /// What came out last, and its buffer.
    message: Vec<u8>,
}

impl Agreed {
    /// What the head of a 101 says.
    pub(crate) fn read(head: &str) -> Agreed {
        let extensions = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))
            .map_or("", |(_, value)| value);
        match extensions.trim_start().starts_with("permessage-deflate") {
            false => Agreed::Plain,
            true if extensions.contains("server_no_context_takeover") => Agreed::Fresh,
            true => Agreed::Kept,
        }
    }
}

impl Inflaters {
    /// None yet.
    pub(crate) fn new() -> Inflaters {
        Inflaters {
            kept: HashMap::new(),
            fresh: Decompress::new(false),
            payload: Vec::new(),
            message: Vec::new(),
        }
    }

    /// Forgets the window of `connection`, which has ended.
    pub(crate) fn forget(&mut self, connection: u32) {
        self.kept.remove(&connection);
    }

    /// Takes the message out that `payload` holds. Give it back to [`Inflaters::put_back`].
    ///
    /// # Errors
    ///
    /// What is wrong: nothing was agreed on, it is no DEFLATE stream, or the message has more than
    /// `message_bytes_max`. What was cut off is missed when the message is checked.
    pub(crate) fn take(
        &mut self,
        connection: u32,
        agreed: Agreed,
        payload: &[u8],
        message_bytes_max: usize,
    ) -> Result<Vec<u8>, &'static str> {
        let Inflaters { kept, fresh, payload: last, message } = self;
        match agreed {
            Agreed::Plain => return Err("a compressed message that was not agreed on"),
            Agreed::Fresh if !last.is_empty() && last == payload => {}
            Agreed::Fresh => {
                last.clear();
                fresh.reset(false);
                inflate(fresh, payload, message_bytes_max, message)?;
                last.extend_from_slice(payload);
            }
            Agreed::Kept => {
                last.clear();
                let state = kept.entry(connection).or_insert_with(|| Decompress::new(false));
                inflate(state, payload, message_bytes_max, message)?;
            }
        }
        Ok(std::mem::take(message))
    }

    /// Gives the message back.
    pub(crate) fn put_back(&mut self, message: Vec<u8>) {
        self.message = message;
    }
}

/// All of `payload` into `message`.
fn inflate(
    state: &mut Decompress,
    payload: &[u8],
    message_bytes_max: usize,
    message: &mut Vec<u8>,
) -> Result<(), &'static str> {
    message.clear();
    // One byte more shows what is too long.
    message.reserve_exact(message_bytes_max + 1);
    for input in [payload, &FLUSH_END] {
        let before = state.total_in();
        let status = state.decompress_vec(input, message, FlushDecompress::Sync);
        if message.len() > message_bytes_max {
            return Err("a compressed message longer than those of this run");
        }
        if !matches!(status, Ok(Status::Ok)) || state.total_in() - before != input.len() as u64 {
            return Err("a compressed message that is not DEFLATE");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7692 sections 7.2.3.1 and 7.2.3.2: "Hello", and again with the window of the first.
    const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    const HELLO_AGAIN: [u8; 5] = [0xf2, 0x00, 0x11, 0x00, 0x00];

    fn take(
        inflaters: &mut Inflaters,
        connection: u32,
        agreed: Agreed,
        payload: &[u8],
    ) -> Result<Vec<u8>, &'static str> {
        let message = inflaters.take(connection, agreed, payload, 5)?;
        inflaters.put_back(message.clone());
        Ok(message)
    }

    #[test]
    fn what_a_server_answers_decides() {
        let read = |value| Agreed::read(&format!("HTTP/1.1 101 x\r\nServer: y\r\n{value}"));
        assert_eq!(read(""), Agreed::Plain);
        assert_eq!(read("sec-websocket-extensions: permessage-deflate"), Agreed::Kept);
        let fresh = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover";
        assert_eq!(read(fresh), Agreed::Fresh);
    }

    #[test]
    fn windows_are_empty_or_each_connections_own() {
        let mut inflaters = Inflaters::new();
        for _ in 0..2 {
            assert_eq!(take(&mut inflaters, 1, Agreed::Fresh, &HELLO).unwrap(), b"Hello");
        }
        assert!(take(&mut inflaters, 1, Agreed::Fresh, &HELLO_AGAIN).is_err());
        assert_eq!(take(&mut inflaters, 2, Agreed::Kept, &HELLO).unwrap(), b"Hello");
        assert_eq!(take(&mut inflaters, 2, Agreed::Kept, &HELLO_AGAIN).unwrap(), b"Hello");
        assert!(take(&mut inflaters, 3, Agreed::Kept, &HELLO_AGAIN).is_err());
        inflaters.forget(2);
        assert!(take(&mut inflaters, 2, Agreed::Kept, &HELLO_AGAIN).is_err());
        assert_eq!(take(&mut inflaters, 4, Agreed::Fresh, &HELLO).unwrap(), b"Hello");
    }

    #[test]
    fn malformed_long_and_unasked_messages_are_errors() {
        let mut inflaters = Inflaters::new();
        assert!(take(&mut inflaters, 0, Agreed::Plain, &HELLO).is_err());
        // The reserved type of block (RFC 1951 section 3.2.3).
        assert!(take(&mut inflaters, 0, Agreed::Fresh, &[0x07]).is_err());
        assert!(inflaters.take(0, Agreed::Fresh, &HELLO, 4).is_err());
    }
}
