//! The step from jobs to offers: a chunk of an audience at a time, each target in its encoding.
//! Encodings divide a chunk, not a job: there is one cursor, and whoever comes or goes meanwhile
//! is met once whatever it has agreed on.

use mesh::Endpoint;

use super::Worker;
use crate::{
    fanout::Job,
    handler::Handler,
    operation::{Engine, OFFER_TARGETS_MAX, Operation},
};

/// Payload bytes that take as long to compress as a target to be sent to: some 5 µs.
const COMPRESSED_BYTES_PER_TARGET: usize = 512;

impl<H: Handler> Worker<H> {
    /// Offers chunks of the jobs whose turn it is, as far as the bound on a turn goes.
    pub(super) fn submit_fanout<E: Engine>(
        &mut self,
        engine: &mut E,
        endpoint: &mut Endpoint<H::Letter>,
    ) {
        let members_max = self.core.options.limits.fanout_targets_max as usize;
        let mut room = members_max.saturating_sub(self.core.fanout.in_flight());
        while room > 0 {
            let Some(mut job) = self.core.fanout.poll_job() else { return };
            self.chunk.clear_for(room.min(OFFER_TARGETS_MAX));
            let next = self.handler.fill(
                job.audience,
                job.cursor,
                self.core.connections.busy(),
                &mut self.chunk,
            );
            room -= (self.chunk.targets.len() + self.chunk.busy.len()).min(room);
            self.enqueue_busy(&mut job);
            if !job.exceptions.is_empty() {
                self.submit_exceptions(engine, &mut job);
            }
            let targets = self.chunk.targets.len();
            self.offer(engine, &mut job);
            self.core.fanout.submit(job, targets, next);
            // Whose queue became too long by this is no member of the next job's audience.
            self.tell_closed(endpoint);
            let work = self.core.compression.take_work_bytes() / COMPRESSED_BYTES_PER_TARGET;
            room = room.saturating_sub(work);
        }
    }

    /// Puts the job's frames behind what is queued for the busy ones of the chunk.
    fn enqueue_busy(&mut self, job: &mut Job) {
        let Self { core, chunk, .. } = self;
        for slot in &chunk.busy {
            let Some(connection) = core.connections.id_at(*slot) else { continue };
            let window = core.connections.get(connection).and_then(|record| record.window);
            let (frames, messages) = if job.is_exception(connection) {
                job.others(connection, window, &mut core.compression)
            } else {
                (job.frame(window, &mut core.compression).clone(), job.messages())
            };
            if messages > 0 {
                if window.is_some() {
                    core.report.count_saved(1, job.plain_bytes(connection), &frames);
                }
                core.send_messages(connection, frames, messages, Some(job.audience));
            }
        }
    }

    /// Takes publishers that do not want their own messages out of the chunk, and offers them the
    /// others' at once: a later turn may find that the socket has refused something since.
    fn submit_exceptions<E: Engine>(&mut self, engine: &mut E, job: &mut Job) {
        for index in 0..job.exceptions.len() {
            let connection = job.exceptions[index].connection;
            let Some(index) = self.chunk.targets.iter().position(|slot| *slot == connection.slot)
            else {
                continue;
            };
            if self.core.connections.id_at(connection.slot) == Some(connection) {
                self.chunk.targets.remove(index);
                let window = self.core.connections.get(connection).and_then(|it| it.window);
                let (frames, messages) = job.others(connection, window, &mut self.core.compression);
                if messages > 0 {
                    self.core.report.messages_delivered += u64::from(messages);
                    self.core.report.sent_bytes += frames.len() as u64;
                    if window.is_some() {
                        self.core.report.count_saved(1, job.plain_bytes(connection), &frames);
                    }
                    self.core.fanout.submit_others(1);
                    let targets = &[connection.slot];
                    engine.submit(Operation::Offer { frame: frames, targets });
                }
            }
        }
    }

    /// Offers the job's frames to the chunk's targets.
    fn offer<E: Engine>(&mut self, engine: &mut E, job: &mut Job) {
        let Self { core, chunk, .. } = self;
        let messages = u64::from(job.messages());
        core.report.messages_delivered += chunk.targets.len() as u64 * messages;
        if core.connections.inflating_len() > 0 {
            self.offer_deflated(engine, job);
        }
        let Self { core, chunk, .. } = self;
        if !chunk.targets.is_empty() {
            let frame = job.plain_frame().clone();
            core.report.sent_bytes += (chunk.targets.len() * frame.len()) as u64;
            engine.submit(Operation::Offer { frame, targets: &chunk.targets });
        }
    }

    /// Takes those that inflate out of the chunk, and offers them their frames.
    fn offer_deflated<E: Engine>(&mut self, engine: &mut E, job: &mut Job) {
        let Self { core, chunk, targets, .. } = self;
        for (window, inflating) in core.connections.inflating() {
            targets.clear();
            chunk.targets.retain(|slot| {
                let is_plain = !inflating.contains(*slot);
                if !is_plain {
                    targets.push(*slot);
                }
                is_plain
            });
            if !targets.is_empty() {
                let frame = job.frame(Some(window), &mut core.compression).clone();
                core.report.sent_bytes += (targets.len() * frame.len()) as u64;
                core.report.count_saved(targets.len(), job.plain_frame().len(), &frame);
                engine.submit(Operation::Offer { frame, targets });
            }
        }
        targets.clear();
    }
}
