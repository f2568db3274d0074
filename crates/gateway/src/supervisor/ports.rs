//! UDP ports: a socket for every packet thread.

use std::{net::SocketAddr, sync::Arc};

use masque_transport::{
    MachineConfig, ShardId,
    sockets::{SocketOptions, UdpSocket},
    tls::ServerCertificate,
};

use super::Supervisor;
use crate::{
    certificates::PortTls,
    command::{Command, PortSetup},
    exit::Fatal,
};

impl Supervisor {
    /// Sockets for new ports, certificates for all.
    ///
    /// # Errors
    /// [`Fatal`] only the first time, when no port at all can be opened.
    pub(super) fn open_ports(&mut self, first: bool) -> Result<(), Fatal> {
        self.close_ports();
        for (port, tls) in &self.ports {
            if let Some(certificates) = self.wanted_ports.get(port)
                && let Err(sentence) = tls.replace(certificates.clone())
            {
                self.problems.push((true, sentence));
            }
        }
        match self.open_missing_ports() {
            Some(fatal) if first && self.ports.is_empty() => Err(fatal),
            _ => Ok(()),
        }
    }

    /// Opens the ports that are not open yet, and says in the trouble which cannot be; gives the first
    /// one's reason.
    pub(super) fn open_missing_ports(&mut self) -> Option<Fatal> {
        self.trouble.ports.clear();
        let mut first = None;
        let sites = self.control.sites();
        for port in sites.ports() {
            if self.ports.contains_key(&port) {
                continue;
            }
            let Some(certificates) = self.wanted_ports.get(&port).cloned() else {
                let sentence = format!("UDP port {port} is not open: it has no certificate");
                self.trouble.ports.insert(port, sentence);
                continue;
            };
            if let Err(fatal) = self.open_port(port, certificates) {
                self.trouble.ports.insert(port, fatal.to_string());
                first.get_or_insert(fatal);
            }
        }
        first
    }

    /// Closes the ports that no listener names any more. One whose certificates became unreadable
    /// keeps the ones it has.
    fn close_ports(&mut self) {
        let sites = self.control.sites();
        let gone: Vec<u16> = self
            .ports
            .keys()
            .filter(|port| !sites.ports().any(|wanted| wanted == **port))
            .copied()
            .collect();
        for port in gone {
            self.ports.remove(&port);
            self.control.broadcast(|| Command::ClosePort(port));
            tracing::info!(port, "listener closed");
        }
    }

    fn open_port(&mut self, port: u16, certificates: Vec<ServerCertificate>) -> Result<(), Fatal> {
        let (tls, server) =
            PortTls::new(certificates, &self.secrets.token).map_err(Fatal::Certificate)?;
        let shards = u8::try_from(self.control.shards()).unwrap_or(u8::MAX);
        let options = SocketOptions::new(SocketAddr::new(self.args.listen_address, port));
        refuse_taken(&options, port)?;
        let sockets = UdpSocket::bind_shards(&options, shards).map_err(|e| Fatal::Listen {
            port,
            error: std::io::Error::other(e.to_string()),
        })?;
        for (index, socket) in (0..shards).zip(sockets) {
            let Some(shard) = ShardId::new(index, shards) else {
                continue;
            };
            let mut machine = MachineConfig::new(crate::run::random()?, self.secrets.reset);
            machine.tuning.max_udp_payload_bytes = masque_transport::JUMBO_UDP_PAYLOAD_BYTES;
            let server = Arc::clone(&server);
            let setup = PortSetup {
                port,
                shard,
                socket,
                server,
                machine,
            };
            self.control
                .send(u16::from(index), Command::OpenPort(Box::new(setup)));
        }
        self.ports.insert(port, tls);
        tracing::info!(port, shards, "listening for HTTP/3");
        Ok(())
    }
}

/// SO_REUSEPORT would let two gateways of one user share a port and split their clients between
/// them; a plain bind finds the other one.
fn refuse_taken(options: &SocketOptions, port: u16) -> Result<(), Fatal> {
    std::net::UdpSocket::bind(options.address)
        .map(drop)
        .map_err(|error| Fatal::listen(port, error))
}
