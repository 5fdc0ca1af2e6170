//! What the server says on a connection: the response to its request, and frames, of which every
//! message is checked.

use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::{Clients, Found, Phase};
use crate::dialect::{Dialect, Said};
use crate::frame::{self, Frame};
use crate::inflate::Agreed;
use crate::payload::now_ns;

/// The longest response head that is waited for.
const HEAD_BYTES_MAX: usize = 16 << 10;

impl Clients {
    /// Reads all that is whole of `bytes` and of what was kept before, and keeps the rest.
    ///
    /// # Errors
    ///
    /// What the server did, when the connection is of no use any more.
    pub(super) fn read(
        &mut self,
        index: u32,
        bytes: &[u8],
        found: &mut Vec<Found>,
    ) -> Result<(), String> {
        let mut kept = self.partial.remove(&index);
        let bytes = match &mut kept {
            Some(kept) => {
                kept.extend_from_slice(bytes);
                kept.as_slice()
            }
            None => bytes,
        };
        let taken = self.take(index, bytes, found)?;
        if taken < bytes.len() {
            let rest = bytes[taken..].to_vec();
            self.partial.insert(index, rest);
        }
        Ok(())
    }

    fn take(&mut self, index: u32, bytes: &[u8], found: &mut Vec<Found>) -> Result<usize, String> {
        let mut taken = 0;
        if self.table[index as usize].phase == Phase::Requesting {
            taken = self.take_response(index, bytes, found)?;
            if taken == 0 {
                return Ok(0);
            }
        }
        let size = self.payload.size().max(125);
        let payload_bytes_max = self.plan.dialect.message_bytes_max(size);
        while let Some(frame) = frame::take(&bytes[taken..], payload_bytes_max)? {
            taken += frame.bytes;
            match frame.opcode {
                OpCode::Data(_) => self.take_data(index, &frame, payload_bytes_max, found)?,
                OpCode::Control(Control::Ping) => {
                    found.push(Found::Ping);
                    frame::write_pong(frame.payload, self.outbox.entry(index).or_default());
                }
                OpCode::Control(Control::Close)
                    if self.table[index as usize].phase != Phase::Leaving =>
                {
                    return Err(close_reason(frame.payload));
                }
                OpCode::Control(_) => {}
            }
        }
        Ok(taken)
    }

    /// Takes the 101 off `bytes`; 0 until it is whole.
    fn take_response(
        &mut self,
        index: u32,
        bytes: &[u8],
        found: &mut Vec<Found>,
    ) -> Result<usize, String> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if bytes.len() < HEAD_BYTES_MAX {
                Ok(0)
            } else {
                Err("the response head is too long".to_owned())
            };
        };
        let head = String::from_utf8_lossy(&bytes[..end]);
        if !head.starts_with("HTTP/1.1 101") || !head.contains(&self.accept_key) {
            let line = head.lines().next().unwrap_or_default();
            return Err(format!("the upgrade was answered `{line}`"));
        }
        self.table[index as usize].agreed = Agreed::read(&head);
        match self.plan.dialect.greeting() {
            None => self.opened(index, found),
            Some(greeting) => {
                frame::write_message(&greeting, self.outbox.entry(index).or_default());
                self.table[index as usize].phase = Phase::Greeting;
            }
        }
        Ok(end + 4)
    }

    fn opened(&mut self, index: u32, found: &mut Vec<Found>) {
        let client = &mut self.table[index as usize];
        client.phase = Phase::Open;
        self.opening -= 1;
        self.open += 1;
        found.push(Found::Opened { latency_ns: now_ns().saturating_sub(client.since_ns) });
    }

    /// Takes the message of a frame out of it.
    fn take_data(
        &mut self,
        index: u32,
        frame: &Frame<'_>,
        message_bytes_max: usize,
        found: &mut Vec<Found>,
    ) -> Result<(), String> {
        self.received.0 += frame.bytes as u64;
        if !frame.is_compressed {
            return self.take_message(index, frame.payload, found);
        }
        self.received.1 += 1;
        let agreed = self.table[index as usize].agreed;
        let message = self.inflaters.take(index, agreed, frame.payload, message_bytes_max)?;
        let outcome = self.take_message(index, &message, found);
        self.inflaters.put_back(message);
        outcome
    }

    /// Takes all that the server says in one message.
    fn take_message(
        &mut self,
        index: u32,
        mut message: &[u8],
        found: &mut Vec<Found>,
    ) -> Result<(), String> {
        if self.plan.dialect == Dialect::Plain {
            self.take_payload(index, message, found);
            return Ok(());
        }
        while !message.is_empty() {
            let (said, bytes) = self.plan.dialect.take(message)?;
            match said {
                Said::Payload(payload) => self.take_payload(index, payload, found),
                Said::Welcome if self.table[index as usize].phase == Phase::Greeting => {
                    self.opened(index, found);
                }
                Said::Ping(answer) => {
                    found.push(Found::Ping);
                    frame::write_message(answer, self.outbox.entry(index).or_default());
                }
                Said::Welcome | Said::Other => {}
            }
            message = &message[bytes..];
        }
        Ok(())
    }

    fn take_payload(&mut self, index: u32, payload: &[u8], found: &mut Vec<Found>) {
        let Some(stamp) = self.payload.read(payload) else {
            found.push(Found::Broken { why: "a payload that was not sent" });
            return;
        };
        let client = &mut self.table[index as usize];
        let Ok(sequence) = u32::try_from(stamp.sequence) else {
            found.push(Found::Broken { why: "a message number that was not sent" });
            return;
        };
        match sequence.checked_sub(client.expected) {
            Some(missed) => {
                client.expected = sequence + 1;
                let intended_ns = stamp.intended_ns;
                found.push(Found::Message { index, sequence, intended_ns, missed });
            }
            None => found.push(Found::Repeated),
        }
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk() {
        Some((code, reason)) => format!(
            "the server said Close {} {}",
            u16::from_be_bytes(*code),
            String::from_utf8_lossy(reason)
        ),
        None => "the server said Close".to_owned(),
    }
}
