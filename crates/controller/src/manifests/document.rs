//! One document: which kind it is, whether it fits the schema, and its place among the resources.

use std::{collections::BTreeMap, sync::Arc};

use data_encoding::BASE64;
use kube::Resource;
use masque_api::{API_VERSION, ConditionType, GROUP, Reason};
use masque_model::ObjectName;
use serde::de::DeserializeOwned;

use super::{
    Manifests,
    schema::{self, Finding, join},
    schemas,
    yaml::{self, Node, Value},
};
use crate::{
    Kind, Location, ObjectRef, Origin, Problem, Secret, Severity, Sourced,
    resources::DEFAULT_NAMESPACE, suggest,
};

/// Reads one document into `manifests`, as an object or as problems.
pub(super) fn read(file: &str, first_line: u32, text: &str, manifests: &mut Manifests) {
    match yaml::parse(text, first_line) {
        Ok(node) => Reader { file, manifests }.document(&node, ""),
        Err(error) => {
            manifests.resources.incomplete = true;
            let finding = Finding {
                line: error.line,
                field: String::new(),
                message: error.message,
                hint: error.hint,
            };
            Reader { file, manifests }.report(None, Severity::Error, finding);
        }
    }
}

struct Reader<'a> {
    file: &'a str,
    manifests: &'a mut Manifests,
}

/// A document whose kind and name are known.
struct Named<'a> {
    node: &'a Node,
    /// The path of the document itself: empty, or an item of a List.
    path: &'a str,
    kind: Kind,
    object: ObjectRef,
}

impl Reader<'_> {
    fn document(&mut self, node: &Node, path: &str) {
        let api_version = node
            .field("apiVersion")
            .and_then(Node::text)
            .unwrap_or_default();
        let kind = node.field("kind").and_then(Node::text).unwrap_or_default();
        if kind == LIST && path.is_empty() {
            return self.list(node);
        }
        let name = name_of(node);
        let object = name.clone().map(|name| ObjectRef {
            kind: kind.to_owned(),
            name,
        });
        if kind.is_empty() || api_version.is_empty() {
            self.manifests.resources.incomplete = true;
            let message = if node.field("kind").is_none() {
                "kind"
            } else {
                "apiVersion"
            };
            let hint = format!("begin with apiVersion: {API_VERSION} and a kind");
            let finding = finding(node.line, path, format!("{message} is missing"), hint);
            return self.report(None, Severity::Error, finding);
        }
        match classify(api_version, kind) {
            Class::Read(kind) => self.known(node, path, kind, name),
            Class::Misspelled(meant) => {
                // What it was before the typo stays in force.
                self.remember_unreadable(Some(meant), name);
                let hint = format!("did you mean {meant}?");
                let finding = not_read(node, path, (api_version, kind), hint);
                self.report(object, Severity::Error, finding);
            }
            Class::Foreign if is_almost_a_list(node, kind) => {
                // Whatever is in it may be in force.
                self.manifests.resources.incomplete = true;
                let hint = format!("did you mean {LIST}?");
                let finding = not_read(node, path, (api_version, kind), hint);
                self.report(object, Severity::Error, finding);
            }
            Class::Foreign => {
                let finding = not_read(node, path, (api_version, kind), "");
                self.report(object, Severity::Warning, finding);
            }
            Class::WrongVersion => {
                let message = format!("{api_version:?} is not where {kind} is");
                let line = node
                    .field("apiVersion")
                    .map_or(node.line, |version| version.line);
                let hint = format!("write {API_VERSION}");
                self.remember_unreadable(kind_named(kind), name);
                self.report(
                    object,
                    Severity::Error,
                    finding(line, &join(path, "apiVersion"), message, hint),
                );
            }
        }
    }

    fn list(&mut self, node: &Node) {
        match node.field("items").map(|items| &items.value) {
            Some(Value::List(items)) => {
                for (i, item) in items.iter().enumerate() {
                    self.document(item, &format!("items[{i}]"));
                }
            }
            _ => {
                // Whatever was in it may be in force.
                self.manifests.resources.incomplete = true;
                let hint = "write the objects as documents separated by ---";
                let message = "a List needs items".to_owned();
                self.report(
                    None,
                    Severity::Error,
                    finding(node.line, "items", message, hint),
                );
            }
        }
    }

    fn known(&mut self, node: &Node, path: &str, kind: Kind, name: Option<ObjectName>) {
        let object = ObjectRef::new(
            kind,
            name.clone().unwrap_or_else(|| ObjectName::new("", "")),
        );
        let named = Named {
            node,
            path,
            kind,
            object,
        };
        let findings = schemas::of(kind).map_or_else(Vec::new, |s| schema::check(node, s, path));
        let wrong = !findings.is_empty();
        for mut finding in findings {
            let nameless = match finding.message.as_str() {
                "name is missing" => finding.field == join(path, "metadata"),
                message => message == "metadata is missing",
            };
            if nameless {
                finding.hint = format!("give the {kind} a name under metadata");
            }
            let object = name.is_some().then(|| named.object.clone());
            self.report(object, Severity::Error, finding);
        }
        if wrong {
            return self.remember_unreadable(Some(kind), name);
        }
        if let Some(first) = self.place(&named) {
            let message = format!("there are two of it, the other one is at {first}");
            let hint = "remove one of them";
            let finding = finding(node.line, &join(path, "metadata.name"), message, hint);
            return self.report(Some(named.object), Severity::Error, finding);
        }
        let resources = &mut self.manifests.resources;
        let outcome = match kind {
            Kind::VPCIngressPoint => typed(&named, self.file, &mut resources.ingress_points),
            Kind::ConnectorAttachment => typed(&named, self.file, &mut resources.attachments),
            Kind::VPCAccessPolicy => typed(&named, self.file, &mut resources.policies),
            Kind::Connector => typed(&named, self.file, &mut resources.connectors),
            Kind::Secret => secret(&named).map(|secret| {
                resources.secrets.insert(named.object.name.clone(), secret);
            }),
            Kind::Vpc => {
                let vpcs = resources.vpcs.get_or_insert_default();
                Arc::make_mut(vpcs).insert(named.object.name.clone());
                Ok(())
            }
        };
        match outcome {
            Ok(()) => {
                let place = Location {
                    file: self.file.to_owned(),
                    line: node.line,
                };
                let key = (kind, named.object.name.clone());
                self.manifests.places.insert(key, place);
            }
            Err(finding) => {
                self.remember_unreadable(Some(kind), name);
                self.report(Some(named.object), Severity::Error, finding);
            }
        }
    }

    /// Where an object of this kind and name already stood.
    fn place(&self, named: &Named<'_>) -> Option<&Location> {
        self.manifests
            .places
            .get(&(named.kind, named.object.name.clone()))
    }

    fn remember_unreadable(&mut self, kind: Option<Kind>, name: Option<ObjectName>) {
        let resources = &mut self.manifests.resources;
        match (kind, name) {
            (Some(kind), Some(name)) => {
                resources.unreadable.insert((kind, name));
            }
            _ => resources.incomplete = true,
        }
    }

    fn report(&mut self, object: Option<ObjectRef>, severity: Severity, finding: Finding) {
        self.manifests.problems.push(Problem {
            location: Some(Location {
                file: self.file.to_owned(),
                line: finding.line,
            }),
            object,
            field: finding.field,
            severity,
            condition: ConditionType::Accepted,
            reason: Reason::Invalid,
            message: finding.message,
            hint: finding.hint,
        });
    }
}

/// The kind of a document that holds others.
const LIST: &str = "List";

enum Class {
    /// A kind that is read.
    Read(Kind),
    /// Somebody else's kind.
    Foreign,
    /// No kind of our group, and probably meant to be this one.
    Misspelled(Kind),
    /// Our kind in another group or version.
    WrongVersion,
}

fn classify(api_version: &str, kind: &str) -> Class {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        // The kind of a VPC has moved between groups; only its name matters here.
        (_, "VPC") => return Class::Read(Kind::Vpc),
        ("", "Secret") => return Class::Read(Kind::Secret),
        _ => {}
    }
    match kind_named(kind) {
        Some(Kind::Secret) | None if group == GROUP => {
            let here = Kind::OURS.iter().chain([&Kind::Connector]);
            let meant = suggest::closest(kind, here.map(|kind| kind.as_str()));
            let meant = meant.and_then(kind_named);
            meant.map_or(Class::Foreign, Class::Misspelled)
        }
        Some(Kind::Secret) | None => Class::Foreign,
        Some(kind) if api_version == API_VERSION => Class::Read(kind),
        Some(_) => Class::WrongVersion,
    }
}

/// Whether a document of items is called a List but for a typo.
fn is_almost_a_list(node: &Node, kind: &str) -> bool {
    node.field("items").is_some() && suggest::closest(kind, [LIST]).is_some()
}

fn not_read(
    node: &Node,
    path: &str,
    (api_version, kind): (&str, &str),
    hint: impl Into<String>,
) -> Finding {
    let line = node.field("kind").map_or(node.line, |kind| kind.line);
    let message = format!("the kind {kind} of {api_version} is not read");
    finding(line, &join(path, "kind"), message, hint)
}

fn kind_named(kind: &str) -> Option<Kind> {
    Kind::ALL
        .iter()
        .find(|known| known.as_str() == kind)
        .copied()
}

/// Namespace and name, as far as they are texts.
fn name_of(node: &Node) -> Option<ObjectName> {
    let metadata = node.field("metadata")?;
    let name = metadata.field("name")?.text()?;
    let namespace = metadata.field("namespace").and_then(Node::text);
    Some(ObjectName::new(
        namespace.unwrap_or(DEFAULT_NAMESPACE),
        name,
    ))
}

fn finding(line: u32, field: &str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        line,
        field: field.to_owned(),
        message: message.into(),
        hint: hint.into(),
    }
}

/// Converts a document that fits its schema.
fn typed<T: DeserializeOwned + Resource>(
    named: &Named<'_>,
    file: &str,
    objects: &mut Vec<Sourced<T>>,
) -> Result<(), Finding> {
    let mut json = named.node.to_json();
    if let Some(map) = json.as_object_mut() {
        match named.kind {
            // Its status is what is read, and nothing of its spec is needed.
            Kind::Connector => {
                map.entry("spec").or_insert_with(|| serde_json::json!({}));
            }
            // Written by a controller, exported with the object, and never read here.
            _ => {
                map.remove("status");
            }
        }
    }
    let object = serde_json::from_value(json).map_err(|error| {
        finding(
            named.node.line,
            named.path,
            error.to_string(),
            "compare it with the reference",
        )
    })?;
    let mut origin = Origin {
        file: file.to_owned(),
        line: named.node.line,
        lines: BTreeMap::new(),
    };
    lines(named.node, "", &mut origin.lines);
    objects.push(Sourced {
        object: Arc::new(object),
        origin: Some(Arc::new(origin)),
    });
    Ok(())
}

/// Collects the line of every field.
fn lines(node: &Node, path: &str, found: &mut BTreeMap<String, u32>) {
    match &node.value {
        Value::Map(entries) => {
            for (key, value) in entries {
                let path = join(path, &key.text);
                found.insert(path.clone(), key.line);
                lines(value, &path, found);
            }
        }
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                found.insert(path.clone(), item.line);
                lines(item, &path, found);
            }
        }
        _ => {}
    }
}

/// Decodes a Secret. No message ever shows its content.
fn secret(named: &Named<'_>) -> Result<Secret, Finding> {
    let mut data = BTreeMap::new();
    let entries = |field: &str| match named.node.field(field).map(|node| &node.value) {
        Some(Value::Map(entries)) => entries.as_slice(),
        _ => &[],
    };
    for (key, value) in entries("data") {
        // Long values are often wrapped.
        let text: String = value
            .text()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| {
            let hint = "encode it with base64, or put it under stringData";
            finding(key.line, &format!("data.{}", key.text), "not base64", hint)
        })?;
        data.insert(key.text.clone(), bytes);
    }
    for (key, value) in entries("stringData") {
        let text = value.text().unwrap_or_default();
        data.insert(key.text.clone(), text.as_bytes().to_vec());
    }
    let type_ = named
        .node
        .field("type")
        .and_then(Node::text)
        .unwrap_or("Opaque")
        .to_owned();
    if type_ == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if data.get(key).is_none_or(Vec::is_empty) {
                let hint = "a kubernetes.io/tls Secret has tls.crt and tls.key";
                return Err(finding(
                    named.node.line,
                    "data",
                    format!("{key} is missing"),
                    hint,
                ));
            }
        }
    }
    Ok(Secret { type_, data })
}
