//! Every reason for which an inner packet does not pass, and how often it occurred.

/// Why a packet was dropped; the name is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// To the gateway: not a valid IP packet, or a super-packet that cannot be split.
    SendMalformed,
    /// To the gateway: link-local or multicast, which stays on its link (RFC 9484 §7.2).
    SendLinkLocal,
    /// To the gateway: the source is no assigned address.
    SendSourceNotAssigned,
    /// To the gateway: no advertised route has the destination.
    SendDestinationNotRouted,
    /// To the gateway: longer than the tunnel's MTU.
    SendTooBig,
    /// To the gateway: more waits already than may.
    SendQueueFull,
    /// To the gateway: its flow kept waiting for too long and is told so by this loss (RFC 8289).
    SendCongested,
    /// To the gateway: there is no tunnel now.
    SendNotConnected,
    /// From the gateway: not a valid IP packet.
    ReceiveMalformed,
    /// From the gateway: for an address that is not assigned.
    ReceiveDestinationNotAssigned,
    /// From the gateway: no advertised route has the source.
    ReceiveSourceNotRouted,
    /// From the gateway: an HTTP Datagram of an unknown context or without one.
    ReceiveUnknownContext,
    /// From the gateway: the device or the application's channel has no room.
    ReceiveDeviceFull,
    /// From the gateway: the device refused it.
    ReceiveDeviceError,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::SendMalformed,
        Self::SendLinkLocal,
        Self::SendSourceNotAssigned,
        Self::SendDestinationNotRouted,
        Self::SendTooBig,
        Self::SendQueueFull,
        Self::SendCongested,
        Self::SendNotConnected,
        Self::ReceiveMalformed,
        Self::ReceiveDestinationNotAssigned,
        Self::ReceiveSourceNotRouted,
        Self::ReceiveUnknownContext,
        Self::ReceiveDeviceFull,
        Self::ReceiveDeviceError,
    ];

    /// The stable name, for counters and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SendMalformed => "send_malformed",
            Self::SendLinkLocal => "send_link_local",
            Self::SendSourceNotAssigned => "send_source_not_assigned",
            Self::SendDestinationNotRouted => "send_destination_not_routed",
            Self::SendTooBig => "send_too_big",
            Self::SendQueueFull => "send_queue_full",
            Self::SendCongested => "send_congested",
            Self::SendNotConnected => "send_not_connected",
            Self::ReceiveMalformed => "receive_malformed",
            Self::ReceiveDestinationNotAssigned => "receive_destination_not_assigned",
            Self::ReceiveSourceNotRouted => "receive_source_not_routed",
            Self::ReceiveUnknownContext => "receive_unknown_context",
            Self::ReceiveDeviceFull => "receive_device_full",
            Self::ReceiveDeviceError => "receive_device_error",
        }
    }
}

/// What passed and what did not. Plain numbers of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Tally {
    #[inline]
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        self.dropped_many(reason, 1);
    }

    pub(crate) fn dropped_many(&mut self, reason: DropReason, packets: usize) {
        self.drops[reason as usize] += packets as u64;
    }

    #[cfg(test)]
    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Packets that passed, both ways.
    pub(crate) fn packets(&self) -> u64 {
        self.sent_packets + self.received_packets
    }

    /// As a snapshot shows it.
    pub(crate) fn counters(&self) -> crate::Counters {
        let occurred = DropReason::ALL
            .iter()
            .zip(self.drops)
            .filter(|(_, count)| *count > 0);
        crate::Counters {
            sent_packets: self.sent_packets,
            sent_bytes: self.sent_bytes,
            received_packets: self.received_packets,
            received_bytes: self.received_bytes,
            drops: occurred
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_reason_under_distinct_names() {
        let mut tally = Tally::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            tally.dropped(reason);
        }
        tally.dropped(DropReason::SendTooBig);
        let drops = tally.counters().drops;
        assert_eq!(drops.len(), DropReason::ALL.len());
        assert_eq!(drops["send_too_big"], 2);
        assert!(Tally::default().counters().drops.is_empty());
    }
}
