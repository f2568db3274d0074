//! What ends a run.

use std::{io, path::Path, time::Duration};

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// SIGINT or SIGTERM.
    #[error("interrupted; everything it made is removed")]
    Interrupted,
    /// This machine cannot run it at all.
    #[error("{0}")]
    Unavailable(String),
    /// Wrong words in the environment.
    #[error("{0}")]
    Usage(String),
    /// Something did not become true in time.
    #[error("not within {} s: {what}", limit.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The API server refused a call of the bench itself.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// A pod's end of the stream cannot be made.
    #[error("the stream of {pod}: {source}")]
    Stream {
        /// The pod.
        pod: String,
        /// Why.
        source: masque_stream::ClientError,
    },
    /// What was measured contradicts itself.
    #[error("{0}")]
    Wrong(String),
    /// A file, a socket or a program.
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
            Self::Unavailable(_) => 69,
            _ => 1,
        }
    }

    /// For `map_err` on a call to the API server.
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }

    /// For `map_err` on anything of the system.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err` on a file operation.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(path.display().to_string())
    }
}
