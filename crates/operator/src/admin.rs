//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

use crate::metrics::Metrics;

/// What the endpoints tell.
pub(crate) struct Admin {
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Why the operator is not ready; nothing when it is.
    waiting: Mutex<Option<String>>,
}

impl Admin {
    /// Endpoints of an operator that has only begun.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            waiting: Mutex::new(Some("starting".to_owned())),
        }
    }

    /// Says why the operator is not ready, or that it is.
    pub(crate) fn waits_for(&self, what: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// `/readyz` names what is missing: leading is no part of being ready, so that a rollout of two
    /// replicas can end.
    fn not_ready_because(&self) -> Option<String> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The endpoints. `/healthz` never depends on the API server: a restart would not help there.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(admin)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match masque_telemetry::encode_text(&admin.metrics.registry) {
        Ok(text) => (
            StatusCode::OK,
            [("content-type", "text/plain; version=0.0.4; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [("content-type", "text/plain; charset=utf-8")],
            format!("{error}\n"),
        ),
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.not_ready_because() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}
