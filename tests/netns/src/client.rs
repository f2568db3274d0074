//! A running `datum-connect attach`.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use masque_testkit::Netns;
use nix::sys::signal::Signal;

use crate::{Ended, Fabric, Process, program, wait::patient, within};

/// Where the fabric's gateway is.
const GATEWAY: &str = "https://192.0.2.1:4433";
/// A client says goodbye and is gone by then.
const END_MAX: Duration = Duration::from_secs(5);

/// A line that will come at all comes by then.
const LINE_MAX: Duration = Duration::from_secs(15);

/// The process, in the namespace of a client host.
#[derive(Debug)]
pub struct Client {
    process: Process,
    ns: Netns,
    folder: PathBuf,
    state: PathBuf,
}

impl Client {
    /// The public key of a connector, whose key is made when there is none: 64 hexadecimal digits.
    #[track_caller]
    pub fn public_key(ns: &Netns, folder: &Path, name: &str) -> String {
        let config = folder.join(name);
        let config = config.to_str().expect("a plain path");
        let program = program("datum-connect").to_str().expect("a plain path");
        let id = ns.run(program, &["--config-dir", config, "key", "--id"]);
        id.trim().to_owned()
    }

    /// Starts `attach` with the key of the connector `name`. `more` are further flags; a
    /// `--gateway` or `--ca` among them is used instead of the fabric's.
    #[track_caller]
    pub fn start(fabric: &Fabric, ns: &Netns, name: &str, vpc: &str, more: &[&str]) -> Self {
        let folder = fabric.folder().join(name);
        let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let config = path(&folder);
        // Two hosts may use one key: the sockets are the host's.
        let state_dir = fabric.folder().join(format!("state-{}", ns.name()));
        let state = path(&state_dir);
        let ca = path(&fabric.manifests.development_ca());
        let mut args = vec!["--config-dir", &config, "--state-dir", &state];
        args.extend(["--log", "info", "attach", "--vpc", vpc]);
        if !more.contains(&"--gateway") {
            args.extend(["--gateway", GATEWAY]);
        }
        if !more.contains(&"--ca") {
            args.extend(["--ca", &ca]);
        }
        args.extend(more);
        let output = fabric.folder().join(format!("{}-{vpc}.log", ns.name()));
        Self {
            process: Process::start(ns, program("datum-connect"), &args, &output),
            ns: ns.clone(),
            folder,
            state: state_dir,
        }
    }

    /// Waits until it says that it is attached.
    #[track_caller]
    pub fn wait_attached(&self) {
        self.wait_line("attached to ");
    }

    /// Waits until it has printed `text`.
    #[track_caller]
    pub fn wait_line(&self, text: &str) {
        let seen = within(patient(LINE_MAX), || self.log().contains(text));
        assert!(seen.is_some(), "no {text:?} of the client:\n{}", self.log());
    }

    /// Addresses of the device.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses(&self.ns, "dc0")
    }

    /// The IPv4 address of the device.
    #[track_caller]
    pub fn ipv4(&self) -> IpAddr {
        let found = self.addresses().into_iter().find(IpAddr::is_ipv4);
        found.unwrap_or_else(|| panic!("no IPv4 address:\n{}", self.log()))
    }

    /// The IPv6 address of the device, not the link-local one.
    #[track_caller]
    pub fn ipv6(&self) -> IpAddr {
        let found = self.addresses().into_iter().find(IpAddr::is_ipv6);
        found.unwrap_or_else(|| panic!("no IPv6 address:\n{}", self.log()))
    }

    /// The MTU of the device.
    #[track_caller]
    pub fn mtu(&self) -> u32 {
        let text = self.ns.ip(&["-o", "link", "show", "dev", "dc0"]);
        let mut words = text.split_whitespace();
        words.find(|word| *word == "mtu");
        let mtu = words.next().and_then(|mtu| mtu.parse().ok());
        mtu.expect("a device has an MTU")
    }

    /// Packets that it dropped for a reason so far, by `status --json`.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        let text = self.ask(&["status", "--json"]);
        let key = format!("\"{reason}\":");
        text.split(&key).nth(1).map_or(0, |rest| {
            let digits: String = rest
                .trim_start()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            digits.parse().expect("a count")
        })
    }

    /// Another command of the same user, to its end; what it printed.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> String {
        let program = program("datum-connect").to_str().expect("a plain path");
        let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
        let (config, state) = (path(&self.folder), path(&self.state));
        let mut args = vec!["--config-dir", &config, "--state-dir", &state];
        args.extend(command);
        self.ns.run(program, &args)
    }

    /// What it printed.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its namespace.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Its configuration folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it with SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(self, limit: Duration) -> Ended {
        self.process.end(limit)
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        self.process.signal(Signal::SIGTERM);
        self.process.end(patient(END_MAX))
    }
}

/// Global addresses of a device; none when there is no such device.
fn addresses(ns: &Netns, device: &str) -> Vec<IpAddr> {
    let output = ns
        .command("ip", &["-o", "address", "show", "dev", device])
        .output()
        .expect("ip runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next())
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .filter(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect()
}
