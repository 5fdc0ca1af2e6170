//! `POST /publish/{topic}`, `POST /publish` and `POST /broadcast`: a body becomes publications.
//! They go to every worker with subscribers of their topics or to none; the answer comes when all of
//! those have taken them.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::error::TrySendError, oneshot},
    time::timeout,
};
use wire::DataOpcode;
use worker::Publication;

use super::{
    Control, batch,
    body::{self, Charged},
    error::Refusal,
    guest::{self, NoRoom, Posted, Request},
    query::parameter,
};

/// How long all workers together may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The prefix of a topic in a path.
const TOPIC_PREFIX: &str = "/publish/";

/// `?as=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// The answer to a single publication.
#[derive(Debug, Serialize)]
pub(super) struct Receivers {
    receivers: u64,
}

/// The answer to a batch.
#[derive(Debug, Serialize)]
pub(super) struct BatchReceivers {
    receivers: Vec<u64>,
}

/// `POST /publish/{topic}`.
pub(super) async fn to_topic(
    State(control): State<Arc<Control>>,
    target: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Receivers>, Refusal> {
    let encoded = target.path().strip_prefix(TOPIC_PREFIX).unwrap_or_default();
    let topic = topic(&control, encoded)?;
    one(&control, Some(topic), &target, &headers, body).await
}

/// `POST /broadcast`.
pub(super) async fn to_everyone(
    State(control): State<Arc<Control>>,
    target: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Receivers>, Refusal> {
    one(&control, None, &target, &headers, body).await
}

/// `POST /publish`.
pub(super) async fn many(
    State(control): State<Arc<Control>>,
    body: Body,
) -> Result<Json<BatchReceivers>, Refusal> {
    let limits = control.limits();
    let Charged { bytes, permit } =
        body::read(body, limits.batch_bytes_max, &control.body_bytes).await?;
    let publications = batch::parse(&bytes, &limits, guest::now())?;
    drop(bytes);
    let receivers = publish(&control, publications, permit).await?;
    Ok(Json(BatchReceivers { receivers }))
}

/// A topic as it stands in a path or a query.
///
/// # Errors
/// 400 with the rule that it breaks.
pub(super) fn topic(control: &Control, encoded: &str) -> Result<Box<str>, Refusal> {
    hub::decode_topic(encoded, control.limits().topic_bytes_max as usize)
        .map_err(|error| Refusal::bad_request(error.to_string()))
}

async fn one(
    control: &Control,
    topic: Option<Box<str>>,
    target: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Json<Receivers>, Refusal> {
    let kind = match parameter(target, "as") {
        None => None,
        Some("text") => Some(Kind::Text),
        Some("binary") => Some(Kind::Binary),
        Some(_) => return Err(Refusal::bad_request("as must be text or binary")),
    };
    let bytes_max = control.limits().message_bytes_max;
    let Charged { bytes, permit } = body::read(body, bytes_max, &control.body_bytes).await?;
    let opcode = opcode(kind, headers, &bytes)?;
    let topic = topic.map(Into::into);
    let publication = Arc::new(Publication::new(topic, opcode, &bytes, None, guest::now()));
    drop(bytes);
    let receivers = publish(control, vec![publication], permit).await?;
    Ok(Json(Receivers { receivers: receivers.iter().sum() }))
}

/// Text or binary: as asked for; else text exactly when the body is UTF-8 and its type, where it
/// names one, is one of text.
fn opcode(kind: Option<Kind>, headers: &HeaderMap, payload: &[u8]) -> Result<DataOpcode, Refusal> {
    let is_utf8 = std::str::from_utf8(payload).is_ok();
    match kind {
        Some(Kind::Text) if !is_utf8 => {
            Err(Refusal::bad_request("the body is not UTF-8, and a text message must be"))
        }
        Some(Kind::Text) => Ok(DataOpcode::Text),
        Some(Kind::Binary) => Ok(DataOpcode::Binary),
        None if is_utf8 && is_of_text(headers) => Ok(DataOpcode::Text),
        None => Ok(DataOpcode::Binary),
    }
}

/// Whether the content type is absent, `text/*`, JSON (RFC 6839 section 3.1 included), or what
/// `curl -d` sends.
fn is_of_text(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("text/")
        || media_type == "application/json"
        || media_type == "application/x-www-form-urlencoded"
        || media_type.starts_with("application/") && media_type.ends_with("+json")
}

/// Hands publications to the workers and waits for their receipts.
async fn publish(
    control: &Control,
    publications: Vec<Arc<Publication>>,
    permit: OwnedSemaphorePermit,
) -> Result<Vec<u64>, Refusal> {
    answer(control, |reply| Request::Publish { publications, permit, reply }).await
}

/// Sends a request to the task that owns the endpoint, and waits for the answer of all workers.
///
/// # Errors
/// 503 when that task or the workers do not keep up, 429 when a worker's queue has no room.
pub(super) async fn answer<T>(
    control: &Control,
    request: impl FnOnce(oneshot::Sender<Posted<T>>) -> Request,
) -> Result<T, Refusal> {
    let (reply, posted) = oneshot::channel();
    control.requests.try_send(request(reply)).map_err(|error| match error {
        TrySendError::Full(_) => overloaded("too many requests wait: nothing was done, try again"),
        TrySendError::Closed(_) => overloaded("the process is ending"),
    })?;
    let answered = timeout(ANSWER_TIMEOUT, async {
        let answered = match posted.await {
            Ok(Ok(answered)) => answered,
            Ok(Err(NoRoom::Letters)) => {
                return Err(Refusal::retry(
                    StatusCode::TOO_MANY_REQUESTS,
                    "a worker's queue is full: nothing was done, try again",
                ));
            }
            Ok(Err(NoRoom::Blocks { seconds })) => {
                return Err(Refusal {
                    status: StatusCode::TOO_MANY_REQUESTS,
                    error: "blocked_subs_max are blocked already: nothing was done".to_owned(),
                    retry_after_seconds: Some(u16::try_from(seconds).unwrap_or(u16::MAX)),
                });
            }
            Err(_) => return Err(overloaded("the process is ending")),
        };
        answered.await.map_err(|_| overloaded("the process is ending"))
    });
    answered.await.unwrap_or_else(|_| {
        Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not every worker has answered within 10 seconds; what was posted may still be done",
        ))
    })
}

fn overloaded(error: &str) -> Refusal {
    Refusal::retry(StatusCode::SERVICE_UNAVAILABLE, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(content_type: Option<&'static str>) -> HeaderMap {
        content_type
            .map(|value| (header::CONTENT_TYPE, value.parse().unwrap()))
            .into_iter()
            .collect()
    }

    #[test]
    fn utf8_of_a_text_type_or_of_none_is_text() {
        for content_type in [
            None,
            Some("text/plain"),
            Some("text/html; charset=utf-8"),
            Some("TEXT/csv"),
            Some("application/json"),
            Some("application/json; charset=utf-8"),
            Some("application/cloudevents+json"),
            Some("application/x-www-form-urlencoded"),
        ] {
            let headers = typed(content_type);
            let kind = opcode(None, &headers, "grüße".as_bytes());
            assert_eq!(kind, Ok(DataOpcode::Text), "{content_type:?}");
            assert_eq!(opcode(None, &headers, b"\xff"), Ok(DataOpcode::Binary));
        }
    }

    #[test]
    fn another_type_is_binary_whatever_the_bytes() {
        for content_type in
            ["application/octet-stream", "image/png", "application/jsonx", "application/xml", ""]
        {
            let kind = opcode(None, &typed(Some(content_type)), b"abc");
            assert_eq!(kind, Ok(DataOpcode::Binary), "{content_type}");
        }
    }

    #[test]
    fn as_decides_but_does_not_make_text_of_what_is_none() {
        let binary = typed(Some("application/octet-stream"));
        assert_eq!(opcode(Some(Kind::Text), &binary, b"abc"), Ok(DataOpcode::Text));
        assert_eq!(opcode(Some(Kind::Binary), &typed(None), b"abc"), Ok(DataOpcode::Binary));
        let refusal = opcode(Some(Kind::Text), &binary, b"\xff").unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
}
