//! `GET /`: a page for people, of four files that are part of the binary. They say nothing of this
//! process, so they need no token; what the page shows it asks for with one. It loads nothing from
//! elsewhere, and its policy lets it talk to this listener and the ports of the data plane only.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, Method, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::Control;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

const FILES: [File; 4] = [
    File { path: "/", kind: "text/html; charset=utf-8", content: include_str!("page/page.html") },
    File {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        content: include_str!("page/page.css"),
    },
    File {
        path: "/page.js",
        kind: "text/javascript; charset=utf-8",
        content: include_str!("page/page.js"),
    },
    File { path: "/page.svg", kind: "image/svg+xml", content: include_str!("page/page.svg") },
];

/// What browsers are told beside the policy: take the types as they are, tell nobody of this page,
/// and ask again after an update.
const HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The files, each at its path.
pub(super) fn router() -> Router<Arc<Control>> {
    FILES.into_iter().fold(Router::new(), |router, file| {
        let send = async move |State(control): State<Arc<Control>>| file.response(&control);
        router.route(file.path, get(send))
    })
}

/// Whether a request asks for a file of the page.
pub(super) fn is_asked(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) && FILES.iter().any(|file| file.path == path)
}

impl File {
    fn response(self, control: &Control) -> Response {
        let mut response = (HEADERS, self.content).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if let Ok(policy) = HeaderValue::from_str(&policy(control)) {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
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
