//! A connection to the operator: files, TLS, HTTP/2.

use std::{fs, future::Future, io, path::Path, path::PathBuf, sync::Arc};

use hyper_util::rt::TokioIo;
use masque_model::ObjectName;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::ClientConfig;
use crate::{
    backoff::random,
    bounds::{
        CONNECT_TIMEOUT, DIAL_PAUSE, DIALS, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
        MAX_CREDENTIAL_BYTES,
    },
    tls::{self, TlsError},
};

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not a URL of the stream.
    #[error("{0:?} is no URL of an operator; it has the form https://HOST:9443")]
    Url(String),
    /// Not a host name.
    #[error("{0:?} is no host name that a certificate could hold")]
    ServerName(String),
    /// A file of the pod cannot be read.
    #[error("cannot read {path}: {error}", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Certificate, key or CA cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token has characters that no header may have.
    #[error("{path} holds no token", path = path.display())]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// The operator cannot be reached.
    #[error("cannot reach the operator: {0}")]
    Unreachable(String),
    /// The operator ended the stream, or refused it.
    #[error("the operator says: {0}")]
    Refused(String),
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    authority: String,
    server_name: ServerName<'static>,
    endpoint: Endpoint,
}

impl Target {
    pub(super) fn parse(config: &ClientConfig) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(config.url.clone());
        let rest = config.url.strip_prefix("https://").ok_or_else(wrong)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        if authority.contains(['/', '?', '#', '@'])
            || port.is_none_or(|port| port.parse::<u16>().is_err())
        {
            return Err(wrong());
        }
        let server_name = ServerName::try_from(config.server_name.clone())
            .map_err(|_| ClientError::ServerName(config.server_name.clone()))?;
        // TLS is made by the connector below; to HTTP/2 the connection is a plain one.
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?;
        Ok(Self {
            authority: authority.to_owned(),
            server_name,
            endpoint: endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true),
        })
    }

    /// One connection; it is not made again by itself.
    pub(super) async fn connect(
        &self,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Channel, ClientError> {
        let (authority, server_name) = (self.authority.clone(), self.server_name.clone());
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let (authority, server_name) = (authority.clone(), server_name.clone());
            let connector = TlsConnector::from(Arc::clone(&tls));
            async move {
                let stream = dial(|| TcpStream::connect(&authority)).await?;
                stream.set_nodelay(true)?;
                let stream = connector.connect(server_name, stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        self.endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| ClientError::Unreachable(chain(&error)))
    }
}

/// Dials until somebody listens, [`DIALS`] times at most. Only a refusal is worth another dial: it
/// comes at once, and the next one may go to another replica of the operator.
pub(super) async fn dial<T, F>(mut attempt: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    for _ in 1..DIALS {
        match attempt().await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let part = f64::from(random()) / f64::from(u32::MAX);
                sleep(DIAL_PAUSE.mul_f64(0.5 + part / 2.0)).await;
            }
            other => return other,
        }
    }
    attempt().await
}

/// What a pod proves itself by.
pub(super) struct Credentials {
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) point: ObjectName,
}

/// Reads certificate, key and CA.
pub(super) fn credentials(config: &ClientConfig) -> Result<Credentials, ClientError> {
    let [certificate, key, ca] = [&config.certificate, &config.key, &config.ca].map(|p| read(p));
    let (tls, point) = tls::client(&certificate?, &key?, &ca?)?;
    Ok(Credentials {
        tls: Arc::new(tls),
        point,
    })
}

/// The `authorization` header's value.
pub(super) fn bearer(
    config: &ClientConfig,
) -> Result<tonic::metadata::MetadataValue<tonic::metadata::Ascii>, ClientError> {
    let path = config.token.clone();
    let token = String::from_utf8(read(&path)?).unwrap_or_default();
    let value = format!("Bearer {}", token.trim());
    let mut value: tonic::metadata::MetadataValue<_> = match value.parse() {
        Ok(value) if !token.trim().is_empty() => value,
        _ => return Err(ClientError::Token { path }),
    };
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let read = || {
        if fs::metadata(path)?.len() > MAX_CREDENTIAL_BYTES {
            return Err(io::Error::other(
                "too large for a certificate, key or token",
            ));
        }
        fs::read(path)
    };
    read().map_err(|error| ClientError::File {
        path: path.to_owned(),
        error,
    })
}

/// An error with what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
