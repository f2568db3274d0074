//! The command line of a gateway that an operator runs.

use std::path::PathBuf;

use clap::Args;
use masque_stream::{ClientConfig, Kept};

use crate::exit::Fatal;

/// How to reach the operator.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "In Kubernetes, instead of --manifests")]
pub(crate) struct OperatorArgs {
    /// The operator that says what to run, such as https://masque-operator.masque-system.svc:9443.
    #[arg(
        long = "operator",
        value_name = "URL",
        env = "MASQUE_GATEWAY_OPERATOR",
        conflicts_with = "manifests",
        requires_all = ["operator_ca", "operator_cert", "operator_key", "operator_token",
            "pod_name", "tls_dir", "state_dir"]
    )]
    pub(crate) url: Option<String>,
    /// The host name in the operator's certificate.
    #[arg(long, default_value = "masque-operator")]
    operator_server_name: String,
    /// The CA bundle that the operator's certificate is checked with.
    #[arg(long, value_name = "FILE")]
    operator_ca: Option<PathBuf>,
    /// The certificate that this gateway shows to the operator.
    #[arg(long, value_name = "FILE")]
    operator_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    /// The projected ServiceAccount token that this gateway shows to the operator.
    #[arg(long, value_name = "FILE")]
    operator_token: Option<PathBuf>,
    /// The name of the Pod.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// Certificates of listeners: a folder named as its Secret each, with tls.crt and tls.key;
    /// watched for changes.
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
}

impl OperatorArgs {
    /// What the stream needs; the Snapshot is kept in `kept`.
    ///
    /// # Errors
    /// [`Fatal::Usage`] when something was not given.
    pub(crate) fn config(&self, kept: Kept) -> Result<ClientConfig, Fatal> {
        Ok(ClientConfig {
            url: given(&self.url, "--operator")?,
            server_name: self.operator_server_name.clone(),
            ca: given(&self.operator_ca, "--operator-ca")?,
            certificate: given(&self.operator_cert, "--operator-cert")?,
            key: given(&self.operator_key, "--operator-key")?,
            token: given(&self.operator_token, "--operator-token")?,
            pod: given(&self.pod_name, "--pod-name")?,
            gateway_version: masque_telemetry::build_info().version.to_owned(),
            kept,
        })
    }
}

/// The grammar asks for these already.
fn given<T: Clone>(value: &Option<T>, name: &str) -> Result<T, Fatal> {
    value
        .clone()
        .ok_or_else(|| Fatal::Usage(format!("--operator needs {name} as well")))
}
