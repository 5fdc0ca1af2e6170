//! Taking a worker apart and putting it together again, so that its connections can go on in
//! another one: in the simulator at any moment, in a new process when one takes over.

use std::io;

use bytes::Bytes;
use mesh::Endpoint;

use super::Worker;
use crate::{
    actions::Actions,
    connections::State,
    handler::{Audience, Chunk, Handler},
    operation::{ConnectionId, Engine, Time},
    record::Record,
};

impl<H: Handler> Worker<H> {
    /// Handles what has completed until nothing that was sent is undecided, and hands nothing over
    /// meanwhile: the moment to `export`.
    ///
    /// # Errors
    /// The engine is useless.
    pub fn settle<E: Engine>(
        &mut self,
        engine: &mut E,
        endpoint: &mut Endpoint<H::Letter>,
    ) -> io::Result<()> {
        loop {
            self.wait(engine, endpoint, Time(0))?;
            if self.core.fanout.in_flight() == 0 {
                return Ok(());
            }
        }
    }

    /// Every connection, in slot order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.core.connections.ids()
    }

    /// All that is known of a connection, of a worker that has settled; `None` if it is gone. The
    /// worker still has it, until it forgets.
    #[must_use]
    pub fn export(&self, connection: ConnectionId) -> Option<Record<H::Admission>> {
        let core = &self.core;
        debug_assert_eq!(core.fanout.in_flight(), 0, "the worker has settled");
        let state = core.connections.get(connection)?.clone();
        let is_open = state.state == State::Open;
        Some(Record {
            connection,
            exported_as: connection,
            admission: is_open.then(|| self.handler.admission(connection)),
            identity: *core.connections.identity(connection.slot),
            exported: core.tick(),
            exported_us: core.now_us(),
            outgoing: core.outgoing(connection),
            owed: if is_open { self.owed(connection) } else { Vec::new() },
            allowance: core.rates.as_ref().map(|rates| rates.allowance(connection)),
            is_resumed: core.is_resumed(connection),
            state,
        })
    }

    /// What has been published to an open connection and not been offered to it.
    fn owed(&self, connection: ConnectionId) -> Vec<(Audience, Bytes, u32)> {
        let busy = self.core.connections.busy();
        let mut chunk = Chunk::new(1);
        self.core.fanout.owed(connection, |audience| {
            chunk.clear_for(1);
            self.handler.fill(audience, connection.slot, busy, &mut chunk);
            chunk.targets.first().or(chunk.busy.first()) == Some(&connection.slot)
        })
    }

    /// Becomes a worker without connections on the same engine: it keeps its listeners, its drain
    /// and its counts. `forget` takes the connections out of the handler.
    pub fn forget(&mut self, forget: impl FnOnce(&mut H)) {
        self.core.forget();
        forget(&mut self.handler);
    }

    /// Goes on with a connection as it was when exported. Its engine has `record.connection`, to which
    /// the caller sets it where that is another engine than the one it was exported from, and
    /// receives from it unless it was stopped; bytes that arrived in between are still to come.
    ///
    /// # Panics
    /// The slot is in use.
    pub fn import(&mut self, endpoint: &mut Endpoint<H::Letter>, record: Record<H::Admission>) {
        let connection = record.connection;
        let core = &mut self.core;
        core.restore(connection, record.state, record.identity);
        core.shift_times(connection, record.exported, record.exported_us);
        if let Some(admission) = record.admission {
            self.handler.on_moved(record.exported_as, connection);
            self.handler.on_open(&mut Actions { core, endpoint }, connection, admission);
        }
        let outgoing = record.outgoing.into_iter();
        self.core.outbox.extend(outgoing.map(|outgoing| outgoing.to(connection)));
        for (audience, frames, messages) in record.owed {
            self.core.send_messages(connection, frames, messages, Some(audience));
        }
        if let (Some(rates), Some(allowance)) = (&mut self.core.rates, record.allowance) {
            rates.restore(connection, allowance);
        }
        if record.is_resumed {
            self.core.resume(connection);
        }
        self.tell_closed(endpoint);
    }
}
