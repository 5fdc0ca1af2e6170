//! Bytes to WebSocket and back: RFC 6455 and RFC 7692 on the server's side, without I/O. Heads of
//! requests and responses, frame headers, a decoder that works in place on the receive buffer,
//! compressed messages, close codes.
//! It opens nothing, waits for nothing and keeps no clock.

#![forbid(unsafe_code)]

mod boundary;
mod close;
mod decode;
mod deflate;
mod encode;
mod extension;
mod handshake;
mod head;
mod mask;
mod partial;
mod proxy;

pub use boundary::{has_control_frame, message_boundary, messages_within};
pub use close::{CloseCode, CloseFrame};
pub use decode::{Decoder, Event, Input, Message, Violation};
pub use deflate::{Converted, Deflater, Inflater, Window};
pub use encode::{
    DataOpcode, PING, encode_close, encode_message, encode_pong, message_frame_bytes,
};
pub use extension::Extensions;
pub use handshake::{
    BadRequest, NoUpgrade, Request, StatusCode, Upgrade, encode_response, encode_upgrade,
    parse_request, without_content,
};
pub use mask::unmask;
pub use proxy::{BadProxyHeader, ProxyHeader, parse_proxy_header};
