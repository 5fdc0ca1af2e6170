//! The command line of the real binary: wrong usage is exit code 2 with a sentence, flags go over
//! the environment and the environment over the file, and the shipped reference says the same as
//! the help.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Output;

use common::{ringway, temporary_file};

fn output(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    ringway().args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asserts that these flags of `serve` are refused with exit code 2 and these words.
fn refused(flags: &[&str], words: &str) {
    let output = output(&[&["serve"], flags].concat(), &[]);
    let stderr = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{flags:?}: {stderr}");
    assert!(stderr.contains(words), "{flags:?}: {stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_bad_value_is_wrong_usage_and_says_how_it_must_look() {
    let size = "a size is a whole number with B, KiB, MiB or GiB";
    let time = "a time is a whole number with ms, s or m";
    let address = "an address is host:port or [v6]:port";
    for (flag, value, words) in [
        ("--listen", "9000", address),
        ("--listen", "127.0.0.1:9000,fast", "a listener has no option \"fast\""),
        ("--admin", "on", "or off"),
        ("--metrics", "localhost", address),
        ("--cores", "3-1", "a list of cores is numbers and ranges"),
        ("--cores", "9999", "there is no core 9999"),
        ("--cores", "1000", "this process may not run on core 1000"),
        ("--workers", "0", "0 is not in 1..=256"),
        ("--workers", "257", "257 is not in 1..=256"),
        ("--pin", "yes", "possible values: on, off, auto"),
        ("--connections-max", "0", "0 is not in 1.."),
        ("--engine", "kqueue", "possible values: auto, ring, tokio-uring, epoll"),
        ("--client-publish", "maybe", "possible values: on, off, auto"),
        ("--allow-origin", "example.com", "--allow-origin: "),
        ("--message-bytes-max", "64KB", size),
        ("--message-bytes-max", "4GiB", "--message-bytes-max must be less than 4GiB"),
        ("--message-bytes-max", "0", "message_bytes_max is 0, and must be at least 1"),
        ("--handshake-bytes-max", "16k", size),
        ("--handshake-timeout", "5", time),
        ("--handshake-timeout", "0", "--handshake-timeout must be longer than 0"),
        ("--receive-buffers", "1", "receive_buffers is 1, and must be at least 4"),
        ("--receive-buffer-bytes", "1KB", size),
        ("--socket-send-buffer-bytes", "x", size),
        ("--send-queue-bytes-max", "64KiB", "must be at least --message-bytes-max + 14 = 65550"),
        ("--send-queue-total-bytes-max", "-1", size),
        ("--slow-consumer", "wait", "possible values: close, drop-oldest, latest"),
        ("--write-timeout", "1h", time),
        ("--close-timeout", "0s", "--close-timeout must be longer than 0"),
        ("--ping-interval", "25", time),
        ("--pong-timeout", "0", "--pong-timeout must be longer than 0"),
        ("--coalesce-delay", "1us", time),
        ("--connection-age-max", "0", "--connection-age-max must be longer than 0"),
        ("--client-publish-rate-max", "0", "number would be zero"),
        ("--connections-per-address-max", "0", "number would be zero"),
        ("--handshakes-per-address-rate", "x", "invalid digit"),
        ("--drain", "forever", time),
        ("--drain", "71583m", "a time is at most 49 days"),
        ("--drain-delay", "1.5s", time),
        ("--log-level", "trace", "possible values: error, warn, info, debug"),
        ("--log", "xml", "possible values: text, json"),
    ] {
        refused(&[&format!("{flag}={value}")], words);
    }
}

#[test]
fn what_this_build_lacks_is_refused_by_name() {
    for (flag, value) in [("--listen", "127.0.0.1:0,tls"), ("--listen", "unix:/run/ringway")] {
        refused(&[flag, value], "not available in this build");
    }
}

#[test]
fn an_unknown_flag_is_wrong_usage_with_a_suggestion() {
    refused(&["--mesage-bytes-max", "1KiB"], "'--message-bytes-max'");
    let output = output(&["server"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(self::output(&[], &[]).status.code(), Some(2));
}

#[test]
fn a_control_plane_for_everyone_needs_tokens() {
    refused(&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"], "--admin-token-file");
    refused(&["--admin-token-file", "/does/not/exist"], "/does/not/exist");
}

#[test]
fn direct_descriptors_are_refused_where_large_frames_are_sent_without_a_copy() {
    let flags = ["--descriptors", "direct", "--zero-copy-bytes-min", "4KiB"];
    refused(&flags, "--descriptors direct does not go with --zero-copy-bytes-min");
}

#[test]
fn flags_go_over_the_environment_and_the_environment_over_the_file() {
    let file = temporary_file("write-timeout = \"3s\"\ndrain = \"3s\"\nping-interval = \"3s\"\n");
    let path = file.to_str().unwrap();
    let print = |flags: &[&str], environment: &[(&str, &str)]| {
        let output = output(&[&["config", "--print"], flags].concat(), environment);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let environment = [("RINGWAY_WRITE_TIMEOUT", "2s"), ("RINGWAY_DRAIN", "2s")];
    let text = print(&["--config", path, "--write-timeout", "1s"], &environment);
    assert!(text.contains("write-timeout = \"1s\" # flag\n"), "{text}");
    assert!(text.contains("drain = \"2s\" # environment\n"), "{text}");
    assert!(text.contains("ping-interval = \"3s\" # file\n"), "{text}");
    assert!(text.contains("pong-timeout = \"10s\" # default\n"), "{text}");
    assert!(text.contains("echo = false # default\n"), "{text}");
    let text = print(&[], &[("RINGWAY_CONFIG", path)]);
    assert!(
        text.contains("write-timeout = \"3s\" # file\n"),
        "the file may be named there too: {text}"
    );
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_file_longer_than_any_configuration_is_refused() {
    let file = temporary_file(&format!("#{}\n", "a".repeat((1 << 20) - 2)));
    let path = file.to_str().unwrap();
    let check = || output(&["config", "--check", "--config", path], &[]);
    assert!(check().status.success());
    std::fs::write(&file, format!("#{}\n", "a".repeat((1 << 20) - 1))).unwrap();
    let result = check();
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr(&result).contains("at most 1048576 bytes"), "{}", stderr(&result));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_bound_that_the_file_names_is_the_origin_of_its_flag() {
    let file = temporary_file("[limits]\nmessage_bytes_max = 2048\nlinger_bytes_max = 9\n");
    let path = file.to_str().unwrap();
    let text = stdout(&output(&["config", "--print", "--config", path], &[]));
    assert!(text.contains("message-bytes-max = \"2048\" # file\n"), "{text}");
    assert!(text.contains("\nmessage_bytes_max = 2048 # file\n"), "{text}");
    assert!(text.contains("\nlinger_bytes_max = 9 # file\n"), "{text}");
    assert!(text.contains("\n# send_bytes_max = 32768 # default\n"), "{text}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_bound_that_is_a_flag_too_has_the_flags_origin() {
    let flags = ["config", "--print", "--message-bytes-max", "1KiB", "--receive-buffers", "8"];
    let text = stdout(&output(&flags, &[("RINGWAY_SEND_QUEUE_BYTES_MAX", "1MiB")]));
    assert!(text.contains("\nmessage_bytes_max = 1024 # flag\n"), "{text}");
    assert!(text.contains("\nreceive_buffers = 8 # flag\n"), "{text}");
    assert!(text.contains("\nsend_queue_bytes_max = 1048576 # environment\n"), "{text}");
    assert!(text.contains("\n# handshake_bytes_max = 16384 # default\n"), "{text}");
}

#[test]
fn a_flag_without_a_value_is_printed_as_a_comment() {
    let text = stdout(&output(&["config", "--print", "--workers", "2"], &[]));
    assert!(text.contains("\n# admin-token-file = \"FILE\" # not set\n"), "{text}");
    assert!(text.contains("\n# trusted-proxy = [\"NETWORK\"] # not set\n"), "{text}");
    assert!(text.contains("\nworkers = \"2\" # flag\n"), "{text}");
    // Every flag has its line, but for the one that names the file.
    for (flag, _) in flags_of_help().iter().filter(|(flag, _)| flag != "--config") {
        let key = flag.strip_prefix("--").unwrap();
        let lines = text
            .lines()
            .filter(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
        assert_eq!(lines.count(), usize::from(key != "help"), "{flag}: {text}");
    }
}

#[test]
fn repeatable_values_are_separated_by_spaces_in_the_environment() {
    let environment = [
        ("RINGWAY_LISTEN", "127.0.0.1:1 [::1]:2"),
        ("RINGWAY_ALLOW_ORIGIN", "https://a.example https://*.b.example"),
        ("RINGWAY_ECHO", "on"),
    ];
    let text = stdout(&output(&["config", "--print"], &environment));
    assert!(text.contains("listen = [\"127.0.0.1:1\", \"[::1]:2\"] # env"), "{text}");
    let origins = "allow-origin = [\"https://a.example\", \"https://*.b.example\"] # env";
    assert!(text.contains(origins), "{text}");
    assert!(text.contains("echo = true # environment\n"), "{text}");
}

#[test]
fn a_bad_variable_and_a_bad_key_are_wrong_usage() {
    let result = output(&["serve"], &[("RINGWAY_DRAIN", "soon")]);
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr(&result).contains("'soon' for '--drain <TIME>'"), "{}", stderr(&result));
    for (content, words) in [
        ("drian = \"1s\"\n", "did you mean \"drain\"?"),
        ("drain = \"soon\"\n", "invalid value 'soon' for '--drain <TIME>'"),
        ("pin = \"maybe\"\n", "'maybe' for '--pin <WHEN>' [possible values: on, off, auto]"),
        ("drain 1\n", "line 1: "),
        ("[limits]\nmesh_letters = 1\n", "did you mean \"mesh_letters_max\"?"),
        ("[limits]\nsubmission_entries = 4\n", "submission_entries is 4"),
    ] {
        let file = temporary_file(content);
        let path = file.to_str().unwrap();
        let result = output(&["config", "--check", "--config", path], &[]);
        let said = stderr(&result);
        assert_eq!(result.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
        std::fs::remove_file(file).unwrap();
    }
    refused(&["--config", "/does/not/exist.toml"], "/does/not/exist.toml: ");
}

#[test]
fn a_valid_configuration_is_said_to_be_valid() {
    let result = output(&["config", "--check", "--workers", "3"], &[]);
    assert_eq!(result.status.code(), Some(0));
    assert_eq!(stdout(&result), "the configuration is valid\n");
    // A ping every 54 s with a wait of 60 s, as others have it.
    let result =
        output(&["config", "--print", "--ping-interval", "54s", "--pong-timeout", "6s"], &[]);
    let text = stdout(&result);
    assert!(text.contains("ping-interval = \"54s\" # flag\n"), "{text}");
    assert!(text.contains("pong-timeout = \"6s\" # flag\n"), "{text}");
    assert_eq!(output(&["config"], &[]).status.code(), Some(2), "one of the two is asked for");
    assert_eq!(output(&["config", "--print", "--check"], &[]).status.code(), Some(2));
}

#[test]
fn manual_pages_and_completions_name_every_flag() {
    let folder = std::env::temp_dir().join(format!("ringway-generated-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let result = output(&["generate", folder.to_str().unwrap()], &[]);
    assert!(result.status.success(), "{}", stderr(&result));
    let page = std::fs::read_to_string(folder.join("ringway-serve.1")).unwrap();
    let bash = std::fs::read_to_string(folder.join("ringway.bash")).unwrap();
    for (flag, _) in flags_of_help() {
        // A page writes the dash as roff wants it.
        assert!(page.contains(&flag.replace('-', "\\-")), "{flag}");
        assert!(bash.contains(&flag), "{flag}");
    }
    for name in ["ringway.1", "ringway-config.1", "ringway-doctor.1", "_ringway", "ringway.fish"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let result = output(&["generate", folder.to_str().unwrap()], &[]);
    assert_eq!(result.status.code(), Some(1));
}

#[test]
fn version_and_help_are_no_errors() {
    let result = output(&["--version"], &[]);
    assert_eq!(result.status.code(), Some(0));
    assert_eq!(stdout(&result), format!("ringway {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(output(&["serve", "--help"], &[]).status.code(), Some(0));
}

#[test]
fn a_busy_address_is_one_sentence_and_exit_code_1() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let sentence = format!("cannot listen on {address}: the address is in use");
    for flags in [
        ["--listen", &address, "--admin", "127.0.0.1:0"],
        ["--listen", "127.0.0.1:0", "--admin", &address],
    ] {
        let result = output(&[&["serve"], &flags[..]].concat(), &[]);
        let said = stderr(&result);
        assert_eq!(result.status.code(), Some(1), "{said}");
        assert!(said.contains(&sentence) && said.lines().count() == 1, "{said}");
    }
}

/// The flags of the help, each with its default if it has one.
fn flags_of_help() -> Vec<(String, Option<String>)> {
    let help = stdout(&output(&["serve", "--help"], &[]));
    let (_, options) = help.split_once("Options:\n").unwrap();
    // What is said of a flag is indented further than its name, and wrapped anywhere.
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in options.lines() {
        match line.strip_prefix("      --").or(line.strip_prefix("  -h, --")) {
            Some(flag) => {
                let name = flag.split(' ').next().unwrap();
                flags.push((format!("--{name}"), String::new()));
            }
            None if line.starts_with("          ") => {
                let (_, said) = flags.last_mut().unwrap();
                said.push_str(line.trim());
                said.push(' ');
            }
            None => {}
        }
    }
    let default = |said: String| {
        let (_, default) = said.split_once("[default: ")?;
        Some(default.split(']').next()?.to_owned())
    };
    flags.into_iter().map(|(flag, said)| (flag, default(said))).collect()
}

#[test]
fn the_reference_names_every_flag_with_its_default() {
    let reference = include_str!("../guide/reference.md");
    let flags = flags_of_help();
    assert_eq!(flags.len(), 45, "{flags:?}");
    assert_eq!(flags.iter().filter(|(_, default)| default.is_some()).count(), 27, "{flags:?}");
    for (flag, default) in flags.iter().filter(|(flag, _)| flag != "--help") {
        let starts = [format!("| `{flag}`"), format!("| `{flag} ")];
        let mut rows = reference.lines();
        let row = rows.find(|line| starts.iter().any(|start| line.starts_with(start)));
        let row = row.unwrap_or_else(|| panic!("{flag} is missing"));
        if let Some(default) = default {
            let cell = row.split('|').nth(2).unwrap();
            assert!(cell.contains(&format!("`{default}`")), "{flag}: {default} is not in {cell}");
        }
    }
}

#[test]
fn the_guide_names_no_flag_that_there_is_not() {
    let guide = include_str!("../guide/operating.md");
    let mut known: Vec<String> = flags_of_help().into_iter().map(|(flag, _)| flag).collect();
    known.extend(["--connections", "--check", "--print"].map(str::to_owned));
    let is_of_flag = |letter: char| letter.is_ascii_lowercase() || letter == '-';
    let words = guide.split(|letter| !is_of_flag(letter)).filter(|word| word.starts_with("--"));
    let mut named: Vec<&str> =
        words.filter(|word| word.len() > 3 && !word.starts_with("---")).collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() > 10, "{named:?}");
    for flag in named {
        assert!(known.iter().any(|known| known == flag), "{flag}");
    }
}
