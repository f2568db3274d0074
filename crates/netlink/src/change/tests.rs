use masque_srv6::{Behaviour, Decapsulation, Sid, Slot, Sysctl};

use super::*;

fn route(table: u32, destination: &str, action: RouteAction) -> Route {
    Route {
        table,
        destination: destination.parse().unwrap(),
        metric: 1024,
        action,
    }
}

fn to_tun() -> RouteAction {
    RouteAction::Device { link: "mq0".into() }
}

fn encap(sid: &str) -> RouteAction {
    RouteAction::Encapsulate {
        sid: Sid(sid.parse().unwrap()),
        link: "eth0".into(),
    }
}

fn rule(priority: u32, iif: Option<&str>, table: u32) -> Rule {
    let iif = iif.map(str::to_owned);
    Rule {
        family: Family::Ipv4,
        priority,
        from: None,
        iif,
        table,
    }
}

fn plan() -> KernelPlan {
    let mut plan = KernelPlan::empty(Decapsulation::EndDt46);
    let behaviour = Behaviour::EndDt46 {
        vrf_table: Slot(0).ingress_table(),
    };
    let sid = RouteAction::Decapsulate {
        behaviour,
        link: "mqvrf0".into(),
    };
    plan.tunnel_source = Some("2001:db8::1".parse().unwrap());
    plan.vrfs.insert(VrfLink {
        name: "mqvrf0".into(),
        table: Slot(0).ingress_table(),
    });
    plan.tuns.insert(TunLink {
        name: "mq0".into(),
        mtu_bytes: 65_535,
        slot: Slot(0),
    });
    plan.rules
        .insert(rule(910, Some("mq0"), Slot(0).egress_table()));
    plan.rules.insert(rule(LOCAL_RULE_PRIORITY, None, 255));
    plan.routes.insert(route(
        Slot(0).egress_table(),
        "0.0.0.0/0",
        RouteAction::Blackhole,
    ));
    plan.routes.insert(route(
        Slot(0).egress_table(),
        "10.0.2.0/24",
        encap("fc00::2"),
    ));
    plan.routes
        .insert(route(Slot(0).ingress_table(), "10.0.100.0/24", to_tun()));
    plan.routes.insert(route(254, "2001:db8::e001:0/128", sid));
    for (path, value, only_from) in [
        ("net/ipv6/conf/all/forwarding", "1", None),
        ("net/ipv6/conf/eth0/accept_ra", "2", Some("1")),
    ] {
        let only_from = only_from.map(str::to_owned);
        plan.sysctls.insert(Sysctl {
            path: path.into(),
            value: value.into(),
            only_from,
        });
    }
    plan
}

/// A namespace as it is before a gateway came.
fn fresh() -> Observed {
    let link = |index| ObservedLink {
        index,
        up: true,
        mtu_bytes: 1500,
        vrf_table: None,
    };
    Observed {
        links: [
            ("eth0".to_owned(), link(2)),
            (
                "mq0".to_owned(),
                ObservedLink {
                    up: false,
                    ..link(3)
                },
            ),
        ]
        .into(),
        kernel_local_rules: [Family::Ipv4].into(),
        sysctls: [
            ("net/ipv6/conf/all/forwarding".to_owned(), "0".to_owned()),
            ("net/ipv6/conf/eth0/accept_ra".to_owned(), "1".to_owned()),
        ]
        .into(),
        ..Observed::default()
    }
}

/// What the kernel would tell after `plan` was applied.
fn applied(plan: &KernelPlan) -> Observed {
    let mut observed = fresh();
    for route in &plan.routes {
        observed
            .routes
            .insert(RouteKey::of(route), Some(route.action.clone()));
    }
    observed.rules = plan.rules.clone();
    observed.kernel_local_rules.clear();
    observed.tunnel_source = plan.tunnel_source;
    for tun in &plan.tuns {
        let link = ObservedLink {
            index: 3,
            up: true,
            mtu_bytes: tun.mtu_bytes,
            vrf_table: None,
        };
        observed.links.insert(tun.name.clone(), link);
    }
    for vrf in &plan.vrfs {
        let vrf_table = Some(vrf.table);
        let link = ObservedLink {
            index: 4,
            up: true,
            mtu_bytes: 65_575,
            vrf_table,
        };
        observed.links.insert(vrf.name.clone(), link);
    }
    for sysctl in &plan.sysctls {
        observed
            .sysctls
            .insert(sysctl.path.clone(), sysctl.value.clone());
    }
    observed
}

#[test]
fn nothing_leads_anywhere_before_it_is_safe() {
    let changes = diff(&fresh(), &plan());
    let at = |wanted: fn(&Change) -> bool| changes.iter().position(wanted).unwrap();
    let order = [
        at(|c| matches!(c, Change::AddVrf(_))),
        at(|c| matches!(c, Change::SetSysctl { path, .. } if path.ends_with("accept_ra"))),
        at(|c| matches!(c, Change::SetSysctl { path, .. } if path.ends_with("forwarding"))),
        at(|c| matches!(c, Change::SetTunnelSource(Some(_)))),
        at(|c| matches!(c, Change::AddBlackhole(Place::Free, _))),
        at(|c| matches!(c, Change::AddRule(_))),
        at(|c| matches!(c, Change::DeleteKernelLocalRule(Family::Ipv4))),
        at(|c| matches!(c, Change::SetUp(_))),
        at(|c| matches!(c, Change::AddRoute(Place::Free, _))),
        at(|c| matches!(c, Change::AddSid(Place::Free, _))),
    ];
    assert!(order.is_sorted(), "{changes:#?}");
}

#[test]
fn nothing_to_do_is_nothing() {
    let plan = plan();
    assert_eq!(diff(&applied(&plan), &plan), []);
    let nothing = KernelPlan::empty(Decapsulation::EndDt46);
    let mut foreign = fresh();
    foreign.tunnel_source = Some("2001:db8::77".parse().unwrap());
    assert_eq!(
        diff(&foreign, &nothing),
        [],
        "somebody else's address stays"
    );
}

#[test]
fn removal_takes_the_way_in_first() {
    let nothing = KernelPlan::empty(Decapsulation::EndDt46);
    let changes = diff(&applied(&plan()), &nothing);
    let kinds: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::SetDown(_) => "down",
            Change::SetTunnelSource(None) => "source",
            Change::DeleteSid(_) => "sid",
            Change::DeleteRoute(_) => "route",
            Change::AddKernelLocalRule(_) => "local",
            Change::DeleteRule(_) => "rule",
            Change::DeleteVrf(_) => "vrf",
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "down", "source", "sid", "route", "route", "route", "local", "rule", "rule", "vrf",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn an_edit_touches_what_it_edits() {
    let (before, mut after) = (plan(), plan());
    let table = Slot(0).egress_table();
    after
        .routes
        .remove(&route(table, "10.0.2.0/24", encap("fc00::2")));
    let moved = route(table, "10.0.2.0/24", encap("fc00::3"));
    after.routes.insert(moved.clone());
    let added = route(table, "10.0.3.0/24", encap("fc00::3"));
    after.routes.insert(added.clone());
    let expected = [
        Change::AddRoute(Place::Free, added),
        Change::AddRoute(Place::Taken, moved),
    ];
    assert_eq!(diff(&applied(&before), &after), expected);
}

#[test]
fn repairs_what_a_crash_or_an_operator_left() {
    let plan = plan();
    let mut observed = applied(&plan);
    // An unknown route with our number, a VRF of another slot, the TUN not yet up.
    let odd = RouteKey {
        table: 77,
        destination: "10.9.0.0/16".parse().unwrap(),
        metric: 0,
    };
    observed.routes.insert(odd, None);
    let vrf_table = Some(Slot(9).ingress_table());
    observed.links.insert(
        "old".into(),
        ObservedLink {
            vrf_table,
            ..ObservedLink::default()
        },
    );
    observed.links.insert(
        "other".into(),
        ObservedLink {
            vrf_table: Some(10),
            ..ObservedLink::default()
        },
    );
    observed.links.get_mut("mq0").unwrap().up = false;
    // A SID of ours with another behaviour.
    let sid = plan.routes.iter().find(|route| route.table == 254).unwrap();
    observed.routes.insert(RouteKey::of(sid), None);
    let expected = [
        Change::SetUp(plan.tuns.first().unwrap().clone()),
        Change::AddSid(Place::Taken, sid.clone()),
        Change::DeleteRoute(odd),
        Change::DeleteVrf("old".into()),
    ];
    assert_eq!(
        diff(&observed, &plan),
        expected,
        "and not the VRF of somebody else"
    );
}

#[test]
fn a_vrf_with_another_table_is_made_again() {
    let plan = plan();
    let mut observed = applied(&plan);
    observed.links.get_mut("mqvrf0").unwrap().vrf_table = Some(Slot(5).ingress_table());
    assert_eq!(diff(&observed, &plan), [Change::DeleteVrf("mqvrf0".into())]);
    observed.links.remove("mqvrf0");
    assert!(matches!(diff(&observed, &plan)[..], [Change::AddVrf(_)]));
}
