//! `GET /connections` and `DELETE /connections`: which connections are open, and closing them. An
//! id is that of the log: worker, slot, and how often the slot was used before. Pages go by worker
//! and slot.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Json, extract::State, http::Uri};
use hub::{Entry, Findings, Inquiry, Selection};
use mesh::Member;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokens::SUBJECT_BYTES_MAX;
use worker::ConnectionId;

use super::{
    Control, Level,
    error::Refusal,
    guest::Request,
    outstanding::{Found, Removed},
    publish::{answer, topic},
    query::{limit, listing, parameter},
};
use crate::{log::moment, quantity::Span};

/// Names a connection of this process, and after its end no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) worker: u16,
    pub(super) connection: ConnectionId,
}

/// A page of connections.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    connections: Vec<Connection>,
    /// What to give as `after` for the next page; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// One connection.
#[derive(Debug, Serialize)]
struct Connection {
    id: String,
    worker: u16,
    address: SocketAddr,
    topics: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Box<str>>,
    opened: String,
    last_heard: String,
    send_queue_bytes: u64,
}

/// What was closed, and until when the `sub` is blocked that was named.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Closed {
    closed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_until: Option<String>,
}

/// `GET /connections?id=&topic=&address=&sub=&limit=&after=`: those of which all that is named
/// holds.
pub(super) async fn page(
    State(control): State<Arc<Control>>,
    target: Uri,
) -> Result<Json<Page>, Refusal> {
    let limit = limit(&control, &target)?;
    let selection = selection(&control, &target)?;
    let after = match parameter(&target, "after") {
        None | Some("") => None,
        Some(after) => Some(parse_id("after", after)?),
    };
    let after = after.map(|id| (Member(id.worker), id.connection.slot));
    let _listing = listing(&control).await?;
    // The first N of all are among the first N of each worker.
    let inquiry = Inquiry::Connections { selection, after, entries_max: limit };
    let found = answer(&control, |reply| Request::Ask { inquiry, reply }).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Json(Page::new(found, limit, now)))
}

/// `DELETE /connections` with one of `id=`, `topic=`, `address=`, `sub=`; with that also `block=`, how
/// long it is blocked at least.
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    target: Uri,
) -> Result<Json<Closed>, Refusal> {
    let selection = selection(&control, &target)?;
    let Selection { id, topic, address, subject } = &selection;
    let named = [id.is_some(), topic.is_some(), address.is_some(), subject.is_some()];
    if named.into_iter().filter(|it| *it).count() != 1 {
        return Err(Refusal::bad_request("name one of id, topic, address and sub"));
    }
    let block_seconds = parameter(&target, "block").map(parse_block).transpose()?;
    if block_seconds.is_some() && subject.is_none() {
        return Err(Refusal::bad_request("only a sub can be blocked"));
    }
    // By itself: it is done, and told to the log, also where its asker does not wait for it.
    let removing = tokio::spawn(remove_and_tell(control, selection, block_seconds));
    match removing.await {
        Ok(closed) => closed.map(Json),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Has connections closed and says so in the log. It ends within the time that answers may take.
async fn remove_and_tell(
    control: Arc<Control>,
    selection: Selection,
    block_seconds: Option<u64>,
) -> Result<Closed, Refusal> {
    let mut fields = vec![named_field(&selection)];
    let request = |reply| Request::Remove { selection, block_seconds, reply };
    let closed = answer(&control, request).await.map(|removed| {
        let Removed { closed, blocked_until } = removed;
        Closed { closed, blocked_until: blocked_until.map(end) }
    });
    // Also where it is not known how it ended: some of it may have been done.
    match &closed {
        Ok(Closed { closed, blocked_until }) => {
            fields.push(("closed", closed.to_string()));
            fields.extend(blocked_until.clone().map(|until| ("blocked_until", until)));
        }
        Err(refusal) => fields.push(("error", refusal.error.clone())),
    }
    control.journal.line(Level::Info, "connections removed", fields);
    closed
}

/// What a removal goes by, for the log.
fn named_field(selection: &Selection) -> (&'static str, String) {
    match selection {
        Selection { id: Some((Member(worker), connection)), .. } => {
            ("id", Id { worker: *worker, connection: *connection }.to_string())
        }
        Selection { topic: Some(topic), .. } => ("topic", topic.to_string()),
        Selection { address: Some((address, None)), .. } => ("address", address.to_string()),
        Selection { address: Some((address, Some(port))), .. } => {
            ("address", SocketAddr::new(*address, *port).to_string())
        }
        Selection { subject, .. } => ("sub", subject.as_deref().unwrap_or_default().to_owned()),
    }
}

/// The end of a block in words.
fn end(seconds: u64) -> String {
    if seconds == u64::MAX { "never".to_owned() } else { moment(Duration::from_secs(seconds)) }
}

impl Page {
    fn new(found: Found, limit: usize, now: Duration) -> Self {
        let mut connections = Vec::new();
        let mut next = None;
        for (worker, findings) in found {
            let Findings::Connections(roll) = findings else { continue };
            let worker = u16::try_from(worker).unwrap_or(u16::MAX);
            let is_cut = roll.is_cut || connections.len() + roll.entries.len() >= limit;
            let room = limit - connections.len();
            let entries = roll.entries.into_iter().take(room);
            connections.extend(entries.map(|entry| Connection::new(worker, entry, now)));
            if is_cut {
                next = connections.last().map(|last| last.id.clone());
                break;
            }
        }
        Self { connections, next }
    }
}

impl Connection {
    fn new(worker: u16, entry: Entry, now: Duration) -> Self {
        let Entry { sight, topics, subject } = entry;
        Self {
            id: Id { worker, connection: sight.connection }.to_string(),
            worker,
            address: sight.peer,
            topics,
            sub: subject,
            opened: moment(now.saturating_sub(sight.age)),
            last_heard: moment(now.saturating_sub(sight.silence)),
            send_queue_bytes: sight.send_queue_bytes,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionId { slot, generation } = self.connection;
        write!(formatter, "{}-{slot}-{generation}", self.worker)
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        fn number<T: FromStr>(part: Option<&str>) -> Result<T, ()> {
            part.ok_or(())?.parse().map_err(|_| ())
        }
        let mut parts = text.split('-');
        let id = Self {
            worker: number(parts.next())?,
            connection: ConnectionId {
                slot: number(parts.next())?,
                generation: number(parts.next())?,
            },
        };
        if parts.next().is_some() { Err(()) } else { Ok(id) }
    }
}

/// What the parameters name.
fn selection(control: &Control, target: &Uri) -> Result<Selection, Refusal> {
    let id = parameter(target, "id").map(|text| parse_id("id", text)).transpose()?;
    let topic = parameter(target, "topic").map(|encoded| topic(control, encoded)).transpose()?;
    let address = parameter(target, "address").map(parse_address).transpose()?;
    let subject = parameter(target, "sub").map(parse_subject).transpose()?;
    let id = id.map(|id| (Member(id.worker), id.connection));
    Ok(Selection { id, topic, address, subject })
}

fn parse_id(parameter: &str, text: &str) -> Result<Id, Refusal> {
    text.parse().map_err(|()| {
        Refusal::bad_request(format!("{parameter} must be an id as GET /connections shows it"))
    })
}

/// An address alone, or with a port as `GET /connections` shows it.
fn parse_address(encoded: &str) -> Result<(IpAddr, Option<u16>), Refusal> {
    let text = decode(encoded, "address")?;
    let parsed = text
        .parse::<SocketAddr>()
        .map(|address| (address.ip(), Some(address.port())))
        .or_else(|_| text.parse::<IpAddr>().map(|address| (address, None)));
    let (address, port) = parsed.map_err(|_| {
        Refusal::bad_request(
            "address must be 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80",
        )
    })?;
    // As connections have it.
    Ok((address.to_canonical(), port))
}

fn parse_subject(encoded: &str) -> Result<Arc<str>, Refusal> {
    let subject = decode(encoded, "sub")?;
    if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX {
        return Err(Refusal::bad_request("sub must have 1 to 255 bytes"));
    }
    Ok(subject.into())
}

fn parse_block(text: &str) -> Result<u64, Refusal> {
    let span: Result<Span, String> = text.parse();
    let span = span.map_err(|error| Refusal::bad_request(format!("block: {error}")))?;
    Ok(span.0.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

fn decode(encoded: &str, name: &str) -> Result<String, Refusal> {
    let decoded = percent_decode_str(encoded).decode_utf8();
    let decoded = decoded.map_err(|_| Refusal::bad_request(format!("{name} must be UTF-8")))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use hub::Roll;
    use worker::Sight;

    use super::*;

    #[test]
    fn an_id_is_three_numbers() {
        let id = Id { worker: 3, connection: ConnectionId { slot: 70_000, generation: 9 } };
        assert_eq!(id.to_string(), "3-70000-9");
        assert_eq!("3-70000-9".parse(), Ok(id));
        for text in ["", "3", "3-7", "3-7-9-1", "3-7-", "a-7-9", "-3-7-9", "65536-7-9", "3-7-9 "] {
            assert_eq!(text.parse::<Id>(), Err(()), "{text}");
        }
    }

    /// A connection of this slot, opened 20 s ago and heard 5 s ago.
    fn entry(slot: u32) -> Entry {
        let sight = Sight {
            connection: ConnectionId { slot, generation: 1 },
            peer: ([192, 0, 2, 1], 80).into(),
            age: Duration::from_secs(20),
            silence: Duration::from_secs(5),
            send_queue_bytes: 7,
        };
        Entry { sight, topics: vec!["a".into()], subject: None }
    }

    /// Ids on a page of what workers have found, and where the next one begins.
    fn paged(rolls: Vec<Roll>, limit: usize) -> (Vec<String>, Option<String>) {
        let found = rolls.into_iter().map(Findings::Connections).enumerate().collect();
        let page = Page::new(found, limit, Duration::from_secs(100));
        (page.connections.into_iter().map(|it| it.id).collect(), page.next)
    }

    fn roll(slots: [u32; 2], is_cut: bool) -> Roll {
        Roll { entries: slots.map(entry).into(), is_cut }
    }

    #[test]
    fn a_page_ends_at_its_limit_and_the_next_begins_behind_it() {
        let both = || vec![roll([1, 2], false), roll([0, 3], false)];
        let (ids, next) = paged(both(), 3);
        assert_eq!((ids, next.as_deref()), (texts(&["0-1-1", "0-2-1", "1-0-1"]), Some("1-0-1")));
        let (ids, next) = paged(both(), 5);
        assert_eq!((ids, next), (texts(&["0-1-1", "0-2-1", "1-0-1", "1-3-1"]), None));
    }

    #[test]
    fn a_page_ends_where_a_worker_has_stopped_or_later_ones_would_be_missed() {
        let (ids, next) = paged(vec![roll([1, 2], true), roll([0, 3], false)], 10);
        assert_eq!((ids, next.as_deref()), (texts(&["0-1-1", "0-2-1"]), Some("0-2-1")));
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn a_connection_is_shown_with_the_moments_of_its_opening_and_its_last_word() {
        let shown = Connection::new(2, entry(9), Duration::from_secs(100));
        assert_eq!(
            serde_json::to_value(shown).unwrap(),
            serde_json::json!({
                "id": "2-9-1", "worker": 2, "address": "192.0.2.1:80", "topics": ["a"],
                "opened": "1970-01-01T00:01:20.000Z", "last_heard": "1970-01-01T00:01:35.000Z",
                "send_queue_bytes": 7
            })
        );
    }

    #[test]
    fn a_subject_has_as_many_bytes_as_a_token_may_give_it() {
        let subject = |bytes| parse_subject(&"s".repeat(bytes)).ok().map(|it| it.len());
        assert_eq!(
            [subject(0), subject(1), subject(255), subject(256)],
            [None, Some(1), Some(255), None]
        );
    }

    #[test]
    fn a_block_is_asked_for_in_whole_seconds_and_ends_at_a_moment_or_never() {
        let seconds = |text| parse_block(text).ok();
        assert_eq!([seconds("1ms"), seconds("90m"), seconds("0")], [Some(1), Some(5_400), Some(0)]);
        assert_eq!([seconds(""), seconds("1"), seconds("always")], [None; 3]);
        assert_eq!([end(100), end(u64::MAX)], ["1970-01-01T00:01:40.000Z", "never"]);
    }

    #[test]
    fn an_address_is_one_or_one_with_a_port() {
        let address = |text: &str| parse_address(text).ok();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(address("192.0.2.1"), Some((ip("192.0.2.1"), None)));
        assert_eq!(address("192.0.2.1:0"), Some((ip("192.0.2.1"), Some(0))));
        assert_eq!(address("::ffff:192.0.2.1"), Some((ip("192.0.2.1"), None)));
        assert_eq!(address("2001:db8::1"), Some((ip("2001:db8::1"), None)));
        assert_eq!(address("%5B2001:db8::1%5D:80"), Some((ip("2001:db8::1"), Some(80))));
        for text in ["", "localhost", "192.0.2", "192.0.2.0/24", "192.0.2.1:", "192.0.2.1:65536"] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
