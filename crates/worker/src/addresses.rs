//! What one address may take of the whole process: connections, and handshakes a second. All workers
//! share it; it is touched when a connection is accepted and when it is gone. The table has a fixed
//! size and addresses are found by a keyed hash, so addresses that fall on one place share its
//! allowance, and nobody can choose whom to share with.

use std::{
    hash::BuildHasher,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use siphasher::sip::SipHasher13;

use crate::{operation::Time, stats::RefusalReason};

/// The bounds of an address; `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections at a time, those that are being refused among them up to as many again.
    pub connections_max: Option<NonZeroU32>,
    /// Handshakes a second; as many may come at once after a second of rest.
    pub handshakes_rate: Option<NonZeroU32>,
}

/// Places of the table, at least and at most: four for each connection that the process may hold.
const PLACES: (usize, usize) = (1 << 10, 1 << 22);

/// How often a worker tries to move a clock that others move as well. After that it lets one
/// handshake too many pass.
const TRIES: usize = 4;

/// All addresses' accounts, and their bounds, which may change at any time.
#[derive(Debug)]
pub struct Addresses {
    /// Of [`AddressLimits`]; 0: no bound.
    connections_max: AtomicU32,
    handshakes_rate: AtomicU32,
    seed: u64,
    places: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    connections: AtomicU32,
    /// When the allowance of handshakes will be whole again, in nanoseconds (the "theoretical
    /// arrival time" of the generic cell rate algorithm, ITU-T I.371).
    whole_at: AtomicU64,
}

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is let in.
    Welcome,
    /// It is told why not.
    Refuse(RefusalReason),
    /// Its address has been told so often at once that it is not told again.
    Reset(RefusalReason),
}

impl Addresses {
    /// A table for a process that may hold so many connections. `seed` keys the hash.
    #[must_use]
    pub fn new(limits: AddressLimits, connections_max: u32, seed: u64) -> Self {
        let places = (connections_max as usize).saturating_mul(4).next_power_of_two();
        let places = places.clamp(PLACES.0, PLACES.1);
        let addresses = Self {
            connections_max: AtomicU32::new(0),
            handshakes_rate: AtomicU32::new(0),
            seed,
            places: (0..places).map(|_| Place::default()).collect(),
        };
        addresses.limit(limits);
        addresses
    }

    /// From now on these bounds count. Who was let in stays, and goes on being counted.
    pub fn limit(&self, limits: AddressLimits) {
        let AddressLimits { connections_max, handshakes_rate } = limits;
        let number = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
        self.connections_max.store(number(connections_max), Relaxed);
        self.handshakes_rate.store(number(handshakes_rate), Relaxed);
    }

    /// A connection of `address` was there before there was an account; `leave` must follow.
    pub(crate) fn count(&self, address: IpAddr) {
        self.place(address).connections.fetch_add(1, Relaxed);
    }

    /// A connection of `address` has been accepted; `leave` must follow whatever the verdict is.
    pub(crate) fn enter(&self, address: IpAddr, now: Time) -> Verdict {
        let place = self.place(address);
        let others = place.connections.fetch_add(1, Relaxed);
        let max = self.connections_max.load(Relaxed);
        if max > 0 && others >= max {
            let reason = RefusalReason::AddressConnections;
            let is_flood = others >= max.saturating_mul(2);
            return if is_flood { Verdict::Reset(reason) } else { Verdict::Refuse(reason) };
        }
        match NonZeroU32::new(self.handshakes_rate.load(Relaxed)) {
            Some(rate) if !place.take_handshake(rate, now) => {
                Verdict::Refuse(RefusalReason::AddressRate)
            }
            _ => Verdict::Welcome,
        }
    }

    /// A connection of `address` is gone.
    pub(crate) fn leave(&self, address: IpAddr) {
        self.place(address).connections.fetch_sub(1, Relaxed);
    }

    /// Connections that are on somebody's account.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.places.iter().map(|place| u64::from(place.connections.load(Relaxed))).sum()
    }

    /// A site commonly has a /64 of IPv6 to itself (RFC 6177), so that is what counts.
    fn place(&self, address: IpAddr) -> &Place {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64 | 1 << 63,
        };
        let hash = Keyed(self.seed).hash_one(network);
        let index = usize::try_from(hash % self.places.len() as u64).expect("below the length");
        &self.places[index]
    }
}

impl Place {
    /// Whether the allowance has one more handshake now.
    fn take_handshake(&self, rate: NonZeroU32, now: Time) -> bool {
        const SECOND: u64 = 1_000_000_000;
        let period = SECOND / u64::from(rate.get());
        for _ in 0..TRIES {
            let whole_at = self.whole_at.load(Relaxed);
            let next = whole_at.max(now.0) + period;
            if next > now.0 + SECOND.max(period) {
                return false;
            }
            if self.whole_at.compare_exchange_weak(whole_at, next, Relaxed, Relaxed).is_ok() {
                return true;
            }
        }
        true
    }
}

/// The hash of a network, keyed by a seed.
struct Keyed(u64);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limits(connections_max: Option<u32>, handshakes_rate: Option<u32>) -> AddressLimits {
        let limit = |it: Option<u32>| it.map(|it| NonZeroU32::new(it).unwrap());
        AddressLimits {
            connections_max: limit(connections_max),
            handshakes_rate: limit(handshakes_rate),
        }
    }

    fn addresses(connections_max: Option<u32>, handshakes_rate: Option<u32>) -> Addresses {
        Addresses::new(limits(connections_max, handshakes_rate), 1_000, 7)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_as_many_refusals_and_then_is_reset() {
        let addresses = addresses(Some(2), None);
        let enter = |text| addresses.enter(ip(text), Time(0));
        let refuse = Verdict::Refuse(RefusalReason::AddressConnections);
        let reset = Verdict::Reset(RefusalReason::AddressConnections);
        let expected = [Verdict::Welcome, Verdict::Welcome, refuse, refuse, reset];
        for verdict in expected {
            assert_eq!(enter("192.0.2.1"), verdict);
        }
        assert_eq!(enter("192.0.2.2"), Verdict::Welcome);
        assert_eq!(addresses.connections(), 6);
        (0..4).for_each(|_| addresses.leave(ip("192.0.2.1")));
        assert_eq!(enter("::ffff:192.0.2.1"), Verdict::Welcome, "the same address");
        assert_eq!(enter("192.0.2.1"), refuse);
    }

    #[test]
    fn an_ipv6_address_counts_as_its_network_of_64_bits() {
        let addresses = addresses(Some(1), None);
        let enter = |text| addresses.enter(ip(text), Time(0));
        assert_eq!(enter("2001:db8:0:1::1"), Verdict::Welcome);
        assert_ne!(enter("2001:db8:0:1:ffff::2"), Verdict::Welcome);
        assert_eq!(enter("2001:db8:0:2::1"), Verdict::Welcome);
    }

    #[test]
    fn handshakes_come_at_the_rate_or_a_second_of_it_at_once() {
        let addresses = addresses(None, Some(4));
        let enter = |now| addresses.enter(ip("192.0.2.1"), Time(now)) == Verdict::Welcome;
        let start = 100 * SECOND;
        assert_eq!([0; 6].map(|_| enter(start)), [true, true, true, true, false, false]);
        assert!(!enter(start + SECOND / 4 - 1));
        assert!(enter(start + SECOND / 4));
        assert!(!enter(start + SECOND / 4));
        assert_eq!([0; 5].map(|_| enter(start + 9 * SECOND)), [true, true, true, true, false]);
    }

    #[test]
    fn bounds_change_and_who_is_there_counts() {
        let addresses = addresses(None, None);
        let enter = || addresses.enter(ip("192.0.2.1"), Time(0));
        assert_eq!([enter(), enter()], [Verdict::Welcome; 2]);
        addresses.count(ip("192.0.2.1"));
        addresses.limit(limits(Some(3), None));
        let refuse = Verdict::Refuse(RefusalReason::AddressConnections);
        assert_eq!(enter(), refuse);
        addresses.limit(limits(Some(5), None));
        assert_eq!(enter(), Verdict::Welcome);
        addresses.limit(limits(None, Some(1)));
        let refuse = Verdict::Refuse(RefusalReason::AddressRate);
        assert_eq!([enter(), enter()], [Verdict::Welcome, refuse]);
        addresses.limit(limits(None, None));
        assert_eq!(enter(), Verdict::Welcome);
    }

    #[test]
    fn a_slow_rate_lets_one_pass_a_second() {
        let addresses = addresses(None, Some(1));
        let enter = |now| addresses.enter(ip("192.0.2.1"), Time(now)) == Verdict::Welcome;
        assert_eq!([0, 1, SECOND, SECOND + 1].map(enter), [true, false, true, false]);
    }
}
