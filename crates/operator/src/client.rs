//! Calls to the API server: each ends in time and is counted.

use std::{
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use kube::{Client, Config, client::Body};
use masque_telemetry::prometheus;
use prometheus::IntCounterVec;
use tower::{Layer, Service};

/// A call without an answer after this long has failed. Watches do not go this way.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The API server refused it, or could not be reached.
    #[error("{}", plain(.0))]
    Kube(#[from] kube::Error),
    /// No answer; whether it was done is not known.
    #[error("the API server gave no answer for {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// Somebody else's object has the name that ours would have.
    #[error(
        "somebody else made an object of this name, and it stays as it is; delete it, or name the \
         VPCIngressPoint otherwise"
    )]
    Taken,
}

impl CallError {
    /// The HTTP status of the API server's answer.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether the same call could succeed later without a change of what was sent.
    pub(crate) fn is_transient(&self) -> bool {
        match self.code() {
            None => !matches!(self, Self::Taken),
            Some(code) => matches!(code, 404 | 408 | 409 | 410 | 429 | 500..),
        }
    }
}

/// What the API server says, without its details, and with the causes of anything else.
fn plain(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Makes one call, at most [`CALL_TIMEOUT`] long.
pub(crate) async fn call<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(CallError::Timeout),
    }
}

/// 404: there is no such object, or no such kind.
pub(crate) fn is_not_found(error: &CallError) -> bool {
    error.code() == Some(404)
}

/// 409: somebody else was faster.
pub(crate) fn is_conflict(error: &CallError) -> bool {
    error.code() == Some(409)
}

/// A client of the cluster this process runs in, or of `KUBECONFIG`; `requests` counts answers by
/// HTTP status.
///
/// # Errors
/// When there is neither a service account nor a kubeconfig, or it cannot be read.
pub(crate) async fn connect(requests: IntCounterVec) -> Result<Client, Box<dyn std::error::Error>> {
    let config = Config::infer().await?;
    let builder = kube::client::ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&CountLayer(requests)).build())
}

/// Counts answers.
#[derive(Clone)]
struct CountLayer(IntCounterVec);

impl<S> Layer<S> for CountLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            requests: self.0.clone(),
        }
    }
}

/// A service whose answers are counted.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    requests: IntCounterVec,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb(&request);
        let requests = self.requests.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let result = answer.await;
            let code = match &result {
                Ok(response) => response.status().as_u16().to_string(),
                Err(_) => "error".to_owned(),
            };
            requests.with_label_values(&[verb, &code]).inc();
            result
        })
    }
}

/// The verb as the API server's audit log has it.
fn verb(request: &Request<Body>) -> &'static str {
    let watch = request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
    match request.method().as_str() {
        "GET" if watch => "watch",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}
