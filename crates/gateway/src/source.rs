//! A folder of manifests and the secrets beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use masque_controller::{Compiled, Options, Secret, Snapshot, compile, manifests};
use masque_model::ObjectName;

use crate::{exit::Fatal, init::SECRETS};

/// A certificate or key file is refused above this.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Where Snapshots and certificates come from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// A folder of manifests, with certificates in its folder `secrets`.
    Folder(PathBuf),
    /// An operator.
    Operator {
        /// The certificates that the pod has mounted.
        tls_dir: PathBuf,
        /// What the operator last sent.
        snapshot: Option<Box<Snapshot>>,
    },
}

impl Origin {
    /// What is to run; `previous` are the snapshots in force.
    ///
    /// # Errors
    /// [`Fatal::Manifests`] when there is no such folder.
    pub(crate) fn load(&self, previous: &[Snapshot]) -> Result<Loaded, Fatal> {
        match self {
            Self::Folder(dir) => load(dir, previous),
            Self::Operator { snapshot, .. } => Ok(Loaded {
                compiled: Compiled {
                    snapshots: snapshot.iter().map(|s| Snapshot::clone(s)).collect(),
                    ..Compiled::default()
                },
                secrets: BTreeMap::new(),
            }),
        }
    }

    /// The folder that is looked at for changes, and named when nothing in it can run.
    pub(crate) fn dir(&self) -> &Path {
        match self {
            Self::Folder(dir) => dir,
            Self::Operator { tls_dir, .. } => tls_dir,
        }
    }

    /// The folder of certificates, each in a folder of its own.
    pub(crate) fn certificates(&self) -> PathBuf {
        match self {
            Self::Folder(dir) => dir.join(SECRETS),
            Self::Operator { tls_dir, .. } => tls_dir.clone(),
        }
    }

    /// Whether a listener that names no certificate shows one for development. An operator always
    /// names one.
    pub(crate) const fn is_development(&self) -> bool {
        matches!(self, Self::Folder(_))
    }
}

/// What a folder says.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Snapshots and problems.
    pub(crate) compiled: Compiled,
    /// Secrets written as manifests.
    pub(crate) secrets: BTreeMap<ObjectName, Secret>,
}

/// Reads and compiles a folder; `previous` are the snapshots in force.
///
/// # Errors
/// [`Fatal::Manifests`] when there is no such folder.
pub(crate) fn load(dir: &Path, previous: &[Snapshot]) -> Result<Loaded, Fatal> {
    let failed = |reason: String| Fatal::Manifests {
        path: dir.to_owned(),
        reason,
    };
    let metadata = fs::metadata(dir).map_err(|e| failed(e.to_string()))?;
    if !metadata.is_dir() {
        return Err(failed("not a folder".to_owned()));
    }
    let read = manifests::read_folder(dir);
    let options = Options {
        secrets: mounted_secrets(dir),
        ..Options::standalone()
    };
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut compiled = compile(&read.resources, now_unix_s, &options, previous);
    let mut problems = read.problems;
    problems.append(&mut compiled.problems);
    compiled.problems = problems;
    Ok(Loaded {
        compiled,
        secrets: read.resources.secrets,
    })
}

/// Names of the secrets that lie in the folder as a Secret mounts: `secrets/NAME/tls.crt`. They
/// belong to every namespace: one person owns the folder.
fn mounted_secrets(dir: &Path) -> BTreeSet<ObjectName> {
    let Ok(entries) = fs::read_dir(dir.join(SECRETS)) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("tls.crt").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| ObjectName::new("default", name))
        .collect()
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    /// Where it came from, for people.
    pub(crate) origin: String,
    /// `tls.crt`.
    pub(crate) certificate: Vec<u8>,
    /// `tls.key`.
    pub(crate) key: Vec<u8>,
}

/// Finds a certificate by its secret's name: in a folder of that name in `dir`, or a Secret manifest.
///
/// # Errors
/// A sentence that names the file and what mends it.
pub(crate) fn certificate(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<Pem, String> {
    let folder = dir.join(&name.name);
    if folder.exists() {
        return Ok(Pem {
            origin: folder.display().to_string(),
            certificate: read_pem(&folder.join("tls.crt"))?,
            key: read_pem(&folder.join("tls.key"))?,
        });
    }
    let Some(secret) = secrets.get(name) else {
        return Err(format!(
            "there is no certificate {:?}: put tls.crt and tls.key into {}",
            name.name,
            folder.display()
        ));
    };
    let part =
        |key: &str| {
            secret.data.get(key).cloned().ok_or_else(|| {
                format!("Secret {name} has no {key}; a kubernetes.io/tls Secret has it")
            })
        };
    Ok(Pem {
        origin: format!("Secret {name}"),
        certificate: part("tls.crt")?,
        key: part("tls.key")?,
    })
}

fn read_pem(path: &PathBuf) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        if fs::metadata(path)?.len() > MAX_PEM_BYTES {
            return Err(io::Error::other("too large for a certificate or key"));
        }
        fs::read(path)
    };
    read().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "put the file there, or name another certificateRef",
            io::ErrorKind::PermissionDenied => "let the gateway's user read it",
            _ => "replace the file",
        };
        format!("cannot read {}: {error}; {hint}", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_large_for_a_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.crt");
        let read = |bytes| {
            fs::File::create(&path).unwrap().set_len(bytes).unwrap();
            read_pem(&path)
        };
        assert_eq!(read(1024 * 1024).unwrap().len(), 1024 * 1024);
        let refused = read(1024 * 1024 + 1).unwrap_err();
        assert!(refused.contains("too large"), "{refused}");
    }
}
