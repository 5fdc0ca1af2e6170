//! Which extension is agreed on (RFC 6455 section 9.1), and with which parameters (RFC 7692
//! section 7.1). There is one: permessage-deflate, always without context takeover on both sides,
//! so that no connection owns a window.

use std::fmt;

use http::{HeaderMap, header::SEC_WEBSOCKET_EXTENSIONS};

use crate::Window;

/// The extensions that a server is willing to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// permessage-deflate (RFC 7692).
    pub deflate: bool,
}

/// permessage-deflate as agreed: displayed, it is the response's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeflateAgreement {
    /// How far back this side may look.
    pub(crate) window: Window,
    /// Whether the offer limits that, so that the response must say it.
    is_window_offered: bool,
}

/// A header that is not what RFC 6455 section 9.1 describes.
pub(crate) struct Malformed;

/// The parameters of an offer that have been seen (RFC 7692 section 7.1).
#[derive(Default)]
struct Seen {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: bool,
}

/// The first offer of permessage-deflate that can be taken: offers stand in the order of the
/// client's preference (RFC 7692 section 5). What else is offered is not known here.
///
/// # Errors
/// The header breaks its grammar: RFC 6455 section 9.1 wants the handshake to fail.
pub(crate) fn agree_on_deflate(headers: &HeaderMap) -> Result<Option<DeflateAgreement>, Malformed> {
    let mut agreed = None;
    // Bounded by the bytes of a request head.
    for line in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        for extension in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            // A list may have empty elements (RFC 9110 section 5.6.1).
            if extension.is_empty() {
                continue;
            }
            let offer = parse_extension(extension)?;
            agreed = agreed.or(offer);
        }
    }
    Ok(agreed)
}

/// One element of the list. `None`: it is something else, or cannot be taken.
fn parse_extension(extension: &[u8]) -> Result<Option<DeflateAgreement>, Malformed> {
    // Quotes can hide neither comma nor semicolon: what is quoted must be a token by itself.
    let mut parts = extension.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = token(parts.next().unwrap_or_default())?;
    let mut seen = Seen::default();
    let mut is_acceptable = name == b"permessage-deflate";
    for parameter in parts {
        let (name, value) = parse_parameter(parameter)?;
        is_acceptable &= seen.take(name, value);
    }
    Ok(if is_acceptable { seen.agreement() } else { None })
}

/// `token [ "=" ( token / quoted-string ) ]`.
fn parse_parameter(parameter: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let Some(equals) = parameter.iter().position(|byte| *byte == b'=') else {
        return Ok((token(parameter)?, None));
    };
    let (name, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
    let value = match value {
        [b'"', quoted @ .., b'"'] => quoted,
        plain => plain,
    };
    Ok((token(name)?, Some(token(value)?)))
}

/// RFC 9110 section 5.6.2.
fn token(text: &[u8]) -> Result<&[u8], Malformed> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if !text.is_empty() && text.iter().all(is_token) { Ok(text) } else { Err(Malformed) }
}

/// 8 to 15, without leading zeros (RFC 7692 section 7.1.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    match *value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl Seen {
    /// Whether the parameter is known, has a value that it may have, and stands there once (RFC
    /// 7692 section 7.1: else the offer must be declined).
    fn take(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        let flag = |seen: &mut bool| value.is_none() && !std::mem::replace(seen, true);
        match name {
            b"server_no_context_takeover" => flag(&mut self.server_no_context_takeover),
            b"client_no_context_takeover" => flag(&mut self.client_no_context_takeover),
            b"server_max_window_bits" => {
                let Some(bits) = value.and_then(window_bits) else { return false };
                self.server_max_window_bits.replace(bits).is_none()
            }
            b"client_max_window_bits" => {
                value.is_none_or(|value| window_bits(value).is_some())
                    && !std::mem::replace(&mut self.client_max_window_bits, true)
            }
            _ => false,
        }
    }

    /// What can be agreed on. `None`: the window is smaller than the encoder can do with.
    fn agreement(&self) -> Option<DeflateAgreement> {
        let window = match self.server_max_window_bits {
            None => Window::LARGEST,
            Some(bits) => Window::of_bits(bits)?,
        };
        Some(DeflateAgreement { window, is_window_offered: self.server_max_window_bits.is_some() })
    }
}

impl fmt::Display for DeflateAgreement {
    /// Neither side takes its context over: a server may say both unasked (RFC 7692 section
    /// 7.1.1). The client's window is left to the client, whatever it hints at: the inflater is
    /// shared, and always has the largest.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        )?;
        if self.is_window_offered {
            write!(formatter, "; server_max_window_bits={}", self.window.bits())?;
        }
        Ok(())
    }
}
