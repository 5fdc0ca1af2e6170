//! The engines of this build: which of them runs, and how a worker's thread starts it. The choice is
//! made once, before anything is divided among the workers; from then on everything is compiled for
//! the engine that was chosen.

use std::{fmt, net::TcpListener, os::fd::OwnedFd, sync::Arc, time::Duration};

use engine_epoll::{EpollEngine, EpollOptions};
use engine_ring::{Descriptors as Sockets, RingEngine, RingOptions, WakeTarget, ZeroCopy};
use engine_tokio_uring::{TokioUringEngine, TokioUringOptions};
use mesh::Member;
use sockets::EventWaker;
use worker::{Engine, Limits};

use crate::{cli, config::Configuration, decide::Decision};

/// What one connection can bring in a turn on an engine that receives into one buffer, at most.
const RECEIVE_BYTES_MAX: u32 = 16 << 10;

/// An engine of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Raw io_uring.
    Ring,
    /// io_uring by tokio-uring, for kernels without the ring engine's operations.
    TokioUring,
    /// epoll, which every kernel has.
    Epoll,
}

/// The engine that runs, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) kind: Kind,
    pub(crate) reason: String,
}

/// What the bounds of a worker mean to its engine.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// Places for connections, the surplus included.
    pub(crate) connections_max: u32,
    /// What their sockets are.
    pub(crate) sockets: Sockets,
    /// How long a listener settles before it is closed.
    pub(crate) settle: Duration,
    /// The worker's.
    pub(crate) limits: Limits,
}

/// An engine that the gateway can start.
pub(crate) trait Start: Engine + Sized {
    /// How a member of the mesh is woken by it.
    /// Of a guest it is made from the eventfd on which the guest waits.
    type Target: Clone + fmt::Debug + From<Arc<OwnedFd>> + Send + 'static;

    /// True exactly when it can send large frames without a copy, and says whether it does.
    const HAS_ZERO_COPY: bool = false;

    /// Starts it on the thread that is to use it; the listeners are its own from now on. It calls
    /// `is_standing` before it takes memory that it can do without, or drops it.
    ///
    /// # Errors
    /// One sentence that names what is in the way and the cure.
    fn start(
        sizes: &Sizes,
        listeners: Vec<TcpListener>,
        is_standing: impl FnOnce(),
    ) -> Result<Self, String>;

    /// How others wake it.
    fn target(&self) -> Self::Target;

    /// Says how a member is woken. Before the first wake of it.
    fn connect(&mut self, member: Member, target: Self::Target);

    /// Memory that it has reserved whatever its load.
    fn fixed_bytes(&self) -> usize;

    /// What the operator should know of how it was started, a sentence each.
    fn notes(&self) -> &[String] {
        &[]
    }
}

impl Kind {
    /// What `auto` tries, in turn.
    const BEST_FIRST: [Self; 3] = [Self::Ring, Self::TokioUring, Self::Epoll];

    /// As the flag writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::TokioUring => "tokio-uring",
            Self::Epoll => "epoll",
        }
    }

    /// How many of so many places may receive by multishot at once.
    pub(crate) fn multishots_max(self, places: u32, limits: &Limits) -> u32 {
        match self {
            Self::Ring => places / limits.multishot_share.max(1),
            Self::TokioUring | Self::Epoll => 0,
        }
    }

    /// What the sockets of connections are, and why.
    ///
    /// # Errors
    /// One sentence: a ring cannot be had to find out.
    fn sockets(
        self,
        asked: cli::SocketDescriptors,
        has_arena: bool,
    ) -> Result<Decision<Sockets>, String> {
        let decide = |value, reason| Ok(Decision { value, reason });
        match (self, asked) {
            (Self::TokioUring | Self::Epoll, _) => {
                decide(Sockets::Ordinary, "this engine has no others")
            }
            (Self::Ring, cli::SocketDescriptors::Direct) => decide(Sockets::Direct, "asked for"),
            (Self::Ring, cli::SocketDescriptors::Ordinary) => {
                decide(Sockets::Ordinary, "asked for")
            }
            (Self::Ring, cli::SocketDescriptors::Auto) if has_arena => {
                decide(Sockets::Ordinary, "direct ones could outlive a killed process: zero copies")
            }
            (Self::Ring, cli::SocketDescriptors::Auto) => {
                match Sockets::probe().map_err(|error| error.to_string())? {
                    found @ Sockets::Direct => decide(found, "this kernel lets go of direct ones"),
                    found @ Sockets::Ordinary => {
                        decide(found, "this kernel keeps direct ones while an older one is polled")
                    }
                }
            }
        }
    }

    /// Why it cannot run here, if it cannot: found out by starting the smallest.
    fn refusal(self) -> Option<String> {
        match self {
            Self::Ring => refusal_of::<RingEngine>(),
            Self::TokioUring => refusal_of::<TokioUringEngine>(),
            Self::Epoll => refusal_of::<EpollEngine>(),
        }
    }
}

fn refusal_of<E: Start>() -> Option<String> {
    E::start(&Sizes::smallest(), Vec::new(), || ()).err()
}

impl Choice {
    /// What was asked for, or the best that this kernel allows.
    ///
    /// # Errors
    /// One sentence: it allows none.
    pub(crate) fn new(asked: cli::Engine) -> Result<Self, String> {
        let asked_for = |kind| Ok(Self { kind, reason: "asked for".to_owned() });
        match asked {
            cli::Engine::Auto => Self::first(&Kind::BEST_FIRST, Kind::refusal),
            cli::Engine::Ring => asked_for(Kind::Ring),
            cli::Engine::TokioUring => asked_for(Kind::TokioUring),
            cli::Engine::Epoll => asked_for(Kind::Epoll),
        }
    }

    /// What the sockets of connections are, and why.
    ///
    /// # Errors
    /// One sentence: a ring cannot be had to find out.
    pub(crate) fn sockets(
        &self,
        configuration: &Configuration,
    ) -> Result<Decision<Sockets>, String> {
        let has_arena = configuration.limits.zero_copy_bytes_min > 0;
        self.kind.sockets(configuration.serve.descriptors, has_arena)
    }

    /// The first that is not refused, and why those before it were.
    fn first(kinds: &[Kind], refusal: impl Fn(Kind) -> Option<String>) -> Result<Self, String> {
        let mut refusals: Vec<String> = Vec::new();
        for &kind in kinds {
            match refusal(kind) {
                Some(sentence) => refusals.push(format!("{}: {sentence}", kind.name())),
                None if refusals.is_empty() => {
                    let reason = "the first of this build, and this kernel allows it".to_owned();
                    return Ok(Self { kind, reason });
                }
                None => {
                    let reason = format!("better ones are refused; {}", refusals.join("; "));
                    return Ok(Self { kind, reason });
                }
            }
        }
        Err(format!("no engine can run here; {}", refusals.join("; ")))
    }
}

impl Sizes {
    /// The least that an engine starts with.
    fn smallest() -> Self {
        let limits = Limits {
            submission_entries: 8,
            completion_entries: 16,
            receive_buffers: 4,
            receive_buffer_bytes: 64,
            ..Limits::default()
        };
        // Ordinary ones are had wherever rings are.
        let sockets = Sockets::Ordinary;
        Self { connections_max: 1, sockets, settle: Duration::ZERO, limits }
    }

    /// Of the one buffer of an engine that receives into one.
    fn receive_bytes(&self) -> u32 {
        let Limits { receive_buffers, receive_buffer_bytes, .. } = self.limits;
        receive_buffers.saturating_mul(receive_buffer_bytes).min(RECEIVE_BYTES_MAX)
    }
}

impl Start for RingEngine {
    type Target = WakeTarget;

    const HAS_ZERO_COPY: bool = true;

    fn start(
        sizes: &Sizes,
        listeners: Vec<TcpListener>,
        is_standing: impl FnOnce(),
    ) -> Result<Self, String> {
        let limits = &sizes.limits;
        let zero_copy = ZeroCopy {
            bytes_min: limits.zero_copy_bytes_min,
            arena_bytes: limits.zero_copy_arena_bytes,
        };
        let options = RingOptions {
            descriptors: sizes.sockets,
            connections_max: sizes.connections_max,
            submission_entries: limits.submission_entries,
            completion_entries: limits.completion_entries,
            receive_buffers: limits.receive_buffers,
            receive_buffer_bytes: limits.receive_buffer_bytes,
            accepts_armed_max: limits.accepts_armed_max,
            settle: sizes.settle,
            linger_bytes_max: limits.linger_bytes_max,
            shutdowns_max: limits.shutdowns_max,
            multishot_share: limits.multishot_share,
            multishot_messages_min: limits.multishot_messages_min,
            zero_copy: Some(zero_copy).filter(|it| it.bytes_min > 0),
        };
        Self::new_beside(&options, listeners, is_standing).map_err(|error| error.to_string())
    }

    fn target(&self) -> WakeTarget {
        self.wake_target()
    }

    fn connect(&mut self, member: Member, target: WakeTarget) {
        Self::connect(self, member, target);
    }

    fn fixed_bytes(&self) -> usize {
        Self::fixed_bytes(self)
    }

    fn notes(&self) -> &[String] {
        Self::notes(self)
    }
}

impl Start for TokioUringEngine {
    type Target = EventWaker;

    fn start(
        sizes: &Sizes,
        listeners: Vec<TcpListener>,
        _is_standing: impl FnOnce(),
    ) -> Result<Self, String> {
        let limits = &sizes.limits;
        let options = TokioUringOptions {
            connections_max: sizes.connections_max,
            submission_entries: limits.submission_entries,
            completion_entries: limits.completion_entries,
            receive_bytes: sizes.receive_bytes(),
            accepts_armed_max: limits.accepts_armed_max,
            settle: sizes.settle,
            linger_bytes_max: limits.linger_bytes_max,
        };
        Self::new(&options, listeners).map_err(|error| error.to_string())
    }

    fn target(&self) -> EventWaker {
        self.wake_target()
    }

    fn connect(&mut self, member: Member, target: EventWaker) {
        Self::connect(self, member, target);
    }

    fn fixed_bytes(&self) -> usize {
        Self::fixed_bytes(self)
    }
}

impl Start for EpollEngine {
    type Target = EventWaker;

    fn start(
        sizes: &Sizes,
        listeners: Vec<TcpListener>,
        _is_standing: impl FnOnce(),
    ) -> Result<Self, String> {
        let limits = &sizes.limits;
        let options = EpollOptions {
            connections_max: sizes.connections_max,
            receive_bytes: sizes.receive_bytes(),
            accepts_max: limits.accepts_armed_max,
            settle: sizes.settle,
            linger_bytes_max: limits.linger_bytes_max,
        };
        Self::new(&options, listeners)
            .map_err(|error| format!("the epoll engine cannot start: {error}"))
    }

    fn target(&self) -> EventWaker {
        self.wake_target()
    }

    fn connect(&mut self, member: Member, target: EventWaker) {
        Self::connect(self, member, target);
    }

    fn fixed_bytes(&self) -> usize {
        Self::fixed_bytes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_allowed_is_taken_and_says_why_not_the_others() {
        let old = |kind| (kind == Kind::Ring).then(|| "this kernel is too old".to_owned());
        let choice = Choice::first(&Kind::BEST_FIRST, old).unwrap();
        assert_eq!(choice.kind, Kind::TokioUring);
        assert_eq!(choice.reason, "better ones are refused; ring: this kernel is too old");
        let best = Choice::first(&Kind::BEST_FIRST, |_| None).unwrap();
        assert_eq!(best.kind, Kind::Ring);
        let none = Choice::first(&Kind::BEST_FIRST, |_| Some("no".to_owned())).unwrap_err();
        assert_eq!(none, "no engine can run here; ring: no; tokio-uring: no; epoll: no");
    }

    #[test]
    fn what_is_asked_for_is_not_tried() {
        let choice = Choice::new(cli::Engine::Epoll).unwrap();
        assert_eq!((choice.kind, choice.reason.as_str()), (Kind::Epoll, "asked for"));
    }

    #[test]
    fn sockets_are_what_was_asked_for_where_there_is_a_choice() {
        let kind = |engine: Kind, asked| engine.sockets(asked, false).map(|it| it.value);
        assert_eq!(kind(Kind::Ring, cli::SocketDescriptors::Direct), Ok(Sockets::Direct));
        assert_eq!(kind(Kind::Ring, cli::SocketDescriptors::Ordinary), Ok(Sockets::Ordinary));
        for engine in [Kind::TokioUring, Kind::Epoll] {
            assert_eq!(kind(engine, cli::SocketDescriptors::Direct), Ok(Sockets::Ordinary));
        }
        let with_arena = Kind::Ring.sockets(cli::SocketDescriptors::Auto, true);
        assert_eq!(with_arena.map(|it| it.value), Ok(Sockets::Ordinary));
    }

    #[test]
    fn those_that_this_kernel_allows_start_with_the_smallest_sizes() {
        assert_eq!(Kind::TokioUring.refusal(), None);
        assert_eq!(Kind::Epoll.refusal(), None);
    }
}
