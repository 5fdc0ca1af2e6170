//! The worker threads: each is bound to its core, makes its engine there, is told how to wake the
//! others, and then turns until it is drained. Signals are none of their business: they are blocked
//! on every worker thread, so that the kernel gives them to the control thread.

use std::{
    any::Any,
    convert::Infallible,
    net::TcpListener,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use core_affinity::CoreId;
use engine_epoll::EpollEngine;
use engine_ring::RingEngine;
use engine_tokio_uring::TokioUringEngine;
use hub::{Hub, Letter};
use mesh::{Endpoint, Member};
use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::sync::mpsc as tokio_mpsc;
use worker::{Waker, Worker};

use crate::{
    engine::{Kind, Sizes, Start},
    facts::WorkerEnd,
};

/// What one worker is started with.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Its number.
    pub(crate) worker: u16,
    /// The core to bind the thread to, if any.
    pub(crate) pin: Option<usize>,
    /// For the engine.
    pub(crate) sizes: Sizes,
    /// For the worker.
    pub(crate) options: worker::Options,
    /// For its hub.
    pub(crate) hub: hub::Options,
    /// For its engine, in the order in which the worker numbers them.
    pub(crate) listeners: Vec<TcpListener>,
    /// Its place in the mesh.
    pub(crate) endpoint: Endpoint<Letter>,
}

/// A worker that is turning.
#[derive(Debug)]
pub(crate) struct Started {
    /// Ends its engine's wait.
    pub(crate) waker: Arc<dyn Waker>,
    /// Memory that its engine has reserved.
    pub(crate) fixed_bytes: usize,
    /// What the operator should know of how the engine was started.
    pub(crate) notes: Vec<String>,
}

/// Of an engine without it.
const NO_ZERO_COPY: &str =
    "large frames are copied as all others: of the engines only ring sends without a copy";

/// Held by every worker that has not drained; gone with the thread, whatever ends it.
#[derive(Debug)]
struct Turning;

/// Lets an engine wait until all engines have the memory that they cannot do without: what one can do
/// without would else be taken from another. Held by each that has not come so far.
#[derive(Debug)]
struct Gate {
    /// Gone with the gate, whatever ends it.
    own: mpsc::Sender<Infallible>,
    /// Ends with the last gate.
    all: Arc<Mutex<mpsc::Receiver<Infallible>>>,
}

impl Gate {
    fn pass(self) {
        drop(self.own);
        if let Ok(all) = self.all.lock() {
            // Nothing is ever sent.
            let _ = all.recv();
        }
    }
}

/// What a thread says of itself once its engine stands.
#[derive(Debug)]
struct Introduction<T> {
    started: Started,
    target: T,
}

/// Starts one thread per plan. All engines stand before the first turn; each worker says at `ends`
/// that it has ended.
///
/// # Errors
/// One sentence about the first worker that could not start; by then the others have ended.
pub(crate) fn start(
    kind: Kind,
    plans: Vec<Plan>,
    guest: Arc<OwnedFd>,
    ends: &tokio_mpsc::Sender<WorkerEnd>,
) -> Result<Vec<Started>, String> {
    match kind {
        Kind::Ring => start_on::<RingEngine>(plans, guest, ends),
        Kind::TokioUring => start_on::<TokioUringEngine>(plans, guest, ends),
        Kind::Epoll => start_on::<EpollEngine>(plans, guest, ends),
    }
}

fn start_on<E: Start>(
    plans: Vec<Plan>,
    guest: Arc<OwnedFd>,
    ends: &tokio_mpsc::Sender<WorkerEnd>,
) -> Result<Vec<Started>, String> {
    let mut threads = Vec::with_capacity(plans.len());
    let mut introductions = Vec::with_capacity(plans.len());
    let blocked = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(|error| format!("cannot block signals: {error}"))?;
    let mut spawned = Ok(());
    let turning = Arc::new(Turning);
    let (own, all) = mpsc::channel();
    let all = Arc::new(Mutex::new(all));
    for plan in plans {
        let gate = Gate { own: own.clone(), all: Arc::clone(&all) };
        let (introduce, introduction) = mpsc::channel();
        let (go, targets) = mpsc::channel();
        let (ends, turning) = (ends.clone(), Arc::clone(&turning));
        let name = format!("ringway-{}", plan.worker);
        let body = move || live::<E>(plan, gate, &introduce, &targets, turning, &ends);
        match thread::Builder::new().name(name).spawn(body) {
            Ok(handle) => {
                threads.push((handle, go));
                introductions.push(introduction);
            }
            Err(error) => {
                spawned = Err(format!("cannot start a thread: {error}"));
                break;
            }
        }
    }
    drop(own);
    blocked.thread_set_mask().map_err(|error| format!("cannot unblock signals: {error}"))?;
    let met = spawned.and_then(|()| meet(&introductions));
    let (started, mut targets): (Vec<Started>, Vec<E::Target>) = match met {
        Ok(introductions) => introductions.into_iter().map(|it| (it.started, it.target)).unzip(),
        Err(sentence) => {
            for (handle, go) in threads {
                drop(go);
                // Whatever went wrong there has been said, or is behind what has.
                let _ = handle.join();
            }
            return Err(sentence);
        }
    };
    targets.push(guest.into());
    for (_, go) in &threads {
        // A thread that is gone has said so at `ends`.
        let _ = go.send(targets.clone());
    }
    Ok(started)
}

/// Waits until every thread has its engine.
fn meet<T>(
    introductions: &[mpsc::Receiver<Result<Introduction<T>, String>>],
) -> Result<Vec<Introduction<T>>, String> {
    let receive = |(worker, introduction): (usize, &mpsc::Receiver<_>)| {
        introduction.recv().unwrap_or_else(|_| Err(format!("worker {worker} died as it started")))
    };
    introductions.iter().enumerate().map(receive).collect()
}

/// The life of a worker thread.
fn live<E: Start>(
    plan: Plan,
    gate: Gate,
    introduce: &mpsc::Sender<Result<Introduction<E::Target>, String>>,
    targets: &mpsc::Receiver<Vec<E::Target>>,
    turning: Arc<Turning>,
    ends: &tokio_mpsc::Sender<WorkerEnd>,
) {
    let worker = plan.worker;
    let outcome = survive(|| match prepare(&plan) {
        Ok(()) => work::<E>(plan, gate, introduce, targets, turning),
        Err(sentence) => {
            let _ = introduce.send(Err(sentence));
            None
        }
    });
    let Some(outcome) = outcome else { return };
    // There is room for one end a worker; without a receiver the process is ending.
    let _ = ends.try_send(WorkerEnd { worker, outcome });
}

/// Makes a sentence of a panic. What the closure held is gone then, and nobody looks at it again.
fn survive(life: impl FnOnce() -> Option<Result<(), String>>) -> Option<Result<(), String>> {
    catch_unwind(AssertUnwindSafe(life)).unwrap_or_else(|panic| {
        Some(Err(format!("it panicked: {}", panic_message(panic.as_ref()))))
    })
}

/// Binds the thread to its core.
fn prepare(plan: &Plan) -> Result<(), String> {
    match plan.pin {
        Some(core) if !core_affinity::set_for_current(CoreId { id: core }) => Err(format!(
            "worker {} cannot be bound to core {core}: choose others with --cores, or --pin off",
            plan.worker
        )),
        _ => Ok(()),
    }
}

/// Makes the engine, meets the others, and turns until all have drained. `None`: the start was given up.
fn work<E: Start>(
    plan: Plan,
    gate: Gate,
    introduce: &mpsc::Sender<Result<Introduction<E::Target>, String>>,
    targets: &mpsc::Receiver<Vec<E::Target>>,
    turning: Arc<Turning>,
) -> Option<Result<(), String>> {
    let mut engine = match E::start(&plan.sizes, plan.listeners, || gate.pass()) {
        Ok(engine) => engine,
        Err(sentence) => {
            let _ = introduce.send(Err(sentence));
            return None;
        }
    };
    let mut started = Started {
        waker: engine.waker(),
        fixed_bytes: engine.fixed_bytes(),
        notes: engine.notes().to_vec(),
    };
    if !E::HAS_ZERO_COPY && plan.sizes.limits.zero_copy_bytes_min > 0 {
        started.notes.push(NO_ZERO_COPY.to_owned());
    }
    let introduction = Introduction { started, target: engine.target() };
    introduce.send(Ok(introduction)).ok()?;
    for (member, target) in (0..).zip(targets.recv().ok()?) {
        if member != plan.worker {
            engine.connect(Member(member), target);
        }
    }
    let mut endpoint = plan.endpoint;
    let hub = Hub::new(plan.hub, endpoint.member());
    let mut worker = Worker::new(plan.options, hub, endpoint.member(), engine.now());
    let mut outcome = worker::run(&mut worker, &mut engine, &mut endpoint);
    // The others may still have publishers, whose letters somebody must take.
    let others = Arc::downgrade(&turning);
    drop(turning);
    while outcome.is_ok() && others.strong_count() > 0 {
        outcome = worker.turn(&mut engine, &mut endpoint);
    }
    Some(outcome.map_err(|error| format!("its engine failed: {error}")))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, time::Duration};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::{
        capacity::Descriptors,
        config::{self, Request},
        cores::Cpus,
        decide::{Decision, Decisions, Machine},
    };

    /// Two workers without listeners, and the guest of their mesh.
    fn plans() -> (Vec<Plan>, Endpoint<Letter>) {
        let flags = ["ringway", "serve", "--workers", "2", "--connections-max", "20"];
        let arguments: Vec<OsString> = flags.iter().map(OsString::from).collect();
        let Ok(Request::Serve(configuration)) = config::read(&arguments) else {
            panic!("these flags are valid");
        };
        let cpus = Cpus::of_this_process().unwrap();
        let descriptors = Descriptors::OfWorker(1000);
        let sockets = Decision { value: engine_ring::Descriptors::Direct, reason: "a test" };
        let machine = Machine { cpus, descriptors, sockets, migrates_requests: false };
        let decisions = Decisions::new(&configuration, &machine, &[]).unwrap();
        let mut endpoints = mesh::join(3, |_, _| 8);
        let guest = endpoints.pop().unwrap();
        let listeners = vec![Vec::new(), Vec::new()];
        (decisions.plans(&configuration.serve, None, &Arc::default(), listeners, endpoints), guest)
    }

    fn event() -> Arc<OwnedFd> {
        Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap())
    }

    fn drain(guest: &mut Endpoint<Letter>, started: &[Started]) {
        for (member, started) in (0..).zip(started) {
            guest.post(Member(member), Letter::drain(Duration::ZERO), 0).unwrap();
            started.waker.wake();
        }
    }

    #[test]
    fn workers_turn_until_they_are_drained_and_say_so_once() {
        let (plans, mut guest) = plans();
        let (sender, mut ends) = tokio_mpsc::channel(2);
        let started = start(Kind::Ring, plans, event(), &sender).unwrap();
        assert_eq!(started.len(), 2);
        assert!(started.iter().all(|started| started.fixed_bytes > 0));
        assert!(ends.try_recv().is_err(), "nobody has ended by itself");
        drain(&mut guest, &started);
        let mut ended: Vec<u16> = (0..2)
            .map(|_| {
                let end = ends.blocking_recv().unwrap();
                assert_eq!(end.outcome, Ok(()));
                end.worker
            })
            .collect();
        ended.sort_unstable();
        assert_eq!(ended, [0, 1]);
        drop(sender);
        assert!(ends.blocking_recv().is_none());
    }

    #[test]
    fn a_worker_that_cannot_start_ends_the_others() {
        let (mut plans, _guest) = plans();
        plans[1].sizes.connections_max = u32::MAX / 2;
        let (sender, mut ends) = tokio_mpsc::channel(2);
        let sentence = start(Kind::Ring, plans, event(), &sender).unwrap_err();
        assert!(sentence.contains("RLIMIT_NOFILE"), "{sentence}");
        drop(sender);
        assert!(ends.blocking_recv().is_none(), "no thread is left, and none had begun");
    }

    #[test]
    fn a_core_that_does_not_exist_is_named() {
        let (mut plans, _guest) = plans();
        plans[0].pin = Some(1023);
        let (sender, _ends) = tokio_mpsc::channel(2);
        let sentence = start(Kind::Ring, plans, event(), &sender).unwrap_err();
        assert!(sentence.contains("cannot be bound to core 1023"), "{sentence}");
    }

    #[test]
    fn a_panic_is_the_end_of_its_worker_and_is_told() {
        let number = 7;
        let told = |panic: &str| Some(Err(format!("it panicked: {panic}")));
        assert_eq!(survive(|| panic!("at {number}")), told("at 7"));
        assert_eq!(survive(|| panic!("at once")), told("at once"));
        assert_eq!(survive(|| Some(Ok(()))), Some(Ok(())));
        assert_eq!(survive(|| None), None);
    }
}
