//! The publisher of a rolling restart: posts every publication to each control plane that is there,
//! as an operator does who runs two processes side by side; one that ends is left out from then on.
//! Every room gets its messages numbered from 0, and each tick remembers when it was posted and
//! when it was taken.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::{Failure, Outcome};
use crate::payload::now_ns;

/// How many rooms take turns.
pub(super) const ROOMS: u32 = 100;
/// Publications of a tick, each to another room.
const PER_TICK: u32 = 10;
/// 100 ticks a second: 1,000 publications a second.
const TICK_NS: u64 = 10_000_000;
/// Ticks until a room gets its next message.
const TICKS_PER_ROUND: u32 = ROOMS / PER_TICK;
const PATIENCE: Duration = Duration::from_secs(30);

/// When a tick was posted, and when the last process had taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

/// A thread that publishes until it is told to stop.
pub(super) struct Publisher {
    new_planes: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<Vec<Posted>>>,
}

/// A control plane and the connection to it.
struct Plane {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Publisher {
    /// Begins, with one process.
    pub(super) fn start(plane: SocketAddr) -> Publisher {
        let new_planes = Arc::new(Mutex::new(vec![plane]));
        let stop = Arc::new(AtomicBool::new(false));
        let (added, stopped) = (Arc::clone(&new_planes), Arc::clone(&stop));
        let thread = thread::spawn(move || publish(&added, &stopped));
        Publisher { new_planes, stop, thread }
    }

    /// From now on this process gets everything too.
    pub(super) fn add(&self, plane: SocketAddr) -> Outcome<()> {
        let mut planes =
            self.new_planes.lock().map_err(|_| Failure::run("the publisher has died"))?;
        planes.push(plane);
        Ok(())
    }

    /// Ends it, and says when each tick was posted. A whole number of rounds: every room has got as
    /// many messages as any other.
    pub(super) fn finish(self) -> Outcome<Vec<Posted>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::run("the publisher has died"))?
    }
}

/// The tick in which a room got the message of this number.
pub(super) fn tick_of(room: u32, number: u32) -> usize {
    (number * TICKS_PER_ROUND + room / PER_TICK) as usize
}

/// How many messages each room has got after so many ticks.
pub(super) fn numbers(ticks: usize) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX) / TICKS_PER_ROUND
}

fn publish(added: &Mutex<Vec<SocketAddr>>, stop: &AtomicBool) -> Outcome<Vec<Posted>> {
    let mut planes: Vec<Plane> = Vec::new();
    let mut posted = Vec::new();
    let started_ns = now_ns();
    for tick in 0_u32.. {
        if tick % TICKS_PER_ROUND == 0 && stop.load(Ordering::Relaxed) {
            break;
        }
        let due_ns = started_ns + u64::from(tick) * TICK_NS;
        thread::sleep(Duration::from_nanos(due_ns.saturating_sub(now_ns())));
        let new: Vec<SocketAddr> =
            added.lock().map_err(|_| Failure::run("the check has died"))?.drain(..).collect();
        for address in new {
            planes.push(Plane::open(address)?);
        }
        let body = batch(tick);
        let from_ns = now_ns();
        let mut left = Vec::with_capacity(planes.len());
        for mut plane in planes {
            match plane.post(&body) {
                Ok(status) if status.starts_with("HTTP/1.1 200") => left.push(plane),
                // It is ending, or has ended. Were it the one that stays, its subscribers would
                // miss everything from now on.
                Ok(status) if status.starts_with("HTTP/1.1 503") => {}
                Err(_) => {}
                Ok(status) => {
                    let why = format!("{} took no publication: {status}", plane.address);
                    return Err(Failure::run(why));
                }
            }
        }
        planes = left;
        posted.push(Posted { from_ns, until_ns: now_ns() });
    }
    Ok(posted)
}

/// The publications of a tick as a request of `POST /publish`.
fn batch(tick: u32) -> String {
    let number = tick / TICKS_PER_ROUND;
    let first = tick % TICKS_PER_ROUND * PER_TICK;
    let messages: Vec<String> = (first..first + PER_TICK)
        .map(|room| format!(r#"{{"topic":"room-{room}","text":"{number}"}}"#))
        .collect();
    format!(r#"{{"messages":[{}]}}"#, messages.join(","))
}

impl Plane {
    fn open(address: SocketAddr) -> Outcome<Plane> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Plane { address, stream: BufReader::new(stream) })
    }

    /// Posts a batch, waits until every worker has taken it, and gives the status line.
    fn post(&mut self, body: &str) -> io::Result<String> {
        let head = format!(
            "POST /publish HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all(head.as_bytes())?;
        let mut status = String::new();
        self.stream.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        io::copy(&mut self.stream.by_ref().take(length), &mut io::sink())?;
        Ok(status.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_numbers_the_messages_of_ten_rooms() {
        let body = batch(23);
        assert!(body.starts_with(r#"{"messages":[{"topic":"room-30","text":"2"},"#), "{body}");
        assert!(body.ends_with(r#"{"topic":"room-39","text":"2"}]}"#), "{body}");
        assert_eq!(tick_of(30, 2), 23);
        assert_eq!(tick_of(39, 2), 23);
        assert_eq!(numbers(30), 3);
    }
}
