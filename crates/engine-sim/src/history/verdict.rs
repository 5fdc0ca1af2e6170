//! Why connections ended, as workers say, engines have seen and visitors were told: nobody is
//! closed without a reason, and no reason is made up.

use std::{collections::BTreeMap, net::SocketAddr};

use worker::{CloseReason, ClosedConnection};

use crate::{
    scenario::Scenario,
    watch::Watch,
    world::{End, Visit, World},
};

#[derive(Debug, Default)]
pub(super) struct Verdict {
    reasons: BTreeMap<SocketAddr, CloseReason>,
    /// True exactly when the workers were told to drain.
    pub(super) is_draining: bool,
}

impl Verdict {
    /// A worker says that it has closed a connection, and whether it has dropped messages for such a
    /// reason, of which its engine has seen this.
    pub(super) fn add(
        &mut self,
        (worker, closed, dropped): (usize, &ClosedConnection, bool),
        watch: Option<Watch>,
        world: &World,
    ) -> Result<(), String> {
        let ClosedConnection { connection, peer, reason, .. } = closed;
        let name = format!("{connection:?} was closed as {}", reason.label());
        let Some(watch) = watch else { return Err(format!("{name}, and was never there")) };
        let scenario = &world.scenario;
        let age = watch.age(world.network.now());
        let pass = world.guard.as_ref().and_then(|guard| guard.passes.get(peer));
        if pass.is_some_and(|it| it.is_bad) {
            return Err(format!("{name}, and was never to come in: {pass:?}"));
        }
        let is_justified = match reason {
            CloseReason::Moving => {
                scenario.connection_age_max.is_some_and(|age_max| age >= age_max.mul_f64(0.9))
            }
            CloseReason::Restarting => self.is_draining,
            CloseReason::Removed => {
                let subject = pass.and_then(|it| it.subject.as_deref());
                world.removals.iter().any(|it| it.covers(worker, closed, subject))
            }
            CloseReason::TokenExpired => pass.is_some_and(|it| it.ends <= world.network.now()),
            CloseReason::NotAllowed => pass.is_some_and(|it| !it.may_publish),
            CloseReason::PublishingIsOff => !scenario.client_publish,
            CloseReason::SlowConsumer | CloseReason::OverBudget | CloseReason::Overloaded
                if scenario.is_calm =>
            {
                false
            }
            // Whose socket has refused nothing has had messages queued behind its 101.
            CloseReason::SlowConsumer | CloseReason::OverBudget if dropped => true,
            reason => watch.justifies(*reason, &scenario.promises()),
        };
        if !is_justified {
            return Err(format!("{name} without cause: {watch:?}"));
        }
        match self.reasons.insert(*peer, *reason) {
            None => Ok(()),
            Some(before) => Err(format!("{name}, and before as {}", before.label())),
        }
    }

    /// Every visit ended as its visitor meant it to, or for a reason that was stated.
    pub(super) fn check(&self, world: &World) -> Result<(), String> {
        world.visits.iter().try_for_each(|visit| {
            let judged = self.judge(visit, &world.scenario);
            judged.map_err(|what| format!("visitor {} was {what}: {visit:?}", visit.visitor))
        })
    }

    fn judge(&self, visit: &Visit, scenario: &Scenario) -> Result<(), String> {
        let reason = self.reasons.get(&visit.address).copied();
        let stated = reason.map_or("nothing", CloseReason::label);
        match visit.end {
            // Whether the worker had room, and what its address took, the engine has judged.
            End::Refused(503) => Ok(()),
            End::Refused(429) if scenario.network.hosts > 0 => Ok(()),
            End::Refused(status) if visit.answer == Some(status) => Ok(()),
            // Its request was not complete in time, on a bad way.
            End::Refused(408) if !scenario.is_calm => Ok(()),
            End::Refused(_) => Err("refused for nothing that it did".to_owned()),
            // It is known for what, and no worker says more about it.
            End::Closed(Some(1008)) | End::Cut if visit.is_dismissed && reason.is_none() => Ok(()),
            End::Closed(Some(1000)) if visit.answer == Some(1000) => Ok(()),
            End::Closed(code) => {
                let is_stated = reason.is_some_and(|reason| code == Some(code_of(reason)));
                // What broke a rule or was not allowed; everything else is the server's own affair.
                let is_own = reason.is_some_and(is_violation) && visit.answer != code;
                match is_stated && !is_own {
                    true => judge_good(visit, scenario, reason),
                    false => Err(format!("closed, and {stated} is stated")),
                }
            }
            End::Cut
                if reason
                    .is_some_and(|it| is_violation(it) && visit.answer != Some(code_of(it))) =>
            {
                Err(format!("cut as {stated}, which it has not done"))
            }
            End::Cut if visit.has_left || !visit.was_open || reason.is_some() => {
                judge_good(visit, scenario, reason)
            }
            End::Cut => Err("cut, and nothing is stated".to_owned()),
        }
    }
}

/// Where nothing goes wrong, who behaves is neither cut nor closed but for what is everybody's lot.
fn judge_good(
    visit: &Visit,
    scenario: &Scenario,
    reason: Option<CloseReason>,
) -> Result<(), String> {
    let behaves = visit.was_good && visit.was_open && !visit.has_left;
    match reason.filter(|_| scenario.is_calm && behaves) {
        None
        | Some(
            CloseReason::Restarting
            | CloseReason::Moving
            | CloseReason::Removed
            | CloseReason::TokenExpired,
        ) => Ok(()),
        Some(reason) => Err(format!("ended as {}, though it behaved", reason.label())),
    }
}

fn is_violation(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ProtocolError
            | CloseReason::InvalidPayload
            | CloseReason::MessageTooBig
            | CloseReason::PublishingIsOff
            | CloseReason::NotAllowed
    )
}

/// The Close code that goes with a reason (RFC 6455 section 7.4.1, and the reference).
fn code_of(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::ProtocolError => 1002,
        CloseReason::InvalidPayload => 1007,
        CloseReason::PublishingIsOff
        | CloseReason::NotAllowed
        | CloseReason::Removed
        | CloseReason::TokenExpired => 1008,
        CloseReason::MessageTooBig => 1009,
        CloseReason::Restarting | CloseReason::Moving => 1012,
        CloseReason::SlowConsumer | CloseReason::Overloaded => 1013,
        _ => 1011,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Of a visitor that has broken a rule which is answered with 1009.
    #[test]
    fn a_code_is_in_order_if_it_answers_what_was_done_and_goes_with_what_is_stated() {
        let scenario = Scenario::new(0);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let judge = |reason: Option<CloseReason>, code| {
            let mut verdict = Verdict::default();
            verdict.reasons.extend(reason.map(|reason| (address, reason)));
            let visit = Visit {
                visitor: 0,
                address,
                was_open: true,
                end: End::Closed(code),
                has_left: true,
                answer: Some(1009),
                was_good: true,
                is_dismissed: false,
            };
            verdict.judge(&visit, &scenario).is_ok()
        };
        assert!(judge(Some(CloseReason::MessageTooBig), Some(1009)));
        // No violation: the server's own affair.
        assert!(judge(Some(CloseReason::Restarting), Some(1012)));
        assert!(!judge(Some(CloseReason::ProtocolError), Some(1002)), "for something else");
        assert!(!judge(Some(CloseReason::ProtocolError), Some(1009)), "not what is stated");
        assert!(!judge(None, Some(1009)), "nothing is stated");
        assert!(!judge(Some(CloseReason::MessageTooBig), Some(1000)), "as if it had left");
        assert!(!judge(Some(CloseReason::MessageTooBig), None));
    }
}
