//! How the commands talk to a running attachment: one JSON line asks, one JSON line answers, over a
//! UNIX socket that only its owner may open.

mod client;
mod server;

use std::net::IpAddr;

use masque_client::Status;
use serde::{Deserialize, Serialize};

pub(crate) use client::{Attachment, attachments, find};
pub(crate) use server::{ControlServer, Handler};

/// A request or an answer is at most a few kilobytes; whoever sends more is cut off.
pub(crate) const LINE_MAX_BYTES: u64 = 64 * 1024;

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Request {
    /// What are you doing?
    Status,
    /// End.
    Detach,
    /// Send one echo request through the tunnel and wait for its reply.
    Ping {
        /// Where to; none: the gateway's end of the tunnel.
        address: Option<IpAddr>,
        /// Bytes of data.
        size_bytes: u16,
        /// How long to wait.
        timeout_ms: u32,
    },
}

/// What the attachment answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "answer",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum Answer {
    /// To [`Request::Status`].
    Status(Box<Running>),
    /// To [`Request::Detach`]: it ends now.
    Detaching,
    /// To [`Request::Ping`].
    Pong {
        /// Who answered.
        from: IpAddr,
        /// After how long.
        rtt_us: u64,
    },
    /// What was asked for failed.
    Error {
        /// Why.
        reason: String,
    },
}

/// A running attachment as it describes itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    /// Which VPC.
    pub(crate) vpc: String,
    /// Its process.
    pub(crate) pid: u32,
    /// The TUN device.
    pub(crate) device: String,
    /// The tunnel.
    #[serde(flatten)]
    pub(crate) status: Status,
}
