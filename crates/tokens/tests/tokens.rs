//! Tokens as an issuer makes them, and as somebody would who is none. The signatures are made by
//! the crate that also verifies them; `crates/gateway/tests/peers` brings tokens of another library.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ringway_tokens::{BadToken, Grant, Keys, Rules, Verifier};
use serde_json::{Value, json};

const SECRET: &[u8] = b"thirty-two bytes are the minimum";
const RSA: &[u8] = include_bytes!("keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("keys/rsa.pub.pem");
const RSA_PKCS1: &[u8] = include_bytes!("keys/rsa-pkcs1.pub.pem");
const P256: &[u8] = include_bytes!("keys/p256.pem");
const P256_PUBLIC: &[u8] = include_bytes!("keys/p256.pub.pem");
const ED25519: &[u8] = include_bytes!("keys/ed25519.pem");
const ED25519_PUBLIC: &[u8] = include_bytes!("keys/ed25519.pub.pem");

/// The moment of all tests, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

const ANY: Rules = Rules { issuer: None, audiences: Vec::new(), expiry_required: true };

fn signing(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(SECRET),
        Algorithm::ES256 => EncodingKey::from_ec_pem(P256).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED25519).unwrap(),
        _ => EncodingKey::from_rsa_pem(RSA).unwrap(),
    }
}

fn token(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, &signing(algorithm)).unwrap()
}

fn verifier(key: &[u8], rules: Rules) -> Verifier {
    Verifier::new(Keys::from_key_file(key).unwrap(), rules)
}

fn hs256(claims: &Value) -> Result<Grant, BadToken> {
    verifier(SECRET, ANY).verify(&token(Algorithm::HS256, None, claims), NOW)
}

#[test]
fn a_token_is_verified_by_the_algorithm_of_the_key() {
    let claims = json!({ "sub": "alice", "exp": NOW + 60, "topics": ["a"], "iat": NOW + 99 });
    let keys = [
        (Algorithm::HS256, SECRET),
        (Algorithm::RS256, RSA_PUBLIC),
        (Algorithm::RS256, RSA_PKCS1),
        (Algorithm::ES256, P256_PUBLIC),
        (Algorithm::EdDSA, ED25519_PUBLIC),
    ];
    for (algorithm, key) in keys {
        let grant = verifier(key, ANY).verify(&token(algorithm, None, &claims), NOW).unwrap();
        assert_eq!(grant.subject.as_deref(), Some("alice"), "{algorithm:?}");
        assert_eq!(grant.ends_at, Some(NOW + 60));
        assert!(grant.topics.cover("a") && !grant.topics.cover("b") && !grant.publish.cover("a"));
        for (other, key) in keys.iter().filter(|(other, _)| *other != algorithm) {
            let verified = verifier(key, ANY).verify(&token(algorithm, None, &claims), NOW);
            assert_eq!(verified, Err(BadToken::Signature), "{algorithm:?} by a key for {other:?}");
        }
    }
    // An RSA key is for RS256, whatever else could be done with it.
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let verified = verifier(RSA_PUBLIC, ANY).verify(&token(algorithm, None, &claims), NOW);
        assert_eq!(verified, Err(BadToken::Signature), "{algorithm:?}");
    }
}

#[test]
fn a_public_key_is_no_secret_and_no_algorithm_is_none() {
    let claims = json!({ "sub": "mallory", "exp": NOW + 60, "topics": ["*"] });
    // RFC 8725 section 2.1: signed by HMAC with the text of the public key, which everybody has.
    for key in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        let signed =
            encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key));
        let verified = verifier(key, ANY).verify(&signed.unwrap(), NOW);
        assert_eq!(verified, Err(BadToken::Signature));
    }
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    for alg in ["none", "None", "nOnE", "NONE", ""] {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "typ": "JWT" }).to_string());
        for signature in ["", "AAAA"] {
            let unsigned = format!("{head}.{body}.{signature}");
            let verified = verifier(SECRET, ANY).verify(&unsigned, NOW);
            assert_eq!(verified, Err(BadToken::Malformed), "{alg}");
        }
    }
}

#[test]
fn another_key_another_body_and_another_header_are_not_what_was_signed() {
    let claims = json!({ "exp": NOW + 60, "topics": ["a"] });
    let other = b"another secret of thirty-two bytes";
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signed = token(algorithm, None, &claims);
        let mut parts: Vec<&str> = signed.split('.').collect();
        let forged =
            URL_SAFE_NO_PAD.encode(json!({ "exp": NOW + 60, "topics": ["*"] }).to_string());
        parts[1] = &forged;
        let key = match algorithm {
            Algorithm::HS256 => SECRET,
            Algorithm::RS256 => RSA_PUBLIC,
            Algorithm::ES256 => P256_PUBLIC,
            _ => ED25519_PUBLIC,
        };
        let verified = verifier(key, ANY).verify(&parts.join("."), NOW);
        assert_eq!(verified, Err(BadToken::Signature), "{algorithm:?}");
        let without = format!("{}.{}.", parts[0], signed.split('.').nth(1).unwrap());
        let verified = verifier(key, ANY).verify(&without, NOW);
        assert_eq!(verified, Err(BadToken::Signature), "{algorithm:?}");
    }
    let signed = token(Algorithm::HS256, None, &claims);
    assert_eq!(verifier(other, ANY).verify(&signed, NOW), Err(BadToken::Signature));
}

#[test]
fn times_have_half_a_minute_of_grace() {
    // (exp, nbf, outcome: when it ends)
    let cases = [
        (NOW + 1, 0, Ok(NOW + 1)),
        (NOW, 0, Ok(NOW + 30)),
        (NOW - 29, 0, Ok(NOW + 1)),
        (NOW - 30, 0, Err(BadToken::Expired)),
        (0, 0, Err(BadToken::Expired)),
        (u64::MAX, 0, Ok(u64::MAX)),
        (NOW + 99, NOW + 30, Ok(NOW + 99)),
        (NOW + 99, NOW + 31, Err(BadToken::Early)),
        (NOW + 99, u64::MAX, Err(BadToken::Early)),
    ];
    for (exp, nbf, outcome) in cases {
        let ends = hs256(&json!({ "exp": exp, "nbf": nbf })).map(|it| it.ends_at.unwrap());
        assert_eq!(ends, outcome, "{exp} {nbf}");
    }
    let ends = |exp: f64| hs256(&json!({ "exp": exp })).map(|it| it.ends_at.unwrap());
    assert_eq!(ends(1_800_000_010.9), Ok(NOW + 10), "a NumericDate may have a fraction");
    assert_eq!(ends(-1.0), Err(BadToken::Expired));
    assert_eq!(ends(1e300), Ok(u64::MAX));
}

#[test]
fn a_token_without_an_end_needs_leave() {
    let claims = json!({ "sub": "a" });
    assert_eq!(hs256(&claims), Err(BadToken::Endless));
    assert_eq!(hs256(&json!({ "exp": null })), Err(BadToken::Endless));
    let rules = Rules { expiry_required: false, ..ANY };
    let grant = verifier(SECRET, rules).verify(&token(Algorithm::HS256, None, &claims), NOW);
    assert_eq!(grant.unwrap().ends_at, None);
}

#[test]
fn issuer_and_audience_are_those_that_are_asked_for() {
    let rules = Rules {
        issuer: Some("https://issuer".to_owned()),
        audiences: vec!["a".to_owned(), "b".to_owned()],
        ..ANY
    };
    let verify = |iss: Value, aud: Value| {
        let claims = json!({ "exp": NOW + 60, "iss": iss, "aud": aud });
        let signed = token(Algorithm::HS256, None, &claims);
        verifier(SECRET, rules.clone()).verify(&signed, NOW).map(drop)
    };
    let issuer = || json!("https://issuer");
    assert_eq!(verify(issuer(), json!("a")), Ok(()));
    assert_eq!(verify(issuer(), json!(["c", "b"])), Ok(()));
    assert_eq!(verify(issuer(), json!(["c"])), Err(BadToken::Audience));
    assert_eq!(verify(issuer(), json!("A")), Err(BadToken::Audience));
    assert_eq!(verify(issuer(), json!([])), Err(BadToken::Audience));
    assert_eq!(verify(issuer(), json!(null)), Err(BadToken::Audience));
    assert_eq!(verify(json!("https://issuer/"), json!("a")), Err(BadToken::Issuer));
    assert_eq!(verify(json!(null), json!("a")), Err(BadToken::Issuer));
    // RFC 7519 section 4.1.3: whoever does not know itself in it must refuse.
    let verified = hs256(&json!({ "exp": NOW + 60, "aud": "a", "iss": "anyone" }));
    assert_eq!(verified, Err(BadToken::Audience));
    assert!(hs256(&json!({ "exp": NOW + 60, "iss": "anyone" })).is_ok());
}

#[test]
fn claims_of_another_type_and_what_is_no_token_are_malformed() {
    let exp = NOW + 60;
    for claims in [
        json!({ "exp": "soon" }),
        json!({ "exp": exp, "sub": 7 }),
        json!({ "exp": exp, "sub": "" }),
        json!({ "exp": exp, "sub": "s".repeat(256) }),
        json!({ "exp": exp, "topics": [1] }),
        json!({ "exp": exp, "topics": { "a": true } }),
        json!({ "exp": exp, "publish": true }),
        json!({ "exp": exp, "aud": 1 }),
        json!([exp]),
        json!("exp"),
    ] {
        assert_eq!(hs256(&claims), Err(BadToken::Malformed), "{claims}");
    }
    assert!(hs256(&json!({ "exp": exp, "sub": "s".repeat(255), "topics": "a", "x": 1 })).is_ok());
    let head = Header { crit: Some(vec!["exp".to_owned()]), ..Header::new(Algorithm::HS256) };
    let critical = encode(&head, &json!({ "exp": exp }), &signing(Algorithm::HS256)).unwrap();
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", "é", &critical, &"a".repeat(16_384)] {
        let verified = verifier(SECRET, ANY).verify(text, NOW);
        assert_eq!(verified, Err(BadToken::Malformed), "{text}");
    }
}

fn set(keys: &[Value]) -> Result<Keys, String> {
    let text = json!({ "keys": keys }).to_string();
    Keys::from_jwks(&text).map_err(|error| error.to_string())
}

fn secret(kid: Option<&str>, secret: &[u8]) -> Value {
    json!({ "kty": "oct", "kid": kid, "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(secret) })
}

fn p256(kid: Option<&str>) -> Value {
    // The point at the end of the PEM's bytes: 4, x, y (RFC 5480 section 2.2).
    let (der, _) = der(P256_PUBLIC);
    let (x, y) = der[der.len() - 64..].split_at(32);
    let [x, y] = [x, y].map(|it| URL_SAFE_NO_PAD.encode(it));
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y, "use": "sig" })
}

#[test]
fn a_kid_chooses_among_the_keys_of_its_algorithm() {
    let other = b"another secret of thirty-two bytes";
    let claims = json!({ "exp": NOW + 60 });
    let verify = |keys: &[Value], algorithm, kid| {
        let verifier = Verifier::new(set(keys).unwrap(), ANY);
        verifier.verify(&token(algorithm, kid, &claims), NOW).map(drop)
    };
    let two = [secret(Some("new"), SECRET), secret(Some("old"), other), p256(Some("new"))];
    assert_eq!(verify(&two, Algorithm::HS256, Some("new")), Ok(()));
    assert_eq!(verify(&two, Algorithm::ES256, Some("new")), Ok(()));
    assert_eq!(verify(&two, Algorithm::ES256, None), Ok(()), "the only key of its algorithm");
    assert_eq!(verify(&two, Algorithm::HS256, Some("old")), Err(BadToken::Signature));
    assert_eq!(verify(&two, Algorithm::HS256, Some("unknown")), Err(BadToken::Signature));
    assert_eq!(verify(&two, Algorithm::HS256, None), Err(BadToken::Signature), "which?");
    let without = [secret(None, SECRET), secret(Some("old"), other)];
    assert_eq!(verify(&without, Algorithm::HS256, None), Ok(()));
    assert_eq!(verify(&without, Algorithm::HS256, Some("any")), Ok(()));
    assert_eq!(verify(&without, Algorithm::HS256, Some("old")), Err(BadToken::Signature));
}

#[test]
fn keys_that_are_for_something_else_are_passed_over() {
    let keys = [
        secret(Some("a"), SECRET),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" }),
        json!({ "kty": "oct", "k": "AA", "use": "enc" }),
        json!({ "kty": "oct", "k": "AA", "alg": "HS512" }),
        json!({ "kty": "oct", "k": "AA", "key_ops": ["sign"] }),
        json!({ "kty": "oct", "k": "AA", "key_ops": [] }),
        json!({ "kty": "unheard of" }),
        json!(7),
    ];
    let keys = set(&keys).unwrap();
    assert_eq!((keys.count(), keys.passed_over()), (1, 8));
    let mut verifies = secret(None, SECRET);
    verifies["key_ops"] = json!(["sign", "verify"]);
    assert_eq!(set(&[verifies]).unwrap().count(), 1);
}

#[test]
fn keys_say_which_algorithms_they_are_of_and_how_many_have_a_kid() {
    let keys = set(&[p256(Some("a")), secret(Some("a"), SECRET), p256(None)]).unwrap();
    assert_eq!((keys.algorithms(), keys.with_id()), (vec!["HS256", "ES256"], 2));
    let of = |file| Keys::from_key_file(file).unwrap().algorithms();
    assert_eq!([of(RSA_PUBLIC), of(ED25519_PUBLIC)], [["RS256"], ["EdDSA"]]);
}

/// The bytes that a PEM file holds in base64 (RFC 7468), and that base64.
fn der(pem: &[u8]) -> (Vec<u8>, String) {
    let pem = String::from_utf8(pem.to_vec()).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    (base64::engine::general_purpose::STANDARD.decode(&base64).unwrap(), base64)
}

#[test]
fn a_public_key_in_another_form_is_no_secret() {
    let refused = |content: &[u8], words: &str| {
        let error = Keys::from_key_file(content).unwrap_err().to_string();
        assert!(error.starts_with("this is no secret but ") && error.contains(words), "{error}");
    };
    for pem in [RSA_PUBLIC, RSA_PKCS1, P256_PUBLIC, ED25519_PUBLIC] {
        let (der, base64) = der(pem);
        refused(&der, "in DER: write the public key in PEM");
        refused(base64.as_bytes(), "without the lines of PEM");
        refused(format!("\n  {base64}\n").as_bytes(), "without the lines of PEM");
        let text = String::from_utf8(pem.to_vec()).unwrap();
        let wide: Vec<u16> = text.encode_utf16().collect();
        let little: Vec<u8> = wide.iter().flat_map(|it| it.to_le_bytes()).collect();
        let big: Vec<u8> = wide.iter().flat_map(|it| it.to_be_bytes()).collect();
        for (mark, bytes) in [(&b"\xFF\xFE"[..], &little), (b"\xFE\xFF", &big)] {
            refused(bytes, "UTF-16");
            refused(&[mark, bytes].concat(), "UTF-16");
        }
        // PEM is found behind a mark as well: its lines are what counts.
        let marked = [&b"\xEF\xBB\xBF"[..], pem].concat();
        assert!(Keys::from_key_file(&marked).is_ok());
    }
    let set = json!({ "keys": [p256(Some("a"))] });
    refused(set.to_string().as_bytes(), "--token-jwks-file");
    refused(format!("\n {set:#}").as_bytes(), "--token-jwks-file");
    refused(json!([p256(Some("a"))]).to_string().as_bytes(), "--token-jwks-file");
    for kind in ["ssh-rsa", "ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256"] {
        let line =
            format!("{kind} AAAAC3NzaC1lZDI1NTE5AAAAIHJ7cXl0aGluZyBvZiAzMiBieXRlcyBoZXJl a@b");
        refused(line.as_bytes(), "ssh-keygen -e -m PKCS8");
    }
    refused(b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3NzaC1yc2EAAAADAQABAAABAQ\n", "PUBLIC KEY");
    refused(b"\xEF\xBB\xBFa secret of at least thirty-two bytes", "byte order mark");
    // What only resembles one is a secret.
    for secret in [
        &b"0a secret that begins as a sequence does"[..],
        b"00000000000000000000000000000000000000000000000000",
        b"a secret with { and [ and ssh- in its midst",
        b"-- a secret that begins with two hyphens",
        b"{ a secret that begins with a brace, and ends",
        b"[1, 2 a secret that begins with a bracket",
    ] {
        assert_eq!(Keys::from_key_file(secret).unwrap().algorithms(), ["HS256"]);
    }
}

#[test]
fn a_private_key_in_a_set_is_refused_as_in_a_file() {
    for kty in ["RSA", "EC", "OKP", "unheard of"] {
        let error = set(&[secret(None, SECRET), json!({ "kty": kty, "d": "AA" })]).unwrap_err();
        assert!(error.starts_with("key 2: this is a private key"), "{error}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_and_not_shown() {
    let refused = |keys: &[Value], words: &str| {
        let error = set(keys).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(&[], "no key for HS256");
    refused(
        &[json!({ "kty": "oct", "k": "c2hvcnQ" })],
        "key 1: a secret for HS256 has at least 32",
    );
    refused(&[json!({ "kty": "RSA", "n": "c2hvcnQ", "e": "AQAB" })], "2048");
    refused(&[json!({ "kty": "oct", "k": "!" })], "base64url");
    let short = URL_SAFE_NO_PAD.encode([7; 31]);
    refused(&[json!({ "kty": "OKP", "crv": "Ed25519", "x": short })], "Ed25519");
    refused(&[p256(Some("a")), p256(Some("a"))], "have the kid \"a\"");
    refused(&[p256(None), p256(None)], "no kid to tell them apart");
    let many: Vec<Value> = (0..101).map(|kid| secret(Some(&kid.to_string()), SECRET)).collect();
    refused(&many, "at most 100");
    assert!(Keys::from_jwks("{").is_err());
    let file = |content: &[u8], words: &str| {
        let error = Keys::from_key_file(content).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("short secret"), "{error}");
    };
    file(b"short secret\n", "at least 32 bytes, this one 12");
    file(b"", "at least 32");
    file(RSA, "private key");
    file(include_bytes!("keys/rsa-1024.pub.pem"), "2048");
    file(include_bytes!("keys/p384.pub.pem"), "P-256");
    file(&[RSA_PUBLIC, P256_PUBLIC].concat(), "not one public key");
    file(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key");
    let one = || Keys::from_key_file(SECRET).unwrap();
    assert!(one().and(one()).is_err());
    assert_eq!(one().and(set(&[p256(None)]).unwrap()).unwrap().count(), 2);
    assert!(!format!("{:?}", verifier(SECRET, ANY)).contains("thirty"));
}

/// A key file of a modulus of ones (RFC 8017 appendix A.1.1, X.690): a sequence of two numbers, the
/// first with a zero in front where its first bit would be its sign.
fn rsa_pem(modulus: &[u8]) -> Vec<u8> {
    let element = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        let length = match length {
            [0, low @ ..=0x7F] => vec![low],
            [0, low] => vec![0x81, low],
            [high, low] => vec![0x82, high, low],
        };
        [&[tag], &length[..], content].concat()
    };
    let sign: &[u8] = if modulus[0] < 0x80 { &[] } else { &[0] };
    let numbers = [element(2, &[sign, modulus].concat()), element(2, &[1, 0, 1])].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(element(0x30, &numbers));
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect();
    let kind = "RSA PUBLIC KEY";
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n")).into()
}

#[test]
fn a_modulus_has_2048_to_8192_bits_however_it_is_written() {
    for (first, bytes, is_taken) in [
        (0xFF, 127, false),
        (0x80, 255, false),
        (0xFF, 255, false),
        (0x7F, 256, false),
        (0x80, 256, true),
        (0xFF, 1024, true),
        (0x01, 1025, false),
    ] {
        let mut modulus = vec![0xFF; bytes];
        modulus[0] = first;
        let file = Keys::from_key_file(&rsa_pem(&modulus));
        assert_eq!(file.is_ok(), is_taken, "{first:x} {bytes}: {file:?}");
        for zeros in [0, 3] {
            let n = URL_SAFE_NO_PAD.encode([vec![0; zeros], modulus.clone()].concat());
            let keys = set(&[json!({ "kty": "RSA", "n": n, "e": "AQAB" })]);
            assert_eq!(keys.is_ok(), is_taken, "{first:x} {bytes}: {keys:?}");
        }
    }
}

#[test]
fn a_line_end_behind_a_secret_is_not_part_of_it() {
    let signed = token(Algorithm::HS256, None, &json!({ "exp": NOW + 60 }));
    for end in ["\n", "\r\n"] {
        let content = [SECRET, end.as_bytes()].concat();
        assert!(verifier(&content, ANY).verify(&signed, NOW).is_ok());
    }
}
