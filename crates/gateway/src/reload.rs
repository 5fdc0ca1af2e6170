//! SIGHUP: arguments, environment and file are read again, as at the start. What may change while
//! the workers run is taken over, all of it or nothing; what may not stays, and is named.

use std::ffi::OsString;

use worker::Limits;

use crate::{
    cli::ServeArgs,
    config::{self, Configuration, Refusal, Request},
    decide::Decisions,
    facts::Settings,
    log::Log,
    serve,
};

/// The flags that may change while the workers run. All others have made sockets, threads, rings or
/// tables, or say whether anybody needs a token.
const CHANGEABLE: [&str; 17] = [
    "allow-origin",
    "client-publish",
    "client-publish-rate-max",
    "close-timeout",
    "compression",
    "connections-per-address-max",
    "drain",
    "drain-delay",
    "echo",
    "handshake-bytes-max",
    "handshake-timeout",
    "handshakes-per-address-rate",
    "log-level",
    "message-bytes-max",
    "send-queue-bytes-max",
    "send-queue-total-bytes-max",
    "trusted-proxy",
];

/// What a later reading is compared with, and decided by.
#[derive(Debug)]
pub(crate) struct Reload {
    arguments: Vec<OsString>,
    running: Configuration,
    decisions: Decisions,
    log: Log,
}

/// What a reading has come to.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Flags and bounds that apply from now on and did not before.
    pub(crate) changed: Vec<String>,
    /// Those that differ from what runs, and need a restart.
    pub(crate) kept: Vec<String>,
    /// For the control plane.
    pub(crate) control: Settings,
    /// For the workers, by number.
    pub(crate) workers: Vec<hub::Settings>,
}

impl Reload {
    /// Of a process that was started by these arguments and runs with this.
    pub(crate) fn new(
        arguments: Vec<OsString>,
        running: Configuration,
        decisions: Decisions,
        log: Log,
    ) -> Self {
        Self { arguments, running, decisions, log }
    }

    /// Reads everything again. The level of the log changes at once.
    ///
    /// # Errors
    /// One sentence: what is there now would not start a process, or does not fit what must stay.
    /// Then nothing changes.
    pub(crate) fn read(&mut self) -> Result<Changes, String> {
        let wanted = match config::read(&self.arguments) {
            Ok(Request::Serve(wanted)) => *wanted,
            Ok(_) => unreachable!("the same arguments ask for the same command"),
            Err(Refusal::Sentence(sentence)) => return Err(sentence),
            Err(Refusal::Usage(error)) => return Err(error.to_string()),
        };
        let (changed, kept): (Vec<String>, Vec<String>) = wanted
            .differences(&self.running)
            .into_iter()
            .partition(|name| is_changeable(name) || Limits::CHANGEABLE.contains(&name.as_str()));
        let serve = merge(&self.running.serve, wanted.serve.clone());
        let next = self.running.changed_to(&wanted, serve, is_changeable)?;
        let workers = self.decisions.decide_anew(&next)?;
        self.log.set_level(next.serve.log_level);
        let control = serve::settings(&next);
        self.running = next;
        Ok(Changes { changed, kept, control, workers })
    }
}

fn is_changeable(flag: &str) -> bool {
    CHANGEABLE.contains(&flag)
}

/// What runs, with what may change as it is wanted.
fn merge(running: &ServeArgs, wanted: ServeArgs) -> ServeArgs {
    ServeArgs {
        allow_origin: wanted.allow_origin,
        client_publish: wanted.client_publish,
        client_publish_rate_max: wanted.client_publish_rate_max,
        close_timeout: wanted.close_timeout,
        compression: wanted.compression,
        connections_per_address_max: wanted.connections_per_address_max,
        drain: wanted.drain,
        drain_delay: wanted.drain_delay,
        echo: wanted.echo,
        handshake_bytes_max: wanted.handshake_bytes_max,
        handshake_timeout: wanted.handshake_timeout,
        handshakes_per_address_rate: wanted.handshakes_per_address_rate,
        log_level: wanted.log_level,
        message_bytes_max: wanted.message_bytes_max,
        send_queue_bytes_max: wanted.send_queue_bytes_max,
        send_queue_total_bytes_max: wanted.send_queue_total_bytes_max,
        trusted_proxy: wanted.trusted_proxy,
        ..running.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{Arg, Args};
    use toml::{Table, Value};

    use super::*;

    #[test]
    fn the_reference_names_what_may_change() {
        let reference = include_str!("../guide/reference.md");
        let (_, behind) = reference.split_once("\n* Flags: ").unwrap();
        let (flags, behind) = behind.split_once("\n* Bounds: ").unwrap();
        let flags: Vec<&str> =
            flags.split('`').filter_map(|word| word.strip_prefix("--")).collect();
        assert_eq!(flags, CHANGEABLE);
        let bounds = behind.split('\n').next().unwrap();
        for bound in Limits::CHANGEABLE {
            let flag = bound.replace('_', "-");
            assert!(
                CHANGEABLE.contains(&&*flag) || bounds.contains(&format!("`{bound}`")),
                "{bound}"
            );
        }
    }

    /// Each flag with a value that is not its default and fits the defaults of all others.
    const OTHERWISE: [(&str, &str); 44] = [
        ("admin", "off"),
        ("admin-token-file", "/a"),
        ("allow-origin", "any"),
        ("client-publish", "off"),
        ("client-publish-rate-max", "7"),
        ("close-timeout", "7s"),
        ("coalesce-delay", "7ms"),
        ("compression", "on"),
        ("connection-age-max", "7m"),
        ("connections-max", "7"),
        ("connections-per-address-max", "7"),
        ("cores", "0"),
        ("descriptors", "ordinary"),
        ("drain", "7s"),
        ("drain-delay", "7s"),
        ("echo", "true"),
        ("engine", "epoll"),
        ("handshake-bytes-max", "7KiB"),
        ("handshake-timeout", "7s"),
        ("handshakes-per-address-rate", "7"),
        ("listen", "127.0.0.1:7"),
        ("log", "json"),
        ("log-level", "debug"),
        ("message-bytes-max", "7KiB"),
        ("metrics", "127.0.0.1:7"),
        ("pin", "off"),
        ("ping-interval", "7s"),
        ("pong-timeout", "7s"),
        ("receive-buffer-bytes", "7KiB"),
        ("receive-buffers", "7"),
        ("send-queue-bytes-max", "777KiB"),
        ("send-queue-total-bytes-max", "777KiB"),
        ("slow-consumer", "latest"),
        ("socket-send-buffer-bytes", "7KiB"),
        ("token-audience", "a"),
        ("token-expiry", "optional"),
        ("token-issuer", "a"),
        ("token-jwks-file", "/a"),
        ("token-key-file", "/a"),
        ("trusted-proxy", "10.0.0.0/8"),
        ("workers", "7"),
        ("write-timeout", "7s"),
        ("zero-copy-bytes-min", "7KiB"),
        // Not compared: it is where the others come from.
        ("config", "/dev/null"),
    ];

    fn configuration(flags: &[String]) -> Configuration {
        let arguments = ["ringway", "serve"].iter().map(OsString::from);
        let arguments = arguments.chain(flags.iter().map(OsString::from)).collect::<Vec<_>>();
        match config::read(&arguments) {
            Ok(Request::Serve(configuration)) => *configuration,
            other => panic!("{flags:?}: {other:?}"),
        }
    }

    #[test]
    fn of_every_flag_it_is_known_whether_it_may_change_and_that_is_what_happens() {
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let flags: BTreeSet<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
        assert_eq!(flags, OTHERWISE.map(|(flag, _)| flag).into());
        let running = configuration(&[]);
        for (flag, value) in OTHERWISE {
            let flags = if flag == "echo" {
                vec!["--echo".to_owned()]
            } else {
                vec![format!("--{flag}={value}")]
            };
            let wanted = configuration(&flags);
            let differences = wanted.differences(&running);
            let expected = if flag == "config" { Vec::new() } else { vec![flag.to_owned()] };
            assert_eq!(differences, expected);
            let serve = merge(&running.serve, wanted.serve.clone());
            let next = running.changed_to(&wanted, serve, is_changeable).unwrap();
            let is_taken_over = format!("{:?}", next.serve) != format!("{:?}", running.serve);
            assert_eq!(is_taken_over, is_changeable(flag), "{flag}");
            assert_eq!(next.differences(&running).is_empty(), !is_changeable(flag), "{flag}");
            if is_changeable(flag) {
                assert!(next.differences(&wanted).is_empty(), "{flag}");
            }
        }
        assert!(CHANGEABLE.iter().all(|flag| flags.contains(flag)));
    }

    #[test]
    fn of_the_bounds_exactly_those_change_that_are_said_to() {
        let mut bounds = Limits::default();
        let before = Table::try_from(&bounds).unwrap();
        let more = |(key, value): (&String, &Value)| {
            (key.clone(), Value::Integer(value.as_integer().unwrap() + 1))
        };
        let wanted: Limits = before.iter().map(more).collect::<Table>().try_into().unwrap();
        bounds.adopt(&wanted);
        let after = Table::try_from(&bounds).unwrap();
        let mut changed: Vec<&str> =
            after.keys().map(String::as_str).filter(|key| before[*key] != after[*key]).collect();
        let mut said = Limits::CHANGEABLE;
        changed.sort_unstable();
        said.sort_unstable();
        assert_eq!(changed, said);
    }
}
