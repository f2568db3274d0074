//! The command line.

use std::net::SocketAddr;

use clap::Parser;
use masque_telemetry::LogFormat;

/// The ServiceAccount token's audience and the server name in the stream's certificate.
pub(crate) const OPERATOR_NAME: &str = "masque-operator";

/// Turns VPCIngressPoints, ConnectorAttachments and VPCAccessPolicies into gateway Deployments, and
/// streams Snapshots to their pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "masque-operator", version, about)]
pub(crate) struct Cli {
    /// Serve this namespace only [default: every namespace].
    #[arg(long, env = "MASQUE_OPERATOR_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The namespace of the operator's own Lease, CA Secret and Service.
    #[arg(long, env = "POD_NAMESPACE", default_value = "masque-system")]
    pub(crate) lease_namespace: String,
    /// Names this process in the Lease and in events.
    #[arg(long, env = "POD_NAME", default_value = OPERATOR_NAME)]
    pub(crate) pod_name: String,
    /// The image of the gateway pods.
    #[arg(long, env = "MASQUE_GATEWAY_IMAGE")]
    pub(crate) image: String,
    /// When the image of the gateway pods is pulled.
    #[arg(long, env = "MASQUE_GATEWAY_IMAGE_PULL_POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub(crate) image_pull_policy: Option<String>,
    /// Which log lines gateway pods write.
    #[arg(long, env = "MASQUE_GATEWAY_LOG_FILTER", default_value = "info")]
    pub(crate) gateway_log_filter: String,
    /// Where gateway pods connect; only the leader listens there.
    #[arg(
        long,
        env = "MASQUE_OPERATOR_STREAM_ADDRESS",
        default_value = "[::]:9443"
    )]
    pub(crate) stream_address: SocketAddr,
    /// What gateway pods dial [default: https://masque-operator.LEASE_NAMESPACE.svc:9443].
    #[arg(long, env = "MASQUE_OPERATOR_STREAM_URL")]
    pub(crate) stream_url: Option<String>,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "MASQUE_OPERATOR_ADMIN", default_value = "[::]:8080")]
    pub(crate) admin: SocketAddr,
    /// Log lines as text or json.
    #[arg(long, env = "MASQUE_OPERATOR_LOG", default_value_t = LogFormat::Text)]
    pub(crate) log: LogFormat,
    /// Which log lines, such as `debug` or `info,kube=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(crate) log_filter: String,
}

impl Cli {
    /// What gateway pods dial.
    pub(crate) fn stream_url(&self) -> String {
        self.stream_url.clone().unwrap_or_else(|| {
            format!(
                "https://{OPERATOR_NAME}.{}.svc:{}",
                self.lease_namespace,
                self.stream_address.port()
            )
        })
    }

    /// The host that gateway pods dial, when it was given: the stream's certificate names it.
    pub(crate) fn stream_host(&self) -> Option<String> {
        let url: http::Uri = self.stream_url.as_deref()?.parse().ok()?;
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
        Some(host.to_owned())
    }
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
    fn pods_dial_the_service_of_the_operators_namespace() {
        let words = [
            "masque-operator",
            "--image",
            "g:1",
            "--lease-namespace",
            "ops",
        ];
        let cli = Cli::parse_from(words);
        assert_eq!(cli.stream_url(), "https://masque-operator.ops.svc:9443");
    }
}
