//! Certificates: who is trusted, who the client is, and what is wrong.

use std::{path::PathBuf, time::Duration};

use masque_transport::{
    CloseReason, client_config, http3,
    tls::{
        CertificateFiles, CertificateStore, ClientTls, PeerCertificateError, ServerCertificate,
        ServerTls, ServerTrust, TlsError,
    },
};
use rcgen::{CertificateParams, KeyPair};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::UnixTime;

use crate::{
    certificates::{SERVER_NAME, TestTls},
    pair::{Link, Pair, closed},
};

const SECOND: Duration = Duration::from_secs(1);

fn params(from: i32, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params
}

/// A time inside the year.
fn in_year(year: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(
        (year - 1970) * 31_557_600 + 86_400 * 100,
    ))
}

/// What the client says of a server whose certificate is `server`, when it trusts `trusted`.
fn refused(server: TestTls, trusted: &TestTls, name: &str, at: UnixTime) -> PeerCertificateError {
    let mut pair = Pair::new(Link::default());
    pair.server.set_server_config(&server.server_at(at));
    let config = trusted.client(None);
    pair.client
        .connect(pair.now, pair.server_addr, name, config)
        .unwrap();
    pair.run_for(SECOND);
    match closed(&pair.client_seen) {
        Some(CloseReason::Certificate(error)) => error.clone(),
        other => panic!("expected a certificate error, got {other:?}"),
    }
}

#[test]
fn a_server_that_is_not_trusted_is_told_apart() {
    let now = UnixTime::now();
    let other = TestTls::new();
    let error = refused(TestTls::new(), &other, SERVER_NAME, now);
    assert_eq!(error, PeerCertificateError::UntrustedIssuer);

    let server = TestTls::new();
    let trusted = server.clone();
    let error = refused(server, &trusted, "elsewhere.test", now);
    assert_eq!(
        error,
        PeerCertificateError::NameMismatch {
            expected: "elsewhere.test".to_owned()
        }
    );

    let server = TestTls::with(params(2000, 2010));
    let trusted = server.clone();
    let error = refused(server, &trusted, SERVER_NAME, in_year(2005));
    assert_eq!(error, PeerCertificateError::Expired);

    let server = TestTls::with(params(2090, 2099));
    let trusted = server.clone();
    let error = refused(server, &trusted, SERVER_NAME, in_year(2095));
    assert_eq!(error, PeerCertificateError::NotYetValid);
    assert!(error.to_string().contains("check this machine's clock"));
}

#[test]
fn the_server_knows_the_clients_key_and_both_export_the_same() {
    let mut pair = Pair::new(Link::default());
    let seed = [42; 32];
    let config = pair.tls.client(Some(seed));
    let at_client = pair
        .client
        .connect(pair.now, pair.server_addr, SERVER_NAME, config)
        .unwrap();
    pair.run_for(SECOND);
    let at_server = pair.server_seen.connected().unwrap();
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public: [u8; 32] = key.public_key().as_ref().try_into().unwrap();
    assert_eq!(pair.server.peer_certificate_key(at_server), Some(public));
    assert_eq!(
        pair.server.server_name(at_server).as_deref(),
        Some(SERVER_NAME)
    );
    let (mut one, mut other, mut else_) = ([0; 48], [0; 48], [0; 48]);
    let label = b"EXPORTER-HTTP-Concealed-Authentication";
    pair.client
        .export_keying_material(at_client, label, b"context", &mut one)
        .unwrap();
    pair.server
        .export_keying_material(at_server, label, b"context", &mut other)
        .unwrap();
    pair.server
        .export_keying_material(at_server, label, b"another", &mut else_)
        .unwrap();
    assert_eq!(one, other);
    assert_ne!(one, else_);
}

#[test]
fn a_client_without_a_certificate_is_nobody_but_welcome() {
    let mut pair = Pair::new(Link::default());
    pair.connect();
    pair.run_for(SECOND);
    let at_server = pair.server_seen.connected().unwrap();
    assert_eq!(pair.server.peer_certificate_key(at_server), None);
}

/// Shows a certificate whatever the server asks for.
#[derive(Debug)]
struct Stubborn(std::sync::Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Stubborn {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_clients_certificate_of_another_kind_is_rejected() {
    let mut pair = Pair::new(Link::default());
    let trust = ServerTrust::RootsPem(pair.tls.chain_pem.clone().into_bytes());
    let tls = ClientTls {
        trust,
        identity: None,
    }
    .build()
    .unwrap();
    let mut tls = (*tls).clone();
    let key = KeyPair::generate().unwrap();
    let certificate = params(2020, 2099).self_signed(&key).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let signer = EcdsaAsEd25519(rustls::crypto::ring::sign::any_ecdsa_type(&key.into()).unwrap());
    let certified = rustls::sign::CertifiedKey::new(
        vec![certificate.der().clone()],
        std::sync::Arc::new(signer),
    );
    tls.client_auth_cert_resolver = std::sync::Arc::new(Stubborn(std::sync::Arc::new(certified)));
    let config = client_config(std::sync::Arc::new(tls)).unwrap();
    pair.client
        .connect(pair.now, pair.server_addr, SERVER_NAME, config)
        .unwrap();
    pair.run_for(SECOND);
    assert_eq!(
        closed(&pair.server_seen),
        Some(&CloseReason::Certificate(PeerCertificateError::NotEd25519))
    );
    // access_denied(49), RFC 8446 §6.
    assert!(
        matches!(
            closed(&pair.client_seen),
            Some(CloseReason::PeerTransport { code: 0x131, .. })
        ),
        "{:?}",
        closed(&pair.client_seen)
    );
}

/// Pretends that a P-256 key signs Ed25519, so that the client does send its certificate.
#[derive(Debug)]
struct EcdsaAsEd25519(std::sync::Arc<dyn rustls::sign::SigningKey>);

impl rustls::sign::SigningKey for EcdsaAsEd25519 {
    fn choose_scheme(
        &self,
        _offered: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        self.0
            .choose_scheme(&[rustls::SignatureScheme::ECDSA_NISTP256_SHA256])
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ED25519
    }
}

#[test]
fn the_certificate_follows_the_name_and_is_replaced_while_running() {
    let certificate = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let tls = TestTls::with(CertificateParams::new(names).unwrap());
        let parsed = ServerCertificate::from_pem(
            tls.chain_pem.as_bytes(),
            tls.key_pem.as_bytes(),
            UnixTime::now(),
            "test",
        );
        (tls, parsed.unwrap())
    };
    let (first, first_parsed) = certificate(&["first.test"]);
    let (wild, wild_parsed) = certificate(&["*.wild.test"]);
    let (second, second_parsed) = certificate(&["second.test"]);
    let store = CertificateStore::new(vec![first_parsed, wild_parsed]).unwrap();
    let tls = ServerTls {
        certificates: store.clone(),
        ask_client_certificate: false,
    };
    let server = masque_transport::server_config(tls.build().unwrap(), &[0; 32]).unwrap();
    let mut pair = Pair::new(Link::default());
    pair.server.set_server_config(&server);
    let mut connects = |trusted: &TestTls, name: &str| {
        let config = trusted.client(None);
        let conn = pair
            .client
            .connect(pair.now, pair.server_addr, name, config)
            .unwrap();
        pair.run_for(SECOND);
        pair.client
            .http_ref(conn)
            .is_some_and(http3::Connection::datagrams_ready)
    };
    assert!(connects(&first, "first.test"));
    assert!(connects(&wild, "One.WILD.test"));
    assert!(!connects(&wild, "two.levels.wild.test"));
    assert!(!connects(&second, "second.test"));
    store.replace(vec![second_parsed]).unwrap();
    assert!(connects(&second, "second.test"));
    assert!(!connects(&first, "first.test"));
    assert!(matches!(
        store.replace(Vec::new()),
        Err(TlsError::NoCertificate { .. })
    ));
    assert!(
        connects(&second, "second.test"),
        "the present certificates stay"
    );
}

#[test]
fn unfit_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (one, other) = (TestTls::new(), TestTls::new());
    let old = TestTls::with(params(2000, 2010));
    let chain = write("tls.crt", &one.chain_pem);
    let key = write("tls.key", &one.key_pem);
    let load = |chain: &PathBuf, key: &PathBuf| {
        let files = CertificateFiles {
            chain: chain.clone(),
            key: key.clone(),
        };
        ServerCertificate::load(&files, UnixTime::now())
    };
    assert_eq!(load(&chain, &key).unwrap().names(), [SERVER_NAME]);

    let missing = folder.path().join("absent.crt");
    let error = load(&missing, &key).unwrap_err();
    assert!(matches!(error, TlsError::Unreadable { .. }));
    assert!(error.to_string().contains("absent.crt"), "{error}");
    assert!(matches!(
        load(&key, &key),
        Err(TlsError::NoCertificate { .. })
    ));
    assert!(matches!(load(&chain, &chain), Err(TlsError::NoKey { .. })));
    let damaged = one.chain_pem.replace("MI", "!!");
    let damaged = write("damaged.crt", &damaged);
    assert!(matches!(
        load(&damaged, &key),
        Err(TlsError::Malformed { .. })
    ));
    let other_key = write("other.key", &other.key_pem);
    assert!(matches!(
        load(&chain, &other_key),
        Err(TlsError::KeyMismatch { .. })
    ));
    let (old_chain, old_key) = (
        write("old.crt", &old.chain_pem),
        write("old.key", &old.key_pem),
    );
    assert!(matches!(
        load(&old_chain, &old_key),
        Err(TlsError::Expired { .. })
    ));
    let files = CertificateFiles {
        chain: old_chain,
        key: old_key,
    };
    assert!(ServerCertificate::load(&files, in_year(2005)).is_ok());
    let early = ServerCertificate::load(&files, in_year(1999));
    assert!(matches!(early, Err(TlsError::NotYetValid { .. })));

    let trust = ServerTrust::RootsFile(key);
    let error = ClientTls {
        trust,
        identity: None,
    }
    .build()
    .unwrap_err();
    assert!(matches!(error, TlsError::NoRoots { .. }), "{error}");
}
