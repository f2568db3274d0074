//! The configurations: one way each from the client to a workload behind the gateway.

mod connect_ip_go;
pub(crate) mod masque;
mod plain;
mod seg6;
mod wireguard;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::{
    failure::Failure,
    options::Options,
    process::which,
    rig::{Merging, Rig},
};

/// One way that is up.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) name: &'static str,
    /// The workload's address behind it.
    pub(crate) target: Ipv4Addr,
    /// The pid of its user space part at the client, if it has one.
    pub(crate) client: Option<u32>,
    /// The pid of its user space part at the gateway, if it has one.
    pub(crate) gateway: Option<u32>,
    /// Where its programs, or whoever set it up, turned GRO on.
    pub(crate) merging: Merging,
    /// Makes the way back its own, where two share a client's address.
    pub(crate) way_back: fn(&Rig),
    /// Versions and settings, for the notes.
    pub(crate) about: String,
}

/// What could be set up and what not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnels {
    pub(crate) up: Vec<Tunnel>,
    /// Name and reason.
    pub(crate) skipped: Vec<(&'static str, String)>,
}

type SetUp = fn(&mut Rig, &Options) -> Result<Tunnel, Failure>;

/// In the order of the tables.
const ALL: [(&str, SetUp); 9] = [
    ("plain", plain::set_up),
    ("seg6", seg6::set_up),
    ("wireguard-go", wireguard::set_up_go),
    ("wireguard-go+gro", wireguard::set_up_go_gro),
    ("wireguard-go+srv6", wireguard::set_up_go_srv6),
    ("boringtun", wireguard::set_up_boringtun),
    (connect_ip_go::NAME, connect_ip_go::set_up),
    (masque::NAME, masque::set_up),
    (masque::PLAIN_NAME, masque::set_up_plain),
];

/// The way back of a tunnel that shares no address.
fn of_its_own(_: &Rig) {}

/// Where a peer's program is, by any of its names: in the folder of peers, or installed.
fn find(peers: &Path, names: &[&str]) -> Result<PathBuf, Failure> {
    let folders = [peers.join("bin"), peers.to_owned()];
    let there = |name: &&str| {
        let in_peers = folders.iter().map(|f| f.join(name)).find(|p| p.is_file());
        in_peers.or_else(|| which(name))
    };
    let missing = || {
        Failure::Machine(format!(
            "no {} in {} or $PATH",
            names.join(" or "),
            peers.display()
        ))
    };
    names.iter().find_map(there).ok_or_else(missing)
}

/// Sets up every configuration that was asked for; one that cannot be is skipped with a reason.
pub(crate) fn all(rig: &mut Rig, options: &Options) -> Result<Tunnels, Failure> {
    let mut tunnels = Tunnels::default();
    for (name, set_up) in ALL {
        if !options.wants(name) {
            tunnels
                .skipped
                .push((name, "BENCH_ONLY leaves it out".into()));
            continue;
        }
        match set_up(rig, options).and_then(|tunnel| merge_alone(rig, tunnel)) {
            Ok(tunnel) => tunnels.up.push(tunnel),
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(why) => tunnels.skipped.push((name, why.to_string())),
        }
    }
    if tunnels.up.is_empty() {
        let why: Vec<String> = tunnels
            .skipped
            .iter()
            .map(|(n, w)| format!("{n}: {w}"))
            .collect();
        return Err(Failure::Traffic(format!(
            "no configuration is up\n{}",
            why.join("\n")
        )));
    }
    Ok(tunnels)
}

/// The links are everybody's: what one set-up turned on is noted, and off for the others.
fn merge_alone(rig: &Rig, tunnel: Tunnel) -> Result<Tunnel, Failure> {
    let merging = rig.merging()?;
    rig.set_merging(Merging::default())?;
    Ok(Tunnel {
        merging,
        about: format!("{}; {merging}", tunnel.about),
        ..tunnel
    })
}
