//! The outer source address of seg6 encapsulation (`ip sr tunsrc`), by generic netlink.
//!
//! The route attribute of the same name is accepted and ignored by kernels, so the address is one
//! for the network namespace. Setting it is one of the few things that the kernel allows only with
//! CAP_NET_ADMIN in the initial user namespace.

use std::{io, net::Ipv6Addr, sync::OnceLock};

use crate::{
    NetlinkError,
    socket::{Reply, RequestError, Socket, attribute},
};

/// `GENL_ID_CTRL`, the family that knows the others.
const CONTROLLER: u16 = 0x10;
const CONTROLLER_VERSION: u8 = 1;
const GET_FAMILY: u8 = 3;
const ATTRIBUTE_FAMILY_ID: u16 = 1;
const ATTRIBUTE_FAMILY_NAME: u16 = 2;

/// `SEG6_GENL_NAME` and its commands (linux/seg6_genl.h).
const SEG6_NAME: &[u8] = b"SEG6\0";
const SEG6_VERSION: u8 = 1;
const SET_TUNNEL_SOURCE: u8 = 3;
const GET_TUNNEL_SOURCE: u8 = 4;
/// `SEG6_ATTR_DST`: the address, despite its name.
const ATTRIBUTE_ADDRESS: u16 = 1;

/// Length of `struct genlmsghdr`.
const GENERIC_HEADER_BYTES: usize = 4;

/// The seg6 family of generic netlink; its number is asked for once.
#[derive(Debug)]
pub(crate) struct Seg6Family {
    socket: Socket,
    id: OnceLock<u16>,
}

impl Seg6Family {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(libc::NETLINK_GENERIC)?,
            id: OnceLock::new(),
        })
    }

    /// The outer source address; `None` if the kernel chooses it per packet, or has no seg6, or does
    /// not tell an ordinary user.
    pub(crate) fn tunnel_source(&self) -> Option<Ipv6Addr> {
        let id = self.id().ok()?;
        let body = message(GET_TUNNEL_SOURCE, SEG6_VERSION, 0, &[]);
        let replies = self.socket.request(id, 0, &body).ok()?;
        let octets: [u8; 16] = reply_attribute(&replies, ATTRIBUTE_ADDRESS)?
            .try_into()
            .ok()?;
        Some(Ipv6Addr::from(octets)).filter(|address| !address.is_unspecified())
    }

    /// Sets the outer source address; `None` lets the kernel choose again.
    pub(crate) fn set_tunnel_source(&self, source: Option<Ipv6Addr>) -> Result<(), NetlinkError> {
        let address = source.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let body = message(
            SET_TUNNEL_SOURCE,
            SEG6_VERSION,
            ATTRIBUTE_ADDRESS,
            &address.octets(),
        );
        self.id()
            .and_then(|id| self.socket.request(id, 0, &body))
            .map_err(|error| {
                // The family is unknown to kernels without seg6.
                let error = match error {
                    RequestError::Refused {
                        errno: libc::ENOENT,
                        message,
                    } => RequestError::Refused {
                        errno: libc::EOPNOTSUPP,
                        message,
                    },
                    other => other,
                };
                NetlinkError::from_request(error, "CONFIG_IPV6_SEG6_LWTUNNEL", || {
                    format!(
                        "setting the outer source address {address}, outside of user namespaces,"
                    )
                })
            })?;
        Ok(())
    }

    fn id(&self) -> Result<u16, RequestError> {
        if let Some(id) = self.id.get() {
            return Ok(*id);
        }
        let body = message(
            GET_FAMILY,
            CONTROLLER_VERSION,
            ATTRIBUTE_FAMILY_NAME,
            SEG6_NAME,
        );
        let replies = self.socket.request(CONTROLLER, 0, &body)?;
        let id = reply_attribute(&replies, ATTRIBUTE_FAMILY_ID)
            .and_then(|value| value.try_into().ok())
            .map(u16::from_ne_bytes)
            .ok_or_else(|| RequestError::Broken("the SEG6 family has no number".into()))?;
        Ok(*self.id.get_or_init(|| id))
    }
}

/// A generic netlink message with at most one attribute (none if `value` is empty).
fn message(command: u8, version: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let mut body = vec![command, version, 0, 0];
    if !value.is_empty() {
        body.extend((4 + value.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body
}

fn reply_attribute(replies: &[Reply], kind: u16) -> Option<&[u8]> {
    replies
        .iter()
        .find_map(|reply| attribute(reply.body.get(GENERIC_HEADER_BYTES..)?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_kernels() {
        let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let bytes = message(
            SET_TUNNEL_SOURCE,
            SEG6_VERSION,
            ATTRIBUTE_ADDRESS,
            &source.octets(),
        );
        let expected: [u8; 24] = [
            3, 1, 0, 0, // SEG6_CMD_SET_TUNSRC, version
            20, 0, 1, 0, // length, SEG6_ATTR_DST
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(bytes, expected);
        }
        let name = message(
            GET_FAMILY,
            CONTROLLER_VERSION,
            ATTRIBUTE_FAMILY_NAME,
            SEG6_NAME,
        );
        assert_eq!(name.len(), 4 + 12, "padded to four bytes");
    }
}
