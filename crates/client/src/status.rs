//! What an attachment is doing, as a snapshot.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How far an attachment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The first attempt is under way.
    #[default]
    Connecting,
    /// Packets pass.
    Connected,
    /// The tunnel was lost, or the first attempt failed and another follows.
    Reconnecting,
    /// Over; nothing more will happen.
    Closed,
}

/// The steps of one attempt, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// The gateway's name is looked up.
    Resolve,
    /// The first QUIC packets are on their way.
    Connect,
    /// QUIC and TLS are done: the certificate was accepted.
    Authenticate,
    /// The request was accepted; addresses are awaited.
    Address,
    /// Addresses are assigned: packets pass.
    Up,
}

/// Everything `status --json` shows of one attachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// How far it is.
    pub phase: Phase,
    /// The step that the present attempt has reached; none while waiting for the next attempt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stage: Option<Stage>,
    /// The last failure in words, while not connected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
    /// The carrier: `h3`.
    pub transport: String,
    /// The gateway's URL.
    pub gateway: String,
    /// The gateway's address in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote: Option<SocketAddr>,
    /// Our address towards it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub local: Option<SocketAddr>,
    /// What was assigned, as prefixes (RFC 9484 §4.7.1).
    pub addresses: Vec<IpNet>,
    /// What the gateway advertises, as prefixes (RFC 9484 §4.7.3).
    pub routes: Vec<IpNet>,
    /// Largest inner packet, in bytes; 0 while not connected.
    pub mtu_bytes: u16,
    /// Smoothed round-trip time to the gateway in microseconds; 0 while not connected.
    pub rtt_us: u64,
    /// When the tunnel came up last, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_unix_s: Option<u64>,
    /// How often the tunnel was lost and made anew.
    pub reconnects: u64,
    /// What passed and what did not, since the start.
    pub counters: Counters,
}

/// Inner packets since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Packets sent to the gateway.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets received from the gateway.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets dropped, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
}

impl Status {
    /// The address that stands for the attachment: the first IPv4 one, else the first.
    pub fn assigned_ip(&self) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        let first = addresses.clone().next();
        addresses.find(IpAddr::is_ipv4).or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_stands_for_the_attachment() {
        let status = |texts: &[&str]| Status {
            addresses: texts.iter().map(|t| t.parse().unwrap()).collect(),
            ..Status::default()
        };
        let ip = |texts: &[&str]| status(texts).assigned_ip().map(|ip| ip.to_string());
        assert_eq!(
            ip(&["fd00::1/128", "10.0.100.50/32"]).unwrap(),
            "10.0.100.50"
        );
        assert_eq!(ip(&["fd00::1/128"]).unwrap(), "fd00::1");
        assert_eq!(ip(&[]), None);
    }
}
