//! Scenarios: one question each, in a small TOML file. Those of `bench/scenarios/` are built in;
//! any other file may be named on the command line.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// The scenarios that are built in.
const BUILT_IN: [(&str, &str); 9] = [
    ("churn", include_str!("../scenarios/churn.toml")),
    ("echo", include_str!("../scenarios/echo.toml")),
    ("fanout", include_str!("../scenarios/fanout.toml")),
    ("heartbeat", include_str!("../scenarios/heartbeat.toml")),
    ("idle", include_str!("../scenarios/idle.toml")),
    ("open", include_str!("../scenarios/open.toml")),
    ("slow-readers", include_str!("../scenarios/slow-readers.toml")),
    ("small-rooms", include_str!("../scenarios/small-rooms.toml")),
    ("storm", include_str!("../scenarios/storm.toml")),
];

/// Who sends messages to whom.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Traffic {
    /// Nobody: the connections are held, and pings are answered.
    None,
    /// One more connection publishes to all.
    Fanout,
    /// The first member of each room publishes to its room.
    Rooms,
    /// Every connection gets back what it sends.
    Echo,
    /// Connections are closed and opened again.
    Churn,
}

/// Whose memory is measured.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weighing {
    /// Nobody's.
    #[default]
    None,
    /// The server's.
    User,
    /// The server's and the kernel's, which takes half a minute.
    All,
}

/// A scenario file. The defaults apply where the command line says nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The question it answers, for the report.
    pub(crate) question: String,
    /// Who sends to whom.
    pub(crate) traffic: Traffic,
    /// Default of `--connections`.
    pub(crate) connections: u32,
    /// Default of `--rate`: publications, messages or reconnections per second in all; 0: the
    /// next one when the last has arrived everywhere.
    #[serde(default)]
    pub(crate) rate: f64,
    /// Default of `--size`.
    #[serde(default = "default_size")]
    pub(crate) size: String,
    /// Default of `--duration`.
    pub(crate) duration: String,
    /// Members of a room, where the URL has `{room}`.
    #[serde(default = "default_room_members")]
    pub(crate) room_members: u32,
    /// Part of the subscribers that never read, in per cent.
    #[serde(default)]
    pub(crate) stalled_percent: f64,
    /// Whose memory is measured while the connections are opened in steps.
    #[serde(default)]
    pub(crate) memory: Weighing,
}

fn default_size() -> String {
    "100".to_owned()
}

fn default_room_members() -> u32 {
    1
}

impl Scenario {
    /// Loads a built-in scenario by name, or else the file of that name.
    ///
    /// # Errors
    ///
    /// Neither exists, or the file is not a scenario.
    pub(crate) fn load(name: &str) -> Outcome<Scenario> {
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((_, text)) => Scenario::parse(name, text),
            None => {
                let text = fs::read_to_string(name).map_err(|error| {
                    let names = BUILT_IN.map(|(built_in, _)| built_in).join(", ");
                    Failure::usage(format!("scenario `{name}`: {error}; built in: {names}"))
                })?;
                Scenario::parse(name, &text)
            }
        }
    }

    fn parse(name: &str, text: &str) -> Outcome<Scenario> {
        let scenario: Scenario = toml::from_str(text)
            .map_err(|error| Failure::usage(format!("scenario `{name}`: {error}")))?;
        if scenario.room_members == 0 {
            return Err(Failure::usage(format!("scenario `{name}`: a room has members")));
        }
        if !(0.0..100.0).contains(&scenario.stalled_percent) {
            return Err(Failure::usage(format!(
                "scenario `{name}`: stalled_percent is from 0 to below 100"
            )));
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units;

    #[test]
    fn every_built_in_scenario_is_whole() {
        for (name, _) in BUILT_IN {
            let scenario = Scenario::load(name).unwrap();
            assert!(scenario.question.ends_with('?'), "{name}");
            assert!(scenario.connections > 0, "{name}");
            units::duration(&scenario.duration).unwrap();
            units::size(&scenario.size).unwrap();
        }
    }

    #[test]
    fn an_unknown_name_is_wrong_usage_and_lists_the_known_ones() {
        let Err(Failure::Usage(why)) = Scenario::load("fan-out") else { panic!("loaded") };
        assert!(why.contains("fanout"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = "question = '?'\ntraffic = 'echo'\nconnections = 1\nduration = '1s'\nrat = 3";
        assert!(matches!(Scenario::parse("x", text), Err(Failure::Usage(_))));
    }
}
