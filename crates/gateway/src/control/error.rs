//! Refusals of the control plane: a status and `{"error": "…"}`, one sentence.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// A request that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the client is told in the status line.
    pub(super) status: StatusCode,
    /// What it is told in words.
    pub(super) error: String,
    /// When to try again, in seconds.
    pub(super) retry_after_seconds: Option<u16>,
}

impl Refusal {
    /// A refusal that trying again does not help.
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), retry_after_seconds: None }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// A refusal that is safe to answer by the same request a second later.
    pub(super) fn retry(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), retry_after_seconds: Some(1) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error }));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
