//! What would stay after a crash: the TUN device vanishes with its process, this does not.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use masque_netlink::{Gro, HostRoute, Kernel, NetlinkError};
use serde::{Deserialize, Serialize};

use super::{pin::is_pin, routes::METRICS};

/// It holds no secret: other attachments read it.
const MODE: u32 = 0o644;

/// The leftovers of one attachment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    pid: u32,
    /// When the process started, in clock ticks since the machine did: a later process of the same
    /// number has another one. Former versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_ticks: Option<u64>,
    #[serde(flatten)]
    pin: Option<Pin>,
    /// Devices whose GRO was turned on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gro: Vec<String>,
}

/// This attachment's route to the gateway.
#[derive(Debug, Serialize, Deserialize)]
struct Pin {
    destination: IpNet,
    link: String,
    gateway: Option<IpAddr>,
    #[serde(default = "first_metric")]
    metric: u32,
}

fn first_metric() -> u32 {
    *METRICS.start()
}

impl Note {
    /// Of this process.
    pub(super) fn new<'a>(pin: Option<&HostRoute>, gro: impl IntoIterator<Item = &'a str>) -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_ticks: start_ticks(pid),
            pin: pin.map(|route| Pin {
                destination: route.destination,
                link: route.link.clone(),
                gateway: route.gateway,
                metric: route.metric,
            }),
            gro: gro.into_iter().map(str::to_owned).collect(),
        }
    }

    /// Writes it, or removes the file when nothing would stay.
    pub(super) fn save(&self, path: &Path) {
        if self.pin.is_none() && self.gro.is_empty() {
            let _ = fs::remove_file(path);
            return;
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        if let Err(error) = masque_files::replace(path, text.as_bytes(), MODE) {
            tracing::warn!(%error, "a crash would leave {self:?}");
        }
    }

    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether the process that wrote it runs. Its number alone says little: in a container each run
    /// is process 1.
    fn is_alive(&self) -> bool {
        let now = start_ticks(self.pid);
        match self.start_ticks {
            Some(_) => now == self.start_ticks,
            None => now.is_some() && self.pid != std::process::id(),
        }
    }

    /// `path` is where it was.
    fn undo(&self, path: &Path) {
        if let Some(pin) = &self.pin {
            let route = HostRoute {
                gateway: pin.gateway,
                metric: pin.metric,
                ..HostRoute::on_link(pin.destination, &pin.link)
            };
            match Kernel::open().and_then(|kernel| unpin(&kernel, &route, path)) {
                Ok(()) => {
                    let destination = pin.destination;
                    tracing::info!("took back the route {destination} of a crashed attachment");
                }
                Err(error) => tracing::debug!(%error, "the leftover route stays"),
            }
        }
        if let Ok(mut gro) = Gro::new() {
            let needed = merged_for_others(path);
            let ours = self.gro.iter().filter(|link| !needed.contains(*link));
            ours.for_each(|link| gro.adopt(link));
        }
    }
}

/// When a process started (proc(5), the 22nd value of its `stat`); `None` when it does not run.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second value is the name, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// The notes in the folder of `own`, that one among them if it is there.
fn notes(own: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = own.parent().and_then(|folder| fs::read_dir(folder).ok());
    let paths = folder.into_iter().flatten().flatten();
    let paths = paths.map(|entry| entry.path());
    paths.filter(|path| path.extension() == own.extension())
}

/// The notes of other attachments that run now: those beside `own`.
fn others(own: &Path) -> Vec<Note> {
    notes(own)
        .filter(|path| path != own)
        .filter_map(|path| Note::read(&path))
        .filter(Note::is_alive)
        .collect()
}

/// Devices whose GRO is on for other attachments.
pub(super) fn merged_for_others(own: &Path) -> BTreeSet<String> {
    others(own).into_iter().flat_map(|note| note.gro).collect()
}

/// Deletes an attachment's route to the gateway, wherever it leads now. The routes of other
/// attachments have other metrics, unless one took this metric after the kernel had dropped the route
/// with its interface.
pub(super) fn unpin(kernel: &Kernel, pin: &HostRoute, own: &Path) -> Result<(), NetlinkError> {
    let is_theirs = |note: &Note| {
        let theirs = note.pin.as_ref().map(|pin| (pin.destination, pin.metric));
        theirs == Some((pin.destination, pin.metric))
    };
    if others(own).iter().any(is_theirs) {
        return Ok(());
    }
    let held = kernel.client_routes()?;
    let is_ours = |route: &&HostRoute| is_pin(route, pin) && route.metric == pin.metric;
    let mut pins = held.iter().filter(is_ours);
    pins.try_for_each(|route| kernel.delete_route(route))
}

/// Takes back what attachments left that crashed, whichever VPC they were of: those whose notes are
/// in the folder of `own`, which is where the caller's will be.
pub(crate) fn recover(own: &Path) {
    for path in notes(own) {
        let note = Note::read(&path);
        if note.as_ref().is_some_and(Note::is_alive) {
            continue;
        }
        if let Some(note) = note {
            note.undo(&path);
        }
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Note {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn notes_of_former_versions_are_read() {
        let note = read(r#"{"pid":1,"destination":"192.0.2.1/32","link":"eth0","gateway":null}"#);
        let pin = note.pin.as_ref().unwrap();
        assert_eq!((pin.link.as_str(), pin.metric), ("eth0", 50));
        assert!(note.gro.is_empty());
        assert!(note.is_alive(), "process 1 runs");
    }

    #[test]
    fn what_would_stay_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        Note::new(None, ["eth0", "eth1"]).save(&path);
        let note = read(&fs::read_to_string(&path).unwrap());
        assert!(note.pin.is_none());
        assert_eq!(note.gro, ["eth0", "eth1"]);
        assert_eq!(note.pid, std::process::id());

        Note::new(None, []).save(&path);
        assert!(!path.exists(), "nothing would stay");
    }

    #[test]
    fn a_later_process_of_the_same_number_is_another_one() {
        let mut note = Note::new(None, ["eth0"]);
        assert!(note.is_alive());
        let started = note.start_ticks.unwrap();
        note.start_ticks = Some(started - 1);
        assert!(!note.is_alive(), "that one started before");
        note.start_ticks = None;
        assert!(
            !note.is_alive(),
            "of a former version, and the number is ours"
        );
        // No process has it: they end at 4194304.
        note.pid = 999_999_999;
        note.start_ticks = Some(started);
        assert!(!note.is_alive());
    }
}
