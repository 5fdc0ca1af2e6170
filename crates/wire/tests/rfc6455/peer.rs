//! The same streams through tungstenite's server.

use rand::{Rng, SeedableRng, rngs::StdRng};
use tungstenite::{Error, Message, WebSocket, protocol::Role};

use crate::{
    cases::{BINARY, CLOSE, CONTINUATION, FINAL, Heard, PING, PONG, TEXT, frame_with_key},
    properties::{self, Pieces},
    support::{cut, decode, decode_every_way},
};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What tungstenite's server hears; an error where it finds the stream broken.
fn hear(stream: &[u8], random: &mut StdRng) -> Result<Vec<Heard>, Error> {
    match properties::hear(&cut(stream, random), MESSAGE_BYTES_MAX) {
        (heard, None) => Ok(heard),
        (_, Some(error)) => Err(error),
    }
}

/// A valid stream: messages, some in fragments with control frames between them, perhaps a Close.
fn valid_stream(random: &mut StdRng) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..random.random_range(1..8) {
        append_message(&mut stream, random);
        if random.random_ratio(1, 3) {
            append_control(&mut stream, random);
        }
    }
    if random.random_ratio(1, 3) {
        let code: u16 = [1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999][random.random_range(0..8)];
        let body = [&code.to_be_bytes(), "done ✓".as_bytes()].concat();
        stream.extend(frame_with_key(CLOSE, random.random(), &body));
    }
    stream
}

fn append_control(stream: &mut Vec<u8>, random: &mut StdRng) {
    let opcode = if random.random() { PING } else { PONG };
    let payload: Vec<u8> = (0..random.random_range(0..126)).map(|_| random.random()).collect();
    stream.extend(frame_with_key(opcode, random.random(), &payload));
}

fn append_message(stream: &mut Vec<u8>, random: &mut StdRng) {
    let length_max = if random.random_ratio(1, 60) {
        70_000
    } else {
        [1, 10, 20, 50, 125, 126, 127, 200, 300, 2000][random.random_range(0..10)]
    };
    let length = random.random_range(0..=length_max);
    let (mut opcode, payload) = if random.random() {
        let text: String = (0..length / 4).map(|_| random.random::<char>()).collect();
        (TEXT, text.into_bytes())
    } else {
        (BINARY, (0..length).map(|_| random.random()).collect())
    };
    let mut rest = &payload[..];
    while random.random() {
        let (fragment, after) = rest.split_at(random.random_range(0..=rest.len()));
        stream.extend(frame_with_key(opcode, random.random(), fragment));
        if random.random() {
            append_control(stream, random);
        }
        (opcode, rest) = (CONTINUATION, after);
    }
    stream.extend(frame_with_key(FINAL | opcode, random.random(), rest));
}

#[test]
fn valid_streams_are_heard_as_tungstenite_hears_them() {
    for seed in 0..150 {
        let mut random = StdRng::seed_from_u64(seed);
        let stream = valid_stream(&mut random);
        let theirs = hear(&stream, &mut random)
            .unwrap_or_else(|error| panic!("seed {seed}: tungstenite refuses the stream: {error}"));
        let ours = decode_every_way(&stream, MESSAGE_BYTES_MAX, seed);
        assert_eq!(ours.what(), (&theirs[..], None), "seed {seed}");
    }
}

#[test]
fn whatever_is_accepted_after_bytes_were_changed_is_accepted_by_tungstenite_too() {
    let mut accepted = 0;
    let mut refused = 0;
    for seed in 0..1500 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stream = valid_stream(&mut random);
        for _ in 0..random.random_range(1..4) {
            let place = random.random_range(0..stream.len().min(64));
            stream[place] ^= 1 << random.random_range(0..8);
        }
        let ours = decode(cut(&stream, &mut random), MESSAGE_BYTES_MAX);
        let whole = decode([&stream[..]], MESSAGE_BYTES_MAX);
        assert_eq!(ours.what(), whole.what(), "seed {seed}");
        if ours.violation.is_some() {
            refused += 1;
            continue;
        }
        accepted += 1;
        let theirs = hear(&stream, &mut random)
            .unwrap_or_else(|error| panic!("seed {seed}: tungstenite refuses the stream: {error}"));
        assert_eq!(ours.heard, theirs, "seed {seed}");
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

#[test]
fn frames_of_the_server_are_heard_by_tungstenites_client() {
    let close = ringway_wire::CloseFrame {
        code: ringway_wire::CloseCode::TRY_AGAIN_LATER,
        reason: "slow consumer",
    };
    let mut stream =
        ringway_wire::encode_message(ringway_wire::DataOpcode::Text, "✓".as_bytes()).to_vec();
    stream.extend(ringway_wire::encode_message(ringway_wire::DataOpcode::Binary, &[7; 65_536]));
    stream.extend(ringway_wire::PING);
    ringway_wire::encode_pong(b"pong", &mut stream);
    ringway_wire::encode_close(Some(close), &mut stream);

    let mut socket = WebSocket::from_raw_socket(Pieces([&stream[..]].into()), Role::Client, None);
    assert_eq!(socket.read().unwrap(), Message::text("✓"));
    assert_eq!(socket.read().unwrap(), Message::binary(vec![7; 65_536]));
    assert_eq!(socket.read().unwrap(), Message::Ping(Default::default()));
    assert_eq!(socket.read().unwrap(), Message::Pong(b"pong"[..].into()));
    let Message::Close(Some(heard)) = socket.read().unwrap() else { panic!("a Close was sent") };
    assert_eq!((u16::from(heard.code), heard.reason.as_str()), (1013, "slow consumer"));
}

#[test]
fn random_bytes_never_panic_and_are_judged_alike_however_they_are_cut() {
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut stream: Vec<u8> =
            (0..random.random_range(0..300)).map(|_| random.random()).collect();
        // Most random heads fail at once: lead some of them past the first rules.
        for byte in stream.iter_mut().take(random.random_range(0..4)) {
            *byte &= 0x8F;
        }
        decode_every_way(&stream, 100, seed);
    }
}
