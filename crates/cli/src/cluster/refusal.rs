//! Why the API server did not do it, and what mends that.

use std::{error::Error, io, time::Duration};

use kube::client::AuthError;

use crate::failure::{Exit, Failure};

/// A call without an answer for this long has failed.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a call was about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// `list`, `get`, `create` or `patch`.
    pub(crate) verb: &'static str,
    /// The resource, as in a Role.
    pub(crate) resource: &'static str,
    /// The namespace.
    pub(crate) namespace: &'a str,
    /// The API server.
    pub(crate) server: &'a str,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The API server's answer.
    Status { code: u16, message: String },
    /// It was not reached.
    Unreachable(String),
    /// Its certificate is not acceptable.
    Untrusted(String),
    /// What the kubeconfig says about logging in did not work.
    Login(String),
    /// It was reached, and no answer came.
    Timeout,
    /// What came is no answer.
    Unintelligible(String),
}

impl Refusal {
    /// 403: the person may not.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { code: 403, .. })
    }

    /// 404: no such object, or no such kind.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// 409: somebody else was faster, or the name is taken.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code: 409, .. })
    }

    /// Whether the same call may succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Status { code, .. } => matches!(code, 408 | 429 | 500..),
            Self::Unreachable(_) | Self::Timeout => true,
            Self::Untrusted(_) | Self::Login(_) | Self::Unintelligible(_) => false,
        }
    }

    /// One line: what, why, and what mends it.
    pub(crate) fn failure(&self, asked: &Asked<'_>) -> Failure {
        let Asked {
            verb,
            resource,
            namespace,
            server,
        } = asked;
        let doing = format!("cannot {verb} {resource} in namespace {namespace}");
        let (exit, what, advice) = match self {
            Self::Status { code: 401, .. } => (
                Exit::NoPermission,
                format!("the API server {server} does not know who you are (401)"),
                "log in again, or get a new kubeconfig".to_owned(),
            ),
            Self::Status { code: 403, message } => (
                Exit::NoPermission,
                format!("{doing}: {message} (403)"),
                format!(
                    "is {namespace} the right namespace, `--namespace NAMESPACE`? If so, ask for \
                     the role in docs/kubernetes/tasks/give-access.md"
                ),
            ),
            Self::Status { code: 404, .. } => (
                Exit::Unavailable,
                format!("the API server {server} has no {resource} (404)"),
                "is it the right cluster, `--context NAME`? If so: `helm install \
                 masque-gateway-crds charts/masque-gateway-crds`"
                    .to_owned(),
            ),
            Self::Status { code, message } => {
                let passing = self.is_passing();
                let (exit, advice) = match passing {
                    true => (Exit::TemporaryFailure, "try again in a moment"),
                    false => (Exit::Config, ""),
                };
                let what = format!("{doing}: {message} ({code})");
                (exit, what, advice.to_owned())
            }
            Self::Unreachable(why) => (
                Exit::Unavailable,
                format!("the API server {server} cannot be reached: {why}"),
                "does `kubectl version` reach it from here?".to_owned(),
            ),
            Self::Untrusted(why) => (
                Exit::Unavailable,
                format!("the certificate of the API server {server} is not acceptable: {why}"),
                "get a new kubeconfig: its certificate authority did not sign that".to_owned(),
            ),
            Self::Login(why) => (
                Exit::NoPermission,
                format!("cannot log in to the API server {server}: {why}"),
                "does `kubectl version` work as this user?".to_owned(),
            ),
            Self::Timeout => (
                Exit::Unavailable,
                format!(
                    "the API server {server} gave no answer for {} s",
                    CALL_TIMEOUT.as_secs()
                ),
                "try again in a moment".to_owned(),
            ),
            Self::Unintelligible(why) => (
                Exit::Unavailable,
                format!("{doing}: the answer makes no sense: {why}"),
                "is it a Kubernetes API server?".to_owned(),
            ),
        };
        Failure::new(exit, what, advice)
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 0 => {
                Self::Unintelligible("an error without a status".to_owned())
            }
            kube::Error::Api(status) => Self::Status {
                code: status.code,
                message: status.message.clone(),
            },
            kube::Error::Auth(error) => Self::Login(login(error)),
            kube::Error::SerdeError(error) => Self::Unintelligible(error.to_string()),
            other => connection(other),
        }
    }
}

/// What a login program said last is worth more than its whole output.
fn login(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => {
            let stderr = String::from_utf8_lossy(&out.stderr);
            let last = stderr.trim_end().lines().last().unwrap_or_default();
            format!(
                "the kubeconfig's login program failed ({}): {last}",
                out.status
            )
        }
        AuthError::AuthExecStart(why) => {
            format!("the kubeconfig's login program cannot be started: {why}")
        }
        other => other.to_string(),
    }
}

/// The cause of a failed connection is at the end of a chain of wrappers.
fn connection(error: &kube::Error) -> Refusal {
    let mut innermost = error.to_string();
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<AuthError>() {
            return Refusal::Login(login(error));
        }
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Refusal::Untrusted(why.to_string());
        }
        innermost = error.to_string();
        // An io::Error hides what it wraps from `source`.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    Refusal::Unreachable(innermost)
}

#[cfg(test)]
mod tests;
