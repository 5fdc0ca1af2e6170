//! What kind of visitor somebody is: how it asks, reads, answers, writes and leaves.

use std::time::Duration;

use worker::Time;

use crate::{
    deflate,
    frames::{self, BINARY, CLOSE, COMPRESSED, PING, TEXT},
    reached,
    scenario::Scenario,
    world::World,
};

/// "Hello" compressed (RFC 7692 section 7.2.3.1).
const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

/// How a visitor reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Whatever has arrived.
    Quickly,
    /// So many bytes, now and then.
    Slowly(usize),
    /// Quickly, but not between these two times.
    Pausing(Time, Time),
}

/// How a visitor leaves before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// With a Close frame.
    Close,
    /// With a FIN.
    Finish,
    /// Closing its socket, whatever it has not read, or out of reach: then nobody learns of it.
    Vanish,
    /// With a reset.
    Reset,
    /// Breaking a rule.
    Rudely(Violation),
}

/// A rule that is broken (RFC 6455 sections 5 to 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    ReservedBits,
    ReservedOpcode,
    NotMasked,
    FragmentedPing,
    LongPing,
    NothingToContinue,
    ShortClose,
    NoText,
    TooLong,
    BadStream,
    CutOffStream,
    CompressedNoText,
    Bomb,
    CompressedTooLong,
    CompressedContinuation,
    CompressedPing,
    NotAgreed,
}

/// What a visitor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    /// An upgrade, in one piece.
    Well,
    /// An upgrade, in two pieces so far apart.
    Haltingly(Duration),
    /// An upgrade, of which the end never comes.
    Endlessly,
    /// Something that gets no upgrade.
    Badly(Mistake),
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    Malformed,
    BadTopic,
    Origin,
    NotFound,
    Method,
    NoUpgrade,
    Version,
    TooLarge,
    Extensions,
}

/// What a visitor is about to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) arrives: Time,
    pub(super) asking: Asking,
    pub(super) reading: Reading,
    pub(super) answers_pings: bool,
    pub(super) answers_close: bool,
    pub(super) messages: usize,
    /// Pings that it sends beside messages.
    pub(super) pings: usize,
    /// The longest time between two messages of a burst.
    pub(super) period: Duration,
    /// The longest time between two bursts.
    pub(super) pause: Duration,
    pub(super) leaves: Option<(Time, Leave)>,
    /// How soon it comes back when it is no longer connected, and how often.
    pub(super) back_off: Duration,
    pub(super) comebacks: usize,
}

impl Violation {
    const ALL: [Self; 9] = [
        Self::ReservedBits,
        Self::ReservedOpcode,
        Self::NotMasked,
        Self::FragmentedPing,
        Self::LongPing,
        Self::NothingToContinue,
        Self::ShortClose,
        Self::NoText,
        Self::TooLong,
    ];

    /// Those of whoever has agreed on compression (RFC 7692 sections 6 and 7).
    pub(super) const COMPRESSED: [Self; 7] = [
        Self::BadStream,
        Self::CutOffStream,
        Self::CompressedNoText,
        Self::Bomb,
        Self::CompressedTooLong,
        Self::CompressedContinuation,
        Self::CompressedPing,
    ];

    /// The row of its answer, if it has one of its own.
    pub(super) fn row(self) -> Option<&'static str> {
        Some(match self {
            Self::BadStream => reached::BAD_STREAM,
            Self::CutOffStream => reached::BAD_CUT_OFF,
            Self::CompressedNoText => reached::BAD_TEXT,
            Self::Bomb => reached::BAD_BOMB,
            Self::CompressedTooLong => reached::BAD_LENGTH,
            Self::CompressedContinuation => reached::BAD_CONTINUATION,
            Self::CompressedPing => reached::BAD_CONTROL,
            Self::NotAgreed => reached::BAD_AGREEMENT,
            _ => return None,
        })
    }

    /// The Close code of the answer.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::NoText | Self::BadStream | Self::CutOffStream | Self::CompressedNoText => 1007,
            Self::TooLong | Self::Bomb | Self::CompressedTooLong => 1009,
            _ => 1002,
        }
    }

    pub(super) fn bytes(self, scenario: &Scenario) -> Vec<u8> {
        let key = [1, 2, 3, 4];
        let text = TEXT | COMPRESSED;
        let bytes_max = scenario.limits.message_bytes_max as usize;
        match self {
            Self::ReservedBits => vec![0xFF, 0x80],
            Self::ReservedOpcode => frames::frame(0x3, true, b"", key),
            Self::NotMasked => vec![0x81, 0x01, b'a'],
            Self::FragmentedPing => frames::frame(PING, false, b"", key),
            Self::LongPing => frames::frame(PING, true, &[0; 126], key),
            Self::NothingToContinue => frames::frame(0, true, b"", key),
            Self::ShortClose => frames::frame(CLOSE, true, &[3], key),
            Self::NoText => frames::frame(TEXT, true, &[0xFF, 0xFF], key),
            Self::TooLong => frames::frame(BINARY, true, &vec![0; bytes_max + 1], key),
            // A block of the kind that there is not.
            Self::BadStream => frames::frame(text, true, &[0xFF; 8], key),
            Self::CutOffStream => frames::frame(text, true, &HELLO[..6], key),
            Self::CompressedNoText => {
                frames::frame(text, true, &[0x00, 0x02, 0x00, 0xFD, 0xFF, 0xFF, 0xFF, 0x00], key)
            }
            Self::Bomb => {
                let bomb = deflate::deflate_well(&vec![0; bytes_max * 10]);
                frames::frame(BINARY | COMPRESSED, true, &bomb, key)
            }
            // No encoder makes as much of a message that may be.
            Self::CompressedTooLong => frames::frame(text, true, &vec![0; bytes_max * 2], key),
            Self::CompressedContinuation => {
                let begin = frames::frame(text, false, &HELLO[..3], key);
                [begin, frames::frame(COMPRESSED, true, &HELLO[3..], key)].concat()
            }
            Self::CompressedPing => frames::frame(PING | COMPRESSED, true, b"", key),
            Self::NotAgreed => frames::frame(text, true, &HELLO, key),
        }
    }
}

impl Mistake {
    const ALL: [Self; 8] = [
        Self::Malformed,
        Self::BadTopic,
        Self::Origin,
        Self::NotFound,
        Self::Method,
        Self::NoUpgrade,
        Self::Version,
        Self::TooLarge,
    ];

    /// The status of the answer, unless the request is in order after all.
    pub(super) fn status(self, scenario: &Scenario) -> Option<u16> {
        match self {
            Self::Malformed | Self::BadTopic | Self::Extensions => Some(400),
            Self::Origin => scenario.same_origin.then_some(403),
            Self::NotFound => Some(404),
            Self::Method => Some(405),
            Self::NoUpgrade | Self::Version => Some(426),
            Self::TooLarge => Some(431),
        }
    }

    pub(super) fn request(self, target: &str, scenario: &Scenario) -> Vec<u8> {
        match self {
            Self::Malformed => b"GET /ws/t0 HTTP/1.1\r\nHost localhost\r\n\r\n".to_vec(),
            Self::BadTopic => frames::request("/ws?topic=%2A"),
            Self::Origin => {
                frames::request_with("GET", target, "13", "Origin: http://elsewhere.example\r\n")
            }
            Self::NotFound => frames::request("/nowhere"),
            Self::Method => frames::request_with("POST", target, "13", ""),
            Self::NoUpgrade => {
                format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
            }
            Self::Version => frames::request_with("GET", target, "8", ""),
            Self::Extensions => {
                let line = "Sec-WebSocket-Extensions: permessage-deflate; =9\r\n";
                frames::request_with("GET", target, "13", line)
            }
            Self::TooLarge => {
                let line = "x".repeat(scenario.limits.handshake_bytes_max as usize);
                frames::request_with("GET", target, "13", &format!("X-Long: {line}\r\n"))
            }
        }
    }
}

impl Plan {
    /// A visit that begins at some moment from `begin` on.
    pub(super) fn new(world: &mut World, begin: Time) -> Self {
        let World { scenario, chance, .. } = world;
        // Many come first thing, the others when they like; where there are very many, nearly all,
        // so that they are there at once.
        let arrives = match chance.of(if scenario.is_large { 0.95 } else { 0.5 }) {
            true => begin + Duration::from_millis(chance.long(0..=3_000)),
            false => scenario.moment(begin, chance),
        };
        let reading = match chance.number(0..=9) {
            0 => Reading::Slowly(chance.number(1..=500)),
            1 | 2 => {
                let pause = scenario.moment(begin, chance);
                Reading::Pausing(pause, pause + Duration::from_secs(chance.long(1..=100)))
            }
            _ => Reading::Quickly,
        };
        let leave = match chance.number(0..=9) {
            0 => Some(Leave::Close),
            1 => Some(Leave::Finish),
            2 => Some(Leave::Vanish),
            3 => Some(Leave::Reset),
            4 => Some(Leave::Rudely(*chance.one(&Violation::ALL))),
            _ => None,
        };
        let asking = match chance.number(0..=19) {
            0 => Asking::Badly(*chance.one(&Mistake::ALL)),
            1 => Asking::Endlessly,
            2..=5 => Asking::Haltingly(Duration::from_millis(chance.long(0..=1_000))),
            _ => Asking::Well,
        };
        let messages = if scenario.is_large { &[0, 0, 0, 1][..] } else { &[0, 1, 5, 30] };
        let mut leaves = leave.map(|leave| (scenario.moment(begin, chance), leave));
        let mut back_off = Duration::from_millis(chance.long(0..=20_000));
        if let Some(storm) = scenario.storm
            && chance.of(0.8)
        {
            let spread = Duration::from_millis(chance.long(0..=20));
            leaves = Some((begin + storm + spread, *chance.one(&[Leave::Vanish, Leave::Reset])));
            back_off = Duration::from_millis(chance.long(0..=50));
        }
        Self {
            arrives,
            asking,
            reading,
            answers_pings: chance.of(0.9),
            answers_close: chance.of(0.9),
            messages: *chance.one(messages),
            pings: if scenario.is_large { 0 } else { *chance.one(&[0, 0, 0, 20]) },
            period: Duration::from_millis(*chance.one(&[0, 10, 500])),
            pause: Duration::from_secs(chance.long(1..=60)),
            leaves,
            back_off,
            comebacks: chance.number(0..=scenario.comebacks_max),
        }
    }

    /// True exactly when it reads and answers as it should.
    pub(super) fn is_good(&self) -> bool {
        self.reading == Reading::Quickly && self.answers_pings && self.answers_close
    }
}
