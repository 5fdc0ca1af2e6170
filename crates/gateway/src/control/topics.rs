//! `GET /topics` and `GET /topics/{topic}`: how many subscribers a topic has, over all workers.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::Uri};
use hub::{Findings, Inquiry};
use serde::Serialize;

use super::{
    Control,
    error::Refusal,
    guest::Request,
    outstanding::Found,
    publish::{answer, topic},
    query::{limit, listing, parameter},
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
    let limit = limit(&control, &target)?;
    let after = match parameter(&target, "after") {
        None | Some("") => None,
        Some(after) => Some(topic(&control, after)?),
    };
    let _listing = listing(&control).await?;
    // A topic among the first N of all workers is among the first N of each worker that has it, so
    // its sum is complete.
    let inquiry = Inquiry::Topics { after, entries_max: limit };
    let found = answer(&control, |reply| Request::Ask { inquiry, reply }).await?;
    let mut subscribers = merge(found);
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
    let found = answer(&control, |reply| Request::Ask { inquiry, reply }).await?;
    let subscribers = merge(found);
    Ok(Json(Topic { subscribers: subscribers.get(&topic).copied().unwrap_or(0), topic }))
}

/// Subscribers by topic, over all workers, in byte order.
fn merge(found: Found) -> BTreeMap<Box<str>, u64> {
    let mut subscribers = BTreeMap::new();
    for findings in found.into_values() {
        let Findings::Topics(topics) = findings else { continue };
        for (topic, count) in topics {
            *subscribers.entry(topic).or_default() += u64::from(count);
        }
    }
    subscribers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_of_a_topic_on_several_workers_are_one_entry_in_byte_order() {
        let topics = |topics: &[(&str, u32)]| {
            Findings::Topics(topics.iter().map(|(name, count)| ((*name).into(), *count)).collect())
        };
        let found =
            Found::from([(0, topics(&[("b", 1), ("c", 2)])), (1, topics(&[("a", 5), ("c", 3)]))]);
        let merged: Vec<_> = merge(found).into_iter().collect();
        assert_eq!(merged, [("a".into(), 5), ("b".into(), 1), ("c".into(), 5)]);
    }
}
