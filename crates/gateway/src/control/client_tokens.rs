//! What the workers verify clients' tokens with: the keys, read again on SIGHUP, and the wall
//! clock, which may be set while the workers' own goes on. A worker is told of both by one letter.

use std::sync::Arc;

use hub::{Access, Letter};
use worker::Time;

use super::{Journal, Level};
use crate::token_files::{TokenFiles, access, unix_at_zero_ms};

/// A wall clock that was set by less is still good enough for tokens, whose times are in seconds.
const CLOCK_STEP_MS_MIN: u64 = 500;

/// Keys and clock, and who has been told of them.
#[derive(Debug)]
pub(super) struct ClientTokens {
    files: TokenFiles,
    access: Arc<Access>,
    /// By worker: true exactly when it has `access`.
    told: Vec<bool>,
}

impl ClientTokens {
    /// As so many workers were started with it.
    pub(super) fn new(files: TokenFiles, access: Arc<Access>, workers: usize) -> Self {
        Self { files, access, told: vec![true; workers] }
    }

    /// Reads the files again. Where that fails, the keys stay as they were.
    pub(super) fn reload(&mut self, now: Time, journal: &Journal) {
        match self.files.read() {
            Ok(verifier) => {
                let keys = verifier.keys();
                let fields = vec![
                    ("keys", keys.count().to_string()),
                    ("algorithms", keys.algorithms().join(" ")),
                    ("keys_with_kid", keys.with_id().to_string()),
                ];
                self.change(access(verifier, now));
                journal.line(Level::Info, "token keys reloaded", fields);
            }
            Err(error) => {
                journal.line(Level::Warn, "the old token keys stay", vec![("error", error)]);
            }
        }
    }

    /// Looks whether the wall clock has been set.
    pub(super) fn check_clock(&mut self, now: Time, journal: &Journal) {
        let unix_at_zero_ms = unix_at_zero_ms(now);
        let step = unix_at_zero_ms.abs_diff(self.access.unix_at_zero_ms);
        if step >= CLOCK_STEP_MS_MIN {
            journal.line(Level::Info, "the wall clock was set", vec![("ms", step.to_string())]);
            let verifier = Arc::clone(&self.access.verifier);
            self.change(Arc::new(Access { verifier, unix_at_zero_ms }));
        }
    }

    fn change(&mut self, access: Arc<Access>) {
        self.access = access;
        self.told.fill(false);
    }

    /// Hands everybody who has not got it yet to `post`, which says whether there was room.
    pub(super) fn tell(&mut self, mut post: impl FnMut(usize, Letter) -> bool) {
        for (worker, told) in self.told.iter_mut().enumerate() {
            *told = *told || post(worker, Letter::Access(Arc::clone(&self.access)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control::testing::token_files;

    /// A worker's clock that began when the wall clock did is right for as long as nobody looks.
    const START: Time = Time(0);

    fn told(tokens: &mut ClientTokens) -> Vec<usize> {
        let mut told = Vec::new();
        tokens.tell(|worker, letter| {
            assert!(matches!(letter, Letter::Access(_)));
            told.push(worker);
            true
        });
        told
    }

    #[test]
    fn a_change_is_told_once_to_every_worker_that_has_room() {
        let path = std::env::temp_dir().join(format!("ringway-key-{}", std::process::id()));
        fs::write(&path, "a secret of thirty-two bytes or more").unwrap();
        let files = token_files(&path);
        let verifier = files.read().unwrap();
        let mut tokens = ClientTokens::new(files, access(verifier, START), 3);
        let journal = Journal::new(|_| {});
        assert!(told(&mut tokens).is_empty(), "they were started with it");
        tokens.reload(START, &journal);
        tokens.tell(|worker, _| worker == 1);
        assert_eq!(told(&mut tokens), [0, 2]);
        assert!(told(&mut tokens).is_empty());
        // An hour more on the workers' clock alone: the wall clock was set back by it.
        tokens.check_clock(Time(3_600_000_000_000), &journal);
        assert_eq!(told(&mut tokens), [0, 1, 2]);
        fs::write(&path, "too short").unwrap();
        tokens.reload(START, &journal);
        assert!(told(&mut tokens).is_empty(), "the old keys stay");
        fs::remove_file(&path).unwrap();
    }
}
