//! Entries of ADDRESS_ASSIGN and ADDRESS_REQUEST (RFC 9484 §4.7.1, §4.7.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use ipnet::IpNet;
use masque_http3::varint;

use crate::CapsuleError;
use crate::capsule::Reader;

/// One prefix that the receiver may use as a source (RFC 9484 §4.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssignedAddress {
    /// The request this answers; 0 for an assignment nobody asked for.
    pub request_id: u64,
    /// The prefix; host bits are cleared when it is sent.
    pub prefix: IpNet,
}

/// One prefix that the sender asks for (RFC 9484 §4.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestedAddress {
    /// Never 0, never used twice on a request stream.
    pub request_id: u64,
    /// The wish: an all-zero address means any prefix of this length.
    pub prefix: IpNet,
}

impl AssignedAddress {
    /// An assignment nobody asked for.
    pub const fn unprompted(prefix: IpNet) -> Self {
        Self {
            request_id: 0,
            prefix,
        }
    }

    /// The refusal of `request`: "the IP Address SHALL be all-zero and the IP Prefix Length SHALL
    /// be the maximum length (0.0.0.0/32 or ::/128) to indicate that no address was assigned"
    /// (RFC 9484 §4.7.2).
    pub fn refusal(request: &RequestedAddress) -> Self {
        let unspecified = match request.prefix {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            request_id: request.request_id,
            prefix: IpNet::from(unspecified),
        }
    }

    /// Whether this says that no address was assigned.
    pub fn is_refusal(&self) -> bool {
        self.prefix.addr().is_unspecified()
            && self.prefix.prefix_len() == self.prefix.max_prefix_len()
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        encode_entry(self.request_id, &self.prefix, out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        let (request_id, prefix) = decode_entry(reader)?;
        Ok(Self { request_id, prefix })
    }
}

impl RequestedAddress {
    /// Whether any address of this prefix length will do.
    pub fn is_any(&self) -> bool {
        self.prefix.addr().is_unspecified()
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        encode_entry(self.request_id, &self.prefix, out);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        let (request_id, prefix) = decode_entry(reader)?;
        // RFC 9484 §4.7.2: "Request IDs MUST NOT be reused by an endpoint", nor be zero.
        if request_id == 0 {
            return Err(CapsuleError::RequestIdZero);
        }
        Ok(Self { request_id, prefix })
    }
}

fn encode_entry(request_id: u64, prefix: &IpNet, out: &mut impl BufMut) {
    varint::put(out, request_id);
    put_address(prefix.network(), out);
    out.put_u8(prefix.prefix_len());
}

fn decode_entry(reader: &mut Reader<'_>) -> Result<(u64, IpNet), CapsuleError> {
    let request_id = reader.varint()?;
    let version = reader.u8()?;
    let address = read_address(reader, version)?;
    let prefix_length = reader.u8()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let Ok(prefix) = IpNet::new(address, prefix_length) else {
        return Err(CapsuleError::PrefixLength { prefix_length, max });
    };
    // RFC 9484 §4.7.1: the bits that the prefix length does not cover MUST be zero.
    if prefix.network() != address {
        return Err(CapsuleError::HostBits {
            address,
            prefix_length,
        });
    }
    Ok((request_id, prefix))
}

/// Appends IP Version and IP Address.
pub(crate) fn put_address(address: IpAddr, out: &mut impl BufMut) {
    match address {
        IpAddr::V4(address) => {
            out.put_u8(4);
            out.put_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.put_u8(6);
            out.put_slice(&address.octets());
        }
    }
}

/// Reads an IP Address of the given IP Version.
pub(crate) fn read_address(reader: &mut Reader<'_>, version: u8) -> Result<IpAddr, CapsuleError> {
    match version {
        4 => Ok(IpAddr::from(reader.array::<4>()?)),
        6 => Ok(IpAddr::from(reader.array::<16>()?)),
        other => Err(CapsuleError::IpVersion(other)),
    }
}

#[cfg(test)]
mod tests;
