//! A gateway follows its operator, and goes on without it.

use std::time::Duration;

use masque_client::Phase;
use masque_cluster_tests::{POINT, POLICY, SOON, TAKEOVER, eventually, within};
use masque_testkit::DevelopmentCa;
use serde_json::json;

use crate::{World, put_certificate};

/// Longer than an operator that stopped needs to be missed.
const ALONE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_acknowledged_and_sessions_are_shown() {
    let Some(world) = World::programmed("gateway").await else {
        return;
    };
    let ready = world.space.condition(POINT, "edge", "Ready").await;
    assert_eq!(ready, "True/Ready");
    let laptop = world.connector("laptop").await;
    assert_eq!(world.phase("laptop").await, "Ready");
    let (before, acked) = world.snapshot().await;
    assert!(before > 0 && acked == 1, "{before} {acked}");

    let policy = json!({
        "targetRefs": [{"kind": "VPCIngressPoint", "name": "edge"}],
        "rules": [{"name": "web", "prefixes": [{"cidr": "10.1.0.0/16"}]}],
    });
    world.space.apply(POLICY, "web", &policy).await;
    eventually("the policy is acknowledged", async || {
        let (version, acked) = world.snapshot().await;
        version > before && acked == 1
    })
    .await;
    eventually("the policy says so", async || {
        world.space.condition(POLICY, "web", "Programmed").await == "True/Programmed"
    })
    .await;

    let session = world.session(&laptop, &world.ca);
    world.becomes("laptop", "Connected").await;
    let assigned = world.space.address("laptop").await;
    assert_eq!(assigned, Some(session.address.clone()));
    drop(session);
    world.becomes("laptop", "Disconnected").await;
    assert_eq!(world.space.address("laptop").await, assigned);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_gateways_outlive_the_operator() {
    let Some(mut world) = World::programmed("alone").await else {
        return;
    };
    let laptop = world.connector("laptop").await;
    let session = world.session(&laptop, &world.ca);
    world.becomes("laptop", "Connected").await;
    let before = world.snapshot().await;
    world.operator.take().unwrap().kill();
    tokio::time::sleep(ALONE).await;
    let status = session.attached.attachment.handle().status();
    assert_eq!(status.phase, Phase::Connected);
    assert_eq!(status.reconnects, 0);
    assert!(world.pod.is_ready(&world.site));

    // It starts on what it kept; the client finds it again and has the same address.
    world.pod.kill();
    world.pod.start(&world.site).await;
    eventually("it is ready without an operator", async || {
        world.pod.is_ready(&world.site)
    })
    .await;
    eventually("the session is back", async || {
        let status = session.attached.attachment.handle().status();
        let address = status.addresses.first().map(|net| net.addr().to_string());
        status.phase == Phase::Connected
            && status.reconnects > 0
            && address.as_ref() == Some(&session.address)
    })
    .await;

    world.start_operator();
    within(TAKEOVER + SOON, "the next operator leads", async || {
        world.operator.as_ref().unwrap().leads().await
    })
    .await;
    world.becomes("laptop", "Connected").await;
    let now = world.snapshot().await;
    assert!(now.0 >= before.0 && now.1 == 1, "{before:?} became {now:?}");
    let status = session.attached.attachment.handle().status();
    assert_eq!(status.reconnects, 1, "the new operator cost a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_costs_no_session() {
    let Some(world) = World::programmed("renew").await else {
        return;
    };
    let laptop = world.connector("laptop").await;
    let phone = world.connector("phone").await;
    let session = world.session(&laptop, &world.ca);
    let authority = DevelopmentCa::new();
    put_certificate(&world.space, &authority).await;
    world.pod.fill().await;
    // Trusts the new authority only: attempts fail until the gateway has the new certificate.
    let second = world.session(&phone, &authority);
    assert_ne!(second.address, session.address);
    let status = session.attached.attachment.handle().status();
    assert_eq!((status.phase, status.reconnects), (Phase::Connected, 0));
}
