//! What an attachment is to be like.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use masque_protocol::{Expanded, Scope, Template};
use masque_transport::{
    MachineConfig, client_config, quinn_proto,
    sockets::BUSY_POLL_MAX,
    tls::{ClientIdentity, ClientTls, ServerTrust, TlsError},
};

use crate::{AttachError, ConnectorIdentity, GatewayUrl, Stage, VpcName, tunnel::Asked};

/// Largest inner packet that is asked for without a bound of the caller's (jumbo frames).
pub const MTU_MAX_BYTES: u16 = 9216;
/// The smallest MTU of a tunnel that carries IPv6 (RFC 9484 §7.2).
pub const MTU_MIN_BYTES: u16 = 1280;
/// NAT bindings for UDP live 30 seconds in many places; this is half of it.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How the connector proves who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// A signature over what TLS exports, in the request (RFC 9729). Who does not know the key
    /// sees an ordinary client.
    #[default]
    ConcealedKey,
    /// A TLS client certificate with the connector's key.
    ClientCertificate,
}

/// What to attach to and how. [`AttachConfig::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct AttachConfig {
    /// Where the gateway is.
    pub gateway: GatewayUrl,
    /// Which VPC.
    pub vpc: VpcName,
    /// What the tunnel is limited to (RFC 9484 §4.6).
    pub scope: Scope,
    /// Who we are.
    pub identity: Arc<ConnectorIdentity>,
    /// How to prove it.
    pub auth: Auth,
    /// Which authorities may sign the gateway's certificate.
    pub trust: ServerTrust,
    /// Largest inner packet wanted; [`MTU_MIN_BYTES`] to [`MTU_MAX_BYTES`].
    pub mtu_max_bytes: u16,
    /// How often a silent connection is kept alive.
    pub keep_alive: Duration,
    /// How long the thread looks for packets before it sleeps while they come close to each other;
    /// zero saves the most power.
    pub busy_poll: Duration,
    /// Go on after the first attempt failed. Once a tunnel was open, it is always made again.
    pub keep_trying: bool,
    /// End with success when this stage is reached, say to test a gateway without a session.
    pub stop_at: Option<Stage>,
}

impl AttachConfig {
    /// Everything by default but where to, and who.
    pub fn new(gateway: GatewayUrl, vpc: VpcName, identity: Arc<ConnectorIdentity>) -> Self {
        Self {
            gateway,
            vpc,
            scope: Scope::ANY,
            identity,
            auth: Auth::default(),
            trust: ServerTrust::System,
            mtu_max_bytes: MTU_MAX_BYTES,
            keep_alive: KEEP_ALIVE,
            busy_poll: BUSY_POLL_MAX,
            keep_trying: false,
            stop_at: None,
        }
    }

    /// Checks it and prepares what every attempt needs.
    pub(crate) fn plan(&self) -> Result<Plan, AttachError> {
        let config = |reason: String| AttachError::Config { reason };
        if !(MTU_MIN_BYTES..=MTU_MAX_BYTES).contains(&self.mtu_max_bytes) {
            return Err(config(format!(
                "an MTU of {} is outside {MTU_MIN_BYTES} to {MTU_MAX_BYTES}",
                self.mtu_max_bytes
            )));
        }
        let text = self.gateway.template(&self.vpc);
        let template = Template::parse(&text)
            .map_err(|error| config(format!("{text:?} is no template of a gateway: {error}")))?;
        if self.scope != Scope::ANY && !template.has_variables() {
            return Err(config(format!(
                "{text:?} has no place for a target or protocol"
            )));
        }
        let tls = |error: TlsError| config(error.to_string());
        let identity = match self.auth {
            Auth::ConcealedKey => None,
            Auth::ClientCertificate => {
                let identity = ClientIdentity::from_ed25519_seed(&self.identity.seed());
                Some(identity.map_err(tls)?)
            }
        };
        let client = ClientTls {
            trust: self.trust.clone(),
            identity,
        }
        .build()
        .map_err(tls)?;
        let quic = client_config(client).map_err(|error| config(error.to_string()))?;
        let literal: Option<IpAddr> = self.gateway.host().parse().ok();
        Ok(Plan {
            target: template.expand(&self.scope),
            literal: literal.map(|ip| SocketAddr::new(ip, self.gateway.port())),
            port: self.gateway.port(),
            asked: Asked {
                host: self.gateway.host().to_owned(),
                vpc: self.vpc.clone(),
                key: self.identity.public_id(),
            },
            identity: Arc::clone(&self.identity),
            auth: self.auth,
            quic,
            mtu_max_bytes: self.mtu_max_bytes,
            keep_alive: self.keep_alive,
            keep_trying: self.keep_trying,
            stop_at: self.stop_at,
        })
    }
}

/// A checked [`AttachConfig`].
pub(crate) struct Plan {
    pub(crate) target: Expanded,
    /// The gateway's address, if it is given as one.
    pub(crate) literal: Option<SocketAddr>,
    pub(crate) port: u16,
    pub(crate) asked: Asked,
    pub(crate) identity: Arc<ConnectorIdentity>,
    pub(crate) auth: Auth,
    pub(crate) quic: quinn_proto::ClientConfig,
    pub(crate) mtu_max_bytes: u16,
    pub(crate) keep_alive: Duration,
    pub(crate) keep_trying: bool,
    pub(crate) stop_at: Option<Stage>,
}

impl Plan {
    /// `udp_payload_max_bytes` is what the link towards the gateway carries: what MTU discovery looks
    /// for here, and what the gateway's need not look beyond.
    pub(crate) fn machine(&self, seed: [u8; 32], udp_payload_max_bytes: u16) -> MachineConfig {
        // A client never resets statelessly: the secret may be the seed.
        let mut config = MachineConfig::new(seed, seed);
        config.tuning.keep_alive_ms =
            u32::try_from(self.keep_alive.as_millis()).unwrap_or(u32::MAX);
        config.tuning.max_udp_payload_bytes = udp_payload_max_bytes;
        config.tuning.accept_udp_payload_bytes = udp_payload_max_bytes;
        config
    }
}

#[cfg(test)]
mod tests {
    use masque_protocol::Target;

    use super::*;

    fn config(gateway: &str) -> AttachConfig {
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let mut config =
            AttachConfig::new(gateway.parse().unwrap(), "v".parse().unwrap(), identity);
        let ca = masque_testkit::DevelopmentCa::new();
        config.trust = ServerTrust::RootsPem(ca.pem().as_bytes().to_vec());
        config
    }

    #[test]
    fn the_scope_goes_into_the_path() {
        let mut config = config("https://192.0.2.1:4433");
        let target = Target::Prefix("10.0.0.0/16".parse().unwrap());
        config.scope = Scope {
            target,
            protocol: Some(6),
        };
        let plan = config.plan().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.target.path, "/vpc/v/masque/ip/10.0.0.0%2F16/6/");
        assert_eq!(plan.literal, Some(([192, 0, 2, 1], 4433).into()));
    }

    #[test]
    fn says_what_cannot_work() {
        let text = |config: &AttachConfig| match config.plan() {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was accepted"),
        };
        let mut fixed = config("https://gw.example/vpn");
        fixed.scope = Scope {
            target: Target::Any,
            protocol: Some(6),
        };
        assert!(text(&fixed).contains("no place for a target"));
        let mut small = config("https://gw.example");
        small.mtu_max_bytes = 1279;
        assert!(text(&small).contains("1279"));
        let mut untrusting = config("https://gw.example");
        untrusting.trust = ServerTrust::RootsFile("/nowhere/ca.crt".into());
        assert!(text(&untrusting).contains("/nowhere/ca.crt"));
    }
}
