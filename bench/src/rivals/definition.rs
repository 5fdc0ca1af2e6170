//! What a rival is: `rival.toml` in a directory of its name. All definitions are checked when any
//! is used.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Job;
use crate::dialect::Dialect;
use crate::failure::{Failure, Outcome};

/// A server that can be installed and measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rival {
    /// The name of its directory.
    #[serde(skip)]
    pub(crate) name: String,
    /// Its directory.
    #[serde(skip)]
    pub(crate) source: PathBuf,
    /// What it is, for the table.
    pub(crate) title: String,
    /// Which of its own documents recommend how it is set up here, or what else it follows.
    pub(crate) advice: String,
    /// Debian packages, the libraries that they need included; they are unpacked, not installed.
    #[serde(default)]
    pub(crate) debian: Vec<String>,
    /// npm packages, each with its version.
    #[serde(default)]
    pub(crate) npm: Vec<String>,
    /// PyPI packages, each with its version, unpacked without what they depend on.
    #[serde(default)]
    pub(crate) pypi: Vec<String>,
    /// What is left to do then: an sh script.
    #[serde(default)]
    pub(crate) build: String,
    /// The sh script that starts it in the foreground on 127.0.0.1:$PORT, ending in exec.
    pub(crate) serve: String,
    /// What it speaks inside WebSocket messages.
    #[serde(default)]
    pub(crate) dialect: Dialect,
    /// Path and query where every connection subscribes and what is sent goes to all.
    pub(crate) topic: String,
    /// Path where everything comes back to its sender, if it has one.
    pub(crate) echo: Option<String>,
    /// True exactly when it does nothing but send: it is shown, and nothing is claimed beside it.
    #[serde(default, rename = "bare")]
    pub(crate) is_bare: bool,
}

impl Rival {
    /// Where the connections of `job` go; `None` when it cannot do that.
    pub(crate) fn path(&self, job: Job) -> Option<&str> {
        match job {
            Job::Fanout | Job::Idle | Job::Latency => Some(&self.topic),
            Job::Echo => self.echo.as_deref(),
        }
    }

    /// Name, title and advice, as text.
    pub(crate) fn lines(&self) -> [String; 2] {
        [format!("{:<18} {}", self.name, self.title), format!("{:<18} {}", "", self.advice.trim())]
    }
}

/// All definitions under `directory`, by name.
///
/// # Errors
///
/// There is none, or one is not a definition.
pub(crate) fn load(directory: &Path) -> Outcome<Vec<Rival>> {
    let named = |error: std::io::Error| Failure::usage(format!("{}: {error}", directory.display()));
    let mut rivals = Vec::new();
    for entry in fs::read_dir(directory).map_err(named)? {
        let source = entry.map_err(named)?.path();
        let file = source.join("rival.toml");
        if file.exists() {
            let text = fs::read_to_string(&file).map_err(named)?;
            rivals.push(parse(source, &text)?);
        }
    }
    rivals.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(rivals)
}

fn parse(source: PathBuf, text: &str) -> Outcome<Rival> {
    let wrong = |why: String| Failure::usage(format!("{}/rival.toml: {why}", source.display()));
    let mut rival: Rival = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let paths = [Some(&rival.topic), rival.echo.as_ref()];
    if paths.into_iter().flatten().any(|path| !path.starts_with('/')) {
        return Err(wrong("a path starts with a slash".to_owned()));
    }
    if !rival.serve.contains("exec ") || !rival.serve.contains("$PORT") {
        return Err(wrong("`serve` listens on $PORT and ends in exec".to_owned()));
    }
    if rival.npm.iter().any(|package| !package.contains('@'))
        || rival.pypi.iter().any(|package| !package.contains("=="))
    {
        return Err(wrong("npm and PyPI packages have a version".to_owned()));
    }
    rival.name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    rival.source = source;
    Ok(rival)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "title = 'a'\nadvice = 'b'\nserve = 'exec a $PORT'\ntopic = '/a'\n";

    #[test]
    fn every_committed_definition_is_whole() {
        let rivals = load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/rivals"))).unwrap();
        assert!(rivals.len() >= 3);
        for rival in rivals {
            assert!(rival.title.len() < 60, "{}: the title is a cell of a table", rival.name);
            assert!(rival.advice.trim().len() > 20, "{}: says where it comes from", rival.name);
        }
    }

    #[test]
    fn a_definition_has_the_name_of_its_directory() {
        let rival = parse(PathBuf::from("/x/some"), WHOLE).unwrap();
        assert_eq!(rival.name, "some");
        assert_eq!((rival.path(Job::Fanout), rival.path(Job::Echo)), (Some("/a"), None));
    }

    #[test]
    fn what_would_fail_later_is_refused_at_once() {
        for wrong in [
            "echo = 'echo'",
            "npm = ['ws']",
            "pypi = ['socketify']",
            "port = 1",
            "serve = 'a $PORT'",
        ] {
            let text = match wrong.strip_prefix("serve") {
                Some(_) => WHOLE.replace("serve = 'exec a $PORT'", wrong),
                None => format!("{WHOLE}{wrong}\n"),
            };
            assert!(
                matches!(parse(PathBuf::from("/x/y"), &text), Err(Failure::Usage(_))),
                "{wrong}"
            );
        }
    }
}
