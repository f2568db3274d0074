//! How a command fails: one line with what, why and the command that mends it, and an exit status of
//! `sysexits.h`.

use std::{fmt, io, path::Path};

use masque_client::{AttachError, KeyFileError};

/// Exit statuses (BSD `sysexits.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// Something that is to be read is missing or malformed.
    NoInput = 66,
    /// The gateway, or a running attachment, cannot be reached.
    Unavailable = 69,
    /// Something of ours is wrong.
    Software = 70,
    /// A file or device cannot be made.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Trying again later may help.
    TemporaryFailure = 75,
    /// Not permitted, here or by the gateway.
    NoPermission = 77,
    /// A configuration is wrong.
    Config = 78,
}

/// What went wrong and what mends it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What and why.
    what: String,
    /// What mends it; may be empty when `what` says it.
    advice: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// A failure that was told already.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "", "")
    }

    /// The same failure with another advice.
    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self {
            advice: advice.into(),
            ..self
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn is_silent(&self) -> bool {
        self.what.is_empty()
    }

    /// A file of ours could not be read or written.
    pub(crate) fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            io::ErrorKind::NotFound => Exit::NoInput,
            _ => Exit::Io,
        };
        let folder = match path.parent() {
            // A bare file name is in the working folder.
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => path,
        };
        let folder = folder.display();
        Self::new(
            exit,
            format!("cannot {action} {}: {error}", path.display()),
            format!("check its folder: `ls -ld {folder}`"),
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let exit = match &error {
            KeyFileError::Missing { .. } | KeyFileError::Malformed { .. } => Exit::NoInput,
            KeyFileError::Open { .. } => Exit::NoPermission,
            KeyFileError::Exists { .. } => Exit::CannotCreate,
            KeyFileError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Exit::NoPermission,
                _ => Exit::Io,
            },
            KeyFileError::Random => Exit::Software,
        };
        let advice = match &error {
            // Root has a configuration folder of its own; the shell knows whose `~` is meant.
            KeyFileError::Missing { .. } if std::env::var_os("SUDO_USER").is_some() => {
                "or, as sudo looks in root's folder, name yours: \
                 `--key ~/.config/datum-connect/key.pem`"
            }
            KeyFileError::Io { .. } => "choose another place: `--key FILE`",
            _ => "",
        };
        Self::new(exit, error.to_string(), advice)
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        let exit = match &error {
            AttachError::Unavailable { .. }
            | AttachError::PoolExhausted
            | AttachError::NoAddress { .. }
            | AttachError::GoingAway => Exit::TemporaryFailure,
            AttachError::UnknownVpcOrKey { .. }
            | AttachError::Denied { .. }
            | AttachError::AuthenticationRequired { .. } => Exit::NoPermission,
            AttachError::BadRequest { .. } | AttachError::Config { .. } => Exit::Config,
            AttachError::Local { .. } => Exit::Io,
            _ => Exit::Unavailable,
        };
        Self::new(exit, error.to_string(), error.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_how_to_mend_it() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = Failure::file("read", Path::new("/x/y"), &error);
        assert_eq!(failure.exit, Exit::NoPermission);
        assert_eq!(
            failure.to_string(),
            "cannot read /x/y: permission denied; check its folder: `ls -ld /x`"
        );
        let bare = Failure::file("read", Path::new("ca.crt"), &error).to_string();
        assert!(bare.ends_with("`ls -ld .`"), "{bare}");
    }

    #[test]
    fn a_full_pool_is_temporary_and_a_denial_is_not() {
        let exit = |error: AttachError| Failure::from(error).exit;
        assert_eq!(exit(AttachError::PoolExhausted), Exit::TemporaryFailure);
        let vpc = "v".parse().unwrap();
        let denied = AttachError::Denied { vpc, details: None };
        assert_eq!(exit(denied), Exit::NoPermission);
    }
}
