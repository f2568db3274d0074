//! The command line.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use masque_telemetry::LogFormat;

use crate::{
    explain::ExplainArgs, operator_source::OperatorArgs, state::CONTROL_SOCKET, sysctls::Setting,
};

/// Terminates CONNECT-IP tunnels (RFC 9484) and bridges their packets into SRv6 VPCs.
#[derive(Debug, Parser)]
#[command(
    name = "masque-gateway",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What to do instead of running the gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a starter folder: commented manifests, a development CA and a server certificate.
    Init {
        /// The folder; made if absent, never overwritten.
        dir: PathBuf,
        /// Names and addresses clients will dial; more than one is allowed.
        #[arg(long = "host", default_values_t = [String::from("localhost"), String::from("127.0.0.1"), String::from("::1")])]
        hosts: Vec<String>,
    },
    /// Validate a folder of manifests: file, line, field, what is wrong, what would be right.
    Check {
        /// The folder.
        dir: PathBuf,
    },
    /// List the sessions of a running gateway.
    Sessions(AskArgs),
    /// Show what a running gateway does: VPCs, listeners, pools, shards, problems.
    Status(AskArgs),
    /// Say what becomes of a flow, and which rule decides.
    Explain(ExplainArgs),
    /// Write kernel settings of this network namespace, as a pod's privileged init container does.
    Sysctls {
        /// Such as net.ipv4.ip_forward=1; only names under net. are taken.
        #[arg(value_name = "NAME=VALUE", required = true)]
        settings: Vec<Setting>,
    },
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How to reach a running gateway.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The control socket of the gateway.
    #[arg(long, env = "MASQUE_GATEWAY_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    /// The state folder the gateway was started with; its control socket lies in it.
    #[arg(long, env = "STATE_DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The manifests folder the gateway runs on; its control socket is found from it.
    #[arg(long, env = "MASQUE_GATEWAY_MANIFESTS")]
    pub(crate) manifests: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How to run the gateway.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// The folder of manifests to run on; watched for changes.
    #[arg(long, env = "MASQUE_GATEWAY_MANIFESTS")]
    pub(crate) manifests: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
    /// Where addresses are remembered and the control socket lives [default: MANIFESTS/.state].
    #[arg(long, env = "STATE_DIRECTORY")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Packet threads, each with its own socket and TUN queue [default: one a core].
    #[arg(long, env = "MASQUE_GATEWAY_SHARDS", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) shards: Option<u16>,
    /// Longest time in microseconds that a packet thread looks for packets before it sleeps, while they
    /// come close to each other; 0 saves processor time and adds latency.
    #[arg(long, env = "MASQUE_GATEWAY_BUSY_POLL_US", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) busy_poll_us: u32,
    /// The address listeners bind to; `::` takes IPv4 too.
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    pub(crate) listen_address: IpAddr,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "MASQUE_GATEWAY_ADMIN", default_value = "127.0.0.1:9464")]
    pub(crate) admin: SocketAddr,
    /// The network device towards the SRv6 fabric [default: the one the routes to the SIDs name].
    #[arg(long)]
    pub(crate) underlay: Option<String>,
    /// Generic receive offload of the veth devices that packets arrive on, which a pod's are made
    /// without: several times faster where the node does not merge frames itself.
    #[arg(long, env = "MASQUE_GATEWAY_GRO", default_value_t, value_enum)]
    pub(crate) gro: GroPolicy,
    /// Log lines as text or json.
    #[arg(long, env = "MASQUE_GATEWAY_LOG", default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    /// Which log lines, such as `debug` or `info,masque_transport=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(crate) log_filter: String,
}

/// What happens to the devices' generic receive offload (GRO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroPolicy {
    /// Turn it on for veth devices with an address, and off again at the end.
    #[default]
    Auto,
    /// Leave every device as it is.
    Keep,
}

impl RunArgs {
    /// The state folder: as given, else `.state` beside the manifests.
    pub(crate) fn state_dir(&self) -> Option<PathBuf> {
        state_dir(self.state_dir.as_deref(), self.manifests.as_deref())
    }
}

impl AskArgs {
    /// The control socket: as given, else the one in the state folder, which is found as a run
    /// finds it.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.socket.clone().or_else(|| {
            state_dir(self.state_dir.as_deref(), self.manifests.as_deref())
                .map(|dir| dir.join(CONTROL_SOCKET))
        })
    }
}

fn state_dir(given: Option<&Path>, manifests: Option<&Path>) -> Option<PathBuf> {
    given
        .map(Path::to_owned)
        .or_else(|| manifests.map(|dir| dir.join(".state")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_state_folder_lies_beside_the_manifests() {
        let cli = Cli::parse_from(["masque-gateway", "--manifests", "/etc/m"]);
        assert_eq!(cli.run.state_dir(), Some(PathBuf::from("/etc/m/.state")));
    }

    #[test]
    fn settings_of_the_network_are_taken_and_no_others() {
        let parse = |text: &str| Cli::try_parse_from(["masque-gateway", "sysctls", text]);
        assert!(parse("net.ipv4.ip_forward=1").is_ok());
        let error = parse("kernel.panic=1").unwrap_err().to_string();
        assert!(error.contains("kernel.panic"), "{error}");
        assert!(Cli::try_parse_from(["masque-gateway", "sysctls"]).is_err());
    }

    #[test]
    fn questions_find_the_socket_where_a_run_put_it() {
        for (args, socket) in [
            (&["--manifests", "/m"][..], "/m/.state/control.sock"),
            (
                &["--manifests", "/m", "--state-dir", "/s"],
                "/s/control.sock",
            ),
            (&["--state-dir", "/s", "--socket", "/x"], "/x"),
        ] {
            let line = ["masque-gateway", "status"].iter().chain(args);
            let Some(Command::Status(ask)) = Cli::parse_from(line).command else {
                panic!("{args:?}");
            };
            assert_eq!(ask.socket(), Some(PathBuf::from(socket)));
        }
        let command = Cli::command();
        for name in ["status", "sessions", "explain"] {
            let ask = command.find_subcommand(name).unwrap();
            let dir = ask.get_arguments().find(|a| a.get_id() == "state_dir");
            assert_eq!(dir.unwrap().get_env().unwrap(), "STATE_DIRECTORY");
        }
    }
}
