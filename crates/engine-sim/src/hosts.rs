//! Where clients come from, and what their addresses take of the server: counted apart from it, so
//! that what it allows an address and what it refuses can be judged.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use worker::{AddressLimits, Time};

/// What an address may do in a second it may do at once after a second of rest.
const SECOND: Duration = Duration::from_secs(1);

/// All addresses that have connections, or had any.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    hosts: BTreeMap<u64, Host>,
    connections: u32,
    /// When connections were accepted within the last second, whatever became of them.
    accepted: VecDeque<Time>,
}

#[derive(Debug, Default)]
struct Host {
    connections: u32,
    /// When those were accepted that were not refused for their address, within about a second.
    welcomed: VecDeque<Time>,
}

/// How things stood when a connection was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    network: u64,
    at: Time,
    /// Other connections of its address.
    others: u32,
    /// Other connections of all addresses: some may share an account with it.
    others_of_all: u32,
    /// Other connections accepted within the last second.
    recent: usize,
    /// True exactly when its request was answered.
    is_answered: bool,
}

impl Arrival {
    /// True exactly when so many others were there, whose account may have been the same.
    pub(crate) fn is_beyond(&self, others: u32) -> bool {
        self.others_of_all >= others
    }
}

impl Hosts {
    pub(crate) fn enter(&mut self, peer: SocketAddr, now: Time) -> Arrival {
        while self.accepted.front().is_some_and(|then| now.since(*then) > SECOND) {
            self.accepted.pop_front();
        }
        let network = network(peer.ip());
        let host = self.hosts.entry(network).or_default();
        let arrival = Arrival {
            network,
            at: now,
            others: host.connections,
            others_of_all: self.connections,
            recent: self.accepted.len(),
            is_answered: false,
        };
        self.accepted.push_back(now);
        self.connections += 1;
        host.connections += 1;
        arrival
    }

    pub(crate) fn leave(&mut self, arrival: &Arrival) {
        self.connections -= 1;
        if let Some(host) = self.hosts.get_mut(&arrival.network) {
            host.connections -= 1;
        }
    }

    /// What is sent first to a connection. What is wrong with that, if it answers a request.
    pub(crate) fn judge(
        &mut self,
        arrival: &mut Arrival,
        answer: &[u8],
        limits: &AddressLimits,
    ) -> Option<&'static str> {
        let status = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        if std::mem::replace(&mut arrival.is_answered, true) {
            return None;
        }
        let max = limits.connections_max.map_or(u32::MAX, |max| max.get());
        let rate = limits.handshakes_rate.map_or(usize::MAX, |rate| rate.get() as usize);
        if status == b"429" {
            let is_right = arrival.others_of_all >= max || arrival.recent >= rate;
            return (!is_right).then_some("is refused for an address that takes little");
        }
        if arrival.others >= max {
            return Some("is welcome beyond what its address may have");
        }
        let host = self.hosts.entry(arrival.network).or_default();
        let at = arrival.at;
        host.welcomed.retain(|then| then.since(at).max(at.since(*then)) <= SECOND * 2);
        host.welcomed.push_back(at);
        let within = host.welcomed.iter().filter(|then| **then <= at && at.since(**then) < SECOND);
        // As many as may come at once, and as many as come in a second.
        let is_hasty = within.count() > rate.saturating_mul(2).saturating_add(1);
        is_hasty.then_some("is welcome beyond the rate of its address")
    }
}

/// IPv6 addresses of one network of 64 bits are one.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
    }
}

/// Where a client comes from, by the number of its link. Every other one has IPv6. `hosts`: so many
/// addresses or networks there are; none: everybody has its own.
pub(crate) fn address(link: usize, hosts: usize) -> SocketAddr {
    let number = u32::try_from(link).unwrap_or(u32::MAX);
    let host = match u32::try_from(hosts) {
        Ok(0) | Err(_) => number,
        Ok(hosts) => number % hosts,
    };
    let ip = if host.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | host >> 1))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(host) << 64 | u128::from(number)))
    };
    let port = u16::try_from(number % 60_000).unwrap_or(0) + 1024;
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const WELCOME: &[u8] = b"HTTP/1.1 101 Switching Protocols";
    const REFUSED: &[u8] = b"HTTP/1.1 429 Too Many Requests";

    fn limits(connections: u32, rate: u32) -> AddressLimits {
        AddressLimits {
            connections_max: NonZeroU32::new(connections),
            handshakes_rate: NonZeroU32::new(rate),
        }
    }

    #[test]
    fn an_address_may_have_so_many_connections_and_no_fewer() {
        let mut hosts = Hosts::default();
        let limits = limits(2, 0);
        // The last link of the first host but one, which is a network of IPv6.
        let mut enter = |link| hosts.enter(address(link, 2), Time(0));
        let [mut first, mut second, mut third, mut other] = [1, 3, 5, 0].map(&mut enter);
        assert_eq!(hosts.judge(&mut first, WELCOME, &limits), None);
        assert!(hosts.judge(&mut second, REFUSED, &limits).is_some(), "one had room beside it");
        assert!(hosts.judge(&mut third, WELCOME, &limits).is_some());
        assert_eq!(hosts.judge(&mut other, WELCOME, &limits), None);
        hosts.leave(&first);
        let mut fourth = hosts.enter(address(7, 2), Time(0));
        hosts.leave(&second);
        hosts.leave(&third);
        let mut fifth = hosts.enter(address(9, 2), Time(0));
        assert_eq!(hosts.judge(&mut fourth, REFUSED, &limits), None);
        assert_eq!(hosts.judge(&mut fifth, WELCOME, &limits), None);
    }

    #[test]
    fn an_address_may_come_at_a_rate_and_no_slower() {
        let mut hosts = Hosts::default();
        let limits = limits(0, 1);
        let mut judge = |ms: u64, answer| {
            let mut arrival = hosts.enter(address(0, 1), Time(ms * 1_000_000));
            hosts.judge(&mut arrival, answer, &limits)
        };
        assert_eq!(judge(0, WELCOME), None);
        assert_eq!(judge(900, REFUSED), None);
        assert!(judge(2_500, REFUSED).is_some(), "nobody came within a second");
        assert_eq!([10, 20, 30].map(|ms| judge(5_000 + ms, WELCOME)), [None; 3]);
        assert!(judge(5_040, WELCOME).is_some());
    }
}
