//! All visitors: who of them has something to do, and when the others will.

use std::{cmp::Reverse, collections::BinaryHeap};

use worker::Time;

use crate::{link::LinkId, network::Network, visitor::Visitor, world::World};

/// Visitors that come when the workers are told to drain.
const LATECOMERS: usize = 4;

#[derive(Debug)]
pub(super) struct Crowd {
    visitors: Vec<Visitor>,
    /// Those that may have something to do, in any order, each once.
    ready: Vec<usize>,
    is_ready: Vec<bool>,
    /// When others will have something to do. A time that has changed since is looked at in vain.
    timers: BinaryHeap<Reverse<(Time, usize)>>,
    /// By visitor: the timer that counts.
    timer: Vec<Time>,
    /// By link: whose it is.
    owners: Vec<usize>,
    news: Vec<LinkId>,
}

/// Whose a link is that no visitor has.
const NOBODY: usize = usize::MAX;

impl Crowd {
    pub(super) fn new(world: &mut World) -> Self {
        let begin = world.network.now();
        let visitors: Vec<_> =
            (0..world.scenario.visitors).map(|number| Visitor::new(number, world, begin)).collect();
        let count = visitors.len();
        let mut crowd = Self {
            visitors,
            ready: Vec::new(),
            is_ready: vec![false; count],
            timers: BinaryHeap::new(),
            timer: vec![Time::NEVER; count],
            owners: Vec::new(),
            news: Vec::new(),
        };
        (0..count).for_each(|number| crowd.reschedule(number, begin));
        crowd
    }

    /// Takes note of what has happened and what time it is.
    pub(super) fn look_around(&mut self, network: &Network) {
        let now = network.now();
        network.take_client_news(&mut self.news);
        let mut news = std::mem::take(&mut self.news);
        for link in news.drain(..) {
            if let Some(&owner) = self.owners.get(link).filter(|owner| **owner != NOBODY)
                && self.visitors[owner].link() == Some(link)
            {
                self.reschedule(owner, now);
            }
        }
        self.news = news;
        while let Some(&Reverse((time, number))) = self.timers.peek()
            && time <= now
        {
            self.timers.pop();
            if self.timer[number] == time {
                self.timer[number] = Time::NEVER;
                self.reschedule(number, now);
            }
        }
    }

    /// True exactly when somebody may have something to do.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// When somebody will have something to do by itself.
    pub(super) fn next(&self) -> Time {
        self.timers.peek().map_or(Time::NEVER, |Reverse((time, _))| *time)
    }

    /// Has one of those act that have something to do.
    pub(super) fn act(&mut self, world: &mut World) -> Result<(), String> {
        let index = world.chance.number(0..=self.ready.len() - 1);
        let number = self.ready.swap_remove(index);
        self.is_ready[number] = false;
        self.visitors[number].act(world)?;
        if let Some(link) = self.visitors[number].link() {
            if self.owners.len() <= link {
                self.owners.resize(link + 1, NOBODY);
            }
            self.owners[link] = number;
        }
        self.reschedule(number, world.network.now());
        Ok(())
    }

    fn reschedule(&mut self, number: usize, now: Time) {
        let visitor = &self.visitors[number];
        let next = visitor.next();
        if next <= now || visitor.is_ready(now) {
            if !std::mem::replace(&mut self.is_ready[number], true) {
                self.ready.push(number);
            }
        } else if next != Time::NEVER && self.timer[number] != next {
            self.timer[number] = next;
            self.timers.push(Reverse((next, number)));
        }
    }

    /// From now on they do only what keeps a connection open.
    pub(super) fn calm_down(&mut self) {
        self.visitors.iter_mut().for_each(Visitor::calm_down);
        for number in 0..self.visitors.len() {
            if !std::mem::replace(&mut self.is_ready[number], true) {
                self.ready.push(number);
            }
        }
    }

    /// Some come who have not heard that it is over.
    pub(super) fn send_latecomers(&mut self, world: &mut World) {
        let now = world.network.now();
        for _ in 0..LATECOMERS {
            let number = self.visitors.len();
            let visitor = Visitor::latecomer(number, world, now);
            self.visitors.push(visitor);
            self.is_ready.push(false);
            self.timer.push(Time::NEVER);
            self.reschedule(number, now);
        }
    }

    /// When everything has come to rest: everybody has received what it must have.
    pub(super) fn check(&self, world: &mut World) -> Result<(), String> {
        self.visitors.iter().for_each(|visitor| visitor.conclude(world));
        self.visitors.iter().try_for_each(|visitor| visitor.check(world))
    }

    /// When the workers have ended: nobody waits for them.
    pub(super) fn check_gone(&self) -> Result<(), String> {
        match self.visitors.iter().find(|visitor| visitor.hangs()) {
            Some(hangs) => Err(format!("after the drain there is still {hangs:?}")),
            None => Ok(()),
        }
    }
}
