//! Which later fragments belong to first fragments that passed.

use std::net::IpAddr;

use masque_model::Direction;
use masque_packet::ip::{IPV6_HEADER_BYTES, IpHeader, IpVersion};
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

/// One fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) id: FragmentId,
    /// Where its data begins in the data of the whole packet.
    pub(crate) start_bytes: usize,
    /// Where its data ends.
    pub(crate) end_bytes: usize,
}

impl Piece {
    /// What a fragment is a part of; `None` if that cannot be read, or if it is the fragment of a
    /// fragment: that has no one identity.
    pub(crate) fn of(direction: Direction, header: &IpHeader, packet: &[u8]) -> Option<Self> {
        let (field, data_offset, identification, protocol) = match header.version {
            IpVersion::V4 => {
                let identification = word_at(packet, 4)?.into();
                // The fragment offset has the same units as in IPv6, but three bits lower.
                let field = word_at(packet, 6)? << 3;
                (field, header.header_bytes, identification, header.protocol)
            }
            IpVersion::V6 => {
                let at = v6_fragment_header(header, packet)?;
                let identification =
                    u32::from(word_at(packet, at + 4)?) << 16 | u32::from(word_at(packet, at + 6)?);
                (word_at(packet, at + 2)?, at + 8, identification, 0)
            }
        };
        let start_bytes = usize::from(field & !7);
        Some(Self {
            id: FragmentId {
                direction,
                source: header.source,
                destination: header.destination,
                identification,
                protocol,
            },
            start_bytes,
            end_bytes: start_bytes + header.total_bytes.saturating_sub(data_offset),
        })
    }
}

/// A first fragment that passed.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    id: FragmentId,
    until_ms: u64,
    /// Where the data of later fragments may begin.
    end_bytes: usize,
}

/// What the ring says of a later fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// It may pass.
    Yes,
    /// It would overwrite a part of the first fragment, and with it headers that were judged. RFC
    /// 5722 §4 forbids receivers to put such datagrams together; not all obey. RFC 3128 is about
    /// filters and IPv4.
    Overlaps,
    /// Its first fragment did not pass, or too long ago.
    Nothing,
}

/// The last first fragments of one attachment. One attachment cannot push out another's.
#[derive(Debug, Default)]
pub(crate) struct FragmentRing {
    entries: [Option<Allowed>; FRAGMENTS_PER_OWNER],
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

    /// Later fragments may pass behind a first one. Of several first ones with one identity the
    /// longest counts: no shorter one opens the way into its headers.
    pub(crate) fn allow(&mut self, now_ms: u64, first: &Piece) {
        let former = self.find(now_ms, &first.id).map_or(0, |it| it.end_bytes);
        if let Some(place) = self.entries.get_mut(self.next) {
            *place = Some(Allowed {
                id: first.id,
                until_ms: now_ms.saturating_add(FRAGMENT_MS),
                end_bytes: first.end_bytes.max(former),
            });
        }
        self.next = (self.next + 1) % FRAGMENTS_PER_OWNER;
    }

    /// Whether a later fragment may pass.
    pub(crate) fn follows(&self, now_ms: u64, later: &Piece) -> Follows {
        match self.find(now_ms, &later.id) {
            None => Follows::Nothing,
            Some(first) if later.start_bytes < first.end_bytes => Follows::Overlaps,
            Some(_) => Follows::Yes,
        }
    }

    /// The first fragment with an identity; of several the one that reaches furthest.
    fn find(&self, now_ms: u64, id: &FragmentId) -> Option<&Allowed> {
        self.entries
            .iter()
            .flatten()
            .filter(|first| first.id == *id && now_ms < first.until_ms)
            .max_by_key(|first| first.end_bytes)
    }
}

/// Where the one Fragment header of a packet is (RFC 8200 §4.5).
fn v6_fragment_header(header: &IpHeader, packet: &[u8]) -> Option<usize> {
    let mut kind = *packet.get(6)?;
    let mut at = IPV6_HEADER_BYTES;
    let mut found = None;
    // `parse` has walked this chain: it ends, and every header is at least 8 bytes long.
    while at < header.upper_offset {
        let length_field = usize::from(*packet.get(at + 1)?);
        let length_bytes = match kind {
            protocol::FRAGMENT if found.is_some() => return None,
            protocol::FRAGMENT => {
                found = Some(at);
                8
            }
            protocol::AUTHENTICATION => ((length_field + 2) * 4).max(8),
            _ => (length_field + 1) * 8,
        };
        kind = *packet.get(at)?;
        at += length_bytes;
    }
    found
}

fn word_at(packet: &[u8], at: usize) -> Option<u16> {
    packet
        .get(at..)?
        .first_chunk()
        .map(|field| u16::from_be_bytes(*field))
}
