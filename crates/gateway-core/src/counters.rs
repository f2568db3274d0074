//! Counters of one session or one VPC in one shard.

use crate::reason::DropReason;

/// Packets and bytes that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets; the segments of a super-packet count one by one.
    pub packets: u64,
    /// Bytes of IP packets, headers included; a super-packet counts as the bytes it came with.
    pub bytes: u64,
}

/// What happened to packets. Plain numbers that only grow: copy them to read them, and sum them
/// over shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Forwarded from the client to the VPC.
    pub to_vpc: Traffic,
    /// Forwarded from the VPC to the client.
    pub to_client: Traffic,
    /// Drops of packets from the client by [`DropReason::index`].
    pub dropped_to_vpc: [u64; DropReason::COUNT],
    /// Drops of packets from the VPC by [`DropReason::index`].
    pub dropped_to_client: [u64; DropReason::COUNT],
    /// ICMP errors sent, in either direction.
    pub icmp_errors: u64,
    /// ICMP errors and echo replies that the rate limit suppressed.
    pub icmp_suppressed: u64,
    /// Echo requests that the gateway answered itself.
    pub echo_replies: u64,
    /// Packets that passed but a rule in Audit mode would have denied.
    pub audit_denied: u64,
    /// Flows that were opened.
    pub flows_opened: u64,
    /// Packets whose MSS option was lowered.
    pub mss_clamped: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            to_vpc: Traffic::default(),
            to_client: Traffic::default(),
            dropped_to_vpc: [0; DropReason::COUNT],
            dropped_to_client: [0; DropReason::COUNT],
            icmp_errors: 0,
            icmp_suppressed: 0,
            echo_replies: 0,
            audit_denied: 0,
            flows_opened: 0,
            mss_clamped: 0,
        }
    }
}

impl Counters {
    /// Drops with one reason, both directions.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped_to_vpc[reason.index()] + self.dropped_to_client[reason.index()]
    }

    /// All drops, both directions.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped_to_vpc
            .iter()
            .chain(&self.dropped_to_client)
            .sum()
    }

    /// What was counted since `earlier`, a former copy of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let traffic = |now: Traffic, then: Traffic| Traffic {
            packets: now.packets.saturating_sub(then.packets),
            bytes: now.bytes.saturating_sub(then.bytes),
        };
        let drops = |now: &[u64; DropReason::COUNT], then: &[u64; DropReason::COUNT]| {
            std::array::from_fn(|reason| now[reason].saturating_sub(then[reason]))
        };
        Self {
            to_vpc: traffic(self.to_vpc, earlier.to_vpc),
            to_client: traffic(self.to_client, earlier.to_client),
            dropped_to_vpc: drops(&self.dropped_to_vpc, &earlier.dropped_to_vpc),
            dropped_to_client: drops(&self.dropped_to_client, &earlier.dropped_to_client),
            icmp_errors: self.icmp_errors.saturating_sub(earlier.icmp_errors),
            icmp_suppressed: self.icmp_suppressed.saturating_sub(earlier.icmp_suppressed),
            echo_replies: self.echo_replies.saturating_sub(earlier.echo_replies),
            audit_denied: self.audit_denied.saturating_sub(earlier.audit_denied),
            flows_opened: self.flows_opened.saturating_sub(earlier.flows_opened),
            mss_clamped: self.mss_clamped.saturating_sub(earlier.mss_clamped),
        }
    }

    /// Adds another shard's or session's counters to these.
    pub fn add(&mut self, other: &Self) {
        self.to_vpc.packets += other.to_vpc.packets;
        self.to_vpc.bytes += other.to_vpc.bytes;
        self.to_client.packets += other.to_client.packets;
        self.to_client.bytes += other.to_client.bytes;
        for (sum, more) in self.dropped_to_vpc.iter_mut().zip(&other.dropped_to_vpc) {
            *sum += more;
        }
        for (sum, more) in self
            .dropped_to_client
            .iter_mut()
            .zip(&other.dropped_to_client)
        {
            *sum += more;
        }
        self.icmp_errors += other.icmp_errors;
        self.icmp_suppressed += other.icmp_suppressed;
        self.echo_replies += other.echo_replies;
        self.audit_denied += other.audit_denied;
        self.flows_opened += other.flows_opened;
        self.mss_clamped += other.mss_clamped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_since_makes_up_the_difference() {
        let mut earlier = Counters::default();
        earlier.to_vpc.packets = 3;
        earlier.dropped_to_client[1] = 2;
        let mut more = Counters::default();
        more.to_vpc.packets = 4;
        more.to_client.bytes = 5;
        more.dropped_to_vpc[0] = 6;
        more.dropped_to_client[1] = 7;
        (more.icmp_errors, more.icmp_suppressed, more.echo_replies) = (8, 9, 10);
        (more.audit_denied, more.flows_opened, more.mss_clamped) = (11, 12, 13);
        let mut now = earlier;
        now.add(&more);
        assert_eq!(now.since(&earlier), more);
        assert_eq!(earlier.since(&now), Counters::default(), "never below zero");
    }
}
