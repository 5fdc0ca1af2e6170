//! From the first byte of a request to the 101, or to a refusal.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use mesh::Endpoint;
use wire::{BadProxyHeader, BadRequest, Extensions, NoUpgrade, Request};

use super::Worker;
use crate::{
    actions::Actions,
    connections::{Flags, State},
    handler::{Answer, Handler, Readiness},
    operation::ConnectionId,
    stats::{CloseReason, RefusalReason},
};

impl<H: Handler> Worker<H> {
    /// Bytes of a connection that begins with a PROXY header.
    pub(super) fn handle_announcement(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &[u8],
    ) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        let mut held = record.take_held().unwrap_or_default();
        self.core.head_bytes -= held.len();
        held.extend_from_slice(bytes);
        let bytes_max = self.core.options.limits.proxy_header_bytes_max as usize;
        let header = match wire::parse_proxy_header(&held, bytes_max) {
            Ok(Some(header)) => header,
            Ok(None) if self.has_head_room(&held) => return self.keep_head(connection, &held),
            // It is not HTTP that is spoken yet.
            Ok(None) => return self.core.reset_handshake(connection, RefusalReason::Full),
            Err(BadProxyHeader) => {
                return self.core.reset_handshake(connection, RefusalReason::ProxyHeader);
            }
        };
        if let Some(record) = self.core.connections.get_mut(connection) {
            record.state = State::Handshaking;
        }
        let peer = self.core.connections.identity(connection.slot).peer();
        let is_welcome = self.core.meet(connection, header.client.unwrap_or(peer));
        let mut rest: BytesMut = held.split_off(header.length);
        if is_welcome && !rest.is_empty() {
            self.handle_bytes(endpoint, connection, &mut rest);
        }
    }

    pub(super) fn handle_head(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
    ) {
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        let Some(mut held) = record.take_held() else {
            return self.handle_more_of_head(endpoint, connection, bytes);
        };
        self.core.head_bytes -= held.len();
        held.extend_from_slice(bytes);
        // A head ends with a line: without a new one there is nothing to parse, however slowly it
        // comes.
        if !bytes.contains(&b'\n') {
            return self.hold_head(connection, &held);
        }
        self.handle_more_of_head(endpoint, connection, &mut held);
    }

    /// All that there is of a head, and perhaps more: its request is answered if that can be now,
    /// and else it is kept.
    fn handle_more_of_head(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        bytes: &mut [u8],
    ) {
        let (request, length) = match wire::parse_request(bytes) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return self.hold_head(connection, bytes),
            Err(bad) => return self.refuse_bad(connection, bad),
        };
        if self.handler.verifies(&request) {
            if self.core.verifications_left() == 0 {
                return self.await_verification(connection, bytes);
            }
            self.core.shares.take_verification();
        }
        self.handle_request(endpoint, connection, &request, length, &mut bytes[length..]);
    }

    /// Keeps a complete head, and what has come behind it, for a turn that has a verification left.
    fn await_verification(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.hold_head(connection, bytes);
        let Some(record) = self.core.connections.get_mut(connection) else { return };
        if record.state != State::Handshaking {
            return;
        }
        record.state = State::Waiting;
        self.core.report.verification_deferrals += 1;
        self.core.unverified.push_back(connection);
    }

    /// Answers those who wait for a verification, as many as the turn may.
    #[cold]
    pub(super) fn verify_waiting(&mut self, endpoint: &mut Endpoint<H::Letter>) {
        while self.core.verifications_left() > 0 {
            let Some(connection) = self.core.unverified.pop_front() else { return };
            let Some(record) = self.core.connections.get_mut(connection) else { continue };
            if record.state != State::Waiting {
                continue;
            }
            record.state = State::Handshaking;
            let has_finished = record.lower(Flags::FINISHED);
            let mut head = record.take_held().expect("who waits has sent a head");
            self.core.head_bytes -= head.len();
            self.handle_more_of_head(endpoint, connection, &mut head);
            if has_finished {
                self.core.handle_finished(connection);
            }
            self.tell_closed(endpoint);
        }
    }

    /// Keeps what has come of a head, or behind one that waits for its verification: a client that
    /// sends before it is answered (RFC 6455 section 4.1 tells it not to) has no more room for it.
    pub(super) fn hold_head(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(record) = self.core.connections.get(connection) else { return };
        let bytes_max = self.core.options.limits.handshake_bytes_max as usize;
        if record.held_bytes() + bytes.len() > bytes_max {
            return self.refuse_large_head(connection);
        }
        if !self.has_head_room(bytes) {
            return self.refuse_unready(connection, RefusalReason::Full);
        }
        self.keep_head(connection, bytes);
    }

    /// Whether so much more of a head fits the worker's bound.
    fn has_head_room(&self, head: &[u8]) -> bool {
        let bytes = (self.core.head_bytes + head.len()) as u64;
        bytes <= self.core.options.limits.handshake_total_bytes_max
    }

    fn keep_head(&mut self, connection: ConnectionId, head: &[u8]) {
        self.core.head_bytes += head.len();
        if let Some(record) = self.core.connections.get_mut(connection) {
            record.hold(head);
        }
    }

    fn refuse_bad(&mut self, connection: ConnectionId, bad: BadRequest) {
        let reason = match bad {
            BadRequest::Malformed(_) => RefusalReason::Malformed,
            BadRequest::TooManyHeaders => RefusalReason::HeadTooLarge,
        };
        self.core.refuse_with(connection, reason, &[], bad.text());
    }

    fn refuse_large_head(&mut self, connection: ConnectionId) {
        self.core.refuse_with(
            connection,
            RefusalReason::HeadTooLarge,
            &[],
            "the request head is too large: send fewer or shorter headers",
        );
    }

    fn refuse_unready(&mut self, connection: ConnectionId, reason: RefusalReason) {
        let text = match reason {
            RefusalReason::Draining => "this server is going down: connect again",
            _ => "this server is full: try again later",
        };
        self.core.refuse_with(connection, reason, &[("Retry-After", "5")], text);
    }

    fn handle_request(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        request: &Request,
        head_bytes: usize,
        rest: &mut [u8],
    ) {
        if head_bytes > self.core.options.limits.handshake_bytes_max as usize {
            return self.refuse_large_head(connection);
        }
        let Some(peer) = self.find_client(connection, request) else { return };
        let readiness = self.core.readiness();
        match self.handler.on_request(request, peer, readiness, self.core.now()) {
            Answer::Respond(response) => {
                let bytes =
                    wire::encode_response(response.status, &response.headers, &response.text);
                self.respond(connection, request, response.refusal, bytes);
            }
            Answer::Dismiss { subprotocol, close, refusal } => {
                self.dismiss(endpoint, connection, request, subprotocol, (close, refusal), rest);
            }
            Answer::Upgrade { subprotocol, extensions, admission } => {
                match wire::encode_upgrade(request, subprotocol, extensions) {
                    Err(no_upgrade) => self.refuse_upgrade(connection, request, no_upgrade),
                    Ok(_) if readiness == Readiness::Full => {
                        self.refuse_unready(connection, RefusalReason::Full);
                    }
                    Ok(_) if readiness == Readiness::Draining => {
                        self.refuse_unready(connection, RefusalReason::Draining);
                    }
                    Ok(upgrade) => {
                        self.core.open(connection, upgrade);
                        let mut actions = Actions { core: &mut self.core, endpoint };
                        self.handler.on_open(&mut actions, connection, admission);
                        if !rest.is_empty() {
                            self.handle_bytes(endpoint, connection, rest);
                        }
                    }
                }
            }
        }
    }

    /// Whom a request comes from; `None`: from there no more may come, and it has been told.
    fn find_client(&mut self, connection: ConnectionId, request: &Request) -> Option<SocketAddr> {
        let identity = self.core.connections.identity_mut(connection.slot);
        let client = self.core.options.proxies.client(request, identity.peer());
        identity.set_peer(client);
        self.core.enter(connection).then_some(client)
    }

    /// Completes an upgrade and closes it at once.
    fn dismiss(
        &mut self,
        endpoint: &mut Endpoint<H::Letter>,
        connection: ConnectionId,
        request: &Request,
        subprotocol: Option<&str>,
        (close, refusal): (CloseReason, RefusalReason),
        rest: &mut [u8],
    ) {
        match wire::encode_upgrade(request, subprotocol, Extensions { deflate: false }) {
            Err(no_upgrade) => self.refuse_upgrade(connection, request, no_upgrade),
            Ok(upgrade) => {
                self.core.dismiss(connection, &upgrade, close, refusal);
                if !rest.is_empty() {
                    self.handle_bytes(endpoint, connection, rest);
                }
            }
        }
    }

    /// Answers a request that is understood and no upgrade.
    fn respond(
        &mut self,
        connection: ConnectionId,
        request: &Request,
        refusal: Option<RefusalReason>,
        response: Bytes,
    ) {
        let is_head = request.method() == "HEAD";
        let response = if is_head { wire::without_content(&response) } else { response };
        self.core.refuse(connection, refusal, response);
    }

    fn refuse_upgrade(
        &mut self,
        connection: ConnectionId,
        request: &Request,
        no_upgrade: NoUpgrade,
    ) {
        let reason = match no_upgrade {
            NoUpgrade::Malformed(_) => RefusalReason::Malformed,
            NoUpgrade::Method => RefusalReason::Method,
            NoUpgrade::Missing => RefusalReason::NoUpgrade,
            NoUpgrade::Version => RefusalReason::WrongVersion,
        };
        let response =
            wire::encode_response(no_upgrade.status(), no_upgrade.headers(), no_upgrade.text());
        self.respond(connection, request, Some(reason), response);
    }
}
