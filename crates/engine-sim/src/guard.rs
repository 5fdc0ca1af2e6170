//! Tokens, in the histories in which one is needed: who signs them, what each of them lets its bearer
//! do, and whose were blocked when, as far as it can be known from outside.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use hub::Access;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokens::{Keys, Rules, SKEW_SECONDS, Verifier};
use worker::Time;

use crate::chance::Chance;

/// Signs what is good, and what nobody here knows.
const SECRET: &str = "a secret of at least thirty-two bytes";
const OTHER_SECRET: &str = "another secret of at least thirty-two bytes";

/// What the wall clock says at `Time(0)`, in milliseconds since 1970: between two seconds.
const UNIX_AT_ZERO_MS: u64 = 1_700_000_000_500;

/// How long a token is good that does not end before its history does, in seconds.
const LONG: u64 = 1_000_000;

/// Whom tokens mean: so few that each has several visitors.
const SUBJECTS: usize = 8;

/// By how much an expiry may come late: a turn may.
pub(crate) const LATE: Duration = Duration::from_secs(2);

/// What a token is like. The first three are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Writer,
    /// It names no topic to publish to.
    Reader,
    /// It ends soon, or has ended a moment ago.
    Ending,
    Missing,
    Malformed,
    OtherKey,
    Expired,
    Early,
    OtherIssuer,
    OtherAudience,
    OtherTopic,
}

/// A token as its bearer knows it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) subject: Option<Arc<str>>,
    /// Its `exp`, in seconds since 1970.
    exp: u64,
    /// When it was shown.
    pub(crate) shown: Time,
}

/// What is known of the token of an address.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) subject: Option<Arc<str>>,
    /// The first moment at which it may be closed for its end.
    pub(crate) ends: Time,
    pub(crate) may_publish: bool,
    /// True exactly when nobody with this token may come in.
    pub(crate) is_bad: bool,
}

/// A subject was blocked: asked for, then done by every worker; and the block was lifted, which every
/// worker has taken note of when it answers what was asked behind that.
#[derive(Clone, Debug)]
struct Block {
    subject: Arc<str>,
    asked: Time,
    done: Time,
    lifted: Time,
    clear: Time,
}

/// What everyone knows of tokens.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Dice of its own: without tokens a seed is the history that it would be anyway.
    pub(crate) chance: Chance,
    pub(crate) passes: BTreeMap<SocketAddr, Pass>,
    blocks: Vec<Block>,
}

/// What tokens are verified with.
pub(crate) fn access() -> Arc<Access> {
    let rules = Rules {
        issuer: Some("issuer".to_owned()),
        audiences: vec!["ringway".to_owned()],
        expiry_required: true,
    };
    let keys = Keys::from_key_file(SECRET.as_bytes()).expect("the secret is long enough");
    let verifier = Arc::new(Verifier::new(keys, rules));
    Arc::new(Access { verifier, unix_at_zero_ms: UNIX_AT_ZERO_MS })
}

fn seconds(moment: Time) -> u64 {
    (UNIX_AT_ZERO_MS + moment.0 / 1_000_000) / 1_000
}

/// When so many seconds have passed since 1970, or the beginning.
fn moment(seconds: u64) -> Time {
    Time((seconds * 1_000).saturating_sub(UNIX_AT_ZERO_MS) * 1_000_000)
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Writer,
        Self::Reader,
        Self::Ending,
        Self::Missing,
        Self::Malformed,
        Self::OtherKey,
        Self::Expired,
        Self::Early,
        Self::OtherIssuer,
        Self::OtherAudience,
        Self::OtherTopic,
    ];

    /// The status that a bearer gets, and the reason that a page gets instead; `None`: it may come in.
    pub(crate) fn denial(self) -> Option<(u16, &'static str)> {
        match self {
            Self::Writer | Self::Reader | Self::Ending => None,
            Self::Expired => Some((401, "token expired")),
            Self::OtherTopic => Some((403, "not allowed")),
            _ => Some((401, "not allowed")),
        }
    }
}

impl Token {
    /// One that lets its bearer do everything, and means nobody.
    pub(crate) fn of_nobody(now: Time) -> Self {
        Self { kind: Kind::Writer, subject: None, exp: seconds(now) + LONG, shown: now }
    }

    /// Half of them are good for long. No token names too few topics for who asks for none.
    pub(crate) fn new(now: Time, asks_for_topics: bool, chance: &mut Chance) -> Self {
        let mut kind = if chance.of(0.5) { Kind::Writer } else { *chance.one(&Kind::ALL) };
        if kind == Kind::OtherTopic && !asks_for_topics {
            kind = Kind::Reader;
        }
        let exp = match kind {
            Kind::Ending => seconds(now) + chance.long(0..=120) - 20,
            Kind::Expired => seconds(now) - SKEW_SECONDS - chance.long(1..=1_000),
            _ => seconds(now) + LONG,
        };
        let subject = chance.of(0.8).then(|| subject(chance));
        Self { kind, subject, exp, shown: now }
    }

    /// What is sent of it, if anything.
    pub(crate) fn text(&self) -> Option<String> {
        let Self { kind, subject, exp, shown } = self;
        match kind {
            Kind::Missing => return None,
            Kind::Malformed => return Some("no.token".to_owned()),
            _ => {}
        }
        let other = |wrong, value, right| if *kind == wrong { value } else { right };
        let mut claims = json!({
            "exp": exp,
            "iss": other(Kind::OtherIssuer, "nobody", "issuer"),
            "aud": other(Kind::OtherAudience, "else", "ringway"),
            "topics": [other(Kind::OtherTopic, "elsewhere", "*")],
            "publish": [other(Kind::Reader, "elsewhere", "*")],
        });
        if *kind == Kind::Early {
            claims["nbf"] = json!(seconds(*shown) + SKEW_SECONDS + 1_000);
        }
        if let Some(subject) = subject {
            claims["sub"] = json!(&**subject);
        }
        let secret = other(Kind::OtherKey, OTHER_SECRET, SECRET);
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).ok()
    }

    /// When what it allows ends, of somebody who came in at some moment of which only this is known:
    /// no earlier than it was shown, and no later than `known`. The first and the last that it can be.
    pub(crate) fn ends(&self, known: Time) -> (Time, Time) {
        let end = |admitted: Time| match admitted < moment(self.exp) {
            true => moment(self.exp),
            false => self.refused_from(),
        };
        (end(self.shown), end(known))
    }

    /// From when on nobody comes in with it.
    pub(crate) fn refused_from(&self) -> Time {
        moment(self.exp + SKEW_SECONDS)
    }

    /// True exactly when it had ended before it was shown, and is good for a while nevertheless.
    pub(crate) fn is_in_grace(&self) -> bool {
        self.kind == Kind::Ending && self.shown >= moment(self.exp)
    }

    pub(crate) fn pass(&self) -> Pass {
        Pass {
            subject: self.subject.clone(),
            ends: self.ends(self.shown).0,
            may_publish: self.kind != Kind::Reader,
            is_bad: self.kind.denial().is_some(),
        }
    }
}

fn subject(chance: &mut Chance) -> Arc<str> {
    format!("s{}", chance.number(0..=SUBJECTS - 1)).into()
}

impl Guard {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), passes: BTreeMap::new(), blocks: Vec::new() }
    }

    /// Somebody to be blocked from now on.
    pub(crate) fn block(&mut self, now: Time) -> Arc<str> {
        let subject = subject(&mut self.chance);
        let never = Time::NEVER;
        let subject_too = Arc::clone(&subject);
        let block =
            Block { subject: subject_too, asked: now, done: never, lifted: never, clear: never };
        self.blocks.push(block);
        subject
    }

    /// Somebody who is blocked, and is not to be from now on.
    pub(crate) fn lift(&mut self, now: Time) -> Option<Arc<str>> {
        let mut blocked = self.blocks.iter().filter(|it| it.lifted == Time::NEVER);
        let subject = Arc::clone(&blocked.next()?.subject);
        let its = self.blocks.iter_mut().filter(|it| it.subject == subject);
        its.for_each(|it| it.lifted = it.lifted.min(now));
        Some(subject)
    }

    /// All workers have answered what was asked then.
    pub(crate) fn handle_answered(&mut self, asked: Time, now: Time) {
        for block in &mut self.blocks {
            if block.asked <= asked {
                block.done = block.done.min(now);
            }
            if block.lifted < asked {
                block.clear = block.clear.min(now);
            }
        }
    }

    /// Whether a subject was blocked all along from a moment to another.
    pub(crate) fn blocks(&self, subject: Option<&str>, (from, until): (Time, Time)) -> bool {
        self.blocks_of(subject).any(|it| it.done <= from && it.lifted >= until)
    }

    /// Whether it may have been at some moment between them.
    pub(crate) fn may_block(&self, subject: Option<&str>, (from, until): (Time, Time)) -> bool {
        self.blocks_of(subject).any(|it| it.asked <= until && it.clear >= from)
    }

    /// Whether it was, and is not any more.
    pub(crate) fn has_lifted(&self, subject: Option<&str>) -> bool {
        self.blocks_of(subject).any(|it| it.lifted != Time::NEVER)
    }

    fn blocks_of(&self, subject: Option<&str>) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |it| Some(&*it.subject) == subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn a_token_ends_when_it_says_or_after_its_grace_if_it_was_shown_then() {
        let token = |shown| Token { exp: seconds(at(100)), shown, ..Token::of_nobody(at(0)) };
        let half = 500_000_000;
        let (end, grace) = (Time(99_500_000_000), Time(129_500_000_000));
        assert_eq!(token(at(0)).ends(at(1)), (end, end));
        assert_eq!(token(at(99)).ends(Time(at(99).0 + half)), (end, grace));
        assert_eq!(token(at(100)).ends(at(101)), (grace, grace));
    }

    #[test]
    fn a_block_is_sure_once_it_is_done_and_over_once_all_have_taken_note_that_it_was_lifted() {
        let mut guard = Guard::new(0);
        let subject = guard.block(at(10));
        let subject = Some(&*subject);
        guard.handle_answered(at(10), at(12));
        let sure = |guard: &Guard, from| guard.blocks(subject, (at(from), at(from + 1)));
        let may = |guard: &Guard, from| guard.may_block(subject, (at(from), at(from + 1)));
        assert_eq!([11, 12, 99].map(|from| sure(&guard, from)), [false, true, true]);
        assert_eq!([8, 9, 99].map(|from| may(&guard, from)), [false, true, true]);
        assert_eq!(guard.lift(at(20)).as_deref(), subject);
        assert_eq!(guard.lift(at(21)), None);
        assert_eq!([19, 20].map(|from| sure(&guard, from)), [true, false]);
        assert!(may(&guard, 99), "nobody has answered since");
        guard.handle_answered(at(25), at(26));
        assert_eq!([26, 27].map(|from| may(&guard, from)), [true, false]);
        assert!(!guard.may_block(Some("somebody else"), (at(12), at(13))));
    }
}
