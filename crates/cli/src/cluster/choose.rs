//! Which ingress point of a VPC, and which of its listeners.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt};
use masque_api::VpcRef;
use masque_client::{GatewayUrl, VpcName};

use super::objects::{ListenerView, Point, is_vpc, name, point_conditions, rank, vpc_text};
use crate::failure::{Exit, Failure};

/// The protocol of listeners that this command can dial, and the default of the API.
const HTTP3: &str = "HTTP3";
/// How many names an error lists.
const SHOWN_MAX: usize = 8;

/// What a client of one listener needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where to; not known before the point has an address.
    pub(crate) gateway: Option<GatewayUrl>,
    /// Whether the operator issued the listener's certificate, so that its CA has to be trusted.
    pub(crate) own_ca: bool,
}

/// The ingress point of a VPC that takes attachments with these labels: Ready ones first, then the
/// oldest.
///
/// # Errors
/// There is none; what there is instead is said.
pub(crate) fn point<'a>(
    points: &'a [Point],
    vpc: &VpcName,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Result<&'a Point, Failure> {
    let of_vpc = points
        .iter()
        .filter(|point| is_vpc(&point.spec.vpc_ref, namespace, vpc));
    let order = |point: &&Point| {
        let place = rank(&point.metadata, point_conditions(point));
        (!takes(point, labels), place)
    };
    // A point that does not take the attachment is still one to ask why.
    of_vpc
        .min_by_key(order)
        .ok_or_else(|| no_point(points, vpc, namespace))
}

/// The first listener that can be dialled, and what its endpoint says.
///
/// # Errors
/// No listener speaks HTTP/3, or its URI is no URI of a gateway.
pub(crate) fn endpoint(point: &Point) -> Result<Endpoint, Failure> {
    let spoken = |listener: &&ListenerView| listener.protocol.as_deref().is_none_or(|p| p == HTTP3);
    let Some(listener) = point.spec.listeners.iter().find(spoken) else {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "VPCIngressPoint {} has no HTTP3 listener, and this command speaks no other",
                name(&point.metadata)
            ),
            "add one to its spec.listeners",
        ));
    };
    let endpoints = point.status.iter().flat_map(|status| &status.endpoints);
    let uri = endpoints
        .filter(|endpoint| endpoint.listener == listener.name)
        .find_map(|endpoint| endpoint.uri.as_deref());
    let gateway = uri.map(str::parse).transpose();
    Ok(Endpoint {
        gateway: gateway.map_err(|error: masque_client::GatewayUrlError| {
            let point = name(&point.metadata);
            Failure::new(
                Exit::Config,
                format!("the endpoint of VPCIngressPoint {point} is wrong: {error}"),
                "give `--gateway URL`",
            )
        })?,
        own_ca: listener
            .tls
            .as_ref()
            .is_none_or(|tls| tls.certificate_refs.is_empty()),
    })
}

/// Adds to a failed [`point`] where else the VPC has one.
pub(crate) fn elsewhere(failure: Failure, points: &[Point], vpc: &VpcName) -> Failure {
    let found = points.iter().find_map(|point| {
        let namespace = point.metadata.namespace.as_deref()?;
        is_vpc(&point.spec.vpc_ref, namespace, vpc).then_some(namespace)
    });
    match found {
        Some(namespace) => failure.advise(format!(
            "namespace {namespace} has one: `--namespace {namespace}`"
        )),
        None => failure,
    }
}

/// Whether a point's selector leaves attachments with these labels in. One that cannot be read is
/// the operator's to judge.
fn takes(point: &Point, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = point.spec.attachment_selector.clone() else {
        return true;
    };
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels))
}

fn no_point(points: &[Point], vpc: &VpcName, namespace: &str) -> Failure {
    let what = format!("there is no VPCIngressPoint of {vpc} in namespace {namespace}");
    let mut vpcs: Vec<String> = points
        .iter()
        .map(|point| vpc_text(&point.spec.vpc_ref, namespace))
        .collect();
    vpcs.sort();
    vpcs.dedup();
    let advice = match vpcs.as_slice() {
        [] => "name the namespace of the gateways: `--namespace NAMESPACE`".to_owned(),
        vpcs => {
            let more = if vpcs.len() > SHOWN_MAX { ", …" } else { "" };
            let shown = &vpcs[..vpcs.len().min(SHOWN_MAX)];
            format!("the VPCs there are: {}{more}", shown.join(", "))
        }
    };
    Failure::new(Exit::Config, what, advice)
}

/// A VPC as a reference from an object in `namespace`.
pub(crate) fn reference(vpc: &VpcName, namespace: &str) -> VpcRef {
    let mut reference = VpcRef::named(vpc.name());
    reference.namespace = vpc
        .namespace()
        .filter(|other| *other != namespace)
        .map(str::to_owned);
    reference
}

#[cfg(test)]
mod tests;
