//! The files that hold the keys of clients' tokens. They are read at the start and again on SIGHUP;
//! the workers are given what was made of them and read nothing.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use hub::Access;
use tokens::{Keys, Rules, Verifier};
use worker::Time;

use crate::cli::{ServeArgs, TokenExpiry};

/// Bytes of a file of keys.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where keys are read from, and what tokens must say beside being signed with one.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    key_file: Option<PathBuf>,
    jwks_file: Option<PathBuf>,
    rules: Rules,
}

impl TokenFiles {
    /// `None`: nobody needs a token.
    ///
    /// # Errors
    /// Something is asked of tokens that no key is there for: one sentence.
    pub(crate) fn new(serve: &ServeArgs) -> Result<Option<Self>, String> {
        let files = Self {
            key_file: serve.token_key_file.clone(),
            jwks_file: serve.token_jwks_file.clone(),
            rules: Rules {
                issuer: serve.token_issuer.clone(),
                audiences: serve.token_audience.clone(),
                expiry_required: serve.token_expiry == TokenExpiry::Required,
            },
        };
        if files.key_file.is_some() || files.jwks_file.is_some() {
            return Ok(Some(files));
        }
        let is_asked = files.rules.issuer.is_some()
            || !files.rules.audiences.is_empty()
            || !files.rules.expiry_required;
        if is_asked {
            return Err("--token-issuer, --token-audience and --token-expiry need keys: name a \
                        --token-key-file or --token-jwks-file, or anyone may connect"
                .to_owned());
        }
        Ok(None)
    }

    /// What tokens are to be verified with, as the files are now.
    ///
    /// # Errors
    /// A file cannot be read or used: one sentence that names it and shows nothing of it.
    pub(crate) fn read(&self) -> Result<Arc<Verifier>, String> {
        let key = self.key_file.as_ref().map(|path| {
            let content = read(path)?;
            Keys::from_key_file(&content).map_err(|error| named(path, &error))
        });
        let set = self.jwks_file.as_ref().map(|path| {
            let content = read(path)?;
            let text = String::from_utf8(content).map_err(|_| named(path, &"this is no text"))?;
            Keys::from_jwks(&text).map_err(|error| named(path, &error))
        });
        let keys = match (key.transpose()?, set.transpose()?) {
            (Some(key), Some(set)) => {
                key.and(set).map_err(|error| format!("the keys of both files: {error}"))?
            }
            (key, set) => key.or(set).unwrap_or_default(),
        };
        Ok(Arc::new(Verifier::new(keys, self.rules.clone())))
    }
}

/// What the workers are given: keys and rules, and what the time is. `now` is a moment on the
/// workers' clock.
pub(crate) fn access(verifier: Arc<Verifier>, now: Time) -> Arc<Access> {
    Arc::new(Access { verifier, unix_at_zero_ms: unix_at_zero_ms(now) })
}

/// When the workers' clock began, in milliseconds since 1970, as the wall clock has it now. Rounded
/// down, so that no token ends before its time.
pub(crate) fn unix_at_zero_ms(now: Time) -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
    unix_ns.saturating_sub(now.0) / 1_000_000
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let file = File::open(path).map_err(|error| named(path, &error))?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content);
    read.map_err(|error| named(path, &error))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(named(path, &format!("a file of keys has at most {FILE_BYTES_MAX} bytes")));
    }
    Ok(content)
}

fn named(path: &Path, error: &dyn fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
