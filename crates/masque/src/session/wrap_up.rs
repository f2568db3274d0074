//! The capsule that announces the end of a tunnel (draft-ietf-httpbis-wrap-up).

use super::{Role, SessionError};

/// Its type is provisional ([`WRAP_UP`](crate::capsule_type::WRAP_UP)), so the caller names it;
/// without a type the capsule is unknown.
#[derive(Debug, Default)]
pub(super) struct WrapUp {
    pub(super) capsule_type: Option<u64>,
    /// Our caller wants to announce the end.
    pub(super) wanted: bool,
    /// Sent (proxy) or received (client).
    done: bool,
}

impl WrapUp {
    /// The type to send now. It is given once (draft §2.3: "Proxies MUST NOT send more than one
    /// WRAP_UP capsule on a given stream").
    pub(super) fn poll_transmit(&mut self, role: Role) -> Option<u64> {
        let due = role == Role::Proxy && self.wanted && !self.done;
        let capsule_type = self.capsule_type.filter(|_| due)?;
        self.done = true;
        Some(capsule_type)
    }

    /// Takes the peer's capsule: "If a server receives a WRAP_UP capsule, it MUST abort the
    /// corresponding request stream", and so must a client at a second or non-empty one (draft
    /// §2.3).
    pub(super) const fn handle(
        &mut self,
        role: Role,
        length_bytes: u64,
    ) -> Result<(), SessionError> {
        if matches!(role, Role::Proxy) || self.done || length_bytes > 0 {
            return Err(SessionError::WrapUp);
        }
        self.done = true;
        Ok(())
    }
}
