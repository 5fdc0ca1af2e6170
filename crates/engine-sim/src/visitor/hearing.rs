//! What a visitor makes of what the server says: the response to its request, messages, pings, pongs
//! and Close frames, each of which it checks.

use std::time::Duration;

use super::{Phase, Visitor, plan::Reading};
use crate::{
    client::ClientRead,
    frames::{self, BINARY, CLOSE, PING, PONG, TEXT},
    network::Network,
    queues::Shown,
    reached::{COMPRESSED_RECEIVED, DEFLATED_QUEUE_HALF_FULL, QUEUE_HALF_FULL, STATUS_503},
    world::{End, World},
};

impl Visitor {
    /// Reads what has arrived, as far as it likes to.
    pub(super) fn read(&mut self, world: &mut World) -> Result<(), String> {
        let bytes_max = match self.plan.reading {
            Reading::Slowly(bytes) => bytes,
            Reading::Quickly | Reading::Pausing(..) => usize::MAX,
        };
        self.next_read = world.network.now() + Duration::from_millis(50);
        while self.phase != Phase::Over {
            let Some(socket) = &mut self.socket else { break };
            match socket.read(bytes_max, &mut self.unparsed) {
                ClientRead::Nothing => break,
                ClientRead::Bytes(count) => {
                    world.network.note(self.number as u64, "visitor reads", count);
                    self.parse(world)?;
                    if bytes_max != usize::MAX {
                        break;
                    }
                }
                ClientRead::Finished | ClientRead::Broken(_) => self.handle_cut(world),
            }
        }
        Ok(())
    }

    fn parse(&mut self, world: &mut World) -> Result<(), String> {
        if self.phase == Phase::Knocking && self.end.is_none() {
            let before = self.unparsed.len();
            let response = frames::take_response(&mut self.unparsed)?;
            self.heard_bytes += (before - self.unparsed.len()) as u64;
            match response {
                None => return Ok(()),
                Some(frames::Response { status: 101, extensions }) => {
                    self.window_bits = self.offer.window_bits(extensions.as_deref())?;
                    self.phase = Phase::Open;
                    if self.come_in(world)? {
                        self.was_open = true;
                        world.count_open();
                    }
                    self.subscription.since = world.network.now();
                }
                Some(response) => {
                    self.be_refused(response.status, world);
                    self.handle_status(response.status, &world.network);
                }
            }
        }
        if matches!(self.end, Some(End::Refused(_))) {
            // The body, and then the end.
            self.unparsed.clear();
            return Ok(());
        }
        // Taken out, since frames are lent from there.
        let mut unparsed = std::mem::take(&mut self.unparsed);
        let (mut begin, mut end) = (0, 0);
        while let Some(frame) = frames::take_frame(&unparsed, &mut end)? {
            self.heard_bytes += (end - begin) as u64;
            self.handle(&frame, end - begin, world)?;
            begin = end;
        }
        unparsed.drain(..end);
        self.unparsed = unparsed;
        Ok(())
    }

    fn handle_status(&mut self, status: u16, network: &Network) {
        if status == 503 {
            network.reach(STATUS_503);
        }
        self.reach_row(status, network);
        self.end = Some(End::Refused(status));
    }

    /// It was answered with a status or a Close code.
    fn reach_row(&self, code: u16, network: &Network) {
        if let Some(row) = self.row.filter(|_| self.answer == Some(code)) {
            network.reach(row);
        }
    }

    fn handle(
        &mut self,
        frame: &frames::Frame<'_>,
        frame_bytes: usize,
        world: &mut World,
    ) -> Result<(), String> {
        if self.end.is_some() {
            return Err(format!("visitor {}: a frame behind Close: {frame:?}", self.number));
        }
        self.hear((frame.opcode == CLOSE).then_some(frame.payload), world)?;
        match frame.opcode {
            TEXT | BINARY => self.receive(frame, frame_bytes, world)?,
            PING if self.plan.answers_pings && self.phase == Phase::Open => {
                self.send(PONG, true, frame.payload, world);
            }
            PONG => {
                let number = frame.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                let is_due = |number: &u32| (self.ponged + 1..=self.pinged).contains(number);
                self.ponged = number.filter(is_due).ok_or_else(|| {
                    format!("visitor {}: pong {number:?} is not due", self.number)
                })?;
            }
            CLOSE => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                self.end = Some(End::Closed(code));
                code.into_iter().for_each(|code| self.reach_row(code, &world.network));
                if self.phase == Phase::Open && self.plan.answers_close {
                    let code = frame.payload.get(..2).unwrap_or_default().to_vec();
                    self.send(CLOSE, true, &code, world);
                }
                self.enter(Phase::Closing, world);
            }
            _ => {}
        }
        Ok(())
    }

    fn receive(
        &mut self,
        frame: &frames::Frame<'_>,
        frame_bytes: usize,
        world: &mut World,
    ) -> Result<(), String> {
        let World { ledger, network, queues, .. } = world;
        let by = &mut self.subscription;
        let number = self.number;
        let mut row = QUEUE_HALF_FULL;
        let heard = if frame.is_compressed {
            let bits = self.window_bits.ok_or_else(|| {
                format!("visitor {number}: compressed, and that was not agreed on")
            })?;
            let mut state = network.state.borrow_mut();
            let now = state.now;
            state.reached.count(COMPRESSED_RECEIVED);
            row = DEFLATED_QUEUE_HALF_FULL;
            let inflated = state.payloads.inflate(frame.payload);
            let message = inflated
                .and_then(|inflated| inflated.within(bits))
                .map_err(|what| format!("visitor {number}: a message for {bits} bits {what}"))?;
            ledger.receive(by, frame.opcode, message, now)?
        } else {
            ledger.receive(by, frame.opcode, frame.payload, network.now())?
        };
        let sent = heard.sent;
        heard.row.into_iter().for_each(|row| network.reach(row));
        self.check_right(sent)?;
        let Some(socket) = &self.socket else { return Ok(()) };
        let place = (self.heard_bytes - frame_bytes as u64, self.heard_bytes);
        let shown = queues.receive(socket.link(), place, &heard);
        if shown.map_err(|what| format!("visitor {number}: {what}"))? == Shown::HalfFull {
            network.reach(row);
        }
        Ok(())
    }
}
