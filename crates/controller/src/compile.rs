//! Compiles resources into snapshots: pure, deterministic, and independent of the order in which the
//! resources are given.
//!
//! An object that was in force and cannot be read at present (a typo in a live edit) stays in force
//! as it last was, as if the edit had been refused; see [`Resources::unreadable`].

use std::collections::{BTreeMap, BTreeSet};

use masque_api::{ListenerProtocol, Reason, VPCIngressPoint};
use masque_model::{ObjectName, Snapshot};

use crate::{
    Kind, Problem, Resources, Sourced, manifests,
    validate::{self, Draft, Report, Selection},
};

mod attach;
mod conflict;
mod connectors;
pub(crate) mod defaults;
mod rules;

pub(crate) use attach::unavailable;

/// Attachments of one snapshot.
pub const MAX_ATTACHMENTS: usize = 20_000;

/// Rules of one snapshot: as many as a gateway takes.
pub const MAX_RULES: usize = 16_384;

/// Names of attachments in the rules of one snapshot, all rules together.
pub const MAX_RULE_ATTACHMENTS: usize = 1_000_000;

/// What the caller knows besides the resources.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the gateways are able to do.
    pub built: Built,
    /// Every ingress point listens on the same addresses, so that ports may clash: standalone mode.
    pub shared_host: bool,
    /// Ingress points and attachments may refer to a VPC of another namespace: standalone mode,
    /// where one person owns the folder.
    pub cross_namespace_vpcs: bool,
    /// A name in a policy that leads nowhere is an error, not something that may come later:
    /// standalone mode, where the folder is all there is.
    pub names_must_exist: bool,
    /// Secrets that are there, besides those of the resources.
    pub secrets: BTreeSet<ObjectName>,
}

impl Options {
    /// Options of a gateway that reads a folder.
    pub fn standalone() -> Self {
        Self {
            shared_host: true,
            cross_namespace_vpcs: true,
            names_must_exist: true,
            ..Self::default()
        }
    }
}

/// What the gateways are able to do. The rest of the API is refused with a clear text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Protocols a listener may speak.
    pub listener_protocols: BTreeSet<ListenerProtocol>,
}

impl Default for Built {
    fn default() -> Self {
        Self {
            listener_protocols: [ListenerProtocol::HTTP3].into(),
        }
    }
}

/// What became of the resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// One snapshot per ingress point that is in force, sorted by its name.
    pub snapshots: Vec<Snapshot>,
    /// What is wrong, by file and line, then by object.
    pub problems: Vec<Problem>,
}

/// Compiles `resources` into one snapshot per ingress point.
///
/// `now_unix_s` only serves to say that a rule has ended; rules carry their end to the gateway.
/// `previous` are the snapshots in force: one whose content did not change comes back unchanged,
/// version included, and one that changed gets the next version. Compiling the same again with its
/// own result as `previous` changes nothing.
pub fn compile(
    resources: &Resources,
    now_unix_s: u64,
    options: &Options,
    previous: &[Snapshot],
) -> Compiled {
    Points::check(resources, options, previous).compile(resources, now_unix_s, options, previous)
}

/// Ingress points, checked by themselves and against each other: the first half of [`compile`].
///
/// Without [`Options::cross_namespace_vpcs`] nothing else looks beyond its namespace, so that the
/// parts of [`by_namespace`](Self::by_namespace) may be compiled one by one, each with the objects
/// of its namespace alone: together they are what [`compile`] makes of all objects, but for hints
/// at what is in other namespaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    drafts: Drafts,
    problems: Vec<Problem>,
    retained: bool,
}

impl Points {
    /// Checks the ingress points of `resources`.
    pub fn check<'a>(
        resources: &Resources,
        options: &Options,
        previous: impl IntoIterator<Item = &'a Snapshot>,
    ) -> Self {
        let mut options = options.clone();
        options.secrets.extend(resources.secrets.keys().cloned());
        let mut compiler = Compiler::new(resources, 0, &options, previous);
        let (drafts, retained) = compiler.ingress_points();
        Self {
            drafts,
            problems: compiler.problems,
            retained,
        }
    }

    /// Whether an ingress point that cannot be read stays in force, so that this depends on the
    /// snapshots in force as well.
    pub fn retained(&self) -> bool {
        self.retained
    }

    /// The same, apart for each namespace.
    pub fn by_namespace(self) -> BTreeMap<String, Self> {
        let mut parts: BTreeMap<String, Self> = BTreeMap::new();
        for (name, draft) in self.drafts {
            let part = parts.entry(name.namespace.clone()).or_default();
            part.drafts.insert(name, draft);
        }
        for problem in self.problems {
            let object = problem.object.as_ref();
            let namespace = object.map(|object| object.name.namespace.clone());
            let part = parts.entry(namespace.unwrap_or_default()).or_default();
            part.problems.push(problem);
        }
        parts
    }

    /// Adds attachments and rules: the second half of [`compile`], with the same arguments.
    pub fn compile<'a>(
        self,
        resources: &Resources,
        now_unix_s: u64,
        options: &Options,
        previous: impl IntoIterator<Item = &'a Snapshot>,
    ) -> Compiled {
        let mut compiler = Compiler::new(resources, now_unix_s, options, previous);
        compiler.problems = self.problems;
        let mut drafts = self.drafts;
        compiler.attachments(&mut drafts);
        compiler.policies(&mut drafts);
        let snapshots = drafts
            .into_values()
            .map(|draft| compiler.versioned(draft.snapshot))
            .collect();
        let mut problems = compiler.problems;
        manifests::settle(&mut problems);
        Compiled {
            snapshots,
            problems,
        }
    }
}

/// Ingress points in force, by name.
type Drafts = BTreeMap<ObjectName, Draft>;

struct Compiler<'a> {
    resources: &'a Resources,
    options: &'a Options,
    now_unix_s: u64,
    previous: BTreeMap<&'a ObjectName, &'a Snapshot>,
    problems: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    fn new<'p: 'a>(
        resources: &'a Resources,
        now_unix_s: u64,
        options: &'a Options,
        previous: impl IntoIterator<Item = &'p Snapshot>,
    ) -> Self {
        let previous = previous.into_iter().map(|old| (&old.ingress_point, old));
        Self {
            resources,
            options,
            now_unix_s,
            previous: previous.collect(),
            problems: Vec::new(),
        }
    }
}

impl Compiler<'_> {
    /// Those that may be in force, and whether any is there although it cannot be read.
    fn ingress_points(&mut self) -> (Drafts, bool) {
        let mut sources: Vec<_> = self.resources.ingress_points.iter().collect();
        sources.sort_by_cached_key(|sourced| sourced.precedence());
        let mut drafts = Drafts::new();
        let mut refused = BTreeSet::new();
        let mut candidates = Vec::new();
        for sourced in sources {
            let mut report = Report::new(Kind::VPCIngressPoint, sourced, &mut self.problems);
            match validate::ingress_point(sourced, self.options, &mut report) {
                Some(draft) => candidates.push((sourced, draft)),
                None => {
                    refused.insert(sourced.name());
                }
            }
        }
        self.retain_ingress_points(&refused, &candidates, &mut drafts);
        if self.options.shared_host {
            self.hold_source_address(&mut candidates, &mut drafts);
        }
        let retained = !drafts.is_empty();
        for (sourced, draft) in candidates {
            let mut report = Report::new(Kind::VPCIngressPoint, sourced, &mut self.problems);
            let spec = &sourced.object.spec;
            for other in drafts.values() {
                conflict::ingress_points(&draft, spec, other, self.options, &mut report);
            }
            if report.failed() {
                continue;
            }
            if let Some(vpcs) = &self.resources.vpcs
                && !vpcs.contains(&draft.snapshot.vpc)
            {
                let message = format_args!("there is no VPC {}", draft.snapshot.vpc);
                let hint = connectors::meant(
                    &draft.snapshot.vpc,
                    vpcs.iter(),
                    "add it, or correct the name",
                );
                report.warn("spec.vpcRef.name", Reason::VPCNotFound, message, hint);
            }
            drafts.insert(sourced.name(), draft);
        }
        (drafts, retained)
    }

    /// Ingress points that were in force and cannot be read now stay as they were, with the
    /// attachments and policies of today.
    fn retain_ingress_points<T>(
        &self,
        refused: &BTreeSet<ObjectName>,
        candidates: &[(T, Draft)],
        drafts: &mut Drafts,
    ) {
        for (name, old) in &self.previous {
            let fine = candidates
                .iter()
                .any(|(_, draft)| draft.snapshot.ingress_point == **name);
            let there = refused.contains(*name) || self.unread(Kind::VPCIngressPoint, name);
            if fine || !there {
                continue;
            }
            drafts.insert((*name).clone(), as_it_was(old));
        }
    }

    /// The outer source address in force is the host's, so that no edit of one ingress point takes it
    /// from the others, however early its name: the edit is refused as if it could not be read, and a
    /// newcomer with another address is left out. It changes once every ingress point asks for the new one.
    fn hold_source_address(
        &mut self,
        candidates: &mut Vec<(&Sourced<VPCIngressPoint>, Draft)>,
        drafts: &mut Drafts,
    ) {
        let source = conflict::source_of;
        let holds = |draft: &&Draft| {
            let old = self.previous.get(&draft.snapshot.ingress_point);
            old.is_some_and(|old| source(old) == source(&draft.snapshot))
        };
        let asking = candidates.iter().map(|(_, draft)| draft);
        let holder = drafts.values().chain(asking.filter(holds)).next().cloned();
        let Some(holder) = holder else { return };
        let held = source(&holder.snapshot);
        let edited = candidates.extract_if(.., |(_, draft)| source(&draft.snapshot) != held);
        for (sourced, draft) in edited {
            let mut report = Report::new(Kind::VPCIngressPoint, sourced, &mut self.problems);
            conflict::source_address(&draft.snapshot, &holder.snapshot, &mut report);
            let name = sourced.name();
            if let Some(old) = self.previous.get(&name) {
                drafts.insert(name, as_it_was(old));
            }
        }
    }

    /// Whether an object that is not among the resources may exist nonetheless.
    fn unread(&self, kind: Kind, name: &ObjectName) -> bool {
        self.resources.incomplete || self.resources.unreadable.contains(&(kind, name.clone()))
    }

    /// Gives a snapshot its version: that of the former one when nothing changed.
    fn versioned(&self, mut snapshot: Snapshot) -> Snapshot {
        let old = self.previous.get(&snapshot.ingress_point);
        snapshot.version = old.map_or(1, |old| old.version);
        match old {
            Some(old) if **old != snapshot => snapshot.version = old.version.saturating_add(1),
            _ => {}
        }
        snapshot
    }
}

/// An ingress point that stays in force as it was; its attachments and rules are those of today.
fn as_it_was(old: &Snapshot) -> Draft {
    let names = old.attachments.iter();
    let names = names.map(|attachment| attachment.name.clone()).collect();
    let mut snapshot = old.clone();
    snapshot.attachments.clear();
    snapshot.rules.clear();
    Draft {
        snapshot,
        selection: Selection::Names(names),
    }
}

#[cfg(test)]
mod tests;
