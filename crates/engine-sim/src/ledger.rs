//! What was published, and what of it everyone has received: the promise of the gateway in a form
//! that can be checked. Messages of one publisher to one topic arrive in order, each once, and
//! without a gap for as long as a subscriber is open.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use worker::{SlowConsumer, Time};

use crate::payload;

/// Who is meant by a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    /// The subscribers of a topic.
    Topic(usize),
    /// Every open connection.
    Everyone,
    /// Nobody but its sender.
    Echo,
}

pub(crate) use crate::payload::StreamId;

#[derive(Debug)]
struct Message {
    sent: Time,
    /// By then every worker has it or a letter with it: the guest gives it to all at once, and so
    /// does the worker of a client, before anybody receives it.
    known: Time,
    opcode: u8,
    bytes: usize,
    /// The row that is reached when somebody receives it.
    row: Option<&'static str>,
}

#[derive(Debug)]
struct Stream {
    to: To,
    /// Which visitor publishes; a guest is none.
    publisher: Option<usize>,
    messages: Vec<Message>,
    /// So many of the first messages were received by somebody.
    heard: usize,
    /// True exactly when it is known that the gateway has taken every message.
    taken: bool,
}

/// What is known of a message that was received, from before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) sent: Time,
    /// When all workers had been given it.
    pub(crate) known: Time,
    /// What is reached with it, the first time.
    pub(crate) row: Option<&'static str>,
}

/// Everything that was published.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// True exactly when messages may be missing, though none out of order, because the policy for
    /// slow consumers drops them.
    may_lose: bool,
    /// Messages a second that a visitor may publish.
    rate_max: Option<NonZeroU32>,
    /// Messages that subscribers must have received otherwise.
    lost: u64,
    streams: Vec<Stream>,
    /// Streams with a message, in their order.
    begun: BTreeSet<StreamId>,
    publications: usize,
    received: u64,
}

/// What one visitor may expect and has received.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) visitor: usize,
    pub(crate) topics: Vec<usize>,
    pub(crate) echo: bool,
    /// Whether it gets its own messages.
    pub(crate) own: bool,
    /// When it knew that it was open.
    pub(crate) since: Time,
    /// By stream: the next message that must come.
    next: BTreeMap<StreamId, usize>,
}

impl Subscription {
    pub(crate) fn new(visitor: usize, topics: Vec<usize>, echo: bool, own: bool) -> Self {
        Self { visitor, topics, echo, own, since: Time::NEVER, next: BTreeMap::new() }
    }
}

impl Ledger {
    pub(crate) fn new(slow_consumer: SlowConsumer, rate_max: Option<NonZeroU32>) -> Self {
        Self { may_lose: slow_consumer != SlowConsumer::Close, rate_max, ..Self::default() }
    }

    pub(crate) fn stream(&mut self, to: To, publisher: Option<usize>) -> StreamId {
        self.streams.push(Stream { to, publisher, messages: Vec::new(), heard: 0, taken: false });
        self.streams.len() - 1
    }

    /// The payload of the next message of a stream, so many bytes or a few more.
    pub(crate) fn publish(&mut self, id: StreamId, now: Time, opcode: u8, bytes: usize) -> Vec<u8> {
        let stream = &mut self.streams[id];
        self.begun.insert(id);
        self.publications += usize::from(stream.to != To::Echo);
        let messages = &mut stream.messages;
        let payload = payload::make(id, messages.len(), bytes);
        let known = if stream.publisher.is_none() { now } else { Time::NEVER };
        messages.push(Message { sent: now, known, opcode, bytes, row: None });
        payload
    }

    /// A row is reached when somebody receives the last message of the stream.
    pub(crate) fn expect(&mut self, id: StreamId, row: &'static str) {
        if let Some(message) = self.streams[id].messages.last_mut() {
            message.row = Some(row);
        }
    }

    /// The gateway has taken every message of the stream.
    pub(crate) fn take(&mut self, id: StreamId) {
        self.streams[id].taken = true;
    }

    /// A subscriber has received a message.
    pub(crate) fn receive(
        &mut self,
        by: &mut Subscription,
        opcode: u8,
        received: &[u8],
        now: Time,
    ) -> Result<Heard, String> {
        let visitor = by.visitor;
        let (id, number) = payload::parse(received)
            .filter(|(id, _)| *id < self.streams.len())
            .ok_or_else(|| format!("visitor {visitor} has received what nobody sent"))?;
        let stream = &mut self.streams[id];
        let to = stream.to;
        let broken = |how: &str| {
            Err(format!("message {number} of stream {id} ({to:?}) at visitor {visitor} {how}"))
        };
        let Some(message) = stream.messages.get(number) else { return broken("was not sent") };
        if message.opcode != opcode || !payload::is_made(received, id, number, message.bytes) {
            let sent = payload::make(id, number, message.bytes);
            let same = sent.iter().zip(received).take_while(|(sent, got)| sent == got).count();
            return broken(&format!(
                "is not what was sent: opcode {} became {opcode}, {} bytes became {}, of which \
                 {same} are the same",
                message.opcode,
                sent.len(),
                received.len()
            ));
        }
        if !is_for(by, stream) {
            return broken("is not for it");
        }
        if stream.publisher.is_some() && !stream.is_in_time(number, now, self.rate_max) {
            return broken("came sooner than it may be published");
        }
        let next = by.next.get(&id).copied().unwrap_or_else(|| first(stream, by.since, number));
        if number < next || number > next && !self.may_lose {
            return broken(&format!("came instead of {next}"));
        }
        self.lost += (number - next) as u64;
        by.next.insert(id, number + 1);
        let row = message.row.filter(|_| stream.heard <= number);
        let heard = Heard { sent: message.sent, known: message.known, row };
        for message in stream.messages.iter_mut().take(number + 1).skip(stream.heard) {
            message.known = message.known.min(now);
        }
        stream.heard = stream.heard.max(number + 1);
        self.received += 1;
        Ok(heard)
    }

    /// How many messages all subscribers have received.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// How many messages have not come to somebody who has had, or must have, those behind them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// How many messages were published, of those that may be.
    pub(crate) fn publications(&self) -> usize {
        self.publications
    }

    /// A subscriber that is open when everything has come to rest: it has all that it must have.
    pub(crate) fn check(&mut self, by: &Subscription) -> Result<(), String> {
        let mut lost = 0;
        let begun = self.begun.iter().map(|id| (*id, &self.streams[*id]));
        for (id, stream) in begun.filter(|(_, it)| is_for(by, it)) {
            let must = if stream.taken { stream.messages.len() } else { stream.heard };
            let next = by.next.get(&id).copied().unwrap_or_else(|| first(stream, by.since, must));
            if self.may_lose {
                lost += must.saturating_sub(next) as u64;
            } else if next != must {
                return Err(format!(
                    "visitor {} has not received message {next} of stream {id} ({:?}, by {:?}), \
                     of which {must} were taken",
                    by.visitor, stream.to, stream.publisher
                ));
            }
        }
        self.lost += lost;
        Ok(())
    }
}

impl Stream {
    /// Whether a client may have published so many messages by now: a second of its rate at once,
    /// and the rate from then on.
    fn is_in_time(&self, number: usize, now: Time, rate_max: Option<NonZeroU32>) -> bool {
        let (Some(rate), Some(first)) = (rate_max, self.messages.first()) else { return true };
        let allowed =
            (now.since(first.sent) + Duration::from_secs(1)).as_nanos() * u128::from(rate.get());
        number as u128 * Duration::from_secs(1).as_nanos() <= allowed
    }
}

fn is_for(by: &Subscription, stream: &Stream) -> bool {
    let is_own = stream.publisher == Some(by.visitor);
    match stream.to {
        To::Topic(topic) => by.topics.contains(&topic) && (by.own || !is_own),
        To::Everyone => true,
        To::Echo => is_own,
    }
}

/// The first message that a subscriber since then must receive, or an earlier one that it has.
fn first(stream: &Stream, since: Time, received: usize) -> usize {
    let first = stream.messages.iter().position(|message| message.sent >= since);
    first.unwrap_or(stream.messages.len()).min(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::TEXT;

    const LATER: Time = Time(100);

    fn ledger() -> (Ledger, Subscription, Vec<Vec<u8>>) {
        let mut ledger = Ledger::default();
        let id = ledger.stream(To::Topic(3), Some(1));
        let messages =
            (0..4).map(|number| ledger.publish(id, Time(number * 10), TEXT, 20)).collect();
        let mut subscription = Subscription::new(0, vec![3], false, true);
        subscription.since = Time(15);
        (ledger, subscription, messages)
    }

    #[test]
    fn messages_in_order_from_the_first_that_must_come_are_right() {
        for from in [0, 1, 2] {
            let (mut ledger, mut by, messages) = ledger();
            for message in &messages[from..] {
                ledger.receive(&mut by, TEXT, message, LATER).unwrap();
            }
            ledger.take(0);
            ledger.check(&by).unwrap();
        }
    }

    #[test]
    fn a_gap_a_repetition_a_change_and_a_loss_are_errors() {
        let (mut ledger, mut by, messages) = ledger();
        ledger.receive(&mut by, TEXT, &messages[3], LATER).unwrap_err();
        ledger.receive(&mut by, TEXT, &messages[2], LATER).unwrap();
        ledger.receive(&mut by, TEXT, &messages[2], LATER).unwrap_err();
        ledger.receive(&mut by, crate::frames::BINARY, &messages[3], LATER).unwrap_err();
        ledger.receive(&mut by, TEXT, &messages[3][..19], LATER).unwrap_err();
        ledger.check(&by).unwrap();
        ledger.take(0);
        ledger.check(&by).unwrap_err();
    }

    #[test]
    fn what_one_subscriber_has_heard_another_must_have_too() {
        let (mut ledger, mut by, messages) = ledger();
        let silent = Subscription { since: Time(0), ..Subscription::new(2, vec![3], false, true) };
        ledger.check(&silent).unwrap();
        ledger.receive(&mut by, TEXT, &messages[2], LATER).unwrap();
        ledger.check(&silent).unwrap_err();
    }

    #[test]
    fn who_wants_no_messages_of_its_own_gets_none() {
        let (mut ledger, _, messages) = ledger();
        let mut own = Subscription::new(1, vec![3], false, false);
        own.since = Time(0);
        ledger.receive(&mut own, TEXT, &messages[0], LATER).unwrap_err();
        ledger.take(0);
        ledger.check(&own).unwrap();
    }

    #[test]
    fn where_messages_are_dropped_a_gap_is_a_loss_and_a_wrong_order_is_an_error() {
        let (mut ledger, mut by, messages) = ledger();
        ledger.may_lose = true;
        by.since = Time(0);
        ledger.receive(&mut by, TEXT, &messages[2], LATER).unwrap();
        assert_eq!(ledger.lost(), 2);
        ledger.receive(&mut by, TEXT, &messages[1], LATER).unwrap_err();
        ledger.take(0);
        ledger.check(&by).unwrap();
        assert_eq!(ledger.lost(), 3, "the last one has not come");
    }

    #[test]
    fn who_publishes_faster_than_it_may_is_noticed() {
        let (mut ledger, mut by, messages) = ledger();
        ledger.rate_max = NonZeroU32::new(1);
        ledger.receive(&mut by, TEXT, &messages[1], LATER).unwrap();
        ledger.receive(&mut by, TEXT, &messages[2], LATER).unwrap_err();
        ledger.receive(&mut by, TEXT, &messages[2], Time(1_000_000_000)).unwrap();
    }
}
