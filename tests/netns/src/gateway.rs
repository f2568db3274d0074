//! A running `masque-gateway`.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use masque_testkit::Netns;
use nix::sys::signal::Signal;

use crate::{Ended, Fabric, Process, eventually, program, wait::patient, within};

/// Where the gateway serves its metrics.
const ADMIN: &str = "127.0.0.1:9464";
/// The number of the gateway's own routes and rules (`proto 77`).
const ROUTE_PROTOCOL: &str = "77";
/// A gateway that starts at all is ready by then, with thousands of attachments as well.
const READY_MAX: Duration = Duration::from_secs(60);
/// A drain with its deadline of 5 s ends by then.
const END_MAX: Duration = Duration::from_secs(10);

/// The process, in the namespace `gateway` of a fabric.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    ns: Netns,
    dir: PathBuf,
}

/// What `/metrics` showed at one time.
#[derive(Clone, Debug)]
pub struct Samples(String);

impl Gateway {
    /// Starts it on the fabric's manifests, as they are in the folder.
    #[track_caller]
    pub fn start(fabric: &Fabric, more: &[&str]) -> Self {
        let dir = fabric.manifests.dir.clone();
        let mut args = vec!["--manifests", dir.to_str().expect("a plain path")];
        args.extend(more);
        let process = Process::start(
            &fabric.gateway,
            program("masque-gateway"),
            &args,
            &fabric.folder().join("gateway.log"),
        );
        Self {
            process,
            ns: fabric.gateway.clone(),
            dir,
        }
    }

    /// A gateway that was started in another way.
    pub fn adopt(fabric: &Fabric, process: Process) -> Self {
        Self {
            process,
            ns: fabric.gateway.clone(),
            dir: fabric.manifests.dir.clone(),
        }
    }

    /// Waits for `/readyz`.
    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = within(patient(READY_MAX), || self.is_ready()).is_some();
        assert!(ready, "the gateway is not ready:\n{}", self.log());
    }

    /// Whether `/readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.http("/readyz")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The body of a page of the admin endpoint, with its head.
    pub fn http(&self, path: &str) -> Option<String> {
        let address: SocketAddr = ADMIN.parse().expect("an address");
        self.ns.enter(|| {
            let mut stream =
                TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// What the metrics show now.
    #[track_caller]
    pub fn metrics(&self) -> Samples {
        Samples(
            self.http("/metrics")
                .unwrap_or_else(|| panic!("no metrics:\n{}", self.log())),
        )
    }

    /// Packets of a VPC dropped for a reason so far.
    #[track_caller]
    pub fn dropped(&self, vpc: &str, reason: &str) -> u64 {
        let vpc = format!("vpc=\"default/{vpc}\"");
        let reason = format!("reason=\"{reason}\"");
        self.metrics()
            .sum("masque_gateway_drops_total", &[&vpc, &reason])
    }

    /// Open sessions of all VPCs.
    #[track_caller]
    pub fn sessions(&self) -> u64 {
        self.metrics().sum("masque_gateway_sessions", &[])
    }

    /// `masque-gateway COMMAND` about this gateway; the words of the command have no blanks.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        let dir = self.dir.to_str().expect("a plain path");
        let program = program("masque-gateway").to_str().expect("a plain path");
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.extend(["--manifests", dir]);
        self.ns.run(program, &words)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    /// Has it begin its drain, by SIGTERM, and does not wait for its end.
    #[track_caller]
    pub fn drain(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.process.signal(Signal::SIGTERM);
        self.process.end(patient(END_MAX))
    }

    /// What of a gateway is in the kernel of this namespace: devices, rules and routes.
    pub fn kernel_state(ns: &Netns) -> Vec<String> {
        let mut found = Vec::new();
        let mut keep = |text: String, wanted: &dyn Fn(&str) -> bool| {
            found.extend(text.lines().filter(|line| wanted(line)).map(str::to_owned));
        };
        keep(ns.ip(&["-o", "link", "show"]), &|line| {
            line.split(": ")
                .nth(1)
                .is_some_and(|name| name.starts_with("mq"))
        });
        for family in ["-4", "-6"] {
            // Rules that every namespace is born with are `proto kernel`.
            keep(ns.ip(&[family, "-d", "rule", "show"]), &|line| {
                !line.contains("proto kernel")
            });
            let routes = ns.ip(&[
                family,
                "route",
                "show",
                "table",
                "all",
                "proto",
                ROUTE_PROTOCOL,
            ]);
            keep(routes, &|_| true);
        }
        found
    }

    /// Waits until a metric is at least `least`.
    #[track_caller]
    pub fn wait_dropped(&self, vpc: &str, reason: &str, least: u64) {
        eventually(&format!("{least} drops of {vpc} for {reason}"), || {
            self.dropped(vpc, reason) >= least
        });
    }
}

impl Samples {
    /// The sum of the samples of a metric whose labels hold all of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']))
            .filter(|rest| labels.iter().all(|label| rest.contains(label)))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}
