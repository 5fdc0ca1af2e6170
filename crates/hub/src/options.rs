//! What one hub is told at its start, and what of that it may be told anew. Every field is written
//! at the call.

use std::sync::Arc;

use crate::{access::Access, interest::Interest, origin::OriginRule};

/// One worker's hub.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether a client's messages are published; if not, they close its connection.
    pub client_publish: bool,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether connections may agree on permessage-deflate.
    pub compression: bool,
    /// Which origins may open connections.
    pub origins: OriginRule,
    /// What tokens are verified with; `None`: nobody needs one.
    pub access: Option<Arc<Access>>,
    /// Topics of one connection.
    pub topics_per_connection_max: u32,
    /// Bytes of a topic's name.
    pub topic_bytes_max: u32,
    /// Bytes of the publications that wait for room in the mesh or in the fan-out.
    pub held_bytes_max: u64,
    /// Which workers hear of which topics; the same for all of them.
    pub interest: Arc<Interest>,
}

/// Those of the options that may change while the hub runs, and those of its worker. They count for
/// what comes: who is connected stays.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether a client's messages are published; if not, they close its connection.
    pub client_publish: bool,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether connections may agree on permessage-deflate.
    pub compression: bool,
    /// Which origins may open connections.
    pub origins: OriginRule,
    /// For the worker; of its bounds those of topics count here too.
    pub worker: worker::Settings,
}

impl Options {
    /// From now on these.
    pub(crate) fn adopt(&mut self, settings: &Settings) {
        let limits = &settings.worker.limits;
        self.client_publish = settings.client_publish;
        self.echo = settings.echo;
        self.compression = settings.compression;
        self.origins = settings.origins.clone();
        self.topics_per_connection_max = limits.topics_per_connection_max;
        self.topic_bytes_max = limits.topic_bytes_max;
    }
}
