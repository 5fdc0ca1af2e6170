//! `GET /`: a page for people, of four files that are part of the binary. They say nothing of this
//! process, so they need no token; what the page shows it asks for with one. It loads nothing from
//! elsewhere, and its policy lets it talk to this listener and the ports of the data plane only.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};

use super::{Control, error::Refusal};

/// By path: its type and its content.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/page.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/page.svg", "image/svg+xml", include_str!("page/page.svg")),
];

/// What browsers are told beside the policy: take the types as they are, tell nobody of this page,
/// and ask again after an update.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The paths of the page.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

/// Whether a request asks for a file of the page.
pub(super) fn is_asked(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && paths().any(|own| own == path)
}

/// A file of the page.
pub(super) async fn file(State(control): State<Arc<Control>>, target: Uri) -> Response {
    let found = FILES.iter().find(|(path, ..)| *path == target.path());
    let Some((_, kind, content)) = found else {
        return Refusal::new(axum::http::StatusCode::NOT_FOUND, "this is no file of the page")
            .into_response();
    };
    let mut response = (HEADERS, *content).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Ok(policy) = HeaderValue::from_str(&policy(&control)) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// The Content Security Policy (level 3). The data plane may be reached by a name that is not known
/// here, so its ports are named and no host.
fn policy(control: &Control) -> String {
    let mut policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      connect-src 'self'"
        .to_owned();
    for address in &control.facts.data_addresses {
        // Writing to a string cannot fail.
        let _ = write!(policy, " ws://*:{}", address.port());
    }
    policy
}
