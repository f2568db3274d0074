//! The pod's end of the stream.

mod driver;
mod link;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use masque_model::{ObjectName, Snapshot};
use prost::bytes::Bytes;
use tokio::sync::watch;

pub use driver::Driver;
pub use link::ClientError;

use crate::{
    document::{Document, DocumentError, SnapshotHash},
    kept::Kept,
    session::{SessionInfo, Sessions, bounded},
    wire,
};

/// How a pod reaches its operator. The files are read anew at each connection, so that what a kubelet
/// replaces is used.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `https://HOST:PORT` of the operator.
    pub url: String,
    /// The host name in the operator's certificate.
    pub server_name: String,
    /// The CA bundle, PEM.
    pub ca: PathBuf,
    /// The pod's client certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The projected ServiceAccount token.
    pub token: PathBuf,
    /// `metadata.name` of the Pod.
    pub pod: String,
    /// The version of the gateway, for people.
    pub gateway_version: String,
    /// Where the last applied Snapshot is kept.
    pub kept: Kept,
}

impl ClientConfig {
    /// The ingress point that the client certificate names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ingress_point(&self) -> Result<ObjectName, ClientError> {
        link::credentials(self).map(|credentials| credentials.point)
    }
}

/// A Snapshot that came, over the stream or from the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub snapshot: Snapshot,
    /// The hash of its content.
    pub hash: SnapshotHash,
    /// As it came: the hash is of these bytes.
    pub(crate) payload: Bytes,
}

impl Received {
    pub(crate) fn read(
        message: &wire::Snapshot,
        wanted: &ObjectName,
    ) -> Result<Self, DocumentError> {
        let payload = &message.payload;
        let (hash, snapshot) = Document::decode(message.version, &message.hash, payload, wanted)?;
        Ok(Self {
            snapshot,
            hash,
            payload: payload.clone(),
        })
    }

    fn id(&self) -> (u64, SnapshotHash) {
        (self.snapshot.version, self.hash)
    }
}

/// How it stands with the operator; for readiness texts and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt is under way.
    #[default]
    Connecting,
    /// The stream is open.
    Connected,
    /// It is not, and the client will try again. The sentence says why.
    Down(String),
}

/// What the gateway made of a Snapshot.
#[derive(Clone, Debug)]
struct Answer {
    id: (u64, SnapshotHash),
    /// Why it cannot be run; `None` when it runs.
    refusal: Option<String>,
}

/// What the gateway holds of the stream; its other half is the [`Driver`].
///
/// # Contract
/// Spawn [`Driver::run`]. Answer every Snapshot that [`next`](Self::next) gives by
/// [`ack`](Self::ack), when routes, listeners and tables are in place, or by
/// [`reject`](Self::reject). Dropping the client ends the stream.
#[derive(Debug)]
pub struct Client {
    snapshots: watch::Receiver<Option<Received>>,
    answers: watch::Sender<Option<Answer>>,
    held: watch::Sender<Option<(u64, SnapshotHash)>>,
    sessions: watch::Sender<Option<Sessions>>,
    link: watch::Receiver<LinkState>,
    kept: Kept,
}

impl Client {
    /// A client, and what drives it. `held` is the Snapshot that the gateway runs already, from its
    /// disk.
    ///
    /// # Errors
    /// [`ClientError::Url`] or [`ClientError::ServerName`]: what no waiting mends.
    pub fn new(
        config: ClientConfig,
        held: Option<&Received>,
    ) -> Result<(Self, Driver), ClientError> {
        let target = link::Target::parse(&config)?;
        let (snapshots_in, snapshots) = watch::channel(None);
        let (answers, answers_out) = watch::channel(None);
        let (held, held_out) = watch::channel(held.map(Received::id));
        let (sessions, sessions_out) = watch::channel(None);
        let (link_in, link) = watch::channel(LinkState::default());
        let kept = config.kept.clone();
        let driver = Driver {
            config,
            target,
            snapshots: snapshots_in,
            answers: answers_out,
            held: held_out,
            sessions: sessions_out,
            link: link_in,
        };
        let client = Self {
            snapshots,
            answers,
            held,
            sessions,
            link,
            kept,
        };
        Ok((client, driver))
    }

    /// Waits for a Snapshot to run. If several came, only the newest is given. May be cancelled.
    pub async fn next(&mut self) -> Received {
        loop {
            if self.snapshots.changed().await.is_err() {
                // The driver was dropped: nothing will come.
                std::future::pending::<()>().await;
            }
            if let Some(received) = self.snapshots.borrow_and_update().clone() {
                return received;
            }
        }
    }

    /// The gateway runs this: kept on disk, and told to the operator. A disk that is full costs the
    /// start without an operator, not the present service: it is logged.
    pub async fn ack(&self, received: &Received) {
        let (kept, copy) = (self.kept.clone(), received.clone());
        let saved = tokio::task::spawn_blocking(move || kept.save(&copy)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(
                file = %self.kept.path().display(), %error,
                "the Snapshot is not kept; free space or mend permissions"
            );
        }
        self.held.send_replace(Some(received.id()));
        self.answers.send_replace(Some(Answer {
            id: received.id(),
            refusal: None,
        }));
    }

    /// The gateway cannot run this, for `reason`; the former one goes on.
    pub fn reject(&self, received: &Received, reason: impl Into<String>) {
        self.answers.send_replace(Some(Answer {
            id: received.id(),
            refusal: Some(reason.into()),
        }));
    }

    /// Every session that the gateway has now. Only what changed is sent, and not at once, so that
    /// it may be called as often as one likes.
    pub fn report_sessions(&self, sessions: impl IntoIterator<Item = SessionInfo>) {
        let by_id = sessions.into_iter().map(|session| (session.id, session));
        let now = Some(bounded(by_id.collect()));
        self.sessions.send_if_modified(|told| {
            let changed = *told != now;
            if changed {
                *told = now;
            }
            changed
        });
    }

    /// How it stands with the operator, now and later.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }
}
