//! Every bound of the stream, in one place.

use std::time::Duration;

/// A Snapshot's payload; the operator says `SnapshotTooLarge` above. An attachment takes about
/// 400 bytes, so that it holds the 20,000 of one ingress point twice over.
pub use masque_model::MAX_SNAPSHOT_BYTES;

/// Pods of one ingress point that the operator remembers. Those that are gone make room.
pub const MAX_PODS_PER_POINT: usize = 256;
/// Sessions of one pod that are reported; a gateway has no more of them.
pub const MAX_SESSIONS_PER_POD: usize = 65_536;
/// Sessions begun and ended in one message.
pub const MAX_CHANGES_PER_REPORT: usize = 1_000;
/// Messages that wait to be sent on one stream, each way. Behind them the latest state wins: a slow
/// peer skips versions, and no queue grows.
pub const MAX_QUEUED_MESSAGES: usize = 2;
/// Connections to the operator at one time.
pub const MAX_CONNECTIONS: usize = 4_096;
/// Connections of the pods of one ingress point, so that none takes the places of all: each pod's,
/// and another for a moment when it dials again before the former one is known to be gone.
pub const MAX_CONNECTIONS_PER_POINT: usize = 2 * MAX_PODS_PER_POINT;
/// Sync calls on one connection; a pod makes one, and another for a moment when it starts anew.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 2;
/// A rejection's reason, and a gateway's version.
pub const MAX_TEXT_BYTES: usize = 1_024;
/// Each name in a report: Kubernetes has no longer ones (RFC 1123 subdomain).
pub const MAX_NAME_BYTES: usize = 253;
/// The transport of a session, such as `h3`.
pub const MAX_TRANSPORT_BYTES: usize = 32;
/// A message from a pod.
pub const MAX_POD_MESSAGE_BYTES: usize = 1024 * 1024;
/// A certificate, key, bundle or token file.
pub const MAX_CREDENTIAL_BYTES: u64 = 256 * 1024;

/// TCP, TLS and the opening of the call, together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the opening of the call to Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Both ends ask whether the other is there.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// It is gone when it does not answer so long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The operator ends a stream so old, and the pod opens another at once: certificate and token are
/// looked at again, also those of a pod that never loses its connection.
pub const MAX_STREAM_AGE: Duration = Duration::from_secs(30 * 60);
/// Sessions are reported so often at most.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Of the operator's replicas only the leader listens, and a Service hands each connection to any of
/// them. A refused one is dialled again at once, so often in all: with two replicas every attempt but
/// one of 4,096 finds the leader, when there is one.
pub const DIALS: u32 = 12;
/// Between two of these dials, at most.
pub const DIAL_PAUSE: Duration = Duration::from_millis(30);
/// The first wait before a new attempt to connect, at most.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// The longest wait: what a pod may add to the time that a change of leader takes.
pub const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// What is left open when the operator stops gets so long.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
