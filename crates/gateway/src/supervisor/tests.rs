//! A supervisor on a real kernel, in a namespace of its own; the packet threads are the tests.

use std::{fs, net::UdpSocket, path::Path, sync::Arc, time::Instant};

use clap::Parser as _;
use masque_gateway_core::{AdmitRequest, Now, Registry, RegistryConfig, Scope};
use masque_model::{ConnectorKey, ObjectName};
use masque_testkit::{Lab, Netns, device_exists, once_free, udp_port_is_taken, until_free};

use super::*;
use crate::{args::Cli, command::Command, mailbox::Mailbox};

/// The way to the SIDs.
const TO_FABRIC: &str = "fd00:0:1:1::/64 via fd00:0:0:a::1 dev underlay";

struct Bench {
    supervisor: Supervisor,
    control: Arc<Control>,
    /// Of the only packet thread.
    mailbox: Arc<Mailbox>,
    /// What it was given: queues and sockets live here.
    given: Vec<Command>,
}

/// A folder of manifests.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes an ingress point with one attachment, whose key is the number everywhere.
    fn point(&self, name: &str, number: u8, edit: impl Fn(String) -> String) {
        let id = format!("{number:02x}").repeat(32);
        let text = format!(
            "apiVersion: networking.datumapis.com/v1alpha1
kind: VPCIngressPoint
metadata: {{name: {name}}}
spec:
  vpcRef: {{name: {name}-vpc}}
  listeners: [{{name: public, protocol: HTTP3, port: 4433}}]
  addressPools: [{{cidr: 10.{number}.100.0/24}}]
  routes: [10.{number}.0.0/16]
  fabric:
    provider: Static
    static:
      localSID: 'fd00:0:1:3:e0{number:02x}::'
      localSIDIPv4: 'fd00:0:1:3:d0{number:02x}::'
      sourceAddress: 'fd00:0:0:a::3'
      routes: [{{prefix: 10.{number}.0.0/16, sid: 'fd00:0:1:1:e0{number:02x}::'}}]
---
apiVersion: networking.datumapis.com/v1alpha1
kind: Connector
metadata: {{name: {name}}}
spec: {{connectorClassName: datum-connect}}
status: {{connectionDetails: {{type: PublicKey, publicKey: {{id: '{id}'}}}}}}
---
apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {{name: {name}}}
spec: {{connectorRef: {{name: {name}}}, vpcRef: {{name: {name}-vpc}}}}
"
        );
        let file = self.path().join(format!("{name}.yaml"));
        fs::write(file, edit(text)).unwrap();
    }
}

fn as_it_is(text: String) -> String {
    text
}

/// In a namespace with a way to the fabric, and a folder with the ingress point `a`; a `SKIPPED:` line
/// where there can be none.
fn inside(test: impl FnOnce(&Netns, &Folder) + Send) {
    if let Err(skip) = Lab::available() {
        println!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let (gateway, node) = (lab.host("gateway"), lab.host("node"));
    lab.veth((&gateway, "underlay"), (&node, "gateway"), 1500);
    gateway.address("underlay", "fd00:0:0:a::3/64");
    gateway.route(TO_FABRIC);
    let folder = Folder::new();
    folder.point("a", 1, as_it_is);
    gateway.enter(|| test(&gateway, &folder));
}

/// The same, with a supervisor that runs.
fn running(test: impl FnOnce(&Netns, &Folder, Bench) + Send) {
    inside(|ns, folder| test(ns, folder, Bench::started(folder)));
}

/// An edit of the ingress point `a` is carried out, whatever is wrong with others.
fn a_is_still_followed(ns: &Netns, folder: &Folder, bench: &mut Bench) {
    folder.point("a", 1, with_one_more_route);
    bench.reload();
    assert!(routes4(ns).contains("10.1.99.0/24"), "{}", routes4(ns));
    let a = ObjectName::new("default", "a");
    assert_eq!(bench.supervisor.trouble.of_kernel(&a), None);
}

impl Bench {
    /// In the namespace of the calling thread.
    fn new(folder: &Folder) -> Self {
        let dir = folder.path().to_owned();
        let state_dir = dir.join(".state");
        fs::create_dir_all(&state_dir).unwrap();
        let path = dir.to_str().unwrap().to_owned();
        let args = Cli::parse_from(["masque-gateway", "--manifests", &path]).run;
        let (mailbox, epoch) = (Mailbox::new().unwrap(), Instant::now());
        let registry = Registry::new(RegistryConfig::default());
        let control = Control::new(registry, vec![Arc::clone(&mailbox)], epoch).unwrap();
        let control = Arc::new(control);
        let secrets = Secrets {
            token: [1; 32],
            reset: [2; 32],
        };
        let paths = (Origin::Folder(dir), state_dir);
        let open = || {
            let (control, secrets) = (Arc::clone(&control), secrets.clone());
            Supervisor::new(args.clone(), paths.clone(), control, secrets, epoch)
        };
        let supervisor = once_free(|error| matches!(error, Fatal::AnotherRuns), open);
        Self {
            supervisor,
            control,
            mailbox,
            given: Vec::new(),
        }
    }

    /// After the first reload; as on a kernel without VRF.
    fn start(folder: &Folder) -> Result<Self, Fatal> {
        let mut bench = Self::new(folder);
        bench.supervisor.capabilities.vrf = false;
        bench.supervisor.reload(true)?;
        bench.control.started();
        Ok(bench)
    }

    /// The same where nobody has its ports. A start asks for each with a socket that it closes, of
    /// which a child of another test may have a copy when the real ones are bound.
    fn start_with_free_ports(folder: &Folder) -> Self {
        let is_taken = |fatal: &Fatal| matches!(fatal, Fatal::Listen { .. });
        once_free(is_taken, || Self::start(folder))
    }

    /// Repairs until no port is taken any more, for the same reason.
    fn repair(&mut self) {
        until_free(|| {
            self.supervisor.repair();
            let reason = self.control.not_ready_because().unwrap_or_default();
            reason.contains("UDP port")
        });
    }

    /// Serves all.
    fn started(folder: &Folder) -> Self {
        let mut bench = Self::start_with_free_ports(folder);
        bench.obey();
        assert_eq!(bench.control.not_ready_because(), None);
        bench
    }

    /// Ends it, and waits until its ports and its device are free.
    fn end(self) {
        drop(self);
        until_free(|| device_exists("mq0") || [4433, 4434].into_iter().any(udp_port_is_taken));
    }

    fn reload(&mut self) {
        self.supervisor.reload(false).unwrap();
    }

    /// What the packet thread was told since, one word each.
    fn obey(&mut self) -> Vec<&'static str> {
        let new: Vec<Command> = std::iter::from_fn(|| self.mailbox.command()).collect();
        let word = |command: &Command| match command {
            Command::Tables(_) => "tables",
            Command::OpenVpc { .. } => "open-vpc",
            Command::CloseVpc { .. } => "close-vpc",
            Command::Recheck => "recheck",
            Command::OpenPort(_) => "open-port",
            Command::ClosePort(_) => "close-port",
            Command::End(..) => "end",
            _ => "other",
        };
        let words = new.iter().map(word).filter(|word| *word != "other");
        let words = words.collect();
        self.given.extend(new);
        words
    }

    fn not_ready(&self, words: &[&str]) {
        let reason = self.control.not_ready_because().unwrap_or_default();
        for word in words {
            assert!(reason.contains(word), "no {word:?} in {reason:?}");
        }
        let told = &self.supervisor.told;
        assert!(told.contains(&reason), "the status says {told:?}");
    }

    fn attach(&self, number: u8, point: &str) {
        let key = ConnectorKey::from_bytes([number; 32]);
        let vpc = format!("{point}-vpc");
        let request = AdmitRequest {
            key,
            vpc: Some(&vpc),
            listener: None,
            scope: &Scope::default(),
            ipv4: true,
            ipv6: true,
            shard: 0,
        };
        self.control.admit(Now::default(), &request).unwrap();
    }
}

fn routes4(ns: &Netns) -> String {
    ns.ip(&["route", "show", "table", "all", "proto", "77"])
}

fn routes(ns: &Netns) -> String {
    ns.ip(&["-6", "route", "show", "table", "all", "proto", "77"])
}

fn without_ipv4_sid(text: String) -> String {
    let start = text.find("      localSIDIPv4").unwrap();
    let end = start + text[start..].find('\n').unwrap() + 1;
    format!("{}{}", &text[..start], &text[end..])
}

fn with_one_more_route(text: String) -> String {
    let last = "sid: 'fd00:0:1:1:e001::'}";
    assert!(text.contains(last));
    let more = "{prefix: 10.1.99.0/24, sid: 'fd00:0:1:1:e099::'}";
    text.replace(last, &format!("{last}, {more}"))
}

fn port_4434(text: String) -> String {
    text.replace("4433", "4434")
}

#[test]
fn a_vpc_that_the_kernel_cannot_carry_is_left_out() {
    running(|ns, folder, mut bench| {
        folder.point("b", 2, without_ipv4_sid);
        bench.reload();
        bench.not_ready(&["VPCIngressPoint default/b", "localSIDIPv4"]);
        assert!(!routes(ns).contains("fd00:0:1:3:e002::"), "nothing of it");
        a_is_still_followed(ns, folder, &mut bench);
        bench.end();
        // And it is no reason not to start, as long as another one is there.
        Bench::start_with_free_ports(folder).end();
        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        let fatal = Bench::start(folder).map(drop).unwrap_err();
        assert_eq!(fatal.status(), crate::exit::status::OS);
        assert!(fatal.to_string().contains("default/b"), "{fatal}");
    });
}

#[test]
fn what_the_kernel_refuses_one_vpc_is_mended_without_a_restart() {
    running(|ns, folder, mut bench| {
        let foreign = "fd00:0:1:3:e002::/128";
        ns.route(&format!("{foreign} dev underlay metric 1024"));
        folder.point("b", 2, as_it_is);
        bench.reload();
        bench.not_ready(&["VPCIngressPoint default/b", foreign, "remove it"]);
        a_is_still_followed(ns, folder, &mut bench);
        ns.ip(&["-6", "route", "del", foreign]);
        bench.supervisor.repair();
        assert_eq!(bench.control.not_ready_because(), None);
        assert!(routes(ns).contains("fd00:0:1:3:e002::"));
        assert_eq!(bench.supervisor.told, [""; 0], "nothing is left to tell");
    });
}

#[test]
fn a_port_that_is_taken_is_tried_again() {
    running(|_, folder, mut bench| {
        let taken = UdpSocket::bind("[::]:4434").unwrap();
        folder.point("a", 1, port_4434);
        bench.reload();
        bench.not_ready(&["UDP port 4434"]);
        bench.supervisor.retry();
        bench.not_ready(&["UDP port 4434"]);
        drop(taken);
        until_free(|| udp_port_is_taken(4434));
        let due = Instant::now() + Duration::from_secs(2);
        assert!(bench.supervisor.retry.is_due(due), "within seconds");
        bench.repair();
        assert_eq!(bench.control.not_ready_because(), None);
        assert!(!bench.supervisor.retry.is_due(due + Duration::from_secs(60)));
        assert!(bench.obey().contains(&"open-port"));
    });
}

#[test]
fn a_first_start_needs_one_port_of_many() {
    inside(|_, folder| {
        folder.point("b", 2, port_4434);
        let taken = UdpSocket::bind("[::]:4434").unwrap();
        let mut bench = Bench::start_with_free_ports(folder);
        bench.not_ready(&["UDP port 4434"]);
        assert!(bench.obey().contains(&"open-port"), "the other one serves");
        drop(taken);
        until_free(|| udp_port_is_taken(4434));
        bench.repair();
        assert_eq!(bench.control.not_ready_because(), None);
        bench.end();
        let _all_taken = [4433, 4434].map(|port| UdpSocket::bind(("::", port)).unwrap());
        let fatal = Bench::start(folder).map(drop).unwrap_err();
        assert_eq!(fatal.status(), crate::exit::status::UNAVAILABLE);
    });
}

#[test]
fn a_device_that_cannot_be_opened_is_tried_again() {
    running(|ns, folder, mut bench| {
        // In the way of the second slot's device.
        ns.ip(&["tuntap", "add", "mode", "tun", "name", "mq1"]);
        folder.point("b", 2, as_it_is);
        bench.reload();
        bench.not_ready(&["VPCIngressPoint default/b", "no TUN device"]);
        assert!(!bench.obey().contains(&"open-vpc"));
        bench.supervisor.repair();
        bench.not_ready(&["VPCIngressPoint default/b", "no TUN device"]);
        ns.ip(&["link", "del", "mq1"]);
        bench.supervisor.repair();
        assert_eq!(bench.control.not_ready_because(), None);
        assert_eq!(bench.obey(), ["open-vpc"]);
        assert!(routes(ns).contains("fd00:0:1:3:e002::"));
    });
}

#[test]
fn a_first_start_needs_one_device_of_many() {
    inside(|ns, folder| {
        folder.point("b", 2, as_it_is);
        ns.ip(&["tuntap", "add", "mode", "tun", "name", "mq1"]);
        let mut bench = Bench::start_with_free_ports(folder);
        bench.not_ready(&["VPCIngressPoint default/b", "no TUN device"]);
        a_is_still_followed(ns, folder, &mut bench);
        bench.end();
        ns.ip(&["tuntap", "add", "mode", "tun", "name", "mq0"]);
        let fatal = Bench::start(folder).map(drop).unwrap_err();
        assert_eq!(fatal.status(), crate::exit::status::CANNOT_CREATE);
        assert!(fatal.to_string().contains("mq0"), "{fatal}");
    });
}

#[test]
fn an_underlay_that_is_not_there_is_named() {
    inside(|ns, folder| {
        let mut bench = Bench::new(folder);
        bench.supervisor.args.underlay = Some("eth9".to_owned());
        let fatal = bench.supervisor.reload(true).unwrap_err();
        assert_eq!(fatal.status(), crate::exit::status::OS);
        let absent = "there is no interface eth9 (--underlay)";
        assert_eq!(fatal.to_string(), absent);
        bench.end();
        let mut bench = Bench::started(folder);
        bench.supervisor.args.underlay = Some("eth9".to_owned());
        bench.supervisor.repair();
        bench.not_ready(&[absent]);
        ns.ip(&["link", "add", "eth9", "type", "veth"]);
        ns.ip(&["link", "set", "eth9", "up"]);
        bench.supervisor.repair();
        assert_eq!(bench.control.not_ready_because(), None);
    });
}

#[test]
fn what_is_removed_does_not_wait_for_the_fabric() {
    running(|ns, folder, mut bench| {
        folder.point("b", 2, as_it_is);
        bench.reload();
        let of_b = ["fd00:0:1:3:e002::", "fd00:0:1:3:d002::"];
        assert!(of_b.iter().all(|sid| routes(ns).contains(sid)));
        ns.ip(&["-6", "route", "del", "fd00:0:1:1::/64"]);
        fs::remove_file(folder.path().join("b.yaml")).unwrap();
        bench.reload();
        bench.not_ready(&["no route leads to any SID"]);
        let left = routes(ns);
        assert!(!of_b.iter().any(|sid| left.contains(sid)), "{left}");
        assert!(left.contains("fd00:0:1:3:e001::"), "a stays: {left}");
        ns.route(TO_FABRIC);
        bench.supervisor.repair();
        assert_eq!(bench.control.not_ready_because(), None);
    });
}

/// Opening devices takes long with many VPCs: who is revoked does not wait for it, and who is new is
/// found by clients afterwards.
#[test]
fn what_is_revoked_does_not_wait_for_new_devices() {
    running(|_, folder, mut bench| {
        bench.attach(1, "a");
        bench.obey();
        folder.point("b", 2, as_it_is);
        folder.point("a", 1, |text| {
            let all = "vpcRef: {name: a-vpc}}";
            text.replace(all, "vpcRef: {name: a-vpc}, suspend: true}")
        });
        bench.reload();
        assert_eq!(bench.obey(), ["tables", "end", "open-vpc", "recheck"]);
        assert_eq!(bench.control.not_ready_because(), None);
    });
}
