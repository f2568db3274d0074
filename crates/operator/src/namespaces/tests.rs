use k8s_openapi::jiff::Timestamp;
use kube::{Resource, api::DynamicObject, core::ObjectMeta};
use masque_api::{Connector, ConnectorAttachment, VPCIngressPoint};
use masque_controller::ipam::ledger_name;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::{
    index::{Index, Seen, Shelf},
    kinds::ChildKind,
};

const NOW_UNIX_S: u64 = 1_800_000_000;

/// Two namespaces, each with an ingress point, a connector, its attachment and a policy.
struct Bench {
    index: Index,
    version: u64,
    generation: i64,
    secrets: BTreeSet<ObjectName>,
    vpcs: Vpcs,
    now_unix_s: u64,
    namespaces: Namespaces,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            index: Index::default(),
            version: 1,
            generation: 1,
            secrets: BTreeSet::new(),
            vpcs: None,
            now_unix_s: NOW_UNIX_S,
            namespaces: Namespaces::new(),
        };
        for (namespace, sid) in [("a", "fd00::a"), ("b", "fd00::b")] {
            bench.point(namespace, sid, 1);
            let bytes = format!("{:02x}", namespace.as_bytes()[0]).repeat(32);
            let status = json!({"connectionDetails": {
                "type": "PublicKey", "publicKey": {"id": bytes, "homeRelay": ""},
            }});
            let spec = json!({"connectorClassName": "datum-connect"});
            bench.put::<Connector>(namespace, &spec, &status, |it| &mut it.connectors);
            bench.attachment(namespace, &json!({}));
            bench.policy(namespace, &json!({"name": "web"}));
        }
        assert_eq!(bench.changed(), ["a", "b"]);
        assert_eq!(bench.changed(), [""; 0]);
        bench
    }

    fn put<K: Resource<DynamicType = ()> + DeserializeOwned>(
        &mut self,
        namespace: &str,
        spec: &Value,
        status: &Value,
        shelf: impl Fn(&mut Index) -> &mut Shelf<K>,
    ) {
        self.version += 1;
        let object: K = serde_json::from_value(json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "spec": spec, "status": status,
            "metadata": {
                "name": "it", "namespace": namespace, "uid": namespace,
                "generation": spec["mtu"].as_i64().unwrap_or(1),
                "resourceVersion": self.version.to_string(),
            },
        }))
        .unwrap();
        assert!(shelf(&mut self.index).put(Seen::Read(Arc::new(object))));
    }

    /// Another generation shows as another MTU, so that the spec is another one as well.
    fn point(&mut self, namespace: &str, sid: &str, generation: i64) {
        let spec = json!({
            "vpcRef": {"name": "prod"},
            "listeners": [{"name": "h3", "port": 443}],
            "addressPools": [{"cidr": "10.0.100.0/24"}],
            "routes": ["10.0.0.0/16"],
            "mtu": 1280 + generation,
            "fabric": {"provider": "Static", "static": {
                "localSID": sid, "sourceAddress": "fd00::1",
                "routes": [{"prefix": "10.0.0.0/16", "sid": format!("fd00:2:{namespace}::")}],
            }},
        });
        self.put::<VPCIngressPoint>(namespace, &spec, &json!({}), |it| &mut it.points);
    }

    fn attachment(&mut self, namespace: &str, status: &Value) {
        let spec = json!({"connectorRef": {"name": "it"}, "vpcRef": {"name": "prod"}});
        self.put::<ConnectorAttachment>(namespace, &spec, status, |it| &mut it.attachments);
    }

    fn policy(&mut self, namespace: &str, rule: &Value) {
        let target = json!([{"kind": "VPCIngressPoint", "name": "it"}]);
        let spec = json!({"targetRefs": target, "rules": [rule]});
        self.put::<VPCAccessPolicy>(namespace, &spec, &json!({}), |it| &mut it.policies);
    }

    fn work(&mut self) -> Vec<Work> {
        let mut namespaces = std::mem::replace(&mut self.namespaces, Namespaces::new());
        let works = self.work_of(&mut namespaces);
        self.namespaces = namespaces;
        works
    }

    fn work_of(&self, namespaces: &mut Namespaces) -> Vec<Work> {
        let view = View::of(&self.index);
        let versions = Versions::default();
        let known = Known {
            secrets: &self.secrets,
            vpcs: &self.vpcs,
            versions: &versions,
            now_unix_s: self.now_unix_s,
        };
        namespaces.changed(&view, &known)
    }

    /// What a pass comes to that kept nothing.
    fn afresh(&self) -> Namespaces {
        let mut namespaces = Namespaces::new();
        let works = self.work_of(&mut namespaces);
        namespaces.keep(works);
        namespaces
    }

    /// One change of many kinds.
    fn change(&mut self, kind: u8, which: u8) {
        let namespace = if which & 1 == 0 { "a" } else { "b" };
        let choice = usize::from(which >> 1) % 3;
        let gone = ObjectMeta {
            name: Some("it".to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        };
        let end = NOW_UNIX_S + 5;
        match kind % 8 {
            0 => {
                self.generation += 1;
                let sid = ["fd00::a", "fd00::b", "no SID"][choice];
                self.point(namespace, sid, self.generation);
            }
            1 => {
                let held = json!({"assignedIPs": [format!("10.0.100.{choice}")]});
                self.attachment(namespace, &held);
            }
            2 => self.policy(namespace, &json!({"name": format!("rule-{choice}")})),
            3 => {
                let end = Timestamp::from_second(end.try_into().unwrap()).unwrap();
                let rule = json!({"name": "end", "notAfter": end.to_string()});
                self.policy(namespace, &rule);
            }
            4 => self.now_unix_s += u64::from(which % 4),
            5 => {
                let names = [&[][..], &["a"], &["a", "b"]][choice].iter();
                let names = names.map(|namespace| ObjectName::new(*namespace, "prod"));
                self.vpcs = (which < 200).then(|| Arc::new(names.collect()));
            }
            6 => self.index.points.remove(&gone),
            _ => match choice {
                0 => self.index.attachments.remove(&gone),
                1 => self.index.policies.remove(&gone),
                _ => self.index.connectors.remove(&gone),
            },
        }
    }

    /// The namespaces that a pass works on.
    fn changed(&mut self) -> Vec<String> {
        let works = self.work();
        let names = works.iter().map(|work| work.namespace.clone()).collect();
        self.namespaces.keep(works);
        names
    }

    fn problems(&self, namespace: &str) -> usize {
        self.namespaces.find(namespace).unwrap().problems.len()
    }
}

#[test]
fn a_change_is_worked_on_where_it_is() {
    let mut bench = Bench::new();
    bench.attachment("a", &json!({"assignedIPs": ["10.0.100.1"]}));
    assert_eq!(bench.changed(), ["a"]);
    bench.policy("b", &json!({"name": "other"}));
    assert_eq!(bench.changed(), ["b"]);
    // A status that was written, of an ingress point that is what it was.
    bench.point("b", "fd00::b", 1);
    assert_eq!(bench.changed(), ["b"]);
    // The same object told once more.
    assert_eq!(bench.changed(), [""; 0]);
}

#[test]
fn ingress_points_of_two_namespaces_meet() {
    let mut bench = Bench::new();
    assert_eq!((bench.problems("a"), bench.problems("b")), (0, 0));
    bench.point("a", "fd00::b", 2);
    assert_eq!(bench.changed(), ["a", "b"], "a has precedence by its name");
    let serves = |bench: &Bench, name| bench.namespaces.serves(&ObjectName::new(name, "it"));
    assert!(serves(&bench, "a") && !serves(&bench, "b") && bench.problems("b") > 0);
    bench.point("a", "fd00::a", 3);
    assert_eq!(bench.changed(), ["a", "b"]);
    assert!(serves(&bench, "b") && bench.problems("b") == 0);
    // What nobody else minds is of one namespace.
    bench.point("a", "fd00::c", 4);
    assert_eq!(bench.changed(), ["a"]);
}

#[test]
fn what_is_under_way_is_looked_at_again() {
    let mut bench = Bench::new();
    bench.policy("a", &json!({"name": "other"}));
    let mut works = bench.work();
    works[0].settled = false;
    bench.namespaces.keep(works);
    assert_eq!(bench.changed(), ["a"]);
    assert_eq!(bench.changed(), [""; 0]);
}

#[test]
fn vpcs_and_the_end_of_a_rule_count() {
    let mut bench = Bench::new();
    let vpcs = |names: &[&str]| {
        let names = names
            .iter()
            .map(|namespace| ObjectName::new(*namespace, "prod"));
        Some(Arc::new(names.collect::<BTreeSet<_>>()))
    };
    bench.vpcs = vpcs(&["a"]);
    assert_eq!(bench.changed(), ["b"], "its VPC is not there");
    assert_eq!(bench.problems("b"), 1);
    bench.vpcs = vpcs(&["a", "b", "c"]);
    assert_eq!(bench.changed(), ["b"]);
    bench.policy(
        "a",
        &json!({"name": "web", "notAfter": "2027-01-15T08:00:01Z"}),
    );
    assert_eq!(bench.namespaces.next_end_unix_s(), None);
    assert_eq!(bench.changed(), ["a"]);
    assert_eq!(bench.changed(), [""; 0]);
    let end = bench.now_unix_s + 1;
    assert_eq!(bench.namespaces.next_end_unix_s(), Some(end));
    bench.now_unix_s = end;
    assert_eq!(bench.changed(), ["a"], "the rule has ended");
    assert_eq!(bench.changed(), [""; 0]);
    assert_eq!(bench.namespaces.next_end_unix_s(), None);
}

#[test]
fn a_namespace_that_is_gone_is_forgotten() {
    let mut bench = Bench::new();
    bench.index.points.begin();
    bench.index.points.end();
    assert_eq!(bench.changed(), ["a", "b"]);
    bench.index.attachments.begin();
    bench.index.attachments.end();
    bench.index.policies.begin();
    bench.index.policies.end();
    bench.index.connectors.begin();
    bench.index.connectors.end();
    assert_eq!(bench.changed(), [""; 0]);
    assert!(bench.namespaces.find("a").is_none());
}

#[test]
fn everything_is_worked_on_now_and_then() {
    let mut bench = Bench::new();
    bench.namespaces.all_at = Instant::now();
    assert_eq!(bench.changed(), ["a", "b"]);
    assert_eq!(bench.changed(), [""; 0]);
}

/// A point that cannot be read may stay in force as it was: its addresses are still its own.
#[test]
fn the_ledger_of_an_unreadable_point_is_found() {
    let mut bench = Bench::new();
    let name = ledger_name("it");
    let ledger = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "a", "uid": "ledger", "resourceVersion": "9"}});
    let ledger: DynamicObject = serde_json::from_value(ledger).unwrap();
    bench
        .index
        .children_mut(ChildKind::ConfigMap)
        .put(Seen::Read(Arc::new(ledger)));
    let found = |bench: &Bench| View::of(&bench.index).namespaces["a"].ledgers.len();
    assert_eq!(found(&bench), 1);
    bench.index.points.put(Seen::Unreadable {
        metadata: Box::new(ObjectMeta {
            name: Some("it".to_owned()),
            namespace: Some("a".to_owned()),
            uid: Some("a".to_owned()),
            resource_version: Some("100".to_owned()),
            ..ObjectMeta::default()
        }),
        error: "spec".to_owned(),
    });
    assert!(View::of(&bench.index).namespaces["a"].points.is_empty());
    assert_eq!(found(&bench), 1);
}

proptest! {
    /// However the world came about, what was kept is what a pass that keeps nothing comes to.
    #[test]
    fn kept_is_what_would_come_again(changes in prop::collection::vec((0_u8..8, any::<u8>()), 1..40)) {
        let mut bench = Bench::new();
        for (kind, which) in changes {
            bench.change(kind, which);
            bench.changed();
            let afresh = bench.afresh();
            let names = |namespaces: &Namespaces| -> Vec<String> {
                namespaces.works.keys().cloned().collect()
            };
            prop_assert_eq!(names(&bench.namespaces), names(&afresh));
            for (name, work) in &afresh.works {
                let kept = bench.namespaces.find(name).unwrap();
                prop_assert_eq!(&kept.points, &work.points);
                prop_assert_eq!(&kept.problems, &work.problems);
                prop_assert_eq!(&kept.snapshots, &work.snapshots);
            }
        }
    }
}
