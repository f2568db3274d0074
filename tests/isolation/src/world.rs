//! The gateway and the model side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use masque_gateway_core::{
    AdmitRequest, AttachmentId, ClientVerdict, Dataplane, DataplaneConfig, EndReason, Grant,
    MovedFlows, Now, Registry, RegistryConfig, Released, Scope, SessionId, SlotId, VpcIndex,
    VpcVerdict,
};
use masque_model::{Direction, Snapshot};
use masque_packet::segment::GsoInfo;

use crate::generate::{self, Probe, UNIX_S, edit, probe, snapshot, vpc_name};
use crate::model::{Model, Open};
use crate::random::Random;

const VPCS: usize = 3;
const SHARDS: u16 = 2;
const MTU: u16 = 1_400;

/// How many of the last sessions may send although they do not carry traffic.
const RECENT: usize = 40;

/// What happened, so that a test can see that it tested something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Packets that were judged.
    pub packets: u64,
    /// Packets of clients that went into their VPC.
    pub forwarded: u64,
    /// Packets of a VPC that reached a client.
    pub delivered: u64,
    /// Packets that another shard had to judge.
    pub handed_over: u64,
    /// Attachments with flows that another shard took over.
    pub moves: u64,
    /// Packets that went nowhere.
    pub refused: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Snapshots that were edited.
    pub edits: u64,
}

/// A gateway of two shards with three VPCs, and its model.
#[derive(Debug)]
pub struct World {
    random: Random,
    registry: Registry,
    planes: Vec<Dataplane>,
    model: Model,
    /// Every session's place, also after its end.
    slots: Vec<(u64, u16, SlotId)>,
    /// What the packet half calls the attachment of every session.
    attachments: BTreeMap<SessionId, AttachmentId>,
    indexes: Vec<VpcIndex>,
    keys: u64,
    reply: Vec<u8>,
    tally: Tally,
}

/// Time stands still: no flow ends by itself.
const NOW: Now = Now {
    mono_ms: 5_000,
    unix_s: UNIX_S,
};

impl World {
    /// The world of a seed.
    ///
    /// # Panics
    /// If the gateway does not run its Snapshots.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let snapshots: Vec<Snapshot> = (0..VPCS).map(|vpc| snapshot(&mut random, vpc)).collect();
        let mut registry = Registry::new(RegistryConfig::default());
        let changes = registry.apply(NOW, snapshots.iter().cloned().map(Arc::new).collect());
        assert!(changes.refused.is_empty(), "{:?}", changes.refused);
        let planes = (0..SHARDS).map(|shard| {
            let config = DataplaneConfig {
                shard,
                hash_seed: seed,
                ..DataplaneConfig::default()
            };
            Dataplane::new(config, NOW, changes.tables.clone())
        });
        let indexes = (0..VPCS).map(|vpc| {
            let found = changes.tables.find(&vpc_name(vpc));
            found
                .unwrap_or_else(|| panic!("VPC {vpc} does not run"))
                .index()
        });
        Self {
            random,
            planes: planes.collect(),
            model: Model::new(snapshots),
            slots: Vec::new(),
            attachments: BTreeMap::new(),
            indexes: indexes.collect(),
            keys: 1_000,
            reply: vec![0; 2_048],
            tally: Tally::default(),
            registry,
        }
    }

    /// Lets `steps` things happen and compares each with the model.
    ///
    /// # Panics
    /// If the gateway does something that the model does not.
    pub fn run(&mut self, steps: u64) -> Tally {
        for _ in 0..steps {
            match self.random.below(1_000) {
                0..=1 => self.edit(),
                2..=6 => self.open(),
                7..=8 => self.close(),
                n if n % 2 == 0 => self.up(),
                _ => self.down(),
            }
        }
        self.tally
    }

    fn up(&mut self) {
        // Also sessions that ended: their slots must find nothing.
        let Some((number, shard, slot)) = self.a_session() else {
            return;
        };
        let vpc = self
            .model
            .open
            .iter()
            .find(|open| open.number == number)
            .map(|open| open.vpc);
        let (ours, clients) = self.addresses(number, vpc.unwrap_or(0));
        let probe = probe(&mut self.random, &ours, &clients, Direction::ToVpc);
        let Some(mut packet) = probe.bytes() else {
            return;
        };
        let expected = self.model.goes_up(number, &probe);
        let plane = &mut self.planes[usize::from(shard)];
        let verdict = plane.from_client(NOW, slot, &mut packet, &mut self.reply);
        self.tally.packets += 1;
        let forwarded = match verdict {
            ClientVerdict::Forward { vpc: index, .. } => {
                self.tally.forwarded += 1;
                let own = vpc.map(|vpc| self.indexes[vpc]);
                assert_eq!(
                    Some(index),
                    own,
                    "session {number} reached another VPC: {probe:?}"
                );
                true
            }
            ClientVerdict::Reply { .. } | ClientVerdict::Drop(_) => {
                self.tally.refused += 1;
                false
            }
        };
        assert_eq!(
            forwarded, expected,
            "session {number}: {probe:?} {verdict:?}"
        );
    }

    fn down(&mut self) {
        let vpc = self.random.below(VPCS);
        let in_vpc: Vec<u64> = self
            .model
            .open
            .iter()
            .filter(|o| o.vpc == vpc)
            .map(|o| o.number)
            .collect();
        let number = if in_vpc.is_empty() {
            0
        } else {
            *self.random.pick(&in_vpc)
        };
        let (ours, clients) = self.addresses(number, vpc);
        let probe = probe(&mut self.random, &ours, &clients, Direction::FromVpc);
        let Some(mut packet) = probe.bytes() else {
            return;
        };
        let shard = self.random.below(usize::from(SHARDS));
        let expected_shard = self.expected_shard(vpc, &probe, shard);
        let expected = self.model.goes_down(vpc, &probe);
        let (index, gso) = (self.indexes[vpc], GsoInfo::default());
        let plane = &mut self.planes[shard];
        let mut verdict = plane.from_vpc(NOW, index, &mut packet, &gso, &mut self.reply);
        self.tally.packets += 1;
        let mut judge = shard;
        if let VpcVerdict::HandOver { shard: other } = verdict {
            self.tally.handed_over += 1;
            judge = usize::from(other);
            let plane = &mut self.planes[judge];
            verdict = plane.from_vpc_handed_over(NOW, index, &mut packet, &gso, &mut self.reply);
        }
        assert_eq!(judge, expected_shard, "{probe:?}");
        let delivered = match verdict {
            VpcVerdict::ToSession { slot, .. } => {
                self.tally.delivered += 1;
                let session = self.planes[judge].session(slot);
                Some(
                    session
                        .unwrap_or_else(|| panic!("a slot without session: {probe:?}"))
                        .0,
                )
            }
            VpcVerdict::HandOver { .. } => panic!("handed over twice: {probe:?}"),
            VpcVerdict::Reply { .. } | VpcVerdict::Drop(_) => {
                self.tally.refused += 1;
                None
            }
        };
        assert_eq!(delivered, expected, "VPC {vpc}: {probe:?} {verdict:?}");
    }

    /// The shard that judges a packet from a VPC which arrives at `shard`.
    fn expected_shard(&self, vpc: usize, probe: &Probe, shard: usize) -> usize {
        let carrier = self.model.carrier(vpc, probe.receiver());
        match carrier.filter(|_| self.model.may_come_down(vpc, probe)) {
            Some(open) => usize::from(open.shard),
            None => shard,
        }
    }

    /// The addresses of a session, and those of all clients of a VPC.
    fn addresses(&self, number: u64, vpc: usize) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let ours = self.model.open.iter().find(|open| open.number == number);
        let ours = ours.map(|open| open.addresses.clone()).unwrap_or_default();
        let clients = self.model.open.iter().filter(|open| open.vpc == vpc);
        (
            ours,
            clients
                .flat_map(|open| open.addresses.iter().copied())
                .collect(),
        )
    }

    /// Mostly a session that carries traffic; else one that another replaced, or that ended.
    fn a_session(&mut self) -> Option<(u64, u16, SlotId)> {
        if !self.model.open.is_empty() && !self.random.one_in(5) {
            let open = self.random.pick(&self.model.open);
            let (vpc, address) = (open.vpc, open.addresses[0]);
            let number = self.model.carrier(vpc, address)?.number;
            return self
                .slots
                .iter()
                .rev()
                .find(|(other, ..)| *other == number)
                .copied();
        }
        let recent = self.slots.len().min(RECENT);
        let place = self.slots.len() - recent + self.random.below(recent);
        self.slots.get(place).copied()
    }

    fn open(&mut self) {
        let vpc = self.random.below(VPCS);
        let place = self.random.below(generate::ATTACHMENTS);
        let attachment = self.model.snapshots[vpc].attachments[place].clone();
        let shard = u16::try_from(self.random.below(usize::from(SHARDS))).unwrap_or(0);
        let (name, scope) = (vpc_name(vpc), Scope::default());
        let request = AdmitRequest {
            key: attachment.key,
            vpc: Some(&name),
            listener: None,
            scope: &scope,
            shard,
            ipv4: true,
            ipv6: true,
        };
        let Ok(admitted) = self.registry.admit(NOW, &request) else {
            assert!(attachment.suspended, "{attachment:?} was refused");
            return;
        };
        assert!(!attachment.suspended, "{attachment:?} was admitted");
        self.tally.sessions += 1;
        let grant = admitted.grant;
        assert_eq!(grant.index, self.indexes[vpc]);
        self.attachments.insert(grant.session, grant.attachment);
        self.attach(&grant);
        let open = Open {
            number: grant.session.0,
            vpc,
            attachment: attachment.name,
            key: attachment.key,
            shard,
            addresses: grant.client_addresses().collect(),
        };
        for other in &self.model.open {
            let shared = other
                .addresses
                .iter()
                .any(|address| open.addresses.contains(address));
            let same = other.attachment == open.attachment && other.key == open.key;
            assert!(
                other.vpc != vpc || same || !shared,
                "{other:?} and {open:?} share an address"
            );
        }
        self.model.open.push(open);
        for ended in admitted.ended {
            self.end(ended.session.session);
        }
    }

    fn attach(&mut self, grant: &Grant) {
        let mut moved = Vec::new();
        for (shard, plane) in (0..).zip(&mut self.planes) {
            if shard == grant.shard {
                let slot = plane.attach(NOW, grant, MTU);
                let slot = slot.unwrap_or_else(|| panic!("no room for {grant:?}"));
                self.slots.push((grant.session.0, shard, slot));
            } else {
                moved.extend(plane.attach_elsewhere(grant));
            }
        }
        self.accept(moved);
    }

    /// Flows arrive where their attachment's newest session is.
    fn accept(&mut self, moved: Vec<MovedFlows>) {
        for flows in moved {
            self.tally.moves += 1;
            let onwards = self.planes[usize::from(flows.shard())].accept_flows(NOW, flows);
            assert!(onwards.is_none(), "every shard knows where it is");
        }
    }

    fn close(&mut self) {
        if self.model.open.is_empty() {
            return;
        }
        let place = self.random.below(self.model.open.len());
        let session = SessionId(self.model.open[place].number);
        let released = self.registry.release(NOW, session, EndReason::ClientClosed);
        let Some(Released { ended, .. }) = released else {
            panic!("{session} is open in the model only");
        };
        self.end(ended.session.session);
    }

    /// Carries out the end of a session on every shard.
    fn end(&mut self, session: SessionId) {
        let open = self
            .model
            .open
            .iter()
            .find(|open| open.number == session.0)
            .cloned();
        let open = open.unwrap_or_else(|| panic!("{session} ended twice"));
        let attachment = self.attachments[&session];
        let mut moved = Vec::new();
        for (shard, plane) in (0..).zip(&mut self.planes) {
            match plane.slot_of(session) {
                Some(slot) => {
                    assert_eq!(shard, open.shard);
                    moved.extend(plane.detach(slot));
                }
                None => moved.extend(plane.forget(attachment, session)),
            }
        }
        self.accept(moved);
        self.model.close(session.0);
    }

    fn edit(&mut self) {
        self.tally.edits += 1;
        let vpc = self.random.below(VPCS);
        edit(
            &mut self.random,
            &mut self.model.snapshots[vpc],
            &mut self.keys,
        );
        let snapshots = self.model.snapshots.iter().cloned().map(Arc::new).collect();
        let changes = self.registry.apply(NOW, snapshots);
        assert!(
            changes.refused.is_empty() && changes.conflicts.is_empty(),
            "{changes:?}"
        );
        for plane in &mut self.planes {
            plane.set_tables(NOW, changes.tables.clone());
            for grant in &changes.updated {
                plane.update(NOW, grant);
            }
        }
        let ended: BTreeSet<u64> = changes.ended.iter().map(|e| e.session.session.0).collect();
        assert_eq!(ended, self.must_end(), "{:?}", changes.ended);
        for number in ended {
            self.end(SessionId(number));
        }
    }

    /// The sessions whose attachment the Snapshots do not have any more, or have suspended.
    fn must_end(&self) -> BTreeSet<u64> {
        let gone = self.model.open.iter().filter(|open| {
            !self.model.snapshots[open.vpc]
                .attachments
                .iter()
                .any(|attachment| {
                    attachment.name == open.attachment
                        && attachment.key == open.key
                        && !attachment.suspended
                })
        });
        gone.map(|open| open.number).collect()
    }
}
