//! Placeholder while the worker is being written.
use std::io;

use mesh::Endpoint;

use crate::{
    core::Core,
    handler::Handler,
    operation::{Engine, Time},
    options::Options,
};

/// One worker: its connections, its handler, and nothing of the kernel.
#[derive(Debug)]
pub struct Worker<H: Handler> {
    handler: H,
    core: Core,
}

impl<H: Handler> Worker<H> {
    /// A worker without connections, that accepts from every listener at its first turn.
    #[must_use]
    pub fn new(options: Options, handler: H, now: Time) -> Self {
        let _ = (options, now);
        Self { handler, core: Core {} }
    }

    /// One turn: waits for something to do, does all of it, and hands what follows to the engine.
    ///
    /// # Errors
    /// The engine is useless.
    pub fn turn<E: Engine>(
        &mut self,
        engine: &mut E,
        endpoint: &mut Endpoint<H::Letter>,
    ) -> io::Result<()> {
        let _ = (engine, endpoint, &self.handler, &self.core);
        Ok(())
    }

    /// True exactly when it was told to drain and every listener and connection is gone.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        false
    }

    /// The handler.
    pub fn handler(&self) -> &H {
        &self.handler
    }
}

/// Turns until drained.
///
/// # Errors
/// The engine is useless.
pub fn run<H: Handler, E: Engine>(
    worker: &mut Worker<H>,
    engine: &mut E,
    endpoint: &mut Endpoint<H::Letter>,
) -> io::Result<()> {
    while !worker.is_drained() {
        worker.turn(engine, endpoint)?;
    }
    Ok(())
}
