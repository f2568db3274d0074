//! What has to be made in the cluster before this machine is let in.

use masque_api::Connector;
use masque_client::{PublicId, VpcName, attachment_name};
use masque_model::ConnectorKey;

use super::objects::{
    Admission, admission_conditions, age, has_key, is_vpc, key_text, name, rank, vpc_text,
};
use crate::failure::{Exit, Failure};

/// Digits of a key that a message shows.
const KEY_DIGITS: usize = 8;

/// Who wants in where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The VPC.
    pub(crate) vpc: &'a VpcName,
    /// The namespace of the resources.
    pub(crate) namespace: &'a str,
    /// The ConnectorAttachment that was named.
    pub(crate) attachment: Option<&'a str>,
    /// The name for a new Connector.
    pub(crate) connector: &'a str,
    /// This machine's key.
    pub(crate) id: PublicId,
}

/// What to do about the Connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectorStep {
    /// Its key is ours.
    Known,
    /// It has no key yet; the version that was seen, so that of two machines one wins.
    Publish(Option<String>),
    /// There is none.
    Make,
}

/// What to use, and what to make first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) connector: String,
    pub(crate) connector_step: ConnectorStep,
    pub(crate) attachment: String,
    pub(crate) make_attachment: bool,
}

/// Compares what is wanted with what is there. `admissions` are the attachments to VPCs of this name.
///
/// # Errors
/// A Connector of the name has another key, or the named attachment is to another VPC.
pub(crate) fn plan(
    wanted: &Wanted<'_>,
    connectors: &[Connector],
    admissions: &[Admission],
) -> Result<Plan, Failure> {
    let key = ConnectorKey::from_bytes(*wanted.id.as_bytes());
    let mut own: Vec<&Connector> = connectors.iter().filter(|c| has_key(c, &key)).collect();
    own.sort_by_key(|c| (age(&c.metadata), name(&c.metadata)));
    let is_own = |connector: &str| own.iter().any(|c| name(&c.metadata) == connector);

    let named = wanted.attachment.and_then(|wanted| {
        let mut all = admissions.iter();
        all.find(|admission| name(&admission.metadata) == wanted)
    });
    if let Some(named) = named {
        check_vpc(named, wanted)?;
    }
    let mut usable: Vec<&Admission> = admissions
        .iter()
        .filter(|admission| is_vpc(&admission.spec.vpc_ref, wanted.namespace, wanted.vpc))
        .filter(|admission| is_own(&admission.spec.connector_ref.name))
        .collect();
    usable.sort_by_key(|admission| rank(&admission.metadata, admission_conditions(admission)));
    let found = match wanted.attachment {
        Some(_) => named,
        None => usable.first().copied(),
    };

    let connector = match (found, own.first()) {
        (Some(admission), _) => admission.spec.connector_ref.name.clone(),
        (None, Some(own)) => name(&own.metadata).to_owned(),
        (None, None) => wanted.connector.to_owned(),
    };
    let connector_step = match is_own(&connector) {
        true => ConnectorStep::Known,
        false => step(&connector, connectors, wanted)?,
    };
    // An attachment may be waiting for the key of its Connector.
    let waiting = || {
        let mut all = admissions.iter().filter(|admission| {
            is_vpc(&admission.spec.vpc_ref, wanted.namespace, wanted.vpc)
                && admission.spec.connector_ref.name == connector
        });
        all.next()
    };
    let found = match wanted.attachment {
        Some(_) => found,
        None => found.or_else(waiting),
    };
    let attachment = match (found, wanted.attachment) {
        (Some(admission), _) => name(&admission.metadata).to_owned(),
        (None, Some(named)) => named.to_owned(),
        (None, None) => attachment_name(&connector, wanted.vpc),
    };
    Ok(Plan {
        connector,
        connector_step,
        attachment,
        make_attachment: found.is_none(),
    })
}

/// What to do about a Connector whose key is not known to be ours.
fn step(
    connector: &str,
    connectors: &[Connector],
    wanted: &Wanted<'_>,
) -> Result<ConnectorStep, Failure> {
    let found = connectors.iter().find(|c| name(&c.metadata) == connector);
    let Some(found) = found else {
        return Ok(ConnectorStep::Make);
    };
    let Some(other) = key_text(found) else {
        return Ok(ConnectorStep::Publish(
            found.metadata.resource_version.clone(),
        ));
    };
    Err(Failure::new(
        Exit::CannotCreate,
        format!(
            "Connector {connector} in namespace {} has the key {}, this machine's is {}",
            wanted.namespace,
            digits(other),
            digits(&wanted.id.hex()),
        ),
        "it is another machine, or was this one before it got a new key; call this machine \
         otherwise: `datum-connect key --name NAME`",
    ))
}

fn check_vpc(named: &Admission, wanted: &Wanted<'_>) -> Result<(), Failure> {
    if is_vpc(&named.spec.vpc_ref, wanted.namespace, wanted.vpc) {
        return Ok(());
    }
    let vpc = vpc_text(&named.spec.vpc_ref, wanted.namespace);
    Err(Failure::new(
        Exit::Config,
        format!(
            "ConnectorAttachment {} is to {vpc}, not to {}",
            name(&named.metadata),
            wanted.vpc
        ),
        format!("name that VPC, `--vpc {vpc}`, or another `--attachment`"),
    ))
}

/// The beginning of a key.
fn digits(key: &str) -> String {
    let start: String = key.chars().take(KEY_DIGITS).collect();
    format!("{start}…")
}

#[cfg(test)]
mod tests;
