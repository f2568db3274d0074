use masque_model::{AddressPool, AuthMethods, BridgeMode, FabricRoute, SessionLimits, Sid};
use proptest::prelude::*;

use super::*;

const NO_VRF: KernelCapabilities = KernelCapabilities {
    ipv6: true,
    encap_red: true,
    vrf: false,
    end_dt46: false,
    end_dt6: true,
    end_dx4: true,
};
const WITH_VRF: KernelCapabilities = KernelCapabilities {
    vrf: true,
    end_dt46: true,
    ..NO_VRF
};

fn snapshot(name: &str, n: u16) -> Snapshot {
    let sid = |text: String| text.parse::<Sid>().unwrap();
    let net = |text: &str| text.parse().unwrap();
    Snapshot {
        version: 1,
        ingress_point: ObjectName::new("default", name),
        vpc: ObjectName::new("default", name),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![
            AddressPool {
                prefix: net("10.0.100.0/24"),
                reserved: Vec::new(),
            },
            AddressPool {
                prefix: net("fd20:10:100::/64"),
                reserved: Vec::new(),
            },
        ],
        routes: vec![net("10.0.0.0/16")],
        fabric: Fabric::Static(StaticFabric {
            local_sid: sid(format!("2001:db8:ff03:3:e{n:03x}::")),
            local_sid_ipv4: Some(sid(format!("2001:db8:ff03:4:e{n:03x}::"))),
            source_address: "2001:db8:ff03:3::1".parse().unwrap(),
            routes: vec![
                FabricRoute {
                    prefix: net("10.0.2.0/24"),
                    sid: sid(format!("fc00:1:1:{n}::")),
                },
                FabricRoute {
                    prefix: net("fd20:10:2::/64"),
                    sid: sid(format!("fc00:1:1:{n}::")),
                },
            ],
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 0,
            resume_window_ms: 0,
            address_quarantine_ms: 0,
            max_total: 1,
        },
        attachments: Vec::new(),
        rules: Vec::new(),
        drain_deadline_ms: 0,
    }
}

fn fabric_mut(snapshot: &mut Snapshot) -> &mut StaticFabric {
    let Fabric::Static(fabric) = &mut snapshot.fabric;
    fabric
}

fn vpc<'a>(snapshot: &'a Snapshot, slot: u16, tun: &'a str) -> VpcLinks<'a> {
    VpcLinks {
        snapshot,
        slot: Slot(slot),
        tun,
        underlay: "eth0",
    }
}

/// The state of VPCs that all go together.
fn state(vpcs: &[VpcLinks<'_>], kernel: &KernelCapabilities) -> KernelPlan {
    let planned = plan(vpcs, kernel).unwrap();
    assert_eq!(planned.left_out, BTreeMap::new());
    planned.state
}

/// Why one VPC is left out.
fn left_out(vpcs: &[VpcLinks<'_>], kernel: &KernelCapabilities, name: &str) -> PlanError {
    let mut planned = plan(vpcs, kernel).unwrap();
    let name = ObjectName::new("default", name);
    let error = planned.left_out.remove(&name).unwrap();
    assert_eq!(planned.left_out, BTreeMap::new(), "and no other");
    // The others are as if it were not there.
    let others: Vec<_> = vpcs
        .iter()
        .filter(|vpc| vpc.snapshot.ingress_point != name)
        .copied()
        .collect();
    assert_eq!(planned.state, state(&others, kernel));
    error
}

fn actions<'a>(plan: &'a KernelPlan, table: u32, destination: &str) -> Vec<&'a RouteAction> {
    let destination: IpNet = destination.parse().unwrap();
    let wanted = |r: &&Route| r.table == table && r.destination == destination;
    plan.routes
        .iter()
        .filter(wanted)
        .map(|r| &r.action)
        .collect()
}

#[test]
fn without_vrf_each_family_has_its_sid() {
    let a = snapshot("a", 1);
    let got = state(&[vpc(&a, 0, "mq0")], &NO_VRF);
    assert_eq!(got.decapsulation, Decapsulation::EndDt6AndDx4);
    assert!(got.vrfs.is_empty());
    let table = Slot(0).ingress_table();
    let eth0 = || "eth0".to_owned();
    let dt6 = RouteAction::Decapsulate {
        behaviour: Behaviour::EndDt6 { table },
        link: eth0(),
    };
    assert_eq!(actions(&got, 254, "2001:db8:ff03:3:e001::/128"), [&dt6]);
    let next_hop = "169.254.240.0".parse().unwrap();
    let dx4 = RouteAction::Decapsulate {
        behaviour: Behaviour::EndDx4 { next_hop },
        link: eth0(),
    };
    assert_eq!(actions(&got, 254, "2001:db8:ff03:4:e001::/128"), [&dx4]);
    let tun = RouteAction::Device { link: "mq0".into() };
    assert_eq!(actions(&got, 254, "169.254.240.0/32"), [&tun]);
    assert_eq!(actions(&got, table, "fd20:10:100::/64"), [&tun]);
    let sid = "fc00:1:1:1::".parse().unwrap();
    let encap = RouteAction::Encapsulate {
        sid,
        link: "eth0".into(),
    };
    assert_eq!(
        actions(&got, Slot(0).egress_table(), "10.0.2.0/24"),
        [&encap]
    );
    assert_eq!(
        got.tunnel_source,
        Some("2001:db8:ff03:3::1".parse().unwrap())
    );
}

#[test]
fn with_vrf_one_behaviour_serves_every_sid() {
    let a = snapshot("a", 1);
    let got = state(&[vpc(&a, 7, "mq0")], &WITH_VRF);
    assert_eq!(got.decapsulation, Decapsulation::EndDt46);
    let vrf_table = Slot(7).ingress_table();
    let vrf = VrfLink {
        name: "mqvrf7".into(),
        table: vrf_table,
    };
    assert_eq!(Vec::from_iter(&got.vrfs), [&vrf]);
    let behaviour = Behaviour::EndDt46 { vrf_table };
    let dt46 = RouteAction::Decapsulate {
        behaviour,
        link: "mqvrf7".into(),
    };
    for sid in ["2001:db8:ff03:3:e001::/128", "2001:db8:ff03:4:e001::/128"] {
        assert_eq!(actions(&got, 254, sid), [&dt46]);
    }
    assert!(
        got.sysctls
            .iter()
            .any(|s| s.path == "net/ipv4/conf/mqvrf7/rp_filter")
    );
}

#[test]
fn nothing_of_a_vpc_falls_through() {
    let a = snapshot("a", 1);
    for kernel in [NO_VRF, WITH_VRF] {
        let got = state(&[vpc(&a, 3, "mq0")], &kernel);
        for table in [Slot(3).egress_table(), Slot(3).ingress_table()] {
            for any in ["0.0.0.0/0", "::/0"] {
                assert_eq!(actions(&got, table, any), [&RouteAction::Blackhole]);
            }
        }
        for family in Family::BOTH {
            let mut rules = got.rules.iter().filter(|r| r.family == family);
            let order: Vec<_> = rules.by_ref().map(|r| (r.iif.is_some(), r.table)).collect();
            let egress = (true, Slot(3).egress_table());
            let outer = (true, 254);
            let local = (false, 255);
            match family {
                Family::Ipv4 => assert_eq!(order, [egress, local]),
                Family::Ipv6 => assert_eq!(order, [outer, egress, local]),
            }
        }
    }
}

#[test]
fn a_default_route_of_the_vpc_beats_the_blackhole() {
    let mut a = snapshot("a", 1);
    fabric_mut(&mut a).routes.push(FabricRoute {
        prefix: "::/0".parse().unwrap(),
        sid: "fc00:9::".parse().unwrap(),
    });
    let got = state(&[vpc(&a, 0, "mq0")], &NO_VRF);
    let table = Slot(0).egress_table();
    let default = actions(&got, table, "::/0");
    assert!(matches!(
        default[..],
        [RouteAction::Encapsulate { .. }, RouteAction::Blackhole]
    ));
}

#[test]
fn overlapping_vpcs_share_no_table() {
    let (a, b) = (snapshot("a", 1), snapshot("b", 2));
    let both = state(&[vpc(&a, 0, "mq0"), vpc(&b, 1, "mq1")], &NO_VRF);
    let swapped = state(&[vpc(&b, 1, "mq1"), vpc(&a, 0, "mq0")], &NO_VRF);
    assert_eq!(both, swapped);
    let alone = state(&[vpc(&a, 0, "mq0")], &NO_VRF);
    assert!(alone.routes.is_subset(&both.routes) && alone.rules.is_subset(&both.rules));
    let added = both.routes.difference(&alone.routes);
    for route in added.filter(|r| r.table != 254) {
        assert!([Slot(1).egress_table(), Slot(1).ingress_table()].contains(&route.table));
    }
}

#[test]
fn one_vpc_that_cannot_be_leaves_the_others_alone() {
    let (a, mut b) = (snapshot("a", 1), snapshot("b", 2));
    let two = |a: &Snapshot, b: &Snapshot| {
        left_out(
            &[vpc(b, 1, "mq1"), vpc(a, 0, "mq0")],
            &NO_VRF,
            &b.ingress_point.name,
        )
    };
    fabric_mut(&mut b).source_address = "2001:db8::7".parse().unwrap();
    assert!(matches!(two(&a, &b), PlanError::TunnelSource { .. }));
    let twin = snapshot("twin", 1);
    assert!(matches!(two(&a, &twin), PlanError::DuplicateSid { .. }));
    let mut twice = snapshot("b", 2);
    let sid = fabric_mut(&mut twice).local_sid;
    fabric_mut(&mut twice).local_sid_ipv4 = Some(sid);
    assert!(matches!(two(&a, &twice), PlanError::DuplicateSid { .. }));
    let mut without = snapshot("b", 2);
    fabric_mut(&mut without).local_sid_ipv4 = None;
    assert!(matches!(two(&a, &without), PlanError::NoIpv4Sid { .. }));
    let mut double = snapshot("b", 2);
    let again = fabric_mut(&mut double).routes[0].clone();
    fabric_mut(&mut double).routes.push(again);
    assert!(matches!(two(&a, &double), PlanError::DuplicateRoute { .. }));
    let b = snapshot("b", 2);
    let same_slot = [vpc(&a, 5, "mq0"), vpc(&b, 5, "mq1")];
    let got = left_out(&same_slot, &NO_VRF, "b");
    assert!(matches!(got, PlanError::Slot { slot: 5, .. }));
    let same_tun = [vpc(&a, 5, "mq0"), vpc(&b, 6, "mq0")];
    let got = left_out(&same_tun, &NO_VRF, "b");
    assert!(matches!(got, PlanError::Slot { slot: 6, .. }));
    let beyond = [vpc(&a, SLOTS_MAX, "mq0")];
    let got = left_out(&beyond, &NO_VRF, "a");
    assert!(matches!(got, PlanError::Slot { .. }));
}

/// One that is left out takes nothing from those after it.
#[test]
fn what_a_vpc_that_is_left_out_wants_is_free() {
    let (mut a, b, c) = (snapshot("a", 1), snapshot("b", 2), snapshot("c", 1));
    fabric_mut(&mut a).local_sid_ipv4 = None;
    fabric_mut(&mut a).source_address = "2001:db8::7".parse().unwrap();
    let all = [vpc(&a, 0, "mq0"), vpc(&b, 1, "mq1"), vpc(&c, 2, "mq2")];
    let got = left_out(&all, &NO_VRF, "a");
    assert!(matches!(got, PlanError::NoIpv4Sid { .. }));
}

#[test]
fn one_vpc_does_not_decide_the_source_address_for_many() {
    let (mut a, b, c) = (snapshot("a", 1), snapshot("b", 2), snapshot("c", 3));
    fabric_mut(&mut a).source_address = "2001:db8::7".parse().unwrap();
    let all = [vpc(&a, 0, "mq0"), vpc(&b, 1, "mq1"), vpc(&c, 2, "mq2")];
    let got = left_out(&all, &NO_VRF, "a");
    assert!(matches!(got, PlanError::TunnelSource { .. }));
}

#[test]
fn one_sid_is_enough_for_ipv6_or_with_vrf() {
    let mut a = snapshot("a", 1);
    fabric_mut(&mut a).local_sid_ipv4 = None;
    let got = left_out(&[vpc(&a, 0, "mq0")], &NO_VRF, "a");
    assert!(matches!(got, PlanError::NoIpv4Sid { .. }));
    state(&[vpc(&a, 0, "mq0")], &WITH_VRF);
    a.pools.remove(0);
    fabric_mut(&mut a).routes.remove(0);
    let got = state(&[vpc(&a, 0, "mq0")], &NO_VRF);
    assert!(!got.sysctls.iter().any(|s| s.path.contains("ipv4")));
}

#[test]
fn says_what_the_kernel_lacks() {
    let a = snapshot("a", 1);
    let with = |kernel| plan(&[vpc(&a, 0, "mq0")], &kernel).unwrap_err();
    assert_eq!(
        with(KernelCapabilities {
            ipv6: false,
            ..NO_VRF
        }),
        PlanError::NoIpv6
    );
    assert_eq!(
        with(KernelCapabilities {
            encap_red: false,
            ..NO_VRF
        }),
        PlanError::NoEncapRed
    );
    let no_dx4 = KernelCapabilities {
        end_dx4: false,
        ..NO_VRF
    };
    assert_eq!(with(no_dx4), PlanError::NoDecapsulation);
    for (error, command) in [
        (
            PlanError::NoIpv6,
            "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`",
        ),
        (PlanError::NoEncapRed, "`grep SEG6 /boot/config-"),
        (PlanError::NoDecapsulation, "`modprobe vrf`"),
    ] {
        let text = error.to_string();
        assert!(
            text.contains(command) && !text.contains("Userspace"),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn slots_never_share_anything(a in 0..SLOTS_MAX, b in 0..SLOTS_MAX) {
        prop_assume!(a != b);
        let (a, b) = (Slot(a), Slot(b));
        let tables = BTreeSet::from([
            a.egress_table(), a.ingress_table(), b.egress_table(), b.ingress_table(),
        ]);
        prop_assert_eq!(tables.len(), 4);
        prop_assert_ne!(a.next_hop(), b.next_hop());
        prop_assert!(NEXT_HOP_NETWORK.contains(&a.next_hop()));
        prop_assert!(a.vrf_name().len() <= 15);
        for table in [a.egress_table(), a.ingress_table()] {
            prop_assert_eq!(Slot::of_table(table), Some(a));
        }
        prop_assert_eq!(Slot::of_next_hop(a.next_hop()), Some(a));
        prop_assert_eq!(Slot::of_table(TABLE_BASE - 1), None);
        prop_assert_eq!(Slot::of_table(TABLE_BASE + 2 * u32::from(SLOTS_MAX)), None);
    }
}
