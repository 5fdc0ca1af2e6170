//! A listener that is about to be closed takes who is in the middle of the TCP handshake and lets
//! nobody new in: their clients repeat the SYN a second later, when another process may have the
//! address to itself.

use std::{io, os::fd::AsFd};

use socket2::{SockFilter, SockRef};

/// Lets the kernel drop SYNs for this listener, and nothing else. What is accepted inherits the
/// filter, which no SYN comes to any more.
///
/// # Errors
/// The kernel takes no filter.
pub(crate) fn drop_syns(listener: &impl AsFd) -> io::Result<()> {
    SockRef::from(listener).attach_filter(&SYN_FILTER)
}

/// Classic BPF over the TCP header: byte 13 holds the flags (RFC 9293 section 3.1), 0x02 is SYN and
/// 0x10 is ACK; 0 bytes of a packet are kept where SYN stands alone, else all.
const SYN_FILTER: [SockFilter; 5] = [
    SockFilter::new(BPF_LOAD_BYTE, 0, 0, 13),
    SockFilter::new(BPF_AND, 0, 0, 0x12),
    SockFilter::new(BPF_JUMP_EQUAL, 0, 1, 0x02),
    SockFilter::new(BPF_RETURN, 0, 0, 0),
    SockFilter::new(BPF_RETURN, 0, 0, u32::MAX),
];

// Instructions (linux/bpf_common.h): BPF_LD | BPF_B | BPF_ABS and so on.
const BPF_LOAD_BYTE: u16 = 0x30;
const BPF_AND: u16 = 0x54;
const BPF_JUMP_EQUAL: u16 = 0x15;
const BPF_RETURN: u16 = 0x06;
