//! Sizes for tests, and the rig with this engine.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use sockets::rig::Rigged;

pub(super) use sockets::rig::{Event, PATIENCE};

use crate::{Descriptors, RingEngine, RingOptions, ZeroCopy, engine::Start};

pub(super) type Rig = sockets::rig::Rig<RingEngine>;

impl Rigged for RingEngine {
    type Options = RingOptions;

    fn rigged(options: &RingOptions, listeners: Vec<TcpListener>) -> Self {
        Self::new(options, listeners).unwrap()
    }
}

/// A rig whose ring is started in this way.
pub(super) fn started(options: &RingOptions, listener: TcpListener, start: Start) -> Rig {
    let address = listener.local_addr().unwrap();
    Rig::of(RingEngine::start(options, vec![listener], start, || ()).unwrap(), address)
}

/// Both ways of sending: inline, and where the self-test has failed.
pub(super) fn both(options: &RingOptions) -> [Rig; 2] {
    [true, false]
        .map(|inline| started(options, listener(loopback()), Start { inline, ..Start::USUAL }))
}

/// Those that fit this kernel; `TEST_DESCRIPTORS=ordinary` takes the others where both do.
fn descriptors() -> Descriptors {
    match std::env::var("TEST_DESCRIPTORS").as_deref() {
        Ok("ordinary") => Descriptors::Ordinary,
        Ok("direct") => Descriptors::Direct,
        _ => Descriptors::probe().unwrap(),
    }
}

/// What this kernel has: direct descriptors too, where it lets go of them.
pub(super) fn all_descriptors() -> Vec<Descriptors> {
    let mut all = vec![Descriptors::Ordinary];
    all.extend(Some(Descriptors::probe().unwrap()).filter(|it| *it == Descriptors::Direct));
    all
}

/// Sizes that no test comes near to.
pub(super) fn options() -> RingOptions {
    RingOptions {
        descriptors: descriptors(),
        connections_max: 4096,
        submission_entries: 256,
        completion_entries: 2048,
        receive_buffers: 64,
        receive_buffer_bytes: 1024,
        accepts_armed_max: 32,
        settle: Duration::ZERO,
        linger_bytes_max: 256 * 1024,
        shutdowns_max: 64,
        multishot_share: 16,
        multishot_messages_min: 8,
        zero_copy: None,
    }
}

/// Frames of so many bytes without a copy, with room for 4 MiB of them.
pub(super) fn from(bytes_min: u32) -> Option<ZeroCopy> {
    Some(ZeroCopy { bytes_min, arena_bytes: 4 << 20 })
}

/// The smallest sizes that the limits allow.
pub(super) fn tiny() -> RingOptions {
    RingOptions {
        connections_max: 8,
        submission_entries: 8,
        completion_entries: 16,
        receive_buffers: 4,
        receive_buffer_bytes: 64,
        ..options()
    }
}

pub(super) fn listener(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
