use k8s_openapi::ByteString;
use masque_stream::{Authority, Issued, Subject};

use super::*;

fn issued(now_unix_s: u64) -> Issued {
    let authority = Authority::generate(now_unix_s).unwrap();
    let subject = Subject::Server(vec!["edge.example".to_owned()]);
    authority.issue(&subject, now_unix_s).unwrap()
}

fn now() -> u64 {
    crate::certificates::now_unix_s()
}

fn secret(type_: &str, certificate: &str, key: &str) -> Secret {
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret {
        type_: Some(type_.to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    }
}

fn why(secret: &Secret) -> String {
    match judge(secret) {
        Found::Bad(why) => why,
        found => panic!("{found:?}"),
    }
}

#[test]
fn a_pair_is_usable() {
    let pair = issued(now());
    let good = secret("kubernetes.io/tls", &pair.certificate_pem, &pair.key_pem);
    let shown = fingerprint(pair.certificate_pem.as_bytes()).unwrap();
    assert_eq!(judge(&good), Found::Usable(shown));
}

#[test]
fn what_no_gateway_can_use_is_named() {
    let (pair, other) = (issued(now()), issued(now()));
    let tls = |certificate: &str, key: &str| why(&secret("kubernetes.io/tls", certificate, key));
    assert!(tls(&pair.certificate_pem, &other.key_pem).contains("not the certificate's"));
    assert!(tls("", &pair.key_pem).contains("no certificate"));
    assert!(tls(&pair.certificate_pem, "").contains("tls.key"));
    let old = issued(now() - 40 * 86_400);
    assert!(tls(&old.certificate_pem, &old.key_pem).contains("expired"));
    let opaque = secret("Opaque", &pair.certificate_pem, &pair.key_pem);
    assert!(why(&opaque).contains("Opaque"));
}
