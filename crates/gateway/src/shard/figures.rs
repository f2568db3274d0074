//! What one shard counted, beside the dataplane's own counters.

use std::{collections::BTreeMap, time::Duration};

use masque_gateway_core::{Counters, EndReason, VpcIndex};
use masque_transport::{DatagramSendError, MachineStats};

/// Counters only grow; gauges are of the moment of a report.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardFigures {
    /// Datagrams for no tunnel.
    pub(crate) unclaimed: u64,
    /// Datagrams with another Context ID than 0, or without a packet.
    pub(crate) unknown_context: u64,
    /// Packets for a client that were dropped because more waits already than may.
    pub(crate) queue_full: u64,
    /// Packets for a client lost so that a flow that kept waiting slows down (RFC 8289).
    pub(crate) congested: u64,
    /// Packets marked for the same (RFC 3168 §5).
    pub(crate) marked: u64,
    /// Packets for a client that did not fit its path.
    pub(crate) too_large: u64,
    /// Packets for a client whose stream or connection was closed.
    pub(crate) unsendable: u64,
    /// Packets that contradict their virtio header.
    pub(crate) tun_bad_packets: u64,
    /// Packets that are too long for the way on and could not be cut, or fragments that are none.
    pub(crate) unfragmentable: u64,
    /// Packets that the TUN device did not take.
    pub(crate) tun_refused: u64,
    /// Packets of clients whose VPC has no TUN device here.
    pub(crate) tun_missing: u64,
    /// Packets given to other shards.
    pub(crate) handovers: u64,
    /// Packets for other shards that were lost: their ring was full, or the session had moved.
    pub(crate) handovers_lost: u64,
    /// Time spent looking for packets instead of sleeping.
    pub(crate) busy_poll: Duration,
    /// UDP receive calls that failed.
    pub(crate) receive_errors: u64,
    /// UDP batches that failed to send.
    pub(crate) send_errors: u64,
    /// Requests by outcome.
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// Sessions ended, by reason.
    pub(crate) ends: BTreeMap<&'static str, u64>,
    /// The dataplane's counters.
    pub(crate) vpcs: Vec<(VpcIndex, Counters)>,
    /// The machines' counters, summed over ports.
    pub(crate) machine: MachineStats,
}

impl ShardFigures {
    /// Counts packets that a client will not get.
    pub(crate) fn count_unsent(&mut self, error: DatagramSendError, packets: u64) {
        match error {
            DatagramSendError::QueueFull => self.queue_full += packets,
            DatagramSendError::TooLarge { .. } => self.too_large += packets,
            DatagramSendError::Blocked | DatagramSendError::Closed => self.unsendable += packets,
        }
    }

    /// Adds one port's machine.
    pub(crate) fn add_machine(&mut self, other: MachineStats) {
        let sum = &mut self.machine;
        sum.datagrams_unclaimed += other.datagrams_unclaimed;
        sum.handshakes_begun += other.handshakes_begun;
        sum.handshakes_completed += other.handshakes_completed;
        sum.handshakes_retried += other.handshakes_retried;
        sum.handshakes_refused += other.handshakes_refused;
        sum.handshakes_ignored += other.handshakes_ignored;
        sum.connections_unused += other.connections_unused;
        sum.connections_evicted += other.connections_evicted;
        sum.responses_dropped += other.responses_dropped;
        sum.streams_overrun += other.streams_overrun;
    }

    /// Counts a session's end.
    pub(crate) fn count_end(&mut self, reason: EndReason) {
        *self.ends.entry(reason.as_str()).or_default() += 1;
    }

    /// Counts a request's outcome.
    pub(crate) fn count_request(&mut self, outcome: &'static str) {
        *self.requests.entry(outcome).or_default() += 1;
    }
}

impl ShardFigures {
    /// The counters that belong to no VPC, with their label.
    pub(crate) fn events(&self) -> [(&'static str, u64); 23] {
        [
            (
                "datagram_unclaimed",
                self.unclaimed + self.machine.datagrams_unclaimed,
            ),
            ("datagram_unknown_context", self.unknown_context),
            ("client_queue_full", self.queue_full),
            ("client_congested", self.congested),
            ("client_congestion_marked", self.marked),
            ("client_path_too_small", self.too_large),
            ("client_gone", self.unsendable),
            ("tun_bad_packet", self.tun_bad_packets),
            ("packet_not_fragmented", self.unfragmentable),
            ("tun_refused", self.tun_refused),
            ("tun_missing", self.tun_missing),
            ("handover_lost", self.handovers_lost),
            ("udp_receive_error", self.receive_errors),
            ("udp_send_error", self.send_errors),
            ("handshake_begun", self.machine.handshakes_begun),
            ("handshake_completed", self.machine.handshakes_completed),
            ("handshake_retried", self.machine.handshakes_retried),
            ("handshake_refused", self.machine.handshakes_refused),
            ("handshake_ignored", self.machine.handshakes_ignored),
            ("connection_unused", self.machine.connections_unused),
            ("connection_evicted", self.machine.connections_evicted),
            ("response_dropped", self.machine.responses_dropped),
            ("stream_overrun", self.machine.streams_overrun),
        ]
    }
}
