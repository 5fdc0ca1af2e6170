//! The body of `POST /publish`: messages in order, checked one by one while they are read, so that
//! neither a long list of small messages nor one bad message costs more than it must.

use std::{borrow::Cow, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use wire::DataOpcode;
use worker::{Limits, Publication, Time};

use super::error::Refusal;

/// One message as it is written.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    base64: Option<Cow<'a, str>>,
}

/// Reads the object around the list.
struct Body<'a> {
    limits: &'a Limits,
    received_at: Time,
}

/// Reads the list.
struct Messages<'a>(&'a Body<'a>);

/// Reads a batch.
///
/// # Errors
/// 400 with the first thing that is wrong; a bad message is named by its number, from 0.
pub(super) fn parse(
    json: &[u8],
    limits: &Limits,
    received_at: Time,
) -> Result<Vec<Arc<Publication>>, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let publications = Body { limits, received_at }
        .deserialize(&mut deserializer)
        .and_then(|publications| deserializer.end().map(|()| publications));
    publications.map_err(|error| Refusal::bad_request(error.to_string()))
}

impl<'de> DeserializeSeed<'de> for Body<'_> {
    type Value = Vec<Arc<Publication>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = Vec<Arc<Publication>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with a list of messages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut publications = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key != "messages" {
                map.next_value::<IgnoredAny>()?;
            } else if publications.is_some() {
                return Err(A::Error::duplicate_field("messages"));
            } else {
                publications = Some(map.next_value_seed(Messages(&self))?);
            }
        }
        publications.ok_or_else(|| A::Error::missing_field("messages"))
    }
}

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = Vec<Arc<Publication>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = Vec<Arc<Publication>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let messages_max = self.0.limits.batch_messages_max as usize;
        let mut publications = Vec::new();
        loop {
            let number = publications.len();
            let named =
                |error: &dyn fmt::Display| A::Error::custom(format!("message {number}: {error}"));
            let next = list.next_element::<Message<'de>>();
            let Some(message) = next.map_err(|error| named(&without_place(&error)))? else {
                return Ok(publications);
            };
            if number == messages_max {
                return Err(named(&format!("a batch has at most {messages_max} messages")));
            }
            publications.push(Arc::new(self.0.check(message).map_err(|error| named(&error))?));
        }
    }
}

impl Body<'_> {
    fn check(&self, message: Message<'_>) -> Result<Publication, String> {
        let Message { topic, text, base64 } = message;
        hub::check_topic(&topic, self.limits.topic_bytes_max as usize)
            .map_err(|error| error.to_string())?;
        let decoded;
        let (opcode, payload) = match (&text, &base64) {
            (Some(text), None) => (DataOpcode::Text, text.as_bytes()),
            (None, Some(base64)) => {
                decoded = STANDARD.decode(base64.as_bytes()).map_err(|_| "base64 is malformed")?;
                (DataOpcode::Binary, decoded.as_slice())
            }
            _ => return Err("it must have either text or base64".into()),
        };
        let bytes_max = self.limits.message_bytes_max;
        if payload.len() > bytes_max as usize {
            return Err(format!("its payload is longer than {bytes_max} bytes"));
        }
        let topic = Some(topic.into_owned().into_bytes().into_boxed_slice());
        Ok(Publication::new(topic, opcode, payload, None, self.received_at))
    }
}

/// An error without its line and column: the reader of the list adds where it stopped itself.
fn without_place(error: &impl fmt::Display) -> String {
    let mut error = error.to_string();
    error.truncate(error.rfind(" at line ").unwrap_or(error.len()));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Arc<Publication>>, String> {
        let limits = Limits { batch_messages_max: 3, message_bytes_max: 8, ..Limits::default() };
        parse(json.as_bytes(), &limits, Time(5)).map_err(|refusal| {
            assert_eq!(refusal.status, 400);
            refusal.error
        })
    }

    #[test]
    fn messages_keep_their_order_topic_and_kind() {
        let json = r#" {"messages": [{"topic": "a/b", "text": "h\u00e9"},
            {"base64": "/wA=", "topic": "c", "extra": [1]}], "more": {}} "#;
        let publications = read(json).unwrap();
        assert_eq!(publications.len(), 2);
        assert_eq!(publications[0].topic(), Some(&b"a/b"[..]));
        assert_eq!(publications[0].payload(), "hé".as_bytes());
        assert_eq!(publications[0].opcode(), DataOpcode::Text);
        assert_eq!(publications[0].received_at(), Time(5));
        assert_eq!(publications[1].topic(), Some(&b"c"[..]));
        assert_eq!(publications[1].payload(), [0xff, 0]);
        assert_eq!(publications[1].opcode(), DataOpcode::Binary);
        assert_eq!(read(r#"{"messages":[]}"#).unwrap().len(), 0);
    }

    #[test]
    fn the_first_bad_message_is_named() {
        let good = r#"{"topic":"a","text":"x"}"#;
        for bad in [
            r#"{"topic":"","text":"x"}"#,
            r#"{"topic":"$a","text":"x"}"#,
            r#"{"topic":"a"}"#,
            r#"{"text":"x"}"#,
            r#"{"topic":"a","text":"x","base64":"eA=="}"#,
            r#"{"topic":"a","base64":"e"}"#,
            r#"{"topic":"a","text":"123456789"}"#,
            r#"{"topic":"a","base64":"MTIzNDU2Nzg5"}"#,
            r#"{"topic":"a","text":5}"#,
            r#"7"#,
        ] {
            let error = read(&format!(r#"{{"messages":[{good},{bad},{bad}]}}"#)).unwrap_err();
            assert!(error.starts_with("message 1: "), "{bad}: {error}");
            assert_eq!(error.matches(" at line ").count(), 1, "{error}");
        }
    }

    #[test]
    fn one_message_too_many_is_refused_before_the_rest_is_read() {
        let good = r#"{"topic":"a","text":"x"}"#;
        assert_eq!(read(&format!(r#"{{"messages":[{good},{good},{good}]}}"#)).unwrap().len(), 3);
        let error = read(&format!(r#"{{"messages":[{good},{good},{good},{good},!"#)).unwrap_err();
        assert!(error.starts_with("message 3: a batch has at most 3 messages"), "{error}");
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"messages":null}"#,
            r#"{"messages":{}}"#,
            r#"{"messages":[]}x"#,
            r#"{"messages":[],"messages":[]}"#,
            r#"{"messages":["#,
            "\u{1}",
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_payload_as_long_as_a_message_may_be_passes() {
        let json = r#"{"messages":[{"topic":"a","text":"12345678"}]}"#;
        assert_eq!(read(json).unwrap()[0].payload(), b"12345678");
    }
}
