//! Runs on the Snapshots of an operator instead of a folder of manifests.
//!
//! A Snapshot goes the same way as one of a folder: through the supervisor into registry, kernel and
//! listeners. It is acknowledged when all of them are as it says, and rejected with the reason when
//! they are not; when what was wrong mends itself (a certificate is mounted a minute late), the
//! acknowledgement follows. Whether the operator is there or not changes nothing in what runs.

mod args;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use masque_model::Snapshot;
use masque_stream::{Client, ClientConfig, Kept, LinkState, Received, SessionInfo};

use crate::{control::Control, exit::Fatal, supervisor::Supervisor};

pub(crate) use args::OperatorArgs;

/// How often the sessions are looked at; only what changed is sent.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// The kept Snapshot, in the state folder.
const KEPT: &str = "snapshot";
/// The only transport that is built.
const TRANSPORT: &str = "h3";

/// The stream, and how far the gateway is with what came over it.
pub(crate) struct OperatorSource {
    client: Client,
    received: Option<Received>,
    /// What the operator was told of `received`: that it runs, or why not.
    answered: Option<Result<(), String>>,
    /// The sessions last reported, by number.
    reported: Vec<u64>,
    report_due: Instant,
}

impl OperatorSource {
    /// Carries out the Snapshot that was kept, if there is one, and opens the stream.
    ///
    /// # Errors
    /// [`Fatal::Usage`] when an argument cannot be right.
    pub(crate) fn start(
        args: &OperatorArgs,
        state_dir: &Path,
        supervisor: &mut Supervisor,
        control: &Control,
    ) -> Result<Self, Fatal> {
        let config = args.config(Kept::new(state_dir.join(KEPT)))?;
        let received = kept(&config);
        let mut verdict = Err("waiting for the first Snapshot of the operator".to_owned());
        if let Some(received) = &received {
            run(supervisor, received)?;
            verdict = supervisor.verdict();
            tracing::info!(
                version = received.snapshot.version,
                hash = %received.hash,
                runs = verdict.is_ok(),
                "the kept Snapshot is carried out"
            );
        }
        match &verdict {
            Ok(()) => control.started(),
            Err(reason) => control.starts_slowly(reason.clone()),
        }
        // The stream's first word is what runs: a Snapshot that did not run is sent again.
        let held = received.as_ref().filter(|_| verdict.is_ok());
        let (client, driver) =
            Client::new(config, held).map_err(|error| Fatal::Usage(error.to_string()))?;
        tokio::spawn(driver.run());
        Ok(Self {
            client,
            answered: received.is_some().then_some(verdict),
            received,
            reported: Vec::new(),
            report_due: Instant::now(),
        })
    }

    /// Waits for a Snapshot; for ever in a gateway that has no operator. May be cancelled.
    pub(crate) async fn next(source: &mut Option<Self>) -> Received {
        match source {
            Some(source) => source.client.next().await,
            None => std::future::pending().await,
        }
    }

    /// Carries out a Snapshot that came.
    ///
    /// # Errors
    /// As [`Supervisor::reload`].
    pub(crate) fn take(
        &mut self,
        received: Received,
        supervisor: &mut Supervisor,
    ) -> Result<(), Fatal> {
        tracing::info!(version = received.snapshot.version, hash = %received.hash, "a Snapshot came");
        run(supervisor, &received)?;
        self.received = Some(received);
        self.answered = None;
        Ok(())
    }

    /// Tells the operator how it stands, where that is news. Call it after everything that may have
    /// changed it.
    pub(crate) async fn settle(&mut self, supervisor: &Supervisor, control: &Control) {
        control.operator_connected(*self.client.link().borrow() == LinkState::Connected);
        self.report_sessions(control);
        let Some(received) = &self.received else {
            return;
        };
        // What ran once is acknowledged for good: what happens to it later is readiness.
        if self.answered == Some(Ok(())) {
            return;
        }
        let verdict = supervisor.verdict();
        if self.answered.as_ref() == Some(&verdict) {
            return;
        }
        let version = received.snapshot.version;
        match &verdict {
            Ok(()) => {
                control.started();
                self.client.ack(received).await;
                tracing::info!(version, "the Snapshot runs");
            }
            Err(reason) => {
                control.starts_slowly(reason.clone());
                self.client.reject(received, reason.clone());
                tracing::error!(version, reason, "the Snapshot does not run");
            }
        }
        self.answered = Some(verdict);
    }

    /// Reports the sessions if they are others than before, and not too often.
    fn report_sessions(&mut self, control: &Control) {
        let now = Instant::now();
        if now < self.report_due {
            return;
        }
        self.report_due = now + REPORT_INTERVAL;
        let registry = control.registry();
        // A session's number is never used again, and what is told of it never changes.
        let ids = || registry.sessions().map(|session| session.grant.session.0);
        if ids().eq(self.reported.iter().copied()) {
            return;
        }
        self.reported = ids().collect();
        let sessions: Vec<SessionInfo> = registry
            .sessions()
            .map(|session| SessionInfo {
                id: session.grant.session.0,
                attachment: session.grant.name.clone(),
                transport: TRANSPORT.to_owned(),
                since_unix_s: session.since_unix_s,
            })
            .collect();
        drop(registry);
        self.client.report_sessions(sessions);
    }
}

fn run(supervisor: &mut Supervisor, received: &Received) -> Result<(), Fatal> {
    supervisor.follow(as_given(received.snapshot.clone()));
    supervisor.reload(false)
}

/// The Snapshot from an earlier process, if it can be read.
fn kept(config: &ClientConfig) -> Option<Received> {
    let point = match config.ingress_point() {
        Ok(point) => point,
        Err(error) => {
            // The stream waits for the same files, and says so again.
            tracing::warn!(%error, "whose pod this is is not known yet; starting without a Snapshot");
            return None;
        }
    };
    config.kept.load(&point).unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    })
}

/// Addresses come from the operator alone: a family that an attachment was given no address of is
/// one it does not have here, and how long a freed address rests is the operator's business. Two
/// pods that took addresses from a pool would take the same one.
fn as_given(mut snapshot: Snapshot) -> Snapshot {
    snapshot.sessions.address_quarantine_ms = 0;
    for attachment in &mut snapshot.attachments {
        let has = |wanted: fn(&IpAddr) -> bool| attachment.addresses.iter().any(wanted);
        let (ipv4, ipv6) = (has(IpAddr::is_ipv4), has(IpAddr::is_ipv6));
        attachment.ipv4 &= ipv4;
        attachment.ipv6 &= ipv6;
    }
    snapshot
}
