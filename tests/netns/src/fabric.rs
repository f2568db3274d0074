//! The namespaces, links, addresses and SRv6 routes; see the drawing in the crate's documentation.

use std::{
    net::Ipv6Addr,
    path::Path,
    process::Command,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use masque_testkit::{Lab, Netns};
use tempfile::TempDir;

use crate::{Client, Gateway, Manifests, skip::skip};

/// The SRv6 block; a locator is `BLOCK:NODE::/64`.
const BLOCK: &str = "fd00:0:1";
/// The segment between gateway and nodes.
const SEGMENT: &str = "fd00:0:0:a";
/// The gateway's device towards the nodes.
pub const UNDERLAY_GATEWAY: &str = "underlay";
/// Fabrics at one time: each has about ten processes that want a core.
const FABRICS_MAX: usize = 2;

/// What a fabric and its tests run, and the Debian packages.
const PROGRAMS: [(&str, &str); 3] = [
    ("ping", "iputils-ping"),
    ("nft", "nftables"),
    ("setpriv", "util-linux"),
];

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

/// How nodes take packets out of SRv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulation {
    /// End.DT6 for IPv6 and End.DX4 for IPv4, any kernel.
    EachFamily,
    /// One SID for both families: End.DT46 into a VRF, where the kernel has VRFs.
    Vrf,
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
        Self::build(links, Decapsulation::EachFamily)
    }

    /// A fabric with these links where the connector `laptop` is attached to production, or `None`
    /// after a `SKIPPED:` line.
    #[track_caller]
    pub fn with_laptop(links: Links) -> Option<Self> {
        let mut fabric = Self::with(links)?;
        fabric.connector("laptop");
        fabric.manifests.attach("laptop", "production-vpc");
        Some(fabric)
    }

    /// A fabric of VRFs and one SID for each VPC, or `None` after a `SKIPPED:` line.
    #[track_caller]
    pub fn with_vrfs() -> Option<Self> {
        if Lab::available().is_ok() && !has_vrf() {
            return skip("this kernel has no VRF; `tests/guest/run` boots one that has");
        }
        let mut fabric = Self::build(Links::default(), Decapsulation::Vrf)?;
        for point in &mut fabric.manifests.points {
            point.one_sid = true;
        }
        Some(fabric)
    }

    #[track_caller]
    fn build(links: Links, decapsulation: Decapsulation) -> Option<Self> {
        if let Err(unavailable) = Lab::available() {
            let line = unavailable.to_string();
            return skip(line.trim_start_matches("SKIPPED: "));
        }
        for (program, package) in PROGRAMS {
            if Command::new(program).arg("-V").output().is_err() {
                return skip(&format!("needs `{program}` (Debian: {package})"));
            }
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
            decapsulation,
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
    decapsulation: Decapsulation,
}

impl Workload<'_> {
    fn join(&self, mtu: u32) {
        let (node, work, name, vpc) = (self.node, self.work, self.name, self.vpc);
        let (subnet, six, table) = (self.subnet, 10 * self.vpc, self.table());
        link((node, name), (work, "eth0"), mtu);
        if self.decapsulation == Decapsulation::Vrf {
            self.make_vrf();
        }
        node.address(name, &format!("169.254.{vpc}.2/30"));
        // In a VRF its local route is in the VRF's table, where `Netns::address` does not look.
        node.ip(&["address", "add", "fe80::1/64", "dev", name, "nodad"]);
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
        node.route(&format!(
            "fd20:{six}:0:{subnet}::/64 via fe80::2 dev {name} table {table}"
        ));
        let ipv4 = match self.decapsulation {
            Decapsulation::EachFamily => {
                self.out_of_srv6();
                'd'
            }
            Decapsulation::Vrf => {
                node.route(&format!(
                    "10.0.{subnet}.0/24 via 169.254.{vpc}.1 dev {name} table {table}"
                ));
                let (sid, vrf) = (sid(self.id, 'e', vpc), self.vrf());
                node.route(&format!(
                    "{sid}/128 encap seg6local action End.DT46 vrftable {table} dev {vrf}"
                ));
                'e'
            }
        };
        // The clients live behind the gateway's SIDs.
        let (ipv4, ipv6, dev) = (sid(3, ipv4, vpc), sid(3, 'e', vpc), UNDERLAY_GATEWAY);
        node.route(&format!(
            "10.0.100.0/24 encap seg6 mode encap.red segs {ipv4} dev {dev} table {table}"
        ));
        node.route(&format!(
            "fd20:{six}:0:100::/64 encap seg6 mode encap.red segs {ipv6} dev {dev} table {table}"
        ));
    }

    fn table(&self) -> u16 {
        100 + self.vpc
    }

    fn vrf(&self) -> String {
        format!("vpc-{}", self.vpc)
    }

    /// A VRF with the workload's device in it.
    fn make_vrf(&self) {
        let (node, vrf, table) = (self.node, self.vrf(), self.table().to_string());
        node.ip(&["link", "add", &vrf, "type", "vrf", "table", &table]);
        node.ip(&["link", "set", &vrf, "up"]);
        node.ip(&["link", "set", self.name, "master", &vrf]);
        // RFC 8986 §4.8 needs the VRF of a table to be one; SIDs are reached through the underlay.
        node.sysctl("net.vrf.strict_mode", "1");
        let locators = format!("{BLOCK}::/48");
        let rule = [
            "-6", "rule", "add", "pref", "900", "to", &locators, "lookup", "main",
        ];
        if !node.ip(&["-6", "rule", "show"]).contains(&locators) {
            node.ip(&rule);
        }
    }

    fn out_of_srv6(&self) {
        let (node, name, vpc, table) = (self.node, self.name, self.vpc, self.table());
        let dev = UNDERLAY_GATEWAY;
        let (ipv4, ipv6) = (sid(self.id, 'd', vpc), sid(self.id, 'e', vpc));
        node.route(&format!(
            "{ipv6}/128 encap seg6local action End.DT6 table {table} dev {dev}"
        ));
        node.route(&format!(
            "{ipv4}/128 encap seg6local action End.DX4 nh4 169.254.{vpc}.1 dev {dev}"
        ));
        let table = table.to_string();
        for family in ["-4", "-6"] {
            node.ip(&[family, "rule", "add", "iif", name, "lookup", &table]);
        }
    }
}

/// Whether the kernel can make a VRF.
fn has_vrf() -> bool {
    let mut lab = Lab::new();
    let args = ["link", "add", "probe", "type", "vrf", "table", "1"];
    let output = lab.host("probe").command("ip", &args).output();
    output.is_ok_and(|output| output.status.success())
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
