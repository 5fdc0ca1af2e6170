//! Clients that behave badly for as long as they are there: on one thread that gives way to
//! everything else on its core, so that what they cost is the server's and not the load's.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::thread::CpuSet;

use super::peers;
use crate::failure::{Failure, Outcome};
use crate::frame;
use crate::url::Url;

/// Receive buffer of those that read little or nothing.
const RECEIVE_BUFFER_BYTES: usize = 4096;
/// How soon they notice that it is over.
const NOTICE: Duration = Duration::from_millis(100);
/// Bytes that a flood hands to its socket at once.
const BLOCK_BYTES: usize = 64 << 10;
/// Payload of a flood's messages.
const FLOOD_BYTES: usize = 64;
/// Fragments of a message of a byte each: as many as a message may have bytes by default.
const FRAGMENTS: usize = 64 << 10;

/// What they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Never read.
    Still,
    /// Read a byte a second each.
    Trickle,
    /// Reset and connect again, so many times a second in all.
    Reconnect { rate: u32 },
    /// One of them publishes as fast as it can, to a topic of its own.
    Flood,
    /// One of them sends messages in fragments of one byte, as fast as it can.
    Fragments,
    /// One of them sends pings as fast as it can, and reads no pong.
    Pings,
}

/// The bad ones of a run; dropping ends them.
#[derive(Debug)]
pub(super) struct Bad {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome<()>>>,
}

impl Bad {
    /// Opens `count` of them on `room`, or those that send one on a topic of its own, and lets them
    /// begin, on `core`.
    pub(super) fn start(
        behaviour: Behaviour,
        count: u32,
        room: &Url,
        core: Option<usize>,
    ) -> Outcome<Bad> {
        let url = match behaviour {
            Behaviour::Flood | Behaviour::Fragments | Behaviour::Pings => {
                Url::parse(&format!("ws://{}/ws/bad?own=off", room.host))?
            }
            _ => room.clone(),
        };
        let is_alone = url.target != room.target;
        let buffer = (behaviour != Behaviour::Flood).then_some(RECEIVE_BUFFER_BYTES);
        let streams = (0..if is_alone { 1 } else { count })
            .map(|number| peers::open(&url, number, buffer, None))
            .collect::<Outcome<Vec<TcpStream>>>()?;
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut work = Work { url, streams, over: Arc::clone(&over), done: Arc::clone(&done) };
        let thread = thread::spawn(move || {
            give_way(core)?;
            work.run(behaviour)
        });
        Ok(Bad { over, done, thread: Some(thread) })
    }

    /// Ends them, and says how often they did what they do: bytes read or sent, connections reset.
    ///
    /// # Errors
    ///
    /// They could not go on behaving badly, other than by being thrown out.
    pub(super) fn end(mut self) -> Outcome<u64> {
        self.over.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome?,
            Some(Err(_)) => return Err(Failure::run("the bad clients panicked")),
            None => {}
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    url: Url,
    streams: Vec<TcpStream>,
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Work {
    fn run(&mut self, behaviour: Behaviour) -> Outcome<()> {
        match behaviour {
            Behaviour::Still => {
                while !self.is_over() {
                    thread::sleep(NOTICE);
                }
                Ok(())
            }
            Behaviour::Trickle => self.trickle(),
            Behaviour::Reconnect { rate } => self.reconnect(rate),
            Behaviour::Flood => {
                let mut message = Vec::new();
                frame::write_message(&[b'x'; FLOOD_BYTES], &mut message);
                self.send(&message.repeat(BLOCK_BYTES / message.len()))
            }
            Behaviour::Fragments => self.send(&fragments()),
            Behaviour::Pings => self.send(&[0x89, 0x80, 0, 0, 0, 0].repeat(BLOCK_BYTES / 6)),
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn trickle(&mut self) -> Outcome<()> {
        for stream in &self.streams {
            stream.set_nonblocking(true)?;
        }
        while !self.is_over() {
            for stream in &mut self.streams {
                // Whom the server has dropped has nothing more to read.
                let read = stream.read(&mut [0]).unwrap_or(0);
                self.done.fetch_add(read as u64, Ordering::Relaxed);
            }
            for _ in 0..10 {
                if !self.is_over() {
                    thread::sleep(NOTICE);
                }
            }
        }
        Ok(())
    }

    fn reconnect(&mut self, rate: u32) -> Outcome<()> {
        let pause = Duration::from_secs(1) / rate.max(1);
        let mut number = 0;
        while !self.is_over() {
            // Dropping resets.
            drop(self.streams.swap_remove(0));
            self.streams.push(peers::open(&self.url, number, Some(RECEIVE_BUFFER_BYTES), None)?);
            number += 1;
            self.done.fetch_add(1, Ordering::Relaxed);
            thread::sleep(pause);
        }
        Ok(())
    }

    /// Sends `block` again and again from the first of them.
    fn send(&mut self, block: &[u8]) -> Outcome<()> {
        let stream = &mut self.streams[0];
        stream.set_write_timeout(Some(NOTICE))?;
        let mut sent = 0;
        while !self.over.load(Ordering::Relaxed) {
            match stream.write(&block[sent..]) {
                Ok(count) => {
                    sent = (sent + count) % block.len();
                    self.done.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                // Thrown out.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// A message of [`FRAGMENTS`] bytes in frames of one, masked with nothing (RFC 6455 section 5.4).
fn fragments() -> Vec<u8> {
    let frame = |first: u8| [first, 0x81, 0, 0, 0, 0, b'x'];
    let mut bytes = frame(0x01).to_vec();
    bytes.extend(frame(0x00).repeat(FRAGMENTS - 2));
    bytes.extend(frame(0x80));
    bytes
}

/// Runs this thread on `core`, behind everything else there.
fn give_way(core: Option<usize>) -> Outcome<()> {
    if let Some(core) = core {
        let mut cpus = CpuSet::new();
        cpus.set(core);
        rustix::thread::sched_setaffinity(None, &cpus)
            .map_err(|error| Failure::run(format!("core {core}: {error}")))?;
    }
    // On Linux this is of the thread (sched(7)).
    rustix::process::nice(19).map_err(Failure::run)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_fragments_has_one_beginning_and_one_end() {
        let bytes = fragments();
        assert_eq!(bytes.len(), 7 * FRAGMENTS);
        let firsts: Vec<u8> = bytes.chunks(7).map(|frame| frame[0]).collect();
        assert_eq!((firsts[0], firsts[FRAGMENTS - 1]), (0x01, 0x80));
        assert!(firsts[1..FRAGMENTS - 1].iter().all(|first| *first == 0x00));
    }
}
