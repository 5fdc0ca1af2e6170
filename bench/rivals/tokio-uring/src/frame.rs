//! WebSocket as far as a hub needs it, on tungstenite's handshake key and frame headers: a
//! client's whole frames in, unmasked frames out. A message is one frame, as browsers send it.

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

/// An empty Ping, unmasked (RFC 6455 section 5.5.2).
pub(crate) const PING: Bytes = Bytes::from_static(&[0x89, 0x00]);

/// What is wrong with what a client sent.
pub(crate) type Wrong = &'static str;

/// Takes an upgrade request off `bytes`: the answer, whether it asked for `/echo`, and its length;
/// `None` until it is whole.
pub(crate) fn upgrade(bytes: &[u8]) -> Result<Option<(Bytes, bool, usize)>, Wrong> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not text")?;
    let key = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .ok_or("no upgrade")?
        .1;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.trim().as_bytes())
    );
    Ok(Some((Bytes::from(answer), head.starts_with("GET /echo "), end + 4)))
}

/// A frame and its length with its header.
pub(crate) struct Frame<'bytes> {
    pub(crate) opcode: OpCode,
    pub(crate) payload: &'bytes [u8],
    pub(crate) bytes: usize,
}

/// Takes the first frame of `bytes` and unmasks it there; `None` until it is whole.
pub(crate) fn take(bytes: &mut [u8], payload_bytes_max: usize) -> Result<Option<Frame<'_>>, Wrong> {
    let mut cursor = Cursor::new(&*bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| "a wrong header")?
    else {
        return Ok(None);
    };
    let start = usize::try_from(cursor.position()).map_err(|_| "a wrong header")?;
    let length = usize::try_from(length).map_err(|_| "too long a message")?;
    if length > payload_bytes_max {
        return Err("too long a message");
    }
    let mask = header.mask.ok_or("a frame without a mask")?;
    let Some(payload) = bytes.get_mut(start..start + length) else { return Ok(None) };
    // Eight bytes at a time; what is left over is fewer.
    let half = u64::from(u32::from_ne_bytes(mask));
    let wide = half << 32 | half;
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok(Some(Frame { opcode: header.opcode, payload, bytes: start + length }))
}

/// Appends an unmasked frame to `bytes`.
pub(crate) fn append(opcode: OpCode, payload: &[u8], bytes: &mut Vec<u8>) {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    bytes.reserve_exact(header.len(payload.len() as u64) + payload.len());
    header.format(payload.len() as u64, bytes).expect("a vector takes every byte");
    bytes.extend_from_slice(payload);
}
