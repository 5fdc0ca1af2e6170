//! The keys that tokens may be signed with. A key brings its algorithm along, and a token only says
//! which key it means: what a token calls its algorithm chooses nothing but among keys of that
//! algorithm, so no key is ever used for another one (RFC 8725 section 3.1).

use std::fmt;

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// Keys in one file.
const KEYS_MAX: usize = 100;

/// RFC 7518 section 3.2: a key of at least the size of the hash.
const SECRET_BYTES_MIN: usize = 32;

/// RFC 7518 section 3.3: 2048 bits or more; what signs with more than 8192 is not verified.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// An uncompressed point of P-256 (SEC 1 section 2.3.3): 4, and two coordinates of 32 bytes.
const P256_POINT_BYTES: usize = 65;

/// A public key of Ed25519 (RFC 8032 section 5.1.5).
const ED25519_BYTES: usize = 32;

/// Keys, of which a token means at most one.
#[derive(Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
    passed_over: usize,
}

#[derive(Clone)]
pub(crate) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    pub(crate) key: DecodingKey,
    /// Of the signature and the algorithm. Claims are looked at elsewhere: this one has a clock.
    pub(crate) validation: Validation,
}

/// A file of keys that cannot be used: why, in one sentence that shows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadKeys(String);

impl fmt::Display for BadKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadKeys {}

impl Keys {
    /// The key in a file of its own: a public key in PEM (RSA, P-256 or Ed25519), or the bytes of a
    /// secret for HS256, without a line end behind it. What looks like a public key in another form
    /// is no secret: everybody has it, and could sign with it.
    ///
    /// # Errors
    /// It is no such key, or too weak.
    pub fn from_key_file(content: &[u8]) -> Result<Self, BadKeys> {
        let text = String::from_utf8_lossy(content);
        let (algorithm, key) =
            if text.contains("-----BEGIN ") { from_pem(&text)? } else { from_secret(content)? };
        Ok(Self { keys: vec![Key::new(None, algorithm, key)], passed_over: 0 })
    }

    /// The keys of a JWK set (RFC 7517). Those that are no keys for signatures of the algorithms
    /// that are known are passed over (section 5).
    ///
    /// # Errors
    /// It is no JWK set, a key in it is wrong, or none is left.
    pub fn from_jwks(text: &str) -> Result<Self, BadKeys> {
        let set: KeySet = serde_json::from_str(text)
            .map_err(|error| bad(format!("this is no JWK set: line {}", error.line())))?;
        if set.keys.len() > KEYS_MAX {
            return Err(bad(format!("a JWK set has at most {KEYS_MAX} keys")));
        }
        let mut keys = Self::default();
        for (number, value) in (1..).zip(set.keys) {
            let is_secret = value.get("kty").is_some_and(|kty| kty == "oct");
            // RFC 7518 sections 6.2.2 and 6.3.2, RFC 8037 section 2.
            if !is_secret && value.get("d").is_some() {
                return Err(bad(format!("key {number}: {PRIVATE_KEY}")));
            }
            let jwk = serde_json::from_value::<Jwk>(value).ok();
            match jwk.as_ref().and_then(|jwk| Some((jwk, algorithm_of(jwk)?))) {
                None => keys.passed_over += 1,
                Some((jwk, algorithm)) => {
                    let named = |BadKeys(error)| bad(format!("key {number}: {error}"));
                    let key = from_jwk(jwk).map_err(named)?;
                    keys.keys.push(Key::new(jwk.common.key_id.clone(), algorithm, key));
                }
            }
        }
        keys.check()
    }

    /// These and those.
    ///
    /// # Errors
    /// As for [`Self::from_jwks`]: a token could mean two of them.
    pub fn and(mut self, others: Self) -> Result<Self, BadKeys> {
        self.keys.extend(others.keys);
        self.passed_over += others.passed_over;
        self.check()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// What their tokens are signed with, each once.
    #[must_use]
    pub fn algorithms(&self) -> Vec<&'static str> {
        let known = [
            (Algorithm::HS256, "HS256"),
            (Algorithm::RS256, "RS256"),
            (Algorithm::ES256, "ES256"),
            (Algorithm::EdDSA, "EdDSA"),
        ];
        let is_here = |algorithm| self.keys.iter().any(|key| key.algorithm == algorithm);
        known.into_iter().filter(|(it, _)| is_here(*it)).map(|(_, name)| name).collect()
    }

    /// How many of them have a `kid`.
    #[must_use]
    pub fn with_id(&self) -> usize {
        self.keys.iter().filter(|key| key.id.is_some()).count()
    }

    /// How many keys of a set were passed over.
    #[must_use]
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    fn check(self) -> Result<Self, BadKeys> {
        if self.keys.is_empty() {
            return Err(bad("no key for HS256, RS256, ES256 or EdDSA is in it"));
        }
        for (index, key) in self.keys.iter().enumerate() {
            let is_same = |other: &Key| other.algorithm == key.algorithm && other.id == key.id;
            if self.keys[..index].iter().any(is_same) {
                let algorithm = key.algorithm;
                return Err(bad(match &key.id {
                    Some(id) => format!("two keys for {algorithm:?} have the kid {id:?}"),
                    None => format!("two keys for {algorithm:?} have no kid to tell them apart"),
                }));
            }
        }
        Ok(self)
    }

    /// The one key that a token with this header means: the one with its `kid`, else the one
    /// without any; for a token without one also the only key of its algorithm. So a token costs at
    /// most one verification.
    pub(crate) fn find(&self, header: &Header) -> Option<&Key> {
        let mut candidates = self.keys.iter().filter(|key| key.algorithm == header.alg);
        let with_id = |id: Option<&String>| candidates.clone().find(|key| key.id.as_ref() == id);
        match &header.kid {
            Some(id) => with_id(Some(id)).or_else(|| with_id(None)),
            None => with_id(None).or_else(|| {
                let only = candidates.next();
                only.filter(|_| candidates.next().is_none())
            }),
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keys").field("count", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Key {
    fn new(id: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self { id, algorithm, key, validation }
    }
}

/// A JWK set whose keys are looked at one by one.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

const PRIVATE_KEY: &str = "this is a private key, which only the issuer may have: write the public";

/// How files begin that are no secrets of bytes, what they are, and what to do instead. Most hold a
/// public key: as a secret it would let anybody sign (RFC 8725 section 2.1).
const NO_SECRETS: [(&[u8], &str); 13] = [
    (b"\xEF\xBB\xBF", "text with a byte order mark: write it without one, in UTF-8"),
    (b"\xFE\xFF", "UTF-16: write it as UTF-8, without a byte order mark"),
    (b"\xFF\xFE", "UTF-16: write it as UTF-8, without a byte order mark"),
    (b"-\0-\0", "UTF-16: write it as UTF-8, without a byte order mark"),
    (b"\0-\0-", "UTF-16: write it as UTF-8, without a byte order mark"),
    (b"ssh-", OF_SSH),
    (b"sk-ssh-", OF_SSH),
    (b"ecdsa-", OF_SSH),
    (b"sk-ecdsa-", OF_SSH),
    (b"----", "no PEM with one PUBLIC KEY: write that"),
    // The same in base64: a sequence in a sequence, and the lengths of RSA, P-256 and Ed25519.
    (b"MII", OF_BASE64),
    (b"MFkwEwYHKoZIzj0C", OF_BASE64),
    (b"MCowBQYDK2Vw", OF_BASE64),
];

const OF_SSH: &str = "a key of SSH: write it in PEM (ssh-keygen -e -m PKCS8 -f FILE)";
const OF_BASE64: &str = "a key in base64 without the lines of PEM around it: write it with them";
const OF_DER: &str =
    "a key or a certificate in DER: write the public key in PEM (openssl pkey -pubin -inform DER)";

/// What a file is that holds no secret, and what to do instead.
fn no_secret(content: &[u8]) -> Option<&'static str> {
    // X.690 section 8.1: a sequence whose length takes more than a byte, or one with a sequence that
    // names an algorithm (RFC 5280 section 4.1.2.7). Text has neither.
    if let [0x30, 0x81..=0x84, ..] | [0x30, _, 0x30, _, 0x06, ..] = content {
        return Some(OF_DER);
    }
    // A secret may begin with a brace, and is no document then.
    if content.contains(&b'{') && serde_json::from_slice::<serde_json::Value>(content).is_ok() {
        return Some("JSON: a JWK set belongs into --token-jwks-file");
    }
    let begin = content.trim_ascii_start();
    NO_SECRETS.iter().find(|(mark, _)| begin.starts_with(mark)).map(|(_, what)| *what)
}

fn from_secret(content: &[u8]) -> Result<(Algorithm, DecodingKey), BadKeys> {
    if let Some(what) = no_secret(content) {
        return Err(bad(format!("this is no secret but {what}")));
    }
    let secret = content.strip_suffix(b"\n").unwrap_or(content);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    check_secret(secret.len())?;
    Ok((Algorithm::HS256, DecodingKey::from_secret(secret)))
}

fn from_pem(text: &str) -> Result<(Algorithm, DecodingKey), BadKeys> {
    if text.contains("PRIVATE KEY-----") {
        return Err(bad(PRIVATE_KEY));
    }
    let is_public = ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"]
        .iter()
        .any(|begin| text.contains(begin));
    if !is_public || text.matches("-----BEGIN ").count() != 1 {
        return Err(bad("this is not one public key (PUBLIC KEY, or RSA PUBLIC KEY)"));
    }
    let pem = text.as_bytes();
    let (algorithm, key) = DecodingKey::from_rsa_pem(pem)
        .map(|key| (Algorithm::RS256, key))
        .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key)))
        .map_err(|_| bad("this is no public key of RSA, P-256 or Ed25519"))?;
    check(algorithm, &key)?;
    Ok((algorithm, key))
}

/// What a key of a set is for; `None` where that is nothing that is known.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) => (Algorithm::HS256, KeyAlgorithm::HS256),
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(parameters)
            if parameters.curve == EllipticCurve::P256 =>
        {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(parameters)
            if parameters.curve == EllipticCurve::Ed25519 =>
        {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let is_for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    // RFC 7517 section 4.3.
    let verifies =
        jwk.common.key_operations.as_ref().is_none_or(|it| it.contains(&KeyOperations::Verify));
    let is_named_so = jwk.common.key_algorithm.as_ref().is_none_or(|it| *it == name);
    (is_for_signatures && verifies && is_named_so).then_some(algorithm)
}

fn from_jwk(jwk: &Jwk) -> Result<DecodingKey, BadKeys> {
    let key = DecodingKey::from_jwk(jwk).map_err(|_| bad("its numbers are not base64url"))?;
    let algorithm = algorithm_of(jwk).ok_or_else(|| bad("it is for something else"))?;
    check(algorithm, &key)?;
    Ok(key)
}

/// Whether a key has the size that its algorithm asks for.
fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<(), BadKeys> {
    match (algorithm, key.kind()) {
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => check_secret(secret.len()),
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
            check_modulus(modulus(der).unwrap_or_default())
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => check_modulus(n),
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
            if point.len() == P256_POINT_BYTES && point[0] == 4 {
                return Ok(());
            }
            Err(bad("of elliptic curves only P-256 is known, its point uncompressed"))
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
            if point.len() == ED25519_BYTES {
                return Ok(());
            }
            Err(bad("of Edwards curves only Ed25519 is known"))
        }
        _ => Err(bad("this is no key of RSA, P-256 or Ed25519, and no secret")),
    }
}

fn check_secret(bytes: usize) -> Result<(), BadKeys> {
    if bytes >= SECRET_BYTES_MIN {
        return Ok(());
    }
    Err(bad(format!("a secret for HS256 has at least {SECRET_BYTES_MIN} bytes, this one {bytes}")))
}

fn check_modulus(modulus: &[u8]) -> Result<(), BadKeys> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let bits = match &modulus[zeros..] {
        [] => 0,
        bytes @ [first, ..] => bytes.len() * 8 - first.leading_zeros() as usize,
    };
    if MODULUS_BITS.contains(&bits) {
        return Ok(());
    }
    Err(bad(format!("a key for RS256 has 2048 to 8192 bits, this one {bits}")))
}

/// The modulus in a `RSAPublicKey` (RFC 8017 appendix A.1.1): the first number of a sequence.
fn modulus(der: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 2;
    element(INTEGER, element(SEQUENCE, der)?)
}

/// What the first element has in it, if it is of this type (X.690 section 8.1); the length of what
/// is meant here has two bytes at most.
fn element(tag: u8, der: &[u8]) -> Option<&[u8]> {
    let (length, rest) = match der.strip_prefix(&[tag])? {
        [0x82, high, low, rest @ ..] => (u16::from_be_bytes([*high, *low]), rest),
        [0x81, length, rest @ ..] | [length @ ..=0x7F, rest @ ..] => ((*length).into(), rest),
        _ => return None,
    };
    rest.get(..length.into())
}

fn bad(sentence: impl Into<String>) -> BadKeys {
    BadKeys(sentence.into())
}
