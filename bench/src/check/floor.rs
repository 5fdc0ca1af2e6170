//! The bare loops that a check measures beside the gateway: `ringway-floor` on a free port.

use std::net::SocketAddr;
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::proc::Tree;
use crate::server::Server;
use crate::url::Url;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running floor; dropping ends it.
#[derive(Debug)]
pub(super) struct Floor {
    server: Server,
    address: SocketAddr,
}

impl Floor {
    /// Starts `command`, which a shell reads, on a free port of loopback, and waits until it has
    /// said which.
    pub(super) fn start(command: &str) -> Outcome<Floor> {
        // A server's own errors are what is listened to.
        let script = format!("exec {command} --listen 127.0.0.1:0 >&2");
        let server = Server::start(&script, &[], None)?;
        let line = server.next_line(PATIENCE);
        let address = line.as_deref().and_then(|line| line.strip_prefix("listening on "));
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let last = line.unwrap_or_else(|| server.last_words());
            return Err(Failure::run(format!("the floor did not start; it said last: {last}")));
        };
        println!("floor        {command}");
        Ok(Floor { server, address })
    }

    /// A URL of it; it takes every path.
    pub(super) fn url(&self) -> Outcome<Url> {
        Url::parse(&format!("ws://{}/ws/room", self.address))
    }

    /// The process.
    pub(super) fn tree(&self) -> Tree {
        Tree::new(vec![self.server.pid()])
    }
}
