//! `GET /topics` and `GET /topics/{topic}`: how many subscribers a topic has, over all workers.

use std::sync::Arc;

use axum::{Json, extract::State, http::Uri};
use hub::Inquiry;
use serde::Serialize;

use super::{
    Control,
    error::Refusal,
    guest::Request,
    publish::{answer, topic},
    query::parameter,
};

/// One topic.
#[derive(Debug, Serialize)]
pub(super) struct Topic {
    topic: Box<str>,
    subscribers: u64,
}

/// A page of topics, in byte order.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    topics: Vec<Topic>,
    /// What to give as `after` for the next page; absent where this one is not full.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Box<str>>,
}

/// `GET /topics?limit=&after=`. A limit above the longest page gets the longest page.
pub(super) async fn page(
    State(control): State<Arc<Control>>,
    target: Uri,
) -> Result<Json<Page>, Refusal> {
    let entries_max = control.facts.limits.listing_entries_max as usize;
    let limit = match parameter(&target, "limit").map(str::parse::<usize>) {
        None => entries_max,
        Some(Ok(limit @ 1..)) => limit.min(entries_max),
        Some(_) => return Err(Refusal::bad_request("limit must be a number above 0")),
    };
    let after = match parameter(&target, "after") {
        None | Some("") => None,
        Some(after) => Some(topic(&control, after)?),
    };
    // A topic among the first N of all workers is among the first N of each worker that has it, so
    // its sum is complete.
    let inquiry = Inquiry::Topics { after, entries_max: limit };
    let mut subscribers = answer(&control, |reply| Request::Ask { inquiry, reply }).await?;
    let mut topics = Vec::with_capacity(limit.min(subscribers.len()));
    while topics.len() < limit
        && let Some((topic, subscribers)) = subscribers.pop_first()
    {
        topics.push(Topic { topic, subscribers });
    }
    let next = topics.last().filter(|_| topics.len() == limit).map(|last| last.topic.clone());
    Ok(Json(Page { topics, next }))
}

/// `GET /topics/{topic}`. A topic that nobody subscribes to has no subscribers; it is not unknown.
pub(super) async fn one(
    State(control): State<Arc<Control>>,
    target: Uri,
) -> Result<Json<Topic>, Refusal> {
    let encoded = target.path().strip_prefix("/topics/").unwrap_or_default();
    let topic = topic(&control, encoded)?;
    let inquiry = Inquiry::Topic(topic.clone());
    let subscribers = answer(&control, |reply| Request::Ask { inquiry, reply }).await?;
    Ok(Json(Topic { subscribers: subscribers.get(&topic).copied().unwrap_or(0), topic }))
}
