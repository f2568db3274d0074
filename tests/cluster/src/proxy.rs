//! A plain-HTTP proxy in front of the API server that answers some requests itself, with faults, or
//! no more after a certain write.

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{Method, StatusCode, header};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, task::JoinHandle};

/// The largest request that is passed on: more than the API server takes.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// What a request is answered with instead of being passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 409 to a write: somebody else was first.
    Conflict,
    /// 410 to a list or watch: the resource version is too old.
    Gone,
    /// 429 with `Retry-After: 1` to anything.
    TooMany,
    /// A write is done, and its answer is lost: 504.
    LostAnswer,
}

/// Passes requests on as an administrator, except every `n`th one that the fault is about.
#[derive(Debug)]
pub struct FaultProxy {
    kubeconfig: NamedTempFile,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    seen: AtomicU64,
    injected: AtomicU64,
    writes: AtomicU64,
    deletes: AtomicU64,
}

struct Shared {
    client: kube::Client,
    fault: Mutex<Option<(Fault, u64)>>,
    counters: Counters,
    forbidden: Mutex<BTreeSet<String>>,
    /// The number of the write whose answer nobody gets; 0 for none.
    last_write: AtomicU64,
    stopped: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            fault, counters, ..
        } = self;
        write!(f, "{fault:?} {counters:?}")
    }
}

impl FaultProxy {
    /// A proxy without faults.
    pub async fn start(client: kube::Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        let mut kubeconfig = NamedTempFile::new().expect("a file");
        write!(kubeconfig, "{config}").expect("a kubeconfig");
        let shared = Arc::new(Shared {
            client,
            fault: Mutex::new(None),
            counters: Counters::default(),
            forbidden: Mutex::default(),
            last_write: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // Ends with the test.
            let _ended = axum::serve(listener, router).await;
        });
        Self {
            kubeconfig,
            shared,
            task,
        }
    }

    /// A kubeconfig that leads through the proxy.
    pub fn kubeconfig(&self) -> &std::path::Path {
        self.kubeconfig.path()
    }

    /// Answers every `nth` request of its sort with `fault`, from now on.
    pub fn inject(&self, fault: Fault, nth: u64) {
        *self.shared.fault.lock().expect("no panic") = Some((fault, nth));
    }

    /// Passes everything on again; gives the number of faults so far.
    pub fn heal(&self) -> u64 {
        *self.shared.fault.lock().expect("no panic") = None;
        self.injected()
    }

    /// How many requests were answered with a fault.
    pub fn injected(&self) -> u64 {
        self.shared.counters.injected.load(Ordering::Relaxed)
    }
}

impl FaultProxy {
    /// Does the `n`th write from now on and gives no answer, nor to anything after it: a moment at
    /// which to kill. Renewed Leases, events and reviews are not counted as writes.
    pub fn stop_after_write(&self, n: u64) {
        let written = self.writes();
        let last = &self.shared.last_write;
        last.store(written + n, Ordering::SeqCst);
    }

    /// Whether that write was done.
    pub fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::SeqCst)
    }

    /// How many writes were passed on.
    pub fn writes(&self) -> u64 {
        self.shared.counters.writes.load(Ordering::SeqCst)
    }

    /// How many of them were deletions.
    pub fn deletes(&self) -> u64 {
        self.shared.counters.deletes.load(Ordering::SeqCst)
    }

    /// Requests that the API server answered with 403, as `METHOD PATH`.
    pub fn forbidden(&self) -> BTreeSet<String> {
        self.shared.forbidden.lock().expect("no panic").clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Counts writes; whether this is the one to stop after.
    fn is_last_write(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let apart = ["/leases", "/events", "/tokenreviews"];
        if request.method() == Method::GET || apart.iter().any(|kind| path.contains(kind)) {
            return false;
        }
        if request.method() == Method::DELETE {
            self.counters.deletes.fetch_add(1, Ordering::SeqCst);
        }
        let number = self.counters.writes.fetch_add(1, Ordering::SeqCst) + 1;
        number == self.last_write.load(Ordering::SeqCst)
    }

    /// The fault for this request, if it is its turn.
    fn draw(&self, method: &Method) -> Option<Fault> {
        let (fault, nth) = (*self.fault.lock().expect("no panic"))?;
        let concerned = match fault {
            Fault::Conflict | Fault::LostAnswer => method != Method::GET,
            Fault::Gone => method == Method::GET,
            Fault::TooMany => true,
        };
        if !concerned {
            return None;
        }
        let count = self.counters.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if !count.is_multiple_of(nth) {
            return None;
        }
        self.counters.injected.fetch_add(1, Ordering::Relaxed);
        Some(fault)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if shared.stopped.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if shared.is_last_write(&request) {
        pass(&shared, request).await;
        shared.stopped.store(true, Ordering::SeqCst);
        return std::future::pending().await;
    }
    let fault = shared.draw(request.method());
    match fault {
        Some(Fault::Conflict) => status(StatusCode::CONFLICT, "Conflict"),
        Some(Fault::Gone) => status(StatusCode::GONE, "Expired"),
        Some(Fault::TooMany) => {
            let mut response = status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
            response
        }
        Some(Fault::LostAnswer) => {
            pass(&shared, request).await;
            status(StatusCode::GATEWAY_TIMEOUT, "Timeout")
        }
        None => pass(&shared, request).await,
    }
}

async fn pass(shared: &Shared, request: Request) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let (mut parts, body) = request.into_parts();
    for name in [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    let Ok(body) = to_bytes(body, MAX_REQUEST_BYTES).await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge");
    };
    let request = http::Request::from_parts(parts, kube::client::Body::from(body));
    match shared.client.send(request).await {
        Ok(response) => {
            if response.status() == StatusCode::FORBIDDEN {
                shared.forbidden.lock().expect("no panic").insert(asked);
            }
            response.map(Body::new)
        }
        Err(error) => {
            let mut response = status(StatusCode::BAD_GATEWAY, "InternalError");
            *response.body_mut() = Body::from(error.to_string());
            response
        }
    }
}

/// An answer as the API server words it.
fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault of this test", "reason": reason, "code": code.as_u16(),
    });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (code, json, body.to_string()).into_response()
}
