//! Whether and how a visitor offers to compress (RFC 7692 section 7.1), and whether the answer is
//! one that it may be given.

use crate::{chance::Chance, deflate::WINDOW_BITS_MAX, scenario::Scenario};

/// What no window of the zlib family can be.
const BITS_TOO_FEW: u8 = 8;

/// An offer, which may be none.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// The value of the header.
    value: Option<String>,
    /// What must be agreed to: the bits of the server's window, where the visitor has limited them.
    agreement: Option<Option<u8>>,
}

impl Offer {
    pub(super) const NONE: Self = Self { value: None, agreement: None };

    pub(super) fn new(scenario: &Scenario, chance: &mut Chance) -> Self {
        if !scenario.offers || chance.of(0.3) {
            return Self::NONE;
        }
        let bits = chance
            .of(0.7)
            .then(|| *chance.one(&[BITS_TOO_FEW, 9, 9, 10, 10, 11, 11, 12, 13, 14, 15]));
        let mut elements = vec![deflate(bits, chance)];
        if chance.of(0.2) {
            elements.insert(0, "x-else; a=1; b".to_owned());
        }
        let mut agreement = Some(bits);
        if bits == Some(BITS_TOO_FEW) {
            agreement = chance.of(0.5).then(|| {
                elements.push(deflate(None, chance));
                None
            });
        }
        let agreement = agreement.filter(|_| scenario.compresses);
        Self { value: Some(elements.join(", ")), agreement }
    }

    /// The lines of the request's head.
    pub(super) fn lines(&self) -> String {
        let line = |value: &String| format!("Sec-WebSocket-Extensions: {value}\r\n");
        self.value.as_ref().map(line).unwrap_or_default()
    }

    /// The bits of the window that the server compresses with, as its answer says; `None`: it does
    /// not compress.
    pub(super) fn window_bits(&self, answer: Option<&str>) -> Result<Option<u8>, String> {
        let expected = self.agreement.map(|bits| {
            // Neither side keeps a context (RFC 7692 section 7.1.1), be it offered or not.
            let mut parameters = vec![
                "client_no_context_takeover".to_owned(),
                "server_no_context_takeover".to_owned(),
            ];
            parameters.extend(bits.map(|bits| format!("server_max_window_bits={bits}")));
            parameters.sort();
            ("permessage-deflate".to_owned(), parameters)
        });
        let answered = answer.map(|answer| {
            let mut words = answer.split(';').map(|word| word.trim().to_owned());
            let name = words.next().unwrap_or_default();
            let mut parameters: Vec<String> = words.collect();
            parameters.sort();
            (name, parameters)
        });
        if answered != expected {
            return Err(format!("{:?} was offered, and {answer:?} is the answer", self.value));
        }
        Ok(self.agreement.map(|bits| bits.unwrap_or(WINDOW_BITS_MAX)))
    }
}

/// An offer of permessage-deflate that limits the server's window to so many bits, or does not.
fn deflate(bits: Option<u8>, chance: &mut Chance) -> String {
    let mut parameters = Vec::new();
    if let Some(bits) = bits {
        let quote = if chance.of(0.2) { "\"" } else { "" };
        parameters.push(format!("server_max_window_bits={quote}{bits}{quote}"));
    }
    // What the visitor may be limited to is the server's to say, and it says nothing.
    match chance.number(0..=3) {
        0 | 1 => parameters.push("client_max_window_bits".to_owned()),
        2 => {
            let bits = chance.long(BITS_TOO_FEW.into()..=WINDOW_BITS_MAX.into());
            parameters.push(format!("client_max_window_bits={bits}"));
        }
        _ => {}
    }
    for name in ["server_no_context_takeover", "client_no_context_takeover"] {
        if chance.of(0.5) {
            parameters.push(name.to_owned());
        }
    }
    chance.shuffle(&mut parameters);
    std::iter::once("permessage-deflate".to_owned())
        .chain(parameters)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_must_be_what_was_offered_and_say_that_no_context_is_kept() {
        let offer = Offer { value: Some(String::new()), agreement: Some(Some(10)) };
        let right = "permessage-deflate; server_max_window_bits=10;client_no_context_takeover; \
             server_no_context_takeover";
        assert_eq!(offer.window_bits(Some(right)), Ok(Some(10)));
        for wrong in [right.replace("10", "11"), right.replace("server_no", "no"), String::new()] {
            offer.window_bits(Some(&wrong)).unwrap_err();
        }
        offer.window_bits(None).unwrap_err();
        assert_eq!(Offer::NONE.window_bits(None), Ok(None));
        Offer::NONE.window_bits(Some(right)).unwrap_err();
    }

    #[test]
    fn offers_are_of_every_window_and_some_cannot_be_taken() {
        let scenario = Scenario { offers: true, compresses: true, ..Scenario::new(0) };
        let mut chance = Chance::new(0);
        let offers: Vec<Offer> = (0..500).map(|_| Offer::new(&scenario, &mut chance)).collect();
        for bits in 9..=WINDOW_BITS_MAX {
            assert!(offers.iter().any(|offer| offer.agreement == Some(Some(bits))), "{bits}");
        }
        assert!(offers.iter().any(|offer| offer.agreement == Some(None)));
        assert!(offers.iter().any(|offer| offer.value.is_some() && offer.agreement.is_none()));
        assert!(offers.iter().any(|offer| offer.value.is_none()));
    }
}
