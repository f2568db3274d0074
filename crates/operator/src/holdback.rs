//! What a new leader does not publish yet.
//!
//! The compiler keeps the rules in force of a policy that cannot be used now: without a Deny rule,
//! what it closed would open. A new leader does not know which rules are in force. The pods do, by
//! the Snapshot they have; so it stays theirs until the policy can be used.

use masque_api::{ConditionType, RuleAction, VPCIngressPoint};
use masque_controller::{Kind, ObjectRef, Problem, Reason, Severity};
use masque_model::ObjectName;

use crate::{index::name_of, versions::told, view::Objects};

/// Why the first Snapshot that this leader has for `point`, of version `first`, is not published;
/// nothing when it may be. One that the pods have already is no risk, nor is any when they have none.
pub(crate) fn held_back(
    point: &VPCIngressPoint,
    first: u64,
    objects: &Objects,
    problems: &[Problem],
) -> Option<Problem> {
    let (version, _) = told(point)?;
    if first == version {
        return None;
    }
    let name = name_of(&point.metadata);
    let policy = unusable(objects, problems)?;
    Some(Problem {
        location: None,
        object: Some(ObjectRef::new(Kind::VPCIngressPoint, name)),
        field: String::new(),
        severity: Severity::Error,
        condition: ConditionType::Programmed,
        reason: Reason::Invalid,
        message: format!(
            "gateways go on with the Snapshot they have, because VPCAccessPolicy {} cannot be used \
             and may deny what nothing else does",
            policy.name
        ),
        hint: "correct or delete the policy".to_owned(),
    })
}

/// A policy of the namespace whose Deny rules, if it has any, are not in a Snapshot of now.
fn unusable(objects: &Objects, problems: &[Problem]) -> Option<ObjectName> {
    let unread = objects.unreadable.iter().find_map(|(kind, name)| {
        let policy = *kind == Kind::VPCAccessPolicy;
        policy.then(|| name.clone())
    });
    let refused = || {
        let policies = objects.policies.iter().filter(|policy| {
            let mut rules = policy.spec.rules.iter();
            rules.any(|rule| rule.action == RuleAction::Deny)
        });
        let mut names = policies.map(|policy| name_of(&policy.metadata));
        names.find(|name| is_refused(name, problems))
    };
    unread.or_else(refused)
}

fn is_refused(policy: &ObjectName, problems: &[Problem]) -> bool {
    let key = ObjectRef::new(Kind::VPCAccessPolicy, policy.clone());
    problems
        .iter()
        .any(|problem| problem.is_error() && problem.object.as_ref() == Some(&key))
}

/// A Snapshot could not be published, for `error`.
pub(crate) fn unpublished(point: &ObjectName, error: &str) -> Problem {
    Problem {
        location: None,
        object: Some(ObjectRef::new(Kind::VPCIngressPoint, point.clone())),
        field: String::new(),
        severity: Severity::Warning,
        condition: Reason::SnapshotTooLarge.condition(),
        reason: Reason::SnapshotTooLarge,
        message: error.to_owned(),
        hint: "gateways go on with the Snapshot before it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use masque_api::VPCAccessPolicy;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        index::{Index, Seen},
        view::View,
    };

    fn object<K: serde::de::DeserializeOwned>(kind: &str, rest: &Value) -> K {
        let mut object = json!({
            "apiVersion": masque_api::API_VERSION, "kind": kind,
            "metadata": {"name": "edge", "namespace": "ns"},
        });
        let fields = object.as_object_mut().unwrap();
        fields.extend(rest.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn point(status: &Value) -> VPCIngressPoint {
        let spec = json!({
            "vpcRef": {"name": "prod"}, "listeners": [{"name": "h3", "port": 443}],
            "addressPools": [{"cidr": "10.0.100.0/24"}], "fabric": {"provider": "Static"},
        });
        object("VPCIngressPoint", &json!({"spec": spec, "status": status}))
    }

    fn policy(action: &str) -> VPCAccessPolicy {
        let spec = json!({
            "targetRefs": [{"kind": "VPCIngressPoint", "name": "edge"}],
            "rules": [{"name": "r", "action": action, "to": {"prefixes": ["10.0.0.0/8"]}}],
        });
        object("VPCAccessPolicy", &json!({"spec": spec}))
    }

    fn objects(seen: Seen<VPCAccessPolicy>) -> Objects {
        let mut index = Index::default();
        index.policies.put(seen);
        View::of(&index).namespaces.remove("ns").unwrap()
    }

    fn refusal(policy: &VPCAccessPolicy) -> Problem {
        let name = name_of(&policy.metadata);
        Problem {
            location: None,
            object: Some(ObjectRef::new(Kind::VPCAccessPolicy, name)),
            field: String::new(),
            severity: Severity::Error,
            condition: Reason::Invalid.condition(),
            reason: Reason::Invalid,
            message: String::new(),
            hint: String::new(),
        }
    }

    #[test]
    fn a_new_leader_drops_no_deny_that_it_cannot_read() {
        let running = point(&json!({"snapshot": {"version": 4, "hash": "00"}}));
        let held = |point: &VPCIngressPoint, version, seen, problems: &[Problem]| {
            let problem = held_back(point, version, &objects(seen), problems);
            // Only an error is told in Programmed.
            assert!(problem.as_ref().is_none_or(Problem::is_error));
            problem.is_some()
        };
        let unread = || Seen::Unreadable {
            metadata: Box::new(policy("Deny").metadata),
            error: String::new(),
        };
        let read = |action| Seen::Read(Arc::new(policy(action)));
        let refused = [refusal(&policy("Deny"))];
        assert!(held(&running, 5, unread(), &[]));
        assert!(held(&running, 5, read("Deny"), &refused));
        // What is usable, what only allows, what pods have already, and pods that have nothing.
        assert!(!held(&running, 5, read("Deny"), &[]));
        assert!(!held(&running, 5, read("Allow"), &refused));
        assert!(!held(&running, 4, unread(), &[]));
        assert!(!held(&point(&json!({})), 5, unread(), &[]));
    }
}
