//! Keeps a stream open, whatever happens.

use std::collections::VecDeque;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{Answer, ClientConfig, ClientError, LinkState, Received, link};
use crate::{
    backoff::{Backoff, random},
    bounds::{
        CONNECT_TIMEOUT, HELLO_TIMEOUT, MAX_POD_MESSAGE_BYTES, MAX_QUEUED_MESSAGES,
        MAX_SNAPSHOT_BYTES, MAX_TEXT_BYTES, REPORT_INTERVAL,
    },
    document::SnapshotHash,
    session::{Sessions, reports},
    wire::{
        self, Ack, FromOperator, FromPod, Hello, Reject, from_operator, from_pod,
        snapshot_stream_client::SnapshotStreamClient,
    },
};

/// The half of a [`Client`](super::Client) that runs by itself.
#[derive(Debug)]
pub struct Driver {
    pub(super) config: ClientConfig,
    pub(super) target: link::Target,
    pub(super) snapshots: watch::Sender<Option<Received>>,
    pub(super) answers: watch::Receiver<Option<Answer>>,
    pub(super) held: watch::Receiver<Option<(u64, SnapshotHash)>>,
    pub(super) sessions: watch::Receiver<Option<Sessions>>,
    pub(super) link: watch::Sender<LinkState>,
}

impl Driver {
    /// Connects, and connects again, until the client is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        let client_gone = self.snapshots.clone();
        let drive = async {
            loop {
                let error = match self.stream().await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                let was_open = *self.link.borrow() == LinkState::Connected;
                if was_open {
                    backoff.reset();
                }
                let sentence = error.to_string();
                let wait = backoff.wait(random());
                let retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(error = sentence, retry_ms, "no stream to the operator");
                self.link.send_replace(LinkState::Down(sentence));
                sleep(wait).await;
            }
        };
        tokio::select! {
            () = drive => {}
            () = client_gone.closed() => {}
        }
    }

    /// One stream, from connecting to its end.
    async fn stream(&mut self) -> Result<std::convert::Infallible, ClientError> {
        let credentials = link::credentials(&self.config)?;
        let bearer = link::bearer(&self.config)?;
        let channel = self.target.connect(credentials.tls).await?;
        let mut client = SnapshotStreamClient::new(channel)
            .max_decoding_message_size(MAX_SNAPSHOT_BYTES + MAX_POD_MESSAGE_BYTES);
        let (outbound, messages) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("authorization", bearer);
        // What was answered before is part of Hello; a refusal is found out again.
        self.answers.mark_unchanged();
        let hello = from_pod::Message::Hello(self.hello());
        // The queue is empty: there is room.
        let _room = outbound.try_send(FromPod {
            message: Some(hello),
        });
        let answered = timeout(CONNECT_TIMEOUT + HELLO_TIMEOUT, client.sync(request)).await;
        let inbound = answered
            .map_err(|_| ClientError::Unreachable("it does not answer in time".to_owned()))?
            .map_err(|status| refused(&status))?
            .into_inner();
        self.link.send_replace(LinkState::Connected);
        tracing::info!("the stream to the operator is open");
        self.converse(inbound, outbound, &credentials.point).await
    }

    pub(super) fn hello(&self) -> Hello {
        let held = *self.held.borrow();
        let (held_version, held_hash) = held.map_or((0, Vec::new()), |(version, hash)| {
            (version, hash.as_bytes().to_vec())
        });
        Hello {
            pod: self.config.pod.clone(),
            held_version,
            held_hash,
            gateway_version: self.config.gateway_version.clone(),
        }
    }

    async fn converse(
        &mut self,
        mut inbound: Streaming<FromOperator>,
        outbound: mpsc::Sender<FromPod>,
        point: &masque_model::ObjectName,
    ) -> Result<std::convert::Infallible, ClientError> {
        // The newest answer goes before the reports that wait; an older one is overtaken by it.
        let mut answer: Option<from_pod::Message> = None;
        let mut waiting: VecDeque<wire::Sessions> = VecDeque::new();
        let mut told: Option<Sessions> = None;
        let mut due = Instant::now();
        self.sessions.mark_changed();
        let mut news = true;
        loop {
            let to_send = answer.is_some() || !waiting.is_empty();
            tokio::select! {
                permit = outbound.reserve(), if to_send => {
                    let permit = permit.map_err(|_| ended())?;
                    let report = || waiting.pop_front().map(from_pod::Message::Sessions);
                    let message = answer.take().or_else(report);
                    permit.send(FromPod { message });
                }
                message = inbound.message() => {
                    let message = message.map_err(|status| refused(&status))?.ok_or_else(ended)?;
                    if let Some(from_operator::Message::Snapshot(snapshot)) = message.message
                        && let Some(at_once) = self.take(&snapshot, point)
                    {
                        answer = Some(at_once);
                    }
                }
                changed = self.answers.changed() => {
                    if changed.is_err() {
                        // The client is gone, and with it soon this driver.
                        std::future::pending::<()>().await;
                    }
                    let given = self.answers.borrow_and_update().clone();
                    answer = given.map(|given| message(given.id, given.refusal.as_deref()));
                }
                changed = self.sessions.changed(), if !news => news = changed.is_ok(),
                () = sleep_until(due), if news && waiting.is_empty() => {
                    news = false;
                    let now = self.sessions.borrow_and_update().clone();
                    if let Some(now) = now {
                        waiting.extend(reports(told.as_ref(), &now));
                        told = Some(now);
                        due = Instant::now() + REPORT_INTERVAL;
                    }
                }
            }
        }
    }

    /// Hands a Snapshot on; or answers at once, when it runs already or cannot be read.
    pub(super) fn take(
        &self,
        snapshot: &wire::Snapshot,
        point: &masque_model::ObjectName,
    ) -> Option<from_pod::Message> {
        let received = match Received::read(snapshot, point) {
            Ok(received) => received,
            Err(error) => {
                let sentence = error.to_string();
                tracing::error!(error = sentence, "a Snapshot of the operator is refused");
                return Some(reject(snapshot.version, snapshot.hash.clone(), &sentence));
            }
        };
        if *self.held.borrow() == Some(received.id()) {
            return Some(message(received.id(), None));
        }
        self.snapshots.send_replace(Some(received));
        None
    }
}

fn message((version, hash): (u64, SnapshotHash), refusal: Option<&str>) -> from_pod::Message {
    let hash = hash.as_bytes().to_vec();
    match refusal {
        None => from_pod::Message::Ack(Ack { version, hash }),
        Some(reason) => reject(version, hash, reason),
    }
}

fn reject(version: u64, hash: Vec<u8>, reason: &str) -> from_pod::Message {
    let reason = reason.chars().take(MAX_TEXT_BYTES).collect();
    from_pod::Message::Reject(Reject {
        version,
        hash,
        reason,
    })
}

fn refused(status: &Status) -> ClientError {
    let message = status.message();
    ClientError::Refused(if message.is_empty() {
        status.code().to_string()
    } else {
        message.to_owned()
    })
}

fn ended() -> ClientError {
    ClientError::Refused("the stream has ended".to_owned())
}
