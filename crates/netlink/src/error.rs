//! What the kernel refused, and what to do about it.

use std::io;

use masque_srv6::Slot;

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
        "cannot set {path} to {value}: {source}; set it from outside (`sysctl -w {path}={value}` \
         as root in this network namespace); in a container /proc/sys is read-only: set it by the \
         pod's securityContext.sysctls or by an init container"
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

/// A change that the kernel refused.
#[derive(Debug)]
pub struct Refusal {
    /// The VPC that it was for; `None` for what all have together.
    pub slot: Option<Slot>,
    /// Why, and what mends it.
    pub error: NetlinkError,
}

/// Everything that the kernel refused of a list of changes: one refusal at least.
#[derive(Debug, thiserror::Error)]
#[error("{}", first.error)]
pub struct Refusals {
    first: Refusal,
    others: Vec<Refusal>,
}

impl Refusals {
    /// One that concerns all VPCs.
    pub(crate) fn of_all(error: NetlinkError) -> Self {
        let first = Refusal { slot: None, error };
        let others = Vec::new();
        Self { first, others }
    }

    /// # Errors
    /// If there is any.
    pub(crate) fn unless_none(refused: Vec<Refusal>) -> Result<(), Self> {
        let mut refused = refused.into_iter();
        match refused.next() {
            None => Ok(()),
            Some(first) => Err(Self {
                first,
                others: refused.collect(),
            }),
        }
    }

    /// The first one's error.
    pub fn into_first(self) -> NetlinkError {
        self.first.error
    }

    /// All of them, in the order of the changes.
    pub fn iter(&self) -> impl Iterator<Item = &Refusal> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map(|text| format!(" ({text})"))
        .unwrap_or_default()
}
