//! Certificates, keys and who is trusted.

mod client;
mod error;
mod identity;
mod server;
mod verifier;

use std::cell::RefCell;

pub use client::{ClientIdentity, ClientTls, ServerTrust};
pub use error::{PeerCertificateError, TlsError};
pub use identity::{CertificateFiles, ServerCertificate};
pub use server::{CertificateStore, ServerTls};

/// The protocol both ends speak (RFC 9114 §3.1).
pub const ALPN_H3: &[u8] = b"h3";

thread_local! {
    /// Why the verifier rejected the certificate of the handshake this thread is carrying on.
    ///
    /// quinn-proto keeps only the alert and a text of it. Handshakes are carried on within one
    /// call, on one thread, so what the verifier left belongs to the connection of that call.
    static CERTIFICATE_ERROR: RefCell<Option<PeerCertificateError>> = const { RefCell::new(None) };
}

fn note_certificate_error(error: PeerCertificateError) {
    CERTIFICATE_ERROR.with_borrow_mut(|slot| *slot = Some(error));
}

pub(crate) fn take_certificate_error() -> Option<PeerCertificateError> {
    CERTIFICATE_ERROR.take()
}

pub(crate) fn clear_certificate_error() {
    CERTIFICATE_ERROR.set(None);
}

/// The Ed25519 key of the peer's certificate.
pub(crate) fn peer_certificate_key(quic: &quinn_proto::Connection) -> Option<[u8; 32]> {
    let identity = quic.crypto_session().peer_identity()?;
    let chain = identity
        .downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>()
        .ok()?;
    verifier::ed25519_key(chain.first()?)
}
