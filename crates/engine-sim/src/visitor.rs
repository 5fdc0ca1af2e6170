//! The remote programs of a history: they come, subscribe, publish, read quickly, slowly or not at
//! all, answer pings or do not, and leave politely, rudely or never. What they receive they check.

use std::time::Duration;

use worker::Time;

use crate::{
    chance::Chance,
    client::{Client, ClientRead},
    frames::{self, BINARY, CLOSE, PING, PONG, TEXT},
    ledger::{Ledger, StreamId, Subscription, To},
    network::Network,
    scenario::Scenario,
};

/// How a visitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Whatever has arrived.
    Quickly,
    /// So many bytes, now and then.
    Slowly(usize),
    /// Quickly, but not between these two times.
    Pausing(Time, Time),
}

/// How a visitor leaves before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// With a Close frame.
    Close,
    /// With a FIN.
    Finish,
    /// Closing its socket, whatever it has not read.
    Vanish,
    /// With a reset.
    Reset,
    /// Breaking a rule, for which the server closes with this code.
    Rudely(u16),
}

/// What a visitor is about to do.
#[derive(Clone, Debug)]
struct Plan {
    arrives: Time,
    /// The request leaves in two pieces so far apart.
    hesitates: Option<Duration>,
    reading: Reading,
    answers_pings: bool,
    messages: usize,
    /// The longest time between two of them.
    period: Duration,
    leaves: Option<(Time, Leave)>,
    /// How a connection of a gateway without faults must end before the drain, if that follows
    /// from the rest: `Some(None)` says that it must not.
    ends: Option<Option<End>>,
}

/// Where a visitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not there yet.
    Absent,
    /// The request is on its way.
    Knocking,
    /// The server has said 101.
    Open,
    /// This side has sent Close, whoever began.
    Closing,
    /// The connection has ended.
    Over,
}

/// How a visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With this answer to its request.
    Refused(u16),
    /// With a Close frame of the server, which carried this code or none.
    Closed(Option<u16>),
    /// The connection ended without a Close frame.
    Cut,
}

/// A visitor.
#[derive(Debug)]
pub(crate) struct Visitor {
    number: usize,
    plan: Plan,
    phase: Phase,
    socket: Option<Client>,
    /// Written, and not yet taken by the socket.
    unsent: Vec<u8>,
    /// The second piece of the request, and when it leaves.
    withheld: Option<(Time, Vec<u8>)>,
    /// Read, and not yet understood: from there on.
    unparsed: Vec<u8>,
    understood: usize,
    next_message: Time,
    next_read: Time,
    stream: StreamId,
    subscription: Subscription,
    /// What the server told: a refusal or a Close frame.
    end: Option<End>,
    /// True exactly when it has sent Close before the server did, and every message before that.
    has_said_goodbye: bool,
}

impl Visitor {
    pub(crate) fn new(
        number: usize,
        scenario: &Scenario,
        ledger: &mut Ledger,
        begin: Time,
        chance: &mut Chance,
    ) -> Self {
        let plan = plan(scenario, begin, chance);
        let echo = chance.of(0.1);
        let mut topics: Vec<usize> = (0..scenario.topics).collect();
        chance.shuffle(&mut topics);
        topics.truncate(if echo { 0 } else { chance.number(1..=scenario.topics) });
        let to = topics.first().map_or(To::Echo, |topic| To::Topic(*topic));
        Self {
            number,
            next_message: plan.arrives,
            next_read: plan.arrives,
            plan,
            phase: Phase::Absent,
            socket: None,
            unsent: Vec::new(),
            withheld: None,
            unparsed: Vec::new(),
            understood: 0,
            stream: ledger.stream(to, Some(number)),
            subscription: Subscription::new(number, topics, echo, echo || chance.of(0.6)),
            end: None,
            has_said_goodbye: false,
        }
    }

    /// From now on it does only what keeps a connection open, and reads whatever comes.
    pub(crate) fn calm_down(&mut self) {
        self.plan.reading = Reading::Quickly;
        self.plan.answers_pings = true;
        self.plan.messages = 0;
        self.plan.leaves = None;
        if self.phase == Phase::Absent {
            self.phase = Phase::Over;
        }
    }

    /// When it has something to do by itself.
    pub(crate) fn next(&self) -> Time {
        let mut next = match self.phase {
            Phase::Absent => return self.plan.arrives,
            Phase::Over => return Time::NEVER,
            Phase::Knocking | Phase::Open | Phase::Closing => Time::NEVER,
        };
        if let Some((when, _)) = &self.withheld {
            next = next.min(*when);
        }
        if let Some((when, _)) = self.plan.leaves {
            next = next.min(when);
        }
        if self.phase == Phase::Open && self.plan.messages > 0 {
            next = next.min(self.next_message);
        }
        match self.plan.reading {
            Reading::Slowly(_) if self.is_readable() => next.min(self.next_read),
            Reading::Pausing(_, end) if self.is_readable() => next.min(end),
            _ => next,
        }
    }

    /// Whether the network has something for it to do.
    pub(crate) fn is_ready(&self, now: Time) -> bool {
        let can_write = !self.unsent.is_empty();
        can_write && self.socket.as_ref().is_some_and(Client::is_writable)
            || self.reads(now) && self.is_readable()
    }

    fn is_readable(&self) -> bool {
        self.phase != Phase::Over && self.socket.as_ref().is_some_and(Client::is_readable)
    }

    fn reads(&self, now: Time) -> bool {
        match self.plan.reading {
            Reading::Quickly => true,
            Reading::Slowly(_) => now >= self.next_read,
            Reading::Pausing(begin, end) => now < begin || now >= end,
        }
    }

    /// Does what it has to do now.
    pub(crate) fn act(
        &mut self,
        network: &Network,
        ledger: &mut Ledger,
        scenario: &Scenario,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let now = network.now();
        if self.phase == Phase::Absent && now >= self.plan.arrives {
            self.arrive(network, now, chance);
        }
        if let Some((_, rest)) = self.withheld.take_if(|(when, _)| *when <= now) {
            self.unsent.extend(rest);
        }
        if self.reads(now) {
            self.read(network, ledger, chance)?;
        }
        if self.phase == Phase::Open && self.plan.messages > 0 && now >= self.next_message {
            self.publish(ledger, scenario, now, chance);
        }
        if let Some((_, leave)) = self.plan.leaves.take_if(|(when, _)| *when <= now) {
            self.leave(leave, scenario, chance);
        }
        if let Some(socket) = &mut self.socket {
            let taken = socket.write(&self.unsent);
            self.unsent.drain(..taken);
        }
        // The echo of its Close comes behind everything that it had sent before.
        if self.has_said_goodbye && self.end == Some(End::Closed(Some(1000))) {
            ledger.take(self.stream);
        }
        Ok(())
    }

    fn arrive(&mut self, network: &Network, now: Time, chance: &mut Chance) {
        let names: Vec<String> =
            self.subscription.topics.iter().map(|topic| format!("topic=t{topic}")).collect();
        let own = if self.subscription.own { "" } else { "&own=off" };
        let target = if self.subscription.echo {
            "/echo".to_owned()
        } else {
            format!("/ws?{}{own}", names.join("&"))
        };
        let mut request = frames::request(&target);
        if let Some(span) = self.plan.hesitates {
            let rest = request.split_off(chance.number(1..=request.len() - 1));
            self.withheld = Some((now + span, rest));
        }
        self.unsent.extend(request);
        self.socket = Some(network.connect_any(0));
        self.phase = Phase::Knocking;
    }

    fn publish(
        &mut self,
        ledger: &mut Ledger,
        scenario: &Scenario,
        now: Time,
        chance: &mut Chance,
    ) {
        let opcode = *chance.one(&[TEXT, BINARY]);
        let bytes = chance.number(0..=scenario.message_bytes);
        let payload = ledger.publish(self.stream, now, opcode, bytes);
        if chance.of(0.2) {
            let at = chance.number(0..=payload.len());
            self.send(opcode, false, &payload[..at], chance);
            if chance.of(0.5) {
                self.send(PING, true, b"between", chance);
            }
            self.send(0, true, &payload[at..], chance);
        } else {
            self.send(opcode, true, &payload, chance);
        }
        self.plan.messages -= 1;
        let period = u64::try_from(self.plan.period.as_nanos()).unwrap_or(u64::MAX);
        self.next_message = now + Duration::from_nanos(chance.long(0..=period));
    }

    fn send(&mut self, opcode: u8, is_final: bool, payload: &[u8], chance: &mut Chance) {
        let key = u32::try_from(chance.long(0..=u64::from(u32::MAX))).unwrap_or(0).to_be_bytes();
        self.unsent.extend(frames::frame(opcode, is_final, payload, key));
    }

    fn leave(&mut self, leave: Leave, scenario: &Scenario, chance: &mut Chance) {
        if self.phase == Phase::Over {
            return;
        }
        match leave {
            Leave::Close if self.phase == Phase::Open => {
                self.send(CLOSE, true, &1000_u16.to_be_bytes(), chance);
                self.phase = Phase::Closing;
                self.has_said_goodbye = true;
            }
            Leave::Rudely(code) if self.phase == Phase::Open => {
                match code {
                    1002 => self.unsent.extend([0xFF, 0x80]),
                    1007 => self.send(TEXT, true, &[0xFF, 0xFF], chance),
                    _ => {
                        let bytes = scenario.limits.message_bytes_max as usize + 1;
                        self.send(BINARY, true, &vec![0; bytes], chance);
                    }
                }
                self.plan.messages = 0;
            }
            Leave::Finish => self.socket.iter_mut().for_each(Client::finish),
            Leave::Reset => self.drop_socket(Client::reset),
            Leave::Close | Leave::Rudely(_) | Leave::Vanish => {
                // Before it is open there is nobody to be polite to.
                self.plan.ends = Some(None);
                self.drop_socket(Client::close);
            }
        }
    }

    fn drop_socket(&mut self, how: fn(&mut Client)) {
        self.socket.iter_mut().for_each(how);
        self.phase = Phase::Over;
        self.unsent.clear();
    }

    fn read(
        &mut self,
        network: &Network,
        ledger: &mut Ledger,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let bytes_max = match self.plan.reading {
            Reading::Slowly(bytes) => bytes,
            Reading::Quickly | Reading::Pausing(..) => usize::MAX,
        };
        self.next_read = network.now() + Duration::from_millis(50);
        while self.phase != Phase::Over {
            let Some(socket) = &mut self.socket else { break };
            match socket.read(bytes_max) {
                ClientRead::Nothing => break,
                ClientRead::Bytes(bytes) => {
                    network.note(self.number as u64, "visitor reads", bytes.len());
                    self.unparsed.extend(bytes);
                    self.parse(network.now(), ledger, chance)?;
                    if bytes_max != usize::MAX {
                        break;
                    }
                }
                ClientRead::Finished | ClientRead::Broken(_) => {
                    network.note(self.number as u64, "visitor is cut off", 0);
                    self.end.get_or_insert(End::Cut);
                    self.drop_socket(Client::close);
                }
            }
        }
        Ok(())
    }

    fn parse(&mut self, now: Time, ledger: &mut Ledger, chance: &mut Chance) -> Result<(), String> {
        if self.phase == Phase::Knocking {
            match frames::take_response(&mut self.unparsed)? {
                None => return Ok(()),
                Some(101) => {
                    self.phase = Phase::Open;
                    self.subscription.since = now;
                }
                Some(status) => self.end = Some(End::Refused(status)),
            }
        }
        if matches!(self.end, Some(End::Refused(_))) {
            // The body, and then the end.
            self.unparsed.clear();
            return Ok(());
        }
        while let Some(frame) = frames::take_frame(&self.unparsed, &mut self.understood)? {
            self.handle(&frame, ledger, chance)?;
        }
        self.unparsed.drain(..std::mem::take(&mut self.understood));
        Ok(())
    }

    fn handle(
        &mut self,
        frame: &frames::Frame,
        ledger: &mut Ledger,
        chance: &mut Chance,
    ) -> Result<(), String> {
        if self.end.is_some() {
            return Err(format!("visitor {}: a frame behind Close: {frame:?}", self.number));
        }
        match frame.opcode {
            TEXT | BINARY => {
                ledger.receive(&mut self.subscription, frame.opcode, &frame.payload)?;
            }
            PING if self.plan.answers_pings && self.phase == Phase::Open => {
                self.send(PONG, true, &frame.payload, chance);
            }
            CLOSE => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                self.end = Some(End::Closed(code));
                if self.phase == Phase::Open {
                    let code = frame.payload.get(..2).unwrap_or_default().to_vec();
                    self.send(CLOSE, true, &code, chance);
                    self.phase = Phase::Closing;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// When everything has come to rest: it has received what it must have, and is where it must
    /// be.
    pub(crate) fn check(&self, ledger: &Ledger, is_calm: bool) -> Result<(), String> {
        let Self { number, phase, end, plan, .. } = self;
        if matches!(phase, Phase::Knocking | Phase::Closing) {
            return Err(format!("visitor {number} hangs: it is {phase:?} with {end:?}; {plan:?}"));
        }
        if *phase == Phase::Open {
            ledger.check(&self.subscription)?;
        }
        let is_refused = *end == Some(End::Refused(503));
        let as_planned = plan.ends.is_none_or(|ends| ends == *end);
        if is_calm && *phase != Phase::Absent && !is_refused && !as_planned {
            return Err(format!("visitor {number} is {phase:?} with {end:?}; {plan:?}"));
        }
        Ok(())
    }

    /// Everything it has published has been taken, as far as it can know.
    pub(crate) fn conclude(&self, ledger: &mut Ledger) {
        if self.phase == Phase::Open && self.unsent.is_empty() {
            ledger.take(self.stream);
        }
    }

    /// True exactly when it has begun to connect and has not been told an end.
    pub(crate) fn hangs(&self) -> bool {
        matches!(self.phase, Phase::Knocking | Phase::Open | Phase::Closing)
    }
}

fn plan(scenario: &Scenario, begin: Time, chance: &mut Chance) -> Plan {
    let lasts = u64::try_from(scenario.lasts.as_nanos()).unwrap_or(u64::MAX);
    let moment =
        |chance: &mut Chance, least: u64| begin + Duration::from_nanos(chance.long(least..=lasts));
    let arrives = moment(chance, 0);
    let reading = match chance.number(0..=9) {
        0 => Reading::Slowly(chance.number(1..=500)),
        1 | 2 => {
            let pause = moment(chance, 0);
            Reading::Pausing(pause, pause + scenario.lasts)
        }
        _ => Reading::Quickly,
    };
    let leave = match chance.number(0..=9) {
        0 => Some(Leave::Close),
        1 => Some(Leave::Finish),
        2 => Some(Leave::Vanish),
        3 => Some(Leave::Reset),
        4 => Some(Leave::Rudely(*chance.one(&[1002, 1007, 1009]))),
        _ => None,
    };
    let answers_pings = chance.of(0.9);
    let ends = match leave {
        _ if reading != Reading::Quickly || !answers_pings => None,
        None | Some(Leave::Vanish | Leave::Reset) => Some(None),
        Some(Leave::Close) => Some(Some(End::Closed(Some(1000)))),
        Some(Leave::Finish) => Some(Some(End::Cut)),
        Some(Leave::Rudely(code)) => Some(Some(End::Closed(Some(code)))),
    };
    Plan {
        arrives,
        hesitates: chance.of(0.2).then(|| Duration::from_millis(chance.long(0..=1_000))),
        reading,
        answers_pings,
        messages: *chance.one(&[0, 1, 5, 30]),
        period: Duration::from_millis(*chance.one(&[0, 10, 500])),
        leaves: leave.map(|leave| (moment(chance, 0), leave)),
        ends,
    }
}
