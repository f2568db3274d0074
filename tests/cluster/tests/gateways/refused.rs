//! What a gateway cannot run, and gateways that are not who they say.

use std::{cell::OnceCell, fs};

use masque_client::Phase;
use masque_cluster_tests::{GatewayPod, POINT, eventually};
use serde_json::json;

use crate::{World, point};

/// What a gateway logs when an attempt to open the stream has failed.
const FAILED: &str = "no stream to the operator";
/// So many attempts fail before it is looked what came of them: more than one.
const TRIES: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_does_not_run_is_told_and_the_former_goes_on() {
    let Some(world) = World::programmed("rejects").await else {
        return;
    };
    let laptop = world.connector("laptop").await;
    let session = world.session(&laptop, &world.ca);
    let taken = world.site.listen("[::]:4443");
    let udp = world
        .site
        .pod
        .enter(|| std::net::UdpSocket::bind("[::]:4443"))
        .unwrap();
    let mut spec = point();
    let mut second = spec["listeners"][0].clone();
    second["name"] = json!("second");
    second["port"] = json!(4443);
    spec["listeners"].as_array_mut().unwrap().push(second);
    world.space.apply(POINT, "edge", &spec).await;
    eventually("it is told", async || {
        world.programmed_is().await == "False/RejectedByGateway"
    })
    .await;
    let object = world.space.get(POINT, "edge").await;
    assert!(object.to_string().contains("4443"), "{object}");
    let status = session.attached.attachment.handle().status();
    assert_eq!((status.phase, status.reconnects), (Phase::Connected, 0));
    let phone = {
        let identity = masque_client::ConnectorIdentity::generate().unwrap();
        std::sync::Arc::new(identity)
    };
    world
        .space
        .attach_key("phone", &phone.public_id().hex())
        .await;
    drop((taken, udp));
    eventually("it runs when the port is free", async || {
        world.programmed_is().await == "True/Programmed"
    })
    .await;
    world.session(&phone, &world.ca);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_snapshot() {
    let Some(mut world) = World::new("strangers").await else {
        return;
    };
    let mut other = point();
    other["vpcRef"]["name"] = json!("staging");
    other["fabric"]["static"]["localSID"] = json!("fd00:0:1:9::");
    other["fabric"]["static"]["localSIDIPv4"] = json!("fd00:0:1:a::");
    world.space.apply(POINT, "other", &other).await;
    let stranger = GatewayPod::of(&world.space, "other").await;
    let token = world.pod.volume("token").join("token");
    let good = fs::read(&token).unwrap();
    let stream = world.pod.volume("stream").join("..data");
    let own = fs::canonicalize(&stream).unwrap();
    let foreign = fs::canonicalize(stranger.volume("stream").join("..data")).unwrap();
    let point_to = |target: &std::path::Path| {
        fs::remove_file(&stream).unwrap();
        std::os::unix::fs::symlink(target, &stream).unwrap();
    };
    let audience = "masque-operator";
    let bad_tokens = [
        ("of another account", stranger.token(true, audience).await),
        ("bound to no Pod", world.pod.token(false, audience).await),
        (
            "for others",
            world
                .pod
                .token(true, "https://kubernetes.default.svc")
                .await,
        ),
        ("no token", "nonsense".to_owned()),
    ];
    for (what, bad) in &bad_tokens {
        fs::write(&token, bad).unwrap();
        stays_out(&mut world, what).await;
    }
    fs::write(&token, &good).unwrap();
    point_to(&foreign);
    stays_out(&mut world, "certificate of another ingress point").await;
    point_to(&own);
    world.pod.start(&world.site).await;
    world.pod.become_ready(&world.site).await;
}

/// How many attempts failed, of all the gateways that ran: they share a log.
fn failed(world: &World) -> usize {
    world.pod.log().matches(FAILED).count()
}

/// A gateway that is started gets nothing to run and says why; then it is killed.
async fn stays_out(world: &mut World, what: &str) {
    let before = failed(world);
    world.pod.start(&world.site).await;
    let tried = format!("{what}: {TRIES} attempts fail, and it waits for the operator");
    let page = OnceCell::new();
    eventually(&tried, async || {
        let tried = failed(world) >= before + TRIES;
        let answer = world.pod.read(&world.site, "/readyz");
        // On a loaded machine it may for a moment not answer, or wait for something else.
        let waits = answer.filter(|answer| tried && answer.contains("operator"));
        waits.is_some_and(|answer| page.set(answer).is_ok())
    })
    .await;
    let page = page.into_inner().unwrap();
    assert!(page.starts_with("HTTP/1.1 503"), "{what}: {page}");
    assert!(!world.pod.log().contains("a Snapshot came"), "{what}");
    world.pod.kill();
}
