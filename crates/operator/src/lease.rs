//! Leader election by a Lease of coordination.k8s.io.
//!
//! Every write carries the resource version that was read, so that of two that take a free Lease one
//! gets 409. A standby measures how long the Lease did not change with its own clock: clocks of
//! different nodes are never compared, so that skew cannot make two leaders.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;

use crate::client::{CallError, call, is_conflict, is_not_found};

/// A Lease that did not change for this long is free.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for this long stops leading: before anybody else may start.
pub(crate) const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often a leader renews.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How often a standby looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether this process leads, for everybody who writes.
#[derive(Clone, Debug)]
pub(crate) struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Leadership until the time that `until` tells.
    #[cfg(test)]
    pub(crate) fn of(until: watch::Receiver<Option<Instant>>) -> Self {
        Self { until }
    }

    /// Whether writing is allowed now. False as soon as the renewal deadline passed, also when the
    /// election itself is stuck in a call.
    pub(crate) fn holds(&self) -> bool {
        let until = *self.until.borrow();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this process leads; false when the election has ended.
    pub(crate) async fn gained(&mut self) -> bool {
        self.until.wait_for(Option::is_some).await.is_ok()
    }

    /// Waits until this process does not lead any more.
    pub(crate) async fn lost(&mut self) {
        loop {
            let Some(until) = *self.until.borrow_and_update() else {
                return;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            match tokio::time::timeout(left, self.until.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_ended)) => return,
                Err(_elapsed) if *self.until.borrow() == Some(until) => return,
                Err(_elapsed) => {}
            }
        }
    }
}

/// One candidate.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    until: watch::Sender<Option<Instant>>,
    seen: Option<Seen>,
}

/// The Lease as last read, and since when it looks so.
#[derive(Clone, Debug)]
struct Seen {
    lease: Arc<Lease>,
    since: Instant,
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Renew,
    Take,
    Wait,
}

impl Election {
    /// A candidate for the Lease `name`; `identity` must be unique to this process.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: String,
    ) -> (Self, Leadership) {
        let (until, receiver) = watch::channel(None);
        let election = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            until,
            seen: None,
        };
        (election, Leadership { until: receiver })
    }

    /// Runs until `stop`; gives the Lease back if it has it.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let asked = Instant::now();
            let leads = tokio::select! {
                () = &mut stop => break,
                result = self.turn() => match result {
                    Ok(leads) => leads,
                    Err(error) => {
                        self.stumbled();
                        tracing::warn!(%error, lease = self.name, "the Lease could not be read or written");
                        self.still(asked)
                    }
                },
            };
            self.announce(leads, asked);
            let pause = if leads { RENEW_EVERY } else { LOOK_EVERY };
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.release().await;
    }

    /// After an error. Of the own Lease the outcome may be unknown, and the next look tells. How
    /// long another's stood still is not forgotten: nobody would follow a dead leader while the API
    /// server refuses now and then.
    fn stumbled(&mut self) {
        if self.until.borrow().is_some() {
            self.seen = None;
        }
    }

    fn announce(&self, leads: bool, asked: Instant) {
        let was = self.until.borrow().is_some();
        if leads != was {
            tracing::info!(identity = self.identity, leads, "leadership");
        }
        // A failed renewal keeps the former deadline.
        if leads && self.seen.is_some() {
            self.until.send_replace(Some(asked + RENEW_DEADLINE));
        } else if !leads && was {
            self.until.send_replace(None);
        }
    }

    /// After an error: still the leader until the deadline.
    fn still(&self, now: Instant) -> bool {
        let until = *self.until.borrow();
        until.is_some_and(|until| now < until)
    }

    /// One look and, when needed, one write. Whether this process leads.
    async fn turn(&mut self) -> Result<bool, CallError> {
        match self.attempt().await {
            // Perhaps an own write whose answer was lost. Only another one counts as a renewal:
            // nobody knows how long ago that one was done.
            Err(error) if is_conflict(&error) => {
                self.look().await?;
                let lease = self.seen.as_ref().map(|seen| seen.lease.clone());
                if lease.as_deref().and_then(holder) == Some(self.identity.as_str()) {
                    self.attempt().await
                } else {
                    Ok(false)
                }
            }
            result => result,
        }
    }

    async fn attempt(&mut self) -> Result<bool, CallError> {
        // The own Lease needs no look before it is renewed: a stale version gets 409.
        let renewing = self.until.borrow().is_some() && self.seen.is_some();
        if !renewing {
            self.look().await?;
        }
        let lease = self.seen.as_ref().map(|seen| seen.lease.clone());
        let waited = self.seen.as_ref().map(|seen| seen.since.elapsed());
        let step = decide(lease.as_deref(), &self.identity, waited.unwrap_or_default());
        let params = PostParams::default();
        let now = Timestamp::now();
        let written = match (step, lease) {
            (Step::Wait, _) => return Ok(false),
            (Step::Create, _) | (_, None) => {
                let lease = claim(None, &self.name, &self.identity, now);
                call(self.api.create(&params, &lease)).await
            }
            (Step::Renew, Some(lease)) => {
                let lease = renewed((*lease).clone(), now);
                call(self.api.replace(&self.name, &params, &lease)).await
            }
            (Step::Take, Some(lease)) => {
                let lease = claim(Some((*lease).clone()), &self.name, &self.identity, now);
                call(self.api.replace(&self.name, &params, &lease)).await
            }
        };
        self.remember(written?);
        Ok(true)
    }

    async fn look(&mut self) -> Result<(), CallError> {
        match call(self.api.get(&self.name)).await {
            Ok(lease) => self.remember(lease),
            Err(error) if is_not_found(&error) => self.seen = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn remember(&mut self, lease: Lease) {
        let same = self.seen.as_ref().is_some_and(|seen| {
            seen.lease.metadata.resource_version == lease.metadata.resource_version
        });
        if !same {
            self.seen = Some(Seen {
                lease: Arc::new(lease),
                since: Instant::now(),
            });
        }
    }

    /// Gives the Lease back, so that a standby need not wait for it.
    async fn release(self) {
        let held = self.until.borrow().is_some();
        self.until.send_replace(None);
        let Some(seen) = self.seen.filter(|_| held) else {
            return;
        };
        let mut lease = (*seen.lease).clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = call(self.api.replace(&self.name, &PostParams::default(), &lease)).await
        {
            tracing::warn!(%error, "the Lease could not be given back; it ends by itself");
        }
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// What a candidate does about a Lease that looks like this for `unchanged`.
fn decide(lease: Option<&Lease>, identity: &str, unchanged: Duration) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    match holder(lease) {
        Some(holder) if holder == identity => Step::Renew,
        None => Step::Take,
        Some(_) => {
            let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds);
            let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
            let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            if unchanged >= duration {
                Step::Take
            } else {
                Step::Wait
            }
        }
    }
}

fn claim(old: Option<Lease>, name: &str, identity: &str, now: Timestamp) -> Lease {
    let mut lease = old.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    lease.spec = Some(LeaseSpec {
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        lease_transitions: Some(transitions.map_or(0, |count| count.saturating_add(1))),
        ..LeaseSpec::default()
    });
    lease
}

fn renewed(mut lease: Lease, now: Timestamp) -> Lease {
    lease.spec.get_or_insert_default().renew_time = Some(MicroTime(now));
    lease
}

#[cfg(test)]
mod tests;
