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
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

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
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 seconds")
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
