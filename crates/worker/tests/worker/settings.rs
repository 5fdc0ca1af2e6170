//! What one address and one client may take changes while the worker runs, for those as well who are
//! here already.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use ringway_worker::{AddressLimits, Addresses, RefusalReason, Slot};

use super::rig::{Rig, text, upgrade};

const SECOND: Duration = Duration::from_secs(1);

fn accounts(connections_max: u32) -> Arc<Addresses> {
    let connections_max = NonZeroU32::new(connections_max);
    Arc::new(Addresses::new(AddressLimits { connections_max, handshakes_rate: None }, 10, 7))
}

/// The first line that it was answered with.
fn status(rig: &Rig, slot: Slot) -> &str {
    std::str::from_utf8(rig.sent(slot)).unwrap().lines().next().unwrap_or_default()
}

#[test]
fn who_is_here_when_an_address_gets_an_account_is_on_it() {
    let mut rig = Rig::new(|_| ());
    let [first, second] = [rig.connect(), rig.connect()];
    let asking = rig.accept();
    rig.settle();
    rig.adopt(|settings| settings.addresses = Some(accounts(3)));
    // Who had not asked for anything is judged when it does, and is the third.
    rig.receive(asking, upgrade("").as_bytes());
    rig.settle();
    assert_eq!(status(&rig, asking), "HTTP/1.1 101 Switching Protocols");
    let other = rig.accept();
    rig.settle();
    assert_eq!(status(&rig, other), "HTTP/1.1 429 Too Many Requests");
    assert_eq!(rig.report().refused[RefusalReason::AddressConnections as usize], 1);
    rig.closed(other);
    [first, second, asking].iter().for_each(|client| rig.finish(*client));
    rig.settle();
    // Each has left the account once: there is room for three, and not for one more.
    rig.connect_all(3);
    let other = rig.accept();
    rig.settle();
    assert_eq!(status(&rig, other), "HTTP/1.1 429 Too Many Requests");
}

#[test]
fn an_account_that_is_there_stays_and_nobody_is_counted_twice() {
    let addresses = accounts(2);
    let mut rig = Rig::new(|options| options.addresses = Some(Arc::clone(&addresses)));
    rig.connect();
    rig.adopt(|settings| settings.addresses = Some(accounts(1)));
    rig.connect();
    let other = rig.accept();
    rig.settle();
    assert_eq!(status(&rig, other), "HTTP/1.1 429 Too Many Requests");
}

#[test]
fn who_is_paused_for_its_rate_goes_on_when_there_is_no_bound_any_more() {
    let mut rig = Rig::new(|options| options.publish_rate_max = NonZeroU32::new(1));
    let client = rig.connect();
    rig.receive(client, &["1", "2", "3"].map(text).concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["1"]);
    rig.adopt(|settings| settings.publish_rate_max = None);
    assert_eq!(rig.handler().messages, ["1", "2", "3"]);
    assert!(rig.is_received_from(client));
    assert_eq!(rig.report().gauges.publishers_paused, 0);
}

#[test]
fn a_rate_that_is_set_or_changed_counts_for_who_is_here() {
    let mut rig = Rig::new(|_| ());
    let client = rig.connect();
    rig.adopt(|settings| settings.publish_rate_max = NonZeroU32::new(1));
    rig.receive(client, &["1", "2", "3", "4", "5"].map(text).concat());
    rig.settle();
    assert_eq!(rig.handler().messages, ["1"]);
    rig.adopt(|settings| settings.publish_rate_max = NonZeroU32::new(10));
    assert_eq!(rig.handler().messages, ["1"], "a tenth of a second has to pass");
    rig.pass(SECOND / 10);
    assert_eq!(rig.handler().messages, ["1", "2"]);
    rig.pass(SECOND / 2);
    assert_eq!(rig.handler().messages, ["1", "2", "3", "4", "5"]);
}
