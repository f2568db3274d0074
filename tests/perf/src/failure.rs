//! What ends a run.

use std::{io, path::PathBuf};

/// Why a run, or one step of it, ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// SIGINT or SIGTERM.
    #[error("interrupted; everything it made is removed")]
    Interrupted,
    /// This machine cannot run it at all.
    #[error("{0}")]
    Machine(String),
    /// Wrong words on the command line or in the environment.
    #[error("{0}")]
    Usage(String),
    /// A program did not do what it was started for.
    #[error("{program}: {what}")]
    Program {
        /// Its name.
        program: String,
        /// What happened, with its output.
        what: String,
    },
    /// Nothing came through a tunnel.
    #[error("{0}")]
    Traffic(String),
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure {
    /// As `sysexits.h` and shells have it: 64 usage, 69 unavailable, 130 interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Usage(_) => 64,
            Self::Machine(_) => 69,
            Self::Program { .. } | Self::Traffic(_) | Self::Io { .. } => 1,
        }
    }

    pub(crate) fn program(program: &str, what: impl Into<String>) -> Self {
        Self::Program {
            program: program.into(),
            what: what.into(),
        }
    }

    /// For `map_err` on a file operation.
    pub(crate) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path: PathBuf = path.into();
        move |source| Self::Io {
            what: path.display().to_string(),
            source,
        }
    }

    /// For `map_err` on anything else of the system.
    pub(crate) fn io(what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Io { what, source }
    }
}
