//! A running operator: its tasks, and how they end.

use std::sync::Arc;

use kube::Client;
use tokio::{
    net::TcpListener,
    signal::unix::SignalKind,
    sync::{oneshot, watch},
};

use crate::{
    admin::{self, Admin},
    args::{Cli, OPERATOR_NAME},
    client,
    index::SharedIndex,
    leader,
    lease::Election,
    metrics::Metrics,
    watches,
};

/// Why the operator cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Metrics clash.
    #[error(transparent)]
    Metrics(#[from] masque_telemetry::MetricsError),
    /// No way to the API server.
    #[error("no way to the API server: {0}; run inside a cluster, or set KUBECONFIG")]
    Client(String),
    /// The admin address is taken.
    #[error("{address} cannot be used for --admin: {error}")]
    Admin {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] when it cannot even begin; afterwards faults are waited out.
pub(crate) async fn run(cli: Cli) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new()?);
    let client = client::connect(metrics.api_requests.clone())
        .await
        .map_err(|error| RunError::Client(error.to_string()))?;
    let admin = Arc::new(Admin::new(metrics.clone()));
    let listener = TcpListener::bind(cli.admin)
        .await
        .map_err(|error| RunError::Admin {
            address: cli.admin,
            error,
        })?;
    let stop = stop_signal()?;
    let server = tokio::spawn(serve_admin(listener, admin.clone(), stop.clone()));
    operate(&cli, client, &admin, stop).await;
    // Ends at the same signal.
    let _ended = server.await;
    Ok(())
}

/// Becomes true at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, RunError> {
    let mut term =
        tokio::signal::unix::signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut int =
        tokio::signal::unix::signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
        sender.send_replace(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives as long as the process.
    let _stopped = stop.wait_for(|stop| *stop).await;
}

async fn serve_admin(listener: TcpListener, admin: Arc<Admin>, stop: watch::Receiver<bool>) {
    let served = axum::serve(listener, admin::router(admin)).with_graceful_shutdown(stopped(stop));
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin endpoints ended");
    }
}

/// Waits for what is needed, then follows the API server and leads when it is our turn.
async fn operate(cli: &Cli, client: Client, admin: &Arc<Admin>, stop: watch::Receiver<bool>) {
    let metrics = admin.metrics.clone();
    tokio::select! {
        () = watches::wait_for_crds(&client, |missing| report_missing(admin, missing)) => {}
        () = stopped(stop.clone()) => return,
    }
    let index = SharedIndex::default();
    let _watches = watches::start(&client, cli.namespace.as_deref(), &index, &metrics);
    tokio::select! {
        () = synced(&index, admin) => {}
        () = stopped(stop.clone()) => return,
    }
    admin.waits_for(None);
    let (election, mut leadership) = Election::new(
        client.clone(),
        &cli.lease_namespace,
        OPERATOR_NAME,
        identity(&cli.pod_name),
    );
    // The Lease is given back only after the last term was dropped with all its writes.
    let (idle, all_done) = oneshot::channel::<()>();
    let election = tokio::spawn(election.run(async {
        // A sender that is gone says the same.
        let _done = all_done.await;
    }));
    let leading = async {
        while leadership.gained().await {
            metrics.leader.set(1);
            let term = leader::term(cli, &client, &index, &metrics, &leadership);
            let mut until = leadership.clone();
            tokio::select! {
                () = term => {}
                () = until.lost() => {}
            }
            metrics.leader.set(0);
        }
    };
    tokio::select! {
        () = leading => {}
        () = stopped(stop) => {}
    }
    // The election is alone now, and gives the Lease back.
    drop(idle);
    if let Err(error) = election.await {
        tracing::error!(%error, "the election ended");
    }
}

/// Waits for every first list; `/readyz` names those that have not ended, as when a right is missing.
async fn synced(index: &SharedIndex, admin: &Admin) {
    loop {
        let missing = index.lock().unsynced();
        if missing.is_empty() {
            return;
        }
        admin.waits_for(Some(format!(
            "the first lists have not ended: {}; if this lasts, see in the log whether the rights \
             to list and watch are missing",
            missing.join(", ")
        )));
        index.changed().await;
    }
}

fn report_missing(admin: &Admin, missing: &[String]) {
    for plural in watches::NEEDED {
        let crd = format!("{plural}.{}", masque_api::GROUP);
        let gauge = admin.metrics.crd_missing.with_label_values(&[&crd]);
        gauge.set(i64::from(missing.contains(&crd)));
    }
    admin.waits_for(Some(if missing.is_empty() {
        "the first lists have not ended".to_owned()
    } else {
        format!("missing CustomResourceDefinitions: {}", missing.join(", "))
    }));
}

/// Unique to this process: a container that restarts in its pod is another candidate, because its
/// predecessor may still have a write under way.
fn identity(pod: &str) -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let suffix = random.unwrap_or_else(|_| std::process::id().to_string());
    format!("{pod}_{}", suffix.trim())
}
