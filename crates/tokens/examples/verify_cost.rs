//! What a verification costs, by algorithm: of a good token, of one whose signature is wrong, and of
//! one that names no key.
//!
//! ```text
//! cargo run --profile bench-fast -p ringway-tokens --example verify_cost
//! ```

#![allow(clippy::unwrap_used, reason = "an example fails by panicking")]
#![allow(clippy::disallowed_types, reason = "it measures time")]

use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ringway_tokens::{BadToken, Keys, Rules, Verifier};
use serde_json::json;

const SECRET: &[u8] = b"thirty-two bytes are the minimum";

/// How long each row is measured.
const SPAN: Duration = Duration::from_millis(300);

/// Rounds, of which the median is printed.
const ROUNDS: usize = 5;

/// Microseconds a call.
fn cost(mut call: impl FnMut()) -> f64 {
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let (begun, mut calls) = (Instant::now(), 0_u32);
        while begun.elapsed() < SPAN {
            call();
            calls += 1;
        }
        *round = begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls);
    }
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    let pem = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(include_bytes!("../tests/keys/p256.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(include_bytes!("../tests/keys/ed25519.pem")).unwrap();
    let rows: [(Algorithm, EncodingKey, &[u8]); 4] = [
        (Algorithm::HS256, EncodingKey::from_secret(SECRET), SECRET),
        (Algorithm::RS256, pem, include_bytes!("../tests/keys/rsa.pub.pem")),
        (Algorithm::ES256, ec, include_bytes!("../tests/keys/p256.pub.pem")),
        (Algorithm::EdDSA, ed, include_bytes!("../tests/keys/ed25519.pub.pem")),
    ];
    println!("{:9} {:>9} {:>16} {:>9}", "µs", "good", "wrong signature", "no key");
    for (algorithm, signing, public) in rows {
        let claims = json!({ "sub": "alice", "exp": 100, "topics": ["room/*"], "publish": [] });
        let good = encode(&Header::new(algorithm), &claims, &signing).unwrap();
        let other = json!({ "sub": "mallory", "exp": 100, "topics": ["*"], "publish": ["*"] });
        let other = encode(&Header::new(algorithm), &other, &signing).unwrap();
        let (message, _) = other.rsplit_once('.').unwrap();
        let (_, signature) = good.rsplit_once('.').unwrap();
        let forged = format!("{message}.{signature}");
        let strange =
            encode(&Header::new(Algorithm::HS384), &claims, &EncodingKey::from_secret(SECRET));
        let strange = strange.unwrap();
        let rules = Rules { issuer: None, audiences: Vec::new(), expiry_required: true };
        let verifier = Verifier::new(Keys::from_key_file(public).unwrap(), rules);
        let verify = |token: &str| verifier.verify(token, 1).map(drop);
        let costs = [
            cost(|| assert_eq!(verify(&good), Ok(()))),
            cost(|| assert_eq!(verify(&forged), Err(BadToken::Signature))),
            cost(|| assert_eq!(verify(&strange), Err(BadToken::Signature))),
        ];
        println!(
            "{:9} {:9.1} {:16.1} {:9.1}",
            format!("{algorithm:?}"),
            costs[0],
            costs[1],
            costs[2]
        );
    }
}
