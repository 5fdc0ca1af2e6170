//! Which path is whose, on which listener.

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    middleware,
    routing::{get, post},
};

use super::{
    Control, access, connections, error::Refusal, health, latency, metrics, page, publish,
    refusals, stats, topics,
};

/// The paths of `--admin`.
pub(super) fn admin(control: &Arc<Control>) -> Router {
    page::router()
        .route("/publish", post(publish::many))
        .route("/publish/", post(publish::to_topic))
        .route("/publish/{*topic}", post(publish::to_topic))
        .route("/broadcast", post(publish::to_everyone))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/stats", get(stats::stats))
        .route("/latency", get(latency::percentiles))
        .route("/latency/intervals", get(latency::intervals))
        .route("/latency.hlog", get(latency::interval_log))
        .route("/connections", get(connections::page).delete(connections::remove))
        .route("/topics", get(topics::page))
        .route("/topics/", get(topics::one))
        .route("/topics/{*topic}", get(topics::one))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(control), access::guard))
        .layer(middleware::from_fn_with_state(Arc::clone(control), refusals::count))
        .with_state(Arc::clone(control))
}

/// The paths of `--metrics`: nothing that needs a token. On a loopback address pages of other sites
/// are refused, as at `--admin`.
pub(super) fn metrics_only(control: &Arc<Control>, is_loopback: bool) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    let router =
        if is_loopback { router.layer(middleware::from_fn(access::guard_metrics)) } else { router };
    router
        .layer(middleware::from_fn_with_state(Arc::clone(control), refusals::count))
        .with_state(Arc::clone(control))
}

async fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
}

#[cfg(test)]
mod tests;
