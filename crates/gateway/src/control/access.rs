//! Who may use the control plane. With a token file: who brings one of its tokens with the scope
//! that the request needs; the files of the page need none. Without: whoever reaches the loopback
//! address, except pages of other sites in a browser of this machine, which reach it too.

mod loopback;
mod tokens;

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method, Request, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub(crate) use self::tokens::TOKEN_BYTES_WANTED;
use self::tokens::Tokens;
use super::{Control, error::Refusal, page};

/// What a token is good for. Reading and publishing are apart: whoever publishes need not see who
/// subscribes to what, and a scraper need not be able to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Every GET.
    Read,
    /// `POST /publish` and `POST /broadcast`, nothing else.
    Publish,
    /// Everything.
    Admin,
}

/// Who may use the control plane.
#[derive(Debug)]
pub(crate) enum Access {
    /// No token: the loopback rules.
    Loopback,
    /// The tokens of a file.
    Tokens {
        /// Where they are read from.
        path: PathBuf,
        /// As last read.
        tokens: RwLock<Tokens>,
    },
}

impl Access {
    /// Reads the token file, if there is to be one.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong: one sentence.
    pub(crate) fn open(token_file: Option<PathBuf>) -> Result<Self, String> {
        let Some(path) = token_file else { return Ok(Self::Loopback) };
        let tokens = RwLock::new(Tokens::read(&path)?);
        Ok(Self::Tokens { path, tokens })
    }

    /// Reads the token file again, and says whether there is one. Where reading fails, the tokens
    /// stay as they were.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(super) fn reload(&self) -> Result<bool, String> {
        let Self::Tokens { path, tokens } = self else { return Ok(false) };
        let read = Tokens::read(path)?;
        *tokens.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(true)
    }

    /// How many of its tokens are so short that they can be guessed.
    pub(crate) fn short_tokens(&self) -> usize {
        match self {
            Self::Loopback => 0,
            Self::Tokens { tokens, .. } => {
                tokens.read().unwrap_or_else(PoisonError::into_inner).short()
            }
        }
    }

    /// Whether a request may be served.
    fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        match self {
            Self::Loopback => loopback::check(request.uri(), request.headers()),
            // A browser brings no token when it opens a page.
            Self::Tokens { .. } if page::is_asked(request.method(), request.uri().path()) => Ok(()),
            Self::Tokens { tokens, .. } => {
                let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
                let token = bearer(request.headers()).ok_or_else(|| {
                    unauthorized("a token is required: Authorization: Bearer TOKEN")
                })?;
                let scope =
                    tokens.scope(token).ok_or_else(|| unauthorized("this token is not known"))?;
                let needed = Scope::of_request(request.method(), request.uri().path());
                if scope == Scope::Admin || scope == needed {
                    return Ok(());
                }
                Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    format!(
                        "this token has the scope {}, and {} is needed",
                        scope.label(),
                        needed.label()
                    ),
                ))
            }
        }
    }
}

impl Scope {
    /// What a request needs. Whatever is added later needs `admin` until it is listed here.
    fn of_request(method: &Method, path: &str) -> Self {
        let publishes = path == "/broadcast" || path == "/publish" || path.starts_with("/publish/");
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST if publishes => Self::Publish,
            _ => Self::Admin,
        }
    }

    /// The word in the token file.
    const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// Lets a request pass, or answers it with 401 or 403.
pub(super) async fn guard(
    State(control): State<Arc<Control>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    match control.access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The same for the listener of metrics, which takes no token. Health checks of proxies have no `Host`
/// (HTTP/1.0), which no browser leaves out.
pub(super) async fn guard_metrics(request: Request<Body>, next: Next) -> Response {
    let has_host = request.headers().contains_key(header::HOST);
    let checked = if has_host { loopback::check(request.uri(), request.headers()) } else { Ok(()) };
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn unauthorized(error: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error)
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 section 2.1); the scheme's case does not
/// matter (RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What makes a word as long as a token must be.
    const LONG: &str = "-0123456789abcdef";

    fn with_tokens(text: &str) -> Access {
        Access::Tokens {
            path: PathBuf::from("/nonexistent/tokens"),
            tokens: RwLock::new(Tokens::parse(text).unwrap()),
        }
    }

    fn status(access: &Access, method: &str, path: &str, authorization: Option<&str>) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let checked = access.check(&request.body(()).unwrap());
        checked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn each_scope_opens_its_own_requests_and_admin_all() {
        let access =
            with_tokens(&format!("read R{LONG}\npublish P{LONG}\nadmin A{LONG}\nplain{LONG}\n"));
        // (method, path, with R, with P, with A and plain)
        let cases = [
            ("GET", "/stats", 200, 403, 200),
            ("GET", "/metrics", 200, 403, 200),
            ("GET", "/healthz", 200, 403, 200),
            ("HEAD", "/topics", 200, 403, 200),
            ("POST", "/publish/a", 403, 200, 200),
            ("POST", "/publish", 403, 200, 200),
            ("POST", "/broadcast", 403, 200, 200),
            ("GET", "/publish/a", 200, 403, 200),
            ("POST", "/publisher", 403, 403, 200),
            ("DELETE", "/connections?id=1", 403, 403, 200),
        ];
        for (method, path, read, publish, admin) in cases {
            let with =
                |token: &str| status(&access, method, path, Some(&format!("Bearer {token}{LONG}")));
            assert_eq!(
                ["R", "P", "A", "plain"].map(with),
                [read, publish, admin, admin],
                "{method} {path}"
            );
            let lower = format!("bearer plain{LONG}");
            assert_eq!(status(&access, method, path, Some(&lower)), admin);
        }
    }

    #[test]
    fn a_missing_unknown_or_malformed_token_is_401() {
        let access = with_tokens("secret-0123456789\n");
        for authorization in [
            None,
            Some("Bearer wrong"),
            Some("Bearer secret-01234567892"),
            Some("Bearer secret-012345678"),
            Some("Bearer "),
            Some("Bearer"),
            Some("Basic secret-0123456789"),
            Some("secret-0123456789"),
            Some(""),
        ] {
            assert_eq!(status(&access, "GET", "/stats", authorization), 401, "{authorization:?}");
        }
        assert_eq!(status(&access, "GET", "/stats", Some("Bearer secret-0123456789")), 200);
    }

    #[test]
    fn a_401_says_how_to_authenticate() {
        let response = unauthorized("no").into_response();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn a_failed_reload_keeps_the_old_tokens() {
        let access = with_tokens("old-0123456789abc\n");
        let error = access.reload().unwrap_err();
        assert!(error.contains("/nonexistent/tokens"), "{error}");
        assert_eq!(status(&access, "GET", "/stats", Some("Bearer old-0123456789abc")), 200);
    }

    #[test]
    fn a_reload_replaces_the_tokens() {
        let folder = std::env::temp_dir().join(format!("ringway-tokens-{}", std::process::id()));
        std::fs::write(&folder, "first-0123456789\n").unwrap();
        let access = Access::open(Some(folder.clone())).unwrap();
        std::fs::write(&folder, "second-0123456789\n").unwrap();
        assert!(access.reload().unwrap());
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(status(&access, "GET", "/stats", Some("Bearer first-0123456789")), 401);
        assert_eq!(status(&access, "GET", "/stats", Some("Bearer second-0123456789")), 200);
    }
}
