//! The token file: one token a line, optionally after its scope. Empty lines and lines that begin
//! with `#` count for nothing. A scope alone is no token: that is what `read $TOKEN` becomes where
//! the variable is empty, and it would open everything to whoever tries the word.

use std::{fmt, fs::File, io::Read, path::Path};

use subtle::ConstantTimeEq;

use super::Scope;

/// Bytes of a token file.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Tokens of a file: every request is compared with all of them.
const TOKENS_MAX: usize = 1000;

/// A token of fewer bytes can be guessed (16 random bytes in hexadecimal are 32): nothing bounds the
/// tries but the listener's connections.
pub(crate) const TOKEN_BYTES_WANTED: usize = 16;

/// Tokens and their scopes. Never shown, not even by `Debug`.
pub(crate) struct Tokens(Vec<(Box<[u8]>, Scope)>);

impl Tokens {
    /// Reads a token file.
    ///
    /// # Errors
    /// It cannot be read, or [`Self::parse`] refuses it; the sentence names the file.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let named = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let mut text = String::new();
        let file = File::open(path).map_err(|error| named(&error))?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| named(&error))?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(named(&format!("a token file has at most {FILE_BYTES_MAX} bytes")));
        }
        Self::parse(&text).map_err(|error| named(&error))
    }

    /// Reads the text of a token file.
    ///
    /// # Errors
    /// A line that is neither a token nor a scope and a token, too many tokens, or none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_ascii_whitespace();
            let (scope, token) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(first), ..) if first.starts_with('#') => continue,
                (Some("read" | "publish" | "admin"), None, _) => {
                    return Err(format!("line {number}: a scope needs its token behind it"));
                }
                (Some(token), None, _) => (Scope::Admin, token),
                (Some("read"), Some(token), None) => (Scope::Read, token),
                (Some("publish"), Some(token), None) => (Scope::Publish, token),
                (Some("admin"), Some(token), None) => (Scope::Admin, token),
                _ => {
                    return Err(format!(
                        "line {number}: a line is a token, or read, publish or admin and a token"
                    ));
                }
            };
            if tokens.len() == TOKENS_MAX {
                return Err(format!("a token file has at most {TOKENS_MAX} tokens"));
            }
            tokens.push((token.as_bytes().into(), scope));
        }
        if tokens.is_empty() {
            return Err("no token is in it, so nobody could use the control plane".into());
        }
        Ok(Self(tokens))
    }

    /// How many have fewer bytes than [`TOKEN_BYTES_WANTED`].
    pub(super) fn short(&self) -> usize {
        self.0.iter().filter(|(token, _)| token.len() < TOKEN_BYTES_WANTED).count()
    }

    /// The scope of a token that is in the file. How long it takes tells how long the token is that
    /// was asked for, but nothing about how much of it is right.
    pub(super) fn scope(&self, token: &[u8]) -> Option<Scope> {
        let mut found = None;
        for (known, scope) in &self.0 {
            if bool::from(known.ct_eq(token)) {
                found = Some(*scope);
            }
        }
        found
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tokens").field("count", &self.0.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_token_optionally_after_its_scope() {
        let text = "# who\n\n  read abc-0123456789ab\npublish\tdef-0123456789ab  \n\
                    admin ghi-0123456789ab\njkl-0123456789ab\r\n";
        let tokens = Tokens::parse(text).unwrap();
        assert_eq!(tokens.scope(b"abc-0123456789ab"), Some(Scope::Read));
        assert_eq!(tokens.scope(b"def-0123456789ab"), Some(Scope::Publish));
        assert_eq!(tokens.scope(b"ghi-0123456789ab"), Some(Scope::Admin));
        assert_eq!(tokens.scope(b"jkl-0123456789ab"), Some(Scope::Admin));
        assert_eq!(tokens.scope(b"#"), None);
        assert_eq!(tokens.scope(b""), None);
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_not_shown() {
        let long = "abc-0123456789ab";
        for line in [format!("{long} read"), format!("write {long}"), format!("read {long} def")] {
            let error = Tokens::parse(&format!("good-0123456789a\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
            assert!(!error.contains("abc"), "{error}");
        }
    }

    #[test]
    fn a_scope_without_a_token_is_no_token() {
        for scope in ["read", "publish", "admin", " read ", "admin\t"] {
            let error = Tokens::parse(&format!("good-0123456789a\n{scope}\n")).unwrap_err();
            assert_eq!(error, "line 2: a scope needs its token behind it");
        }
    }

    #[test]
    fn tokens_of_fewer_than_16_bytes_are_counted() {
        let text = "read 0123456789abcde\npublish 0123456789abcdef\n0\nadmin 0123456789abcdef0\n";
        let tokens = Tokens::parse(text).unwrap();
        assert_eq!((tokens.short(), tokens.scope(b"0")), (2, Some(Scope::Admin)));
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        assert!(Tokens::parse("").is_err());
        assert!(Tokens::parse("# none yet\n").is_err());
    }

    #[test]
    fn a_file_with_too_many_tokens_is_refused() {
        assert!(Tokens::parse(&"t-0123456789abcd\n".repeat(1000)).is_ok());
        assert!(Tokens::parse(&"t-0123456789abcd\n".repeat(1001)).is_err());
    }

    #[test]
    fn tokens_do_not_show_in_debug_output() {
        let tokens = Tokens::parse("secret-0123456789\n").unwrap();
        assert!(!format!("{tokens:?}").contains("secret"));
    }
}
