//! Values of fields that are not written. The reference documents each.

/// `spec.sessions.idleTimeout`: longer than the keep-alives that clients send.
pub(crate) const IDLE_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// `spec.sessions.resumeWindow`: a laptop that sleeps over lunch keeps its address.
pub(crate) const RESUME_WINDOW_MS: u64 = 60 * 60 * 1000;

/// `spec.sessions.addressQuarantine`: longer than the flows that workloads may still have open to
/// the former owner of an address.
pub(crate) const ADDRESS_QUARANTINE_MS: u64 = 10 * 60 * 1000;

/// `spec.sessions.maxTotal`.
pub(crate) const MAX_TOTAL: u32 = 10_000;

/// `spec.drain.deadline`.
pub(crate) const DRAIN_DEADLINE_MS: u64 = 30 * 1000;

/// `spec.limits.sessions` of an attachment: a device that roams has two at one time.
pub(crate) const ATTACHMENT_SESSIONS: u32 = 4;

/// `spec.drain.minimum`: load balancers look every few seconds.
pub(crate) const DRAIN_MINIMUM_MS: u64 = 5 * 1000;
