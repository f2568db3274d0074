//! The packet half: every packet of one shard gets a verdict here.

mod answer;
mod audit;
mod checks;
mod client;
mod directory;
mod fit;
mod flows;
mod idle;
mod moved;
mod slot;
#[cfg(test)]
mod tests;
mod vpc;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use masque_packet::ip::IpHeader;

use crate::counters::Counters;
use crate::flow::FlowTable;
use crate::id::{AttachmentId, Now, SessionId, SlotId, VpcIndex};
use crate::reason::DropReason;
use crate::registry::Grant;
use crate::tables::Tables;
use answer::IcmpBuckets;
use audit::AuditNotes;
use directory::{Directory, Owner};
pub use moved::MovedFlows;
use slot::Slot;

pub use audit::{AUDIT_NOTES_MAX, AuditNote};

/// Who takes one from the hop limit: RFC 9484 §7.2 wants it done once per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopLimit {
    /// The kernel does it for packets from the VPC, which it forwards to the TUN device after
    /// decapsulation, but not for packets into the VPC: seg6 encapsulates them before it forwards,
    /// and takes one from the outer header only. So it is done here for the latter.
    #[default]
    KernelDecrements,
    /// The bridge does not: it is done here, in both directions.
    DecrementHere,
}

/// How many ICMP messages a second may leave, and how many in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpRates {
    /// Errors other than Packet Too Big.
    pub errors_per_second: u32,
    /// Packet Too Big and Fragmentation Needed. A bucket of their own: a flood of other errors must
    /// not stop path MTU discovery.
    pub too_big_per_second: u32,
    /// Echo replies of the gateway itself.
    pub echo_replies_per_second: u32,
}

/// Bounds and ways of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// The number of this shard.
    pub shard: u16,
    /// Flows that the shard remembers; about 180 bytes each.
    pub flow_entries: u32,
    /// Seed of the hash of flows; random, so that nobody can choose colliding ones.
    pub hash_seed: u64,
    /// Most sessions of this shard; [`attach`](Dataplane::attach) takes no more.
    pub sessions_max: u32,
    /// Who takes one from the hop limit.
    pub hop_limit: HopLimit,
    /// The longest IP packet that fits into the fabric, in bytes; see
    /// [`set_fabric_mtu`](Dataplane::set_fabric_mtu).
    pub fabric_mtu_bytes: u16,
    /// Lower the MSS option of TCP SYNs to what the tunnel carries (both directions).
    pub clamp_mss: bool,
    /// ICMP messages about the packets of one session.
    pub session_icmp: IcmpRates,
    /// ICMP messages about the packets of one VPC in this shard.
    pub vpc_icmp: IcmpRates,
}

impl Default for DataplaneConfig {
    fn default() -> Self {
        Self {
            shard: 0,
            flow_entries: 65_536,
            hash_seed: 0,
            sessions_max: 65_536,
            hop_limit: HopLimit::KernelDecrements,
            fabric_mtu_bytes: u16::MAX,
            clamp_mss: true,
            session_icmp: IcmpRates {
                errors_per_second: 100,
                too_big_per_second: 100,
                echo_replies_per_second: 100,
            },
            vpc_icmp: IcmpRates {
                errors_per_second: 1_000,
                too_big_per_second: 10_000,
                echo_replies_per_second: 1_000,
            },
        }
    }
}

/// What becomes of a packet from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientVerdict {
    /// It goes into the VPC. The packet may have been edited in place; its length has not changed.
    Forward {
        /// The ingress point whose VPC it is for.
        vpc: VpcIndex,
        /// What it is.
        header: IpHeader,
        /// Set if the fabric does not carry it whole: no fragment of it may be longer, in bytes; see
        /// [`fragments`](masque_packet::fragment::fragments).
        fragment_to_bytes: Option<u16>,
    },
    /// It goes nowhere; the first bytes of the reply buffer are a packet for this client.
    Reply {
        /// Length of the reply, in bytes.
        len_bytes: usize,
        /// Why it was dropped; `None` if it was an echo request to the gateway.
        drop: Option<DropReason>,
    },
    /// It goes nowhere.
    Drop(DropReason),
}

/// What becomes of a packet from the VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpcVerdict {
    /// It goes to the client of this session, in segments if it is a super-packet. The packet may
    /// have been edited in place; its length has not changed.
    ToSession {
        /// The session.
        slot: SlotId,
        /// What it is.
        header: IpHeader,
        /// Set if the tunnel does not carry it, or its segments, whole: no fragment may be longer, in
        /// bytes; see [`fragments`](masque_packet::fragment::fragments).
        fragment_to_bytes: Option<u16>,
    },
    /// Its session is on another shard, which must judge it by
    /// [`from_vpc_handed_over`](Dataplane::from_vpc_handed_over). Nothing was changed or counted.
    HandOver {
        /// The other shard.
        shard: u16,
    },
    /// It goes nowhere; the first bytes of the reply buffer are a packet into this VPC.
    Reply {
        /// Length of the reply, in bytes.
        len_bytes: usize,
        /// Why it was dropped; `None` if it was an echo request to the gateway.
        drop: Option<DropReason>,
    },
    /// It goes nowhere.
    Drop(DropReason),
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowGauge {
    /// Flows that it has.
    pub flows: u32,
    /// Flows that fit.
    pub capacity: u32,
    /// Flows that one attachment may have.
    pub share: u32,
}

/// The packet half of one shard.
///
/// # Contract
/// - Every shard learns of every session: [`attach`](Self::attach) on its own shard,
///   [`attach_elsewhere`](Self::attach_elsewhere) on the others; [`update`](Self::update) on all;
///   and at its end [`detach`](Self::detach), or [`forget`](Self::forget) on the others. The order
///   between different sessions does not matter. Of an attachment's sessions the newest carries the
///   traffic, without being told. Where one of these gives [`MovedFlows`], they are sent to their
///   shard, for [`accept_flows`](Self::accept_flows).
/// - [`set_tables`](Self::set_tables) comes before the first `attach` of a VPC that the tables add.
/// - [`from_client`](Self::from_client) and [`from_vpc`](Self::from_vpc) judge one packet each.
///   They neither allocate nor lock. `reply` should have room for
///   [`MAX_ERROR_BYTES`](masque_packet::icmp::MAX_ERROR_BYTES) or the longest echo request,
///   whichever is more; where it is too short there is no reply.
/// - [`expired`](Self::expired) is called when [`poll_timeout`](Self::poll_timeout) says so.
/// - `now.mono_ms` does not go back.
///
/// A packet from one client to another one's address in the same VPC is no special case: it goes
/// out to the VPC's table if routes and rules allow it, and comes back from there with rules of
/// direction `FromVpc`.
///
/// Fragments: the first one is judged with its ports, and later ones pass if it did, for 30
/// seconds, and do not reach into it; a later fragment that arrives before the first is dropped.
/// IPv4 packets without Don't Fragment that are too long are to be fragmented, all others answered.
#[derive(Debug)]
pub struct Dataplane {
    config: DataplaneConfig,
    tables: Arc<Tables>,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    by_session: HashMap<SessionId, u32, FixedState>,
    owners: Vec<Owner>,
    free_owners: Vec<u32>,
    by_attachment: HashMap<AttachmentId, u32, FixedState>,
    directory: Directory,
    flows: FlowTable,
    vpcs: Vec<Option<Box<VpcState>>>,
    strays: Counters,
    audit: AuditNotes,
    idle: idle::Scan,
}

/// What a shard keeps for one VPC.
#[derive(Debug)]
struct VpcState {
    counters: Counters,
    icmp: IcmpBuckets,
}

impl Dataplane {
    /// A shard without sessions. Takes the memory of the flow table here.
    #[must_use]
    pub fn new(config: DataplaneConfig, now: Now, tables: Arc<Tables>) -> Self {
        let mut dataplane = Self {
            config,
            tables: Arc::default(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            by_session: HashMap::default(),
            owners: Vec::new(),
            free_owners: Vec::new(),
            by_attachment: HashMap::default(),
            directory: HashMap::default(),
            flows: FlowTable::new(config.flow_entries, config.hash_seed),
            vpcs: Vec::new(),
            strays: Counters::default(),
            audit: AuditNotes::new(),
            idle: idle::Scan::default(),
        };
        dataplane.set_tables(now, tables);
        dataplane
    }

    /// Runs other tables from the next packet on. Costs the same whatever the number of flows: each
    /// flow is judged again by its next packet, and is cut if it is not allowed any more.
    pub fn set_tables(&mut self, now: Now, tables: Arc<Tables>) {
        let needed = tables
            .vpcs()
            .map(|vpc| vpc.index().0 as usize + 1)
            .max()
            .unwrap_or(0);
        self.vpcs.resize_with(needed.max(self.vpcs.len()), || None);
        for (index, state) in (0u32..).zip(&mut self.vpcs) {
            match (tables.vpc(VpcIndex(index)), &state) {
                (None, _) => *state = None,
                (Some(_), Some(_)) => {}
                (Some(_), None) => {
                    let icmp = IcmpBuckets::new(&self.config.vpc_icmp, now.mono_ms);
                    *state = Some(Box::new(VpcState {
                        counters: Counters::default(),
                        icmp,
                    }));
                }
            }
        }
        self.tables = tables;
    }

    /// Takes a session that this shard carries. `None` if the shard has as many as it may.
    ///
    /// `mtu_bytes` is the longest IP packet that its tunnel carries now; see
    /// [`set_mtu`](Self::set_mtu).
    #[must_use]
    pub fn attach(&mut self, now: Now, grant: &Grant, mtu_bytes: u16) -> Option<SlotId> {
        self.insert_slot(now, grant, mtu_bytes)
    }

    /// Takes note of a session that another shard carries. `Some` if it takes over from one of this
    /// shard: its flows follow it.
    pub fn attach_elsewhere(&mut self, grant: &Grant) -> Option<MovedFlows> {
        self.claim_elsewhere(grant)
    }

    /// Takes note of a grant that has changed, of this shard or another one.
    pub fn update(&mut self, now: Now, grant: &Grant) {
        self.update_grant(now, grant);
    }

    /// Gives up a session of this shard. `Some` if an older one of another shard carries the traffic
    /// again: the flows go back to it. Send them after that shard has been told to
    /// [`forget`](Self::forget) this session.
    pub fn detach(&mut self, slot: SlotId) -> Option<MovedFlows> {
        self.remove_slot(slot)
    }

    /// Gives up a session of another shard. `Some` as for [`detach`](Self::detach).
    pub fn forget(&mut self, attachment: AttachmentId, session: SessionId) -> Option<MovedFlows> {
        self.unclaim(attachment, session)
    }

    /// Sets the longest IP packet that a session's tunnel carries. Call it whenever the path or
    /// its MTU changes.
    pub fn set_mtu(&mut self, slot: SlotId, mtu_bytes: u16) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.mtu_bytes = mtu_bytes;
        }
    }

    /// Sets the longest IP packet that fits into the fabric: the underlay's MTU less the outer
    /// header. A client whose packet is longer is told so (Packet Too Big).
    pub fn set_fabric_mtu(&mut self, mtu_bytes: u16) {
        self.config.fabric_mtu_bytes = mtu_bytes;
    }

    /// The session in a slot.
    #[must_use]
    pub fn session(&self, slot: SlotId) -> Option<SessionId> {
        self.slot(slot).map(|slot| slot.session)
    }

    /// The slot of a session of this shard.
    #[must_use]
    pub fn slot_of(&self, session: SessionId) -> Option<SlotId> {
        let index = *self.by_session.get(&session)?;
        self.slots.get(index as usize).map(|slot| SlotId {
            index,
            generation: slot.generation,
        })
    }

    /// Whether a session carries its attachment's traffic.
    #[must_use]
    pub fn is_active(&self, slot: SlotId) -> bool {
        self.slot(slot).is_some_and(|slot| slot.active)
    }

    /// The counters of a session.
    #[must_use]
    pub fn counters(&self, slot: SlotId) -> Option<&Counters> {
        self.slot(slot).map(|slot| &slot.counters)
    }

    /// The counters of a VPC in this shard; those of sessions that ended are in it.
    #[must_use]
    pub fn vpc_counters(&self, vpc: VpcIndex) -> Option<&Counters> {
        self.vpcs
            .get(vpc.0 as usize)?
            .as_ref()
            .map(|vpc| &vpc.counters)
    }

    /// Counts a packet of [`VpcVerdict::HandOver`] that the other shard could not take.
    pub fn count_lost_hand_over(&mut self, vpc: VpcIndex) {
        let state = self.vpcs.get_mut(vpc.0 as usize).and_then(Option::as_mut);
        let counters = state.map_or(&mut self.strays, |state| &mut state.counters);
        counters.dropped_to_client[DropReason::HandOverFull.index()] += 1;
    }

    /// Drops of packets that belong to no session or VPC that the shard knows.
    #[must_use]
    pub fn stray_counters(&self) -> &Counters {
        &self.strays
    }

    /// How full the flow table is.
    #[must_use]
    pub fn flow_gauge(&self) -> FlowGauge {
        FlowGauge {
            flows: self.flows.len(),
            capacity: self.flows.capacity(),
            share: self.flows.share(),
        }
    }

    /// How many sessions this shard carries.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.by_session.len()
    }

    /// The tables that run.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    #[inline]
    fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots
            .get(id.index as usize)
            .filter(|slot| slot.holds(id.generation))
    }

    #[inline]
    fn slot_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.holds(id.generation))
    }
}
