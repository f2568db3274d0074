use std::{collections::BTreeSet, path::Path};

use masque_model::{Action, AttachmentSet, Direction, Fabric, ProtocolMatch};

use super::*;
use crate::manifests::{parse, read_folder};

mod conflicts;
mod examples;
mod refusals;
mod reload;

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

/// Compiles documents as a standalone gateway does; fails the test on manifests that do not parse.
fn compiled(text: &str) -> Compiled {
    after(text, &[])
}

/// The same, with snapshots in force.
fn after(text: &str, previous: &[Snapshot]) -> Compiled {
    let manifests = parse(&[("test.yaml".to_owned(), text.to_owned())]);
    let problems: Vec<_> = manifests.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0]);
    compile(&manifests.resources, NOW, &Options::standalone(), previous)
}

/// The problems as lines.
fn lines(compiled: &Compiled) -> Vec<String> {
    compiled.problems.iter().map(ToString::to_string).collect()
}

/// The problems' reasons.
fn reasons(compiled: &Compiled) -> Vec<Reason> {
    compiled
        .problems
        .iter()
        .map(|problem| problem.reason)
        .collect()
}

/// A small VPC: its ingress point `NAME` on port 4433 with the pool `10.NUMBER.100.0/24`.
fn point(name: &str, number: u8, more: &str) -> String {
    format!(
        "---
apiVersion: networking.datumapis.com/v1alpha1
kind: VPCIngressPoint
metadata: {{name: {name}}}
spec:
  vpcRef: {{name: {name}-vpc}}
  listeners: [{{name: public, port: 4433}}]
  addressPools: [{{cidr: 10.{number}.100.0/24}}]
  routes: [10.{number}.0.0/16]
  fabric:
    provider: Static
    static:
      localSID: 'fd00:0:1:3:e0{number:02x}::'
      sourceAddress: fd00:0:1:3::1
      routes: [{{prefix: 10.{number}.0.0/16, sid: 'fd00:0:1:1:e0{number:02x}::'}}]
{more}"
    )
}

/// A connector `NAME` with the key `NUMBER` everywhere.
fn connector(name: &str, number: u8) -> String {
    let id = format!("{number:02x}").repeat(32);
    format!(
        "---
apiVersion: networking.datumapis.com/v1alpha1
kind: Connector
metadata: {{name: {name}, labels: {{team: {name}}}}}
status: {{connectionDetails: {{type: PublicKey, publicKey: {{id: '{id}'}}}}}}
"
    )
}

/// An attachment of a connector to the VPC of a [`point`].
fn attachment(name: &str, connector: &str, point: &str, more: &str) -> String {
    format!(
        "---
apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {{name: {name}}}
spec:
  connectorRef: {{name: {connector}}}
  vpcRef: {{name: {point}-vpc}}
{more}"
    )
}

/// A policy on a [`point`].
fn policy(name: &str, point: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: networking.datumapis.com/v1alpha1
kind: VPCAccessPolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{kind: VPCIngressPoint, name: {point}}}]
  rules:
{rules}"
    )
}
