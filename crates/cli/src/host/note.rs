//! What would stay after a crash: the TUN device vanishes with its process, this does not.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use ipnet::IpNet;
use masque_netlink::{Gro, HostRoute, Kernel};
use serde::{Deserialize, Serialize};

use super::METRIC;

/// The leftovers of one attachment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Note {
    pid: u32,
    #[serde(flatten)]
    pin: Option<Pin>,
    /// Devices whose GRO was turned on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gro: Vec<String>,
}

/// The gateway's own route.
#[derive(Debug, Serialize, Deserialize)]
struct Pin {
    destination: IpNet,
    link: String,
    gateway: Option<IpAddr>,
}

impl Note {
    /// Of this process.
    pub(super) fn new<'a>(pin: Option<&HostRoute>, gro: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            pid: std::process::id(),
            pin: pin.map(|route| Pin {
                destination: route.destination,
                link: route.link.clone(),
                gateway: route.gateway,
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
        if let Err(error) = fs::write(path, text) {
            tracing::warn!(%error, "a crash would leave {self:?}");
        }
    }

    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether the process that wrote it runs.
    fn is_alive(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// `path` is where it was.
    fn undo(&self, path: &Path) {
        if let Some(pin) = &self.pin {
            let route = HostRoute {
                gateway: pin.gateway,
                metric: METRIC,
                ..HostRoute::on_link(pin.destination, &pin.link)
            };
            match Kernel::open().and_then(|kernel| kernel.delete_route(&route)) {
                Ok(()) => {
                    let destination = pin.destination;
                    tracing::info!("removed the route {destination} of a crashed attachment");
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

/// Devices whose GRO is on for other attachments that run now: those with a note beside `own`.
pub(super) fn merged_for_others(own: &Path) -> BTreeSet<String> {
    let Some(Ok(folder)) = own.parent().map(fs::read_dir) else {
        return BTreeSet::new();
    };
    folder
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != own && path.extension() == own.extension())
        .filter_map(|path| Note::read(&path))
        .filter(Note::is_alive)
        .flat_map(|note| note.gro)
        .collect()
}

/// Takes back what an attachment left that crashed.
pub(crate) fn recover(path: &Path) {
    if let Some(note) = Note::read(path) {
        if note.is_alive() {
            return;
        }
        note.undo(path);
    }
    let _ = fs::remove_file(path);
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
        assert_eq!(note.pin.unwrap().link, "eth0");
        assert!(note.gro.is_empty());
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
}
