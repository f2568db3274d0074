//! One term of leadership: the stream is served and passes run; all of it ends with the term.

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, api::ListParams, core::DeserializeGuard};
use masque_api::ConnectorAttachment;
use masque_controller::children::ChildOptions;
use masque_stream::{Hub, ServerTls};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    args::{Cli, OPERATOR_NAME},
    certificates::Certificates,
    client::{CallError, call},
    index::SharedIndex,
    lease::Leadership,
    metrics::Metrics,
    reconcile::{Parts, Reconciler},
    tokens::TokenReviews,
    watches,
};

/// Between two attempts to begin.
const BEGIN_EVERY: Duration = Duration::from_secs(2);

/// Leads until dropped. Only the leader listens for gateway pods, so that every acknowledgement
/// reaches the process that writes status; a pod that dials a standby is refused at once and dials
/// again.
pub(crate) async fn term(
    cli: &Cli,
    client: &Client,
    index: &SharedIndex,
    metrics: &Arc<Metrics>,
    leadership: &Leadership,
) {
    let (certificates, listener) = loop {
        match begin(cli, client, index).await {
            Ok(begun) => break begun,
            Err(error) => tracing::warn!(%error, "cannot begin to lead yet"),
        }
        tokio::time::sleep(BEGIN_EVERY).await;
    };
    metrics.ca_expiry.set(certificates.expires_s());
    let hub = Hub::new();
    // Dropping the sender stops the server, also when this future is dropped.
    let (_serving, ended) = watch::channel(());
    let server = serve(client, listener, certificates.tls(), hub.clone(), ended);
    let reconciler = Reconciler::new(Parts {
        client: client.clone(),
        index: index.clone(),
        metrics: metrics.clone(),
        leadership: leadership.clone(),
        hub,
        certificates,
        options: child_options(cli),
        pod: cli.pod_name.clone(),
        namespace: cli.namespace.clone(),
    });
    tokio::select! {
        () = reconciler.run() => {}
        // It may end at once the next time as well.
        () = server => tokio::time::sleep(BEGIN_EVERY).await,
    }
}

/// Why a term cannot begin.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error("the CA: {0}")]
    Authority(#[from] crate::certificates::AuthorityError),
    #[error("the stream's address: {0}")]
    Listen(#[from] std::io::Error),
    #[error("the list of attachments: {0}")]
    Attachments(#[from] CallError),
}

async fn begin(
    cli: &Cli,
    client: &Client,
    index: &SharedIndex,
) -> Result<(Certificates, TcpListener), BeginError> {
    let host = cli.stream_host();
    let certificates =
        Certificates::load(client.clone(), &cli.lease_namespace, host.as_deref()).await?;
    let listener = TcpListener::bind(cli.stream_address).await?;
    refresh(cli, client, index).await?;
    Ok((certificates, listener))
}

/// Reads every attachment as the API server has it now. A watch may lag, and an address that the
/// leader before gave out must be known before any is given out.
async fn refresh(cli: &Cli, client: &Client, index: &SharedIndex) -> Result<(), CallError> {
    let api: Api<DeserializeGuard<ConnectorAttachment>> = match &cli.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut params = ListParams::default().limit(500);
    loop {
        let page = call(api.list(&params)).await?;
        let mut index = index.lock();
        for object in page.items {
            index.attachments.put(watches::seen(object));
        }
        // Every page is of the first one's moment.
        let version = page.metadata.resource_version.as_deref();
        let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
        index.attachments_as_of = index.attachments_as_of.max(version);
        drop(index);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn serve(
    client: &Client,
    listener: TcpListener,
    tls: ServerTls,
    hub: Hub,
    ended: watch::Receiver<()>,
) {
    let authenticator = Arc::new(TokenReviews::new(client.clone()));
    let stop = async move {
        let mut ended = ended;
        while ended.changed().await.is_ok() {}
    };
    let server = masque_stream::serve(listener, tls, authenticator, hub, stop);
    match tokio::spawn(server).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the stream's server ended"),
        Err(error) => tracing::error!(%error, "the stream's server failed"),
    }
}

fn child_options(cli: &Cli) -> ChildOptions {
    ChildOptions {
        image: cli.image.clone(),
        image_pull_policy: cli.image_pull_policy.clone(),
        operator_url: cli.stream_url(),
        operator_server_name: OPERATOR_NAME.to_owned(),
        log_filter: cli.gateway_log_filter.clone(),
        default_resources: None,
    }
}
