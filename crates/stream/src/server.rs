//! The operator's end of the stream.

mod connection;
#[cfg(test)]
mod tests;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap, transport::Server};

use crate::{
    backoff::random,
    bounds::{
        CONNECT_TIMEOUT, HELLO_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
        MAX_POD_MESSAGE_BYTES, MAX_QUEUED_MESSAGES, MAX_SNAPSHOT_BYTES, MAX_STREAM_AGE,
        MAX_STREAMS_PER_CONNECTION, SHUTDOWN_GRACE,
    },
    hub::{Attached, Hub},
    identity::{AuthError, Authenticator, PodIdentity},
    tls::ServerTls,
    wire::{
        FromOperator, FromPod, Hello, from_operator, from_pod,
        snapshot_stream_server::{SnapshotStream, SnapshotStreamServer},
    },
};
use connection::{Peer, accept};

/// Why the stream is not served any more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What the HTTP/2 server says.
    #[error("the stream cannot be served: {0}")]
    Http(#[from] tonic::transport::Error),
}

/// Serves pods until `shutdown`; then every stream ends, and the pods look for another operator.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    auth: Arc<dyn Authenticator>,
    hub: Hub,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    serve_for(MAX_STREAM_AGE, listener, tls, auth, hub, shutdown).await
}

/// [`serve`], with streams of another age.
async fn serve_for(
    stream_age: Duration,
    listener: TcpListener,
    tls: ServerTls,
    auth: Arc<dyn Authenticator>,
    hub: Hub,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (stop, stopped) = watch::channel(());
    let (connections, incoming) = mpsc::channel(1);
    let accepting = tokio::spawn(accept(listener, tls, connections));
    let service = Service {
        auth,
        hub,
        stream_age,
        stopped,
    };
    let service = SnapshotStreamServer::new(service)
        .max_decoding_message_size(MAX_POD_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_SNAPSHOT_BYTES + MAX_POD_MESSAGE_BYTES);
    let (grace_begins, mut begun) = watch::channel(false);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .tcp_nodelay(true)
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
            shutdown.await;
            accepting.abort();
            // Every stream sees its sender gone.
            drop(stop);
            grace_begins.send_replace(true);
        });
    let grace = async move {
        // Serving may end by itself, and then nobody waits here.
        if begun.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = served => served.map_err(ServeError::Http),
        () = grace => Ok(()),
    }
}

struct Service {
    auth: Arc<dyn Authenticator>,
    hub: Hub,
    stream_age: Duration,
    stopped: watch::Receiver<()>,
}

#[tonic::async_trait]
impl SnapshotStream for Service {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<FromOperator, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromPod>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let identity = self.identify(&request).await?;
        let mut inbound = request.into_inner();
        let hello = hello(&mut inbound).await?;
        if hello.pod != identity.pod {
            return Err(Status::permission_denied(format!(
                "the token is of Pod {}, and not of {}",
                identity.pod, hello.pod
            )));
        }
        let attached = self
            .hub
            .attach(&identity, &hello)
            .map_err(|e| Status::resource_exhausted(e.to_string()))?;
        tracing::info!(
            ingress_point = %identity.ingress_point,
            pod = identity.pod,
            held_version = hello.held_version,
            "a gateway's stream is open"
        );
        let (outbound, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let stopped = self.stopped.clone();
        // Streams that began together end apart.
        let part = f64::from(random()) / f64::from(u32::MAX);
        let age = self.stream_age.mul_f64(0.75 + part / 4.0);
        tokio::spawn(async move {
            let status = converse(attached, inbound, &outbound, stopped, age).await;
            tracing::info!(
                ingress_point = %identity.ingress_point,
                pod = identity.pod,
                why = status.message(),
                "a gateway's stream has ended"
            );
            // Nobody may listen any more.
            let _gone = timeout(SHUTDOWN_GRACE, outbound.send(Err(status))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

impl Service {
    /// Who opened the stream: certificate and token must agree.
    async fn identify(&self, request: &Request<Streaming<FromPod>>) -> Result<PodIdentity, Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Status::internal("the connection has no certificate"))?;
        let token = bearer(request.metadata())?;
        let checked = self.auth.authenticate(token, &peer.uri);
        let identity = timeout(CONNECT_TIMEOUT, checked)
            .await
            .map_err(|_| Status::unavailable("the token could not be checked in time"))?
            .map_err(|error| match &error {
                AuthError::Refused(_) => Status::unauthenticated(error.to_string()),
                AuthError::Unavailable(_) => Status::unavailable(error.to_string()),
            })?;
        if identity.ingress_point != peer.point {
            return Err(Status::permission_denied(format!(
                "the certificate is of VPCIngressPoint {}, and the token of {}",
                peer.point, identity.ingress_point
            )));
        }
        Ok(identity)
    }
}

/// RFC 6750 §2.1: `Authorization: Bearer TOKEN`.
fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Status::unauthenticated("send `authorization: Bearer TOKEN`"))
}

async fn hello(inbound: &mut Streaming<FromPod>) -> Result<Hello, Status> {
    let first = timeout(HELLO_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    match first.and_then(|message| message.message) {
        Some(from_pod::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a stream begins with Hello")),
    }
}

/// Sends Snapshots and takes in what the pod says, until something ends it.
async fn converse(
    mut attached: Attached,
    mut inbound: Streaming<FromPod>,
    outbound: &mpsc::Sender<Result<FromOperator, Status>>,
    mut stopped: watch::Receiver<()>,
    age: Duration,
) -> Status {
    let mut replaced = attached.replaced();
    let old = sleep(age);
    tokio::pin!(old);
    loop {
        let deliver = async {
            attached.wait_due().await;
            outbound.reserve().await
        };
        tokio::select! {
            permit = deliver => {
                let Ok(permit) = permit else {
                    return Status::cancelled("the pod left");
                };
                // The newest, though others may have come while the pod was slow.
                if let Some(document) = attached.due() {
                    let message = from_operator::Message::Snapshot(document.message());
                    permit.send(Ok(FromOperator { message: Some(message) }));
                    attached.sent(&document);
                }
            }
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    if let Err(status) = take(&attached, message) {
                        return status;
                    }
                }
                Ok(None) => return Status::ok("the pod has ended it"),
                Err(status) => return status,
            },
            _ = replaced.changed() => {
                return Status::aborted("another stream of the same pod has begun");
            }
            _ = stopped.changed() => return Status::unavailable("the operator stops"),
            () = &mut old => return Status::unavailable("it is time to prove who you are again"),
        }
    }
}

/// What the pod says.
fn take(attached: &Attached, message: FromPod) -> Result<(), Status> {
    match message.message {
        Some(from_pod::Message::Ack(ack)) => attached.acked(&ack),
        Some(from_pod::Message::Reject(reject)) => attached.rejected(&reject),
        Some(from_pod::Message::Sessions(report)) => attached
            .sessions(report)
            .map_err(|error| Status::invalid_argument(error.to_string()))?,
        Some(from_pod::Message::Hello(_)) => {
            return Err(Status::invalid_argument("Hello comes once, and first"));
        }
        // A newer pod may say more than this operator knows.
        None => {}
    }
    Ok(())
}
