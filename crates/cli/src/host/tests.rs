use std::{fs, time::Duration};

use masque_testkit::Lab;
use masque_tun::{TunConfig, TunDevice, TunQueue};

use super::*;

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
        network.refresh_pin().unwrap();
        let found = lookup("198.51.100.9").unwrap();
        assert_eq!(
            (found.link.as_str(), found.gateway),
            ("wlan0", "192.168.9.1".parse().ok())
        );
        assert_eq!(lookup("203.0.113.1").unwrap().link, "dc0");

        // A crash: the note tells the next process what to remove.
        let text = fs::read_to_string(&note).unwrap();
        fs::write(
            &note,
            text.replace(&std::process::id().to_string(), "999999999"),
        )
        .unwrap();
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
