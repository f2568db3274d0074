//! Sessions begin and end: the registry decides, the shards are told.

use std::{
    collections::BTreeSet,
    net::ToSocketAddrs as _,
    sync::{Arc, atomic::Ordering},
};

use masque_gateway_core::{
    AdmitRequest, AttachmentId, EndReason, Ended, Grant, Now, Refusal, SessionId, SessionRef,
};
use masque_model::{ConnectorKey, ObjectName};

use super::{
    Control,
    lookups::{Lookup, look_up},
};
use crate::{
    command::Command,
    shard::{RESOLVE_TIMEOUT, TunnelKey},
};

impl Control {
    /// Those of the ingress points where the key has an attachment.
    pub(crate) fn serving(
        &self,
        key: &ConnectorKey,
        mut points: BTreeSet<ObjectName>,
    ) -> BTreeSet<ObjectName> {
        let registry = self.registry();
        points.retain(|point| registry.has_attachment(point, key));
        points
    }

    /// Admits a session and tells every shard what that changes. The registry stays locked until all
    /// are told (sending never waits), so that every shard hears of changes in their order: an older
    /// grant never overtakes a newer one.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed.
    pub(crate) fn admit(&self, now: Now, request: &AdmitRequest<'_>) -> Result<Grant, Refusal> {
        let mut registry = self.registry();
        let admitted = registry.admit(now, request)?;
        // The session that carried the traffic until now needs no word: the newest one wins.
        let grant = admitted.grant;
        self.tell_others(&grant, Command::Elsewhere);
        self.end(&admitted.ended);
        Ok(grant)
    }

    /// Forgets a session whose tunnel has ended.
    pub(crate) fn release(
        &self,
        now: Now,
        attachment: AttachmentId,
        session: SessionId,
        reason: EndReason,
    ) {
        // Locked until all are told, as in `admit`.
        let mut registry = self.registry();
        let released = registry.release(now, session, reason);
        self.broadcast(|| Command::ElsewhereEnded(attachment, session));
        if let Some(activated) = released.and_then(|released| released.activated) {
            self.update(activated);
        }
    }

    /// A session's grant changed.
    pub(crate) fn update(&self, grant: Grant) {
        self.tell_others(&grant, Command::ElsewhereUpdated);
        self.send(grant.shard, Command::Update(Arc::new(grant)));
    }

    /// The grants of these sessions changed. What is told is what the registry holds now: a packet
    /// thread may have changed them again since.
    pub(crate) fn update_all(&self, changed: &[Grant]) {
        let registry = self.registry();
        for grant in changed {
            if let Some(grant) = registry.session(grant.session) {
                self.update(grant.clone());
            }
        }
    }

    /// Ends sessions that the registry released; their shard then tells the others.
    pub(crate) fn end(&self, ended: &[Ended]) {
        for Ended {
            session: SessionRef { session, shard },
            reason,
            ..
        } in ended
        {
            self.send(*shard, Command::End(*session, *reason));
        }
    }

    /// The other shards hand over the session's packets.
    fn tell_others(&self, grant: &Grant, command: impl Fn(Arc<Grant>) -> Command) {
        let shared = Arc::new(grant.clone());
        for shard in (0..self.shards()).filter_map(|s| u16::try_from(s).ok()) {
            if shard != grant.shard {
                self.send(shard, command(Arc::clone(&shared)));
            }
        }
    }

    /// A place for the lookup of a target's name, for a key that may enter these ingress points;
    /// `None` when too many names are being resolved.
    pub(crate) fn begin_lookup(
        &self,
        key: ConnectorKey,
        points: BTreeSet<ObjectName>,
    ) -> Option<Arc<Lookup>> {
        self.lookups.begin(key, points)
    }

    /// Resolves a request's target (RFC 9484 §4.1) and tells the shard.
    pub(crate) fn resolve(
        self: &Arc<Self>,
        name: String,
        lookup: Arc<Lookup>,
        shard: u16,
        key: TunnelKey,
    ) {
        let control = Arc::clone(self);
        let Some(runtime) = self.runtime.get() else {
            return;
        };
        let find = move || {
            Ok((name.as_str(), 0)
                .to_socket_addrs()?
                .map(|a| a.ip())
                .collect())
        };
        runtime.spawn(async move {
            let addresses = look_up(lookup, RESOLVE_TIMEOUT, find).await;
            control.send(shard, Command::Resolved { key, addresses });
        });
    }

    /// What one packet may have on its way to the fabric: the underlay's MTU less the outer header.
    pub(crate) fn fabric_mtu_bytes(&self) -> usize {
        self.fabric_mtu_bytes.load(Ordering::Relaxed)
    }

    /// The underlay's MTU is known, or another one: sessions learn it at once.
    pub(crate) fn set_fabric_mtu_bytes(&self, bytes: usize) {
        if self.fabric_mtu_bytes.swap(bytes, Ordering::Relaxed) != bytes {
            tracing::info!(bytes, "longest packet that the fabric carries");
            self.broadcast(|| Command::FabricMtu(bytes));
        }
    }
}
