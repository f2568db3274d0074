//! A gateway and two nodes of a fabric, each with a workload of another VPC that has the very same
//! addresses:
//!
//! ```text
//!  client a  tunc ══ threads ══ mqa ┐                          ┌ w1 ── h1  10.0.2.100, fd20:10:2::100
//!                                   ├ gateway ── fabric router ┤       (VPC a)
//!  client b  tunc ══ threads ══ mqb ┘                          └ w2 ── h2  10.0.2.100, fd20:10:2::100
//!                                                                      (VPC b)
//!  locators: gateway 2001:db8:ff03:3::/64, w1 …:1::/64, w2 …:2::/64
//! ```
//! The nodes are built with `ip`; the gateway is what the tests build.

use std::{
    io::IoSlice,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use masque_model::{
    AddressPool, AuthMethods, BridgeMode, Fabric, FabricRoute, ObjectName, SessionLimits, Snapshot,
    StaticFabric,
};
use masque_netlink::{Change, Kernel, NetlinkError, Refusals, diff};
use masque_srv6::{KernelPlan, Sid, Slot, VpcLinks, plan};
use masque_testkit::{Capture, Lab, Netns, once_free};
use masque_tun::{READ_BUFFER_BYTES, TunConfig, TunDevice, TunError, TunQueue, Written};

pub(crate) const GATEWAY_SOURCE: &str = "2001:db8:ff03:3::1";
pub(crate) const CLIENT: [u8; 4] = [10, 0, 100, 50];
pub(crate) const WORKLOAD: [u8; 4] = [10, 0, 2, 100];
pub(crate) const CLIENT_V6: &str = "fd20:10:100::50";
pub(crate) const WORKLOAD_V6: &str = "fd20:10:2::100";
const FABRIC_MTU: u32 = 1500;

/// One VPC's slot, its SIDs on the gateway and on its node.
#[derive(Clone, Copy)]
pub(crate) struct Vpc {
    pub(crate) slot: u16,
    pub(crate) tun: &'static str,
    pub(crate) gateway_sid: &'static str,
    pub gateway_sid_ipv4: &'static str,
    pub(crate) node_sid: &'static str,
    pub node_sid_ipv4: &'static str,
}

pub(crate) const VPC_A: Vpc = Vpc {
    slot: 0,
    tun: "mqa",
    gateway_sid: "2001:db8:ff03:3:e001::",
    gateway_sid_ipv4: "2001:db8:ff03:3:e101::",
    node_sid: "2001:db8:ff03:1:e001::",
    node_sid_ipv4: "2001:db8:ff03:1:e101::",
};
pub(crate) const VPC_B: Vpc = Vpc {
    slot: 1,
    tun: "mqb",
    gateway_sid: "2001:db8:ff03:3:e002::",
    gateway_sid_ipv4: "2001:db8:ff03:3:e102::",
    node_sid: "2001:db8:ff03:2:e002::",
    node_sid_ipv4: "2001:db8:ff03:2:e102::",
};
pub(crate) const VPCS: [Vpc; 2] = [VPC_A, VPC_B];

pub(crate) struct Topology {
    pub(crate) gateway: Netns,
    pub(crate) fabric: Netns,
    pub(crate) nodes: [Netns; 2],
    pub(crate) workloads: [Netns; 2],
    pub(crate) lab: Lab,
}

impl Topology {
    /// `None` (and a word on standard error) where no laboratory can be built.
    pub(crate) fn build() -> Option<Self> {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        if !may_set_tunnel_source(&mut lab) {
            eprintln!("SKIPPED: `ip sr tunsrc` needs root outside of user namespaces");
            return None;
        }
        let (gateway, fabric) = (lab.host("gw"), lab.router("fabric"));
        lab.veth((&gateway, "eth0"), (&fabric, "gw"), FABRIC_MTU);
        gateway.address("eth0", "2001:db8:f:3::3/64");
        gateway.address("eth0", "192.0.2.3/24");
        fabric.address("gw", "2001:db8:f:3::f/64");
        fabric.address("gw", "192.0.2.15/24");
        gateway.route("default via 192.0.2.15");
        gateway.route("::/0 via 2001:db8:f:3::f");
        fabric.route("2001:db8:ff03:3::/64 via 2001:db8:f:3::3");
        let nodes = [1, 2].map(|n| node(&mut lab, &fabric, n));
        let workloads = [0, 1].map(|i| workload(&mut lab, &nodes[i], &VPCS[i]));
        Some(Self {
            gateway,
            fabric,
            nodes,
            workloads,
            lab,
        })
    }

    /// A capture of what arrives at node `i`.
    pub(crate) fn capture(&self, i: usize) -> Capture {
        Capture::open(&self.nodes[i], "eth0")
    }
}

/// The kernel's rule for this one setting; everything else works for an ordinary user too.
fn may_set_tunnel_source(lab: &mut Lab) -> bool {
    let ns = lab.host("probe");
    let set = ns
        .command("ip", &["sr", "tunsrc", "set", "2001:db8::1"])
        .output();
    set.is_ok_and(|output| output.status.success())
}

fn node(lab: &mut Lab, fabric: &Netns, n: u32) -> Netns {
    let node = lab.router(&format!("w{n}"));
    let link = format!("w{n}");
    lab.veth((&node, "eth0"), (fabric, &link), FABRIC_MTU);
    node.address("eth0", &format!("2001:db8:f:{n}::{n}/64"));
    fabric.address(&link, &format!("2001:db8:f:{n}::f/64"));
    node.route(&format!("::/0 via 2001:db8:f:{n}::f"));
    fabric.route(&format!("2001:db8:ff03:{n}::/64 via 2001:db8:f:{n}::{n}"));
    // New interfaces take these from `default`, but not rp_filter where it was set on `all` only.
    node.sysctl("net.ipv4.conf.eth0.rp_filter", "0");
    node
}

fn workload(lab: &mut Lab, node: &Netns, vpc: &Vpc) -> Netns {
    let host = lab.host("h");
    lab.veth((&host, "eth0"), (node, "pod"), FABRIC_MTU);
    for (ns, link, last) in [(&host, "eth0", "100"), (node, "pod", "1")] {
        ns.address(link, &format!("10.0.2.{last}/24"));
        ns.address(link, &format!("fd20:10:2::{last}/64"));
    }
    host.route("default via 10.0.2.1");
    host.route("::/0 via fd20:10:2::1");
    let sid = |address, action| {
        node.route(&format!(
            "{address}/128 encap seg6local action {action} dev eth0"
        ));
    };
    sid(vpc.node_sid, "End.DT6 table 254");
    sid(vpc.node_sid_ipv4, "End.DX4 nh4 10.0.2.100");
    let encap = |prefix, sid| {
        node.route(&format!(
            "{prefix} encap seg6 mode encap.red segs {sid} dev eth0"
        ));
    };
    encap("10.0.100.0/24", vpc.gateway_sid_ipv4);
    encap("fd20:10:100::/64", vpc.gateway_sid);
    host
}

/// What the operator would compile for that VPC. IPv4 and IPv6 have a SID each on the nodes too,
/// since theirs is a kernel without VRF as well.
pub(crate) fn snapshot(vpc: &Vpc) -> Snapshot {
    let name = ObjectName::new("default", vpc.tun);
    let route = |prefix: &str, sid| FabricRoute {
        prefix: prefix.parse().unwrap(),
        sid,
    };
    let sid = |text: &str| text.parse::<Sid>().unwrap();
    let pool = |prefix: &str| AddressPool {
        prefix: prefix.parse().unwrap(),
        reserved: Vec::new(),
    };
    Snapshot {
        version: 1,
        ingress_point: name.clone(),
        vpc: name,
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: false,
        },
        pools: vec![pool("10.0.100.0/24"), pool("fd20:10:100::/64")],
        routes: Vec::new(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: sid(vpc.gateway_sid),
            local_sid_ipv4: Some(sid(vpc.gateway_sid_ipv4)),
            source_address: GATEWAY_SOURCE.parse().unwrap(),
            routes: vec![
                route("10.0.2.0/24", sid(vpc.node_sid_ipv4)),
                // Overlaps the gateway's own underlay address, which is the VPC's business.
                route("192.0.2.0/24", sid(vpc.node_sid_ipv4)),
                route("fd20:10:2::/64", sid(vpc.node_sid)),
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

/// A gateway process: its TUNs and its handle on the kernel. Drop it to see a crash.
pub(crate) struct Gateway {
    pub(crate) kernel: Kernel,
    pub(crate) queues: Vec<Arc<TunQueue>>,
    pub(crate) ns: Netns,
}

impl Gateway {
    /// Opens the TUNs, but leaves the kernel as it is.
    pub(crate) fn start(ns: &Netns) -> Self {
        let queues = VPCS
            .iter()
            .map(|vpc| Arc::new(open_tun(ns, vpc.tun)))
            .collect();
        let kernel = ns.enter(|| Kernel::open().unwrap());
        Self {
            kernel,
            queues,
            ns: ns.clone(),
        }
    }

    pub(crate) fn plan(&self, snapshots: &[Snapshot]) -> KernelPlan {
        let capabilities = self.ns.enter(|| self.kernel.probe().unwrap());
        let vpcs: Vec<_> = snapshots
            .iter()
            .zip(&VPCS)
            .map(|(snapshot, vpc)| VpcLinks {
                snapshot,
                slot: Slot(vpc.slot),
                tun: vpc.tun,
                underlay: "eth0",
            })
            .collect();
        plan(&vpcs, &capabilities).unwrap().state
    }

    /// Observe, diff and apply; returns what was changed.
    pub(crate) fn apply(&self, plan: &KernelPlan) -> Vec<Change> {
        self.ns.enter(|| {
            let changes = diff(&self.kernel.observe(plan).unwrap(), plan);
            let applied = || self.kernel.apply(&changes, plan);
            once_free(is_busy, || applied().map_err(Refusals::into_first));
            changes
        })
    }

    pub(crate) fn apply_both(&self) -> KernelPlan {
        let plan = self.plan(&VPCS.map(|vpc| snapshot(&vpc)));
        self.apply(&plan);
        eprintln!("decapsulation by {:?}", plan.decapsulation);
        plan
    }

    /// Writes one packet as if a client of VPC `i` had sent it.
    pub(crate) fn send(&self, i: usize, packet: &[u8]) {
        assert_eq!(self.queues[i].write(packet).unwrap(), Written::Done);
    }

    /// The next packet for the clients of VPC `i` that `wanted` accepts.
    pub(crate) fn receive(&self, i: usize, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut buf = vec![0; READ_BUFFER_BYTES];
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            match self.queues[i].read(&mut buf).unwrap() {
                Some(read) if wanted(read.packet) => return Some(read.packet.to_vec()),
                Some(_) => {}
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }
}

pub(crate) fn open_tun(ns: &Netns, name: &str) -> TunQueue {
    let config = TunConfig {
        name: name.into(),
        queues: 1,
        offload: true,
    };
    let (_, mut queues) = once_free(
        |error| matches!(error, TunError::NameTaken(_)),
        || ns.enter(|| TunDevice::open(&config)),
    );
    queues.remove(0)
}

/// Moves packets between two queues, super-packets whole, until dropped: a tunnel without loss.
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pump {
    pub(crate) fn start(a: &Arc<TunQueue>, b: &Arc<TunQueue>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [(a, b), (b, a)]
            .map(|(from, to)| {
                let (from, to, stop) = (from.clone(), to.clone(), stop.clone());
                thread::spawn(move || pump(&from, &to, &stop))
            })
            .into();
        Self { stop, threads }
    }
}

/// What an earlier handle has let go is held for a moment.
pub(crate) fn is_busy(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::Busy)
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("a thread that moves packets failed");
            }
        }
    }
}

#[expect(unsafe_code, reason = "poll of one queue")]
fn pump(from: &TunQueue, to: &TunQueue, stop: &AtomicBool) {
    let mut buf = vec![0; READ_BUFFER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        let mut fd = libc::pollfd {
            fd: from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd of ours.
        unsafe { libc::poll(&raw mut fd, 1, 20) };
        while let Some(read) = from.read(&mut buf).unwrap() {
            let (headers, payload) = read.packet.split_at(usize::from(read.gso.header_bytes));
            let _ = to
                .write_super(&read.gso, headers, &[IoSlice::new(payload)])
                .unwrap();
        }
    }
}
