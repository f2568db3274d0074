//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use masque_client::{GatewayUrl, VpcName};

/// A look that lasts longer than this would keep a processor busy for packets that are far apart.
const BUSY_POLL_MAX_US: i64 = 10_000;

/// The home relay of a Connector that names no other.
pub(crate) const HOME_RELAY: &str = "https://relay.datum.net";

/// Attaches this machine to a VPC through a MASQUE gateway.
#[derive(Debug, Parser)]
#[command(name = "datum-connect", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What holds everywhere.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Folder of the key and the profiles [default: $XDG_CONFIG_HOME/datum-connect]
    #[arg(long, global = true, env = "DATUM_CONNECT_DIR", value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Folder of the control sockets [default: $XDG_RUNTIME_DIR/datum-connect]
    #[arg(
        long,
        global = true,
        env = "DATUM_CONNECT_STATE_DIR",
        value_name = "DIR"
    )]
    pub(crate) state_dir: Option<PathBuf>,
    /// What to log to stderr: error, warn, info, debug, or target=level pairs
    #[arg(
        long,
        global = true,
        env = "DATUM_CONNECT_LOG",
        value_name = "FILTER",
        default_value = "warn,quinn_udp=error,kube_client=off"
    )]
    pub(crate) log: String,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the connector's key if there is none, and print the manifests that let it in
    Key(KeyArgs),
    /// Attach this machine to a VPC; ends with ctrl-c or `detach`
    Attach(AttachArgs),
    /// End attachments that run in the background or in another terminal
    Detach(DetachArgs),
    /// Show this connector and its attachments
    Status(StatusArgs),
    /// Echo through the tunnel, past this machine's routes and firewall
    Ping(PingArgs),
    /// Look for what is wrong, in the order in which things depend on each other
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// `key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Also print a ConnectorAttachment to this VPC (NAME or NAMESPACE/NAME)
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
    /// Name of the Connector [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Namespace of the resources [default: kubectl's]
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// What the attachment may reach; repeatable [default: every route of the ingress point]
    #[arg(long = "allowed-route", value_name = "CIDR", requires = "vpc")]
    pub(crate) allowed_routes: Vec<IpNet>,
    /// Home relay to write into the Connector
    #[arg(long, value_name = "URL", default_value = HOME_RELAY)]
    pub(crate) home_relay: String,
    /// Key file [default: key.pem in the configuration folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Print only the public key, 64 hexadecimal digits
    #[arg(long, conflicts_with_all = ["vpc", "name", "namespace", "allowed_routes", "json"])]
    pub(crate) id: bool,
    /// Print key and file as JSON
    #[arg(long, conflicts_with_all = ["vpc", "namespace", "allowed_routes"])]
    pub(crate) json: bool,
}

/// How the connector proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthMethod {
    /// A signature in the request (RFC 9729)
    ConcealedKey,
    /// A TLS client certificate with the connector's key
    ClientCertificate,
}

/// Where a tunnel leads and how; a profile remembers these per VPC.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TunnelArgs {
    /// The gateway: https://HOST:PORT, or a URI template with {target} and {ipproto}
    #[arg(long, value_name = "URL")]
    pub(crate) gateway: Option<GatewayUrl>,
    /// PEM file with the authority that signed the gateway's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM of that authority, as a cluster gave it.
    #[arg(skip)]
    pub(crate) ca_pem: Option<String>,
    /// Key file [default: key.pem in the configuration folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Ask for a tunnel to this prefix only (RFC 9484 §4.6)
    #[arg(long, value_name = "CIDR")]
    pub(crate) target: Option<IpNet>,
    /// Ask for a tunnel of this IP protocol number only
    #[arg(long, value_name = "NUMBER")]
    pub(crate) protocol: Option<u8>,
    /// How to authenticate [default: concealed-key]
    #[arg(long, value_enum, value_name = "METHOD")]
    pub(crate) auth: Option<AuthMethod>,
    /// Largest IP packet of the tunnel [default: what path and gateway allow]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=9216))]
    pub(crate) mtu: Option<u16>,
    /// How long to look for packets before sleeping while they come close to each other; 0 saves
    /// power [default: 100]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(..=BUSY_POLL_MAX_US))]
    pub(crate) busy_poll_us: Option<u32>,
}

/// Where the gateways of a VPC are declared.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Find the gateway in a Kubernetes cluster, and have this machine let in there [FILE: $KUBECONFIG,
    /// else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<Option<PathBuf>>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub(crate) context: Option<String>,
    /// Namespace of the VPCIngressPoint [default: that of the context]
    #[arg(long, value_name = "NAMESPACE", requires = "kubeconfig")]
    pub(crate) namespace: Option<String>,
    /// The ConnectorAttachment to use or to make [default: this machine's, else CONNECTOR-VPC]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub(crate) attachment: Option<String>,
    /// How long to wait until the gateways expect this machine
    #[arg(long, value_name = "SECONDS", requires = "kubeconfig", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(..=3600))]
    pub(crate) wait: u32,
}

/// `attach`.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The VPC: NAME or NAMESPACE/NAME [default: the only profile]
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
    /// The tunnel.
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,
    /// The cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Name of the TUN device [default: the first free of dc0, dc1, …]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// Attach without a device: only `status` and `ping` use it; needs no privilege
    #[arg(long, conflicts_with_all = ["device", "default_route"])]
    pub(crate) no_tun: bool,
    /// Send everything into the tunnel; without it the default route is never touched
    #[arg(long)]
    pub(crate) default_route: bool,
    /// Return once the tunnel is up and leave it running
    #[arg(long)]
    pub(crate) background: bool,
    /// Go on trying when the first attempt fails
    #[arg(long)]
    pub(crate) keep_trying: bool,
    /// Take only what is typed, not what is remembered of this VPC
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Set by --background for the process that stays.
    #[arg(long, hide = true)]
    pub(crate) child: bool,
}

/// `detach`.
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// Only this VPC [default: every attachment]
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
}

/// `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this VPC
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
    /// Everything, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `ping`.
#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    /// An address of the VPC
    #[arg(required_unless_present = "gateway", conflicts_with = "gateway")]
    pub(crate) address: Option<IpAddr>,
    /// The gateway's end of the tunnel (ff02::1)
    #[arg(long)]
    pub(crate) gateway: bool,
    /// Which attachment [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
    /// How many echoes
    #[arg(long, short = 'c', value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) count: u16,
    /// Bytes of data in each
    #[arg(long, short = 's', value_name = "BYTES", default_value_t = 56,
        value_parser = clap::value_parser!(u16).range(..=9000))]
    pub(crate) size: u16,
    /// How long to wait for each answer, in milliseconds
    #[arg(long, short = 'W', value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) timeout_ms: u32,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The VPC [default: the only profile]
    #[arg(long, value_name = "NAME")]
    pub(crate) vpc: Option<VpcName>,
    /// The tunnel.
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,
    /// The findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `masque-gateway init` prints them, too.
    #[test]
    fn the_commands_of_the_readme_are_understood() {
        let lines = include_str!("../../../README.md").lines();
        let commands: Vec<&str> = lines
            .map(|line| line.strip_prefix("sudo ").unwrap_or(line))
            .filter(|line| line.starts_with("datum-connect "))
            .collect();
        assert!(commands.len() >= 4, "{commands:?}");
        for command in commands {
            let words = command.split_whitespace();
            let words = words.take_while(|word| !matches!(*word, "#" | ">"));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{command}: {error}");
            }
        }
    }
}
