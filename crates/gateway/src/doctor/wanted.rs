//! What is wanted of the kernel's settings. The values stand once, in the file that
//! `kernel-tuning/tune` sets them from; here it is embedded, parsed and scaled.

/// The file, whose first lines say what its lines mean.
const FILE: &str = include_str!("../../../../kernel-tuning/sysctl.d/60-ringway.conf");

/// How many connections the file's values are for.
const CONNECTIONS_OF_FILE: u64 = 100_000;

/// What values other than the wanted ones mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// No other will do.
    Exactly,
    /// More is as good.
    AtLeast,
    /// The same, and the number goes with that of connections.
    Scaled,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    key: String,
    rule: Rule,
    values: Vec<u64>,
}

/// What is wanted for a number of connections.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    settings: Vec<Setting>,
}

impl Wanted {
    /// The file's values, scaled.
    pub(crate) fn new(connections: u64) -> Self {
        let mut settings = parse(FILE).expect("a test parses the embedded file");
        for setting in settings.iter_mut().filter(|setting| setting.rule == Rule::Scaled) {
            for value in &mut setting.values {
                *value = (*value * connections).div_ceil(CONNECTIONS_OF_FILE);
            }
        }
        Self { settings }
    }

    /// The numbers of a key that the file has.
    pub(crate) fn numbers(&self, key: &str) -> &[u64] {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        &setting.expect("the file has a line for each key that is looked at").values
    }

    /// The first, mostly only, number of a key that the file has.
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.numbers(key)[0]
    }
}

/// # Errors
/// The line that is none of the three kinds.
fn parse(text: &str) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    for line in text.lines().map(str::trim) {
        let tagged = line.strip_prefix("#:").map(str::trim);
        let (rule, line) = match tagged.map(|line| line.split_once(' ')) {
            None if line.is_empty() || line.starts_with('#') => continue,
            None => (Rule::Exactly, line),
            Some(Some(("at-least", line))) => (Rule::AtLeast, line),
            Some(Some(("scaled", line))) => (Rule::Scaled, line),
            Some(_) => return Err(format!("no rule: {line}")),
        };
        let setting = line.split_once('=').and_then(|(key, values)| {
            let values: Result<Vec<u64>, _> = values.split_whitespace().map(str::parse).collect();
            let values = values.ok().filter(|values| !values.is_empty())?;
            Some(Setting { key: key.trim().to_owned(), rule, values })
        });
        settings.push(setting.ok_or_else(|| format!("no KEY = NUMBERS: {line}"))?);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_exactly_or_at_least_or_scaled() {
        let text = "# a comment\n\na.b = 1\n#: at-least c = 2\n  #: scaled d.e-f = 3 4\n";
        let setting = |key: &str, rule, values: &[u64]| Setting {
            key: key.to_owned(),
            rule,
            values: values.to_vec(),
        };
        let expected = [
            setting("a.b", Rule::Exactly, &[1]),
            setting("c", Rule::AtLeast, &[2]),
            setting("d.e-f", Rule::Scaled, &[3, 4]),
        ];
        assert_eq!(parse(text), Ok(expected.to_vec()));
        for wrong in ["a.b", "a = ", "a = x", "#: a = 1", "#: at-least a", "#: most a = 1", "#:"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_is_scaled_goes_with_the_connections() {
        let (file, half, more) =
            (Wanted::new(100_000), Wanted::new(50_000), Wanted::new(1_000_000));
        assert_eq!(file.number("fs.file-max"), 105_000);
        assert_eq!(half.number("fs.file-max"), 52_500);
        assert_eq!(more.number("fs.file-max"), 1_050_000);
        assert_eq!(more.numbers("net.ipv4.tcp_mem"), [1_500_000, 2_000_000, 3_000_000]);
        assert_eq!(more.number("net.core.somaxconn"), 4096);
        assert_eq!(more.number("net.ipv4.tcp_migrate_req"), 1);
        assert_eq!(Wanted::new(1).number("net.ipv4.tcp_ehash_entries"), 1);
        // As many connections as a flag takes: nothing overflows.
        assert!(Wanted::new(u32::MAX.into()).number("net.ipv4.tcp_mem") > 0);
    }

    #[test]
    fn the_backlogs_wanted_are_those_that_are_asked_for() {
        let backlog = u64::from(worker::Limits::default().listen_backlog);
        assert_eq!(Wanted::new(1).number("net.core.somaxconn"), backlog);
        assert_eq!(Wanted::new(1).number("net.ipv4.tcp_max_syn_backlog"), backlog);
    }
}
