//! What a running gateway tells about itself, over the control socket and in metrics.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::explain::Question;

/// One session, as `masque-gateway sessions` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionReport {
    /// The session's number; unique while the gateway runs.
    pub(crate) id: u64,
    /// The ConnectorAttachment, `namespace/name`.
    pub(crate) attachment: String,
    /// The connector's name.
    pub(crate) connector: String,
    /// The VPC, `namespace/name`.
    pub(crate) vpc: String,
    /// The addresses assigned to it.
    pub(crate) addresses: Vec<IpNet>,
    /// `h3` for HTTP/3 over QUIC.
    pub(crate) transport: String,
    /// Where its packets come from.
    pub(crate) remote: SocketAddr,
    /// The packet thread that carries it.
    pub(crate) shard: u16,
    /// The newest session of its attachment carries the traffic; others wait.
    pub(crate) active: bool,
    /// Seconds since it was accepted.
    pub(crate) age_s: u64,
    /// Inner MTU.
    pub(crate) mtu_bytes: u16,
    /// Smoothed round-trip time to the client.
    pub(crate) rtt_us: u64,
    /// Packets and bytes from the client that went into the VPC.
    pub(crate) to_vpc: Traffic,
    /// Packets and bytes from the VPC that went to the client.
    pub(crate) from_vpc: Traffic,
    /// Packets dropped, by reason; zero counts are left out.
    pub(crate) drops: BTreeMap<String, u64>,
}

/// Packets and bytes one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Traffic {
    /// Packets; a super-packet counts as its segments.
    pub(crate) packets: u64,
    /// Bytes of inner IP packets.
    pub(crate) bytes: u64,
}

/// One VPC, as `masque-gateway status` lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VpcReport {
    /// The VPC, `namespace/name`.
    pub(crate) vpc: String,
    /// The VPCIngressPoint, `namespace/name`.
    pub(crate) ingress_point: String,
    /// The version of its Snapshot.
    pub(crate) snapshot_version: u64,
    /// How the kernel takes packets out of SRv6: `End.DT46`, or `End.DT6 + End.DX4`.
    pub(crate) decapsulation: String,
    /// The TUN device towards the kernel.
    pub(crate) device: String,
    /// Attachments that may connect.
    pub(crate) attachments: usize,
    /// Sessions that are open.
    pub(crate) sessions: usize,
    /// Address pools: prefix, addresses in it, addresses held.
    pub(crate) pools: Vec<PoolReport>,
}

/// One pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PoolReport {
    /// The pool's prefix.
    pub(crate) prefix: IpNet,
    /// Addresses it can give.
    pub(crate) total: u64,
    /// Addresses held by attachments or resting.
    pub(crate) allocated: u64,
}

/// The whole of `masque-gateway status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// The gateway's version.
    pub(crate) version: String,
    /// Seconds since it started.
    pub(crate) uptime_s: u64,
    /// Why it is not ready; `None` when it is.
    pub(crate) not_ready: Option<String>,
    /// UDP ports it listens on.
    pub(crate) ports: Vec<u16>,
    /// Packet threads.
    pub(crate) shards: usize,
    /// Every VPC.
    pub(crate) vpcs: Vec<VpcReport>,
    /// Problems in the manifests, one line each.
    pub(crate) problems: Vec<String>,
}

/// What the control socket may be asked: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ask {
    /// Every session.
    Sessions,
    /// The gateway as a whole.
    Status,
    /// What becomes of a flow.
    Explain(Question),
}

/// Bytes in a form people read: 1.2 MB.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Seconds in a form people read: 2h03m.
pub(crate) fn human_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(human_bytes(999), "999 B");
        assert_eq!(human_bytes(1_234_567), "1.2 MB");
        assert_eq!(human_bytes(u64::MAX), "18446744.1 TB");
        assert_eq!(human_age(59), "59s");
        assert_eq!(human_age(3723), "1h02m");
        assert_eq!(human_age(90_000), "1d01h");
    }
}
