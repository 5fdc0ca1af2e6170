//! Whether a token is valid at a moment, and what it lets its bearer do. The cheap questions come
//! first: a token that names no key of ours costs no arithmetic.

use jsonwebtoken::errors::ErrorKind;

use crate::{
    claims::{Claims, NumericDate, Texts},
    keys::Keys,
    names::Names,
};

/// By how much the issuer's clock may differ from ours.
pub const SKEW_SECONDS: u64 = 30;

/// Bytes of a subject: a token with a longer one is malformed.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// What a token must say beside being signed. Every field is written at the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The `iss` that it must have; `None`: any, or none.
    pub issuer: Option<String>,
    /// One of them must be among its `aud`. None: it must not have any, for it would be meant for
    /// somebody else (RFC 7519 section 4.1.3).
    pub audiences: Vec<String>,
    /// Whether one without `exp` is refused.
    pub expiry_required: bool,
}

/// Keys and rules.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    rules: Rules,
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `sub`: whom the issuer means.
    pub subject: Option<Box<str>>,
    /// When what it lets its bearer do ends, in seconds since 1970: at its `exp`, or for one that
    /// was admitted after that by the grace of [`SKEW_SECONDS`], so much later.
    pub ends_at: Option<u64>,
    /// `topics`: what its bearer may subscribe to.
    pub topics: Names,
    /// `publish`: what its bearer may publish to.
    pub publish: Names,
}

/// The rule that a token breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// It cannot be read, or a claim is not of its type.
    Malformed,
    /// No key of ours has signed it with the algorithm that is the key's.
    Signature,
    /// Its `exp` has passed.
    Expired,
    /// Its `nbf` is to come.
    Early,
    /// It has no `exp`.
    Endless,
    /// Its `iss` is another.
    Issuer,
    /// Its `aud` names somebody else, or nobody.
    Audience,
}

impl BadToken {
    /// The rule in words, and what to do.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "the token is no JWT of HS256, RS256, ES256 or EdDSA",
            Self::Signature => "the token is signed by no key that is known here",
            Self::Expired => "the token has expired: get a fresh one",
            Self::Early => "the token is not valid yet (nbf)",
            Self::Endless => "the token has no expiry (exp)",
            Self::Issuer => "the token is from another issuer (iss)",
            Self::Audience => "the token is meant for somebody else (aud)",
        }
    }
}

impl Verifier {
    /// A verifier of tokens signed with one of these keys.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules) -> Self {
        Self { keys, rules }
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What a token says, if it is valid so many seconds after 1970.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn verify(&self, token: &str, now: u64) -> Result<Grant, BadToken> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| BadToken::Malformed)?;
        // RFC 7515 section 4.1.11: what must be understood is not.
        if header.crit.is_some() {
            return Err(BadToken::Malformed);
        }
        let key = self.keys.find(&header).ok_or(BadToken::Signature)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &key.validation);
        let claims = claims.map_err(|error| match error.kind() {
            ErrorKind::Json(_) | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => BadToken::Malformed,
            _ => BadToken::Signature,
        });
        self.check(claims?.claims, now)
    }

    fn check(&self, claims: Claims, now: u64) -> Result<Grant, BadToken> {
        let Rules { issuer, audiences, expiry_required } = &self.rules;
        let expires_at = claims.exp.map(|NumericDate(seconds)| seconds);
        let ends_at = match expires_at {
            None if *expiry_required => return Err(BadToken::Endless),
            None => None,
            Some(exp) if now < exp => Some(exp),
            Some(exp) if now < exp.saturating_add(SKEW_SECONDS) => Some(exp + SKEW_SECONDS),
            Some(_) => return Err(BadToken::Expired),
        };
        if claims.nbf.is_some_and(|NumericDate(nbf)| now.saturating_add(SKEW_SECONDS) < nbf) {
            return Err(BadToken::Early);
        }
        if issuer.is_some() && claims.iss != *issuer {
            return Err(BadToken::Issuer);
        }
        let Texts(aud) = claims.aud;
        let is_for_us = if audiences.is_empty() {
            aud.is_empty()
        } else {
            aud.iter().any(|audience| audiences.contains(audience))
        };
        if !is_for_us {
            return Err(BadToken::Audience);
        }
        let is_subject =
            |subject: &String| !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX;
        if !claims.sub.as_ref().is_none_or(is_subject) {
            return Err(BadToken::Malformed);
        }
        Ok(Grant {
            subject: claims.sub.map(String::into_boxed_str),
            ends_at,
            topics: Names::new(claims.topics.0),
            publish: Names::new(claims.publish.0),
        })
    }
}
