//! What a ring says when it starts, and when it cannot.

use std::thread;

use crate::{Descriptors, RingEngine, RingOptions, StartError, engine::Start};

use super::rig::{Rig, listener, loopback, options, started};

/// Makes one system call fail for this thread, as a container's profile does.
#[expect(unsafe_code, reason = "a seccomp filter is passed by address")]
fn filter(call: libc::c_long, errno: i32) {
    // Loads the number of the call; answers with the errno where it is `call`, else allows it.
    let number = u32::try_from(call).unwrap();
    let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let mut program = [
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: answer },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: the call takes no address.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel copies the program, which lives until the end of this function.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(done, 0);
}

fn refusal(
    call: libc::c_long,
    errno: i32,
    start: impl FnOnce() -> Result<(), StartError> + Send + 'static,
) -> StartError {
    thread::spawn(move || {
        filter(call, errno);
        start().unwrap_err()
    })
    .join()
    .unwrap()
}

#[test]
fn a_seccomp_filter_is_named() {
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let options = options();
            let start = move || RingEngine::new(&options, Vec::new()).map(drop);
            let probe = || Descriptors::probe().map(drop);
            for refusal in [refusal(call, errno, start), refusal(call, errno, probe)] {
                assert!(matches!(refusal, StartError::Filtered { .. }), "{call}: {refusal:?}");
                let sentence = refusal.to_string();
                assert!(sentence.contains("seccomp filter") && sentence.contains("io_uring_setup"));
            }
        }
    }
}

#[test]
fn a_ring_beyond_the_descriptor_limit_is_named() {
    for descriptors in [Descriptors::Direct, Descriptors::Ordinary] {
        let options = RingOptions { descriptors, connections_max: 1 << 30, ..options() };
        let refusal = RingEngine::new(&options, Vec::new()).map(drop).unwrap_err();
        assert!(matches!(refusal, StartError::DescriptorLimit { .. }), "{refusal:?}");
        assert!(refusal.to_string().contains("1073741825 connections and listeners"), "{refusal}");
    }
}

#[test]
fn this_kernel_sends_inline() {
    let rig = Rig::new(&options());
    let said = "whole sends complete inline, without a completion";
    assert!(rig.engine.notes().iter().any(|note| note == said), "{:?}", rig.engine.notes());
}

#[test]
fn where_the_self_test_fails_the_start_says_so() {
    let rig = started(&options(), listener(loopback()), Start { inline: false, ..Start::USUAL });
    let note = rig.engine.notes().last().unwrap();
    assert!(note.contains("completed one by one"), "{note}");
}

#[test]
fn a_completion_queue_is_never_smaller_than_what_is_submitted() {
    let mut rig = Rig::new(&RingOptions { completion_entries: 16, ..options() });
    rig.client();
}

#[test]
fn many_rings_of_one_thread_come_and_go() {
    for _ in 0..50 {
        let rig = Rig::new(&options());
        assert!(rig.engine.fixed_bytes() > 2048 * 16);
        drop(rig);
    }
}
