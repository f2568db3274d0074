//! `/metrics`, `/healthz` and `/readyz`.

mod doorkeeper;

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::control::Control;
use doorkeeper::Doorkeeper;

/// Answers until the process ends.
pub(crate) async fn serve(listener: TcpListener, control: Arc<Control>) {
    if let Err(error) = axum::serve(Doorkeeper::new(listener), router(control)).await {
        tracing::error!(%error, "admin endpoints");
    }
}

/// The admin endpoints of one gateway.
fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(control)
}

async fn metrics(State(control): State<Arc<Control>>) -> impl IntoResponse {
    match control.metrics_text().await {
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

/// Alive while every packet thread answers.
async fn healthy(State(control): State<Arc<Control>>) -> impl IntoResponse {
    match control.stuck_because() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// Ready only while listeners and routes are in place and no drain is under way.
async fn ready(State(control): State<Arc<Control>>) -> impl IntoResponse {
    match control.not_ready_because() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}
