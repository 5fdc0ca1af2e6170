//! HTTP/1.1, as little as the tests need: one request at a time on a connection that is kept.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use super::PATIENCE;

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Http {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// As long as `Content-Length` says, or to the end of the connection.
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// A client of the server at this address.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// GET.
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, "", b"")
    }

    /// POST of a body, with headers of one line each.
    pub(crate) fn post(&mut self, target: &str, headers: &str, body: &[u8]) -> Response {
        self.request("POST", target, headers, body)
    }

    /// DELETE.
    pub(crate) fn delete(&mut self, target: &str) -> Response {
        self.request("DELETE", target, "", b"")
    }

    /// A request with headers of one line each.
    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> Response {
        let stream = self.stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(self.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            BufReader::new(stream)
        });
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.get_mut().write_all(&request).unwrap();
        let response = Response::read(stream);
        if response.header("connection") == Some("close") {
            self.stream = None;
        }
        response
    }
}

impl Response {
    /// Reads one.
    pub(crate) fn read(stream: &mut impl BufRead) -> Self {
        let mut response = Self::read_head(stream);
        match response.header("content-length").map(|length| length.parse().unwrap()) {
            Some(length) => {
                response.body.resize(length, 0);
                stream.read_exact(&mut response.body).unwrap();
            }
            None if response.status >= 200 => {
                stream.read_to_end(&mut response.body).unwrap();
            }
            None => {}
        }
        response
    }

    /// Reads one that has no body whatever its length says: it answers HEAD.
    pub(crate) fn read_head(stream: &mut impl BufRead) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "closed within {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines[1..]
            .iter()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Self { status, headers, body: Vec::new() }
    }

    /// The value of a header, its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body, which is JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
