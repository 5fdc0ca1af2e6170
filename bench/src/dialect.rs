//! What some servers expect inside WebSocket messages: a protocol of their own. A client says who
//! it is and what it subscribes to, waits for the answer, and wraps what it publishes. Only as much
//! of each protocol is here as one topic needs.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The one topic.
const TOPIC: &str = "bench";
/// MQTT control packets: type and flags (MQTT 3.1.1 section 2.2), and what a client with a clean
/// session and no keep-alive says (sections 3.1 and 3.8).
const MQTT_PUBLISH: u8 = 0x30;
const MQTT_SUBACK: u8 = 0x90;
const MQTT_CONNECT: &[u8] = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0";
const MQTT_SUBSCRIBE: &[u8] = b"\x82\x0a\0\x01\0\x05bench\0";

/// What is spoken inside WebSocket messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dialect {
    /// Nothing: a message is a payload.
    #[default]
    Plain,
    /// The NATS client protocol.
    Nats,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
}

/// One thing that a server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'bytes> {
    /// What was published.
    Payload(&'bytes [u8]),
    /// The subscription holds.
    Welcome,
    /// It wants this message back.
    Ping(&'static [u8]),
    /// Nothing that matters here.
    Other,
}

impl Dialect {
    /// What the handshake asks for by `Sec-WebSocket-Protocol`.
    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Dialect::Plain | Dialect::Nats => None,
            Dialect::Mqtt => Some("mqtt"),
        }
    }

    /// The message that subscribes; answered by [`Said::Welcome`].
    pub(crate) fn greeting(self) -> Option<Vec<u8>> {
        match self {
            Dialect::Plain => None,
            Dialect::Nats => {
                Some(format!("CONNECT {{\"verbose\":false}}\r\nSUB {TOPIC} 1\r\nPING\r\n").into())
            }
            Dialect::Mqtt => Some([MQTT_CONNECT, MQTT_SUBSCRIBE].concat()),
        }
    }

    /// The message that publishes `payload`.
    pub(crate) fn publication(self, payload: &[u8]) -> Vec<u8> {
        let mut message = match self {
            Dialect::Plain => Vec::new(),
            Dialect::Nats => format!("PUB {TOPIC} {}\r\n", payload.len()).into(),
            Dialect::Mqtt => {
                let mut head = vec![MQTT_PUBLISH];
                push_remaining_length(2 + TOPIC.len() + payload.len(), &mut head);
                head.extend([0, 5]);
                head.extend(TOPIC.bytes());
                head
            }
        };
        message.extend_from_slice(payload);
        if self == Dialect::Nats {
            message.extend(b"\r\n");
        }
        message
    }

    /// The longest message that a server sends when payloads have `size` bytes.
    pub(crate) fn message_bytes_max(self, size: usize) -> usize {
        match self {
            Dialect::Plain => size,
            // A server may join what it has, and introduces itself at some length.
            Dialect::Nats | Dialect::Mqtt => size.max(4096) * 16,
        }
    }

    /// Takes the first thing that `message`, which is not empty, says, and how long it is. Servers
    /// put whole ones into a message.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn take(self, message: &[u8]) -> Result<(Said<'_>, usize), &'static str> {
        match self {
            Dialect::Plain => Ok((Said::Payload(message), message.len())),
            Dialect::Nats => take_nats(message).ok_or("a message that is not whole NATS"),
            Dialect::Mqtt => take_mqtt(message).ok_or("a message that is not whole MQTT"),
        }
    }
}

/// A line, and behind `MSG subject id bytes` the payload and another line end.
fn take_nats(message: &[u8]) -> Option<(Said<'_>, usize)> {
    let end = message.windows(2).position(|window| window == b"\r\n")?;
    let (line, rest) = (&message[..end], &message[end + 2..]);
    if line.starts_with(b"MSG ") {
        let count = line.rsplit(|byte| *byte == b' ').next()?;
        let count: usize = std::str::from_utf8(count).ok()?.parse().ok()?;
        let payload = rest.get(..count)?;
        rest[count..].starts_with(b"\r\n").then_some(())?;
        return Some((Said::Payload(payload), end + 2 + count + 2));
    }
    let said = match line {
        b"PONG" => Said::Welcome,
        b"PING" => Said::Ping(b"PONG\r\n"),
        _ if line.starts_with(b"-ERR") => return None,
        _ => Said::Other,
    };
    Some((said, end + 2))
}

/// A control packet: type, remaining length, and in a PUBLISH of QoS 0 topic and payload.
fn take_mqtt(message: &[u8]) -> Option<(Said<'_>, usize)> {
    let (kind, rest) = message.split_first()?;
    let mut length = 0_usize;
    let mut digits = 0;
    loop {
        // Four digits of seven bits at most (section 2.2.3).
        let digit = *rest.get(digits).filter(|_| digits < 4)?;
        length |= usize::from(digit & 0x7f) << (7 * digits);
        digits += 1;
        if digit & 0x80 == 0 {
            break;
        }
    }
    let body = rest.get(digits..digits + length)?;
    let said = match *kind {
        MQTT_PUBLISH => {
            let (topic, rest) = body.split_first_chunk()?;
            Said::Payload(rest.get(usize::from(u16::from_be_bytes(*topic))..)?)
        }
        MQTT_SUBACK => Said::Welcome,
        _ => Said::Other,
    };
    Some((said, 1 + digits + length))
}

fn push_remaining_length(mut length: usize, bytes: &mut Vec<u8>) {
    loop {
        let digit = u8::try_from(length % 128).expect("a remainder below 128");
        length /= 128;
        bytes.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_messages_are_payloads() {
        assert_eq!(Dialect::Plain.greeting(), None);
        assert_eq!(Dialect::Plain.publication(b"abc"), b"abc");
        assert_eq!(Dialect::Plain.take(b"abc"), Ok((Said::Payload(b"abc"), 3)));
    }

    #[test]
    fn nats_messages_are_taken_one_by_one() {
        let message = b"INFO {}\r\nPONG\r\nMSG bench 1 4\r\na\r\nb\r\nPING\r\n";
        let mut rest = &message[..];
        let mut said = Vec::new();
        while !rest.is_empty() {
            let (next, length) = Dialect::Nats.take(rest).unwrap();
            said.push(next);
            rest = &rest[length..];
        }
        let expected =
            [Said::Other, Said::Welcome, Said::Payload(b"a\r\nb"), Said::Ping(b"PONG\r\n")];
        assert_eq!(said, expected);
        assert!(Dialect::Nats.take(b"MSG bench 1 4\r\nab").is_err());
        assert!(Dialect::Nats.take(b"-ERR 'Unknown'\r\n").is_err());
        assert_eq!(Dialect::Nats.publication(b"ab"), b"PUB bench 2\r\nab\r\n");
    }

    /// MQTT 3.1.1 sections 3.3 and 3.9.
    #[test]
    fn mqtt_packets_are_taken_one_by_one() {
        let message = b"\x20\x02\0\0\x90\x03\0\x01\0\x30\x09\0\x05benchab";
        let take = |start: usize| Dialect::Mqtt.take(&message[start..]);
        assert_eq!(take(0), Ok((Said::Other, 4)));
        assert_eq!(take(4), Ok((Said::Welcome, 5)));
        assert_eq!(take(9), Ok((Said::Payload(b"ab"), 11)));
        assert!(Dialect::Mqtt.take(&message[9..19]).is_err());
        assert!(Dialect::Mqtt.take(b"\x30\xff\xff\xff\xff\x01").is_err());
        assert_eq!(Dialect::Mqtt.publication(b"ab"), message[9..]);
    }

    /// MQTT 3.1.1 section 2.2.3: 128 is the first length of two digits.
    #[test]
    fn mqtt_lengths_have_seven_bits_a_digit() {
        let long = Dialect::Mqtt.publication(&[7; 121]);
        assert_eq!(long[..5], [0x30, 0x80, 0x01, 0, 5]);
        assert_eq!(Dialect::Mqtt.take(&long), Ok((Said::Payload(&[7; 121]), 131)));
    }
}
