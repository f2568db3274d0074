//! A certificate authority for one test and the certificates that it signs.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// An authority that exists for one test run; its key never leaves the process.
pub struct DevelopmentCa {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate and key, in both encodings.
#[derive(Clone, Debug)]
pub struct CertifiedServer {
    /// The certificate, PEM (RFC 7468).
    pub cert_pem: String,
    /// The certificate, DER (RFC 5280).
    pub cert_der: Vec<u8>,
    /// The private key, PEM with PKCS #8 inside.
    pub key_pem: String,
    /// The private key, PKCS #8 DER.
    pub key_der: Vec<u8>,
}

impl DevelopmentCa {
    /// A fresh authority (ECDSA P-256).
    pub fn new() -> Self {
        Self::with_key(KeyPair::generate().expect("P-256 key"))
    }

    /// The authority of this Ed25519 seed: the same one, byte for byte, whenever it is asked for.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self::with_key(ed25519(seed))
    }

    fn with_key(key: KeyPair) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        params
            .distinguished_name
            .push(DnType::CommonName, "development CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).expect("self-signed certificate");
        Self {
            pem: cert.pem(),
            der: cert.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Signs a server certificate. `names` are DNS names or IP addresses (subjectAltName).
    #[track_caller]
    pub fn server(&self, names: &[&str]) -> CertifiedServer {
        let key = KeyPair::generate().expect("P-256 key");
        self.server_with_key(names, &key)
    }

    /// [`DevelopmentCa::server`] for the Ed25519 key of this seed; the same certificate each time.
    #[track_caller]
    pub fn server_from_seed(&self, names: &[&str], seed: &[u8; 32]) -> CertifiedServer {
        self.server_with_key(names, &ed25519(seed))
    }

    /// [`DevelopmentCa::server`] for a key of the caller's, say Ed25519.
    #[track_caller]
    pub fn server_with_key(&self, names: &[&str], key: &KeyPair) -> CertifiedServer {
        self.sign(names, key, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs a client certificate for a key of the caller's.
    #[track_caller]
    pub fn client_with_key(&self, name: &str, key: &KeyPair) -> CertifiedServer {
        self.sign(&[name], key, ExtendedKeyUsagePurpose::ClientAuth)
    }

    #[track_caller]
    fn sign(
        &self,
        names: &[&str],
        key: &KeyPair,
        usage: ExtendedKeyUsagePurpose,
    ) -> CertifiedServer {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("DNS names or IP addresses");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let cert = params
            .signed_by(key, &self.issuer)
            .expect("signed certificate");
        CertifiedServer {
            cert_pem: cert.pem(),
            cert_der: cert.der().to_vec(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }
}

impl Default for DevelopmentCa {
    fn default() -> Self {
        Self::new()
    }
}

/// RFC 8410 §7: a seed as a PKCS #8 key.
pub fn ed25519_pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    [&HEAD[..], seed].concat()
}

fn ed25519(seed: &[u8; 32]) -> KeyPair {
    KeyPair::try_from(ed25519_pkcs8(seed)).expect("an Ed25519 key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_what_it_is_asked_for() {
        let ca = DevelopmentCa::new();
        let server = ca.server(&["gw.example", "127.0.0.1", "::1"]);
        assert!(ca.pem().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(server.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        let holds = |needle: &[u8]| server.cert_der.windows(needle.len()).any(|w| w == needle);
        assert!(holds(b"gw.example") && holds(&[0x87, 4, 127, 0, 0, 1]));
        assert_ne!(server.cert_der, ca.der());
    }

    #[test]
    fn a_seed_gives_the_same_bytes_each_time() {
        let make = |seed: u8| {
            let ca = DevelopmentCa::from_seed(&[seed; 32]);
            let server = ca.server_from_seed(&["gw.example"], &[seed + 1; 32]);
            (ca.der().to_vec(), server.cert_der, server.key_der)
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }
}
