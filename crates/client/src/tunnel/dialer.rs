//! When to look up the gateway's name, which address to dial, and how long to wait after a failure.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{AttachError, Retry, backoff::Backoff};

/// Between the first dials of two addresses (RFC 8305 §5: "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// Between two dials of one address that was up a moment ago. QUIC alone would repeat its first
/// packet after one, three and seven seconds; a gateway that returns in between would wait for that.
const REDIAL: Duration = Duration::from_millis(700);
/// Over how long the clients of a gateway that goes away spread.
const SPREAD: Duration = Duration::from_secs(1);
/// How often a first attempt begins again because it met a gateway that goes away, or one that has
/// gone and refuses: in a rollout the next connection reaches another one.
const LEAVING_MAX: u8 = 4;
/// Within this time, so that the one that leaves is no longer a choice.
const LEAVING_PAUSE: Duration = Duration::from_millis(400);
/// A gateway may ask for patience (Retry-After), but not for more than this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Connections begun at one time.
pub(crate) const DIALS_MAX: usize = 4;
/// Addresses of one name that are tried.
const CANDIDATES_MAX: usize = 8;

/// What the tunnel must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look the gateway's name up.
    Resolve,
    /// Begin a connection; give the oldest unanswered one up if there are [`DIALS_MAX`].
    Dial(SocketAddr),
    /// Every address failed: say so, and wait.
    Failed {
        error: AttachError,
        retry_in: Duration,
    },
    /// Every address failed and nothing more is tried.
    GiveUp(AttachError),
}

/// What is under way, as the dialer needs to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    /// Connections that wait for the first answer.
    pub(crate) unanswered: usize,
    /// Connections that were answered and are on their way to a tunnel.
    pub(crate) answered: usize,
    /// A tunnel works, but will not for long: there is no hurry.
    pub(crate) has_tunnel: bool,
}

#[derive(Debug)]
enum State {
    /// A tunnel is open and nobody doubts it.
    Idle,
    Wait {
        until: Instant,
    },
    Round {
        next_at: Instant,
    },
    Done,
}

#[derive(Debug)]
pub(crate) struct Dialer {
    state: State,
    candidates: Vec<SocketAddr>,
    /// Those of them that were dialled in this round.
    tried: Vec<SocketAddr>,
    /// The candidates are addresses of a name, which may change.
    is_name: bool,
    resolving: bool,
    backoff: Backoff,
    was_up: bool,
    recovering: bool,
    /// The last failure does not pass by itself: a silent gateway is not dialled again and again.
    at_leisure: bool,
    keep_trying: bool,
    /// Gateways that went away during the first attempt.
    leaving: u8,
    error: Option<AttachError>,
}

impl Dialer {
    /// `literal`: the gateway is given as an address. With `keep_trying` a failure of the first
    /// round is not the end.
    pub(crate) fn new(literal: Option<SocketAddr>, keep_trying: bool, seed: u64) -> Self {
        Self {
            state: State::Idle,
            is_name: literal.is_none(),
            candidates: literal.into_iter().collect(),
            tried: Vec::new(),
            resolving: false,
            backoff: Backoff::new(seed),
            was_up: false,
            recovering: false,
            at_leisure: false,
            keep_trying,
            leaving: 0,
            error: None,
        }
    }

    /// Begins a round at once, unless one is running.
    pub(crate) fn begin(&mut self, now: Instant) {
        if let State::Idle | State::Wait { .. } = self.state {
            self.state = State::Wait { until: now };
        }
    }

    /// Begins a round within [`SPREAD`]: the gateway told all its clients at the same moment.
    pub(crate) fn begin_soon(&mut self, now: Instant) {
        if let State::Idle = self.state {
            self.state = State::Wait {
                until: now + self.backoff.spread(SPREAD),
            };
        }
    }

    /// Something outside changed: the next round begins at once and its waits are short.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.backoff.hurry();
        self.at_leisure = false;
        if let State::Wait { until } = &mut self.state {
            *until = now;
        }
    }

    /// The open tunnel is silent: a round begins at once, unless one is running.
    pub(crate) fn suspect(&mut self, now: Instant) {
        self.backoff.worked_until(now);
        self.begin(now);
    }

    /// The tunnel was lost: a round begins after the shortest wait, which keeps the clients of one
    /// gateway from dialling in the same millisecond.
    pub(crate) fn lost(&mut self, retry: Retry, now: Instant) -> Duration {
        self.backoff.worked_until(now);
        // A round that began beside a working tunnel was in no hurry.
        self.recovering = true;
        if let State::Round { .. } | State::Done = self.state {
            return Duration::ZERO;
        }
        self.backoff.hurry();
        self.at_leisure = retry != Retry::Helps;
        let wait = self.backoff.failed(retry, now);
        self.state = State::Wait { until: now + wait };
        wait
    }

    /// The tunnel through `remote` is open.
    pub(crate) fn succeeded(&mut self, remote: SocketAddr, now: Instant) {
        self.state = State::Idle;
        self.was_up = true;
        self.recovering = true;
        self.at_leisure = false;
        self.error = None;
        self.backoff.succeeded(now);
        self.candidates.retain(|candidate| *candidate != remote);
        self.candidates.insert(0, remote);
    }

    /// The doubted tunnel answers after all.
    pub(crate) fn stop(&mut self) {
        if !matches!(self.state, State::Done) {
            self.state = State::Idle;
        }
    }

    /// A connection failed. Of several errors of a round the one that says most is reported.
    pub(crate) fn failed(&mut self, error: AttachError) {
        if self
            .error
            .as_ref()
            .is_none_or(|former| weight(&error) >= weight(former))
        {
            self.error = Some(error);
        }
    }

    /// The resolver answered.
    pub(crate) fn resolved(&mut self, result: Result<Vec<SocketAddr>, AttachError>) {
        self.resolving = false;
        match result {
            Ok(addresses) => {
                // What answered last stays first; what the name no longer has goes.
                let first = self.candidates.first().copied().filter(|_| self.was_up);
                self.candidates
                    .retain(|old| Some(*old) == first || addresses.contains(old));
                for address in addresses {
                    if self.candidates.len() < CANDIDATES_MAX && !self.candidates.contains(&address)
                    {
                        self.candidates.push(address);
                    }
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// The next thing to do at `now`.
    pub(crate) fn poll(&mut self, now: Instant, live: Live) -> Option<Action> {
        match self.state {
            State::Idle | State::Done => None,
            State::Wait { until } if now < until => None,
            State::Wait { .. } => {
                self.state = State::Round { next_at: now };
                self.tried.clear();
                self.error = None;
                self.recovering = self.was_up && !self.at_leisure && self.backoff.is_recent(now);
                if self.is_name && !self.resolving {
                    self.resolving = true;
                    return Some(Action::Resolve);
                }
                self.poll(now, live)
            }
            State::Round { next_at } => self.poll_round(now, live, next_at),
        }
    }

    fn poll_round(&mut self, now: Instant, live: Live, next_at: Instant) -> Option<Action> {
        if let Some(candidate) = self.untried() {
            if now < next_at || live.answered > 0 {
                return None;
            }
            self.tried.push(candidate);
            let pause = if self.untried().is_some() {
                STAGGER
            } else {
                REDIAL
            };
            self.state = State::Round {
                next_at: now + pause,
            };
            return Some(Action::Dial(candidate));
        }
        if self.resolving || live.answered > 0 {
            return None;
        }
        if live.unanswered == 0 {
            return Some(self.round_failed(now, live));
        }
        if self.recovering && now >= next_at {
            self.tried.clear();
            return self.poll_round(now, live, now);
        }
        None
    }

    fn untried(&self) -> Option<SocketAddr> {
        let tried = |candidate: &&SocketAddr| !self.tried.contains(candidate);
        self.candidates.iter().find(tried).copied()
    }

    fn round_failed(&mut self, now: Instant, live: Live) -> Action {
        let error = self.error.take().unwrap_or_else(|| AttachError::Local {
            reason: "the gateway's name gave no address to dial".to_owned(),
        });
        if !self.was_up && !self.keep_trying {
            // One that has left refuses connections until nothing leads to it any more.
            let leaves = error == AttachError::GoingAway
                || error.is_refused()
                || self.leaving > 0 && error.retry() == Retry::Helps;
            if leaves && self.leaving < LEAVING_MAX {
                self.leaving += 1;
                let retry_in = self.backoff.spread(LEAVING_PAUSE);
                self.state = State::Wait {
                    until: now + retry_in,
                };
                return Action::Failed { error, retry_in };
            }
            self.state = State::Done;
            return Action::GiveUp(error);
        }
        self.at_leisure = error.retry() != Retry::Helps;
        let mut retry_in = match live.has_tunnel {
            true => self.backoff.failed_at_leisure(),
            false => self.backoff.failed(error.retry(), now),
        };
        if let AttachError::Unavailable {
            retry_after: Some(after),
            ..
        } = error
        {
            retry_in = retry_in.max(after.min(RETRY_AFTER_MAX));
        }
        self.state = State::Wait {
            until: now + retry_in,
        };
        Action::Failed { error, retry_in }
    }

    /// When [`poll`](Self::poll) has something to do by itself.
    pub(crate) fn deadline(&self, live: Live) -> Option<Instant> {
        match self.state {
            State::Idle | State::Done => None,
            State::Wait { until } => Some(until),
            State::Round { .. } if live.answered > 0 => None,
            State::Round { next_at } => {
                (self.untried().is_some() || self.recovering).then_some(next_at)
            }
        }
    }
}

/// How much an error says about the cause: what an address answered counts more than its silence.
fn weight(error: &AttachError) -> u8 {
    match error {
        AttachError::NameResolution { .. } | AttachError::Local { .. } => 0,
        AttachError::NoAnswer { .. } | AttachError::PeerLost { .. } => 1,
        AttachError::Unreachable { .. } => 2,
        AttachError::Closed { .. } | AttachError::GoingAway => 3,
        AttachError::Handshake { .. } | AttachError::NotAGateway { .. } => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests;
