//! Kernel settings below `/proc/sys`.

use std::{fs, io::Write, path::PathBuf};

use crate::NetlinkError;

mod journal;

pub(crate) use journal::{Journal, TUNNEL_SOURCE};

const ROOT: &str = "/proc/sys";
/// The only branch of it that is read or written.
const NET: &str = "net";

/// A setting that this process changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) original: String,
    pub(crate) to: String,
}

/// What a setting says; `None` if it is not there.
pub(crate) fn read(path: &str) -> Option<String> {
    fs::read_to_string(file(path)?)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Whether the settings cannot be changed from here, as in a container without privileges.
pub(crate) fn is_read_only(path: &str) -> bool {
    let opened = file(path).map(|file| fs::OpenOptions::new().write(true).open(file));
    matches!(opened, Some(Err(error)) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
}

/// Changes a setting.
pub(crate) fn write(path: &str, value: &str) -> Result<(), NetlinkError> {
    let written = match file(path) {
        Some(file) => fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| file.write_all(value.as_bytes())),
        None => Err(std::io::ErrorKind::InvalidInput.into()),
    };
    written.map_err(|source| NetlinkError::Sysctl {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// Puts a setting back, unless somebody else has changed it or it is gone with its interface.
pub(crate) fn restore(path: &str, changed: &Changed) {
    if read(path).as_ref() == Some(&changed.to) {
        match write(path, &changed.original) {
            Ok(()) => tracing::debug!(sysctl = path, to = changed.original, "sysctl restored"),
            Err(error) => tracing::warn!(%error, "a sysctl was not restored"),
        }
    }
}

/// Whether a path, taken from `/proc/sys`, is that of a setting of the network and leads nowhere else.
/// Interface names come from configuration, and a note of changed settings from a file that others may
/// have written: nothing may leave the directory.
pub fn is_network_setting(path: &str) -> bool {
    let part = |part: &str| {
        let hidden = part.is_empty() || part == "." || part == "..";
        !hidden && !part.contains(char::is_control)
    };
    let below_net = path.split_once('/').is_some_and(|(first, _)| first == NET);
    below_net && path.split('/').all(part)
}

fn file(path: &str) -> Option<PathBuf> {
    is_network_setting(path).then(|| PathBuf::from(ROOT).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_below_proc_sys_net() {
        assert!(read("net/ipv4/ip_forward").is_some_and(|says| !says.is_empty()));
        assert!(is_network_setting("net/ipv4/conf/eth0.100/rp_filter"));
        for path in [
            "kernel/core_pattern",
            "net/../kernel/core_pattern",
            "../version",
            "/proc/version",
            "/net/core/somaxconn",
            "net//core",
            "net/./core",
            "network/core",
            "net/",
            "net/a\nb",
            "net",
            "",
        ] {
            assert_eq!(file(path), None, "{path}");
            assert!(write(path, "1").is_err(), "{path}");
        }
    }

    #[test]
    fn says_what_to_do_in_a_container() {
        let error = write("net/ipv4/no_such_setting", "1")
            .unwrap_err()
            .to_string();
        assert!(error.contains("securityContext.sysctls"), "{error}");
    }

    /// sysctl(8) takes dots for slashes, and the dot of a VLAN device is none.
    #[test]
    fn the_command_that_mends_it_is_right_for_a_vlan_device() {
        let error = write("net/ipv4/conf/no.100/rp_filter", "0").unwrap_err();
        let command = "`sysctl -w net/ipv4/conf/no.100/rp_filter=0`";
        assert!(error.to_string().contains(command), "{error}");
    }
}
