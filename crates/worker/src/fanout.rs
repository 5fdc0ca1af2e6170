//! Publications on their way to the subscribers of this worker. A job is a cursor over an audience,
//! not a copy of it; jobs take turns, a chunk each. One audience has at most one job: what is
//! published meanwhile waits, and leaves joined in the next.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mesh::Member;
use wire::Window;

use crate::{
    compression::Compression,
    handler::Audience,
    operation::{ConnectionId, Slot, Time},
    publication::Publication,
};

/// All jobs of a worker.
#[derive(Debug)]
pub(crate) struct Fanout {
    /// Audiences that have a job, or publications that wait for the delay, and what waits there.
    waiting: HashMap<Audience, Waiting, BuildHasherDefault<Spread>>,
    /// Jobs whose cursor has not reached the end, in turn.
    jobs: VecDeque<Job>,
    /// Jobs whose last targets have not been decided, in the order of submission.
    finishing: VecDeque<(u64, Job)>,
    /// Audiences whose publications are being delayed, in the order of their end.
    delayed: VecDeque<(Time, Audience)>,
    /// Targets submitted and decided since the start.
    submitted: u64,
    decided: u64,
    publications: usize,
    bytes: usize,
    member: Member,
    delay: Duration,
    joined_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    publications: VecDeque<Arc<Publication>>,
}

/// One offer of one frame, or of several joined, to an audience.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) audience: Audience,
    /// Never empty.
    publications: Vec<Arc<Publication>>,
    /// The plain frames.
    frame: Bytes,
    /// The same compressed, for the windows that were met.
    deflated: Vec<(Window, Bytes)>,
    /// Publishers that must not get what they published.
    pub(crate) exceptions: Vec<Exception>,
    member: Member,
    /// Where to go on.
    pub(crate) cursor: Slot,
}

/// A publisher that gets the publications of others only.
#[derive(Debug)]
pub(crate) struct Exception {
    pub(crate) connection: ConnectionId,
    /// What it got instead, once it got it.
    frames: Bytes,
}

impl Fanout {
    pub(crate) fn new(member: Member, delay: Duration, joined_bytes_max: usize) -> Self {
        Self {
            waiting: HashMap::default(),
            jobs: VecDeque::new(),
            finishing: VecDeque::new(),
            delayed: VecDeque::new(),
            submitted: 0,
            decided: 0,
            publications: 0,
            bytes: 0,
            member,
            delay,
            joined_bytes_max,
        }
    }

    pub(crate) fn publish(&mut self, audience: Audience, publication: Arc<Publication>, now: Time) {
        self.publications += 1;
        self.bytes += publication.frame().len();
        match self.waiting.get_mut(&audience) {
            Some(waiting) => waiting.publications.push_back(publication),
            None if self.delay.is_zero() => {
                self.waiting.insert(audience, Waiting::default());
                self.start(audience, vec![publication]);
            }
            None => {
                let publications = VecDeque::from([publication]);
                self.waiting.insert(audience, Waiting { publications });
                self.delayed.push_back((now + self.delay, audience));
            }
        }
    }

    /// Starts the jobs whose delay is over.
    pub(crate) fn handle_time(&mut self, now: Time) {
        while self.delayed.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, audience)) = self.delayed.pop_front() {
                self.start_waiting(audience);
            }
        }
    }

    /// When `handle_time` has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.delayed.front().map(|(due, _)| *due)
    }

    /// The job whose turn it is. Give it back to `submit`.
    pub(crate) fn poll_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// The job has had its turn: so many targets were submitted for it, and `next` says where it
    /// goes on.
    pub(crate) fn submit(&mut self, mut job: Job, targets: usize, next: Option<Slot>) {
        self.submitted += targets as u64;
        match next {
            Some(slot) => {
                job.cursor = slot;
                self.jobs.push_back(job);
            }
            None => self.finishing.push_back((self.submitted, job)),
        }
    }

    /// Targets that belong to no job: replies and pings.
    pub(crate) fn submit_others(&mut self, targets: usize) {
        self.submitted += targets as u64;
    }

    pub(crate) fn handle_offered(&mut self, targets: u32) {
        self.decided += u64::from(targets);
        debug_assert!(self.decided <= self.submitted, "only what was submitted is decided");
    }

    /// The next job that is over: the publications it carried. What waited behind it starts.
    pub(crate) fn poll_finished(&mut self, now: Time) -> Option<Vec<Arc<Publication>>> {
        let (last, _) = self.finishing.front()?;
        if *last > self.decided {
            return None;
        }
        let (_, job) = self.finishing.pop_front()?;
        self.publications -= job.publications.len();
        self.bytes -= job.publications.iter().map(|it| it.frame().len()).sum::<usize>();
        if self.waiting.get(&job.audience).is_some_and(|waiting| waiting.publications.is_empty()) {
            self.waiting.remove(&job.audience);
        } else if self.delay.is_zero() {
            self.start_waiting(job.audience);
        } else {
            self.delayed.push_back((now + self.delay, job.audience));
        }
        Some(job.publications)
    }

    /// Whether a turn would find something to submit or to finish. A job whose members are all busy
    /// is over without anything being decided by the engine.
    pub(crate) fn has_work(&self) -> bool {
        let is_over = self.finishing.front().is_some_and(|(last, _)| *last <= self.decided);
        is_over || !self.jobs.is_empty()
    }

    /// Targets submitted and not decided.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.submitted - self.decided).unwrap_or(usize::MAX)
    }

    pub(crate) fn jobs(&self) -> usize {
        self.jobs.len() + self.finishing.len()
    }

    /// Publications taken and not finished.
    pub(crate) fn publications(&self) -> usize {
        self.publications
    }

    /// Bytes of those.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frames of what has been published to the audiences of a connection and has not come to
    /// it, and how many messages they are. `is_member` says whether it belongs to an audience.
    pub(crate) fn owed(
        &self,
        connection: ConnectionId,
        mut is_member: impl FnMut(Audience) -> bool,
    ) -> Vec<(Audience, Bytes, u32)> {
        let mut owed = Vec::new();
        let coming = self.jobs.iter().filter(|job| job.cursor <= connection.slot);
        for job in coming.filter(|job| is_member(job.audience)) {
            // Whoever inflates may be sent plain frames too.
            if job.is_exception(connection) {
                let others = || job.publications_of_others(connection);
                let messages = u32::try_from(others().count()).unwrap_or(u32::MAX);
                owed.push((job.audience, join(others().map(Publication::frame)), messages));
            } else {
                owed.push((job.audience, job.frame.clone(), job.messages()));
            }
        }
        for (audience, waiting) in &self.waiting {
            if !waiting.publications.is_empty() && is_member(*audience) {
                let its = |it: &&Arc<Publication>| it.excluded(self.member) != Some(connection);
                owed.extend(
                    waiting
                        .publications
                        .iter()
                        .filter(its)
                        .map(|it| (*audience, it.frame().clone(), 1)),
                );
            }
        }
        owed.retain(|(.., messages)| *messages > 0);
        owed
    }

    /// The audience of a frame that is being offered: a socket that refuses it does not say.
    pub(crate) fn audience_of(&self, frame: &Bytes) -> Option<Audience> {
        let is_same = |it: &Bytes| (it.as_ptr(), it.len()) == (frame.as_ptr(), frame.len());
        let mut jobs = self.finishing.iter().map(|(_, job)| job).chain(&self.jobs);
        jobs.find(|job| job.frames().any(is_same)).map(|job| job.audience)
    }

    /// One without publications, for the same worker.
    pub(crate) fn succeed(&self) -> Self {
        Self::new(self.member, self.delay, self.joined_bytes_max)
    }

    fn start_waiting(&mut self, audience: Audience) {
        let waiting =
            self.waiting.get_mut(&audience).expect("an audience stays while publications wait");
        let mut bytes = 0;
        let joined = waiting
            .publications
            .iter()
            .take_while(|publication| {
                bytes += publication.frame().len();
                bytes <= self.joined_bytes_max
            })
            .count()
            .max(1);
        let publications = waiting.publications.drain(..joined).collect();
        self.start(audience, publications);
    }

    fn start(&mut self, audience: Audience, publications: Vec<Arc<Publication>>) {
        let member = self.member;
        let frame = join(publications.iter().map(|it| it.frame()));
        let mut excluded: Vec<_> =
            publications.iter().filter_map(|it| it.excluded(member)).collect();
        excluded.sort_unstable();
        excluded.dedup();
        let exception = |connection| Exception { connection, frames: Bytes::new() };
        let exceptions = excluded.into_iter().map(exception).collect();
        let deflated = Vec::new();
        let cursor = 0;
        self.jobs.push_back(Job {
            audience,
            publications,
            frame,
            deflated,
            exceptions,
            member,
            cursor,
        });
    }
}

impl Job {
    /// The frames for whoever does not inflate.
    pub(crate) fn plain_frame(&self) -> &Bytes {
        &self.frame
    }

    /// Bytes of the plain frames that are for this connection.
    pub(crate) fn plain_bytes(&self, connection: ConnectionId) -> usize {
        if self.is_exception(connection) {
            self.publications_of_others(connection).map(|it| it.frame().len()).sum()
        } else {
            self.frame.len()
        }
    }

    /// The frames for those with this window, if any.
    pub(crate) fn frame(
        &mut self,
        window: Option<Window>,
        compression: &mut Compression,
    ) -> &Bytes {
        let Some(window) = window else { return &self.frame };
        let index = self.deflated.iter().position(|(other, _)| *other == window);
        let index = index.unwrap_or_else(|| {
            let frames = self.publications.iter().map(|it| it.frame_for(Some(window), compression));
            self.deflated.push((window, join(frames)));
            self.deflated.len() - 1
        });
        &self.deflated[index].1
    }

    /// Whether the connection must not get what it published.
    pub(crate) fn is_exception(&self, connection: ConnectionId) -> bool {
        self.exceptions.iter().any(|exception| exception.connection == connection)
    }

    /// What a publisher is given that must not get its own, and how many messages that is.
    pub(crate) fn others(
        &mut self,
        connection: ConnectionId,
        window: Option<Window>,
        compression: &mut Compression,
    ) -> (Bytes, u32) {
        let messages = self.publications_of_others(connection).count();
        let others = self.publications_of_others(connection);
        let frames = join(others.map(|it| it.frame_for(window, compression)));
        if let Some(it) = self.exceptions.iter_mut().find(|it| it.connection == connection) {
            it.frames = frames.clone();
        }
        (frames, u32::try_from(messages).unwrap_or(u32::MAX))
    }

    /// All that has been, or may be, offered.
    fn frames(&self) -> impl Iterator<Item = &Bytes> {
        let deflated = self.deflated.iter().map(|(_, frame)| frame);
        let others = self.exceptions.iter().map(|exception| &exception.frames);
        std::iter::once(&self.frame).chain(deflated).chain(others)
    }

    fn publications_of_others(
        &self,
        connection: ConnectionId,
    ) -> impl Iterator<Item = &Publication> {
        let is_other = move |it: &&Publication| it.excluded(self.member) != Some(connection);
        self.publications.iter().map(|it| &**it).filter(is_other)
    }

    pub(crate) fn messages(&self) -> u32 {
        u32::try_from(self.publications.len()).unwrap_or(u32::MAX)
    }
}

/// Frames one behind the other: without a copy where there is only one.
fn join<'a>(mut frames: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let Some(first) = frames.next() else { return Bytes::new() };
    let Some(second) = frames.next() else { return first.clone() };
    let mut joined = BytesMut::from(&first[..]);
    joined.extend_from_slice(second);
    frames.for_each(|frame| joined.extend_from_slice(frame));
    joined.freeze()
}

/// Spreads audiences, which the handler numbers and no peer chooses, over the table: Fibonacci
/// hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::DataOpcode;

    const HERE: Member = Member(0);
    const ROOM: Audience = Audience(5);

    fn message(payload: &str, excluded: Option<ConnectionId>) -> Arc<Publication> {
        let excluded = excluded.map(|connection| (HERE, connection));
        let payload = payload.as_bytes();
        Arc::new(Publication::new(None, DataOpcode::Text, payload, excluded, Time(0)))
    }

    #[test]
    fn what_is_published_during_a_job_leaves_joined_in_the_next() {
        let mut fanout = Fanout::new(HERE, Duration::ZERO, 1_000);
        for payload in ["a", "b", "c"] {
            fanout.publish(ROOM, message(payload, None), Time(0));
        }
        let job = fanout.poll_job().unwrap();
        assert_eq!(&job.frame[..], b"\x81\x01a");
        assert!(fanout.poll_job().is_none());
        fanout.submit(job, 7, None);
        assert!(fanout.poll_finished(Time(0)).is_none());
        fanout.handle_offered(7);
        assert_eq!(fanout.poll_finished(Time(0)).unwrap().len(), 1);
        let job = fanout.poll_job().unwrap();
        assert_eq!(&job.frame[..], b"\x81\x01b\x81\x01c");
        assert_eq!(job.messages(), 2);
        fanout.submit(job, 0, None);
        assert_eq!(fanout.poll_finished(Time(0)).unwrap().len(), 2);
        assert_eq!((fanout.publications(), fanout.bytes()), (0, 0));
        assert!(fanout.waiting.is_empty());
    }

    #[test]
    fn a_publisher_that_does_not_want_its_own_gets_the_others() {
        let mut fanout = Fanout::new(HERE, Duration::from_millis(5), 1_000);
        let me = ConnectionId { slot: 3, generation: 1 };
        fanout.publish(ROOM, message("mine", Some(me)), Time(0));
        fanout.publish(ROOM, message("yours", None), Time(0));
        assert!(fanout.poll_job().is_none());
        fanout.handle_time(Time(5_000_000));
        let mut job = fanout.poll_job().unwrap();
        assert!(job.is_exception(me) && job.exceptions.len() == 1);
        let others = job.others(me, None, &mut Compression::new(0));
        assert_eq!(others, (message("yours", None).frame().clone(), 1));
        assert_eq!(&job.frame[..], b"\x81\x04mine\x81\x05yours");
    }

    #[test]
    fn joining_stops_at_its_bound_but_takes_at_least_one() {
        let mut fanout = Fanout::new(HERE, Duration::from_millis(5), 4);
        for payload in ["long enough", "b"] {
            fanout.publish(ROOM, message(payload, None), Time(0));
        }
        fanout.handle_time(Time(5_000_000));
        assert_eq!(fanout.poll_job().unwrap().messages(), 1);
    }

    #[test]
    fn jobs_of_different_audiences_take_turns() {
        let mut fanout = Fanout::new(HERE, Duration::ZERO, 1_000);
        fanout.publish(ROOM, message("a", None), Time(0));
        fanout.publish(Audience(6), message("b", None), Time(0));
        let first = fanout.poll_job().unwrap();
        fanout.submit(first, 64, Some(64));
        assert_eq!(fanout.poll_job().unwrap().audience, Audience(6));
        let again = fanout.poll_job().unwrap();
        assert_eq!((again.audience, again.cursor), (ROOM, 64));
    }
}
