//! Requests that the control plane has refused, by reason: somebody who guesses tokens is seen there.
//! What an answer of `/readyz` says is no refusal.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    middleware::Next,
    response::Response,
};

use super::Control;

/// Reasons, each with its status; the last one stands for whatever has none of its own.
const REASONS: [(StatusCode, &str); 10] = [
    (StatusCode::BAD_REQUEST, "malformed"),
    (StatusCode::UNAUTHORIZED, "token"),
    (StatusCode::FORBIDDEN, "not_allowed"),
    (StatusCode::NOT_FOUND, "not_found"),
    (StatusCode::METHOD_NOT_ALLOWED, "method"),
    (StatusCode::REQUEST_TIMEOUT, "timeout"),
    (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
    (StatusCode::TOO_MANY_REQUESTS, "no_room"),
    (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
];

/// How many there were, since the start.
#[derive(Debug, Default)]
pub(super) struct Refusals([u64; REASONS.len()]);

impl Refusals {
    /// One more, if the status is that of a refusal.
    pub(super) fn count(&mut self, status: StatusCode) {
        if status.is_client_error() || status.is_server_error() {
            let place = REASONS.iter().position(|(known, _)| *known == status);
            self.0[place.unwrap_or(REASONS.len() - 1)] += 1;
        }
    }

    /// All of them, by reason.
    pub(super) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.iter().map(|(_, reason)| *reason).zip(self.0)
    }
}

/// Answers a request, and counts the answer where it is a refusal.
pub(super) async fn count(
    State(control): State<Arc<Control>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let is_probe = request.uri().path() == "/readyz";
    let response = next.run(request).await;
    let status = response.status();
    if !(is_probe && status == StatusCode::SERVICE_UNAVAILABLE) {
        control.record().refusals.count(status);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_by_its_status_and_a_success_not_at_all() {
        let mut refusals = Refusals::default();
        for status in [200, 304, 401, 401, 418, 500] {
            refusals.count(StatusCode::from_u16(status).unwrap());
        }
        let counted: Vec<_> = refusals.by_reason().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("token", 2), ("failed", 2)]);
    }
}
