//! Request bodies: read within a bound of bytes and of time, and charged to a budget that all
//! requests share until the workers have taken what was in them.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody},
    http::StatusCode,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::error::Refusal;

/// From the first byte of a body to its last.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a body that is too long which are read and thrown away, so that a client that sends
/// first and reads afterwards gets to read the refusal instead of a reset.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// A body, and its share of the budget.
#[derive(Debug)]
pub(super) struct Charged {
    /// The body.
    pub(super) bytes: Vec<u8>,
    /// Given back when dropped.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Reads a body of at most `bytes_max`.
///
/// # Errors
/// 413 when it is longer, 408 when it does not arrive, 429 when the budget is spent, 400 when the
/// connection breaks off.
pub(super) async fn read(
    mut body: Body,
    bytes_max: u32,
    budget: &Arc<Semaphore>,
) -> Result<Charged, Refusal> {
    let hint = body.size_hint();
    let charge = match hint.exact() {
        Some(bytes) if bytes <= u64::from(bytes_max) => u32::try_from(bytes).unwrap_or(bytes_max),
        _ => bytes_max,
    };
    let permit = Arc::clone(budget).try_acquire_many_owned(charge).map_err(|_| {
        Refusal::retry(
            StatusCode::TOO_MANY_REQUESTS,
            "too many bytes of publications are on their way: nothing was published, try again",
        )
    })?;
    let reading = async {
        if hint.lower() > u64::from(bytes_max) {
            discard(&mut body).await;
            return Err(too_long(bytes_max));
        }
        collect(&mut body, charge, bytes_max).await
    };
    let bytes = timeout(BODY_TIMEOUT, reading).await.map_err(|_| {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 30 seconds")
    })??;
    Ok(Charged { bytes, permit })
}

async fn collect(body: &mut Body, expected: u32, bytes_max: u32) -> Result<Vec<u8>, Refusal> {
    // What a client says of its body's length is believed up to a page: memory follows bytes.
    let mut bytes = Vec::with_capacity(expected.min(4096) as usize);
    while let Some(data) = next_data(body).await {
        let data = data?;
        if bytes.len() + data.len() > bytes_max as usize {
            discard(body).await;
            return Err(too_long(bytes_max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn discard(body: &mut Body) {
    let mut discarded = 0;
    while discarded < DISCARDED_BYTES_MAX {
        match next_data(body).await {
            Some(Ok(data)) => discarded += data.len(),
            Some(Err(_)) | None => return,
        }
    }
}

/// The next piece of a body; trailers count as none.
async fn next_data(body: &mut Body) -> Option<Result<bytes::Bytes, Refusal>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(match frame {
        Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
        Err(_) => Err(Refusal::bad_request("the body broke off")),
    })
}

fn too_long(bytes_max: u32) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the body is longer than {bytes_max} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        task::{Context, Poll},
    };

    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    /// A body without a length: so many pieces, and then its end or silence.
    struct Pieces {
        left: usize,
        piece: Bytes,
        ends: bool,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match (self.left.checked_sub(1), self.ends) {
                (Some(left), _) => {
                    self.left = left;
                    Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
                }
                (None, true) => Poll::Ready(None),
                (None, false) => Poll::Pending,
            }
        }
    }

    fn pieces(left: usize, piece: &'static [u8], ends: bool) -> Body {
        Body::new(Pieces { left, piece: Bytes::from_static(piece), ends })
    }

    async fn status(body: Body, budget: &Arc<Semaphore>) -> u16 {
        match read(body, 10, budget).await {
            Ok(_) => 200,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_unknown_length_is_read_up_to_the_bound_and_charged_as_the_longest() {
        let budget = Arc::new(Semaphore::new(10));
        let charged = read(pieces(2, b"12345", true), 10, &budget).await.unwrap();
        assert_eq!(charged.bytes, b"1234512345");
        assert_eq!(budget.available_permits(), 0);
        assert_eq!(status(pieces(1, b"1", true), &budget).await, 429);
        drop(charged);
        assert_eq!(status(pieces(3, b"1234", true), &budget).await, 413);
        assert_eq!(budget.available_permits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_body_is_not_read_to_its_end() {
        let budget = Arc::new(Semaphore::new(10));
        assert_eq!(status(pieces(usize::MAX, &[7; 4096], true), &budget).await, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_408_and_gives_its_share_back() {
        let budget = Arc::new(Semaphore::new(10));
        assert_eq!(status(pieces(1, b"1", false), &budget).await, 408);
        assert_eq!(
            status(pieces(3, b"1234", false), &budget).await,
            408,
            "discarding is bounded too"
        );
        assert_eq!(budget.available_permits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_known_length_is_charged_by_its_length() {
        let budget = Arc::new(Semaphore::new(10));
        let charged = read(Body::from("123"), 10, &budget).await.unwrap();
        assert_eq!(budget.available_permits(), 7);
        assert_eq!(charged.bytes, b"123");
        assert_eq!(status(Body::from("12345678901"), &Arc::new(Semaphore::new(10))).await, 413);
    }
}
