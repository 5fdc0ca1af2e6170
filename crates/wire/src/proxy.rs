//! The header that a proxy sends before the client's first byte: the PROXY protocol, version 2
//! (haproxy.org, "The PROXY protocol", section 2.2). It is read by the `ppp` crate; what is decided
//! here is how long one may be, and which are taken. Version 1 is not.

use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Command, Header, ParseError, Protocol};

/// A header without addresses: the signature, version and command, family, and the length of what
/// follows.
const FIXED_BYTES: usize = 16;

/// Bytes that are no header of version 2, or one that is too long or about something else than TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadProxyHeader;

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Whom the proxy speaks for. `None`: the connection is the proxy's own (`LOCAL`), or it does
    /// not know its client's address.
    pub client: Option<SocketAddr>,
    /// Bytes of the header.
    pub length: usize,
}

/// Reads a header of at most `bytes_max` bytes. `None`: more bytes are needed.
///
/// # Errors
/// More bytes would not help.
pub fn parse_proxy_header(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    // Said before it has come, so that nobody has to be waited for who is refused anyway.
    if let Some([high, low]) = bytes.get(FIXED_BYTES - 2..FIXED_BYTES)
        && FIXED_BYTES + usize::from(u16::from_be_bytes([*high, *low])) > bytes_max
    {
        return Err(BadProxyHeader);
    }
    let header = match Header::try_from(bytes) {
        Ok(header) => header,
        Err(ParseError::Incomplete(_) | ParseError::Partial(..)) => return Ok(None),
        Err(_) => return Err(BadProxyHeader),
    };
    let length = header.as_bytes().len();
    if header.command == Command::Local {
        return Ok(Some(ProxyHeader { client: None, length }));
    }
    let client = match (&header.addresses, header.protocol) {
        // What has no address here may be spoken for all the same: of a socket of the machine.
        (Addresses::Unspecified | Addresses::Unix(_), _) => None,
        (Addresses::IPv4(addresses), Protocol::Stream) => {
            Some(SocketAddr::new(IpAddr::V4(addresses.source_address), addresses.source_port))
        }
        (Addresses::IPv6(addresses), Protocol::Stream) => {
            Some(SocketAddr::new(IpAddr::V6(addresses.source_address), addresses.source_port))
        }
        _ => return Err(BadProxyHeader),
    };
    Ok(Some(ProxyHeader { client, length }))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

    use super::*;

    /// Section 2.2.
    const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

    const MAX: usize = 536;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    /// 192.0.2.7:4660 to 198.51.100.1:443.
    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 1, 0xBB];

    fn client(bytes: &[u8]) -> Result<Option<(Option<String>, usize)>, BadProxyHeader> {
        let parsed = parse_proxy_header(bytes, MAX)?;
        Ok(parsed.map(|it| (it.client.map(|client| client.to_string()), it.length)))
    }

    #[test]
    fn the_source_is_the_client() {
        let taken = |text: &str, length| Ok(Some((Some(text.to_owned()), length)));
        assert_eq!(client(&header(0x21, 0x11, &V4)), taken("192.0.2.7:4660", 28));
        let behind = [header(0x21, 0x11, &V4), b"GET / HTTP/1.1".to_vec()].concat();
        assert_eq!(client(&behind), taken("192.0.2.7:4660", 28));
        // A TLV of type PP2_TYPE_NOOP (section 2.2.5) and three bytes.
        let with_tlv = [&V4[..], &[4, 0, 3, 1, 2, 3]].concat();
        assert_eq!(client(&header(0x21, 0x11, &with_tlv)), taken("192.0.2.7:4660", 34));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0x0D, 0xB8]);
        v6[15] = 7;
        v6[32..34].copy_from_slice(&[0, 80]);
        assert_eq!(client(&header(0x21, 0x21, &v6)), taken("[2001:db8::7]:80", 52));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        let itself = |length| Ok(Some((None, length)));
        assert_eq!(client(&header(0x20, 0x00, &[])), itself(16));
        assert_eq!(client(&header(0x20, 0x11, &V4)), itself(28));
        assert_eq!(client(&header(0x21, 0x00, &[])), itself(16));
        assert_eq!(client(&header(0x21, 0x31, &[b'a'; 216])), itself(232));
    }

    #[test]
    fn what_is_no_header_of_version_2_about_tcp_is_refused() {
        let bad = Err(BadProxyHeader);
        for bytes in [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\r\n\r\nGET".to_vec(),
            header(0x11, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x21, 0x12, &V4),
            header(0x21, 0x41, &V4),
            header(0x21, 0x13, &V4),
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x21, &V4),
        ] {
            assert_eq!(client(&bytes), bad, "{bytes:?}");
        }
        let longest =
            |body: usize| client(&header(0x21, 0x11, &[&V4[..], &vec![0; body - 12]].concat()));
        assert!(matches!(longest(MAX - 16), Ok(Some((Some(_), MAX)))));
        assert_eq!(longest(MAX - 15), bad);
        let length_only = header(0x21, 0x11, &[0; MAX])[..16].to_vec();
        assert_eq!(client(&length_only), bad, "before the rest of it has come");
    }

    #[test]
    fn in_pieces_it_is_incomplete_until_it_is_whole() {
        let whole = header(0x21, 0x11, &[&V4[..], &[4, 0, 1, 9]].concat());
        for end in 0..whole.len() {
            assert_eq!(client(&whole[..end]), Ok(None), "{end}");
        }
        assert!(matches!(client(&whole), Ok(Some((Some(_), 32)))));
    }

    #[test]
    fn no_bytes_are_a_panic_or_more_than_were_given() {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..100_000 {
            let mut bytes = vec![0; random.random_range(0..300)];
            random.fill_bytes(&mut bytes);
            // Mostly right, so that it is not the signature that refuses it.
            let right = random.random_range(0..=bytes.len().min(12));
            bytes[..right].copy_from_slice(&SIGNATURE[..right]);
            if let Some(fixed) = bytes.get_mut(12..16) {
                fixed[0] = [0x21, 0x20, fixed[0]][random.random_range(0..3)];
                fixed[1] = [0x11, 0x21, 0x31, 0x00, fixed[1]][random.random_range(0..5)];
                fixed[2] = [0, 0, fixed[2]][random.random_range(0..3)];
            }
            if let Ok(Some(header)) = parse_proxy_header(&bytes, MAX) {
                assert!((16..=bytes.len().min(MAX)).contains(&header.length));
                let again = parse_proxy_header(&bytes[..header.length], MAX);
                assert_eq!(again, Ok(Some(header)), "what is behind it changes nothing");
            }
        }
    }
}
