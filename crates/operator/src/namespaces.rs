//! What each namespace came to, kept as long as nothing in it changes.
//!
//! Ingress points are checked against each other wherever they are. No other reference leaves a
//! namespace, so that each is compiled by itself, and a pass works on those only where anything is
//! another one than before. Everything is worked on anew now and then nonetheless.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use masque_api::VPCAccessPolicy;
use masque_controller::{
    Kind, Options, Points, Problem, Resources, Sourced,
    ipam::{AssignOutcome, AssignState},
};
use masque_model::{ObjectName, Snapshot};

use crate::{
    lookups::Vpcs,
    versions::Versions,
    view::{Objects, View},
};

/// Everything is worked on anew after so long, for what no comparison sees.
const ALL_EVERY: Duration = Duration::from_secs(300);

/// What the operator knows besides the objects.
pub(crate) struct Known<'a> {
    /// Secrets that are there.
    pub(crate) secrets: &'a BTreeSet<ObjectName>,
    /// VPCs that are there.
    pub(crate) vpcs: &'a Vpcs,
    /// The Snapshots in force.
    pub(crate) versions: &'a Versions,
    /// Now.
    pub(crate) now_unix_s: u64,
}

/// What one namespace came to.
pub(crate) struct Work {
    /// The namespace.
    pub(crate) namespace: String,
    /// Its objects.
    pub(crate) objects: Objects,
    /// Another work has another number.
    pub(crate) number: u64,
    /// Its Snapshots, until they are published.
    pub(crate) snapshots: Vec<Snapshot>,
    /// The ingress points that have a Snapshot.
    pub(crate) points: BTreeSet<ObjectName>,
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
    /// What became of addresses.
    pub(crate) outcomes: Vec<AssignOutcome>,
    /// Nothing is under way: the next pass may keep all this.
    pub(crate) settled: bool,
    checked: Points,
    /// When a rule ends.
    until_unix_s: u64,
}

impl Work {
    /// Whether any attachment waits for an address, or has none.
    pub(crate) fn lacks_addresses(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|outcome| !matches!(outcome.state, AssignState::InForce(_)))
    }

    fn is_stale(&self, objects: &Objects, checked: &Points, now_unix_s: u64) -> bool {
        !self.settled
            || now_unix_s >= self.until_unix_s
            || !self.objects.same(objects)
            || self.checked != *checked
    }
}

/// All that the check of ingress points depends on.
#[derive(Debug, PartialEq)]
struct Basis {
    /// Uid and generation of those that could be read.
    points: Vec<(Option<String>, Option<i64>)>,
    unreadable: BTreeSet<ObjectName>,
    secrets: BTreeSet<ObjectName>,
    vpcs: Vpcs,
}

impl Basis {
    fn of(view: &View, known: &Known<'_>) -> Self {
        let points = view.points.iter().map(|point| &point.metadata);
        Self {
            points: points.map(|it| (it.uid.clone(), it.generation)).collect(),
            unreadable: unreadable(view).map(|(_, name)| name).collect(),
            secrets: known.secrets.clone(),
            vpcs: known.vpcs.clone(),
        }
    }
}

/// What every namespace came to.
pub(crate) struct Namespaces {
    works: BTreeMap<String, Work>,
    basis: Option<Basis>,
    /// The checked ingress points, by namespace.
    checked: BTreeMap<String, Points>,
    count: u64,
    all_at: Instant,
}

impl Namespaces {
    /// Nothing was worked on yet.
    pub(crate) fn new() -> Self {
        Self {
            works: BTreeMap::new(),
            basis: None,
            checked: BTreeMap::new(),
            count: 0,
            all_at: Instant::now(),
        }
    }

    /// Compiles the namespaces where something changed. What comes of it goes back by
    /// [`keep`](Self::keep).
    pub(crate) fn changed(&mut self, view: &View, known: &Known<'_>) -> Vec<Work> {
        self.works
            .retain(|name, _| view.namespaces.contains_key(name));
        if Instant::now() >= self.all_at {
            self.all_at = Instant::now() + ALL_EVERY;
            self.works.clear();
            self.basis = None;
        }
        self.check(view, known);
        let nothing = Points::default();
        let mut changed = Vec::new();
        for (name, objects) in &view.namespaces {
            let checked = self.checked.get(name).unwrap_or(&nothing);
            let work = self.works.get(name);
            if work.is_none_or(|work| work.is_stale(objects, checked, known.now_unix_s)) {
                self.works.remove(name);
                self.count += 1;
                changed.push(compile(name, objects, checked, known, self.count));
            }
        }
        changed
    }

    /// Keeps what namespaces came to.
    pub(crate) fn keep(&mut self, works: Vec<Work>) {
        let works = works.into_iter();
        self.works
            .extend(works.map(|work| (work.namespace.clone(), work)));
    }

    /// What a namespace came to.
    pub(crate) fn find(&self, namespace: &str) -> Option<&Work> {
        self.works.get(namespace)
    }

    /// When the next rule ends, in seconds since 1970.
    pub(crate) fn next_end_unix_s(&self) -> Option<u64> {
        let ends = self.works.values().map(|work| work.until_unix_s);
        ends.min().filter(|end| *end < u64::MAX)
    }

    /// Whether an ingress point has a Snapshot.
    pub(crate) fn serves(&self, point: &ObjectName) -> bool {
        let work = self.works.get(&point.namespace);
        work.is_some_and(|work| work.points.contains(point))
    }

    /// Checks ingress points against each other, if any of them is another one than before.
    fn check(&mut self, view: &View, known: &Known<'_>) {
        let basis = Basis::of(view, known);
        if self.basis.as_ref() == Some(&basis) {
            return;
        }
        let points = view.points.iter().cloned();
        let resources = Resources {
            ingress_points: points.map(Sourced::new).collect(),
            unreadable: unreadable(view).collect(),
            vpcs: known.vpcs.clone(),
            ..Resources::default()
        };
        let options = Options {
            secrets: known.secrets.clone(),
            ..Options::default()
        };
        let checked = Points::check(&resources, &options, known.versions.all());
        // What stays in force unread depends on Snapshots as well.
        self.basis = (!checked.retained()).then_some(basis);
        self.checked = checked.by_namespace();
    }
}

/// Ingress points that could not be read.
fn unreadable(view: &View) -> impl Iterator<Item = (Kind, ObjectName)> {
    let all = view.namespaces.values().flat_map(|it| &it.unreadable);
    all.filter(|(kind, _)| *kind == Kind::VPCIngressPoint)
        .cloned()
}

fn compile(
    namespace: &str,
    objects: &Objects,
    checked: &Points,
    known: &Known<'_>,
    number: u64,
) -> Work {
    let resources = objects.resources();
    let previous = known.versions.of(namespace);
    let options = Options::default();
    let compiled = checked
        .clone()
        .compile(&resources, known.now_unix_s, &options, previous);
    let points = compiled.snapshots.iter();
    Work {
        namespace: namespace.to_owned(),
        objects: objects.clone(),
        number,
        points: points.map(|it| it.ingress_point.clone()).collect(),
        snapshots: compiled.snapshots,
        problems: compiled.problems,
        outcomes: Vec::new(),
        settled: true,
        checked: checked.clone(),
        until_unix_s: next_end(&objects.policies, known.now_unix_s),
    }
}

/// When the next rule ends.
fn next_end(policies: &[Arc<VPCAccessPolicy>], now_unix_s: u64) -> u64 {
    let rules = policies.iter().flat_map(|it| &it.spec.rules);
    let ends = rules.filter_map(|rule| rule.not_after.as_ref());
    let ends = ends.filter_map(|end| u64::try_from(end.0.as_second()).ok());
    ends.filter(|end| *end > now_unix_s)
        .min()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
