//! ICMP messages of the gateway itself, and how many there may be.

use std::net::IpAddr;

use masque_packet::icmp::{IcmpError, Unreachable, build_echo_reply_from, build_error};

use super::IcmpRates;
use crate::bucket::TokenBucket;
use crate::id::Now;
use crate::reason::DropReason;

/// A packet that goes nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rejection {
    pub(super) reason: DropReason,
    pub(super) answer: Answer,
}

/// What its sender is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// Nothing.
    None,
    /// An ICMP error (RFC 9484 §7.2.1).
    Error(IcmpError),
    /// The echo reply from this address, if the packet is an echo request.
    Echo(IpAddr),
}

impl Rejection {
    pub(super) const fn silent(reason: DropReason) -> Self {
        Self {
            reason,
            answer: Answer::None,
        }
    }

    pub(super) const fn error(reason: DropReason, error: IcmpError) -> Self {
        Self {
            reason,
            answer: Answer::Error(error),
        }
    }

    pub(super) const fn unreachable(reason: DropReason, why: Unreachable) -> Self {
        Self::error(reason, IcmpError::DestinationUnreachable(why))
    }
}

impl From<DropReason> for Rejection {
    /// The ICMP error that belongs to a reason.
    fn from(reason: DropReason) -> Self {
        match reason {
            DropReason::SourceNotAssigned => {
                Self::unreachable(reason, Unreachable::SourcePolicyFailed)
            }
            DropReason::NoRoute => Self::unreachable(reason, Unreachable::NoRoute),
            DropReason::OutOfScope
            | DropReason::PolicyDenied
            | DropReason::PolicyNotAllowed
            | DropReason::SourceOutsideRoutes => {
                Self::unreachable(reason, Unreachable::AdminProhibited)
            }
            DropReason::HopLimitExceeded => Self::error(reason, IcmpError::TimeExceeded),
            _ => Self::silent(reason),
        }
    }
}

/// How many messages may still leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct IcmpBuckets {
    errors: TokenBucket,
    too_big: TokenBucket,
    echo_replies: TokenBucket,
}

impl IcmpBuckets {
    /// Buckets that hold half a second's messages, and at least one.
    pub(super) fn new(rates: &IcmpRates, now_ms: u64) -> Self {
        let bucket = |rate: u32| TokenBucket::new(rate.into(), u64::from(rate / 2).max(1), now_ms);
        Self {
            errors: bucket(rates.errors_per_second),
            too_big: bucket(rates.too_big_per_second),
            echo_replies: bucket(rates.echo_replies_per_second),
        }
    }

    fn take(&mut self, now: Now, answer: Answer) -> bool {
        let bucket = match answer {
            Answer::None => return false,
            Answer::Error(IcmpError::PacketTooBig { .. }) => &mut self.too_big,
            Answer::Error(_) => &mut self.errors,
            Answer::Echo(_) => &mut self.echo_replies,
        };
        bucket.take(now.mono_ms, 1)
    }
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// There is none, or none may be sent about this packet.
    Nothing,
    /// The rate limit ate it.
    Suppressed,
    /// An error of this length.
    Error(usize),
    /// An echo reply of this length.
    Echo(usize),
}

/// Writes the answer to `packet`, from `source` unless the answer says otherwise. `buckets` must
/// all have one left.
#[cold]
pub(super) fn write<'a>(
    now: Now,
    answer: Answer,
    packet: &[u8],
    source: IpAddr,
    buckets: impl IntoIterator<Item = &'a mut IcmpBuckets>,
    reply: &mut [u8],
) -> Answered {
    let written = match answer {
        Answer::None => None,
        Answer::Error(error) => build_error(reply, packet, source, error).map(Answered::Error),
        Answer::Echo(source) => build_echo_reply_from(reply, packet, source).map(Answered::Echo),
    };
    let Some(written) = written else {
        return Answered::Nothing;
    };
    for buckets in buckets {
        if !buckets.take(now, answer) {
            return Answered::Suppressed;
        }
    }
    written
}
