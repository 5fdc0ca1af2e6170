//! WebSocket as a client speaks it (RFC 6455 section 5.2), written again and apart from `wire`:
//! what is to be tested does not test itself.

/// The opcodes there are.
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
/// Compressed, where that is agreed on (RFC 7692 section 6).
pub(crate) const COMPRESSED: u8 = 0x40;
const MASKED: u8 = 0x80;

/// The sample key of RFC 6455 section 1.3, and what a server must answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request that upgrades to a target.
pub(crate) fn request(target: &str) -> Vec<u8> {
    request_with("GET", target, "13", "")
}

/// A request like it, with another method or version, or more header lines.
pub(crate) fn request_with(method: &str, target: &str, version: &str, lines: &str) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: {version}\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// What a server answers to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The extensions that it agrees to.
    pub(crate) extensions: Option<String>,
}

/// Takes the response head off the front, once it is complete.
pub(crate) fn take_response(bytes: &mut Vec<u8>) -> Result<Option<Response>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head: Vec<u8> = bytes.drain(..end + 4).collect();
    let head = String::from_utf8(head).map_err(|_| "the response is not text".to_owned())?;
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| format!("no status in {head:?}"))?;
    if status == 101 && !head.contains(ACCEPT) {
        return Err(format!("the key was not accepted: {head:?}"));
    }
    let mut extensions = head.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("Sec-WebSocket-Extensions").then(|| value.trim().to_owned())
    });
    let response = Response { status, extensions: extensions.next() };
    match extensions.next() {
        None => Ok(Some(response)),
        Some(_) => Err(format!("extensions are agreed to twice: {head:?}")),
    }
}

/// A frame of a client.
pub(crate) fn frame(opcode: u8, is_final: bool, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![if is_final { FIN | opcode } else { opcode }];
    let length = payload.len();
    match u16::try_from(length) {
        Ok(short) if short < 126 => frame.push(MASKED | short.to_be_bytes()[1]),
        Ok(medium) => {
            frame.push(MASKED | 126);
            frame.extend(medium.to_be_bytes());
        }
        Err(_) => {
            frame.push(MASKED | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    let begin = frame.len();
    frame.extend_from_slice(payload);
    for piece in frame[begin..].chunks_mut(key.len()) {
        piece.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    }
    frame
}

/// A frame of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    /// True exactly when it is a message that was compressed.
    pub(crate) is_compressed: bool,
    pub(crate) payload: &'a [u8],
}

/// Takes a whole frame off the front of the bytes, from `at` on, which moves behind it.
pub(crate) fn take_frame<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<Frame<'a>>, String> {
    let rest = &bytes[*at..];
    let [first, second, ..] = *rest else { return Ok(None) };
    let opcode = first & 0x0F;
    let is_message = [TEXT, BINARY].contains(&opcode);
    let is_compressed = is_message && first & COMPRESSED != 0;
    let expected = if is_compressed { FIN | COMPRESSED } else { FIN };
    if first & 0xF0 != expected || !(is_message || [CLOSE, PING, PONG].contains(&opcode)) {
        return Err(format!(
            "a frame begins with {first:#04x} {second:#04x}: not what is sent here"
        ));
    }
    let (header, length) = match second {
        0..=125 => (2, usize::from(second)),
        126 => match rest.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        _ => {
            return Err(format!("a frame is masked or too long: its second byte is {second:#04x}"));
        }
    };
    let Some(payload) = rest.get(header..header + length) else { return Ok(None) };
    *at += header + length;
    Ok(Some(Frame { opcode, is_compressed, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6455 section 5.7.
    #[test]
    fn frames_are_those_of_the_rfc() {
        let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(TEXT, true, b"Hello", [0x37, 0xfa, 0x21, 0x3d]), hello);
        let mut at = 0;
        let bytes = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x89];
        let expected = Frame { opcode: TEXT, is_compressed: false, payload: b"Hello" };
        assert_eq!(take_frame(&bytes, &mut at), Ok(Some(expected)));
        assert_eq!((take_frame(&bytes, &mut at), at), (Ok(None), 7));
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        for bytes in [[0x01, 0x00], [0xC9, 0x00], [0xA1, 0x00], [0x81, 0x80], [0x83, 0x00]] {
            take_frame(&bytes, &mut 0).unwrap_err();
        }
    }
}
