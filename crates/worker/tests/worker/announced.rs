//! Connections that begin with a PROXY header: until it is complete nothing is known of the client,
//! and nothing is said to it.

use std::{num::NonZeroU32, sync::Arc};

use ringway_worker::{AddressLimits, Addresses, Closing, Options, RefusalReason, Slot};

use super::{
    SECOND,
    rig::{Rig, upgrade},
};

/// The signature, version 2 and `PROXY`, TCP over IPv4, 12 bytes (haproxy.org, "The PROXY protocol",
/// section 2.2), and the addresses: 192.0.2.7:4660 to 198.51.100.1:443.
const HEADER: &[u8; 28] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\xC0\0\x02\x07\xC6\x33\x64\x01\x12\x34\x01\xBB";

fn announcing(options: &mut Options) {
    options.proxies.announcing = Arc::new([true]);
}

/// A whole header, and a request behind it.
fn asking() -> Vec<u8> {
    [HEADER, upgrade("").as_bytes()].concat()
}

/// How often a handshake was refused for this.
fn refused(rig: &mut Rig, reason: RefusalReason) -> u64 {
    rig.report().refused[reason as usize]
}

fn is_reset_without_a_word(rig: &Rig, client: Slot) -> bool {
    rig.sent(client).is_empty() && rig.closes(client) == [Closing::Abort]
}

#[test]
fn a_header_in_pieces_and_the_request_behind_it_open_a_connection() {
    for cut in 0..=HEADER.len() {
        let mut rig = Rig::new(announcing);
        let client = rig.accept();
        rig.receive(client, &HEADER[..cut]);
        rig.settle();
        assert!(rig.sent(client).is_empty());
        assert_eq!(rig.report().gauges.handshake_bytes, cut as u64 % 28);
        rig.receive(client, &[&HEADER[cut..], upgrade("").as_bytes()].concat());
        rig.settle();
        assert!(rig.sent(client).starts_with(b"HTTP/1.1 101 "), "{cut}");
        let gauges = rig.report().gauges;
        assert_eq!((gauges.handshakes, gauges.handshake_bytes), (0, 0));
    }
}

#[test]
fn a_header_that_does_not_end_has_as_long_as_a_handshake_and_no_answer() {
    let mut rig = Rig::new(announcing);
    let silent = rig.accept();
    let slow = rig.accept();
    rig.receive(slow, &HEADER[..20]);
    rig.pass(SECOND * 4);
    rig.receive(slow, &HEADER[20..27]);
    rig.settle();
    assert!(rig.closes(slow).is_empty());
    rig.pass(SECOND * 2);
    for client in [silent, slow] {
        assert!(is_reset_without_a_word(&rig, client), "{client}");
    }
    assert_eq!(refused(&mut rig, RefusalReason::Timeout), 2);
    assert_eq!(rig.report().gauges.handshake_bytes, 0);
}

/// From the header on it is a handshake like others, with what is left of its time.
#[test]
fn behind_a_header_the_time_goes_on_and_the_answer_is_http() {
    let mut rig = Rig::new(announcing);
    let client = rig.accept();
    rig.pass(SECOND * 4);
    rig.receive(client, HEADER);
    rig.pass(SECOND * 2);
    assert!(rig.sent(client).starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn headers_that_are_too_long_or_too_many_are_not_kept() {
    let mut rig = Rig::new(|options| {
        announcing(options);
        options.limits.proxy_header_bytes_max = 100;
        options.limits.handshake_bytes_max = 128;
        options.limits.handshake_total_bytes_max = 128;
    });
    // 16 bytes and 85 more.
    let mut long = HEADER[..16].to_vec();
    long[15] = 85;
    let client = rig.accept();
    rig.receive(client, &long);
    rig.settle();
    assert!(is_reset_without_a_word(&rig, client));
    assert_eq!(refused(&mut rig, RefusalReason::ProxyHeader), 1);
    // And 84: that is 100 when it is whole, and two of 99 are too many.
    long[15] = 84;
    long.resize(99, 0);
    let [first, second] = [rig.accept(), rig.accept()];
    rig.receive(first, &long);
    rig.receive(second, &long);
    rig.settle();
    assert!(rig.closes(first).is_empty());
    assert!(is_reset_without_a_word(&rig, second));
    let report = rig.report();
    assert_eq!(report.refused[RefusalReason::Full as usize], 1);
    assert_eq!(report.gauges.handshake_bytes, 99);
}

#[test]
fn whoever_has_not_said_for_whom_it_speaks_is_on_nobodys_account() {
    let limits = AddressLimits { connections_max: NonZeroU32::new(1), handshakes_rate: None };
    let mut rig = Rig::new(|options| {
        announcing(options);
        options.addresses = Some(Arc::new(Addresses::new(limits, 10, 7)));
    });
    let gone = [rig.accept(), rig.accept(), rig.accept()];
    gone.into_iter().for_each(|client| rig.finish(client));
    rig.settle();
    let client = rig.accept();
    rig.receive(client, &asking());
    rig.settle();
    assert!(rig.sent(client).starts_with(b"HTTP/1.1 101 "));
    let other = rig.accept();
    rig.receive(other, &asking());
    rig.settle();
    assert!(rig.sent(other).starts_with(b"HTTP/1.1 429 "), "its address has one already");
    rig.closed(other);
    rig.finish(client);
    rig.settle();
    let next = rig.accept();
    rig.receive(next, &asking());
    rig.settle();
    assert!(rig.sent(next).starts_with(b"HTTP/1.1 101 "));
    // Those who left early have taken nothing from the proxy's own account.
    let own = rig.accept();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    rig.receive(own, &[local, upgrade("").as_bytes()].concat());
    rig.settle();
    assert!(rig.sent(own).starts_with(b"HTTP/1.1 101 "));
}
