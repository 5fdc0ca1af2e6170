//! The claims of a token that mean something here (RFC 7519 section 4.1, and two of Ringway's).

use serde::{Deserialize, Deserializer};

/// What is read of a token's body. Other claims are ignored, as section 4 asks.
#[derive(Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: Option<String>,
    pub(crate) sub: Option<String>,
    #[serde(default)]
    pub(crate) aud: Texts,
    pub(crate) exp: Option<NumericDate>,
    pub(crate) nbf: Option<NumericDate>,
    /// Topics that the bearer may subscribe to.
    #[serde(default)]
    pub(crate) topics: Texts,
    /// Topics that the bearer may publish to.
    #[serde(default)]
    pub(crate) publish: Texts,
}

/// One text, or several: an `aud` may be written either way (section 4.1.3), so the others may too.
#[derive(Default)]
pub(crate) struct Texts(pub(crate) Vec<String>);

/// Whole seconds since 1970; a fraction is cut off. What is out of range is as far as it goes.
#[derive(Clone, Copy)]
pub(crate) struct NumericDate(pub(crate) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrSeveral {
    None(()),
    One(String),
    Several(Vec<String>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match OneOrSeveral::deserialize(deserializer)? {
            OneOrSeveral::None(()) => Vec::new(),
            OneOrSeveral::One(text) => vec![text],
            OneOrSeveral::Several(texts) => texts,
        }))
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest number that there is, which is what is meant"
    )]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(|seconds| Self(seconds as u64))
    }
}
