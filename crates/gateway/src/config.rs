//! Where values come from: flags, over the environment, over a file, over defaults. There is one
//! definition of each (`cli.rs`): the environment is attached to it, and what the file says takes
//! the place of its default (`config/file.rs`). What remains here is what must hold between values,
//! and where each comes from.

mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, parser::ValueSource};
use hub::OriginRule;
use toml::{Table, Value};
use worker::{FRAME_HEADER_BYTES_MAX, Limits};

use self::file::File;
use crate::{
    capacity,
    cli::{Cli, Command, DoctorArgs, ServeArgs, SocketDescriptors},
    doctor,
    quantity::ByteCount,
};

/// The receive buffers of a core, at most.
const RECEIVE_BYTES_MAX: u64 = 16 << 20;

/// Those that take the flags of `serve`, from wherever they come.
const SUBCOMMANDS: [&str; 3] = ["serve", "config", "doctor"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Run with this.
    Serve(Box<Configuration>),
    /// Print this file.
    Print(String),
    /// Nothing more: all is well.
    Check,
    /// Write manual pages and completions into this directory.
    Generate(PathBuf),
    /// Look at the machine.
    Doctor(Box<doctor::Request>),
}

/// All that can be configured, checked.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// The flags, wherever their values came from.
    pub(crate) serve: ServeArgs,
    /// The bounds, those of the flags included; of the process and of a core not divided yet.
    pub(crate) limits: Limits,
    /// The bounds that somebody has set, by name.
    pub(crate) limits_asked: BTreeSet<String>,
    /// SO_SNDBUF; `None` leaves it to the kernel.
    pub(crate) socket_send_buffer_bytes: Option<u32>,
    /// The flags as a file would write them, and where each comes from.
    settings: Vec<Setting>,
}

/// A flag that has a value.
#[derive(Debug, Clone)]
struct Setting {
    /// Its long name.
    key: String,
    value: Value,
    origin: Origin,
}

/// Where a value comes from; each goes over those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// clap's: wrong usage, or help and version that were asked for.
    Usage(clap::Error),
    /// One sentence.
    Sentence(String),
}

/// Reads the command line, with the environment and the file that they name.
///
/// # Errors
/// Wrong usage, and requests for help and version.
pub(crate) fn read(arguments: &[OsString]) -> Result<Request, Refusal> {
    let command = with_environment(Cli::command());
    let first = command.clone().try_get_matches_from(arguments).map_err(Refusal::Usage)?;
    let Some(path) = file_path(&first) else {
        return request(&first, File::default());
    };
    let file = File::read(&path)?;
    let matches = file.below(command).try_get_matches_from(arguments).map_err(|error| {
        // Without the file all was well.
        let error = error.render().to_string();
        let lines = error.trim_start_matches("error: ").lines().map(str::trim);
        let lines = lines.take_while(|line| !line.starts_with("For more information"));
        let error = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        Refusal::Sentence(format!("{}: {error}", path.display()))
    })?;
    request(&matches, file)
}

fn request(matches: &ArgMatches, file: File) -> Result<Request, Refusal> {
    let cli = Cli::from_arg_matches(matches).map_err(Refusal::Usage)?;
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    let has_settings = SUBCOMMANDS.contains(&name);
    let settings = if has_settings { settings_of(matches, &file) } else { Vec::new() };
    let configure =
        |serve| Configuration::resolve(serve, file, settings).map_err(Refusal::Sentence);
    Ok(match cli.command {
        Command::Serve(serve) => Request::Serve(Box::new(configure(serve)?)),
        Command::Doctor(DoctorArgs { connections, json, serve }) => {
            let configuration = configure(serve)?;
            let asked = connections.or(configuration.serve.connections_max);
            let connections = asked.unwrap_or(doctor::CONNECTIONS);
            let request = doctor::Request { configuration, connections, is_json: json };
            Request::Doctor(Box::new(request))
        }
        Command::Generate(generate) => Request::Generate(generate.directory),
        Command::Config(config) => {
            let configuration = configure(config.serve)?;
            if config.action.print { Request::Print(print(&configuration)) } else { Request::Check }
        }
    })
}

/// The flags that are also variables and keys.
fn settings() -> Vec<Arg> {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    command.get_arguments().cloned().collect()
}

/// The long name of a flag.
fn long(argument: &Arg) -> &str {
    argument.get_long().expect("every setting has a long name")
}

/// `RINGWAY_MESSAGE_BYTES_MAX` for `--message-bytes-max`.
fn with_environment(mut command: clap::Command) -> clap::Command {
    for subcommand in SUBCOMMANDS {
        command = command.mut_subcommand(subcommand, |mut subcommand| {
            for argument in settings() {
                let variable = long(&argument).to_uppercase().replace('-', "_");
                subcommand = subcommand.mut_arg(argument.get_id(), |argument| {
                    argument.env(format!("RINGWAY_{variable}")).hide_env(true)
                });
            }
            subcommand
        });
    }
    command
}

fn file_path(matches: &ArgMatches) -> Option<PathBuf> {
    let (name, matches) = matches.subcommand()?;
    SUBCOMMANDS.contains(&name).then(|| matches.get_one::<PathBuf>("config").cloned())?
}

impl Configuration {
    fn resolve(serve: ServeArgs, file: File, settings: Vec<Setting>) -> Result<Self, String> {
        let mut limits_asked: BTreeSet<String> = file.limits.keys().cloned().collect();
        let limits = file.limits.try_into::<Limits>();
        let mut limits = limits.map_err(|error| format!("limits: {}", error.message()))?;
        limits.message_bytes_max = size("message-bytes-max", serve.message_bytes_max)?;
        limits.handshake_bytes_max = size("handshake-bytes-max", serve.handshake_bytes_max)?;
        limits.receive_buffer_bytes = size("receive-buffer-bytes", serve.receive_buffer_bytes)?;
        limits.zero_copy_bytes_min = size("zero-copy-bytes-min", serve.zero_copy_bytes_min)?;
        limits.send_queue_bytes_max = serve.send_queue_bytes_max.0;
        limits.send_queue_total_bytes_max = serve.send_queue_total_bytes_max.0;
        match serve.receive_buffers {
            None => {
                let bytes = limits.receive_buffer_bytes;
                limits.receive_buffers = capacity::receive_buffers_of_core(bytes);
            }
            Some(count) => {
                limits.receive_buffers = count;
                limits_asked.insert("receive_buffers".to_owned());
            }
        }
        let send_buffer = serve.socket_send_buffer_bytes;
        let socket_send_buffer_bytes =
            send_buffer.map(|bytes| size("socket-send-buffer-bytes", bytes)).transpose()?;
        let configuration =
            Self { serve, limits, limits_asked, socket_send_buffer_bytes, settings };
        configuration.check()?;
        Ok(configuration)
    }

    fn check(&self) -> Result<(), String> {
        self.check_limits()?;
        self.check_times()?;
        self.check_lists()
    }

    /// The flags and bounds, by name, that another one has otherwise; a bound that is a flag too is
    /// named as the flag.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let by_key = |configuration: &Self| {
            let settings = configuration.settings.iter();
            let values = settings.map(|it| (it.key.clone(), it.value.clone()));
            let limits = Table::try_from(&configuration.limits);
            let limits = limits.expect("limits are a table of numbers").into_iter();
            values.chain(limits).collect::<BTreeMap<String, Value>>()
        };
        let (these, those) = (by_key(self), by_key(other));
        let flags: BTreeSet<String> =
            settings().iter().map(|argument| long(argument).replace('-', "_")).collect();
        let names: BTreeSet<&String> = these.keys().chain(those.keys()).collect();
        let differs = |name: &&&String| these.get(**name) != those.get(**name);
        let is_flag_too = |name: &String| name.contains('_') && flags.contains(name);
        names
            .iter()
            .filter(differs)
            .map(|name| (*name).clone())
            .filter(|it| !is_flag_too(it))
            .collect()
    }

    /// This one with `serve`, and with those of the bounds and of the other settings of `wanted` that
    /// may change.
    ///
    /// # Errors
    /// One sentence about what does not fit together then.
    pub(crate) fn changed_to(
        &self,
        wanted: &Self,
        serve: ServeArgs,
        is_changeable: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let mut limits = self.limits.clone();
        limits.adopt(&wanted.limits);
        let kept = self.settings.iter().filter(|it| !is_changeable(&it.key));
        let changed = wanted.settings.iter().filter(|it| is_changeable(&it.key));
        let configuration = Self {
            serve,
            limits,
            limits_asked: self.limits_asked.clone(),
            socket_send_buffer_bytes: self.socket_send_buffer_bytes,
            settings: kept.chain(changed).cloned().collect(),
        };
        configuration.check()?;
        Ok(configuration)
    }

    fn check_limits(&self) -> Result<(), String> {
        let limits = &self.limits;
        let frame = u64::from(limits.message_bytes_max) + u64::from(FRAME_HEADER_BYTES_MAX);
        if limits.send_queue_bytes_max < frame {
            return Err(format!(
                "--send-queue-bytes-max is {} and must be at least --message-bytes-max + \
                 {FRAME_HEADER_BYTES_MAX} = {frame}: else a slow connection could never be sent a \
                 long message",
                self.serve.send_queue_bytes_max
            ));
        }
        let pool = u64::from(limits.receive_buffers) * u64::from(limits.receive_buffer_bytes);
        if pool > RECEIVE_BYTES_MAX {
            return Err(format!(
                "--receive-buffers × --receive-buffer-bytes is {} and may be at most {}",
                ByteCount(pool),
                ByteCount(RECEIVE_BYTES_MAX)
            ));
        }
        if limits.zero_copy_bytes_min > 0 && self.serve.descriptors == SocketDescriptors::Direct {
            return Err(
                "--descriptors direct does not go with --zero-copy-bytes-min: killed, the \
                        gateway would leave its sockets open until the slowest client has read; \
                        take ordinary, or auto"
                    .to_owned(),
            );
        }
        limits.check().map_err(|error| format!("limits: {error}"))
    }

    fn check_times(&self) -> Result<(), String> {
        let serve = &self.serve;
        let pings = serve.ping_interval.0 > Duration::ZERO;
        let positive = [
            ("handshake-timeout", Some(serve.handshake_timeout)),
            ("write-timeout", Some(serve.write_timeout)),
            ("close-timeout", Some(serve.close_timeout)),
            ("pong-timeout", Some(serve.pong_timeout).filter(|_| pings)),
            ("connection-age-max", serve.connection_age_max),
        ];
        if let Some((flag, _)) =
            positive.iter().find(|(_, span)| span.is_some_and(|span| span.0.is_zero()))
        {
            return Err(format!("--{flag} must be longer than 0"));
        }
        if serve.pong_timeout.0 > worker::PONG_TIMEOUT_MAX {
            return Err(format!(
                "--pong-timeout may be at most {}m",
                worker::PONG_TIMEOUT_MAX.as_secs() / 60
            ));
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<(), String> {
        let serve = &self.serve;
        if serve.listen.is_empty() {
            return Err("--listen needs at least one address".to_owned());
        }
        if serve.allow_origin.is_empty() {
            return Err("--allow-origin needs at least one origin, or auto, or any".to_owned());
        }
        self.origin_rule().map(|_| ())
    }

    /// A flag that has a value, by its long name.
    fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// Where a bound comes from; one that is a flag too, from where the flag does.
    fn origin_of_limit(&self, limit: &str) -> Origin {
        match self.setting(&limit.replace('_', "-")) {
            Some(flag) => flag.origin,
            None if self.limits_asked.contains(limit) => Origin::File,
            None => Origin::Default,
        }
    }

    /// The rule for origins; `None`: it depends on the listeners.
    ///
    /// # Errors
    /// Names the value that is no origin.
    pub(crate) fn origin_rule(&self) -> Result<Option<OriginRule>, String> {
        if self.serve.allow_origin == ["auto"] {
            return Ok(None);
        }
        let rule = OriginRule::parse(&self.serve.allow_origin);
        rule.map(Some).map_err(|error| format!("--allow-origin: {error}"))
    }
}

/// A size that the limits hold in 32 bits.
fn size(flag: &str, bytes: ByteCount) -> Result<u32, String> {
    u32::try_from(bytes.0).map_err(|_| format!("--{flag} must be less than 4GiB"))
}

/// The flags that have a value, but for `--config`, which a file cannot name.
fn settings_of(matches: &ArgMatches, file: &File) -> Vec<Setting> {
    let setting = |argument: Arg| {
        let (id, key) = (argument.get_id().as_str(), long(&argument));
        let mut values = matches.get_raw(id).filter(|_| key != "config")?;
        let value = match argument.get_action() {
            ArgAction::SetTrue => matches.get_flag(id).into(),
            ArgAction::Append => Value::Array(values.map(text).collect()),
            _ => values.next_back().map(text)?,
        };
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Environment,
            // What a file says takes the place of the default.
            _ if file.names(key) => Origin::File,
            _ => Origin::Default,
        };
        Some(Setting { key: key.to_owned(), value, origin })
    };
    settings().into_iter().filter_map(setting).collect()
}

fn text(value: &OsStr) -> Value {
    value.to_string_lossy().into_owned().into()
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// What applies, as a configuration file that means the same, with the origin of each value behind
/// it. Flags without a value stand in comments, and so do bounds that nobody has set: where
/// computed, they depend on not being set.
fn print(configuration: &Configuration) -> String {
    let mut text = String::new();
    for argument in settings().iter().filter(|argument| long(argument) != "config") {
        text += &match configuration.setting(long(argument)) {
            Some(Setting { key, value, origin }) => format!("{key} = {value} # {origin}\n"),
            None => format!("# {} = {} # not set\n", long(argument), placeholder(argument)),
        };
    }
    text.push_str("\n[limits]\n");
    let limits = Table::try_from(&configuration.limits).expect("limits are a table of numbers");
    for (key, value) in &limits {
        let origin = configuration.origin_of_limit(key);
        let comment = if origin == Origin::Default { "# " } else { "" };
        writeln!(text, "{comment}{key} = {value} # {origin}").expect("a string takes everything");
    }
    text
}

/// What stands for the value of a flag in its help, as a file would write a value.
fn placeholder(argument: &Arg) -> Value {
    let name = argument.get_value_names().and_then(<[_]>::first);
    let name = name.expect("a switch always has a value, and all others name theirs");
    let name = Value::from(name.as_str());
    match argument.get_action() {
        ArgAction::Append => Value::Array(vec![name]),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a command line comes to with a file, without an environment.
    fn configure(file: &str, flags: &[&str]) -> Result<Configuration, String> {
        let file = File::parse(file)?;
        let arguments = ["ringway", "serve"].iter().chain(flags);
        let matches = file
            .below(Cli::command())
            .try_get_matches_from(arguments)
            .map_err(|error| error.to_string())?;
        match request(&matches, file) {
            Ok(Request::Serve(configuration)) => Ok(*configuration),
            Ok(other) => Err(format!("{other:?}")),
            Err(Refusal::Sentence(sentence)) => Err(sentence),
            Err(Refusal::Usage(error)) => Err(error.to_string()),
        }
    }

    fn error(file: &str, flags: &[&str]) -> String {
        configure(file, flags).unwrap_err()
    }

    #[test]
    fn without_anything_the_defaults_of_the_interface_apply() {
        let Configuration { serve, limits, limits_asked, .. } = configure("", &[]).unwrap();
        assert_eq!(serve.listen.len(), 1);
        assert_eq!(serve.listen[0].address.to_string(), "127.0.0.1:9000");
        assert_eq!(serve.admin.0.unwrap().to_string(), "127.0.0.1:9001");
        assert_eq!(serve.metrics.0, None);
        assert_eq!(serve.drain.0, Duration::from_secs(25));
        assert_eq!(limits, Limits::default());
        assert!(limits_asked.is_empty());
        assert!(!serve.echo);
    }

    #[test]
    fn flags_go_over_the_file() {
        let file = "write-timeout = \"3s\"\nconnections-max = 7\necho = true\n";
        let serve = configure(file, &["--write-timeout", "4s"]).unwrap().serve;
        assert_eq!(serve.write_timeout.0, Duration::from_secs(4));
        assert_eq!(serve.connections_max, Some(7));
        assert!(serve.echo);
    }

    #[test]
    fn repeatable_values_are_arrays_in_the_file_and_replaced_as_a_whole() {
        let file = "listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
        assert_eq!(configure(file, &[]).unwrap().serve.listen.len(), 2);
        let serve = configure(file, &["--listen", "127.0.0.1:3"]).unwrap().serve;
        assert_eq!(serve.listen.len(), 1);
        assert_eq!(configure("listen = \"[::]:1\"\n", &[]).unwrap().serve.listen.len(), 1);
        assert_eq!(error("listen = []\n", &[]), "--listen needs at least one address");
    }

    #[test]
    fn every_bound_is_a_key_of_limits() {
        let limits = Table::try_from(Limits::default()).unwrap();
        assert!(limits.contains_key("mesh_letters_max") && limits.contains_key("listen_backlog"));
        for (key, value) in &limits {
            let file = format!("[limits]\n{key} = {value}\n");
            let configuration = configure(&file, &[]).unwrap();
            assert_eq!(configuration.limits, Limits::default(), "{key}");
            assert!(configuration.limits_asked.contains(key), "{key}");
        }
        let file = "[limits]\nmesh_letters_max = 2\nlinger_bytes_max = \"8KiB\"\n";
        let limits = configure(file, &[]).unwrap().limits;
        assert_eq!((limits.mesh_letters_max, limits.linger_bytes_max), (2, 8192));
    }

    #[test]
    fn the_reference_names_every_bound_with_its_default() {
        let reference = include_str!("../guide/reference.md");
        for (key, value) in Table::try_from(Limits::default()).unwrap() {
            assert!(reference.contains(&format!("\n| `{key}` | {value} | ")), "{key} = {value}");
        }
    }

    #[test]
    fn a_bound_that_is_a_flag_too_is_looked_for_as_the_flag_first() {
        let file = "message-bytes-max = \"3KiB\"\n[limits]\nmessage_bytes_max = 2048\n";
        assert_eq!(configure(file, &[]).unwrap().limits.message_bytes_max, 3072);
        let file = "[limits]\nmessage_bytes_max = 2048\nreceive_buffers = 8\n";
        let limits = configure(file, &[]).unwrap().limits;
        assert_eq!((limits.message_bytes_max, limits.receive_buffers), (2048, 8));
        let limits = configure(file, &["--message-bytes-max", "1KiB"]).unwrap().limits;
        assert_eq!(limits.message_bytes_max, 1024);
    }

    #[test]
    fn receive_buffers_follow_their_size_unless_a_number_is_asked_for() {
        let limits = |flags: &[&str]| configure("", flags).unwrap().limits;
        assert_eq!(limits(&["--receive-buffer-bytes", "4KiB"]).receive_buffers, 256);
        assert_eq!(limits(&["--receive-buffers", "16"]).receive_buffers, 16);
        assert_eq!(
            error("", &["--receive-buffers", "32768"]),
            "--receive-buffers × --receive-buffer-bytes is 32MiB and may be at most 16MiB"
        );
    }

    #[test]
    fn unknown_names_come_with_a_suggestion() {
        assert_eq!(
            error("mesage-bytes-max = 1\n", &[]),
            "there is no key \"mesage-bytes-max\": did you mean \"message-bytes-max\"?"
        );
        assert_eq!(
            error("[limits]\nmesh_letter_max = 1\n", &[]),
            "there is no limit \"mesh_letter_max\": did you mean \"mesh_letters_max\"?"
        );
        assert_eq!(error("qqqq = 1\n", &[]), "there is no key \"qqqq\"");
        let another = error("config = \"other.toml\"\n", &[]);
        assert!(another.starts_with("there is no key \"config\""), "{another}");
    }

    #[test]
    fn values_of_the_wrong_type_are_refused() {
        assert_eq!(error("echo = 1\n", &[]), "echo takes true or false");
        assert_eq!(error("listen = [1]\n", &[]), "listen takes a string or an array of strings");
        assert_eq!(error("drain = 1.5\n", &[]), "drain takes a string or a whole number");
        assert_eq!(
            error("[limits]\nmesh_letters_max = \"2\"\n", &[]),
            "limits.mesh_letters_max takes a whole number"
        );
        assert_eq!(
            error("[limits]\nlinger_bytes_max = \"2kb\"\n", &[]),
            "limits.linger_bytes_max: a size is a whole number with B, KiB, MiB or GiB, or bytes \
             without a unit"
        );
        assert!(error("a\nb = 1\n", &[]).starts_with("line 1: "));
    }

    #[test]
    fn a_message_must_fit_the_send_queue() {
        assert_eq!(
            error("", &["--send-queue-bytes-max", "65549"]),
            "--send-queue-bytes-max is 65549B and must be at least --message-bytes-max + 14 = \
             65550: else a slow connection could never be sent a long message"
        );
        assert!(configure("", &["--send-queue-bytes-max", "65550"]).is_ok());
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused() {
        assert_eq!(
            error("[limits]\ncompletion_entries = 16\n", &[]),
            "limits: completion_entries is 16, and must be at least submission_entries, 1024"
        );
        let file = "[limits]\ncompletion_entries = 16\nsubmission_entries = 8\n";
        assert!(configure(file, &[]).is_ok());
        assert!(error("", &["--message-bytes-max", "4GiB"]).ends_with("must be less than 4GiB"));
    }

    #[test]
    fn no_pings_need_no_pong() {
        assert_eq!(error("", &["--pong-timeout", "0"]), "--pong-timeout must be longer than 0");
        assert_eq!(error("", &["--pong-timeout", "61m"]), "--pong-timeout may be at most 60m");
        let flags = ["--ping-interval", "0", "--pong-timeout", "0"];
        assert!(configure("", &flags).is_ok());
        assert_eq!(error("", &["--write-timeout", "0"]), "--write-timeout must be longer than 0");
    }

    #[test]
    fn origins_are_checked_before_anything_starts() {
        let origins = |flags: &[&str]| configure("", flags).map(|it| it.origin_rule().unwrap());
        assert_eq!(origins(&[]), Ok(None));
        assert_eq!(origins(&["--allow-origin", "any"]), Ok(Some(OriginRule::Any)));
        let two = ["--allow-origin", "https://a.example", "--allow-origin", "http://b.example"];
        assert!(matches!(origins(&two), Ok(Some(OriginRule::List(list))) if list.len() == 2));
        assert!(origins(&["--allow-origin", "example.com"]).is_err());
        assert!(origins(&["--allow-origin", "any", "--allow-origin", "https://a.b"]).is_err());
    }

    #[test]
    fn what_is_printed_means_the_same_when_read() {
        let flags = ["--listen", "127.0.0.1:1", "--listen", "[::1]:2", "--echo", "--drain", "7s"];
        let print_with = |file: &str, flags: &[&str]| {
            let file = File::parse(file).unwrap();
            let arguments = ["ringway", "config", "--print"].iter().chain(flags);
            let matches = file.below(Cli::command()).try_get_matches_from(arguments).unwrap();
            match request(&matches, file) {
                Ok(Request::Print(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        let printed = print_with("[limits]\nmesh_letters_max = 5\n", &flags);
        assert!(printed.contains("listen = [\"127.0.0.1:1\", \"[::1]:2\"] # flag\n"), "{printed}");
        assert!(printed.contains("echo = true # flag\n"), "{printed}");
        assert!(printed.contains("\nmesh_letters_max = 5 # file\n"), "{printed}");
        assert!(printed.contains("\n# linger_bytes_max = 262144 # default\n"), "{printed}");
        // All comes from the file then: what it says of a flag goes for the bound of that name too.
        let (settings, limits) = printed.split_once("\n[limits]\n").unwrap();
        let from_file =
            |text: &str| text.replace(" # flag", " # file").replace(" # default", " # file");
        let flags_too = [
            "handshake_bytes_max",
            "message_bytes_max",
            "receive_buffer_bytes",
            "send_queue_bytes_max",
            "send_queue_total_bytes_max",
            "zero_copy_bytes_min",
        ];
        let limits = limits.lines().map(|line| {
            let is_flag_too = flags_too.iter().any(|it| line.contains(&format!("# {it} = ")));
            if is_flag_too { from_file(line.trim_start_matches("# ")) } else { line.to_owned() }
        });
        let limits: String = limits.map(|line| line + "\n").collect();
        let expected = format!("{}\n[limits]\n{limits}", from_file(settings));
        assert_eq!(print_with(&printed, &[]), expected);
    }
}
