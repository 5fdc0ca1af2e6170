//! Parameters of a request, as they are written: `+` is `+`, as in the data plane's queries.

use std::time::Duration;

use axum::http::{StatusCode, Uri};
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{Control, error::Refusal};

/// How long a listing waits for those that are being gathered.
const LISTING_WAIT: Duration = Duration::from_secs(2);

/// The first value of a parameter, still encoded.
pub(super) fn parameter<'a>(target: &'a Uri, name: &str) -> Option<&'a str> {
    target.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// How many entries of a listing are wanted: `limit`, or as many as there may be. A limit above the
/// longest page gets the longest page.
///
/// # Errors
/// 400 when it is no number above 0.
pub(super) fn limit(control: &Control, target: &Uri) -> Result<usize, Refusal> {
    let entries_max = control.limits().listing_entries_max as usize;
    match parameter(target, "limit").map(str::parse::<usize>) {
        None => Ok(entries_max),
        Some(Ok(limit @ 1..)) => Ok(limit.min(entries_max)),
        Some(_) => Err(Refusal::bad_request("limit must be a number above 0")),
    }
}

/// A place among the listings that are gathered at once, until it is dropped. What workers find for
/// somebody who has dropped it is let go of within a second.
///
/// # Errors
/// 429 when none becomes free.
pub(super) async fn listing(control: &Control) -> Result<SemaphorePermit<'_>, Refusal> {
    match timeout(LISTING_WAIT, control.listings.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        // It is never closed.
        Ok(Err(_)) | Err(_) => {
            control.record().listings_refused += 1;
            let text = "too many listings are being gathered: try again";
            Err(Refusal::retry(StatusCode::TOO_MANY_REQUESTS, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_parameter_counts_and_stays_encoded() {
        let target: Uri = "/topics?limit=5&after=a%2Fb+c&after=d&flag".parse().unwrap();
        assert_eq!(parameter(&target, "limit"), Some("5"));
        assert_eq!(parameter(&target, "after"), Some("a%2Fb+c"));
        assert_eq!(parameter(&target, "flag"), Some(""));
        assert_eq!(parameter(&target, "lim"), None);
        assert_eq!(parameter(&"/topics".parse().unwrap(), "limit"), None);
    }
}
