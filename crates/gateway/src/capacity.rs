//! How the bounds of the process and of a core become those of one worker, and how many
//! connections fit. Arithmetic only: what the machine allows comes in as numbers.

use std::collections::BTreeSet;

use engine_ring::Descriptors as Sockets;
use worker::Limits;

/// Descriptors of a worker that are not for connections within the share: they answer 503, and hold
/// the listeners and what the engine itself needs.
pub(crate) const DESCRIPTORS_SPARE: u32 = 64;

/// Descriptors of a worker at most, whatever RLIMIT_NOFILE says: the places of a ring's file table
/// (IORING_MAX_FIXED_FILES), and enough for any other engine.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Ordinary descriptors that are not the workers': two listeners of the control plane with 128
/// connections each, and what the process and its runtime hold.
const DESCRIPTORS_OF_PROCESS: u64 = 320;

/// Receive buffers of a core in bytes, unless a number of buffers is asked for.
const RECEIVE_BYTES_OF_CORE: u32 = 1 << 20;

/// The least that a worker's part of a core comes to, however many share it. Bounds that are asked
/// for may go lower.
const RECEIVE_BYTES_MIN: u32 = 128 << 10;
const COMPLETION_ENTRIES_MIN: u32 = 2048;
const MESH_LETTERS_MIN: u32 = 32;

/// The least that the engine and the mesh work with.
const RECEIVE_BUFFERS_FLOOR: u32 = 4;
const COMPLETION_ENTRIES_FLOOR: u32 = 16;
const MESH_LETTERS_FLOOR: u32 = 1;

/// Worker `n` belongs to the core `n mod cores`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// At least one.
    pub(crate) cores: Vec<usize>,
    /// At least one.
    pub(crate) workers: u16,
}

impl Layout {
    /// The core of a worker.
    pub(crate) fn core(&self, worker: u16) -> usize {
        self.cores[usize::from(worker) % self.cores.len()]
    }

    /// How many workers share the core of this one, itself included.
    fn workers_on_core_of(&self, worker: u16) -> u32 {
        let cores = self.cores.len();
        let before = usize::from(worker) % cores;
        let count = (usize::from(self.workers) - before).div_ceil(cores);
        u32::try_from(count).expect("there are at most 65,535 workers")
    }

    /// How many workers share the fullest core.
    fn workers_per_core(&self) -> u32 {
        self.workers_on_core_of(0)
    }
}

/// What RLIMIT_NOFILE means to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Descriptors {
    /// Each worker has a table of so many places, the process's own apart.
    OfWorker(u64),
    /// All workers share so many with everything else in the process.
    OfProcess(u64),
}

impl Descriptors {
    /// What RLIMIT_NOFILE means to sockets of this kind.
    pub(crate) fn of(sockets: Sockets, limit: u64) -> Self {
        match sockets {
            Sockets::Direct => Self::OfWorker(limit),
            Sockets::Ordinary => Self::OfProcess(limit),
        }
    }

    /// RLIMIT_NOFILE.
    pub(crate) fn limit(self) -> u64 {
        let (Self::OfWorker(limit) | Self::OfProcess(limit)) = self;
        limit
    }

    /// For the start line.
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::OfWorker(_) => "each worker has a table of its own of RLIMIT_NOFILE descriptors",
            Self::OfProcess(_) => "the workers share RLIMIT_NOFILE descriptors of the process",
        }
    }

    /// What helps where they are too few.
    pub(crate) fn cure(self) -> &'static str {
        match self {
            Self::OfWorker(_) => "raise RLIMIT_NOFILE (ulimit -n) or take more workers",
            Self::OfProcess(_) => "raise RLIMIT_NOFILE (ulimit -n)",
        }
    }

    /// The least RLIMIT_NOFILE with which so many workers hold so many connections.
    pub(crate) fn limit_for(self, connections: u32, workers: u16) -> u64 {
        let share = connections.div_ceil(workers.into());
        let of_worker = u64::from(share) + u64::from(DESCRIPTORS_SPARE);
        match self {
            Self::OfWorker(_) => of_worker,
            Self::OfProcess(_) => {
                let of_workers = of_worker * u64::from(workers);
                // The least of which a quarter leaves as many.
                of_workers + DESCRIPTORS_OF_PROCESS.min((of_workers - 1) / 3)
            }
        }
    }

    /// Those of one of so many workers.
    fn of_worker(self, workers: u16) -> u32 {
        let descriptors = match self {
            Self::OfWorker(limit) => limit,
            Self::OfProcess(limit) => {
                // Where there are few, the control plane makes do with a quarter.
                let of_process = DESCRIPTORS_OF_PROCESS.min(limit / 4);
                (limit - of_process) / u64::from(workers)
            }
        };
        u32::try_from(descriptors.min(DESCRIPTORS_MAX)).unwrap_or(u32::MAX)
    }

    /// Those of a worker that are neither connections nor listeners: the waker, and with ordinary
    /// ones what the engine waits on.
    fn of_engine(self) -> u32 {
        match self {
            Self::OfWorker(_) => 1,
            Self::OfProcess(_) => 2,
        }
    }
}

/// How many connections fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// What was asked for, or what the descriptors allow.
    pub(crate) connections_max: u64,
    /// Of one worker, all having the same.
    pub(crate) connections_max_of_worker: u32,
    /// Places of one worker beyond those, which only answer 503.
    pub(crate) surplus_of_worker: u32,
    /// True exactly when the workers cannot hold what was asked for.
    pub(crate) is_short: bool,
}

impl Capacity {
    /// Deals `asked` connections to `workers`, in equal shares that with several workers are 5 %
    /// larger, because SO_REUSEPORT deals unevenly.
    ///
    /// # Errors
    /// One sentence: so few descriptors leave no place for a connection.
    pub(crate) fn new(
        asked: Option<u32>,
        workers: u16,
        listeners: u16,
        descriptors: Descriptors,
        surplus_asked: u32,
    ) -> Result<Self, String> {
        let limit = descriptors.limit();
        let taken = u32::from(listeners) + descriptors.of_engine();
        let descriptors = descriptors.of_worker(workers);
        let share_max = descriptors.saturating_sub(DESCRIPTORS_SPARE);
        if share_max == 0 || taken >= DESCRIPTORS_SPARE {
            return Err(format!(
                "RLIMIT_NOFILE = {limit} leaves {descriptors} descriptors to each of {workers} \
                 workers, and so no place for connections beside {listeners} listeners: raise it \
                 (ulimit -n), listen on fewer addresses, or take fewer workers"
            ));
        }
        let connections_of_all = u64::from(share_max) * u64::from(workers);
        let connections_max = asked.map_or(connections_of_all, u64::from);
        let percent = if workers == 1 { 100 } else { 105 };
        let share = (connections_max * percent).div_ceil(100 * u64::from(workers));
        let share = u32::try_from(share).unwrap_or(u32::MAX).min(share_max);
        Ok(Self {
            connections_max,
            connections_max_of_worker: share,
            surplus_of_worker: surplus_asked.min(descriptors - taken - share),
            is_short: connections_max > connections_of_all,
        })
    }
}

/// The bounds of one worker: those of the process and of its core divided. `asked` names those
/// that the configuration sets, which may go below the minima of computed ones.
pub(crate) fn limits_of_worker(
    limits: &Limits,
    asked: &BTreeSet<String>,
    layout: &Layout,
    worker: u16,
    capacity: Capacity,
) -> Limits {
    let on_core = layout.workers_on_core_of(worker);
    let least = |name: &str, computed: u32, floor: u32| {
        if asked.contains(name) { floor } else { computed }
    };
    let buffers_min = RECEIVE_BYTES_MIN.div_ceil(limits.receive_buffer_bytes);
    Limits {
        receive_buffers: (limits.receive_buffers / on_core).max(least(
            "receive_buffers",
            buffers_min,
            RECEIVE_BUFFERS_FLOOR,
        )),
        completion_entries: (limits.completion_entries / on_core).max(least(
            "completion_entries",
            COMPLETION_ENTRIES_MIN,
            COMPLETION_ENTRIES_FLOOR,
        )),
        mesh_letters_max: (limits.mesh_letters_max / layout.workers_per_core()).max(least(
            "mesh_letters_max",
            MESH_LETTERS_MIN,
            MESH_LETTERS_FLOOR,
        )),
        send_queue_total_bytes_max: (limits.send_queue_total_bytes_max / u64::from(layout.workers))
            .max(1),
        surplus_connections_max: capacity.surplus_of_worker,
        ..limits.clone()
    }
}

/// Receive buffers of a core when no number is asked for.
pub(crate) fn receive_buffers_of_core(receive_buffer_bytes: u32) -> u32 {
    (RECEIVE_BYTES_OF_CORE / receive_buffer_bytes.max(1)).max(RECEIVE_BUFFERS_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::{
        Descriptors::{OfProcess, OfWorker},
        *,
    };

    fn layout(cores: usize, workers: u16) -> Layout {
        Layout { cores: (0..cores).collect(), workers }
    }

    fn capacity(asked: Option<u32>, workers: u16, descriptors: u64) -> Capacity {
        Capacity::new(asked, workers, 1, OfWorker(descriptors), 64).unwrap()
    }

    fn divided(cores: usize, workers: u16, worker: u16, limits: &Limits, asked: &[&str]) -> Limits {
        let asked = asked.iter().map(|name| (*name).to_owned()).collect();
        let capacity = capacity(Some(1000), workers, 20_000);
        limits_of_worker(limits, &asked, &layout(cores, workers), worker, capacity)
    }

    #[test]
    fn workers_are_dealt_to_cores_in_turn() {
        let layout = Layout { cores: vec![2, 5, 7], workers: 5 };
        let cores: Vec<usize> = (0..5).map(|worker| layout.core(worker)).collect();
        assert_eq!(cores, [2, 5, 7, 2, 5]);
        let sharing: Vec<u32> = (0..5).map(|worker| layout.workers_on_core_of(worker)).collect();
        assert_eq!(sharing, [2, 2, 1, 2, 2]);
        assert_eq!(layout.workers_per_core(), 2);
    }

    #[test]
    fn the_default_capacity_is_what_the_descriptors_allow() {
        let one = capacity(None, 1, 20_000);
        assert_eq!((one.connections_max, one.connections_max_of_worker), (19_936, 19_936));
        let many = capacity(None, 58, 20_000);
        assert_eq!((many.connections_max, many.connections_max_of_worker), (1_156_288, 19_936));
        assert!(!many.is_short);
    }

    #[test]
    fn several_workers_have_a_twentieth_more_than_an_equal_share() {
        assert_eq!(capacity(Some(10_000), 1, 20_000).connections_max_of_worker, 10_000);
        assert_eq!(capacity(Some(10_000), 2, 20_000).connections_max_of_worker, 5_250);
        assert_eq!(capacity(Some(10_000), 4, 20_000).connections_max_of_worker, 2_625);
        assert_eq!(capacity(Some(1), 2, 20_000).connections_max_of_worker, 1);
    }

    #[test]
    fn a_share_never_exceeds_the_descriptors() {
        let full = capacity(Some(39_872), 2, 20_000);
        assert_eq!((full.connections_max_of_worker, full.is_short), (19_936, false));
        let short = capacity(Some(39_873), 2, 20_000);
        assert_eq!((short.connections_max_of_worker, short.is_short), (19_936, true));
    }

    #[test]
    fn a_table_never_exceeds_what_a_ring_may_register() {
        let huge = capacity(None, 1, 1_073_741_816);
        assert_eq!(huge.connections_max_of_worker, 1_048_512);
    }

    /// 20,000 less 320, divided by the workers, less 64 each.
    #[test]
    fn ordinary_descriptors_are_shared_by_all_workers() {
        let shared =
            |workers, limit| Capacity::new(None, workers, 1, OfProcess(limit), 64).unwrap();
        let one = shared(1, 20_000);
        assert_eq!((one.connections_max, one.connections_max_of_worker), (19_616, 19_616));
        // A listener, an epoll instance and a waker are of the 64.
        assert_eq!(one.surplus_of_worker, 61);
        let two = shared(2, 20_000);
        assert_eq!((two.connections_max, two.connections_max_of_worker), (19_552, 9_776));
        // A quarter for the control plane, where a quarter is less than 320.
        assert_eq!(shared(1, 1024).connections_max, 768 - 64);
        let full = Capacity::new(Some(19_553), 2, 1, OfProcess(20_000), 64).unwrap();
        assert!(full.is_short);
        Capacity::new(None, 16, 1, OfProcess(1024), 64).unwrap_err();
    }

    #[test]
    fn the_limit_for_a_number_of_connections_allows_them_and_one_less_does_not() {
        for (connections, workers) in [(1, 1), (236, 1), (1000, 3), (100_000, 1), (100_000, 6)] {
            for kind in [OfWorker, OfProcess] {
                let limit = kind(0).limit_for(connections, workers);
                let held = |limit| {
                    let capacity = Capacity::new(None, workers, 1, kind(limit), 64);
                    capacity.map_or(0, |capacity| capacity.connections_max)
                };
                let [enough, less] = [limit, limit - 1].map(held);
                assert!(less < connections.into(), "{connections} {workers}: {limit}, {less}");
                assert!(enough >= connections.into(), "{connections} {workers}: {limit}, {enough}");
            }
        }
    }

    #[test]
    fn the_surplus_gives_way_to_listeners_and_waker() {
        // 20,000 places: 19,936 connections, one listener, one waker, 62 left.
        assert_eq!(capacity(None, 1, 20_000).surplus_of_worker, 62);
        assert_eq!(Capacity::new(None, 1, 3, OfWorker(20_000), 64).unwrap().surplus_of_worker, 60);
        assert_eq!(capacity(Some(1000), 1, 20_000).surplus_of_worker, 64);
        assert_eq!(
            Capacity::new(Some(1000), 1, 1, OfWorker(20_000), 2).unwrap().surplus_of_worker,
            2
        );
    }

    #[test]
    fn too_few_descriptors_are_refused() {
        assert!(Capacity::new(None, 1, 1, OfWorker(64), 64).is_err());
        assert!(Capacity::new(None, 1, 1, OfWorker(65), 64).is_ok());
        assert!(Capacity::new(None, 1, 63, OfWorker(20_000), 64).is_err());
    }

    #[test]
    fn bounds_of_a_core_are_divided_among_its_workers() {
        let limits = Limits::default();
        let alone = divided(2, 2, 0, &limits, &[]);
        assert_eq!(alone.receive_buffers, 1024);
        assert_eq!(alone.completion_entries, 16_384);
        assert_eq!(alone.mesh_letters_max, 1024);
        let four = divided(2, 8, 0, &limits, &[]);
        assert_eq!(four.receive_buffers, 256);
        assert_eq!(four.completion_entries, 4096);
        assert_eq!(four.mesh_letters_max, 256);
    }

    #[test]
    fn computed_bounds_have_a_minimum() {
        let crowded = divided(1, 58, 0, &Limits::default(), &[]);
        assert_eq!(crowded.receive_buffers, 128);
        assert_eq!(crowded.completion_entries, 2048);
        assert_eq!(crowded.mesh_letters_max, 32);
    }

    #[test]
    fn bounds_that_are_asked_for_may_go_below_the_minimum() {
        let limits = Limits {
            receive_buffers: 8,
            completion_entries: 16,
            mesh_letters_max: 2,
            ..Limits::default()
        };
        let asked = ["receive_buffers", "completion_entries", "mesh_letters_max"];
        let small = divided(1, 2, 1, &limits, &asked);
        assert_eq!(small.receive_buffers, 4);
        assert_eq!(small.completion_entries, 16);
        assert_eq!(small.mesh_letters_max, 1);
    }

    #[test]
    fn workers_of_an_emptier_core_have_more_of_it() {
        let limits = Limits::default();
        assert_eq!(divided(2, 3, 0, &limits, &[]).receive_buffers, 512);
        assert_eq!(divided(2, 3, 1, &limits, &[]).receive_buffers, 1024);
        // A queue between two workers is as long in both directions.
        assert_eq!(divided(2, 3, 1, &limits, &[]).mesh_letters_max, 512);
    }

    #[test]
    fn the_send_queue_budget_is_divided_among_all_workers() {
        let limits = Limits::default();
        assert_eq!(divided(2, 4, 3, &limits, &[]).send_queue_total_bytes_max, 67_108_864);
    }

    #[test]
    fn receive_buffers_of_a_core_are_a_mebibyte() {
        assert_eq!(receive_buffers_of_core(1024), 1024);
        assert_eq!(receive_buffers_of_core(4096), 256);
        assert_eq!(receive_buffers_of_core(1 << 24), 4);
    }
}
