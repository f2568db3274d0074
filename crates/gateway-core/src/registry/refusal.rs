//! Why a client gets no session.

use std::net::IpAddr;

use crate::address::AddressError;

/// Why a client gets no session. The text is for the client where [`is_secret`](Self::is_secret)
/// is false, else for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No attachment has this key in the VPC that was asked for.
    #[error("no ConnectorAttachment binds this key to the VPC that the path names")]
    NotFound,
    /// The key is bound to several VPCs and the path names none of them.
    #[error("this key is bound to {0} VPCs; name one in the path")]
    SeveralVpcs(usize),
    /// The attachment is suspended.
    #[error("the ConnectorAttachment is suspended; set suspend to false")]
    Suspended,
    /// The ingress point is full.
    #[error("the ingress point has its {0} sessions (sessions.maxTotal); try again later")]
    TooManySessions(u32),
    /// The gateway is full.
    #[error("the gateway has as many sessions as it can hold; try another gateway")]
    GatewayFull,
    /// No address is free.
    #[error("the address pools of the ingress point are exhausted; add a pool")]
    PoolExhausted,
    /// A fixed address belongs to somebody else, or rests.
    #[error("the address {0} of this attachment is held by another one or rests; try again later")]
    AddressTaken(IpAddr),
    /// A fixed address is in no pool.
    #[error("the address {0} of this attachment is not one that the pools give out")]
    AddressOutsidePools(IpAddr),
    /// The client wants a family that the attachment or the pools do not have.
    #[error("the attachment has no address of a family that the client can use")]
    NoFamily,
    /// No route leads to what the request names.
    #[error("the target of the request is outside the routes of this attachment")]
    TargetOutsideRoutes,
}

impl Refusal {
    /// The stable name for a metric label and for status.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::SeveralVpcs(_) => "several_vpcs",
            Self::Suspended => "suspended",
            Self::TooManySessions(_) => "too_many_sessions",
            Self::GatewayFull => "gateway_full",
            Self::PoolExhausted => "pool_exhausted",
            Self::AddressTaken(_) => "address_taken",
            Self::AddressOutsidePools(_) => "address_outside_pools",
            Self::NoFamily => "no_family",
            Self::TargetOutsideRoutes => "target_outside_routes",
        }
    }

    /// The answer must be that of a resource that does not exist, so that a stranger cannot find
    /// out what does. Everything else is only ever said to a key that has an attachment.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::NotFound)
    }

    /// Whether the same request may succeed later without a change of a manifest.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::TooManySessions(_)
                | Self::GatewayFull
                | Self::PoolExhausted
                | Self::AddressTaken(_)
        )
    }
}

impl From<AddressError> for Refusal {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::PoolExhausted => Self::PoolExhausted,
            AddressError::Taken(address) => Self::AddressTaken(address),
            AddressError::OutsidePools(address) => Self::AddressOutsidePools(address),
            AddressError::NoFamily => Self::NoFamily,
        }
    }
}
