//! The fabric's SID layout ("uFMT 48+16"): a 48-bit Block, a 16-bit Node-ID, a 4-bit Function, a
//! 12-bit Argument and 48 zero bits, read at fixed offsets and never shifted (RFC 9800
//! REPLACE-CSID style).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use masque_model::Sid;

/// Length of a Block, the locator prefix of one point of presence.
pub const BLOCK_BITS: u8 = 48;
/// Largest Node-ID; 0xE000 and above would be read as functions by a shifting uSID node.
pub const NODE_MAX: u16 = 0xdfff;
/// Largest Argument, the number of a VPC on one node.
pub const ARGUMENT_MAX: u16 = 0x0fff;
/// Decapsulate and look the inner packet up in the VPC, both families (RFC 8986 §4.8).
pub const FUNCTION_END_DT46: u8 = 0xe;
/// Layer 2; reserved by the fabric, dropped by its nodes.
pub const FUNCTION_END_DT2: u8 = 0xf;

const NODE_SHIFT: u32 = 64;
const FUNCTION_SHIFT: u32 = 60;
const ARGUMENT_SHIFT: u32 = 48;
const FUNCTION_MAX: u8 = 0xf;

/// The parts of one SID of the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Usid {
    block: Ipv6Net,
    node: u16,
    function: u8,
    argument: u16,
}

/// Why a SID cannot be built or is none of the fabric's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsidError {
    /// The Block is not a /48.
    #[error("the locator {0} is not a /48: the fabric's Block has exactly 48 bits")]
    Block(Ipv6Net),
    /// Node-ID 0 is reserved, and so are the ones that look like a function.
    #[error("node id {0:#06x} is outside 0x0001..=0xdfff")]
    Node(u16),
    /// More than four bits.
    #[error("function {0:#x} does not fit 4 bits")]
    Function(u8),
    /// More than twelve bits.
    #[error("argument {0:#x} does not fit 12 bits (the VRF id must be below 4096)")]
    Argument(u16),
    /// The last 48 bits of a SID are zero.
    #[error("{0} is no SID of the fabric: its last 48 bits are not zero")]
    Tail(Ipv6Addr),
}

impl Usid {
    /// A SID from its parts. Argument 0 is the node itself by convention and belongs to no VPC.
    ///
    /// # Errors
    /// A part that does not fit its bits, see [`UsidError`].
    pub fn new(block: Ipv6Net, node: u16, function: u8, argument: u16) -> Result<Self, UsidError> {
        if block.prefix_len() != BLOCK_BITS {
            return Err(UsidError::Block(block));
        }
        if node == 0 || node > NODE_MAX {
            return Err(UsidError::Node(node));
        }
        if function > FUNCTION_MAX {
            return Err(UsidError::Function(function));
        }
        if argument > ARGUMENT_MAX {
            return Err(UsidError::Argument(argument));
        }
        Ok(Self {
            block: block.trunc(),
            node,
            function,
            argument,
        })
    }

    /// Reads the parts of a SID.
    ///
    /// # Errors
    /// [`UsidError::Tail`] or [`UsidError::Node`] for an address that is no SID of the fabric.
    pub fn decode(sid: Sid) -> Result<Self, UsidError> {
        let bits = u128::from(sid.0);
        if bits & ((1 << ARGUMENT_SHIFT) - 1) != 0 {
            return Err(UsidError::Tail(sid.0));
        }
        let node = (bits >> NODE_SHIFT) as u16;
        if node == 0 || node > NODE_MAX {
            return Err(UsidError::Node(node));
        }
        let block = Ipv6Net::new_assert(sid.0, BLOCK_BITS).trunc();
        let function = (bits >> FUNCTION_SHIFT) as u8 & FUNCTION_MAX;
        let argument = (bits >> ARGUMENT_SHIFT) as u16 & ARGUMENT_MAX;
        Ok(Self {
            block,
            node,
            function,
            argument,
        })
    }

    /// The SID as it stands in the outer destination address.
    pub fn sid(&self) -> Sid {
        let bits = u128::from(self.block.network())
            | u128::from(self.node) << NODE_SHIFT
            | u128::from(self.function) << FUNCTION_SHIFT
            | u128::from(self.argument) << ARGUMENT_SHIFT;
        Sid(bits.into())
    }

    /// The locator of the point of presence, a /48.
    pub fn block(&self) -> Ipv6Net {
        self.block
    }

    /// The node inside the Block.
    pub fn node(&self) -> u16 {
        self.node
    }

    /// The behaviour, 4 bits.
    pub fn function(&self) -> u8 {
        self.function
    }

    /// The VPC on that node, 12 bits.
    pub fn argument(&self) -> u16 {
        self.argument
    }

    /// Block and Node-ID together, a /64: what the underlay routes to the node.
    pub fn node_locator(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.sid().0, 64).trunc()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    #[test]
    fn writes_the_documented_examples() {
        let pop = block("2001:db8:ff03::/48");
        let sid = |node, argument| {
            Usid::new(pop, node, FUNCTION_END_DT46, argument)
                .unwrap()
                .sid()
                .to_string()
        };
        assert_eq!(sid(1, 1), "2001:db8:ff03:1:e001::");
        assert_eq!(sid(3, 0x02a), "2001:db8:ff03:3:e02a::");
        let usid = Usid::decode("2001:db8:ff03:3:e02a::".parse().unwrap()).unwrap();
        assert_eq!(usid.block(), pop);
        assert_eq!(
            (usid.node(), usid.function(), usid.argument()),
            (3, 0xe, 0x2a)
        );
        assert_eq!(usid.node_locator().to_string(), "2001:db8:ff03:3::/64");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let pop = block("2001:db8:ff03::/48");
        let wide = block("2001:db8::/32");
        assert_eq!(Usid::new(wide, 1, 0xe, 1), Err(UsidError::Block(wide)));
        assert_eq!(Usid::new(pop, 0, 0xe, 1), Err(UsidError::Node(0)));
        assert_eq!(Usid::new(pop, 0xe000, 0xe, 1), Err(UsidError::Node(0xe000)));
        assert_eq!(Usid::new(pop, 1, 16, 1), Err(UsidError::Function(16)));
        assert_eq!(Usid::new(pop, 1, 0xe, 4096), Err(UsidError::Argument(4096)));
        let tail = "2001:db8:ff03:1:e001::1".parse::<Sid>().unwrap();
        assert_eq!(Usid::decode(tail), Err(UsidError::Tail(tail.0)));
        let no_node = "2001:db8:ff03:0:e001::".parse().unwrap();
        assert_eq!(Usid::decode(no_node), Err(UsidError::Node(0)));
    }

    proptest! {
        #[test]
        fn round_trips(
            high: u64, node in 1..=NODE_MAX, function in 0..=15u8, argument in 0..=ARGUMENT_MAX,
        ) {
            let address = Ipv6Addr::from(u128::from(high) << 64);
            let pop = Ipv6Net::new_assert(address, BLOCK_BITS);
            let usid = Usid::new(pop, node, function, argument).unwrap();
            prop_assert_eq!(usid.block(), pop.trunc());
            prop_assert_eq!(Usid::decode(usid.sid()), Ok(usid));
        }

        #[test]
        fn decodes_only_what_it_would_write(bits: u128, clear_tail: bool) {
            let bits = if clear_tail { bits >> 48 << 48 } else { bits };
            let sid = Sid(bits.into());
            if let Ok(usid) = Usid::decode(sid) {
                prop_assert_eq!(usid.sid(), sid);
            }
        }
    }
}
