//! What the kernel refused, and what to do about it.

use std::io;

use crate::socket::RequestError;

/// An error of the kernel interface.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// EPERM.
    #[error(
        "{action} needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the program, or \
         add NET_ADMIN to the container's capabilities"
    )]
    NotPermitted {
        /// What was tried.
        action: String,
    },
    /// EACCES: forbidden to everybody, root too. What clients meet is an interface without IPv6.
    #[error("{action}: the kernel forbids it to everybody{}", detail(message))]
    Forbidden {
        /// What was tried.
        action: String,
        /// What the kernel says about it beyond the error number.
        message: Option<String>,
    },
    /// The kernel lacks a feature.
    #[error("the kernel cannot do {action}: it needs {needs}")]
    NotSupported {
        /// What was tried.
        action: String,
        /// The kernel version or option.
        needs: &'static str,
    },
    /// An interface is not there.
    #[error("there is no interface {0:?} in this network namespace")]
    NoInterface(String),
    /// Something of somebody else is in the place.
    #[error("{action}: there is one already that this gateway did not make; remove it")]
    Exists {
        /// What was tried.
        action: String,
    },
    /// Any other refusal.
    #[error("{action}: {source}{}", detail(message))]
    Refused {
        /// What was tried.
        action: String,
        /// What the kernel says about it beyond the error number.
        message: Option<String>,
        /// The error number.
        source: io::Error,
    },
    /// A kernel setting could not be changed.
    #[error(
        "cannot set {path} to {value}: {source}; in a container /proc/sys is read-only: set it by \
         the pod's securityContext.sysctls or by an init container, or use bridge mode Userspace"
    )]
    Sysctl {
        /// The file below `/proc/sys`.
        path: String,
        /// What it should say.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// Two gateways in one network namespace would undo each other's state.
    #[error(
        "another gateway manages this network namespace: run each gateway in its own (one pod \
         each), or stop the other"
    )]
    Busy,
    /// The netlink socket failed, or answered nonsense.
    #[error("netlink: {0}")]
    Socket(String),
}

impl NetlinkError {
    /// What the kernel's answer to `action` means; `needs` is the kernel option behind it.
    pub(crate) fn from_request(
        error: RequestError,
        needs: &'static str,
        action: impl FnOnce() -> String,
    ) -> Self {
        let (errno, message) = match error {
            RequestError::Refused { errno, message } => (errno, message),
            RequestError::Broken(text) => return Self::Socket(format!("{}: {text}", action())),
        };
        let action = action();
        match errno {
            libc::EPERM => Self::NotPermitted { action },
            libc::EACCES => Self::Forbidden { action, message },
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => {
                Self::NotSupported { action, needs }
            }
            libc::EEXIST => Self::Exists { action },
            _ => Self::Refused {
                action,
                message,
                source: io::Error::from_raw_os_error(errno),
            },
        }
    }
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}
