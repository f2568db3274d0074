//! Authorization fields of RFC 9729, right and wrong, written anew from the RFC.

use bytes::{BufMut, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use masque_client::ConnectorIdentity;
use masque_http3::varint;
use quinn::Connection;

/// Ed25519 (RFC 8446 §4.2.3).
const SCHEME: u16 = 0x0807;

/// What an Authorization field says, and what it is signed for.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// Who signs.
    pub signer: &'a ConnectorIdentity,
    /// `k`.
    pub key_id: &'a [u8],
    /// `a`.
    pub public_key: &'a [u8],
    /// Part of what TLS exports.
    pub host: &'a str,
    /// Part of what TLS exports.
    pub port: u16,
    /// `realm`; none when empty.
    pub realm: &'a str,
}

impl Claim<'_> {
    /// The field's value, signed for this connection (RFC 9729 §3).
    pub fn sign(&self, connection: &Connection) -> String {
        let mut output = [0; 48];
        connection
            .export_keying_material(
                &mut output,
                b"EXPORTER-HTTP-Concealed-Authentication",
                &self.context(),
            )
            .unwrap();
        let (input, verification) = output.split_at(32);
        let content = [&[b' '; 64], &b"HTTP Concealed Authentication\0"[..], input].concat();
        let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut value = format!(
            "Concealed k={}, a={}, s={SCHEME}, v={}, p={}",
            encode(self.key_id),
            encode(self.public_key),
            encode(verification),
            encode(&self.signer.sign(&content)),
        );
        if !self.realm.is_empty() {
            value.push_str(&format!(", realm=\"{}\"", self.realm));
        }
        value
    }

    /// RFC 9729 §3.1, figure 1.
    fn context(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        let put = |out: &mut BytesMut, part: &[u8]| {
            varint::put(out, part.len() as u64);
            out.put_slice(part);
        };
        out.put_u16(SCHEME);
        for part in [self.key_id, self.public_key, b"https", self.host.as_bytes()] {
            put(&mut out, part);
        }
        out.put_u16(self.port);
        put(&mut out, self.realm.as_bytes());
        out.to_vec()
    }
}
