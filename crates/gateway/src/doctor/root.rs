//! Reads small files of `/proc` and `/sys` below a root, which tests put elsewhere. Every read is
//! bounded, and whatever a file holds, the worst answer is `None`.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// No file that is read here has as much: the longest are `/proc/self/status` and `/proc/meminfo`.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Entries of a directory that are looked at: more network devices, CPUs or queues than one sums up
/// in a line.
const ENTRIES_MAX: usize = 4096;

/// The longest word that is told: a kernel's release, of 64 characters (uname(2)).
const WORD_CHARS_MAX: usize = 64;

/// The most numbers that a setting has here: tcp_mem has three.
const NUMBERS_MAX: usize = 4;

/// Where `/proc` and `/sys` are.
#[derive(Debug, Clone)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// `/` for the machine itself.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A path below it, written without a slash in front.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text without the white space around it; bytes that are no UTF-8 are replaced.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(path)).ok()?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The first word of a file, cut where no word that is meant here ends.
    pub(crate) fn word(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = self.text(path)?;
        Some(text.split_whitespace().next()?.chars().take(WORD_CHARS_MAX).collect())
    }

    /// All numbers of a file, if it has nothing else and not more than any setting.
    pub(crate) fn numbers(&self, path: impl AsRef<Path>) -> Option<Vec<i64>> {
        let text = self.text(path)?;
        let numbers = text.split_whitespace().take(NUMBERS_MAX + 1).map(str::parse);
        let numbers: Result<Vec<i64>, _> = numbers.collect();
        numbers.ok().filter(|numbers| (1..=NUMBERS_MAX).contains(&numbers.len()))
    }

    /// The first number of a file that has nothing but numbers, without its sign.
    pub(crate) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.numbers(path)?.first().map(|number| number.unsigned_abs())
    }

    /// What a setting of sysctl(8) says, as `net.core.somaxconn`.
    pub(crate) fn setting(&self, key: &str) -> Option<Vec<i64>> {
        self.numbers(setting_path(key))
    }

    /// The value behind a label, as of `Seccomp:` in `/proc/self/status`.
    pub(crate) fn field(&self, path: impl AsRef<Path>, label: &str) -> Option<String> {
        let text = self.text(path)?;
        let value = text.lines().find_map(|line| line.strip_prefix(label))?;
        Some(value.trim().to_owned())
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.take(ENTRIES_MAX).collect();
        names.sort_unstable();
        names
    }
}

/// Where a setting of sysctl(8) stands.
fn setting_path(key: &str) -> PathBuf {
    Path::new("proc/sys").join(key.replace('.', "/"))
}
