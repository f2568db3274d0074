//! Why a tunnel ends, and why it refuses a command.

use ipnet::IpNet;
use masque_http3::Code;

use super::bounds;
use crate::CapsuleError;

/// Why the request stream must be aborted with [`code`](Self::code).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer's capsules are malformed.
    #[error(transparent)]
    Capsule(#[from] CapsuleError),
    /// The peer changes addresses, requests or routes too often.
    #[error(
        "configuration capsules come faster than one in {} ms",
        bounds::CHURN_REFILL_MS
    )]
    Churn,
    /// The peer asks for more addresses than are kept unanswered.
    #[error(
        "the peer has more than {} unanswered address requests",
        bounds::MAX_PENDING_REQUESTS
    )]
    PendingRequests,
    /// `Session::handle_data` was called again and again without `Session::poll_event`.
    #[error(
        "more than {} bytes of capsules were not read",
        bounds::MAX_UNREAD_BYTES
    )]
    Unread,
    /// A wrap-up capsule that the peer may not send, sent twice, or that is not empty.
    #[error("the wrap-up capsule is malformed, repeated or from the client")]
    WrapUp,
}

impl SessionError {
    /// The code for the abort.
    pub const fn code(&self) -> Code {
        match self {
            Self::Capsule(error) => error.code(),
            Self::Churn | Self::PendingRequests => Code::H3_EXCESSIVE_LOAD,
            Self::Unread => Code::H3_INTERNAL_ERROR,
            Self::WrapUp => Code::H3_MESSAGE_ERROR,
        }
    }
}

/// Why a command was not carried out; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// An extension capsule before the peer showed that it copes with unknown ones: some peers
    /// close the tunnel at the first.
    #[error("the peer has not shown that it skips unknown capsules")]
    ExtensionsUnknownToPeer,
    /// The list or the queue is full.
    #[error("{count} {what} exceed the bound of {max}")]
    TooMany {
        /// What there would be too many of.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// An answer to a request that is not pending.
    #[error("no address request with id {0} is pending")]
    UnknownRequest(u64),
    /// An answer of the other address family.
    #[error("{prefix} does not answer request {request_id}, which is of the other address family")]
    WrongFamily {
        /// The request.
        request_id: u64,
        /// The answer.
        prefix: IpNet,
    },
}
