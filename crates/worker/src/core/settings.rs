//! What changes with the settings of a running worker, beside the options that are only read.

use super::{Core, late_max};
use crate::{connections::State, operation::Slot, options::Settings, rates::Rates};

impl Core {
    /// Goes by these settings from now on, also in what counts as late.
    pub(crate) fn adopt(&mut self, settings: Settings) {
        let had_accounts = self.options.addresses.is_some();
        self.options.adopt(settings);
        self.late_max = late_max(&self.options);
        if !had_accounts {
            self.count_addresses();
        }
        self.change_rate();
    }

    /// Puts everybody who is here on their address's account, where there is one now: a look at each
    /// connection, once in the life of a worker. Who has not asked for anything yet is judged when
    /// it does.
    fn count_addresses(&mut self) {
        let Some(addresses) = &self.options.addresses else { return };
        for index in 0..self.connections.slots_used() {
            match self.connections.record(index).state {
                State::Open | State::Closing | State::Terminating => {}
                State::Free | State::Announced | State::Handshaking | State::Waiting => continue,
            }
            let slot = Slot::try_from(index).expect("slots are numbers of 32 bits");
            let identity = self.connections.identity_mut(slot);
            if !std::mem::replace(&mut identity.counted, true) {
                addresses.count(identity.peer().ip());
            }
        }
    }

    /// How fast clients may publish has changed, or whether there is a bound.
    fn change_rate(&mut self) {
        match (self.options.publish_rate_max, &mut self.rates) {
            (Some(rate), Some(rates)) => rates.change(rate),
            (Some(rate), None) => self.rates = Some(Rates::new(rate)),
            (None, None) => {}
            (None, Some(rates)) => {
                self.resumed.extend(rates.paused());
                self.rates = None;
            }
        }
    }
}
