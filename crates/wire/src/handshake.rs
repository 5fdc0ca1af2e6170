//! The opening handshake (RFC 6455 section 4.2): request heads in, responses out. tungstenite and
//! the parser under it read the head; here stand the rules that they leave to the server. Which
//! paths, origins and subprotocols are served is decided elsewhere.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
        TRANSFER_ENCODING, UPGRADE,
    },
    uri::Authority,
};
use tungstenite::{
    Error,
    error::{CapacityError, ProtocolError},
    handshake::{derive_accept_key, machine::TryParse},
};

use crate::{
    Extensions, Window,
    extension::{Malformed, agree_on_deflate},
};

pub use http::StatusCode;

/// A request head. Its `Host` header is that of the request's target (RFC 9112 section 3.2.2).
pub type Request = http::Request<()>;

/// Why a head must not be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// It is not HTTP/1.1, or can be read in two ways: 400 with this text.
    Malformed(&'static str),
    /// It has more than 124 header lines: 431 (RFC 6585 section 5).
    TooManyHeaders,
}

impl BadRequest {
    /// One line that says what to do.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed(text) => text,
            Self::TooManyHeaders => "send at most 124 header lines",
        }
    }
}

/// Why a well-formed request is no upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoUpgrade {
    /// 400 with this text.
    Malformed(&'static str),
    /// 405 with `Allow: GET`.
    Method,
    /// 426 with `Upgrade: websocket`.
    Missing,
    /// 426 with `Sec-WebSocket-Version: 13`.
    Version,
}

impl NoUpgrade {
    /// The status to answer with.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Missing | Self::Version => StatusCode::UPGRADE_REQUIRED,
        }
    }

    /// The headers that belong to the status. A 426 always names the protocol to upgrade to (RFC
    /// 9110 section 15.5.22).
    #[must_use]
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Malformed(_) => &[],
            Self::Method => &[("Allow", "GET")],
            Self::Missing => &[("Upgrade", "websocket")],
            Self::Version => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        }
    }

    /// One line that says what to do.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed(text) => text,
            Self::Method => "use GET",
            Self::Missing => {
                "this is a WebSocket: connect over HTTP/1.1 with Connection: Upgrade and Upgrade: \
                 websocket"
            }
            Self::Version => "use Sec-WebSocket-Version: 13",
        }
    }
}

const BAD_HEAD: BadRequest = BadRequest::Malformed("send an HTTP/1.1 request head");
const BAD_TARGET: BadRequest =
    BadRequest::Malformed("the request target must be a path, or a URL with scheme and host");
const BAD_HOST: BadRequest = BadRequest::Malformed("send exactly one valid Host header");
const BAD_BODY: BadRequest = BadRequest::Malformed("send the request without a body");
const BAD_LENGTH: BadRequest = BadRequest::Malformed("Content-Length must be a number, alone");
const BAD_KEY: NoUpgrade =
    NoUpgrade::Malformed("send exactly one Sec-WebSocket-Key: 16 random bytes in base64");
const BAD_EXTENSIONS: NoUpgrade =
    NoUpgrade::Malformed("write Sec-WebSocket-Extensions as a list of names with parameters");
const REPEATED_VERSION: NoUpgrade =
    NoUpgrade::Malformed("send exactly one Sec-WebSocket-Version header");

/// Parses a request head. `None`: not complete yet. The number is that of the head's bytes; what
/// follows belongs to the connection.
///
/// HTTP/1.0 is parsed, so that simple health checks are answered; it can never be an upgrade. A
/// later minor version is taken for 1.1 (RFC 9110 section 2.5).
///
/// # Errors
/// A head that will never be complete or must not be acted on.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, BadRequest> {
    let parsed = match Request::try_parse(bytes) {
        Err(Error::Protocol(
            ProtocolError::WrongHttpMethod
            | ProtocolError::WrongHttpVersion
            | ProtocolError::HttparseError(httparse::Error::Version),
        )) => parse_plain_request(bytes)?,
        parsed => parsed.map_err(|error| bad_request(&error))?,
    };
    let Some((head_bytes, mut request)) = parsed else { return Ok(None) };
    check_target(&request, &bytes[..head_bytes])?;
    check_host(&mut request)?;
    check_body(&request)?;
    Ok(Some((request, head_bytes)))
}

/// A handshake that succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The 101.
    pub response: Bytes,
    /// `Some`: permessage-deflate is agreed on, and this is how far back the server may look.
    pub deflate: Option<Window>,
}

/// The 101 response for an upgrade (RFC 6455 section 4.2). `subprotocol` is one of those that the
/// request offers; of `extensions` the response takes what the request offers.
///
/// # Errors
/// The request is not a well-formed upgrade.
pub fn encode_upgrade(
    request: &Request,
    subprotocol: Option<&str>,
    extensions: Extensions,
) -> Result<Upgrade, NoUpgrade> {
    if request.method() != Method::GET {
        return Err(NoUpgrade::Method);
    }
    let headers = request.headers();
    // In HTTP/1.0 the header means nothing (RFC 9110 section 7.8, RFC 6455 section 4.2.1 item 1).
    if request.version() < Version::HTTP_11
        || !lists(headers, CONNECTION, "upgrade")
        || !lists(headers, UPGRADE, "websocket")
    {
        return Err(NoUpgrade::Missing);
    }
    match single(headers, SEC_WEBSOCKET_VERSION) {
        Ok(Some(version)) if version == "13" => {}
        Ok(_) => return Err(NoUpgrade::Version),
        Err(Repeated) => return Err(REPEATED_VERSION),
    }
    let Ok(Some(key)) = single(headers, SEC_WEBSOCKET_KEY) else { return Err(BAD_KEY) };
    if !is_key(key) {
        return Err(BAD_KEY);
    }
    // RFC 6455 section 9.1: a header that breaks its grammar fails, whatever is willing to be used.
    let deflate = agree_on_deflate(headers).map_err(|Malformed| BAD_EXTENSIONS)?;
    let deflate = deflate.filter(|_| extensions.deflate);

    let mut response = String::with_capacity(384);
    response.push_str(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    );
    push_header(&mut response, "Sec-WebSocket-Accept", &derive_accept_key(key.as_bytes()));
    if let Some(subprotocol) = subprotocol {
        push_header(&mut response, "Sec-WebSocket-Protocol", subprotocol);
    }
    if let Some(agreement) = deflate {
        push_header(&mut response, "Sec-WebSocket-Extensions", &agreement.to_string());
    }
    response.push_str("\r\n");
    let deflate = deflate.map(|agreement| agreement.window);
    Ok(Upgrade { response: Bytes::from(response), deflate })
}

/// A plain response with one line of text, `Connection: close` and `Content-Length`. `text` comes
/// without its line end.
#[must_use]
pub fn encode_response(status: StatusCode, headers: &[(&str, &str)], text: &str) -> Bytes {
    let mut response = String::with_capacity(256 + text.len());
    response.push_str("HTTP/1.1 ");
    response.push_str(status.as_str());
    response.push(' ');
    response.push_str(status.canonical_reason().unwrap_or_default());
    response.push_str("\r\n");
    push_header(&mut response, "Connection", "close");
    for (name, value) in headers {
        push_header(&mut response, name, value);
        // `Upgrade` concerns this hop only and must be listed as such (RFC 9110 section 7.8).
        if name.eq_ignore_ascii_case("upgrade") {
            push_header(&mut response, "Connection", "Upgrade");
        }
    }
    push_header(&mut response, "Content-Type", "text/plain; charset=utf-8");
    push_header(&mut response, "Content-Length", &(text.len() + 1).to_string());
    response.push_str("\r\n");
    response.push_str(text);
    response.push('\n');
    Bytes::from(response)
}

/// The same response to HEAD: its head says everything, and content must not follow (RFC 9110
/// section 9.3.2).
#[must_use]
pub fn without_content(response: &Bytes) -> Bytes {
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    response.slice(..end.map_or(response.len(), |end| end + 4))
}

/// What a head is that tungstenite refuses, whatever its method and version.
fn bad_request(error: &Error) -> BadRequest {
    match error {
        Error::Capacity(CapacityError::TooManyHeaders) => BadRequest::TooManyHeaders,
        _ => BAD_HEAD,
    }
}

/// Parses a head whose method is not GET or whose version is not 1.1, which tungstenite refuses: it
/// reads the same head as `GET … HTTP/1.1`, then method and version are put back.
fn parse_plain_request(bytes: &[u8]) -> Result<Option<(usize, Request)>, BadRequest> {
    let line = RequestLine::split(bytes).ok_or(BAD_HEAD)?;
    let Some((&[b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'], rest)) =
        line.rest.split_first_chunk()
    else {
        return Err(BAD_HEAD);
    };
    let head = [b"GET ", line.target, b" HTTP/1.1", rest].concat();
    let parsed = Request::try_parse(&head).map_err(|error| bad_request(&error))?;
    let Some((head_bytes, mut request)) = parsed else { return Ok(None) };
    *request.method_mut() = Method::from_bytes(line.method).map_err(|_| BAD_HEAD)?;
    if minor == b'0' {
        *request.version_mut() = Version::HTTP_10;
    }
    Ok(Some((line.start + line.method.len() + head_bytes - b"GET".len(), request)))
}

/// The raw first line of a head.
struct RequestLine<'a> {
    /// Where it begins, after empty lines.
    start: usize,
    method: &'a [u8],
    target: &'a [u8],
    /// From the version to the end of all bytes.
    rest: &'a [u8],
}

impl<'a> RequestLine<'a> {
    fn split(bytes: &'a [u8]) -> Option<Self> {
        let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let mut words = bytes[start..].splitn(3, |byte| *byte == b' ');
        Some(Self { start, method: words.next()?, target: words.next()?, rest: words.next()? })
    }
}

/// Origin-form or absolute-form (RFC 9112 section 3.2); the other two forms are for proxies and
/// for `OPTIONS *`. No fragment (RFC 6455 section 3), which the URI parser would drop silently.
fn check_target(request: &Request, head: &[u8]) -> Result<(), BadRequest> {
    let line = RequestLine::split(head).ok_or(BAD_HEAD)?;
    let uri = request.uri();
    let is_served = match (uri.scheme_str(), uri.authority()) {
        (None, None) => uri.path().starts_with('/'),
        (Some("http" | "https" | "ws" | "wss"), Some(authority)) => is_host(authority.as_str()),
        _ => false,
    };
    if is_served && !line.target.contains(&b'#') { Ok(()) } else { Err(BAD_TARGET) }
}

/// Exactly one valid Host, which a target in absolute form overrules (RFC 9112 sections 3.2 and
/// 3.2.2). HTTP/1.0 may do without.
fn check_host(request: &mut Request) -> Result<(), BadRequest> {
    match single(request.headers(), HOST) {
        Ok(Some(host)) if host.is_empty() || host.to_str().is_ok_and(is_host) => {}
        Ok(None) if request.version() < Version::HTTP_11 => {}
        Ok(_) | Err(Repeated) => return Err(BAD_HOST),
    }
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD_TARGET)?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// `uri-host [":" port]`, without user information (RFC 9110 sections 4.2.4 and 7.2).
fn is_host(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = text.strip_prefix(authority.host());
    port.is_some_and(|port| {
        port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// No body where it would be taken for frames. The body of another method than GET is never
/// read, since every answer to it closes the connection; what is ambiguous is refused there too
/// (RFC 9112 sections 6.1 and 6.3).
fn check_body(request: &Request) -> Result<(), BadRequest> {
    let headers = request.headers();
    let length = single(headers, CONTENT_LENGTH).map_err(|Repeated| BAD_LENGTH)?;
    let has_coding = headers.contains_key(TRANSFER_ENCODING);
    let is_zero = match length {
        None => true,
        Some(_) if has_coding => return Err(BAD_LENGTH),
        Some(length) if length.is_empty() => return Err(BAD_LENGTH),
        Some(length) if !length.as_bytes().iter().all(u8::is_ascii_digit) => {
            return Err(BAD_LENGTH);
        }
        Some(length) => length.as_bytes().iter().all(|digit| *digit == b'0'),
    };
    if request.method() == Method::GET && (has_coding || !is_zero) {
        return Err(BAD_BODY);
    }
    Ok(())
}

/// A header that may stand only once stands more often.
struct Repeated;

fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Repeated> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// Whether the comma-separated list in all lines of this header has the entry, in any case.
fn lists(headers: &HeaderMap, name: HeaderName, entry: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(entry.as_bytes()))
}

/// 16 bytes in base64 (RFC 6455 section 4.2.1 item 5).
fn is_key(key: &HeaderValue) -> bool {
    // Room for what 24 characters could hold; more than that is an error.
    let mut nonce = [0; 18];
    STANDARD.decode_slice(key, &mut nonce) == Ok(16)
}

fn push_header(response: &mut String, name: &str, value: &str) {
    response.push_str(name);
    response.push_str(": ");
    response.push_str(value);
    response.push_str("\r\n");
}
