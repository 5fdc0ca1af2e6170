//! Gets a rival's packages from their registries into a cache and builds it there, once for each
//! state of its directory. Nothing is installed on the machine: Debian packages are only unpacked,
//! so none of them starts a service.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::definition::Rival;
use crate::failure::{Failure, Outcome};

/// The file that says which state of its directory a rival was built from.
const STAMP: &str = "built-from";

/// `ringway-rivals` in the user's cache directory.
pub(crate) fn default_cache() -> Outcome<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .ok_or_else(|| Failure::usage("there is no $HOME: say where by --cache"))?;
    Ok(cache.join("ringway-rivals"))
}

/// What a rival's scripts find in their environment: its directories, and where this program's
/// own build is.
pub(crate) fn variables(rival: &Rival, cache: &Path) -> Outcome<Vec<(&'static str, OsString)>> {
    let program = env::current_exe()?;
    let bin = program.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    Ok(vec![
        ("SOURCE", fs::canonicalize(&rival.source)?.into_os_string()),
        ("CACHE", cache.join(&rival.name).into_os_string()),
        ("BIN", bin.into_os_string()),
    ])
}

/// Installs `rival`, unless it is there.
///
/// # Errors
///
/// A registry cannot be reached, or its build fails; which command it was.
pub(crate) fn install(rival: &Rival, cache: &Path) -> Outcome<()> {
    let place = cache.join(&rival.name);
    let mut state = DefaultHasher::new();
    hash(&rival.source, &mut state)?;
    let state = format!("{:016x}\n", state.finish());
    let stamp = place.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|built_from| built_from == state) {
        return Ok(());
    }
    println!("install      {}", rival.name);
    fs::create_dir_all(&place)?;
    // What is there may be of any state from now on.
    let _ = fs::remove_file(&stamp);
    let variables = variables(rival, cache)?;
    for script in scripts(rival) {
        let output = Command::new("sh")
            .args(["-e", "-c", &script])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&place)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let tail: Vec<_> = errors.lines().rev().take(20).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            return Err(Failure::run(format!("`{script}` failed: {}", tail.join("\n"))));
        }
    }
    fs::write(stamp, state)?;
    Ok(())
}

/// The scripts that install `rival`, run in its place in the cache.
fn scripts(rival: &Rival) -> Vec<String> {
    let mut scripts = Vec::new();
    if !rival.debian.is_empty() {
        let packages = rival.debian.join(" ");
        scripts.push(format!(
            "mkdir -p debian; cd debian; rm -f -- *.deb; apt-get download -q {packages}; \
             for package in *.deb; do dpkg-deb -x \"$package\" .; done; rm -f -- *.deb"
        ));
    }
    if !rival.npm.is_empty() {
        let packages = rival.npm.join(" ");
        scripts.push(format!("npm install --prefix . --no-save --no-audit --no-fund {packages}"));
    }
    if !rival.pypi.is_empty() {
        let packages = rival.pypi.join(" ");
        scripts
            .push(format!("python3 -m pip install --no-deps --upgrade --target pypi {packages}"));
    }
    if !rival.build.is_empty() {
        scripts.push(rival.build.clone());
    }
    scripts
}

/// Names and contents of all files under `directory`.
fn hash(directory: &Path, state: &mut DefaultHasher) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        entry.file_name().hash(state);
        if entry.file_type()?.is_dir() {
            hash(&entry.path(), state)?;
        } else {
            fs::read(entry.path())?.hash(state);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    /// A directory of this test process.
    fn directory(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("ringway-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn rival(source: PathBuf, build: &str) -> Rival {
        Rival {
            name: "some".to_owned(),
            source,
            title: String::new(),
            advice: String::new(),
            debian: Vec::new(),
            npm: Vec::new(),
            pypi: Vec::new(),
            build: build.to_owned(),
            serve: String::new(),
            dialect: Dialect::Plain,
            topic: "/".to_owned(),
            echo: None,
            is_bare: false,
        }
    }

    #[test]
    fn a_rival_is_built_once_for_each_state_of_its_directory() {
        let (source, cache) = (directory("source"), directory("cache"));
        fs::write(source.join("file"), "one").unwrap();
        let rival = rival(source.clone(), "echo built >> \"$CACHE/log\"; test -d \"$SOURCE\"");
        let built = || fs::read_to_string(cache.join("some/log")).unwrap().lines().count();
        install(&rival, &cache).unwrap();
        install(&rival, &cache).unwrap();
        assert_eq!(built(), 1);
        fs::write(source.join("file"), "two").unwrap();
        install(&rival, &cache).unwrap();
        assert_eq!(built(), 2);
        fs::remove_dir_all(source).unwrap();
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn a_failed_build_says_why_and_is_tried_again() {
        let (source, cache) = (directory("source-of-failure"), directory("cache-of-failure"));
        let rival = rival(source.clone(), "echo 'no compiler' >&2; exit 3");
        for _ in 0..2 {
            let Err(Failure::Run(why)) = install(&rival, &cache) else { panic!("installed") };
            assert!(why.contains("no compiler"), "{why}");
        }
        fs::remove_dir_all(source).unwrap();
        fs::remove_dir_all(cache).unwrap();
    }
}
