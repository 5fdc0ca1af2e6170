//! JSON as a server pushes it: orders of a shop, other ones in every publication, made from its
//! number. So a subscriber can make the document again that it should have got, and a compressor
//! sees names that repeat and values that do not.

use std::fmt::Write as _;

use crate::random::Random;

/// The shortest body: one empty field and the end.
pub(crate) const BYTES_MIN: usize = FIELD.len() + END.len();

const ORDERS: &str = "\"orders\":[";
const ORDERS_END: &str = "],";
/// A field that fills the document up to its size.
const FIELD: &str = "\"note\":\"";
const END: &str = "\"}";

const NAMES: [&str; 16] = [
    "Ada", "Bjarne", "Chiara", "Dmitri", "Edsger", "Fatima", "Grace", "Hiroshi", "Ines", "Jorge",
    "Katja", "Leslie", "Margaret", "Niklaus", "Olu", "Priya",
];
const CITIES: [&str; 12] = [
    "Accra", "Bergen", "Cusco", "Dakar", "Erfurt", "Fukuoka", "Gdansk", "Haifa", "Izmir", "Jaipur",
    "Kyiv", "Lisbon",
];
const STATES: [&str; 5] = ["received", "paid", "packed", "shipped", "returned"];
const WORDS: [&str; 16] = [
    "please",
    "leave",
    "the",
    "parcel",
    "with",
    "our",
    "neighbour",
    "behind",
    "green",
    "door",
    "after",
    "five",
    "call",
    "before",
    "ring",
    "twice",
];

/// The body of the document `number`: all of it, to exactly so many bytes, behind an opening
/// brace and the fields that come first.
pub(crate) fn body(number: u64, bytes: usize) -> String {
    let mut random = Random::new(number);
    let mut body = String::with_capacity(bytes + 256);
    let rest = ORDERS_END.len() + FIELD.len() + END.len();
    loop {
        let order = order(&mut random);
        let separator = if body.is_empty() { ORDERS } else { "," };
        if body.len() + separator.len() + order.len() + rest > bytes {
            break;
        }
        body.push_str(separator);
        body.push_str(&order);
    }
    if !body.is_empty() {
        body.push_str(ORDERS_END);
    }
    body.push_str(FIELD);
    let text_end = bytes.saturating_sub(END.len()).max(body.len());
    while body.len() < text_end {
        body.push_str(random.one_of(&WORDS));
        body.push(' ');
    }
    body.truncate(text_end);
    body.push_str(END);
    body
}

fn order(random: &mut Random) -> String {
    let mut order = format!(
        "{{\"order\":\"{:08x}\",\"customer\":{{\"name\":\"{}\",\"city\":\"{}\"}},\"items\":[",
        random.below(1 << 32),
        random.one_of(&NAMES),
        random.one_of(&CITIES)
    );
    for item in 0..=random.below(3) {
        // Writing to a string cannot fail.
        let _ = write!(
            order,
            "{}{{\"article\":{},\"quantity\":{},\"price\":{}.{:02}}}",
            if item == 0 { "" } else { "," },
            10_000 + random.below(90_000),
            1 + random.below(9),
            random.below(200),
            random.below(100)
        );
    }
    let _ = write!(
        order,
        "],\"state\":\"{}\",\"updated\":\"2026-11-24T{:02}:{:02}:{:02}.{:03}Z\"}}",
        random.one_of(&STATES),
        random.below(24),
        random.below(60),
        random.below(60),
        random.below(1000)
    );
    order
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn documents_are_json_of_their_size_and_differ() {
        for bytes in [BYTES_MIN, 50, 333, 1024, 4096] {
            let documents = [0, 1, 2].map(|number| body(number, bytes));
            for document in &documents {
                assert_eq!(document.len(), bytes);
                let value: Value = serde_json::from_str(&format!("{{{document}")).unwrap();
                let orders = value["orders"].as_array().map_or(0, Vec::len);
                assert_eq!(orders > 0, bytes > 300, "{document}");
            }
            assert_eq!(documents[0] == documents[1], bytes == BYTES_MIN);
            assert_eq!(documents[2], body(2, bytes));
        }
    }
}
