//! Listening sockets. On the data plane every worker has one of its own for each address: with
//! SO_REUSEPORT the kernel deals new connections among them. All are bound before any worker
//! starts, so that a busy address is found while nothing is being served.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// What the acknowledgement of our bytes may take beyond write timeout and pong timeout, which are
/// to end a connection first, with a reason.
const USER_TIMEOUT_EXTRA: Duration = Duration::from_secs(10);

/// The longest TCP_USER_TIMEOUT that the kernel's signed milliseconds hold.
const USER_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// How the listeners of the data plane are set up. Accepted connections inherit all but the
/// backlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerOptions {
    /// Connections that wait to be accepted.
    pub(crate) backlog: u32,
    /// TCP_NOTSENT_LOWAT, as `unsent_bytes_max` in `limits.rs`.
    pub(crate) unsent_bytes_max: u32,
    /// SO_SNDBUF; `None` leaves it to the kernel.
    pub(crate) send_buffer_bytes: Option<u32>,
    /// The oldest queued byte may wait this long.
    pub(crate) write_timeout: Duration,
    /// Any byte must come within this of a ping.
    pub(crate) pong_timeout: Duration,
}

/// The listeners of the data plane.
#[derive(Debug)]
pub(crate) struct DataPlane {
    /// With the ports that were given where none was asked for.
    pub(crate) addresses: Vec<SocketAddr>,
    /// By worker; each worker's in the order of the addresses.
    pub(crate) of_workers: Vec<Vec<TcpListener>>,
}

impl DataPlane {
    /// Binds one listener for each worker and address.
    ///
    /// # Errors
    /// One sentence that names the address.
    pub(crate) fn bind(
        addresses: &[SocketAddr],
        workers: u16,
        options: &ListenerOptions,
    ) -> Result<Self, String> {
        let mut bound = Vec::with_capacity(addresses.len());
        let mut of_workers: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
        for address in addresses {
            let mut address = *address;
            for listeners in &mut of_workers {
                let listener =
                    bind_shared(address, options).map_err(|error| sentence(address, &error))?;
                // Where the port is 0, the first listener gets one for all of them.
                address = listener.local_addr().map_err(|error| sentence(address, &error))?;
                listeners.push(listener);
            }
            bound.push(address);
        }
        Ok(Self { addresses: bound, of_workers })
    }
}

/// Binds the one listener of the control plane or of the metrics.
///
/// # Errors
/// One sentence that names the address.
pub(crate) fn bind_alone(address: SocketAddr) -> Result<TcpListener, String> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| sentence(address, &error))
}

/// SO_REUSEADDR is not needed for a restart: the kernel lets a socket with SO_REUSEPORT share its
/// port with connections of an earlier process of the same user, in TIME_WAIT or not.
fn bind_shared(address: SocketAddr, options: &ListenerOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(options.unsent_bytes_max)?;
    socket.set_tcp_user_timeout(Some(user_timeout(options)))?;
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes as usize)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// TCP_USER_TIMEOUT: after this the kernel gives up on bytes that nobody acknowledges.
fn user_timeout(options: &ListenerOptions) -> Duration {
    (options.write_timeout + options.pong_timeout + USER_TIMEOUT_EXTRA).min(USER_TIMEOUT_MAX)
}

fn sentence(address: SocketAddr, error: &io::Error) -> String {
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this user may not use the port; ports below 1024 need CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    };
    format!("cannot listen on {address}: {cause}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    fn options() -> ListenerOptions {
        ListenerOptions {
            backlog: 16,
            unsent_bytes_max: 12_345,
            send_buffer_bytes: None,
            write_timeout: Duration::from_secs(10),
            pong_timeout: Duration::from_secs(5),
        }
    }

    fn bind(addresses: &[&str], workers: u16) -> DataPlane {
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        DataPlane::bind(&addresses, workers, &options()).unwrap()
    }

    #[test]
    fn the_workers_share_the_port_that_the_first_was_given() {
        let plane = bind(&["127.0.0.1:0", "127.0.0.1:0"], 3);
        assert_eq!(plane.of_workers.len(), 3);
        assert_ne!(plane.addresses[0].port(), 0);
        assert_ne!(plane.addresses[0], plane.addresses[1]);
        for listeners in &plane.of_workers {
            let addresses: Vec<SocketAddr> =
                listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
            assert_eq!(addresses, plane.addresses);
        }
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let plane = bind(&["127.0.0.1:0"], 1);
        let _client = TcpStream::connect(plane.addresses[0]).unwrap();
        let (connection, _) = plane.of_workers[0][0].accept().unwrap();
        let connection = SockRef::from(&connection);
        assert!(connection.tcp_nodelay().unwrap());
        assert_eq!(connection.tcp_notsent_lowat().unwrap(), 12_345);
        assert_eq!(connection.tcp_user_timeout().unwrap(), Some(Duration::from_secs(25)));
    }

    #[test]
    fn the_send_buffer_is_set_only_where_it_is_asked_for() {
        let listeners = |send_buffer_bytes| {
            let options = ListenerOptions { send_buffer_bytes, ..options() };
            DataPlane::bind(&["127.0.0.1:0".parse().unwrap()], 1, &options).unwrap().of_workers
        };
        let bytes = |listeners: &[Vec<TcpListener>]| {
            SockRef::from(&listeners[0][0]).send_buffer_size().unwrap()
        };
        // The kernel doubles what it is asked for (socket(7)).
        assert_eq!(bytes(&listeners(Some(32_768))), 65_536);
        let plain = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(bytes(&listeners(None)), plain.send_buffer_size().unwrap());
    }

    #[test]
    fn the_unspecified_v6_address_takes_v4_too() {
        let plane = bind(&["[::]:0"], 1);
        let port = plane.addresses[0].port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn a_busy_address_is_one_sentence() {
        let alone = bind_alone("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = alone.local_addr().unwrap();
        let sentence =
            format!("cannot listen on {address}: the address is in use by another process");
        assert_eq!(DataPlane::bind(&[address], 1, &options()).unwrap_err(), sentence);
        assert_eq!(bind_alone(address).unwrap_err(), sentence);
    }

    #[test]
    fn a_port_can_be_bound_again_while_old_connections_of_it_linger() {
        let plane = bind(&["127.0.0.1:0"], 2);
        let address = plane.addresses[0];
        let client = TcpStream::connect(address).unwrap();
        let accept = |listeners: &Vec<TcpListener>| {
            listeners[0].set_nonblocking(true).unwrap();
            listeners[0].accept().ok()
        };
        let connection = plane.of_workers.iter().find_map(accept).unwrap();
        // The server closes first: its end of the connection stays in TIME_WAIT.
        drop((connection, plane));
        drop(client);
        assert!(DataPlane::bind(&[address], 2, &options()).is_ok());
    }
}
