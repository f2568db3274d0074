//! Sessions, address book, policy and routing of a gateway: packet and time in; verdict, event and
//! deadline out. No sockets, no clock, no randomness.
//!
//! The crate has two halves.
//!
//! - The control half is [`Registry`]: one per gateway, behind a mutex of the binary, never touched
//!   per packet. It runs [`Snapshot`](masque_model::Snapshot)s, gives out addresses, admits and
//!   releases sessions, and publishes immutable [`Tables`].
//! - The packet half is [`Dataplane`]: one per shard, without a lock and without an allocation at
//!   steady state. It judges every packet with the last [`Tables`] it was given.
//!
//! What travels between them: [`Tables`] (`Registry` to every shard), [`Grant`] (to the shard of the
//! session by [`Dataplane::attach`], to every other shard by [`Dataplane::attach_elsewhere`]), and
//! idle sessions ([`Dataplane::expired`] to [`Registry::release`]). Between shards: [`MovedFlows`].
#![forbid(unsafe_code)]

mod bucket;
mod counters;
mod dataplane;
#[cfg(test)]
mod fixture;
mod flow;
mod id;
mod policy;
mod prefix;
mod reason;
mod registry;
mod tables;

pub mod address;

pub use counters::{Counters, Traffic};
pub use dataplane::{
    AUDIT_NOTES_MAX, AuditNote, ClientVerdict, Dataplane, DataplaneConfig, FlowGauge, HopLimit,
    IcmpRates, MovedFlows, VpcVerdict,
};
pub use id::{AttachmentId, Now, SessionId, SessionRef, SlotId, VpcIndex};
pub use policy::{Explanation, FlowQuestion, PolicyVerdict, RuleName};
pub use reason::DropReason;
pub use registry::{
    AdmitRequest, Admitted, Changes, Conflict, EndReason, Ended, Grant, MAX_ATTACHMENTS,
    MAX_FIXED_ADDRESSES, MAX_POOLS, MAX_RULES, PoolUsage, Refusal, Registry, RegistryConfig,
    Released, Scope, SessionInfo, SnapshotError,
};
pub use tables::{
    AttachmentTable, ExplainError, Explained, LOCATOR_PREFIX_BITS, Tables, VpcTables,
};
