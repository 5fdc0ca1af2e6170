//! Clients that a check opens itself, a blocking socket each: those that are not to behave.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::failure::{Failure, Outcome};
use crate::ring;
use crate::url::Url;

/// How long one of them waits for the server.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A response head is shorter.
const HEAD_BYTES_MAX: usize = 4096;
/// RFC 6455 section 1.3: nobody looks at it twice.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Lifts the soft limit of descriptors to the hard one.
pub(super) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where this fails, connecting fails and says why.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Connects, with a receive buffer of so many bytes and from this address where they matter.
pub(super) fn connect(
    url: &Url,
    receive_buffer_bytes: Option<usize>,
    source: Option<Ipv4Addr>,
) -> Outcome<TcpStream> {
    let socket = Socket::new(Domain::for_address(url.address), Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    // Closing resets: thousands of ports in TIME_WAIT would be missing in the next run.
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(source) = source {
        ring::bind_without_port(socket.as_fd())?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.connect(&url.address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects and upgrades, as connection `number` of the URL. Nothing behind the 101 is read.
pub(super) fn open(
    url: &Url,
    number: u32,
    receive_buffer_bytes: Option<usize>,
    source: Option<Ipv4Addr>,
) -> Outcome<TcpStream> {
    let mut stream = connect(url, receive_buffer_bytes, source)?;
    stream.write_all(&request(url, number))?;
    let head = read_head(&mut stream)?;
    if head.starts_with("HTTP/1.1 101 ") {
        return Ok(stream);
    }
    let line = head.lines().next().unwrap_or_default();
    Err(Failure::run(format!("the upgrade was answered `{line}`")))
}

/// A whole and well-formed upgrade.
pub(super) fn request(url: &Url, number: u32) -> Vec<u8> {
    url.request(number, number, KEY, "", None, "")
}

/// Reads a response head and nothing behind it.
pub(super) fn read_head(stream: &mut TcpStream) -> Outcome<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
        if head.len() > HEAD_BYTES_MAX {
            return Err(Failure::run("the response head is too long"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
