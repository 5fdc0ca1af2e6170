//! The handler of one worker: requests become subscriptions, messages become publications, letters
//! are obeyed. A client's publication goes to every worker with subscribers of its topic or to none:
//! their room is looked at first, and where some has none the publication is held and its publisher
//! is not read from.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use mesh::Member;
use wire::{Message, Request};
use worker::{
    Actions, Answer, Audience, Chunk, CloseReason, ConnectionId, Flow, Handler, HandlerCounts,
    Publication, Readiness, Slot, SlotSet, Time,
};

use crate::{
    access,
    blocked::Blocked,
    connections::{Connections, Purpose},
    held::{HeldLetters, HeldPublication, HeldPublications},
    interest::{Epoch, Interested},
    letter::{Batch, Inquiry, Letter, Question, Receipt, Selection},
    options::Options,
    passes::Passes,
    route::{self, Admission, Asked},
    search::{Ground, Search},
    subscribers::fill_from_set,
    topics::Topics,
};

/// Every open connection, whatever its topics. No topic has this index.
const EVERYONE: Audience = Audience(u64::MAX);

/// Bytes of a connection's topics that are told to the log.
const PURPOSE_BYTES_MAX: usize = 200;

/// Connections closed in one turn because their tokens have expired: each is a send, and all that
/// were made at one time may end at one time.
const EXPIRIES_PER_TURN_MAX: usize = 64;

/// The hub of one worker.
#[derive(Debug)]
pub struct Hub {
    options: Options,
    topics: Topics,
    connections: Connections,
    passes: Passes,
    blocked: Blocked,
    held_publications: HeldPublications,
    held_letters: HeldLetters,
    /// Removals, and behind them listings, in the order in which they came. Bounded by the guests,
    /// which await the answer to each question.
    searches: VecDeque<Search>,
}

impl Hub {
    /// A hub without connections. `here` is its worker's place in the mesh.
    #[must_use]
    pub fn new(options: Options, here: Member) -> Self {
        Self {
            topics: Topics::new(Arc::clone(&options.interest), here),
            connections: Connections::default(),
            passes: Passes::default(),
            blocked: Blocked::default(),
            held_publications: HeldPublications::new(options.held_bytes_max),
            held_letters: HeldLetters::new(),
            searches: VecDeque::new(),
            options,
        }
    }

    /// Bytes of the publications of clients that wait for room, and their charges.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_publications.bytes()
    }

    /// Forgets every connection, as its worker does, and keeps what belongs to none: what is held,
    /// what is asked, and who is blocked. `here` is the worker's place in the mesh.
    pub fn forget(&mut self, here: Member) {
        self.held_publications.forget_names(here);
        self.topics.clear();
        self.connections = Connections::default();
        self.passes = Passes::default();
        self.searches.iter_mut().for_each(Search::restart);
    }
}

impl Handler for Hub {
    type Letter = Letter;
    type Admission = Admission;

    fn verifies(&self, request: &Request) -> bool {
        self.options.access.is_some() && access::has_token(request)
    }

    fn on_request(
        &mut self,
        request: &Request,
        _peer: SocketAddr,
        readiness: Readiness,
        now: Time,
    ) -> Answer<Admission> {
        route::answer(&self.options, &mut self.blocked, request, readiness, now)
    }

    fn on_open(
        &mut self,
        _actions: &mut Actions<'_, Letter>,
        connection: ConnectionId,
        admission: Admission,
    ) {
        self.open(connection, admission);
    }

    fn admission(&self, connection: ConnectionId) -> Admission {
        let asked = match self.connections.get(connection.slot) {
            Purpose::Echo => Asked::Echo,
            Purpose::Subscriber { topics, own } => {
                let topics = topics.iter().map(|topic| self.topics.name(*topic).into());
                Asked::Subscribe { topics: topics.collect(), own }
            }
        };
        Admission { asked, pass: self.passes.get(connection.slot).cloned() }
    }

    fn on_moved(&mut self, from: ConnectionId, to: ConnectionId) {
        self.held_publications.rename(from, to);
    }

    fn purpose(&self, connection: ConnectionId) -> String {
        let Purpose::Subscriber { topics, .. } = self.connections.get(connection.slot) else {
            return "/echo".to_owned();
        };
        let mut purpose = String::new();
        for topic in topics {
            let separator = if purpose.is_empty() { "" } else { ", " };
            let name = self.topics.name(*topic);
            if purpose.len() + separator.len() + name.len() > PURPOSE_BYTES_MAX {
                let room = PURPOSE_BYTES_MAX.saturating_sub(purpose.len() + separator.len());
                purpose.push_str(separator);
                purpose.push_str(&name[..name.floor_char_boundary(room)]);
                purpose.push('…');
                break;
            }
            purpose.push_str(separator);
            purpose.push_str(name);
        }
        purpose
    }

    fn on_message(
        &mut self,
        actions: &mut Actions<'_, Letter>,
        connection: ConnectionId,
        message: Message<'_>,
    ) -> Flow {
        let Purpose::Subscriber { topics: &[topic, ..], own } =
            self.connections.get(connection.slot)
        else {
            actions.send(connection, message);
            return Flow::Continue;
        };
        if !self.options.client_publish {
            actions.close(connection, CloseReason::PublishingIsOff);
            return Flow::Continue;
        }
        if self.passes.get(connection.slot).is_some_and(|pass| !pass.may_publish) {
            actions.close(connection, CloseReason::NotAllowed);
            return Flow::Continue;
        }
        let publication = Arc::new(Publication::new(
            Some(self.topics.name_bytes(topic).into()),
            message.opcode,
            message.payload,
            (!own).then(|| (actions.member(), connection)),
            actions.now(),
        ));
        // Behind those that are held, or none of them would ever find room.
        let workers = self.topics.interested(topic);
        if self.held_publications.is_empty() && self.has_room(actions, &publication, workers) {
            self.post(actions, &publication, workers);
            actions.publish(self.topics.audience(topic), publication);
            return Flow::Continue;
        }
        self.hold(actions, connection, publication)
    }

    fn on_close(
        &mut self,
        _actions: &mut Actions<'_, Letter>,
        connection: ConnectionId,
        _reason: CloseReason,
    ) {
        self.close(connection);
    }

    fn on_letter(&mut self, actions: &mut Actions<'_, Letter>, from: Member, letter: Letter) {
        match letter {
            Letter::Publication { as_of, publication } => {
                self.publish_here(actions, &publication, as_of);
            }
            Letter::Batch(batch) => self.publish_batch(actions, from, &batch),
            Letter::Ask(question) => self.answer(actions, from, question),
            Letter::Report(empty) => {
                // Before the report: who reads that one knows of all that was refused until then.
                if let Some(refused) = self.blocked.take_refused() {
                    self.post_or_hold(actions, from, Letter::Refused(refused));
                }
                let report = actions.swap_report(empty, self.counts());
                self.post_or_hold(actions, from, Letter::Report(report));
            }
            Letter::Drain(over_ms) => actions.drain(Duration::from_millis(over_ms.into())),
            Letter::Access(access) => self.options.access = Some(access),
            Letter::Unblock(subjects) => {
                subjects.iter().for_each(|subject| self.blocked.remove(subject));
            }
            Letter::Settings(settings) => {
                self.options.adopt(&settings);
                actions.adopt(settings.worker);
            }
            Letter::Receipt(_) | Letter::Tell(_) | Letter::Refused(_) => {
                unreachable!("workers send no batches, ask no questions and end no blocks")
            }
        }
    }

    fn poll_held(&mut self, actions: &mut Actions<'_, Letter>) -> bool {
        self.topics.end_cleared();
        self.retry_publications(actions);
        self.retry_letters(actions);
        if !self.searches.is_empty() {
            self.advance_search(actions);
        }
        self.close_expired(actions);
        !self.held_publications.is_empty()
            || !self.held_letters.is_empty()
            || !self.searches.is_empty()
    }

    fn deadline(&self) -> Time {
        let Some(access) = &self.options.access else { return Time::NEVER };
        self.passes.first_end().map_or(Time::NEVER, |end| access.moment(end))
    }

    fn fill(
        &self,
        audience: Audience,
        from: Slot,
        busy: &SlotSet,
        chunk: &mut Chunk,
    ) -> Option<Slot> {
        if audience == EVERYONE {
            return fill_from_set(self.connections.open(), from, busy, chunk);
        }
        self.topics.subscribers(audience)?.fill(from, busy, chunk)
    }
}

impl Hub {
    fn open(&mut self, connection: ConnectionId, admission: Admission) {
        let slot = connection.slot;
        match &admission.asked {
            Asked::Echo => self.connections.insert(slot, Purpose::Echo),
            Asked::Subscribe { topics, own } => {
                let topics: Vec<_> =
                    topics.iter().map(|name| self.topics.subscribe(name, slot)).collect();
                let purpose = Purpose::Subscriber { topics: &topics, own: *own };
                self.connections.insert(slot, purpose);
            }
        }
        if let Some(pass) = admission.pass {
            self.passes.insert(connection, pass);
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let Self { connections, topics, passes, .. } = self;
        passes.remove(connection);
        connections.remove(connection.slot, |topic| topics.unsubscribe(topic, connection.slot));
    }

    fn counts(&self) -> HandlerCounts {
        HandlerCounts {
            topics: self.topics.len() as u64,
            subscriptions: self.topics.subscriptions(),
        }
    }

    /// Whether this worker and those can take the publication now. Only this worker could make it
    /// less before the publication is posted.
    fn has_room(
        &self,
        actions: &Actions<'_, Letter>,
        publication: &Publication,
        workers: Interested,
    ) -> bool {
        let here = actions.member();
        actions.publish_room(1, publication.frame().len())
            && workers.members().all(|worker| worker == here || actions.room(worker) > 0)
    }

    /// Posts to those of the workers that are not this one, before the publication is published
    /// here, so that they work on it at the same time.
    fn post(
        &self,
        actions: &mut Actions<'_, Letter>,
        publication: &Arc<Publication>,
        workers: Interested,
    ) {
        let here = actions.member();
        for worker in workers.members().filter(|worker| *worker != here) {
            let publication = Arc::clone(publication);
            actions
                .post(worker, Letter::Publication { as_of: workers.as_of(), publication })
                .expect("only this endpoint makes room less, and the room was looked at");
        }
    }

    /// Publishes what was posted then to the subscribers of this worker, and says how many there
    /// are. What is older than its topic here came for nothing, and what was posted behind it may
    /// not have come: nobody gets the one without the other.
    fn publish_here(
        &self,
        actions: &mut Actions<'_, Letter>,
        publication: &Arc<Publication>,
        as_of: Epoch,
    ) -> usize {
        let (audience, receivers) = match publication.topic() {
            None => (EVERYONE, self.connections.open().len()),
            Some(name) => match self.topics.find(name) {
                Some(topic) if self.topics.begun(topic) <= as_of => {
                    (self.topics.audience(topic), self.topics.subscribers_len(topic))
                }
                _ => return 0,
            },
        };
        actions.publish(audience, Arc::clone(publication));
        receivers
    }

    fn publish_batch(&mut self, actions: &mut Actions<'_, Letter>, from: Member, batch: &Batch) {
        let receivers = batch.publications.iter().map(|publication| {
            let receivers = self.publish_here(actions, publication, batch.as_of);
            u32::try_from(receivers).unwrap_or(u32::MAX)
        });
        let receipt = Receipt { id: batch.id, receivers: receivers.collect() };
        self.post_or_hold(actions, from, Letter::Receipt(Box::new(receipt)));
    }

    /// Closes connections whose tokens have expired.
    fn close_expired(&mut self, actions: &mut Actions<'_, Letter>) {
        let Some(access) = &self.options.access else { return };
        let seconds = access.seconds(actions.now());
        for _ in 0..EXPIRIES_PER_TURN_MAX {
            let Some(connection) = self.passes.poll_ended(seconds) else { return };
            actions.close(connection, CloseReason::TokenExpired);
        }
    }

    /// Keeps what had no room. Where there is no room for that either, its publisher is told.
    fn hold(
        &mut self,
        actions: &mut Actions<'_, Letter>,
        publisher: ConnectionId,
        publication: Arc<Publication>,
    ) -> Flow {
        actions.count_refused_publication();
        if !self.held_publications.has_room(&publication) {
            actions.close(publisher, CloseReason::Overloaded);
            return Flow::Continue;
        }
        let publisher = Some(publisher);
        self.held_publications.push(HeldPublication { publication, publisher });
        Flow::Pause
    }

    fn retry_publications(&mut self, actions: &mut Actions<'_, Letter>) {
        while let Some(publication) = self.held_publications.first() {
            let workers = self.options.interest.of(publication.topic());
            if !self.has_room(actions, publication, workers) {
                return;
            }
            let Some(held) = self.held_publications.pop(actions.member()) else { return };
            self.post(actions, &held.publication, workers);
            self.publish_here(actions, &held.publication, workers.as_of());
            held.publisher.into_iter().for_each(|publisher| actions.resume(publisher));
        }
    }

    fn answer(&mut self, actions: &mut Actions<'_, Letter>, from: Member, question: Arc<Question>) {
        // Before anybody is closed, or they would be back before the walk is over.
        if let Inquiry::Remove(Selection { subject: Some(subject), .. }) = &question.inquiry
            && self.options.access.is_some()
        {
            self.blocked.insert(Arc::clone(subject));
        }
        let search = Search::new(from, question, actions.member());
        // Behind other removals only: whoever is to be closed must not wait for a long listing.
        let is_before = |other: &Search| other.is_removal() || !search.is_removal();
        let place = self.searches.iter().take_while(|other| is_before(other)).count();
        self.searches.insert(place, search);
        if place == 0 {
            self.advance_search(actions);
        }
    }

    /// One step of the first search.
    fn advance_search(&mut self, actions: &mut Actions<'_, Letter>) {
        let Self { searches, topics, connections, passes, .. } = self;
        let Some(search) = searches.front_mut() else { return };
        if !search.advance(&Ground { topics, connections, passes }, actions) {
            return;
        }
        if let Some(search) = searches.pop_front() {
            let from = search.from();
            self.post_or_hold(actions, from, Letter::Tell(Box::new(search.into_reply())));
        }
    }

    fn post_or_hold(&mut self, actions: &mut Actions<'_, Letter>, to: Member, letter: Letter) {
        self.held_letters.push_back((to, letter));
        self.retry_letters(actions);
    }

    fn retry_letters(&mut self, actions: &mut Actions<'_, Letter>) {
        while let Some((to, letter)) = self.held_letters.pop_front() {
            if let Err(mesh::Full(letter)) = actions.post(to, letter) {
                self.held_letters.push_front((to, letter));
                return;
            }
        }
    }
}
