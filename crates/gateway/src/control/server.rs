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

/// Bytes of a request head, and of what is read ahead of a body.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// A connection is asked to end after this; kept connections of scrapers just open another.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// What is left of a connection that was asked to end, before it is cut.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

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
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // How a connection ends is its client's affair: there is nobody to tell.
    if timeout(CONNECTION_AGE_MAX, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_RESPONSE_TIMEOUT, connection).await;
    }
}
