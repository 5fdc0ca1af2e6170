//! Every bound of the gateway, with its unit and default, and what must hold between them. All are
//! keys of the `[limits]` table of the configuration and gauges of the control plane.

use serde::{Deserialize, Serialize};

use crate::operation::OFFER_TARGETS_MAX;

/// The bounds. Those marked *process* are divided among the workers before a worker gets them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Submission queue entries of a ring; at least 8.
    pub submission_entries: u32,
    /// Completion queue entries of a core, divided among its workers; at least 16.
    pub completion_entries: u32,
    /// Receive buffers of a core, divided among its workers; at least 4.
    pub receive_buffers: u32,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: u32,
    /// One-shot accepts armed on a listener; at most 4,096.
    pub accepts_armed_max: u32,
    /// Connections that wait to be accepted on a listener.
    pub listen_backlog: u32,
    /// Bytes of a connection that the kernel takes before it has sent the earlier ones
    /// (TCP_NOTSENT_LOWAT, tcp(7)); at least 1, since 0 leaves it to the kernel's own setting. Those
    /// that are on their way come on top.
    pub unsent_bytes_max: u32,
    /// Slots beyond a worker's share of connections; they only answer 503.
    pub surplus_connections_max: u32,
    /// Bytes of a request head.
    pub handshake_bytes_max: u32,
    /// Bytes of a PROXY header; at least 28, one for IPv4.
    pub proxy_header_bytes_max: u32,
    /// Bytes of all request heads of a worker that are incomplete, or wait for a verification.
    pub handshake_total_bytes_max: u64,
    /// Requests whose tokens a worker verifies in a turn; at most 1,024.
    pub verifications_max: u32,
    /// Bytes of a message.
    pub message_bytes_max: u32,
    /// Frames of one connection decoded in a turn; every KiB of a message counts as one more. At most
    /// 4,096.
    pub receive_frames_max: u32,
    /// Bytes of all incomplete messages of a worker, and of what clients have sent that is decoded
    /// later: by who is paused, or beyond a share of a turn.
    pub partial_total_bytes_max: u64,
    /// Bytes queued for one connection, and the charge of every frame but one. Who has more, and
    /// nothing that its policy lets go of, is closed at once, and before the Close frame may still
    /// have queued what comes back of its last turn's replies: messages joined with a pong are
    /// neither dropped nor cut. Those are answers to one share of what it sends, at most 1,028 bytes
    /// for each of `receive_frames_max` and one message; two shares if it was paused and resumed in
    /// that turn; and, if it was just moved, all that it was owed, at most `fanout_bytes_max` and
    /// what one turn brings beyond it. All of it counts against `send_queue_total_bytes_max`.
    pub send_queue_bytes_max: u64,
    /// *Process.* Bytes queued for all connections.
    pub send_queue_total_bytes_max: u64,
    /// What a queued frame is charged beside its bytes.
    pub send_queue_frame_charge_bytes: u32,
    /// The most bytes handed to a socket in one send out of its queue.
    pub send_bytes_max: u32,
    /// Publications of a worker that wait for their fan-out or are in it.
    pub fanout_publications_max: u32,
    /// Bytes of those publications.
    pub fanout_bytes_max: u64,
    /// Subscribers offered a frame between two looks at everything else; at most 512.
    pub fanout_targets_max: u32,
    /// Bytes of publications of one topic joined into one offer.
    pub coalesce_bytes_max: u32,
    /// Messages of fewer bytes are never compressed.
    pub compression_bytes_min: u32,
    /// Letters between two workers, divided by the workers per core; at least 32, at most 65,536.
    pub mesh_letters_max: u32,
    /// Bytes read and thrown away after our Close, waiting for the peer's.
    pub linger_bytes_max: u32,
    /// Shutdowns in flight at once; each occupies a kernel worker thread for a moment.
    pub shutdowns_max: u32,
    /// One connection in so many may receive by multishot.
    pub multishot_share: u32,
    /// Messages within a second that promote a connection to multishot; 0 never promotes.
    pub multishot_messages_min: u32,
    /// Frames of so many bytes or more are sent without a copy, on an engine that can; 0: none are.
    pub zero_copy_bytes_min: u32,
    /// Bytes of such frames that are out at once on a worker, rounded up to 2 MiB; at most 1 GiB.
    pub zero_copy_arena_bytes: u32,
    /// Topics of one connection; at most 65,535.
    pub topics_per_connection_max: u32,
    /// Bytes of a topic's name.
    pub topic_bytes_max: u32,
    /// Entries of one page of a listing.
    pub listing_entries_max: u32,
    /// Messages of one batch publication.
    pub batch_messages_max: u32,
    /// Bytes of one batch publication's body.
    pub batch_bytes_max: u32,
    /// *Process.* Subjects of tokens that are blocked at once.
    pub blocked_subs_max: u32,
    /// Closes logged a second and reason.
    pub closes_logged_max: u32,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// The defaults, as constants so that the assertions below see them.
const DEFAULT: Limits = Limits {
    submission_entries: 1024,
    completion_entries: 16_384,
    receive_buffers: 1024,
    receive_buffer_bytes: KIB,
    accepts_armed_max: 32,
    listen_backlog: 4096,
    // A stalled reader holds 45,056 B of the kernel's (`kernel-tuning/measure.py unsent`).
    unsent_bytes_max: 16 * KIB,
    surplus_connections_max: 64,
    handshake_bytes_max: 16 * KIB,
    // What fits a segment of the smallest kind (section 2.2 of the PROXY protocol).
    proxy_header_bytes_max: 536,
    handshake_total_bytes_max: 4 * MIB as u64,
    // 4 ms of the slowest kind.
    verifications_max: 64,
    message_bytes_max: 64 * KIB,
    receive_frames_max: 64,
    partial_total_bytes_max: 64 * MIB as u64,
    send_queue_bytes_max: 256 * KIB as u64,
    send_queue_total_bytes_max: 256 * MIB as u64,
    send_queue_frame_charge_bytes: 64,
    send_bytes_max: 32 * KIB,
    fanout_publications_max: 4096,
    fanout_bytes_max: 32 * MIB as u64,
    fanout_targets_max: 64,
    coalesce_bytes_max: 16 * KIB,
    // Below, a quarter is not saved: measured, see ARCHITECTURE.
    compression_bytes_min: 128,
    mesh_letters_max: 1024,
    linger_bytes_max: 256 * KIB,
    shutdowns_max: 64,
    multishot_share: 16,
    multishot_messages_min: 8,
    // What it costs where the kernel copies all the same is certain: see ARCHITECTURE.
    zero_copy_bytes_min: 0,
    zero_copy_arena_bytes: 8 * MIB,
    topics_per_connection_max: 64,
    topic_bytes_max: 255,
    listing_entries_max: 1000,
    batch_messages_max: 1000,
    batch_bytes_max: 8 * MIB,
    blocked_subs_max: 100_000,
    closes_logged_max: 10,
};

/// More sends in one turn let everything else wait for milliseconds.
const FANOUT_TARGETS_MAX: u32 = 512;

/// As many entries of a table of the engine are reserved for each listener.
const ACCEPTS_ARMED_MAX: u32 = 4096;

/// More frames of one connection let everybody else wait for milliseconds, which a share is to
/// prevent.
const RECEIVE_FRAMES_MAX: u32 = 4096;

/// Room for so many letters is reserved between any two members of the mesh.
const MESH_LETTERS_MAX: u32 = 65_536;

/// More verifications let everything else wait for a tenth of a second.
const VERIFICATIONS_MAX: u32 = 1024;

/// A shorter frame fills less than a quarter of the page that it would occupy.
const ZERO_COPY_BYTES_LEAST: u32 = KIB;

/// What the kernel takes as one registered buffer.
const ZERO_COPY_ARENA_BYTES_MAX: u32 = 1024 * MIB;

/// A connection's record has 16 bits for how many topics it has.
const TOPICS_PER_CONNECTION_MAX: u32 = u16::MAX as u32;

/// The longest header of a server frame (RFC 6455 section 5.2): 2 bytes and a 64-bit length, and 4
/// more that a client's mask would take.
pub const FRAME_HEADER_BYTES_MAX: u32 = 14;

const _: () = assert!(
    DEFAULT.send_queue_bytes_max >= (DEFAULT.message_bytes_max + FRAME_HEADER_BYTES_MAX) as u64,
    "a message must fit the queue of a connection that reads slowly"
);
const _: () = assert!(
    DEFAULT.fanout_bytes_max >= (DEFAULT.message_bytes_max + FRAME_HEADER_BYTES_MAX) as u64,
    "a message must fit the fan-out"
);
const _: () = assert!(
    DEFAULT.partial_total_bytes_max >= DEFAULT.message_bytes_max as u64,
    "one incomplete message must fit the pool"
);
const _: () = assert!(
    DEFAULT.handshake_total_bytes_max >= DEFAULT.handshake_bytes_max as u64,
    "one incomplete head must fit the pool"
);
const _: () = assert!(DEFAULT.verifications_max <= VERIFICATIONS_MAX);
const _: () = assert!(DEFAULT.fanout_targets_max <= FANOUT_TARGETS_MAX);
const _: () = assert!(
    DEFAULT.fanout_targets_max as usize >= OFFER_TARGETS_MAX,
    "a turn offers a frame to as many as one operation can name"
);
const _: () = assert!(DEFAULT.completion_entries >= 2 * DEFAULT.submission_entries);
const _: () = assert!(
    DEFAULT.fanout_targets_max < DEFAULT.submission_entries,
    "a chunk must fit the submission queue with room for everything else"
);

/// Two limits that do not fit together, or one out of its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitError(String);

impl std::fmt::Display for LimitError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for LimitError {}

impl Default for Limits {
    fn default() -> Self {
        DEFAULT
    }
}

impl Limits {
    /// Those that may change while a gateway runs, by name: each is only compared with when
    /// something arrives or is made. The others have sized a table, a queue or a ring, are charged
    /// and given back, or must not fall below what is on its way.
    pub const CHANGEABLE: [&str; 14] = [
        "handshake_bytes_max",
        "proxy_header_bytes_max",
        "handshake_total_bytes_max",
        "verifications_max",
        "message_bytes_max",
        "partial_total_bytes_max",
        "send_queue_bytes_max",
        "send_queue_total_bytes_max",
        "send_bytes_max",
        "topics_per_connection_max",
        "topic_bytes_max",
        "listing_entries_max",
        "batch_messages_max",
        "closes_logged_max",
    ];

    /// Takes those of [`Self::CHANGEABLE`] over.
    pub fn adopt(&mut self, other: &Self) {
        *self = Self {
            handshake_bytes_max: other.handshake_bytes_max,
            proxy_header_bytes_max: other.proxy_header_bytes_max,
            handshake_total_bytes_max: other.handshake_total_bytes_max,
            verifications_max: other.verifications_max,
            message_bytes_max: other.message_bytes_max,
            partial_total_bytes_max: other.partial_total_bytes_max,
            send_queue_bytes_max: other.send_queue_bytes_max,
            send_queue_total_bytes_max: other.send_queue_total_bytes_max,
            send_bytes_max: other.send_bytes_max,
            topics_per_connection_max: other.topics_per_connection_max,
            topic_bytes_max: other.topic_bytes_max,
            listing_entries_max: other.listing_entries_max,
            batch_messages_max: other.batch_messages_max,
            closes_logged_max: other.closes_logged_max,
            ..self.clone()
        };
    }

    /// Checks what the compiler checks of the defaults.
    ///
    /// # Errors
    /// Names the limit that is out of range, or the two that contradict each other.
    pub fn check(&self) -> Result<(), LimitError> {
        let at_least = |name: &str, value: u64, least: u64| {
            if value >= least {
                return Ok(());
            }
            Err(LimitError(format!("{name} is {value}, and must be at least {least}")))
        };
        at_least("submission_entries", self.submission_entries.into(), 8)?;
        at_least("completion_entries", self.completion_entries.into(), 16)?;
        if self.completion_entries < self.submission_entries {
            return Err(LimitError(format!(
                "completion_entries is {}, and must be at least submission_entries, {}",
                self.completion_entries, self.submission_entries
            )));
        }
        at_least("receive_buffers", self.receive_buffers.into(), 4)?;
        at_least("receive_buffer_bytes", self.receive_buffer_bytes.into(), 64)?;
        at_least("accepts_armed_max", self.accepts_armed_max.into(), 1)?;
        at_least("listen_backlog", self.listen_backlog.into(), 1)?;
        at_least("unsent_bytes_max", self.unsent_bytes_max.into(), 1)?;
        at_least("handshake_bytes_max", self.handshake_bytes_max.into(), 128)?;
        at_least("proxy_header_bytes_max", self.proxy_header_bytes_max.into(), 28)?;
        at_least(
            "handshake_total_bytes_max",
            self.handshake_total_bytes_max,
            self.handshake_bytes_max.into(),
        )?;
        at_least("verifications_max", self.verifications_max.into(), 1)?;
        at_least("message_bytes_max", self.message_bytes_max.into(), 1)?;
        at_least("receive_frames_max", self.receive_frames_max.into(), 1)?;
        let frame_bytes_max = u64::from(self.message_bytes_max) + u64::from(FRAME_HEADER_BYTES_MAX);
        at_least("send_queue_bytes_max", self.send_queue_bytes_max, frame_bytes_max)?;
        at_least("send_queue_total_bytes_max", self.send_queue_total_bytes_max, 1)?;
        at_least("send_bytes_max", self.send_bytes_max.into(), 1)?;
        at_least("fanout_bytes_max", self.fanout_bytes_max, frame_bytes_max)?;
        at_least("fanout_publications_max", self.fanout_publications_max.into(), 1)?;
        at_least("fanout_targets_max", self.fanout_targets_max.into(), 1)?;
        at_least("mesh_letters_max", self.mesh_letters_max.into(), 1)?;
        at_least("shutdowns_max", self.shutdowns_max.into(), 1)?;
        at_least("multishot_share", self.multishot_share.into(), 1)?;
        if self.zero_copy_bytes_min > 0 {
            let least = ZERO_COPY_BYTES_LEAST.into();
            at_least("zero_copy_bytes_min", self.zero_copy_bytes_min.into(), least)?;
        }
        at_least("topics_per_connection_max", self.topics_per_connection_max.into(), 1)?;
        at_least("topic_bytes_max", self.topic_bytes_max.into(), 1)?;
        at_least("listing_entries_max", self.listing_entries_max.into(), 1)?;
        at_least("batch_messages_max", self.batch_messages_max.into(), 1)?;
        at_least(
            "partial_total_bytes_max",
            self.partial_total_bytes_max,
            self.message_bytes_max.into(),
        )?;
        let at_most = |name: &str, value: u32, most: u32| {
            if value <= most {
                return Ok(());
            }
            Err(LimitError(format!("{name} is {value}, and must be at most {most}")))
        };
        at_most("accepts_armed_max", self.accepts_armed_max, ACCEPTS_ARMED_MAX)?;
        at_most("receive_frames_max", self.receive_frames_max, RECEIVE_FRAMES_MAX)?;
        at_most("mesh_letters_max", self.mesh_letters_max, MESH_LETTERS_MAX)?;
        at_most("verifications_max", self.verifications_max, VERIFICATIONS_MAX)?;
        at_most("fanout_targets_max", self.fanout_targets_max, FANOUT_TARGETS_MAX)?;
        at_most("zero_copy_arena_bytes", self.zero_copy_arena_bytes, ZERO_COPY_ARENA_BYTES_MAX)?;
        at_most(
            "topics_per_connection_max",
            self.topics_per_connection_max,
            TOPICS_PER_CONNECTION_MAX,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reserves_memory_or_holds_up_a_turn_has_an_upper_bound() {
        type Set = fn(&mut Limits, u32);
        let bounds: [(&str, u32, Set); 6] = [
            ("accepts_armed_max", 4096, |limits, value| limits.accepts_armed_max = value),
            ("receive_frames_max", 4096, |limits, value| limits.receive_frames_max = value),
            ("mesh_letters_max", 65_536, |limits, value| limits.mesh_letters_max = value),
            ("verifications_max", 1024, |limits, value| limits.verifications_max = value),
            ("fanout_targets_max", 512, |limits, value| limits.fanout_targets_max = value),
            ("topics_per_connection_max", 65_535, |limits, value| {
                limits.topics_per_connection_max = value;
            }),
        ];
        for (name, most, set) in bounds {
            let with = |value| {
                let mut limits = Limits::default();
                set(&mut limits, value);
                limits.check().map_err(|error| error.to_string())
            };
            assert_eq!(with(most), Ok(()), "{name}");
            let told = format!("{name} is {}, and must be at most {most}", most + 1);
            assert_eq!(with(most + 1), Err(told));
            assert!(with(0).is_err_and(|error| error.ends_with("at least 1")), "{name}");
        }
    }
}
