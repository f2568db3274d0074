//! Why a packet was dropped.

use masque_packet::ip::PacketError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal, $sentence:literal;)+) => {
        /// Why a packet was dropped. Every drop has one, a metric counts it, `explain` tells it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// Every reason in the order of the counters, for metrics that start at zero.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name for a metric label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// One sentence for people: what is wrong and what to do.
            #[must_use]
            pub const fn explain(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)+
                }
            }
        }
    };
}

reasons! {
    /// No bytes.
    Empty = "empty", "The datagram holds no packet; send a whole IP packet.";
    /// Neither version 4 nor 6.
    BadVersion = "bad_version", "The packet is neither IPv4 nor IPv6.";
    /// Shorter than its fixed header.
    TooShort = "too_short", "The packet is shorter than an IP header.";
    /// The length in the header is not that of the packet.
    LengthMismatch = "length_mismatch", "The length in the IP header is not that of the packet.";
    /// The IPv4 header checksum is wrong.
    BadChecksum = "bad_checksum", "The IPv4 header checksum is wrong.";
    /// The IPv4 header length is wrong.
    BadHeaderLength = "bad_header_length", "The IPv4 header length is wrong.";
    /// The IPv6 extension headers are cut off or too many.
    ExtensionChain = "extension_chain",
        "The IPv6 extension headers are cut off or more than the gateway reads.";
    /// A first fragment that ends within the header that the rules look at.
    TinyFragment = "tiny_fragment",
        "The first fragment ends within the upper-layer header, which the rules must see.";
    /// The session is gone.
    UnknownSession = "unknown_session", "The session has ended; connect again.";
    /// A newer session of the same attachment carries the traffic.
    InactiveSession = "inactive_session",
        "A newer session of the same attachment carries its traffic; close one of the two.";
    /// The attachment is not in the tables any more, or suspended.
    AttachmentGone = "attachment_gone",
        "The ConnectorAttachment was removed or suspended; its session is about to end.";
    /// IPv6 Segment Routing header.
    SegmentRoutingHeader = "segment_routing_header",
        "The packet has a Segment Routing header; clients may not choose paths through the fabric.";
    /// Another IPv6 Routing header.
    RoutingHeader = "routing_header", "The packet has an IPv6 Routing header, which is refused.";
    /// IPv4 source-route option.
    SourceRoute = "source_route", "The packet has an IPv4 source-route option, which is refused.";
    /// The source is not an address of the session.
    SourceNotAssigned = "source_not_assigned",
        "The source is not an address assigned to this session; use the address in ADDRESS_ASSIGN.";
    /// The source stands for no single host.
    SourceNotUnicast = "source_not_unicast",
        "The source is a multicast, loopback or unspecified address.";
    /// A link-local source or destination.
    LinkLocal = "link_local", "Link-local packets do not leave the tunnel (RFC 9484 section 7.2).";
    /// The destination stands for no single host.
    DestinationNotUnicast = "destination_not_unicast",
        "The destination is a multicast, broadcast, loopback, mapped or unspecified address.";
    /// The destination is an SRv6 SID or in its locator.
    LocatorDestination = "locator_destination",
        "The destination belongs to the SRv6 fabric; clients may only reach prefixes of the VPC.";
    /// For the gateway itself, and answered or ignored there.
    GatewayAddress = "gateway_address",
        "The packet is for the gateway's own address, which answers echo requests only.";
    /// Outside the target or protocol that the request named.
    OutOfScope = "out_of_scope",
        "The tunnel was opened for another target or protocol; open one with a wider scope.";
    /// The attachment has no route to it.
    NoRoute = "no_route",
        "No route of this attachment leads there; see routes and allowedRoutes.";
    /// A Deny rule matched.
    PolicyDenied = "policy_denied", "A Deny rule of a VPCAccessPolicy matches; `masque-gateway explain` names it.";
    /// No Allow rule matched.
    PolicyNotAllowed = "policy_not_allowed",
        "No Allow rule of a VPCAccessPolicy matches; add one, everything else is denied.";
    /// An ICMP error about no flow that is known.
    IcmpErrorUnmatched = "icmp_error_unmatched",
        "The ICMP error quotes a packet of no allowed flow.";
    /// An echo reply without a request.
    EchoReplyUnmatched = "echo_reply_unmatched", "The echo reply answers no request that passed.";
    /// A later fragment whose first one did not pass.
    FragmentUnmatched = "fragment_unmatched",
        "The fragment belongs to no first fragment that passed in the last 30 seconds.";
    /// A later fragment that would overwrite the first one.
    FragmentOverlap = "fragment_overlap",
        "The fragment overlaps the first one of its packet, whose headers were judged.";
    /// The hop limit is used up.
    HopLimitExceeded = "hop_limit_exceeded", "The hop limit is used up.";
    /// More than the session's MTU; the sender was told.
    PacketTooBig = "packet_too_big",
        "The packet is longer than the MTU of the tunnel; the sender is told by ICMP.";
    /// IPv4 without Don't Fragment that does not fit and cannot be fragmented.
    FragmentationNeeded = "fragmentation_needed",
        "The IPv4 packet is too long for the MTU and cannot be fragmented as RFC 791 has it.";
    /// Above `bitsPerSecond`.
    RateLimited = "rate_limited", "The attachment is over its limits.bitsPerSecond.";
    /// No session has the destination.
    NoSession = "no_session", "No connected session has this address.";
    /// For a session of another packet thread, where the VPC has too many waiting.
    HandOverFull = "hand_over_full",
        "Too many packets of this VPC wait for another packet thread; new flows come too fast.";
    /// A packet from the VPC whose source the session has no route to.
    SourceOutsideRoutes = "source_outside_routes",
        "The source in the VPC is outside the routes of the attachment.";
}

impl DropReason {
    /// The index of its counter.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl From<PacketError> for DropReason {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::Empty => Self::Empty,
            PacketError::BadVersion => Self::BadVersion,
            PacketError::TooShort => Self::TooShort,
            PacketError::LengthMismatch => Self::LengthMismatch,
            PacketError::BadChecksum => Self::BadChecksum,
            PacketError::BadHeaderLength => Self::BadHeaderLength,
            PacketError::ExtensionChain => Self::ExtensionChain,
            PacketError::TinyFragment => Self::TinyFragment,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_unique_snake_case_and_indexes_dense() {
        let labels: BTreeSet<_> = DropReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            let label = reason.as_str();
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{label}"
            );
            assert!(reason.explain().ends_with('.'));
        }
    }

    #[test]
    fn packet_errors_keep_their_label() {
        for error in PacketError::ALL {
            assert_eq!(DropReason::from(error).as_str(), error.as_str());
        }
    }
}
