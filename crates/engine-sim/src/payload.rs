//! What messages are made of: whose they are in words, and then letters that repeat themselves,
//! some of them so far back that a window of 9, 10 or 11 bits does not reach there.

/// A publisher's messages to one topic. By number, which the messages carry.
pub(crate) type StreamId = usize;

/// After how many letters messages repeat themselves. Between the windows of 512, 1,024, 2,048 and
/// 4,096 bytes, less the 262 that an encoder of the zlib family does not use.
const PERIODS: [usize; 5] = [1, 7, 600, 1_200, 2_400];

/// The longest of them.
const PERIOD_MAX: usize = PERIODS[PERIODS.len() - 1];

/// Letters among which hardly three in a row come again.
const NOISE: [u8; 4_096] = noise();

const _: () = assert!(PERIOD_MAX < NOISE.len());

const fn noise() -> [u8; 4_096] {
    let mut noise = [0; 4_096];
    let mut state: u32 = 1;
    let mut at = 0;
    while at < noise.len() {
        // A linear congruential generator, with the constants of Numerical Recipes.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [high, ..] = state.to_be_bytes();
        noise[at] = b'a' + high % 26;
        at += 1;
    }
    noise
}

/// The letters that a message repeats.
fn letters(id: StreamId, number: usize) -> &'static [u8] {
    let mixed = id * 7 + number;
    let period = PERIODS[mixed % PERIODS.len()];
    let begin = mixed * 31 % (NOISE.len() - PERIOD_MAX);
    &NOISE[begin..begin + period]
}

/// A payload of so many bytes or a few more.
pub(crate) fn make(id: StreamId, number: usize, bytes: usize) -> Vec<u8> {
    let mut payload = format!("{id} {number} ").into_bytes();
    let rest = bytes.saturating_sub(payload.len());
    let letters = letters(id, number);
    payload.extend_from_slice(&letters.repeat(rest.div_ceil(letters.len()))[..rest]);
    payload
}

/// Whether it is that payload, without another being made.
pub(crate) fn is_made(received: &[u8], id: StreamId, number: usize, bytes: usize) -> bool {
    let rest = word(received, id).and_then(|rest| word(rest, number));
    rest.is_some_and(|rest| {
        let words = received.len() - rest.len();
        let letters = letters(id, number);
        let repeats = match rest.get(letters.len()..) {
            // What repeats itself is the same further on.
            Some(behind) => rest.starts_with(letters) && rest.starts_with(behind),
            None => letters.starts_with(rest),
        };
        received.len() == words.max(bytes) && repeats
    })
}

/// The stream and the number of a payload.
pub(crate) fn parse(payload: &[u8]) -> Option<(StreamId, usize)> {
    let mut words = payload.split(|byte| *byte == b' ');
    let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
    Some((number()?, number()?))
}

/// What is behind a number and a space, if that is what is in front.
fn word(bytes: &[u8], number: usize) -> Option<&[u8]> {
    // From the last digit to the first.
    let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let (word, rest) = bytes.split_at_checked(digits)?;
    let mut left = number;
    for digit in word.iter().rev() {
        if usize::from(digit.checked_sub(b'0')?) != left % 10 {
            return None;
        }
        left /= 10;
    }
    rest.strip_prefix(b" ")
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    #[test]
    fn a_payload_is_known_to_its_last_byte() {
        for (id, number) in [(0, 0), (9, 10), (1_234, 99), (0, 1)] {
            let sent = make(id, number, 30);
            assert!(is_made(&sent, id, number, 30), "{sent:?}");
            for at in 0..sent.len() {
                let mut changed = sent.clone();
                changed[at] ^= 1;
                assert!(!is_made(&changed, id, number, 30), "{changed:?}");
                assert!(!is_made(&sent[..at], id, number, 30), "{at} bytes");
            }
        }
        assert_eq!(make(3, 12, 0), b"3 12 ");
        assert!(is_made(b"3 12 ", 3, 12, 0));
    }

    #[test]
    fn some_messages_repeat_themselves_beyond_the_windows_of_9_to_11_bits_and_none_beyond_12() {
        let compressed = |payload: &[u8], bits| {
            let mut state = Compress::new_with_window_bits(Compression::best(), false, bits);
            let mut output = Vec::with_capacity(8_192);
            state.compress_vec(payload, &mut output, FlushCompress::Finish).unwrap();
            output.len()
        };
        for (number, reaching_bits) in [(2, 10), (3, 11), (4, 12)] {
            let payload = make(0, number, 4_096);
            assert!(is_made(&payload, 0, number, 4_096));
            let lengths = [9, 10, 11, 12, 15].map(|bits| (bits, compressed(&payload, bits)));
            let shortest = lengths[4].1;
            for (bits, length) in lengths {
                let is_short = length < shortest + shortest / 10;
                assert_eq!(is_short, bits >= reaching_bits, "{number}: {bits} in {lengths:?}");
            }
        }
    }
}
