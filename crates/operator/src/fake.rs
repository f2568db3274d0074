//! An API server of one function, for tests of what exactly is asked of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::Value;
use tokio::sync::watch;

use crate::{index::SharedIndex, lease::Leadership, metrics::Metrics, writer::Writer};

/// One call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

impl Call {
    /// The field manager of a write.
    pub(crate) fn manager(&self) -> Option<String> {
        let manager = self.query("fieldManager");
        manager.map(|name| name.replace("%2F", "/"))
    }

    /// A parameter of the query, as it was sent.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query.split('&').filter_map(|it| it.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// A client whose calls are answered by a function: HTTP status and body.
pub(crate) struct Fake {
    pub(crate) client: Client,
    calls: Calls,
    until: watch::Sender<Option<Instant>>,
}

impl Fake {
    pub(crate) fn new(answer: impl Fn(&Call) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let calls = Calls::default();
        let answer = Arc::new(answer);
        let noted = calls.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (noted, answer) = (noted.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let query = parts.uri.query().unwrap_or_default();
                let call = Call {
                    method: parts.method.to_string(),
                    path: parts.uri.path().to_owned(),
                    query: query.to_owned(),
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                };
                noted.lock().unwrap().push(call.clone());
                let (code, value) = answer(&call);
                let response = Response::builder().status(code);
                let body = Body::from(serde_json::to_vec(&value).unwrap());
                Ok::<_, kube::Error>(response.body(body).unwrap())
            }
        });
        Self {
            client: Client::new(service, "default"),
            calls,
            until: watch::Sender::new(Some(Instant::now() + Duration::from_secs(60))),
        }
    }

    /// A way to write, of a process that leads.
    pub(crate) fn writer(&self) -> Writer {
        Writer {
            client: self.client.clone(),
            index: SharedIndex::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            leadership: Leadership::of(self.until.subscribe()),
        }
    }

    /// The calls since the last look.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

/// What the API server says when it refuses.
pub(crate) fn refusal(code: u16) -> (u16, Value) {
    let status = serde_json::json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "reason": "Test", "message": "refused by the test", "metadata": {},
    });
    (code, status)
}
