//! Topics that a token names: each exactly, or by how it begins.

/// Exact names, and beginnings: `room/7`, `room/*`, `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Box<[Name]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Exact(Box<str>),
    /// Every name that begins so; what stood before the `*`.
    Prefix(Box<str>),
}

impl Names {
    /// As they stand in a token. Only a `*` at the end means anything but itself, and no topic has
    /// one in its name.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let name = |name: String| match name.strip_suffix('*') {
            Some(prefix) => Name::Prefix(prefix.into()),
            None => Name::Exact(name.into_boxed_str()),
        };
        Self(names.into_iter().map(name).collect())
    }

    /// Whether the topic is among them. Names are compared byte by byte.
    #[must_use]
    pub fn cover(&self, topic: &str) -> bool {
        self.0.iter().any(|name| match name {
            Name::Exact(name) => **name == *topic,
            Name::Prefix(prefix) => topic.starts_with(&**prefix),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(names: &[&str], topic: &str) -> bool {
        Names::new(names.iter().map(ToString::to_string).collect()).cover(topic)
    }

    #[test]
    fn a_name_covers_itself_and_a_star_at_the_end_what_begins_so() {
        // (names, topic, covered)
        let cases: [(&[&str], &str, bool); 15] = [
            (&[], "a", false),
            (&["a"], "a", true),
            (&["a"], "ab", false),
            (&["ab"], "a", false),
            (&["A"], "a", false),
            (&["b", "a"], "a", true),
            (&["room/*"], "room/7", true),
            (&["room/*"], "room/7/8", true),
            (&["room/*"], "room", false),
            (&["room/*"], "my/room/7", false),
            (&["room*"], "room", true),
            (&["*"], "anything/at all", true),
            (&["*/a"], "b/a", false),
            (&["a*b"], "acb", false),
            (&[""], "a", false),
        ];
        for (names, topic, covered) in cases {
            assert_eq!(cover(names, topic), covered, "{names:?} {topic}");
        }
    }
}
