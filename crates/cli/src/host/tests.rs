use std::{fs, net::SocketAddr, path::Path, time::Duration};

use masque_testkit::{Lab, Netns};
use masque_tun::{TunConfig, TunDevice, TunQueue};

use super::{applied::Waiting, *};
use crate::failure::{Exit, Failure};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn broad_prefixes_are_known() {
    for text in ["0.0.0.0/0", "128.0.0.0/1", "2000::/3", "::/0"] {
        assert!(is_broad(&net(text)), "{text}");
    }
    for text in [
        "10.0.0.0/8",
        "fc00::/7",
        "fd00::/8",
        "2001:db8::/32",
        "192.0.2.1/32",
    ] {
        assert!(!is_broad(&net(text)), "{text}");
    }
    assert_eq!(
        halves(&net("0.0.0.0/0")),
        [net("0.0.0.0/1"), net("128.0.0.0/1")]
    );
    assert_eq!(halves(&net("10.0.0.0/8")), [net("10.0.0.0/8")]);
    assert_eq!(host_address(&net("10.0.100.0/24")), net("10.0.100.1/32"));
    assert_eq!(host_address(&net("fd00::5/128")), net("fd00::5/128"));
}

fn assignment(addresses: &[&str], routes: &[&str], remote: &str) -> Assignment {
    Assignment {
        addresses: addresses.iter().map(|text| net(text)).collect(),
        routes: routes.iter().map(|text| net(text)).collect(),
        mtu_bytes: 1400,
        remote: SocketAddr::new(remote.parse().unwrap(), 4433),
    }
}

/// Whether GRO is on. Looking turns it on where it is off, until the look is over.
fn merges(link: &str) -> bool {
    let mut gro = Gro::new().unwrap();
    gro.turn_on(link).unwrap() == GroState::On
}

/// Makes a note one of a process that does not run.
fn crash(note: &Path) {
    let text = fs::read_to_string(note).unwrap();
    let pid = format!("\"pid\":{}", std::process::id());
    assert!(text.contains(&pid), "{text}");
    fs::write(note, text.replace(&pid, "\"pid\":999999999")).unwrap();
}

fn open(name: &str) -> (TunDevice, Vec<TunQueue>) {
    let config = TunConfig {
        name: name.into(),
        queues: 1,
        offload: true,
    };
    TunDevice::open(&config).unwrap()
}

/// A host with a default route through a router, in a namespace of its own.
#[test]
fn the_machine_follows_the_assignment_and_is_restored() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let (host, router) = (lab.host("host"), lab.router("router"));
    lab.veth((&host, "eth0"), (&router, "eth0"), 1500);
    host.address("eth0", "192.168.7.2/24");
    router.address("eth0", "192.168.7.1/24");
    host.route("default via 192.168.7.1");
    let before = host.ip(&["route", "show"]);
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");

    host.enter(|| {
        let _device = open("dc0");
        let mut network = HostNetwork::new("dc0", false, note.clone()).unwrap();
        // The gateway is inside of what the VPC routes.
        let routes = ["0.0.0.0/0", "10.0.0.0/16", "198.51.100.0/24", "fd20::/32"];
        let first = assignment(
            &["10.0.100.50/32", "fd20:0:1::32/128"],
            &routes,
            "198.51.100.9",
        );
        let applied = network.apply(&first).unwrap();
        assert_eq!(applied.left_out, [net("0.0.0.0/0")]);
        assert!(applied.conflicts.is_empty(), "{applied:?}");

        let shown = host.ip(&["route", "show"]);
        assert!(shown.contains("10.0.0.0/16 dev dc0"), "{shown}");
        assert!(
            shown.contains("198.51.100.9 via 192.168.7.1 dev eth0"),
            "{shown}"
        );
        assert!(shown.contains("default via 192.168.7.1"), "{shown}");
        let link = host.ip(&["addr", "show", "dev", "dc0"]);
        assert!(
            link.contains("mtu 1400") && link.contains("10.0.100.50/32"),
            "{link}"
        );
        assert!(link.contains("fd20:0:1::32/128"), "{link}");
        let v6 = host.ip(&["-6", "route", "show"]);
        assert!(v6.contains("fd20::/32 dev dc0"), "{v6}");

        // Another address, fewer routes, one of them a network of this machine.
        let routes = ["10.0.0.0/16", "192.168.7.0/24"];
        assert!(merges("eth0"));
        let second = assignment(&["10.0.100.60/32"], &routes, "198.51.100.9");
        let applied = network.apply(&second).unwrap();
        assert_eq!(
            applied.conflicts,
            [(net("192.168.7.0/24"), "eth0".to_owned())]
        );
        let shown = host.ip(&["route", "show"]);
        assert!(!shown.contains("198.51.100.0/24"), "{shown}");
        assert!(
            shown.contains("192.168.7.0/24 dev eth0 proto kernel"),
            "{shown}"
        );
        assert!(shown.contains("src 10.0.100.60"), "{shown}");
        assert!(fs::read_to_string(&note).unwrap().contains("eth0"));
        network.undo().unwrap();
        assert!(!merges("eth0"));
    });
    assert!(!note.exists());
    // A child that another test is just starting may hold the device for a moment longer.
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        host.ip(&["route", "show"]) == before
    });
    assert!(gone, "{}", host.ip(&["route", "show"]));
    assert!(!host.pings("10.0.0.1".parse().unwrap(), Duration::ZERO));
}

#[test]
fn with_the_default_route_the_gateway_keeps_its_way_also_after_a_move() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let (host, router) = (lab.host("host"), lab.router("router"));
    lab.veth((&host, "eth0"), (&router, "eth0"), 1500);
    lab.veth((&host, "wlan0"), (&router, "wlan0"), 1500);
    host.address("eth0", "192.168.7.2/24");
    host.route("default via 192.168.7.1 dev eth0 metric 100");
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    host.enter(|| {
        let _device = open("dc0");
        let mut network = HostNetwork::new("dc0", true, note.clone()).unwrap();
        network
            .apply(&assignment(
                &["10.0.100.50/32"],
                &["0.0.0.0/0"],
                "198.51.100.9",
            ))
            .unwrap();
        let lookup = |to: &str| {
            Kernel::open()
                .unwrap()
                .route_to(to.parse().unwrap())
                .unwrap()
        };
        assert_eq!(lookup("203.0.113.1").unwrap().link, "dc0");
        assert_eq!(lookup("198.51.100.9").unwrap().link, "eth0");

        // The cable is pulled, the wireless network takes over.
        host.ip(&["link", "set", "eth0", "down"]);
        host.address("wlan0", "192.168.9.2/24");
        host.route("default via 192.168.9.1 dev wlan0 metric 600");
        assert!(network.renew().unwrap());
        let found = lookup("198.51.100.9").unwrap();
        assert_eq!(
            (found.link.as_str(), found.gateway),
            ("wlan0", "192.168.9.1".parse().ok())
        );
        assert_eq!(lookup("203.0.113.1").unwrap().link, "dc0");
        assert!(
            !network.renew().unwrap(),
            "it would be told of its own change"
        );

        // No network at all, then the cable again.
        host.ip(&["link", "set", "wlan0", "down"]);
        network.renew().unwrap();
        host.ip(&["link", "set", "eth0", "up"]);
        host.route("default via 192.168.7.1 dev eth0 metric 100");
        network.renew().unwrap();
        assert_eq!(lookup("198.51.100.9").unwrap().link, "eth0");
        assert_eq!(lookup("203.0.113.1").unwrap().link, "dc0");

        // A crash: the note tells the next process what to remove.
        crash(&note);
        // Nothing of it runs.
        std::mem::forget(network);
        assert!(merges("eth0"));
        recover(&note);
        assert!(!merges("eth0"));
        assert!(!note.exists());
        assert!(!host.ip(&["route", "show"]).contains("198.51.100.9"));
    });
}

#[test]
fn of_two_attachments_the_last_turns_gro_off() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let (host, router) = (lab.host("host"), lab.router("router"));
    lab.veth((&host, "eth0"), (&router, "eth0"), 1500);
    host.address("eth0", "198.51.100.2/24");
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let _devices = [open("dc0"), open("dc1")];
        let attach = |device, address, route| {
            let note = folder.path().join(device).with_extension("undo");
            let mut network = HostNetwork::new(device, false, note).unwrap();
            let assignment = assignment(&[address], &[route], "198.51.100.9");
            network.apply(&assignment).unwrap();
            network
        };
        let mut first = attach("dc0", "10.0.100.50/32", "10.0.0.0/16");
        let mut second = attach("dc1", "10.1.100.50/32", "10.1.0.0/16");
        assert!(merges("eth0"));
        first.undo().unwrap();
        assert!(merges("eth0"), "the second one needs it");
        second.undo().unwrap();
        assert!(!merges("eth0"));
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    });
}

/// A host of one network with a router that leads everywhere; `None` after a `SKIPPED:` line.
fn host_with_router() -> Option<(Lab, Netns)> {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return None;
    }
    let mut lab = Lab::new();
    let (host, router) = (lab.host("host"), lab.router("router"));
    lab.veth((&host, "eth0"), (&router, "eth0"), 1500);
    host.address("eth0", "192.168.7.2/24");
    host.route("default via 192.168.7.1");
    Some((lab, host))
}

#[test]
fn without_ipv6_the_rest_is_set_and_a_person_is_told_once() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    host.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let _device = open("dc0");
        let mut network = HostNetwork::new("dc0", false, folder.path().join("note")).unwrap();
        // IPv6 first, as a gateway may send it.
        let addresses = ["fd20:0:1::32/128", "10.0.100.50/32"];
        let both = assignment(&addresses, &["fd20::/32", "10.0.0.0/16"], "198.51.100.9");
        let lines = network.apply(&both).unwrap().lines();
        let setting = "sysctl net.ipv6.conf.all.disable_ipv6=1";
        let text = format!(
            "IPv6 is off on this machine ({setting}): fd20:0:1::32 and the IPv6 routes are left out"
        );
        assert_eq!(lines, [("warning", text)]);
        let shown = host.ip(&["route", "show"]);
        assert!(shown.contains("10.0.0.0/16 dev dc0"), "{shown}");
        assert_eq!(network.apply(&both).unwrap().lines(), [], "told already");

        let alone = assignment(&addresses[..1], &["fd20::/32"], "198.51.100.9");
        let failure = Failure::from(network.apply(&alone).unwrap_err());
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.to_string().contains(setting), "{failure}");
        network.undo().unwrap();
    });
}

/// A child that another test is just starting may hold the device for a moment longer.
fn wait_gone(host: &Netns, device: &str) {
    let gone = (0..250).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !host.ip(&["link", "show"]).contains(device)
    });
    assert!(gone, "{device} is still there");
}

#[test]
fn of_two_attachments_with_one_prefix_each_has_a_route() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let mut devices = vec![open("dc0"), open("dc1")];
        let routes = ["10.0.0.0/16", "fd20::/32"];
        // The same address in both VPCs, too.
        let assignment = assignment(&["10.0.100.1/32", "fd20:1::1/128"], &routes, "198.51.100.9");
        let attach = |device| {
            let note = folder.path().join(device).with_extension("undo");
            let mut network = HostNetwork::new(device, false, note).unwrap();
            let applied = network.apply(&assignment).unwrap();
            (network, applied)
        };
        let (mut first, applied) = attach("dc0");
        assert_eq!(applied.lines(), []);
        let (mut second, applied) = attach("dc1");
        let waiting = |destination| Waiting {
            destination: net(destination),
            metric: 51,
            first: Some("dc0".to_owned()),
        };
        assert_eq!(applied.waiting, routes.map(waiting));
        assert_eq!(applied.lines().len(), 2, "{applied:?}");
        let link = |to: &str| {
            let found = Kernel::open().unwrap().route_to(to.parse().unwrap());
            found.unwrap().unwrap().link
        };
        let inside = ["10.0.0.1", "fd20::1"];
        assert_eq!(inside.map(link), ["dc0", "dc0"]);
        assert_eq!(first.apply(&assignment).unwrap().lines(), []);
        assert_eq!(second.apply(&assignment).unwrap().lines(), []);
        assert_eq!(
            inside.map(link),
            ["dc0", "dc0"],
            "a reconnect takes nothing away"
        );

        second.undo().unwrap();
        drop(devices.pop());
        wait_gone(&host, "dc1");
        assert_eq!(inside.map(link), ["dc0", "dc0"]);

        devices.push(open("dc2"));
        let (mut second, _) = attach("dc2");
        first.undo().unwrap();
        drop(devices.remove(0));
        wait_gone(&host, "dc0");
        assert_eq!(inside.map(link), ["dc2", "dc2"]);

        // The former first one comes back, behind.
        devices.push(open("dc3"));
        let (mut first, _) = attach("dc3");
        assert_eq!(inside.map(link), ["dc2", "dc2"]);
        first.undo().unwrap();
        second.undo().unwrap();
    });
}

#[test]
fn no_route_of_somebody_else_is_replaced_and_metrics_are_bounded() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let _device = open("dc0");
        let theirs = "10.0.0.0/16 via 192.168.7.1 dev eth0";
        host.route(&format!("{theirs} metric 50"));
        let pinned = "198.51.100.9 via 192.168.7.1 dev eth0";
        host.route(&format!("{pinned} metric 50"));
        let before = host.ip(&["route", "show"]);
        let mut network = HostNetwork::new("dc0", false, folder.path().join("note")).unwrap();
        let covering = ["10.0.0.0/16", "198.51.100.0/24"];
        let assignment = assignment(&["10.0.100.50/32"], &covering, "198.51.100.9");
        let applied = network.apply(&assignment).unwrap();
        let waiting = Waiting {
            destination: net("10.0.0.0/16"),
            metric: 51,
            first: None,
        };
        assert_eq!(applied.waiting, [waiting]);
        let shown = host.ip(&["route", "show"]);
        for line in before.lines() {
            assert!(shown.contains(line), "{line} is gone:\n{shown}");
        }
        assert!(shown.contains("10.0.0.0/16 dev dc0"), "{shown}");
        network.undo().unwrap();
        let shown = host.ip(&["route", "show"]);
        assert!(shown.contains(theirs) && shown.contains(pinned), "{shown}");

        for metric in routes::METRICS {
            let taken = format!("10.9.0.0/16 via 192.168.7.1 dev eth0 metric {metric}");
            host.route(&taken);
        }
        let assignment = Assignment {
            routes: vec![net("10.9.0.0/16")],
            ..assignment
        };
        let error = network.apply(&assignment).unwrap_err();
        assert!(matches!(error, HostError::NoMetric(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("from 50 to 99"), "{text}");
        assert_eq!(Failure::from(error).exit, Exit::CannotCreate);
    });
}

#[test]
fn the_gateways_route_lasts_as_long_as_one_attachment_needs_it() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    // Root's, and one of another user: neither sees the other's notes.
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    host.enter(|| {
        let _devices = [open("dc0"), open("dc1"), open("dc2")];
        let note = |device: &str| {
            let folder = if device == "dc2" { &elsewhere } else { &folder };
            folder.path().join(device).with_extension("undo")
        };
        let attach = |device| {
            let mut network = HostNetwork::new(device, false, note(device)).unwrap();
            let covering = assignment(&["10.0.100.50/32"], &["198.51.100.0/24"], "198.51.100.9");
            network.apply(&covering).unwrap();
            network
        };
        let way = || {
            let kernel = Kernel::open().unwrap();
            let found = kernel.route_to("198.51.100.9".parse().unwrap()).unwrap();
            found.unwrap().link
        };
        let pins = || {
            let shown = host.ip(&["route", "show", "198.51.100.9"]);
            shown.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (mut first, second, mut third) = (attach("dc0"), attach("dc1"), attach("dc2"));
        assert_eq!(pins().len(), 3, "{:?}", pins());
        first.undo().unwrap();
        assert_eq!((way().as_str(), pins().len()), ("eth0", 2));
        assert!(!third.renew().unwrap(), "its own is there");
        // The second crashes. Where the third is, nobody knows of it.
        crash(&note("dc1"));
        std::mem::forget(second);
        recover(&note("dc2"));
        assert_eq!(pins().len(), 2);
        // The next attachment to any VPC takes back what it left.
        recover(&note("dc9"));
        assert!(!note("dc1").exists());
        assert!(note("dc2").exists(), "that one runs");
        assert_eq!((way().as_str(), pins().len()), ("eth0", 1));
        third.undo().unwrap();
        assert_eq!(pins(), [""; 0]);
    });
}

/// The cable is pulled: the kernel drops the routes, whichever attachment they are of. They return
/// by the way that there is then, also the one whose attachment crashed.
#[test]
fn after_a_move_each_attachment_has_its_own_route_to_the_gateway_again() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let _devices = [open("dc0"), open("dc1")];
        let attach = |device| {
            let note = folder.path().join(device).with_extension("undo");
            let mut network = HostNetwork::new(device, false, note).unwrap();
            let covering = assignment(&["10.0.100.50/32"], &["198.51.100.0/24"], "198.51.100.9");
            network.apply(&covering).unwrap();
            network
        };
        let pins = |way: &str| {
            let shown = host.ip(&["route", "show", "198.51.100.9"]);
            shown.lines().filter(|line| line.contains(way)).count()
        };
        let (mut first, mut second) = (attach("dc0"), attach("dc1"));
        host.ip(&["link", "set", "eth0", "down"]);
        assert_eq!(pins(""), 0);
        host.ip(&["link", "set", "eth0", "up"]);
        host.route("default via 192.168.7.1");
        assert!(second.renew().unwrap() && first.renew().unwrap());
        assert_eq!(pins("via 192.168.7.1"), 2);

        // The first never hears of the other router.
        host.ip(&["route", "replace", "default", "via", "192.168.7.3"]);
        assert!(second.renew().unwrap());
        assert_eq!((pins("via 192.168.7.3"), pins("")), (2, 2));
        second.undo().unwrap();
        assert_eq!(pins(""), 1);
        first.undo().unwrap();
        assert_eq!(pins(""), 0);
    });
}

#[test]
fn the_way_to_the_gateway_is_found_past_another_tunnel() {
    let Some((_lab, host)) = host_with_router() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    host.enter(|| {
        let _devices = [open("dc0"), open("dc1")];
        let attach = |device, gateway| {
            let note = folder.path().join(device).with_extension("undo");
            let mut network = HostNetwork::new(device, false, note).unwrap();
            let covering = assignment(&["10.0.100.50/32"], &["198.51.100.0/24"], gateway);
            network.apply(&covering).unwrap();
            network
        };
        // Two gateways, and the first tunnel covers the second one's.
        let _first = attach("dc0", "198.51.100.9");
        let mut second = attach("dc1", "198.51.100.10");
        let kernel = Kernel::open().unwrap();
        let found = kernel.route_to("198.51.100.10".parse().unwrap()).unwrap();
        assert_eq!(found.unwrap().link, "eth0");
        second.undo().unwrap();
        let shown = host.ip(&["route", "show"]);
        assert!(
            shown.contains("198.51.100.9 via") && !shown.contains("198.51.100.10 via"),
            "{shown}"
        );
    });
}
