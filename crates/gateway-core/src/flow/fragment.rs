//! Which later fragments belong to first fragments that passed.

use std::net::IpAddr;

use masque_model::Direction;
use masque_packet::ip::{Fragment, IPV6_HEADER_BYTES, IpHeader, IpVersion};
use masque_packet::protocol;

/// First fragments that one attachment may have under way. A sender sends the fragments of a
/// packet in one go, so a few suffice.
pub(crate) const FRAGMENTS_PER_OWNER: usize = 16;

/// How long later fragments may follow: half of the reassembly time of RFC 8200 §4.5.
pub(crate) const FRAGMENT_MS: u64 = 30_000;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentId {
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// Part of the identity in IPv4 only: RFC 791 §3.2, RFC 8200 §4.5.
    protocol: u8,
}

impl FragmentId {
    /// The identity of a fragment; `None` if it has none that can be read.
    pub(crate) fn of(direction: Direction, header: &IpHeader, packet: &[u8]) -> Option<Self> {
        let (identification, protocol) = match header.version {
            IpVersion::V4 => {
                let field: &[u8; 2] = packet.get(4..)?.first_chunk()?;
                (u16::from_be_bytes(*field).into(), header.protocol)
            }
            IpVersion::V6 => (v6_identification(header, packet)?, 0),
        };
        let (source, destination) = (header.source, header.destination);
        Some(Self {
            direction,
            source,
            destination,
            identification,
            protocol,
        })
    }
}

/// The last first fragments of one attachment. One attachment cannot push out another's.
#[derive(Debug, Default)]
pub(crate) struct FragmentRing {
    entries: [Option<(FragmentId, u64)>; FRAGMENTS_PER_OWNER],
    next: usize,
    /// The epoch of the tables and the generation of the owner that let the first fragments pass.
    judged_by: (u64, u32),
}

impl FragmentRing {
    /// Forgets all that other tables, or another session, let pass: an edit cuts fragments too.
    pub(crate) fn renew(&mut self, epoch: u64, generation: u32) {
        if self.judged_by != (epoch, generation) {
            *self = Self {
                judged_by: (epoch, generation),
                ..Self::default()
            };
        }
    }

    /// Later fragments of `id` may pass.
    pub(crate) fn allow(&mut self, now_ms: u64, id: FragmentId) {
        if let Some(place) = self.entries.get_mut(self.next) {
            *place = Some((id, now_ms.saturating_add(FRAGMENT_MS)));
        }
        self.next = (self.next + 1) % FRAGMENTS_PER_OWNER;
    }

    /// Whether later fragments of `id` may pass.
    pub(crate) fn allows(&self, now_ms: u64, id: &FragmentId) -> bool {
        self.entries
            .iter()
            .flatten()
            .any(|(other, until_ms)| other == id && now_ms < *until_ms)
    }
}

/// The Identification of the Fragment header (RFC 8200 §4.5).
fn v6_identification(header: &IpHeader, packet: &[u8]) -> Option<u32> {
    if header.fragment == Fragment::Later {
        // The walk of the chain ends behind the Fragment header.
        return identification_at(packet, header.upper_offset.checked_sub(8)?);
    }
    let mut kind = *packet.get(6)?;
    let mut at = IPV6_HEADER_BYTES;
    // `parse` has walked this chain: it ends, and every header is at least 8 bytes long.
    while at < header.upper_offset {
        if kind == protocol::FRAGMENT {
            return identification_at(packet, at);
        }
        let length_field = usize::from(*packet.get(at + 1)?);
        let length_bytes = match kind {
            protocol::AUTHENTICATION => ((length_field + 2) * 4).max(8),
            _ => (length_field + 1) * 8,
        };
        kind = *packet.get(at)?;
        at += length_bytes;
    }
    None
}

fn identification_at(packet: &[u8], at: usize) -> Option<u32> {
    packet
        .get(at + 4..)?
        .first_chunk()
        .map(|field| u32::from_be_bytes(*field))
}
