//! Kernel settings below `/proc/sys`.

use std::{fs, io::Write, path::PathBuf};

use crate::NetlinkError;

mod journal;

pub(crate) use journal::Journal;

const ROOT: &str = "/proc/sys";

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

/// Interface names come from configuration: nothing may leave the directory.
fn file(path: &str) -> Option<PathBuf> {
    let inside = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    inside.then(|| PathBuf::from(ROOT).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_below_proc_sys() {
        assert!(read("kernel/ostype").is_some_and(|os| os == "Linux"));
        for path in [
            "../version",
            "/proc/version",
            "kernel//ostype",
            "net/./core",
            "",
        ] {
            assert_eq!(file(path), None, "{path}");
        }
    }

    #[test]
    fn says_what_to_do_in_a_container() {
        let error = write("net/ipv4/no_such_setting", "1")
            .unwrap_err()
            .to_string();
        assert!(error.contains("securityContext.sysctls"), "{error}");
    }
}
