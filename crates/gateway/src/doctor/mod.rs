//! `ringway doctor`: what a number of connections cannot be held without on this machine, and what
//! makes them cheaper. It starts the workers as `ringway serve` would, and ends them at once; all
//! else it reads from `/proc` and `/sys`. It changes nothing.

mod checks;
mod report;
mod root;
mod start;
mod wanted;

use engine_ring::Descriptors as Sockets;

use crate::{
    capacity::{Capacity, Descriptors},
    cli::{Engine, WORKERS_MAX},
    config::Configuration,
    decide::{Decision, Decisions},
    engine::Choice,
    serve::{self, Failure},
};

use self::{checks::Subject, root::Root, wanted::Wanted};

pub(crate) use self::report::Report;

/// How many connections are to be held where nobody says.
pub(crate) const CONNECTIONS: u32 = 100_000;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// As `serve` would be started.
    pub(crate) configuration: Configuration,
    /// How many are to be held.
    pub(crate) connections: u32,
    pub(crate) is_json: bool,
}

/// Looks at everything.
///
/// # Errors
/// Wrong usage, as `serve` has it; a machine that does not even tell its CPUs.
pub(crate) fn diagnose(request: Request) -> Result<Report, Failure> {
    let Request { mut configuration, connections, .. } = request;
    if configuration.serve.engine == Engine::Auto {
        // What `auto` would take instead is no answer to whether io_uring may be used.
        configuration.serve.engine = Engine::Ring;
    }
    let engine = Choice::new(configuration.serve.engine).map_err(Failure::Runtime)?;
    let sockets = engine.sockets(&configuration);
    // Where no ring can be had, the start of the workers says why.
    let direct = Decision { value: Sockets::Direct, reason: "a ring would have them" };
    let machine = serve::look(sockets.unwrap_or(direct))?;
    let cores = machine.cpus.choose(configuration.serve.cores.as_ref()).map_err(Failure::Usage)?;
    let listeners = u16::try_from(configuration.serve.listen.len()).unwrap_or(u16::MAX);
    // Workers that are asked for as many connections as their descriptors allow.
    let allowed = |workers| {
        let capacity = Capacity::new(None, workers, listeners, machine.descriptors, 0);
        capacity.map_or(0, |capacity| capacity.connections_max)
    };
    let workers_needed = match machine.descriptors {
        Descriptors::OfWorker(_) => u64::from(connections).div_ceil(allowed(1).max(1)),
        Descriptors::OfProcess(_) => 1,
    };
    let workers_asked = configuration.serve.workers;
    let workers = workers_asked.unwrap_or_else(|| {
        let workers = workers_needed.max(cores.len() as u64).min(WORKERS_MAX.into());
        u16::try_from(workers).unwrap_or(WORKERS_MAX)
    });
    let connections_allowed = match machine.descriptors {
        Descriptors::OfWorker(_) => allowed(1),
        Descriptors::OfProcess(_) => allowed(workers),
    };
    let serve = &mut configuration.serve;
    serve.workers = Some(workers);
    serve.connections_max = Some(connections);
    let decisions = match Decisions::new(&configuration, &machine, &[]) {
        Err(Failure::Usage(sentence)) => return Err(Failure::Usage(sentence)),
        Err(Failure::Runtime(sentence)) => Err(sentence),
        Ok(decisions) => Ok(decisions),
    };
    let limits = decisions.as_ref().map_or(Vec::new(), |decisions| decisions.limits.clone());
    let started =
        decisions.and_then(|decisions| start::try_all(engine.kind, &configuration, &decisions));
    Ok(checks::report(&Subject {
        engine: engine.kind,
        root: Root::new("/"),
        wanted: Wanted::new(connections.into()),
        connections,
        workers,
        workers_asked,
        workers_needed,
        descriptors: machine.descriptors,
        connections_allowed,
        listen_backlog: configuration.limits.listen_backlog,
        unsent_bytes_max: configuration.limits.unsent_bytes_max,
        send_queue_total_bytes_max: configuration.limits.send_queue_total_bytes_max,
        limits,
        cpus: machine.cpus,
        cores,
        started,
    }))
}
