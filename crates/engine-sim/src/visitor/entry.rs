//! Whether a visitor comes in with its token, where one is needed, and for how long: nobody comes in
//! without a right, nobody with a right is turned away, and what ends a stay has come to its end.

use worker::Time;

use super::{Visitor, plan::Asking};
use crate::{
    guard::{Guard, Kind, LATE, Token},
    reached::{IN_GRACE, LET_IN_AGAIN, PAGE_DISMISSED},
    world::World,
};

/// What a page is told that comes with a token of somebody who is blocked.
const BLOCKED: &str = "removed";

const EXPIRED: &str = "token expired";

/// How a visitor with a token stands.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) token: Token,
    /// True exactly when it is a page in a browser, which is told by a Close frame behind 101.
    pub(super) is_page: bool,
    /// What it must be told there, if it is known that it will be.
    pub(super) dismissal: Option<&'static str>,
    /// True exactly when its 101 may be one with a Close frame behind it, or not.
    pub(super) is_unsure: bool,
    /// The first and the last moment at which its token can end, once it is in.
    ends: Option<(Time, Time)>,
}

impl Visitor {
    /// Gets itself a token, where one is needed: what is added to its target, and to its head.
    pub(super) fn show_token(&mut self, target: &mut String, world: &mut World) -> &'static str {
        let now = world.network.now();
        let Some(guard) = &mut world.guard else { return "" };
        let asks_well = matches!(self.plan.asking, Asking::Well | Asking::Haltingly(_));
        let token = match asks_well {
            true => Token::new(now, !self.subscription.echo, &mut guard.chance),
            // One thing is wrong with it already.
            false => Token::of_nobody(now),
        };
        let is_page = asks_well && guard.chance.of(0.3);
        if let Some(text) = token.text() {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str("token=");
            target.push_str(&text);
        }
        let denial = token.kind.denial();
        self.answer = denial.map(|(status, _)| if is_page { 1008 } else { status });
        let dismissal = denial.filter(|_| is_page).map(|(_, says)| says);
        let entry = Entry { token, is_page, dismissal, is_unsure: false, ends: None };
        self.entry = Some(entry);
        if is_page { "Origin: http://localhost\r\n" } else { "" }
    }

    /// It was told 101: whether it is in.
    pub(super) fn come_in(&mut self, world: &World) -> Result<bool, String> {
        let now = world.network.now();
        let (Some(entry), Some(guard)) = (&mut self.entry, &world.guard) else { return Ok(true) };
        let Entry { token, .. } = entry;
        let (shown, subject) = (token.shown, token.subject.as_deref());
        let is_blocked = guard.blocks(subject, (shown, now));
        match entry.is_page {
            false if is_blocked || token.kind.denial().is_some() => {
                return Err(format!("visitor {} is let in with {token:?}", self.number));
            }
            true if is_blocked && entry.dismissal.is_none() => entry.dismissal = Some(BLOCKED),
            _ => {}
        }
        if entry.dismissal.is_some() {
            self.answer = Some(1008);
            (self.plan.messages, self.plan.pings) = (0, 0);
            return Ok(false);
        }
        entry.is_unsure = entry.is_page && (entry.is_late(now) || entry.may_be_blocked(guard, now));
        entry.ends = (entry.token.kind == Kind::Ending).then(|| entry.token.ends(now));
        if entry.token.is_in_grace() {
            world.network.reach(IN_GRACE);
        }
        if !entry.is_unsure && guard.has_lifted(entry.token.subject.as_deref()) {
            world.network.reach(LET_IN_AGAIN);
        }
        Ok(true)
    }

    /// It was refused: it knows when its token may be the reason.
    pub(super) fn be_refused(&mut self, status: u16, world: &World) {
        let now = world.network.now();
        let (Some(entry), Some(guard)) = (&self.entry, &world.guard) else { return };
        let is_right = match status {
            401 => entry.is_late(now),
            403 => entry.may_be_blocked(guard, now),
            _ => false,
        };
        if is_right && !entry.is_page && self.answer.is_none() {
            self.answer = Some(status);
        }
    }

    /// It hears a frame, which is a Close frame that says this, or another one.
    pub(super) fn hear(&mut self, close: Option<&[u8]>, world: &World) -> Result<(), String> {
        let now = world.network.now();
        let (Some(entry), Some(guard)) = (&mut self.entry, &world.guard) else { return Ok(()) };
        let was_unsure = std::mem::take(&mut entry.is_unsure);
        let says = close.map(|payload| payload.get(2..).unwrap_or_default());
        let says = |text: &str| says == Some(text.as_bytes());
        if let Some(dismissal) = entry.dismissal {
            // Of somebody who is blocked that is said first, if the token is one otherwise.
            let is_blocked = entry.token.kind == Kind::OtherTopic
                && says(BLOCKED)
                && entry.may_be_blocked(guard, now);
            // A token that has ended meanwhile is nobody's.
            let has_ended = says(EXPIRED) && entry.is_late(now);
            if !says(dismissal) && !is_blocked && !has_ended {
                return Err(format!("visitor {} hears {close:?}, with {entry:?}", self.number));
            }
            world.network.reach(PAGE_DISMISSED);
            return Ok(());
        }
        if was_unsure && (says(BLOCKED) || says(EXPIRED) && entry.is_late(now)) {
            entry.is_unsure = true;
            self.answer = self.answer.or(Some(1008));
            return Ok(());
        }
        match says(EXPIRED) && entry.ends.is_none_or(|(first, _)| now < first) {
            true => Err(format!("visitor {} is closed too early, with {entry:?}", self.number)),
            false => Ok(()),
        }
    }

    /// Whether it may be sent what was published then.
    pub(super) fn check_right(&self, published: Time) -> Result<(), String> {
        let ends = self.entry.as_ref().and_then(|entry| entry.ends);
        match ends.is_some_and(|(_, last)| published > last + LATE) {
            true => Err(format!(
                "visitor {} gets what was published at {published:?}, with {:?}",
                self.number, self.entry
            )),
            false => Ok(()),
        }
    }

    /// Why it should not be open any more by now, if it should not.
    pub(super) fn overstays(&self, now: Time) -> Option<&'static str> {
        let entry = self.entry.as_ref()?;
        if entry.dismissal.is_some() {
            return Some("it was told 101, and not that it may not come in");
        }
        if self.answer == Some(1008) {
            return Some("it has published, which it may not");
        }
        entry.ends.filter(|(_, last)| *last + LATE * 2 < now).map(|_| "its token has ended")
    }
}

impl Entry {
    /// Whether it may have come when its token was good for nobody any more.
    fn is_late(&self, now: Time) -> bool {
        self.token.kind == Kind::Ending && now >= self.token.refused_from()
    }

    fn may_be_blocked(&self, guard: &Guard, now: Time) -> bool {
        guard.may_block(self.token.subject.as_deref(), (self.token.shown, now))
    }
}
