//! Bytes on a socket: handshakes and frames as a client that breaks rules would write them.

use std::{
    io::{self, BufReader, Read, Write},
    net::TcpStream,
};

use super::{PATIENCE, http::Response};

/// A well-formed upgrade of `target`, with more header lines.
pub(crate) fn upgrade(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// Sends bytes and reads the response.
pub(crate) fn exchange(stream: &TcpStream, request: &[u8]) -> Response {
    (&*stream).write_all(request).unwrap();
    Response::read(&mut BufReader::with_capacity(1, stream))
}

/// Completes an upgrade.
pub(crate) fn open(stream: &TcpStream, target: &str) {
    let response = exchange(stream, upgrade(target, "").as_bytes());
    assert_eq!(response.status, 101, "{response:?}");
}

/// As [`open`] of `room`; false where the connection ends before an answer.
pub(crate) fn try_open(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    if stream.write_all(upgrade("/ws/room", "").as_bytes()).is_err() {
        return false;
    }
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_exact(&mut byte).is_err() {
            return false;
        }
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
    true
}

/// A masked frame whose first byte is as given: FIN, reserved bits and opcode. The mask is zero,
/// which is allowed, so the payload stands there as it is.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Reads one short server frame: its first byte and its payload. `None`: the stream has ended.
pub(crate) fn read_frame(mut stream: &TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    match stream.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        outcome => outcome.unwrap(),
    }
    let length = match head[1] {
        length @ 0..126 => usize::from(length),
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            usize::from(u16::from_be_bytes(length))
        }
        other => panic!("a masked or very long frame: {other}"),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).unwrap();
    Some((head[0], payload))
}

/// Reads up to the Close frame and the end behind it: its code and reason.
pub(crate) fn read_close(stream: &TcpStream) -> (u16, String) {
    loop {
        let (first, payload) = read_frame(stream).expect("a Close frame before the end");
        if first == 0x88 {
            let code = u16::from_be_bytes(payload[..2].try_into().unwrap());
            let reason = String::from_utf8(payload[2..].to_vec()).unwrap();
            return (code, reason);
        }
    }
}
