//! Applying again, editing, clearing, crashing.

use masque_model::{Fabric, FabricRoute};
use masque_netlink::{Change, Kernel, NetlinkError, ROUTE_PROTOCOL, diff};
use masque_srv6::{Decapsulation, KernelPlan, Slot};
use masque_testkit::{Lab, Netns, device_exists, once_free, until_free};

use crate::topology::{Gateway, Topology, VPC_A, VPC_B, VPCS, is_busy, snapshot};

/// Everything that `ip` shows of routes, rules and the seg6 source.
fn state(ns: &Netns) -> String {
    let mut text = String::new();
    for family in ["-4", "-6"] {
        text += &ns.ip(&[
            family,
            "route",
            "show",
            "table",
            "all",
            "proto",
            &protocol(),
        ]);
        // The kernel adds the rule of VRFs with the first one, for good.
        let rules = ns.ip(&[family, "rule"]);
        rules
            .lines()
            .filter(|rule| !rule.contains("l3mdev"))
            .for_each(|rule| text += rule);
    }
    text + &ns.run("ip", &["sr", "tunsrc", "show"])
}

fn protocol() -> String {
    ROUTE_PROTOCOL.to_string()
}

#[test]
fn applying_again_changes_nothing() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    let plan = gateway.apply_both();
    let before = state(&topology.gateway);
    assert!(before.contains("encap.red") && before.contains("tunsrc addr 2001:db8:ff03:3::1"));
    assert_eq!(gateway.apply(&plan), []);
    assert_eq!(state(&topology.gateway), before);
    for vpc in VPCS {
        let link = topology.gateway.ip(&["link", "show", vpc.tun]);
        assert!(link.contains(" qdisc noqueue "), "{link}");
        assert!(link.contains(" qlen 1024\n"), "{link}");
    }
    // The probe leaves nothing either.
    let _ = topology.gateway.enter(|| gateway.kernel.probe().unwrap());
    assert_eq!(state(&topology.gateway), before);
}

/// Runs a closure as in a container without privileges: `/proc/sys` cannot be written.
fn with_read_only_settings<T: Send>(ns: &Netns, inside: impl FnOnce() -> T + Send) -> T {
    use nix::mount::{MsFlags, mount};
    let bind = |path: &str, flags| mount(Some(path), path, None::<&str>, flags, None::<&str>);
    ns.enter(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        bind("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE).unwrap();
        bind("/proc/sys", MsFlags::MS_BIND).unwrap();
        bind(
            "/proc/sys",
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        )
        .unwrap();
        inside()
    })
}

#[test]
fn advertised_routes_are_kept_where_there_are_any() {
    const SETTING: &str = "net/ipv6/conf/eth0/accept_ra";
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let gateway = Gateway::start(ns);
    ns.run("sh", &["-c", &format!("echo 1 > /proc/sys/{SETTING}")]);
    let plan = gateway.plan(&VPCS.map(|vpc| snapshot(&vpc)));
    let sets_it = |changes: &[Change]| {
        let it = |c: &Change| matches!(c, Change::SetSysctl { path, .. } if path == SETTING);
        changes.iter().any(it)
    };
    let wanted = || diff(&gateway.kernel.observe(&plan).unwrap(), &plan);
    assert!(sets_it(&ns.enter(wanted)), "where it can be set");
    assert!(
        !sets_it(&with_read_only_settings(ns, wanted)),
        "a pod's routes come from its network plugin"
    );
    let advertised = ["-6", "route", "add", "2001:db8:aaaa::/64", "dev", "eth0"];
    ns.ip(&[&advertised[..], &["proto", "ra"]].concat());
    assert!(
        sets_it(&with_read_only_settings(ns, wanted)),
        "a route that would be lost is worth an error"
    );
}

#[test]
fn an_edit_of_one_vpc_leaves_the_other_alone() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    let table_b = Slot(VPC_B.slot).egress_table().to_string();
    let routes_b = || {
        topology
            .gateway
            .ip(&["-d", "route", "show", "table", &table_b])
    };
    let before = routes_b();
    assert!(before.contains("10.0.2.0/24"));
    let mut edited = snapshot(&VPC_A);
    let Fabric::Static(fabric) = &mut edited.fabric;
    fabric.routes[0].sid = "2001:db8:ff03:1:e102::".parse().unwrap();
    fabric.routes.push(FabricRoute {
        prefix: "10.0.3.0/24".parse().unwrap(),
        sid: "2001:db8:ff03:1:e101::".parse().unwrap(),
    });
    fabric.routes.remove(1);
    let changes = gateway.apply(&gateway.plan(&[edited, snapshot(&VPC_B)]));
    let table_a = Slot(VPC_A.slot).egress_table();
    for change in &changes {
        match change {
            Change::AddRoute(_, route) => assert_eq!(route.table, table_a),
            Change::DeleteRoute(key) => assert_eq!(key.table, table_a),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(changes.len(), 3, "one replaced, one added, one deleted");
    assert_eq!(routes_b(), before);
    let routes_a = topology
        .gateway
        .ip(&["route", "show", "table", &table_a.to_string()]);
    assert!(routes_a.contains("2001:db8:ff03:1:e102::") && routes_a.contains("10.0.3.0/24"));
    assert!(!routes_a.contains("192.0.2.0/24"));
}

#[test]
fn a_removed_vpc_is_cut_off_before_its_tables_go() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    gateway.apply(&gateway.plan(&[snapshot(&VPC_A)]));
    let link = topology.gateway.ip(&["-o", "link", "show", VPC_B.tun]);
    assert!(link.contains("state DOWN"), "{link}");
    let state = state(&topology.gateway);
    assert!(
        !state.contains(VPC_B.tun) && !state.contains(VPC_B.gateway_sid),
        "{state}"
    );
    assert!(state.contains(VPC_A.gateway_sid));
}

#[test]
fn clear_leaves_what_was_there_before() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    ns.route("10.99.0.0/16 via 192.0.2.15 proto 200");
    let forwarding = || ns.run("cat", &["/proc/sys/net/ipv6/conf/all/forwarding"]);
    let before = (
        state(ns),
        ns.ip(&["route"]),
        ns.ip(&["-6", "route"]),
        forwarding(),
    );
    let gateway = Gateway::start(ns);
    let tuns = (ns.ip(&["route"]), ns.ip(&["-6", "route"]));
    gateway.apply_both();
    assert_ne!(forwarding(), before.3);
    ns.enter(|| gateway.kernel.clear().unwrap());
    assert_eq!(state(ns), before.0);
    // The TUNs are still there and down.
    assert_eq!((ns.ip(&["route"]), ns.ip(&["-6", "route"])), tuns);
    assert_eq!(forwarding(), before.3);
    drop(gateway);
    assert_eq!(
        (ns.ip(&["route"]), ns.ip(&["-6", "route"])),
        (before.1, before.2)
    );
}

#[test]
fn the_leftovers_of_a_crash_are_repaired_or_cleared() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let first = Gateway::start(ns);
    let plan = first.apply_both();
    let whole = state(ns);
    drop(first);
    until_free(|| ns.enter(|| VPCS.iter().any(|vpc| device_exists(vpc.tun))));
    let left = state(ns);
    assert!(
        left.contains("encap.red") && left != whole,
        "its TUNs took some routes with them"
    );
    // Somebody tampers meanwhile: a route with our number, another SID behind one of ours.
    let table = Slot(VPC_A.slot).egress_table().to_string();
    ns.route(&format!(
        "10.66.0.0/16 via 192.0.2.15 table {table} proto {ROUTE_PROTOCOL}"
    ));
    ns.ip(&["route", "del", "10.0.2.0/24", "table", &table]);
    ns.route(&format!(
        "10.0.2.0/24 metric 1024 encap seg6 mode encap segs 2001:db8::bad dev eth0 table {table} \
         proto {ROUTE_PROTOCOL}"
    ));
    let second = Gateway::start(ns);
    assert!(!second.apply(&plan).is_empty());
    assert_eq!(state(ns), whole);
    drop(second);
    // A third one finds only what the crash left and takes it away.
    let third = ns.enter(|| Kernel::open().unwrap());
    ns.enter(|| once_free(is_busy, || third.clear()));
    let state = state(ns);
    assert!(
        !state.contains("encap") && !state.contains("mqa"),
        "{state}"
    );
    assert!(!ns.ip(&["link"]).contains("mqvrf"));
    let rules = ns.ip(&["rule"]);
    assert!(rules.starts_with("0:\tfrom all lookup local"), "{rules}");
}

#[test]
fn settings_of_a_killed_gateway_are_put_back_by_the_next() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let names = [
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.all.rp_filter",
    ];
    let read = || names.map(|name| ns.run("sysctl", &["-n", name]).trim().to_owned());
    ns.sysctl(names[0], "0");
    ns.sysctl(names[1], "2");
    ns.run("ip", &["sr", "tunsrc", "set", "2001:db8::5"]);
    let source = || ns.run("ip", &["sr", "tunsrc", "show"]);
    let of_host = source();
    let folder = std::env::temp_dir().join(format!("masque-lifecycle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let note = folder.join("sysctls");
    let begin = || {
        let gateway = Gateway::start(ns);
        ns.enter(|| {
            gateway.kernel.remember_settings(&note).unwrap();
            once_free(is_busy, || gateway.kernel.sweep());
        });
        gateway.apply_both();
        gateway
    };
    drop(begin());
    assert_eq!(read(), ["1", "0"], "what a kill leaves");
    let noted = std::fs::read_to_string(&note).unwrap();
    for own in VPCS.map(|vpc| vpc.tun).iter().chain(&["mqvrf"]) {
        assert!(
            !noted.contains(own),
            "a device takes its own along: {noted}"
        );
    }
    let second = begin();
    assert_eq!(read(), ["1", "0"]);
    // What somebody else sets meanwhile is theirs.
    ns.sysctl(names[1], "1");
    ns.enter(|| second.kernel.clear().unwrap());
    assert_eq!((read(), source()), (["0", "1"].map(str::to_owned), of_host));
    assert!(!note.exists(), "nothing is left to put back");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn two_gateways_do_not_undo_each_other() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let gateway = Gateway::start(ns);
    gateway.apply_both();
    let before = state(ns);
    let other = ns.enter(|| Kernel::open().unwrap());
    let nothing = KernelPlan::empty(Decapsulation::EndDt6AndDx4);
    ns.enter(|| {
        let changes = diff(&other.observe(&nothing).unwrap(), &nothing);
        let refused = other.apply(&changes, &nothing).unwrap_err();
        assert!(matches!(refused.into_first(), NetlinkError::Busy));
        assert!(matches!(other.clear(), Err(NetlinkError::Busy)));
    });
    assert_eq!(state(ns), before);
}

#[test]
fn a_route_of_somebody_else_is_not_replaced() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    ns.route(&format!(
        "{}/128 via 2001:db8:f:3::f metric 1024",
        VPCS[0].gateway_sid
    ));
    let gateway = Gateway::start(ns);
    let plan = gateway.plan(&[snapshot(&VPC_A)]);
    ns.enter(|| {
        let changes = diff(&gateway.kernel.observe(&plan).unwrap(), &plan);
        let error = gateway.kernel.apply(&changes, &plan).unwrap_err();
        let error = error.into_first();
        assert!(matches!(error, NetlinkError::Exists { .. }), "{error}");
        assert!(error.to_string().contains(VPCS[0].gateway_sid), "{error}");
    });
}

#[test]
fn what_one_vpc_is_refused_stops_no_other_and_no_deletion() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let foreign = format!("{}/128", VPC_A.gateway_sid);
    ns.route(&format!("{foreign} via 2001:db8:f:3::f metric 1024"));
    let stale = format!("10.66.0.0/16 via 192.0.2.15 table 1297154055 proto {ROUTE_PROTOCOL}");
    ns.route(&stale);
    let gateway = Gateway::start(ns);
    let plan = gateway.plan(&VPCS.map(|vpc| snapshot(&vpc)));
    let refused = |plan: &KernelPlan| {
        ns.enter(|| {
            let changes = diff(&gateway.kernel.observe(plan).unwrap(), plan);
            gateway.kernel.apply(&changes, plan)
        })
    };
    let refusals = refused(&plan).unwrap_err();
    let slots: Vec<_> = refusals.iter().map(|refusal| refusal.slot).collect();
    assert_eq!(slots, [Some(Slot(VPC_A.slot))]);
    assert!(!state(ns).contains("10.66.0.0/16"), "what is stale goes");
    let observed = ns.enter(|| gateway.kernel.observe(&plan).unwrap());
    for change in diff(&observed, &plan) {
        let Change::AddSid(_, route) = change else {
            panic!("left to do: {change:?}");
        };
        assert_eq!(route.destination.to_string(), foreign);
    }
    ns.ip(&["-6", "route", "del", &foreign]);
    refused(&plan).unwrap();
    assert_eq!(gateway.apply(&plan), [], "mended");
}

/// Additions of a VPC stop at the first that is refused: nothing leads where there is nothing.
#[test]
fn nothing_is_built_on_what_was_refused() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let ns = &topology.gateway;
    let gateway = Gateway::start(ns);
    let plan = gateway.plan(&VPCS.map(|vpc| snapshot(&vpc)));
    let table = Slot(VPC_A.slot).egress_table();
    ns.route(&format!(
        "blackhole default table {table} metric 4294967294"
    ));
    let refusals = ns.enter(|| {
        let changes = diff(&gateway.kernel.observe(&plan).unwrap(), &plan);
        gateway.kernel.apply(&changes, &plan).unwrap_err()
    });
    assert!(refusals.iter().all(|r| r.slot == Some(Slot(VPC_A.slot))));
    let rules = ns.ip(&["-6", "rule"]);
    assert!(!rules.contains(VPC_A.tun), "{rules}");
    assert!(rules.contains(VPC_B.tun), "{rules}");
    let link = ns.ip(&["-o", "link", "show", VPC_A.tun]);
    assert!(!link.contains(",UP"), "{link}");
}

#[test]
fn without_privilege_the_error_says_what_to_do() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let ns = lab.host("gw");
    ns.enter(|| {
        drop_capabilities();
        let kernel = Kernel::open().unwrap();
        let error = kernel.probe().unwrap_err().to_string();
        assert!(
            error.contains("CAP_NET_ADMIN") && error.contains("setcap"),
            "{error}"
        );
    });
}

/// Of this thread only, which ends with the closure.
#[expect(unsafe_code, reason = "capset of one thread")]
fn drop_capabilities() {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: _LINUX_CAPABILITY_VERSION_3 takes a header of two words and two sets of three.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(done, 0, "capset");
}
