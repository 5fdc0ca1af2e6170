//! What the others may know of a member: who has mail for it, and whether it is parked. The wake
//! rule of the crate's documentation is kept by [`Mailbox::announce`] and [`Mailbox::must_wake`]
//! on the producer's side, [`Mailbox::park`] and [`Mailbox::collect`] on the consumer's.

use crate::{
    line::Line,
    set::{MemberSet, WORD_MEMBERS, bit},
    sync::{AtomicBool, AtomicU64, Ordering, fence},
};

/// One member's mailbox, shared by all.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// True exactly when the member waits, or is about to, and nobody has undertaken to wake it.
    /// Changed by swaps alone: each comes after the last one, whoever made it, so the flag has one
    /// history for all. (A store would be as good for the hardware, but `loom` would not know
    /// whether it comes before or after another member's swap, and would follow both.)
    parked: Line<AtomicBool>,
    /// Senders that have posted since the member last collected: one bit each. A hint: a bit may
    /// stand for letters that have been taken, but no letter waits whose sender has no bit, here
    /// or in the member's own set.
    senders: Box<[Line<AtomicU64>]>,
}

impl Mailbox {
    /// The mailbox of one of `members`: no mail, not parked.
    pub(crate) fn new(members: usize) -> Self {
        let words = members.div_ceil(WORD_MEMBERS);
        Self {
            parked: Line(AtomicBool::new(false)),
            senders: (0..words).map(|_| Line(AtomicU64::new(0))).collect(),
        }
    }

    /// Producer: says that `sender` has put a letter into its queue.
    ///
    /// The bit is set even where it seems to stand already. A read-modify-write comes either
    /// before the swap in `collect`, which then sees the count of the letter (release, acquire),
    /// or after it, and then the bit stays for the next one. A mere look could be out of date.
    pub(crate) fn announce(&self, sender: usize) {
        self.senders[sender / WORD_MEMBERS].fetch_or(bit(sender), Ordering::Release);
    }

    /// Producer: whether this call has taken on to wake the member. Comes after
    /// [`order_letters_before_looks`].
    ///
    /// Relaxed is enough: the fences order the flag against the letters, and of several swaps
    /// one alone finds `true`. The load before it spares a member that runs the write.
    pub(crate) fn must_wake(&self) -> bool {
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed)
    }

    /// Consumer: declares that it is about to wait. It must look for letters after this.
    ///
    /// The fence is one half of a pair; the producer's is in [`order_letters_before_looks`].
    /// One of the two comes first. If it is this one, the producer's look at the flag comes after
    /// the flag was set, and it wakes. If it is the producer's, this member's look at the letters
    /// comes after they were announced, and it does not wait. Acquire and release alone would let
    /// both look too early: a store may pass a later load of another place.
    pub(crate) fn park(&self) {
        self.parked.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Consumer: declares that it does not wait. Letters that are posted now are met at the
    /// latest by the look of the next `park`, so nothing has to be ordered here.
    pub(crate) fn unpark(&self) {
        self.parked.swap(false, Ordering::Relaxed);
    }

    /// Consumer: moves the senders with mail into `senders`.
    pub(crate) fn collect(&self, senders: &mut MemberSet) {
        for (shared, own) in self.senders.iter().zip(senders.words_mut()) {
            // Most often there is nothing, and a load leaves the line with those who write it.
            if shared.load(Ordering::Relaxed) != 0 {
                *own |= shared.swap(0, Ordering::Acquire);
            }
        }
    }
}

/// Producer: orders all letters posted so far before every later [`Mailbox::must_wake`]. The
/// reason stands at [`Mailbox::park`]; a batch of letters needs it once.
pub(crate) fn order_letters_before_looks() {
    fence(Ordering::SeqCst);
}
