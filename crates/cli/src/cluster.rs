//! `attach --kubeconfig`: finds the gateway of a VPC in a Kubernetes cluster, and has this machine
//! let in there.
//!
//! The person's own rights decide what is made: the Connector with this machine's key, and the
//! ConnectorAttachment. What they may not make is printed for somebody who may.

mod api;
mod choose;
mod kubeconfig;
mod look;
mod objects;
mod plan;
mod refusal;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use masque_client::{
    GatewayUrl, ManifestInput, PublicId, VpcName, attachment_manifest, connector_manifest,
};

use self::{
    api::{ADMISSIONS, CONFIG_MAPS, CONNECTORS, CONNECTORS_STATUS, Cluster, POINTS},
    look::{Look, look},
    objects::{Admission, Point, key_text, name},
    plan::{ConnectorStep, Plan, Wanted, plan},
    refusal::Refusal,
};
use crate::{
    args::HOME_RELAY,
    commands::print,
    failure::{Exit, Failure},
};

/// How often is looked whether it is so far.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a key is published in a race with controllers.
const PUBLISH_TRIES_MAX: usize = 5;

/// A CA is a few hundred bytes; a profile holds it.
const CA_MAX_BYTES: usize = 32 * 1024;

/// What was typed about the cluster, and what is known of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The kubeconfig that was named.
    pub(crate) file: Option<&'a PathBuf>,
    /// Its context that was named.
    pub(crate) context: Option<&'a str>,
    /// The namespace that was named.
    pub(crate) namespace: Option<&'a str>,
    /// The ConnectorAttachment that was named.
    pub(crate) attachment: Option<&'a str>,
    /// How long to wait until this machine is let in.
    pub(crate) wait: Duration,
    /// The VPC.
    pub(crate) vpc: &'a VpcName,
    /// Name for a new Connector.
    pub(crate) connector: &'a str,
    /// This machine's key.
    pub(crate) id: PublicId,
    /// Whether the gateway has to be found; it may have been typed.
    pub(crate) need_gateway: bool,
    /// Whether its CA has to be found.
    pub(crate) need_ca: bool,
}

/// What the cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where to; always there when it had to be found.
    pub(crate) gateway: Option<GatewayUrl>,
    /// PEM of the authority that signed the gateway's certificate; none: the system's.
    pub(crate) ca_pem: Option<String>,
    /// The Connector's name.
    pub(crate) connector: String,
}

/// Asks the cluster, and waits until its gateways expect this machine.
///
/// # Errors
/// What is in the way, and what mends it.
pub(crate) fn find(request: &Request<'_>) -> Result<Found, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Io, format!("no event loop: {error}"), ""))?;
    runtime.block_on(ask(request))
}

async fn ask(request: &Request<'_>) -> Result<Found, Failure> {
    let config = kubeconfig::load(request.file.map(PathBuf::as_path), request.context).await?;
    let cluster = Cluster::new(config, request.namespace)?;
    let namespace = cluster.namespace.clone();
    line(
        "cluster",
        &format!("{}, namespace {namespace}", cluster.server),
    );
    let points = cluster.points().await?;
    // Before anything is made: who cannot be led anywhere needs no Connector.
    let first = choose::point(&points, request.vpc, &namespace, &Default::default());
    if let Err(failure) = first {
        let anywhere = cluster.points_anywhere().await;
        return Err(choose::elsewhere(failure, &anywhere, request.vpc));
    }
    let connectors = cluster.connectors().await?;
    let admissions = cluster.admissions(request.vpc).await?;
    let wanted = Wanted {
        vpc: request.vpc,
        namespace: &namespace,
        attachment: request.attachment,
        connector: request.connector,
        id: request.id,
    };
    let plan = plan(&wanted, &connectors, &admissions)?;
    make(&cluster, &plan, request).await?;
    let mut known = admissions.iter();
    let known = known.find(|admission| name(&admission.metadata) == plan.attachment);
    let labels = known.and_then(|admission| admission.metadata.labels.clone());
    let point = choose::point(
        &points,
        request.vpc,
        &namespace,
        &labels.unwrap_or_default(),
    )?;
    wait(&cluster, name(&point.metadata), &plan, request).await
}

/// Makes what is missing.
async fn make(cluster: &Cluster, plan: &Plan, request: &Request<'_>) -> Result<(), Failure> {
    let Plan {
        connector,
        attachment,
        ..
    } = plan;
    let mut publish = None;
    match &plan.connector_step {
        ConnectorStep::Known => line("connector", connector),
        ConnectorStep::Publish(version) => publish = Some(version.clone()),
        ConnectorStep::Make => {
            let made = cluster.make_connector(connector, request.id, HOME_RELAY);
            let version = made.await.map_err(|refusal| {
                refused(cluster, plan, request, &refusal, "create", CONNECTORS)
            })?;
            line("connector", &format!("{connector}, made"));
            publish = version.map(Some);
        }
    }
    if let Some(version) = publish {
        publish_key(cluster, connector, version, request.id)
            .await
            .map_err(|refusal| {
                refused(cluster, plan, request, &refusal, "patch", CONNECTORS_STATUS)
            })?;
        line(
            "connector",
            &format!("{connector} has this machine's key now"),
        );
    }
    if plan.make_attachment {
        let made = cluster.make_admission(plan, request.vpc);
        let keyed = Plan {
            connector_step: ConnectorStep::Known,
            ..plan.clone()
        };
        made.await
            .map_err(|refusal| refused(cluster, &keyed, request, &refusal, "create", ADMISSIONS))?;
        line("attachment", &format!("{attachment}, made"));
    } else {
        line("attachment", attachment);
    }
    Ok(())
}

/// Publishes the key of a Connector that has none. Controllers write to its status too: what they
/// changed meanwhile is read again, and only another key is in the way.
async fn publish_key(
    cluster: &Cluster,
    connector: &str,
    mut version: Option<String>,
    id: PublicId,
) -> Result<(), Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let published = cluster.publish_key(connector, version.as_deref(), id, HOME_RELAY);
        let refusal = match published.await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        if !refusal.is_conflict() || tries == PUBLISH_TRIES_MAX {
            return Err(refusal);
        }
        let changed = cluster.connector(connector).await?;
        if key_text(&changed).is_some() {
            return Err(refusal);
        }
        version = changed.metadata.resource_version;
    }
}

/// What could not be made. When that is for want of rights, prints it for somebody who has them.
fn refused(
    cluster: &Cluster,
    plan: &Plan,
    request: &Request<'_>,
    refusal: &Refusal,
    verb: &'static str,
    resource: &'static str,
) -> Failure {
    let failure = cluster.failure(verb, resource, refusal);
    if refusal.is_conflict() {
        let (exit, advice) = match resource {
            ADMISSIONS => (
                Exit::CannotCreate,
                "that name is taken: `--attachment NAME` chooses another",
            ),
            _ => (
                Exit::TemporaryFailure,
                "somebody else was faster; try again",
            ),
        };
        let mut failure = failure.advise(advice);
        failure.exit = exit;
        return failure;
    }
    if !refusal.is_forbidden() {
        return failure;
    }
    let (yaml, advice) = for_others(plan, request, &cluster.namespace);
    match print(&yaml) {
        Ok(()) => failure.advise(advice),
        Err(unprinted) => unprinted,
    }
}

/// The manifests of what is missing, and what somebody with rights does with them.
fn for_others(plan: &Plan, request: &Request<'_>, namespace: &str) -> (String, String) {
    let input = ManifestInput {
        connector: &plan.connector,
        id: request.id,
        vpc: Some(request.vpc),
        attachment: Some(&plan.attachment),
        namespace: Some(namespace),
        home_relay: HOME_RELAY,
        allowed_routes: &[],
    };
    let mut documents = Vec::new();
    let mut commands = vec!["kubectl apply --server-side -f FILE"];
    if plan.connector_step != ConnectorStep::Known {
        documents.push(connector_manifest(&input));
        // The key is part of the status, which a plain apply leaves out.
        commands.push("kubectl apply --server-side --subresource=status -f FILE");
    }
    if plan.make_attachment {
        documents.push(attachment_manifest(&input, request.vpc));
    }
    let advice = format!(
        "give what is printed above to somebody who may: `{}`, then run this again",
        commands.join(" && ")
    );
    (documents.join("---\n"), advice)
}

/// Waits until gateways expect this machine and can be dialled.
async fn wait(
    cluster: &Cluster,
    point: &str,
    plan: &Plan,
    request: &Request<'_>,
) -> Result<Found, Failure> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let waiting = match step(cluster, point, plan, request).await? {
            Step::There(found) => return Ok(found),
            Step::Waiting(waiting) => waiting,
        };
        if begun.elapsed() >= request.wait {
            let seconds = request.wait.as_secs();
            return Err(Failure::new(
                Exit::TemporaryFailure,
                format!("not let in within {seconds} s: {waiting}"),
                format!(
                    "look at `kubectl -n {} describe vpcip/{point} cna/{}`, or wait longer: \
                     `--wait SECONDS`",
                    cluster.namespace, plan.attachment
                ),
            ));
        }
        if waiting != told {
            line("waiting", &waiting);
            told = waiting;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How far it is.
enum Step {
    There(Found),
    Waiting(String),
}

async fn step(
    cluster: &Cluster,
    point: &str,
    plan: &Plan,
    request: &Request<'_>,
) -> Result<Step, Failure> {
    let point: Point = match cluster.point(point).await {
        Ok(point) => point,
        Err(refusal) => return passing(cluster, &refusal, POINTS, point),
    };
    let admission: Admission = match cluster.admission(&plan.attachment).await {
        Ok(admission) => admission,
        Err(refusal) => return passing(cluster, &refusal, ADMISSIONS, &plan.attachment),
    };
    let endpoint = match look(&point, &admission, request.need_gateway) {
        Look::Ready(endpoint) => endpoint,
        Look::Waiting(what) => return Ok(Step::Waiting(what)),
        Look::Over(failure) => return Err(failure),
    };
    let mut ca_pem = None;
    if request.need_ca && endpoint.own_ca {
        let name = name(&point.metadata);
        ca_pem = match cluster.client_ca(name).await {
            Ok(Some(pem)) if pem.len() > CA_MAX_BYTES => {
                return Err(Failure::new(
                    Exit::Config,
                    format!("the CA of {name} has {} bytes", pem.len()),
                    "give the CA of its gateways: `--ca FILE`",
                ));
            }
            Ok(Some(pem)) => Some(pem),
            Ok(None) => {
                let what = format!("the operator has not written the CA of {name} yet");
                return Ok(Step::Waiting(what));
            }
            Err(refusal) => {
                let step = passing(cluster, &refusal, CONFIG_MAPS, name);
                return step.map_err(|failure| match refusal.is_forbidden() {
                    true => failure.advise(
                        "ask for the role in docs/kubernetes/tasks/give-access.md, or for the \
                         CA: `--ca FILE`",
                    ),
                    false => failure,
                });
            }
        };
    }
    let status = admission.status.as_ref();
    let addresses = status.map_or(&[][..], |status| &status.assigned_ips);
    line("let in", &format!("as {}", addresses.join(", ")));
    Ok(Step::There(Found {
        gateway: endpoint.gateway,
        ca_pem,
        connector: plan.connector.clone(),
    }))
}

/// A call that failed while waiting: some failures pass.
fn passing(
    cluster: &Cluster,
    refusal: &Refusal,
    resource: &'static str,
    name: &str,
) -> Result<Step, Failure> {
    let failure = cluster.failure("get", resource, refusal);
    if refusal.is_passing() {
        return Ok(Step::Waiting(failure.to_string()));
    }
    Err(match refusal.is_not_found() {
        true => Failure::new(
            Exit::TemporaryFailure,
            format!("somebody deleted {resource} {name} meanwhile"),
            "run this again",
        ),
        false => failure,
    })
}

fn line(what: &str, detail: &str) {
    say!("  {what:<14}{detail}");
}

#[cfg(test)]
mod tests;
