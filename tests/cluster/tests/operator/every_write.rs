//! An operator that is killed after any of its writes, before it hears of it: the next one comes to
//! the end of an undisturbed run.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::api::{DeleteParams, ListParams};
use masque_cluster_tests::{
    ATTACHMENT, Cluster, FaultProxy, Operator, POINT, POLICY, SOON, Space, eventually, free_port,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{CHILD, populate};

const ATTACHMENTS: [&str; 2] = ["laptop", "phone"];
/// Operators at one time.
const AT_ONCE: usize = 4;
/// No write for so long: it has settled. A status may wait 5 s for its turn.
const QUIET: Duration = Duration::from_secs(6);
/// How often writes are counted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What differs between two runs that came to the same end.
const OF_ONE_RUN: [&str; 16] = [
    "addresses",
    "assignedIP",
    "assignedIPs",
    "certificateSHA256",
    "clusterIP",
    "clusterIPs",
    "creationTimestamp",
    "endpoints",
    "generation",
    "hash",
    "lastTransitionTime",
    "managedFields",
    "message",
    "resourceVersion",
    "uid",
    "version",
];

type State = BTreeMap<String, Value>;

/// Everything in the namespace that the operator writes, without what is of one run.
async fn state(space: &Space) -> State {
    let mut all = State::new();
    macro_rules! list {
        ($($kind:ty),*) => {$(
            for one in space.api::<$kind>().list(&ListParams::default()).await.unwrap() {
                let value = serde_json::to_value(&one).unwrap();
                let name = one.metadata.name.unwrap();
                all.insert(format!("{} {name}", stringify!($kind)), kept(space, value, &name));
            }
        )*};
    }
    list!(
        Deployment,
        Service,
        ServiceAccount,
        ConfigMap,
        Secret,
        NetworkPolicy,
        PodDisruptionBudget
    );
    for kind in [POINT, ATTACHMENT, POLICY] {
        for one in space.ours(kind).list(&ListParams::default()).await.unwrap() {
            let value = serde_json::to_value(&one).unwrap();
            let name = one.metadata.name.unwrap();
            let mut kept = kept(space, value.clone(), &name);
            kept["status"] = stripped(value["status"].clone());
            all.insert(format!("{kind} {name}"), kept);
        }
    }
    all
}

/// Owners, labels, spec and data; of secrets and ledgers only which keys they have.
fn kept(space: &Space, object: Value, name: &str) -> Value {
    let mut data = object["data"].clone();
    if let Some(values) = data.as_object_mut().filter(|_| name != CHILD) {
        values.values_mut().for_each(|value| *value = Value::Null);
    }
    let metadata = &object["metadata"];
    let kept = stripped(json!({
        "labels": metadata["labels"], "owners": metadata["ownerReferences"],
        "spec": object["spec"], "data": data,
    }));
    let text = kept.to_string().replace(&space.name, "NAMESPACE");
    // The port where this run's operators listen.
    let parts = text.split("https://127.0.0.1:").enumerate();
    let parts = parts.map(|(i, part)| match i {
        0 => part,
        _ => part.trim_start_matches(|digit: char| digit.is_ascii_digit()),
    });
    serde_json::from_str(&parts.collect::<Vec<_>>().join("URL")).unwrap()
}

fn stripped(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter();
            let fields = fields.filter(|(key, _)| !OF_ONE_RUN.contains(&key.as_str()));
            Value::Object(fields.map(|(key, value)| (key, stripped(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(stripped).collect(),
        other => other,
    }
}

fn start(proxy: &FaultProxy, space: &Space, port: u16) -> Operator {
    let name = &space.name;
    Operator::start_at(proxy.kubeconfig(), name, Some(name), "a", port)
}

async fn wanted(space: &Space) {
    populate(space, &ATTACHMENTS).await;
    let policy = json!({
        "targetRefs": [{"kind": POINT, "name": "edge"}],
        "rules": [{"name": "web", "prefixes": [{"cidr": "10.1.0.0/16"}]}],
    });
    space.apply(POLICY, "web", &policy).await;
}

/// Addresses that were given by now.
async fn given(space: &Space) -> BTreeMap<&'static str, String> {
    let mut given = BTreeMap::new();
    for name in ATTACHMENTS {
        if let Some(address) = space.address(name).await {
            given.insert(name, address);
        }
    }
    given
}

/// Waits until an operator has begun to write and then writes nothing for [`QUIET`], or is stopped.
/// How long it takes to begin, beside others on a loaded machine, is no quiet.
async fn settled(proxy: &FaultProxy) {
    let begun = Instant::now();
    let (mut writes, mut since) = (0, begun);
    while !proxy.stopped() && (writes == 0 || since.elapsed() < QUIET) {
        // Enough to begin, and again for every write and the quiet after them.
        let late = begun.elapsed() >= SOON * 2;
        assert!(!late, "not settled after {writes} writes");
        tokio::time::sleep(LOOK_EVERY).await;
        let now = proxy.writes();
        if now != writes {
            (writes, since) = (now, Instant::now());
        }
    }
}

/// The end of an undisturbed run, and how many writes it took.
async fn undisturbed(cluster: &Cluster) -> (State, u64) {
    let space = cluster.space("calm").await;
    wanted(&space).await;
    let proxy = FaultProxy::start(space.client.clone()).await;
    let _operator = start(&proxy, &space, free_port());
    eventually("addresses", async || {
        given(&space).await.len() == ATTACHMENTS.len()
    })
    .await;
    settled(&proxy).await;
    assert_eq!(proxy.deletes(), 0);
    (state(&space).await, proxy.writes())
}

/// Killed after its `n`th write; whether there was such a write.
async fn killed_after(cluster: &Cluster, n: u64, end: &State) -> bool {
    let space = cluster.space("write").await;
    wanted(&space).await;
    let port = free_port();
    let proxy = FaultProxy::start(space.client.clone()).await;
    proxy.stop_after_write(n);
    let first = start(&proxy, &space, port);
    settled(&proxy).await;
    let stopped = proxy.stopped();
    first.kill();
    // The next one leads without waiting for the Lease, when there is one already.
    let leases = space.api::<Lease>();
    let _absent = leases
        .delete("masque-operator", &DeleteParams::default())
        .await;
    let before = given(&space).await;
    let second_proxy = FaultProxy::start(space.client.clone()).await;
    let _second = start(&second_proxy, &space, port);
    let begun = Instant::now();
    let mut now = state(&space).await;
    while now != *end && begun.elapsed() < SOON {
        tokio::time::sleep(Duration::from_millis(200)).await;
        now = state(&space).await;
    }
    for (name, value) in end {
        assert_eq!(now.get(name), Some(value), "after write {n}: {name}");
    }
    assert_eq!(now.len(), end.len(), "after write {n}: {:?}", now.keys());
    let kept = given(&space).await;
    let same = before
        .iter()
        .all(|(name, address)| kept.get(name) == Some(address));
    assert!(same, "after write {n}: {before:?} became {kept:?}");
    assert_eq!(
        proxy.deletes() + second_proxy.deletes(),
        0,
        "after write {n}"
    );
    stopped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_after_any_write_changes_no_end() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (end, writes) = undisturbed(cluster).await;
    assert!(writes >= 10, "{writes}");
    let deployment = end.get(&format!("Deployment {CHILD}"));
    assert!(deployment.is_some_and(|one| one["spec"]["replicas"] == 1));
    let (mut tasks, mut killed) = (JoinSet::new(), 0);
    for n in 1..=writes {
        while tasks.len() >= AT_ONCE {
            killed += u64::from(tasks.join_next().await.unwrap().unwrap());
        }
        let end = end.clone();
        tasks.spawn(async move { killed_after(cluster, n, &end).await });
    }
    while let Some(done) = tasks.join_next().await {
        killed += u64::from(done.unwrap());
    }
    println!("killed after {killed} of {writes} writes");
    // The last ones depend on what was seen together.
    assert!(killed * 10 >= writes * 8, "{killed} of {writes}");
}
