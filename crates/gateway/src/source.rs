//! A folder of manifests and the secrets beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use masque_controller::{Compiled, Options, Problem, Reason, Secret, Snapshot, compile, manifests};
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
                denied: None,
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
    /// Why listeners lack certificates that this process may not look for.
    pub(crate) denied: Option<Denied>,
}

impl Loaded {
    /// How many errors there are, besides certificates that may not be looked for, and attachments to
    /// the ingress points that lack them.
    pub(crate) fn errors(&self) -> usize {
        let follows = |problem: &Problem| {
            self.denied.is_some()
                && (is_lacking(problem) || problem.reason == Reason::NoIngressPoint)
        };
        let counts = |problem: &&Problem| problem.is_error() && !follows(problem);
        self.compiled.problems.iter().filter(counts).count()
    }
}

/// Whether a listener lacks its certificate.
fn is_lacking(problem: &Problem) -> bool {
    problem.reason == Reason::CertificateNotFound
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
    let mounted = mounted_secrets(dir);
    let options = Options {
        secrets: mounted.as_ref().cloned().unwrap_or_default(),
        ..Options::standalone()
    };
    let now_unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut compiled = compile(&read.resources, now_unix_s, &options, previous);
    let denied = mounted
        .err()
        .filter(|_| compiled.problems.iter().any(is_lacking));
    if let Some(denied) = &denied {
        for problem in compiled.problems.iter_mut().filter(|p| is_lacking(p)) {
            problem.message = denied.to_string();
            problem.hint = "let the gateway's user read it".to_owned();
        }
    }
    let mut problems = read.problems;
    problems.append(&mut compiled.problems);
    compiled.problems = problems;
    Ok(Loaded {
        compiled,
        secrets: read.resources.secrets,
        denied,
    })
}

/// Names of the secrets that lie in the folder as a Secret mounts: `secrets/NAME/tls.crt`. They
/// belong to every namespace: one person owns the folder.
///
/// # Errors
/// This process may not look.
fn mounted_secrets(dir: &Path) -> Result<BTreeSet<ObjectName>, Denied> {
    let dir = dir.join(SECRETS);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Denied::new(&dir, &dir, error));
        }
        Err(_) => return Ok(BTreeSet::new()),
    };
    Ok(entries
        .filter_map(Result::ok)
        .filter(|entry| is_there(&entry.path().join("tls.crt")))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| ObjectName::new("default", name))
        .collect())
}

/// Whether a file or folder exists, as far as this process may know.
fn is_there(path: &Path) -> bool {
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    fs::metadata(path).map_or_else(|error| denied(&error), |_| true)
}

/// A file or folder that this process may not read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {error}", path = path.display())]
pub(crate) struct Denied {
    path: PathBuf,
    /// The folder of all certificates.
    dir: PathBuf,
    error: io::Error,
}

impl Denied {
    /// `dir` is the folder of all certificates.
    pub(crate) fn new(path: &Path, dir: &Path, error: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            dir: dir.to_owned(),
            error,
        }
    }

    /// The line for who runs the gateway.
    pub(crate) fn told_to_the_gateway(&self) -> String {
        let uid = nix::unistd::Uid::effective();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let user = user.map_or_else(|| uid.to_string(), |user| user.name);
        let dir = self.dir.display();
        format!("{self}; let the gateway's user read it: `sudo chown -R {user} {dir}`")
    }
}

/// Why a certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Its files are not for this process.
    #[error("{0}")]
    Denied(Denied),
    /// A sentence that names the file and what mends it.
    #[error("{0}")]
    Unusable(String),
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    /// Where it came from, for people.
    pub(crate) origin: String,
    /// The folder of its files, unless it came from a manifest.
    pub(crate) folder: Option<PathBuf>,
    /// `tls.crt`.
    pub(crate) certificate: Vec<u8>,
    /// `tls.key`.
    pub(crate) key: Vec<u8>,
}

/// Finds a certificate by its secret's name: in a folder of that name in `dir`, or a Secret manifest.
///
/// # Errors
/// [`CertificateError`] names the file and what mends it.
pub(crate) fn certificate(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<Pem, CertificateError> {
    let folder = dir.join(&name.name);
    // Who may not look into `dir` cannot know; what a manifest says is known.
    if folder.exists() || (!secrets.contains_key(name) && is_there(&folder)) {
        return Ok(Pem {
            origin: folder.display().to_string(),
            certificate: read_pem(&folder.join("tls.crt"), dir)?,
            key: read_pem(&folder.join("tls.key"), dir)?,
            folder: Some(folder),
        });
    }
    let Some(secret) = secrets.get(name) else {
        return Err(CertificateError::Unusable(format!(
            "there is no certificate {:?}: put tls.crt and tls.key into {}",
            name.name,
            folder.display()
        )));
    };
    let part = |key: &str| {
        secret.data.get(key).cloned().ok_or_else(|| {
            let lacks = format!("Secret {name} has no {key}; a kubernetes.io/tls Secret has it");
            CertificateError::Unusable(lacks)
        })
    };
    Ok(Pem {
        origin: format!("Secret {name}"),
        certificate: part("tls.crt")?,
        key: part("tls.key")?,
        folder: None,
    })
}

fn read_pem(path: &Path, dir: &Path) -> Result<Vec<u8>, CertificateError> {
    let read = || -> io::Result<Vec<u8>> {
        if fs::metadata(path)?.len() > MAX_PEM_BYTES {
            return Err(io::Error::other("too large for a certificate or key"));
        }
        fs::read(path)
    };
    read().map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                return CertificateError::Denied(Denied::new(path, dir, error));
            }
            io::ErrorKind::NotFound => "put the file there, or name another certificateRef",
            _ => "replace the file",
        };
        CertificateError::Unusable(format!("cannot read {}: {error}; {hint}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::status;

    #[test]
    fn a_file_that_is_too_large_for_a_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.crt");
        let read = |bytes| {
            fs::File::create(&path).unwrap().set_len(bytes).unwrap();
            read_pem(&path, dir.path()).map_err(|error| error.to_string())
        };
        assert_eq!(read(1024 * 1024).unwrap().len(), 1024 * 1024);
        let refused = read(1024 * 1024 + 1).unwrap_err();
        assert!(refused.contains("too large"), "{refused}");
    }

    #[test]
    fn who_may_not_read_is_told_the_command() {
        let denied = || {
            let error = io::Error::from(io::ErrorKind::PermissionDenied);
            Denied::new(
                Path::new("/m/secrets/a/tls.key"),
                Path::new("/m/secrets"),
                error,
            )
        };
        let line = denied().told_to_the_gateway();
        let uid = nix::unistd::Uid::effective();
        let user = nix::unistd::User::from_uid(uid).unwrap();
        let user = user.map_or_else(|| uid.to_string(), |user| user.name);
        assert_eq!(
            line,
            format!(
                "cannot read /m/secrets/a/tls.key: permission denied; let the gateway's user read \
                 it: `sudo chown -R {user} /m/secrets`"
            )
        );
        let fatal = Fatal::Unreadable(denied());
        assert_eq!(fatal.to_string(), line);
        assert_eq!(fatal.status(), status::NO_PERMISSION);
    }
}
