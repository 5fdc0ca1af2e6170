//! What the control thread wants of tokens, where they are needed: that other keys count, and that
//! somebody be removed and blocked until further notice.

use std::sync::Arc;

use hub::{Letter, Refused, Selection};
use mesh::Member;
use worker::Time;

use super::Guest;
use crate::{
    guard,
    reached::{OTHER_ACCESS, REMOVED_SUBJECT, UNBLOCKED},
    world::World,
};

impl Guest {
    /// Wishes something of tokens, half of the time; everybody has room for it.
    pub(super) fn wish_of_tokens(&mut self, world: &mut World, now: Time) -> bool {
        let Some(guard) = &mut world.guard else { return false };
        if guard.chance.of(0.5) {
            return false;
        }
        match guard.chance.number(0..=3) {
            0 => {
                // The same keys, read again.
                self.reached.count(OTHER_ACCESS);
                let access = guard::access();
                self.tell_all(|| Letter::Access(Arc::clone(&access)));
            }
            1 => {
                let Some(subject) = guard.lift(now) else { return false };
                self.reached.count(UNBLOCKED);
                let subjects = Arc::new(vec![subject]);
                self.tell_all(|| Letter::Unblock(Arc::clone(&subjects)));
            }
            _ => {
                let subject = Some(guard.block(now));
                self.remove(Selection { subject, ..Selection::default() }, REMOVED_SUBJECT, world);
            }
        }
        true
    }

    fn tell_all(&mut self, letter: impl Fn() -> Letter) {
        for member in self.members() {
            self.post(member, letter());
        }
    }
}

/// A worker may say that it has refused tokens of those alone who were to be blocked.
pub(super) fn check_refused(from: Member, refused: &Refused, world: &World) -> Result<(), String> {
    let now = world.network.now();
    let is_right = |subject: &str| {
        let mut guards = world.guard.iter();
        guards.any(|guard| guard.may_block(Some(subject), (Time(0), now)))
    };
    match refused.ends.keys().all(|subject| is_right(subject)) {
        true => Ok(()),
        false => Err(format!("{from:?} has refused tokens of who was not blocked: {refused:?}")),
    }
}
