//! Flows follow their attachment to another shard: a client that reconnects may land on any.

use super::Dataplane;
use super::directory::Place;
use crate::flow::{Flow, FlowId, Judged};
use crate::id::{AttachmentId, Now, SessionId};

/// The flows of an attachment whose traffic another shard carries now: at most
/// [`FlowGauge::share`](crate::FlowGauge::share) of them. They are gone here; give them to
/// [`Dataplane::accept_flows`] there.
#[derive(Debug)]
#[must_use = "the flows are in no table any more"]
pub struct MovedFlows {
    shard: u16,
    attachment: AttachmentId,
    /// The newest session that the sender knows.
    session: SessionId,
    /// The oldest first.
    flows: Vec<Flow>,
}

impl MovedFlows {
    /// The shard that carries the traffic.
    #[must_use]
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// How many flows there are; never none.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flows.len()
    }
}

impl Dataplane {
    /// Takes over the flows of an attachment from another shard. The next packet of each is judged by
    /// the tables and the scope of now: none passes that may not be open here.
    ///
    /// `Some` if still another shard carries the traffic by now, to be sent there. That ends, as each
    /// time it is for a newer session.
    pub fn accept_flows(&mut self, now: Now, moved: MovedFlows) -> Option<MovedFlows> {
        let number = *self.by_attachment.get(&moved.attachment)?;
        let (session, place) = self.owners.get(number as usize)?.newest()?;
        match place {
            Place::Here(_) => {
                for flow in &moved.flows {
                    self.accept_flow(now, number, flow);
                }
                None
            }
            Place::There(shard) if session > moved.session => Some(MovedFlows {
                shard,
                session,
                ..moved
            }),
            Place::There(_) => None,
        }
    }

    /// A flow that has begun here already stays as it is.
    fn accept_flow(&mut self, now: Now, owner: u32, flow: &Flow) {
        let id = FlowId {
            owner,
            ..*flow.id()
        };
        if flow.is_dead(now.mono_ms) || self.flows.find(now.mono_ms, &id).is_some() {
            return;
        }
        let at = self
            .flows
            .insert(now.mono_ms, id, Judged::NEVER, flow.state);
        if let Some(accepted) = at.and_then(|at| self.flows.flow_mut(at)) {
            accepted.seen_ms = flow.seen_ms;
        }
    }

    /// The flows of an attachment that another shard carries now; `None` if there are none.
    pub(super) fn take_flows(&mut self, number: u32) -> Option<MovedFlows> {
        let owner = self.owners.get(number as usize)?;
        let (session, Place::There(shard)) = owner.newest()? else {
            return None;
        };
        let attachment = owner.attachment;
        let flows = self.flows.take_owner(number);
        (!flows.is_empty()).then_some(MovedFlows {
            shard,
            attachment,
            session,
            flows,
        })
    }
}
