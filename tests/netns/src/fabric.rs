//! The namespaces, links, addresses and SRv6 routes; see the drawing in the crate's documentation.

use std::{
    net::Ipv6Addr,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use masque_testkit::{Lab, Netns};
use tempfile::TempDir;

use crate::{Client, Gateway, Manifests};

/// The SRv6 block; a locator is `BLOCK:NODE::/64`.
const BLOCK: &str = "fd00:0:1";
/// The segment between gateway and nodes.
const SEGMENT: &str = "fd00:0:0:a";
/// The gateway's device towards the nodes.
pub const UNDERLAY_GATEWAY: &str = "underlay";
/// Fabrics at one time: each has about ten processes that want a core.
const FABRICS_MAX: usize = 2;

static FABRICS: Mutex<usize> = Mutex::new(0);
static FABRIC_ENDED: Condvar = Condvar::new();

/// MTUs of the outer links, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// From the clients over the router to the gateway.
    pub access_mtu: u32,
    /// Between gateway and nodes, and to the workloads.
    pub underlay_mtu: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            access_mtu: 1500,
            underlay_mtu: 1500,
        }
    }
}

/// One laboratory, and a folder for manifests, keys and logs.
#[derive(Debug)]
pub struct Fabric {
    /// Client host.
    pub laptop: Netns,
    /// Client host.
    pub phone: Netns,
    /// Between the clients (devices `laptop`, `phone`) and the gateway (device `gateway`).
    pub router: Netns,
    /// Devices `access` and `underlay`.
    pub gateway: Netns,
    /// Devices `underlay`, `work-1p`, `work-1s`.
    pub node_1: Netns,
    /// Devices `underlay`, `work-2p`.
    pub node_2: Netns,
    /// 10.0.1.10 and fd20:10:0:1::10 of production.
    pub work_1p: Netns,
    /// 10.0.1.10 and fd20:20:0:1::10 of staging.
    pub work_1s: Netns,
    /// 10.0.2.10 and fd20:10:0:2::10 of production.
    pub work_2p: Netns,
    /// What the gateway runs on: production and staging as in `examples/standalone`.
    pub manifests: Manifests,
    folder: TempDir,
    _lab: Lab,
    _place: Place,
}

impl Fabric {
    /// The usual fabric, or `None` after a `SKIPPED:` line.
    #[track_caller]
    pub fn new() -> Option<Self> {
        Self::with(Links::default())
    }

    /// A fabric with these links, or `None` after a `SKIPPED:` line.
    #[track_caller]
    pub fn with(links: Links) -> Option<Self> {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return None;
        }
        let place = Place::wait();
        let mut lab = Lab::new();
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let fabric = Self {
            laptop: lab.host("laptop"),
            phone: lab.host("phone"),
            router: lab.router("router"),
            gateway: lab.host("gateway"),
            node_1: lab.router("node-1"),
            node_2: lab.router("node-2"),
            work_1p: lab.host("work-1p"),
            work_1s: lab.host("work-1s"),
            work_2p: lab.host("work-2p"),
            manifests: Manifests::new(&folder.path().join("manifests")),
            folder,
            _place: place,
            _lab: lab,
        };
        fabric.access(links.access_mtu);
        fabric.underlay(links.underlay_mtu);
        let work = |node, id, work, name, vpc, subnet| Workload {
            node,
            id,
            work,
            name,
            vpc,
            subnet,
        };
        work(&fabric.node_1, 1, &fabric.work_1p, "work-1p", 1, 1).join(links.underlay_mtu);
        work(&fabric.node_1, 1, &fabric.work_1s, "work-1s", 2, 1).join(links.underlay_mtu);
        work(&fabric.node_2, 2, &fabric.work_2p, "work-2p", 1, 2).join(links.underlay_mtu);
        Some(fabric)
    }

    /// The folder of this fabric's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the connector's key and its public half known to the manifests.
    #[track_caller]
    pub fn connector(&mut self, name: &str) {
        let id = Client::public_key(&self.laptop, self.folder.path(), name);
        self.manifests.connectors.insert(name.to_owned(), id);
    }

    /// Writes the manifests and starts a gateway that is ready.
    #[track_caller]
    pub fn start_gateway(&self) -> Gateway {
        self.manifests.write();
        let gateway = Gateway::start(self, &[]);
        gateway.wait_ready();
        gateway
    }

    /// A client on `host` with the key of the connector `name`, attached to `vpc`.
    #[track_caller]
    pub fn attach(&self, host: &Netns, name: &str, vpc: &str) -> Client {
        let client = Client::start(self, host, name, vpc, &[]);
        client.wait_attached();
        client
    }

    fn access(&self, mtu: u32) {
        for (host, name, number) in [(&self.laptop, "laptop", 100), (&self.phone, "phone", 101)] {
            link((host, "eth0"), (&self.router, name), mtu);
            host.address("eth0", &format!("198.51.{number}.10/24"));
            self.router.address(name, &format!("198.51.{number}.1/24"));
            host.route(&format!("0.0.0.0/0 via 198.51.{number}.1"));
        }
        link((&self.router, "gateway"), (&self.gateway, "access"), mtu);
        self.router.address("gateway", "192.0.2.254/24");
        self.gateway.address("access", "192.0.2.1/24");
        self.gateway.route("0.0.0.0/0 via 192.0.2.254");
    }

    /// One segment: the bridge is in the router's namespace, which has nothing else to do with it.
    fn underlay(&self, mtu: u32) {
        self.router
            .ip(&["link", "add", "segment", "type", "bridge"]);
        self.router.ip(&["link", "set", "segment", "up"]);
        let members = [(&self.gateway, 3), (&self.node_1, 1), (&self.node_2, 2)];
        for (host, number) in members {
            let port = format!("segment-{number}");
            link((host, UNDERLAY_GATEWAY), (&self.router, &port), mtu);
            self.router.ip(&["link", "set", &port, "master", "segment"]);
            host.address(UNDERLAY_GATEWAY, &format!("{SEGMENT}::{number}/64"));
            host.address("lo", &format!("{BLOCK}:{number}::1/128"));
            host.ip(&["sr", "tunsrc", "set", &format!("{BLOCK}:{number}::1")]);
        }
        for (host, number) in members {
            for (_, to) in members.into_iter().filter(|(_, to)| *to != number) {
                host.route(&format!(
                    "{BLOCK}:{to}::/64 via {SEGMENT}::{to} dev {UNDERLAY_GATEWAY}"
                ));
            }
        }
    }
}

/// The SID of a node for a VPC (1 production, 2 staging): function `e` for IPv6, `d` for IPv4.
pub fn sid(node: u16, function: char, vpc: u16) -> Ipv6Addr {
    let text = format!("{BLOCK}:{node}:{function}00{vpc}::");
    text.parse().expect("an address")
}

struct Workload<'a> {
    node: &'a Netns,
    id: u16,
    work: &'a Netns,
    name: &'a str,
    vpc: u16,
    subnet: u16,
}

impl Workload<'_> {
    fn join(&self, mtu: u32) {
        let Self {
            node,
            id,
            work,
            name,
            vpc,
            subnet,
        } = *self;
        link((node, name), (work, "eth0"), mtu);
        let (table, six) = (100 + vpc, 10 * vpc);
        node.address(name, &format!("169.254.{vpc}.2/30"));
        node.address(name, "fe80::1/64");
        work.address("eth0", &format!("169.254.{vpc}.1/30"));
        work.address("eth0", &format!("10.0.{subnet}.10/32"));
        work.address("eth0", &format!("fd20:{six}:0:{subnet}::10/128"));
        work.address("eth0", "fe80::2/64");
        work.route(&format!(
            "0.0.0.0/0 via 169.254.{vpc}.2 src 10.0.{subnet}.10"
        ));
        work.route(&format!(
            "::/0 via fe80::1 dev eth0 src fd20:{six}:0:{subnet}::10"
        ));
        // Out of SRv6 …
        let dev = UNDERLAY_GATEWAY;
        node.route(&format!(
            "{}/128 encap seg6local action End.DT6 table {table} dev {dev}",
            sid(id, 'e', vpc)
        ));
        node.route(&format!(
            "{}/128 encap seg6local action End.DX4 nh4 169.254.{vpc}.1 dev {dev}",
            sid(id, 'd', vpc)
        ));
        node.route(&format!(
            "fd20:{six}:0:{subnet}::/64 via fe80::2 dev {name} table {table}"
        ));
        // … and into it: the clients live behind the gateway's SIDs.
        let table_text = table.to_string();
        for family in ["-4", "-6"] {
            node.ip(&[family, "rule", "add", "iif", name, "lookup", &table_text]);
        }
        node.route(&format!(
            "10.0.100.0/24 encap seg6 mode encap.red segs {} dev {dev} table {table}",
            sid(3, 'd', vpc)
        ));
        node.route(&format!(
            "fd20:{six}:0:100::/64 encap seg6 mode encap.red segs {} dev {dev} table {table}",
            sid(3, 'e', vpc)
        ));
    }
}

fn link((a, a_name): (&Netns, &str), (b, b_name): (&Netns, &str), mtu: u32) {
    let mtu = mtu.to_string();
    a.ip(&[
        "link",
        "add",
        a_name,
        "mtu",
        &mtu,
        "type",
        "veth",
        "peer",
        "name",
        b_name,
        "netns",
        b.name(),
        "mtu",
        &mtu,
    ]);
    a.ip(&["link", "set", a_name, "up"]);
    b.ip(&["link", "set", b_name, "up"]);
}

/// One of the [`FABRICS_MAX`] places.
#[derive(Debug)]
struct Place;

impl Place {
    fn wait() -> Self {
        let mut taken = lock();
        while *taken >= FABRICS_MAX {
            taken = FABRIC_ENDED
                .wait(taken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *lock() -= 1;
        FABRIC_ENDED.notify_one();
    }
}

fn lock() -> MutexGuard<'static, usize> {
    FABRICS.lock().unwrap_or_else(PoisonError::into_inner)
}
