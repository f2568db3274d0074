//! Fragmentation of an IPv4 packet on its way. RFC 1812 §4.2.2.7: "Fragmentation, as described in
//! [RFC 791], MUST be supported by a router."

use crate::bytes::{read_u16, write_u16};
use crate::checksum::checksum;
use crate::ip::{self, IPV4_HEADER_BYTES, IpVersion, PacketError};

/// Longest IPv4 header, in bytes: its length field has four bits, in units of four bytes.
const MAX_HEADER_BYTES: usize = 60;

/// Unit of the fragment offset, in bytes (RFC 791 §3.1).
const UNIT_BYTES: usize = 8;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Why a packet cannot be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FragmentError {
    /// It is no valid IP packet.
    #[error("the packet is not valid: {0}")]
    Packet(#[from] PacketError),
    /// Its sender forbids it: the Don't Fragment flag, or IPv6 (RFC 8200 §5).
    #[error("the packet must not be fragmented; tell its sender the MTU")]
    Forbidden,
    /// The MTU has no room for eight bytes behind the header.
    #[error("the MTU has no room for a fragment; it must be 68 bytes at least (RFC 791)")]
    NoRoom,
    /// It is a fragment that ends beyond the longest IPv4 packet.
    #[error("the fragment ends beyond 65535 bytes; drop it")]
    TooFar,
}

/// Whether a router may fragment a packet: IPv4 without Don't Fragment.
#[must_use]
pub fn may_be_fragmented(packet: &[u8]) -> bool {
    packet.first().is_some_and(|byte| byte >> 4 == 4)
        && read_u16(packet, 6).is_some_and(|field| field & DONT_FRAGMENT == 0)
}

/// The fragments of one packet, written one by one. Made by [`fragments`].
#[derive(Debug)]
pub struct Fragments<'a> {
    /// Of the first fragment: with all options.
    header: &'a [u8],
    /// Of the others: with the options that are copied.
    later: LaterHeader,
    data: &'a [u8],
    /// Data that is written already; a multiple of [`UNIT_BYTES`] until the last one.
    done_bytes: usize,
    count: usize,
    next: usize,
    mtu_bytes: usize,
}

/// Fragments `packet`, which fills the slice and whose checksums are complete, so that none of them
/// is longer than `mtu_bytes`. A packet that is not longer comes out as it is.
///
/// A fragment is fragmented again (RFC 791 §3.2): offsets count on from its own, and its More
/// Fragments flag goes to the last one.
///
/// # Errors
/// Why it cannot be; nothing of it can be sent.
pub fn fragments(packet: &[u8], mtu_bytes: usize) -> Result<Fragments<'_>, FragmentError> {
    let described = ip::parse(packet)?;
    let (header, data) = packet
        .split_at_checked(described.header_bytes)
        .ok_or(PacketError::TooShort)?;
    let later = LaterHeader::of(header);
    let mut fragments = Fragments {
        header,
        later,
        data,
        done_bytes: 0,
        count: 1,
        next: 0,
        mtu_bytes,
    };
    if packet.len() <= mtu_bytes {
        return Ok(fragments);
    }
    if described.version == IpVersion::V6 || !may_be_fragmented(packet) {
        return Err(FragmentError::Forbidden);
    }
    if header.len() + UNIT_BYTES > mtu_bytes {
        return Err(FragmentError::NoRoom);
    }
    let offset_bytes = usize::from(fragments.field() & OFFSET) * UNIT_BYTES;
    if offset_bytes + data.len() + IPV4_HEADER_BYTES > usize::from(u16::MAX) {
        return Err(FragmentError::TooFar);
    }
    let whole_units = |room: usize| room / UNIT_BYTES * UNIT_BYTES;
    // More than the first takes, or the packet would fit.
    let rest = data.len() - whole_units(mtu_bytes - header.len());
    let room = mtu_bytes - fragments.later.bytes().len();
    fragments.count += 1 + rest.saturating_sub(room).div_ceil(whole_units(room));
    Ok(fragments)
}

impl Fragments<'_> {
    /// How many fragments there are in all; one for a packet that fits.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many fragments [`write_next`](Self::write_next) has yet to write.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// Length of the fragment that [`write_next`](Self::write_next) writes next, in bytes; `None`
    /// after the last one.
    #[must_use]
    pub fn next_packet_bytes(&self) -> Option<usize> {
        (self.next < self.count).then(|| self.next_header().len() + self.next_data_bytes())
    }

    /// Writes the next fragment, complete with its header checksum, to the start of `out` and
    /// returns its length in bytes.
    ///
    /// `None` after the last one. `None` too if `out` is shorter than the fragment, which then is
    /// still the next one; [`remaining`](Self::remaining) tells the two apart.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let total_bytes = self.next_packet_bytes()?;
        let header = self.next_header();
        let (header_out, data_out) = out
            .get_mut(..total_bytes)?
            .split_at_mut_checked(header.len())?;
        header_out.copy_from_slice(header);
        let end = self.done_bytes + data_out.len();
        data_out.copy_from_slice(self.data.get(self.done_bytes..end)?);
        if self.count > 1 {
            self.write_place(header_out, total_bytes)?;
        }
        self.done_bytes = end;
        self.next += 1;
        Some(total_bytes)
    }

    /// Total length, flags and offset, and the checksum over them (RFC 791 §3.2).
    fn write_place(&self, header: &mut [u8], total_bytes: usize) -> Option<()> {
        let units = u16::try_from(self.done_bytes / UNIT_BYTES).ok()?;
        let more = if self.next + 1 == self.count {
            0
        } else {
            MORE_FRAGMENTS
        };
        // `fragments` made sure that the offset stays within its field.
        write_u16(header, 6, (self.field() + units) | more);
        write_u16(header, 2, u16::try_from(total_bytes).ok()?);
        write_u16(header, 10, 0);
        let sum = checksum(header);
        write_u16(header, 10, sum);
        Some(())
    }

    /// Flags and offset of the packet.
    fn field(&self) -> u16 {
        read_u16(self.header, 6).unwrap_or_default()
    }

    fn next_header(&self) -> &[u8] {
        if self.next == 0 {
            self.header
        } else {
            self.later.bytes()
        }
    }

    fn next_data_bytes(&self) -> usize {
        let rest = self.data.len().saturating_sub(self.done_bytes);
        if self.next + 1 == self.count {
            return rest;
        }
        let room = self.mtu_bytes.saturating_sub(self.next_header().len());
        room / UNIT_BYTES * UNIT_BYTES
    }
}

/// The header of all fragments but the first.
#[derive(Debug)]
struct LaterHeader {
    buffer: [u8; MAX_HEADER_BYTES],
    length: usize,
}

impl LaterHeader {
    /// Takes over the fixed header and the options with the copied flag (RFC 791 §3.1), padded with
    /// End of Option List. What is behind an option that contradicts its length is not taken.
    fn of(header: &[u8]) -> Self {
        let mut later = Self {
            buffer: [0; MAX_HEADER_BYTES],
            length: 0,
        };
        let (fixed, options) = header
            .split_at_checked(IPV4_HEADER_BYTES)
            .unwrap_or((header, &[]));
        later.push(fixed);
        let mut rest = options;
        // Each turn moves on by at least one byte of at most 40.
        while let Some(option) = next_option(rest) {
            if option.first().is_some_and(|kind| kind & COPIED != 0) {
                later.push(option);
            }
            rest = rest.get(option.len()..).unwrap_or_default();
        }
        later.length = later.length.next_multiple_of(4);
        if let ([first, ..], Ok(words)) = (&mut later.buffer, u8::try_from(later.length / 4)) {
            *first = *first & 0xf0 | words;
        }
        later
    }

    fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        if let Some(room) = self.buffer.get_mut(self.length..end) {
            room.copy_from_slice(part);
            self.length = end;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

/// The bit of an option's type that says it is copied into all fragments.
const COPIED: u8 = 0x80;
const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The first option of a list, `None` at its end.
fn next_option(options: &[u8]) -> Option<&[u8]> {
    match (options.first()?, options.get(1)) {
        (&END_OF_LIST, _) => None,
        (&NO_OPERATION, _) => options.get(..1),
        (_, Some(&length)) if length >= 2 => options.get(..usize::from(length)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
