//! Every way in which an attachment does not come about, and what is said about it.

use std::{net::SocketAddr, time::Duration};

use masque_testkit::DevelopmentCa;
use masque_transport::tls::ServerTrust;

use super::{
    gateway::{Behaviour, Gateway, Site},
    world::World,
};
use crate::{AttachError, CertificateFault, Phase, Retry, TunnelEvent};

fn refused(status: u16, details: Option<&str>) -> AttachError {
    let details = details.map(str::to_owned);
    World::new(Behaviour {
        status,
        details,
        ..Behaviour::default()
    })
    .failure()
}

#[test]
fn a_wrong_key_or_vpc() {
    let error = refused(404, None);
    let text = error.to_string();
    assert!(
        text.contains("knows no VPC named production-vpc for this key"),
        "{text}"
    );
    assert_eq!(error.retry(), Retry::AfterChange);
}

#[test]
fn suspended_denied_full_and_wrong_requests() {
    let suspended = refused(403, Some("attachment laptop is suspended"));
    assert!(
        suspended
            .to_string()
            .ends_with("attachment laptop is suspended")
    );
    let full = refused(503, Some("no free address in 10.0.100.0/24"));
    assert!(full.to_string().contains("no free address"), "{full}");
    assert_eq!(full.retry(), Retry::Helps);
    assert_eq!(refused(400, None).code(), "bad-request");
    assert_eq!(refused(401, None).code(), "authentication-required");
}

#[test]
fn every_family_declined_is_an_exhausted_pool() {
    let behaviour = Behaviour {
        assign: Vec::new(),
        ..Behaviour::default()
    };
    assert_eq!(World::new(behaviour).failure(), AttachError::PoolExhausted);
}

#[test]
fn a_gateway_that_never_answers_or_never_assigns() {
    let mute = Behaviour {
        answer: false,
        ..Behaviour::default()
    };
    let error = World::new(mute).failure();
    assert!(
        error
            .to_string()
            .contains("did not answer the request in 10 s"),
        "{error}"
    );

    let assign = Vec::new();
    let stingy = Behaviour {
        assign,
        answer_requests: false,
        ..Behaviour::default()
    };
    assert_eq!(World::new(stingy).failure().code(), "no-address");
}

#[test]
fn an_untrusted_authority_and_a_wrong_name() {
    let stranger = DevelopmentCa::new();
    let world = World::with(Behaviour::default(), |config| {
        config.trust = ServerTrust::RootsPem(stranger.pem().as_bytes().to_vec());
    });
    let AttachError::Certificate { fault, .. } = world.failure() else {
        panic!("accepted")
    };
    assert_eq!(fault, CertificateFault::UntrustedAuthority);

    let world = World::with(Behaviour::default(), |config| {
        config.gateway = "https://other.example:4433".parse().unwrap();
    });
    let error = world.failure();
    assert_eq!(error.code(), "name-mismatch");
    assert!(
        error.to_string().contains("not for other.example"),
        "{error}"
    );
}

#[test]
fn a_web_server_that_is_no_gateway() {
    let plain = Behaviour {
        extended_connect: false,
        ..Behaviour::default()
    };
    let error = World::new(plain).failure();
    assert_eq!(
        error.to_string(),
        "the server speaks HTTP/3 but not CONNECT-IP: no extended CONNECT (RFC 9220)"
    );
    let streams_only = Behaviour {
        datagrams: false,
        ..Behaviour::default()
    };
    assert!(
        World::new(streams_only)
            .failure()
            .to_string()
            .contains("no HTTP Datagrams")
    );
}

#[test]
fn nobody_there_and_udp_blocked() {
    let mut world = World::new(Behaviour::default());
    world.stop_gateway();
    world.link.refuses = true;
    let AttachError::Unreachable { reason, .. } = world.failure() else {
        panic!("reached")
    };
    assert_eq!(reason, "connection refused");

    let mut world = World::new(Behaviour::default());
    world.link.up = false;
    let error = world.failure();
    assert_eq!(error.code(), "no-answer");
    assert!(error.to_string().contains("over UDP in 10 s"), "{error}");
}

#[test]
fn n62_a_path_too_narrow_for_ipv6() {
    let mut narrow = World::new(Behaviour::default());
    narrow.link.udp_payload_max = 1300;
    let start = narrow.now;
    narrow.client.start(start);
    let took = narrow.run_until("closed", |w| w.client.phase() == Phase::Closed);
    assert!(took < Duration::from_secs(7), "{took:?}");
    let Some((
        _,
        TunnelEvent::Closed(Some(AttachError::PathTooNarrow {
            mtu_bytes: Some(mtu_bytes),
            is_exact: false,
            needed_bytes: 1359,
            gateway,
        })),
    )) = narrow.events.last()
    else {
        panic!("{:?}", narrow.events.last())
    };
    assert_eq!(gateway.to_string(), "192.0.2.1:4433");
    assert!((1300..=1328).contains(mtu_bytes), "{mtu_bytes}");
    assert!(narrow.gateway().requests.is_empty());
}

#[test]
fn n62_a_router_that_says_too_big_spares_the_wait() {
    let mut narrow = World::new(Behaviour::default());
    narrow.link.udp_payload_max = 1300;
    narrow.client.start(narrow.now);
    narrow.run_until("dialled", |w| w.client.dials() == 1);
    let remote = narrow.addresses[0];
    // Large enough for a tunnel, or about somebody else: nothing follows.
    narrow.client.handle_too_big(narrow.now, remote, 1400);
    let other = ([203, 0, 113, 9], 4433).into();
    narrow.client.handle_too_big(narrow.now, other, 1280);
    narrow.run_for(Duration::from_secs(1));
    assert_eq!(narrow.client.phase(), Phase::Connecting);
    // As this machine's own link says it: without a port.
    let own = SocketAddr::new(remote.ip(), 0);
    narrow.client.handle_too_big(narrow.now, own, 1311);
    let took = narrow.run_until("closed", |w| w.client.phase() == Phase::Closed);
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert!(narrow.has(|event| matches!(
        event,
        TunnelEvent::Closed(Some(AttachError::PathTooNarrow {
            mtu_bytes: Some(1311),
            is_exact: true,
            ..
        }))
    )));
}

#[test]
fn a_forged_too_big_ends_nothing() {
    let mut world = World::new(Behaviour::default());
    world.client.start(world.now);
    world.run_until("dialled", |w| w.client.dials() == 1);
    // The gateway's answer is on its way already.
    world.run_for(Duration::from_millis(15));
    world
        .client
        .handle_too_big(world.now, world.addresses[0], 1280);
    world.run_until("open", |w| w.client.phase() == Phase::Connected);
}

#[test]
fn the_second_address_is_tried_beside_the_first() {
    let mut world = World::new(Behaviour::default());
    // Only the gateway's own address answers; the other is a black hole.
    let dead = SocketAddr::from(([203, 0, 113, 9], 4433));
    world.addresses = vec![world.addresses[0]];
    world.client.start(world.now);
    // The resolver's answer in the wrong order.
    let ips = vec![dead.ip(), world.addresses[0].ip()];
    world.client.resolved(world.now, Ok(ips));
    let took = world.run_until("open", |w| w.client.phase() == Phase::Connected);
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[test]
fn an_expired_certificate_is_told_from_a_strangers() {
    // The gateway refuses to load such a certificate itself, so this one expires while it runs:
    // the client's verifier is what is tested, through the transport's own error.
    use masque_transport::tls::PeerCertificateError;
    let world = World::new(Behaviour::default());
    let error = super::super::refusal::close(
        masque_transport::CloseReason::Certificate(PeerCertificateError::Expired),
        world.addresses[0],
        Duration::ZERO,
        &world.client.plan.asked,
    );
    assert!(error.to_string().contains("has expired"), "{error}");
    assert!(
        error.advice().contains("set the clock"),
        "{}",
        error.advice()
    );
}

#[test]
fn with_keep_trying_the_first_failure_is_not_the_end() {
    let behaviour = Behaviour {
        status: 503,
        ..Behaviour::default()
    };
    let mut world = World::with(behaviour, |config| config.keep_trying = true);
    world.client.start(world.now);
    world.run_until("refused twice", |world| {
        world.gateway.as_ref().unwrap().requests.len() >= 2
    });
    let site = Site {
        chain: world.site.chain.clone(),
        key: world.site.key.clone(),
    };
    world.gateway = Some(Gateway::new(&site, Behaviour::default(), 2, world.now));
    world.run_until("open", |w| w.client.phase() == Phase::Connected);
    assert_eq!(
        world.client.reconnects(),
        0,
        "the first tunnel is no reconnect"
    );
}
