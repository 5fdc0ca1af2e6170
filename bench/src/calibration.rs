//! Connections of a load process with itself, to weigh the client's half of a connection's
//! kernel memory: plain ones first, then with a receive armed on one end.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::SockRef;

use crate::ring::{Ring, Token};

/// The pairs; dropping them closes both ends.
#[derive(Debug)]
pub(crate) struct Pairs {
    ends: Vec<(TcpStream, TcpStream)>,
}

impl Pairs {
    /// Opens `count` connections through a listener of their own.
    pub(crate) fn open(count: u32) -> io::Result<Pairs> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let pair = |_| {
            let near = TcpStream::connect(address)?;
            SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
            Ok((near, listener.accept()?.0))
        };
        Ok(Pairs { ends: (0..count).map(pair).collect::<io::Result<_>>()? })
    }

    /// Arms on each near end what every connection of a load has armed. The completions name no
    /// connection of the run.
    pub(crate) fn arm(&self, ring: &mut Ring) -> io::Result<()> {
        for (near, _) in &self.ends {
            ring.receive(Token::NOBODY, near.as_fd())?;
        }
        Ok(())
    }
}
