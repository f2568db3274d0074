//! Errors that end the process: one line, what and why and the command that mends it, and an exit
//! status of sysexits(3).

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use masque_tun::TunError;

use crate::source::Denied;

/// Exit statuses of sysexits(3).
pub(crate) mod status {
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const DATA: u8 = 65;
    pub(crate) const NO_INPUT: u8 = 66;
    pub(crate) const UNAVAILABLE: u8 = 69;
    pub(crate) const SOFTWARE: u8 = 70;
    pub(crate) const OS: u8 = 71;
    pub(crate) const CANNOT_CREATE: u8 = 73;
    pub(crate) const IO: u8 = 74;
    pub(crate) const NO_PERMISSION: u8 = 77;
    pub(crate) const CONFIG: u8 = 78;
}

/// Ports that need CAP_NET_BIND_SERVICE, unless `net.ipv4.ip_unprivileged_port_start` says otherwise.
const PRIVILEGED_BELOW: u16 = 1024;

/// Why the gateway cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fatal {
    /// Something needed was not given.
    #[error("{0}")]
    Usage(String),
    /// Nothing to run on.
    #[error("{path}: {reason}; `masque-gateway init {path}` writes a starter folder", path = path.display())]
    Manifests { path: PathBuf, reason: String },
    /// No manifest is usable.
    #[error(
        "no VPCIngressPoint in {path} can run{}; `masque-gateway check {path}` says everything",
        because(reason), path = path.display()
    )]
    NothingToRun {
        path: PathBuf,
        /// The first error in the manifests.
        reason: Option<String>,
    },
    /// A folder that must not be overwritten.
    #[error("{path} is there already; choose another folder or remove it", path = path.display())]
    Exists { path: PathBuf },
    /// A file could not be written.
    #[error("cannot write {path}: {error}", path = path.display())]
    Write {
        path: PathBuf,
        error: std::io::Error,
    },
    /// The folder of certificates may not be looked into.
    #[error("{}", .0.told_to_the_gateway())]
    Unreadable(Denied),
    /// Certificate trouble.
    #[error("{0}")]
    Certificate(String),
    /// A port is taken.
    #[error(
        "cannot listen on UDP port {port}: {error}; `ss -lunp 'sport = :{port}'` shows who does, \
         or change spec.listeners[].port"
    )]
    Listen { port: u16, error: std::io::Error },
    /// A port that only the privileged may have.
    #[error(
        "cannot listen on UDP port {port}: ports below 1024 need CAP_NET_BIND_SERVICE; grant it \
         (`setcap cap_net_admin,cap_net_bind_service+ep` on the program, or NET_BIND_SERVICE in the \
         container's capabilities), or set spec.listeners[].port to a higher one"
    )]
    PrivilegedPort { port: u16 },
    /// Another gateway has the kernel's tables here.
    #[error(
        "another gateway runs in this network namespace, and goes on undisturbed; stop it, or give \
         this one a network namespace of its own"
    )]
    AnotherRuns,
    /// Another gateway answers on the control socket of the state folder.
    #[error(
        "another gateway runs on the state folder {path}; stop it, or give this one a folder of its \
         own with --state-dir", path = path.display()
    )]
    StateTaken { path: PathBuf },
    /// The admin port is taken.
    #[error("cannot listen on {address} for /metrics: {error}; choose another with --admin")]
    Admin {
        address: std::net::SocketAddr,
        error: std::io::Error,
    },
    /// Privileges, devices or kernel features are missing.
    #[error("{0}")]
    Permission(String),
    /// A TUN device that cannot be made, whoever asks.
    #[error("{0}")]
    Device(String),
    /// The kernel lacks something.
    #[error("{0}")]
    Kernel(String),
    /// No running gateway answers.
    #[error("no gateway answers on {path}: {error}; is it running, and is that its --state-dir?", path = path.display())]
    NotRunning {
        path: PathBuf,
        error: std::io::Error,
    },
    /// A packet thread is gone, and its clients with it.
    #[error(
        "a packet thread ended unexpectedly; start the gateway again and report the lines above"
    )]
    ThreadEnded,
    /// A packet thread went on after it was told to stop.
    #[error(
        "{threads} packet thread(s) did not stop in time and end with the process; the kernel's state \
         is cleared; report the lines above"
    )]
    ThreadStuck { threads: usize },
    /// An operating-system call failed.
    #[error("{what}: {error}")]
    Os {
        what: &'static str,
        error: std::io::Error,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {name}: {error}; {hint}", hint = sysctl_hint(error))]
    Sysctl { name: String, error: std::io::Error },
    /// Validation failed; the problems were printed already.
    #[error("{errors} error(s) in {path}", path = path.display())]
    Invalid { path: PathBuf, errors: usize },
}

fn sysctl_hint(error: &std::io::Error) -> &'static str {
    if is_denied(error) {
        return "the container must be privileged";
    }
    match error.kind() {
        std::io::ErrorKind::NotFound => "this kernel does not have it: is its module loaded?",
        _ => "the kernel does not take this value",
    }
}

fn is_denied(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

fn because(reason: &Option<String>) -> String {
    reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {reason}"))
}

impl Fatal {
    /// That no ingress point can run; because of the first error of one, else the first of all.
    pub(crate) fn nothing_to_run(dir: &Path, problems: &[(bool, String)]) -> Self {
        let errors = || problems.iter().filter(|(error, _)| *error);
        // After the place, if there is one; others name an ingress point because it lacks.
        let is_of_a_point = |line: &str| {
            let mut heads = line.split(": ").take(2);
            heads.any(|head| head.starts_with("VPCIngressPoint "))
        };
        let of_a_point = errors().find(|(_, line)| is_of_a_point(line));
        Self::NothingToRun {
            path: dir.to_owned(),
            reason: of_a_point
                .or_else(|| errors().next())
                .map(|(_, line)| line.clone()),
        }
    }

    /// That a UDP port cannot be had.
    pub(crate) fn listen(port: u16, error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::PermissionDenied && port < PRIVILEGED_BELOW {
            Self::PrivilegedPort { port }
        } else {
            Self::Listen { port, error }
        }
    }

    /// That a TUN device cannot be had. A restart mends what is no lack of permission: a module that
    /// is loaded late, a name that is free again.
    pub(crate) fn device(error: &TunError) -> Self {
        match error {
            TunError::NotPermitted | TunError::DeviceDenied => Self::Permission(error.to_string()),
            _ => Self::Device(error.to_string()),
        }
    }

    /// The exit status of sysexits(3).
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => status::USAGE,
            Self::Invalid { .. } => status::DATA,
            Self::Manifests { .. } => status::NO_INPUT,
            Self::NotRunning { .. }
            | Self::Listen { .. }
            | Self::Admin { .. }
            | Self::AnotherRuns
            | Self::StateTaken { .. } => status::UNAVAILABLE,
            Self::Os { .. } | Self::Kernel(_) => status::OS,
            Self::ThreadEnded | Self::ThreadStuck { .. } => status::SOFTWARE,
            Self::Exists { .. } | Self::Device(_) => status::CANNOT_CREATE,
            Self::Write { .. } => status::IO,
            Self::Sysctl { error, .. } if is_denied(error) => status::NO_PERMISSION,
            Self::Sysctl { .. } => status::OS,
            Self::Permission(_) | Self::Unreadable(_) | Self::PrivilegedPort { .. } => {
                status::NO_PERMISSION
            }
            Self::NothingToRun { .. } | Self::Certificate(_) => status::CONFIG,
        }
    }

    /// Prints the line and gives the status.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("masque-gateway: {self}");
        ExitCode::from(self.status())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_low_port_without_the_capability_names_it() {
        let denied = || Error::from(ErrorKind::PermissionDenied);
        let low = Fatal::listen(443, denied());
        assert_eq!(low.status(), status::NO_PERMISSION);
        assert!(low.to_string().contains("CAP_NET_BIND_SERVICE"), "{low}");
        assert!(low.to_string().contains("a higher one"), "{low}");
        let taken = Fatal::listen(443, Error::from(ErrorKind::AddrInUse));
        assert_eq!(taken.status(), status::UNAVAILABLE);
        // A security module may refuse any port: no capability would help.
        let refused = Fatal::listen(4433, denied());
        assert!(!refused.to_string().contains("CAP_NET_BIND"), "{refused}");
    }

    #[test]
    fn only_a_lack_of_permission_is_one() {
        for denied in [TunError::NotPermitted, TunError::DeviceDenied] {
            assert_eq!(Fatal::device(&denied).status(), status::NO_PERMISSION);
        }
        let system = TunError::System {
            call: "open",
            source: Error::from(ErrorKind::ResourceBusy),
        };
        for other in [
            TunError::NoDevice,
            TunError::NameTaken("mq0".into()),
            system,
        ] {
            let fatal = Fatal::device(&other);
            assert_eq!(fatal.status(), status::CANNOT_CREATE, "{fatal}");
        }
    }

    #[test]
    fn nothing_to_run_says_what_is_wrong_with_the_ingress_point() {
        let lines = [
            (true, "a.yaml: too long"),
            (
                true,
                "c.yaml:2: ConnectorAttachment c: spec.vpcRef: VPCIngressPoint p has problems",
            ),
            (false, "VPCIngressPoint p: a warning"),
            (
                true,
                "p.yaml:9: VPCIngressPoint p: there is no Secret; add one",
            ),
        ];
        let lines = lines.map(|(error, line)| (error, line.to_owned()));
        let text = |lines: &[_]| Fatal::nothing_to_run(Path::new("/m"), lines).to_string();
        let all = text(&lines);
        assert!(
            all.contains("can run: p.yaml:9: VPCIngressPoint p: there is no Secret"),
            "{all}"
        );
        assert!(text(&lines[..3]).contains("can run: a.yaml: too long"));
        assert!(text(&[]).contains("can run; `masque-gateway check /m`"));
    }
}
