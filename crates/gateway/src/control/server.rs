//! HTTP/1.1 on one listener. Every connection is bounded: how many there are, how long a request
//! head may take, how long one connection may last. A client that is slow or silent costs a place
//! for a while, and never the others theirs for good.

use std::{convert::Infallible, io, net::TcpListener, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Journal, Level};

/// Connections of a listener that are served at once; others wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 128;

/// From the first byte that a request may have, so for a kept connection from the last response, to
/// the end of the request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Header lines of a request.
const HEADERS_MAX: usize = 64;

/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a body that are read ahead.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A connection is asked to end after this; kept connections of scrapers just open another.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// What is left of a connection that was asked to end, before it is cut.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that takes no byte of a response for this long is cut (TCP_USER_TIMEOUT, tcp(7)).
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after an accept that failed for want of a descriptor or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves on a task of its own, for as long as the runtime lives.
///
/// # Errors
/// The listener cannot be waited for.
pub(super) fn spawn(listener: TcpListener, router: Router, journal: &Journal) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tokio::spawn(accept(listener, router, journal.clone()));
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, router: Router, journal: Journal) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // True exactly when the last accept failed for want of something: one line a drought.
    let mut is_short = false;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            unreachable!("nobody closes this semaphore");
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                is_short = false;
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop(place);
                });
            }
            // The client has left the backlog by itself.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !is_short {
                    let fields = vec![("error", error.to_string())];
                    journal.line(Level::Warn, "the control plane cannot accept", fields);
                }
                is_short = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    // Answers are whole when they are written: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // How a connection ends is its client's affair: there is nobody to tell.
    if timeout(CONNECTION_AGE_MAX, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_RESPONSE_TIMEOUT, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode, routing::post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::control::{body, error::Refusal};

    async fn limited(body: Body) -> Result<&'static str, Refusal> {
        body::read(body, 100, &Arc::new(Semaphore::new(1000))).await.map(|_| "taken")
    }

    /// A client of a server that takes bodies of at most 100 bytes.
    async fn client() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(limited));
        spawn(listener, router, &Journal::new(|_| {})).unwrap();
        TcpStream::connect(address).await.unwrap()
    }

    /// Everything that comes before the server closes.
    async fn rest(client: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_kept_connection_serves_one_request_after_the_other() {
        let mut client = client().await;
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        client.write_all(request.as_bytes()).await.unwrap();
        let last = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        client.write_all(last.as_bytes()).await.unwrap();
        let answers = rest(&mut client).await;
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    }

    #[tokio::test]
    async fn a_client_that_sends_all_of_a_long_body_first_still_reads_its_413() {
        let mut client = client().await;
        let head =
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; 900_000]).await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains(StatusCode::PAYLOAD_TOO_LARGE.canonical_reason().unwrap()));
    }

    #[tokio::test]
    async fn a_head_of_many_lines_or_bytes_is_refused() {
        for line in ["a: b\r\n".repeat(65), format!("a: {}\r\n", "b".repeat(17_000))] {
            let mut client = client().await;
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            let mut start = [0; 12];
            client.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 431");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_half_a_head_is_cut() {
        for begun in ["", "POST / HTTP/1.1\r\nHo"] {
            let mut client = client().await;
            client.write_all(begun.as_bytes()).await.unwrap();
            let answer = rest(&mut client).await;
            assert!(!answer.contains("200"), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_gives_its_place_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", post(limited));
        spawn(listener, router, &Journal::new(|_| {})).unwrap();
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        let request =
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(rest(&mut client).await.starts_with("HTTP/1.1 200 OK"));
    }
}
