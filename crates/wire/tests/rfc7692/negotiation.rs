//! The negotiation (RFC 6455 section 9.1, RFC 7692 sections 5 and 7.1).

use ringway_wire::{Extensions, NoUpgrade, Upgrade, Window, encode_upgrade, parse_request};

/// The response's value and the server's window, if there is one.
type Agreed = Option<(String, u8)>;

/// What is answered to these values of `Sec-WebSocket-Extensions`, a line each.
fn negotiate(lines: &[&str], deflate: bool) -> Result<Agreed, NoUpgrade> {
    let offers: String =
        lines.iter().map(|line| format!("Sec-WebSocket-Extensions: {line}\r\n")).collect();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offers}\r\n"
    );
    let (request, _) = parse_request(head.as_bytes()).unwrap().unwrap();
    let Upgrade { response, deflate } = encode_upgrade(&request, None, Extensions { deflate })?;
    let response = std::str::from_utf8(&response).unwrap();
    assert!(response.starts_with("HTTP/1.1 101 ") && response.ends_with("\r\n\r\n"));
    let mut values =
        response.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let value = values.next();
    assert_eq!(values.next(), None, "one line at most");
    assert_eq!(value.is_some(), deflate.is_some());
    Ok(value.map(str::to_owned).zip(deflate.map(Window::bits)))
}

const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A response that names the window.
fn with_window(bits: u8) -> Agreed {
    Some((format!("{PLAIN}; server_max_window_bits={bits}"), bits))
}

/// A response that does not.
fn plain() -> Agreed {
    Some((PLAIN.to_owned(), 15))
}

#[test]
fn offers_that_rfc_7692_section_7_1_allows_are_taken() {
    let cases: [(&str, Agreed); 22] = [
        // The examples of section 7.1.3, and those of 7.1.1 and 7.1.2.
        ("permessage-deflate", plain()),
        ("permessage-deflate; client_max_window_bits", plain()),
        ("permessage-deflate; client_max_window_bits; server_max_window_bits=10", with_window(10)),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
             permessage-deflate; client_max_window_bits",
            with_window(10),
        ),
        ("permessage-deflate; server_no_context_takeover", plain()),
        ("permessage-deflate; client_no_context_takeover", plain()),
        ("permessage-deflate; client_max_window_bits=10", plain()),
        // Every window that can be.
        ("permessage-deflate; server_max_window_bits=9", with_window(9)),
        ("permessage-deflate; server_max_window_bits=11", with_window(11)),
        ("permessage-deflate; server_max_window_bits=12", with_window(12)),
        ("permessage-deflate; server_max_window_bits=13", with_window(13)),
        ("permessage-deflate; server_max_window_bits=14", with_window(14)),
        ("permessage-deflate; server_max_window_bits=15", with_window(15)),
        // The client may have a window that we could not.
        ("permessage-deflate; client_max_window_bits=8", plain()),
        ("permessage-deflate; client_max_window_bits=15", plain()),
        // All four, in any order, and in any of the forms that the grammar has.
        (
            "permessage-deflate; client_max_window_bits=15; server_no_context_takeover; \
             server_max_window_bits=12; client_no_context_takeover",
            with_window(12),
        ),
        ("permessage-deflate;server_max_window_bits=10;client_max_window_bits", with_window(10)),
        ("permessage-deflate ; server_max_window_bits = \"10\"", with_window(10)),
        ("permessage-deflate; client_max_window_bits=\"9\"", plain()),
        // Among what is not known here, and among nothing.
        ("x-webkit-deflate-frame; no_context_takeover, permessage-deflate", plain()),
        ("permessage-bzip2; level=9; quoted=\"x\", permessage-deflate", plain()),
        (", permessage-deflate,,", plain()),
    ];
    for (offer, expected) in cases {
        assert_eq!(negotiate(&[offer], true), Ok(expected), "{offer}");
        assert_eq!(negotiate(&[offer], false), Ok(None), "{offer}, where it is off");
    }
}

#[test]
fn offers_that_rfc_7692_section_7_1_forbids_are_declined() {
    for offer in [
        "",
        "permessage-bzip2",
        "permessage-deflate-frame",
        "Permessage-Deflate",
        // A parameter that is not known.
        "permessage-deflate; unknown",
        "permessage-deflate; Server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10; mode=fast",
        // A value where there is none, none where there must be one, or a wrong one.
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=+10",
        "permessage-deflate; server_max_window_bits=1",
        "permessage-deflate; server_max_window_bits=a",
        "permessage-deflate; server_max_window_bits=100",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=09",
        // A parameter twice.
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        // A window that no encoder of the zlib family keeps to.
        "permessage-deflate; server_max_window_bits=8",
    ] {
        assert_eq!(negotiate(&[offer], true), Ok(None), "{offer}");
    }
}

#[test]
fn the_first_offer_that_can_be_taken_is() {
    let cases: [(&[&str], Agreed); 6] = [
        (
            &["permessage-deflate; server_max_window_bits=8, permessage-deflate; \
               server_max_window_bits=9"],
            with_window(9),
        ),
        (&["permessage-deflate; unknown", "permessage-deflate"], plain()),
        (
            &[
                "permessage-deflate; server_max_window_bits=12, permessage-deflate",
                "permessage-deflate; server_max_window_bits=10",
            ],
            with_window(12),
        ),
        (&["permessage-deflate, permessage-deflate; server_max_window_bits=12"], plain()),
        (&["foo; bar, permessage-deflate; unknown", "baz"], None),
        (&[], None),
    ];
    for (offers, expected) in cases {
        assert_eq!(negotiate(offers, true), Ok(expected), "{offers:?}");
    }
}

#[test]
fn a_header_that_breaks_the_grammar_of_rfc_6455_section_9_1_fails_the_handshake() {
    let malformed =
        NoUpgrade::Malformed("write Sec-WebSocket-Extensions as a list of names with parameters");
    for offer in [
        ";",
        "permessage-deflate;",
        "permessage-deflate;;server_no_context_takeover",
        "permessage deflate",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; =10",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=1 0",
        "permessage-deflate, foo; a=b=c",
        "permessage-deflate, foo; a=\"b,c\"",
        "foo/bar",
        "é",
    ] {
        assert_eq!(negotiate(&[offer], true), Err(malformed), "{offer}");
        assert_eq!(negotiate(&[offer], false), Err(malformed), "{offer}, though it is off");
        assert_eq!(negotiate(&["permessage-deflate", offer], true), Err(malformed), "{offer}");
    }
}
