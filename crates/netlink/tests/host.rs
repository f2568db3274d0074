//! What a client does with its host: address, routes, lookups. Needs root or a user namespace.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::net::IpAddr;

use ipnet::IpNet;
use masque_netlink::{CLIENT_ROUTE_PROTOCOL, HostRoute, Kernel, NetlinkError};
use masque_testkit::{Lab, Netns};
use masque_tun::{TunConfig, TunDevice};

struct Host {
    ns: Netns,
    kernel: Kernel,
    _lab: Lab,
}

impl Host {
    /// A host with an uplink (`eth0`, default routes) whose other end is a router.
    fn new() -> Option<Self> {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        let (ns, router) = (lab.host("c"), lab.router("r"));
        lab.veth((&ns, "eth0"), (&router, "c"), 1500);
        ns.address("eth0", "192.0.2.2/24");
        ns.address("eth0", "2001:db8::2/64");
        ns.route("default via 192.0.2.1");
        ns.route("::/0 via 2001:db8::1");
        let kernel = ns.enter(|| Kernel::open().unwrap());
        Some(Self {
            ns,
            kernel,
            _lab: lab,
        })
    }

    fn to(&self, destination: &str) -> Option<(String, Option<IpAddr>, Option<IpAddr>)> {
        let lookup = self
            .kernel
            .route_to(destination.parse().unwrap())
            .unwrap()?;
        assert_eq!(
            self.kernel.link_index(&lookup.link).unwrap(),
            Some(lookup.link_index)
        );
        Some((lookup.link, lookup.gateway, lookup.source))
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn a_tunnel_is_set_up_and_taken_down() {
    let Some(host) = Host::new() else { return };
    let config = TunConfig {
        name: "mq0".into(),
        queues: 1,
        offload: true,
    };
    let (device, queues) = host.ns.enter(|| TunDevice::open(&config)).unwrap();
    let kernel = &host.kernel;
    assert_eq!(kernel.link_index("mq0").unwrap(), Some(device.index));
    kernel.set_noqueue("mq0");
    kernel.set_link_up("mq0", 1380).unwrap();
    for address in ["10.0.100.50/32", "fd20:10:100::50/128"] {
        kernel.add_address("mq0", net(address)).unwrap();
        kernel.add_address("mq0", net(address)).unwrap();
        assert!(host.ns.ip(&["address", "show", "mq0"]).contains(address));
    }
    assert!(
        host.ns
            .ip(&["link", "show", "mq0", "up"])
            .contains("mtu 1380 qdisc noqueue ")
    );
    // What somebody chose stays.
    host.ns
        .run("tc", &["qdisc", "replace", "dev", "mq0", "root", "pfifo"]);
    kernel.set_noqueue("mq0");
    assert!(
        host.ns
            .ip(&["link", "show", "mq0"])
            .contains(" qdisc pfifo ")
    );
    let source = ip("10.0.100.50");
    let vpc = HostRoute {
        source,
        ..HostRoute::on_link(net("10.0.0.0/16"), "mq0")
    };
    kernel.replace_route(&vpc).unwrap();
    kernel.replace_route(&vpc).unwrap();
    kernel
        .replace_route(&HostRoute::on_link(net("fd20:10::/32"), "mq0"))
        .unwrap();
    assert_eq!(host.to("10.0.2.100"), Some(("mq0".into(), None, source)));
    assert_eq!(
        host.to("fd20:10:2::1"),
        Some(("mq0".into(), None, ip("fd20:10:100::50")))
    );
    assert_eq!(
        host.to("203.0.113.1"),
        Some(("eth0".into(), ip("192.0.2.1"), ip("192.0.2.2")))
    );
    kernel.delete_route(&vpc).unwrap();
    kernel.delete_route(&vpc).unwrap();
    assert_eq!(host.to("10.0.2.100").unwrap().0, "eth0");
    kernel.remove_address("mq0", net("10.0.100.50/32")).unwrap();
    kernel.remove_address("mq0", net("10.0.100.50/32")).unwrap();
    assert!(
        !host
            .ns
            .ip(&["address", "show", "mq0"])
            .contains("10.0.100.50")
    );
    drop(queues);
}

#[test]
fn the_way_to_the_server_survives_a_default_route_into_the_tunnel() {
    let Some(host) = Host::new() else { return };
    let config = TunConfig {
        name: "mq0".into(),
        queues: 1,
        offload: true,
    };
    let opened = host.ns.enter(|| TunDevice::open(&config)).unwrap();
    let kernel = &host.kernel;
    kernel.set_link_up("mq0", 1280).unwrap();
    for (server, everything) in [
        ("203.0.113.7", ["0.0.0.0/1", "128.0.0.0/1"]),
        ("2001:db8:5::7", ["::/1", "8000::/1"]),
    ] {
        let before = host.to(server).unwrap();
        let server_route = HostRoute {
            gateway: before.1,
            mtu_bytes: Some(1400),
            ..HostRoute::on_link(IpNet::from(server.parse::<IpAddr>().unwrap()), &before.0)
        };
        kernel.replace_route(&server_route).unwrap();
        for half in everything {
            kernel
                .replace_route(&HostRoute::on_link(net(half), "mq0"))
                .unwrap();
        }
        assert_eq!(host.to(server), Some(before));
    }
    assert_eq!(host.to("198.51.100.1").unwrap().0, "mq0");
    assert!(host.ns.ip(&["route"]).contains("mtu 1400"));
    // A client that is killed leaves the way to its server; the next one takes it away.
    drop(opened);
    let protocol = CLIENT_ROUTE_PROTOCOL.to_string();
    let left =
        || ["-4", "-6"].map(|family| host.ns.ip(&[family, "route", "show", "proto", &protocol]));
    assert!(left()[0].contains("203.0.113.7") && left()[1].contains("2001:db8:5::7"));
    kernel.clear_client_routes().unwrap();
    assert_eq!(left(), ["", ""]);
    assert_eq!(
        host.to("203.0.113.7").unwrap().0,
        "eth0",
        "the host's own routes stay"
    );
}

#[test]
fn what_is_not_there_is_said_so() {
    let Some(host) = Host::new() else { return };
    let kernel = &host.kernel;
    assert_eq!(kernel.link_index("nope").unwrap(), None);
    assert_eq!(
        kernel.link_index("a-name-that-is-far-too-long").unwrap(),
        None
    );
    assert_eq!(kernel.link_name(4_000_000).unwrap(), None);
    let error = kernel.set_link_up("nope", 1500).unwrap_err();
    assert!(matches!(error, NetlinkError::NoInterface(ref name) if name == "nope"));
    assert!(matches!(
        kernel.replace_route(&HostRoute::on_link(net("10.0.0.0/8"), "nope")),
        Err(NetlinkError::NoInterface(_))
    ));
    let wrong = HostRoute {
        gateway: ip("198.51.100.77"),
        ..HostRoute::on_link(net("10.0.0.0/8"), "eth0")
    };
    let error = kernel.replace_route(&wrong).unwrap_err().to_string();
    assert!(
        error.contains("10.0.0.0/8") && error.contains("gateway"),
        "{error}"
    );
    host.ns.ip(&["route", "del", "default"]);
    assert_eq!(host.to("203.0.113.1"), None);
    host.ns.route("blackhole 203.0.113.0/24");
    assert_eq!(host.to("203.0.113.1"), None);
}

#[test]
fn a_claim_replaces_nothing_and_a_route_is_deleted_from_its_own_interface() {
    let Some(host) = Host::new() else { return };
    let config = TunConfig {
        name: "mq0".into(),
        queues: 1,
        offload: true,
    };
    let _opened = host.ns.enter(|| TunDevice::open(&config)).unwrap();
    let kernel = &host.kernel;
    kernel.set_link_up("mq0", 1380).unwrap();
    let shown = |family, prefix| host.ns.ip(&[family, "route", "show", prefix]);
    for (family, prefix, router) in [
        ("-4", "10.0.0.0/16", "192.0.2.1"),
        ("-6", "fd20:10::/32", "2001:db8::1"),
    ] {
        let theirs = format!("{prefix} via {router} dev eth0 metric 50");
        host.ns.route(&theirs);
        let before = shown(family, prefix);
        let at = |link, metric| HostRoute {
            metric,
            ..HostRoute::on_link(net(prefix), link)
        };
        assert!(!kernel.claim_route(&at("mq0", 50)).unwrap());
        assert_eq!(shown(family, prefix), before);
        assert!(kernel.claim_route(&at("mq0", 51)).unwrap());
        assert!(!kernel.claim_route(&at("mq0", 51)).unwrap(), "our own, too");
        assert_eq!(kernel.client_routes().unwrap(), [at("mq0", 51)]);
        // Neither somebody else's nor one through another interface.
        kernel.delete_route(&at("eth0", 50)).unwrap();
        kernel.delete_route(&at("eth0", 51)).unwrap();
        kernel.delete_route(&at("gone", 51)).unwrap();
        assert_eq!(kernel.client_routes().unwrap(), [at("mq0", 51)]);
        kernel.delete_route(&at("mq0", 51)).unwrap();
        assert_eq!(shown(family, prefix), before);
    }
}

#[test]
fn the_way_beside_clients_is_what_the_main_table_says_without_them() {
    let Some(host) = Host::new() else { return };
    let kernel = &host.kernel;
    let ways = |to: &str| {
        let found = kernel.way_beside_clients(to.parse().unwrap()).unwrap();
        let hops = found.into_iter().map(|way| {
            assert_eq!(way.destination, IpNet::from(to.parse::<IpAddr>().unwrap()));
            (way.link, way.gateway)
        });
        hops.collect::<Vec<_>>()
    };
    for (server, router) in [
        ("203.0.113.7", "192.0.2.1"),
        ("2001:db8:5::7", "2001:db8::1"),
    ] {
        let expected = [("eth0".to_owned(), ip(router))];
        assert_eq!(ways(server), expected);
        // A client's own route to it, and into a tunnel.
        let server = IpNet::from(server.parse::<IpAddr>().unwrap());
        let mut wrong = HostRoute {
            metric: 50,
            ..HostRoute::on_link(server, "lo")
        };
        assert!(kernel.claim_route(&wrong).unwrap());
        wrong.destination = IpNet::new(server.addr(), 24).unwrap().trunc();
        assert!(kernel.claim_route(&wrong).unwrap());
        assert_eq!(ways(&server.addr().to_string()), expected);
    }
    assert_eq!(ways("192.0.2.9"), [("eth0".to_owned(), None)]);
    host.ns.route("203.0.113.0/24 via 192.0.2.77 metric 9");
    host.ns.route("203.0.113.0/24 via 192.0.2.78 metric 8");
    assert_eq!(ways("203.0.113.7"), [("eth0".to_owned(), ip("192.0.2.78"))]);
    host.ns
        .route("203.0.113.0/25 nexthop via 192.0.2.5 nexthop via 192.0.2.6");
    let both = ["192.0.2.5", "192.0.2.6"].map(|router| ("eth0".to_owned(), ip(router)));
    assert_eq!(ways("203.0.113.7"), both);
    host.ns.route("unreachable 203.0.113.7");
    assert_eq!(ways("203.0.113.7"), []);
    // The routes of a link that is down are gone; the unreachable one is not.
    host.ns.ip(&["link", "set", "eth0", "down"]);
    assert_eq!(ways("192.0.2.9"), []);
}

#[test]
fn an_interface_without_ipv6_is_no_lack_of_privilege() {
    let Some(host) = Host::new() else { return };
    host.ns.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1");
    let refused = host.kernel.add_address("eth0", net("fd20::1/128"));
    let error = refused.unwrap_err();
    assert!(matches!(error, NetlinkError::Forbidden { .. }), "{error}");
    assert!(!error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    host.kernel
        .add_address("eth0", net("10.0.100.50/32"))
        .unwrap();
}
