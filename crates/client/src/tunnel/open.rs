//! An open tunnel.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use masque_http3::StreamId;
use masque_protocol::{Event, Session};
use masque_transport::{ConnId, Machine};

use super::{
    attempt::{self, Configured},
    canonical,
    event::Assignment,
    liveness::Liveness,
    path_check::PathCheck,
};
use crate::{AttachError, config::Plan, guard::Guard};

/// A tunnel that carries packets.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) conn: ConnId,
    pub(crate) stream: StreamId,
    pub(crate) remote: SocketAddr,
    pub(crate) guard: Guard,
    pub(crate) liveness: Liveness,
    pub(crate) path_check: PathCheck,
    pub(crate) session: Session,
    /// The gateway announced the end.
    pub(crate) draining: bool,
    /// Another connection is being opened because this one is silent.
    pub(crate) doubted: bool,
    mtu_max_bytes: usize,
}

/// What the gateway's capsules changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) configuration: bool,
    pub(crate) draining: bool,
    /// Packets that came in capsules (RFC 9297 §3.5).
    pub(crate) packets: Vec<Bytes>,
}

impl Open {
    pub(crate) fn new(
        conn: ConnId,
        remote: SocketAddr,
        configured: Configured,
        plan: &Plan,
        machine: &Machine,
        now: Instant,
    ) -> Result<Self, AttachError> {
        let Configured {
            stream,
            session,
            mtu_max_bytes,
            ..
        } = configured;
        let received_bytes = machine
            .connection_stats(conn)
            .unwrap_or_default()
            .bytes_received;
        let mut open = Self {
            conn,
            stream,
            remote,
            guard: Guard::default(),
            liveness: Liveness::new(plan.keep_alive, received_bytes, now),
            path_check: PathCheck::new(now),
            session,
            draining: false,
            doubted: false,
            mtu_max_bytes,
        };
        open.reconfigure(machine)?;
        Ok(open)
    }

    /// Takes addresses, routes and size as they are now.
    pub(crate) fn reconfigure(&mut self, machine: &Machine) -> Result<(), AttachError> {
        let payload_bytes = machine.max_datagram_payload(self.conn, self.stream);
        let mtu_bytes = attempt::inner_mtu_bytes(payload_bytes, self.mtu_max_bytes)?;
        let assigned = self
            .session
            .assigned()
            .iter()
            .map(|entry| entry.prefix)
            .collect();
        self.guard = Guard::new(assigned, self.session.routes(), mtu_bytes);
        Ok(())
    }

    pub(crate) fn assignment(&self) -> Assignment {
        Assignment {
            addresses: self
                .session
                .assigned()
                .iter()
                .map(|entry| entry.prefix)
                .collect(),
            routes: attempt::prefixes(self.session.routes()),
            mtu_bytes: self.mtu_bytes(),
            remote: canonical(self.remote),
        }
    }

    pub(crate) fn mtu_bytes(&self) -> u16 {
        u16::try_from(self.guard.mtu_bytes()).unwrap_or(u16::MAX)
    }

    /// Bytes of the request stream.
    pub(crate) fn data(&mut self, data: Bytes, now_ms: u64) -> Result<Changes, AttachError> {
        self.session.handle_data(data, now_ms);
        let mut changes = Changes::default();
        while let Some(event) = self.session.poll_event().map_err(attempt::protocol)? {
            match event {
                Event::Assigned(_) | Event::Routes(_) => changes.configuration = true,
                Event::WrapUp => changes.draining = true,
                Event::DatagramCapsule(packet) => changes.packets.push(packet),
                Event::Finished => return Err(attempt::ended()),
                // Addresses are ours to ask for, not to give; what is unknown needs no answer.
                Event::AddressRequested(requests) => {
                    attempt::refuse(&mut self.session, &requests)?;
                }
                Event::UnknownCapsule { .. } => {}
            }
        }
        Ok(changes)
    }
}
