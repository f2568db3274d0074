//! The Concealed HTTP authentication scheme (RFC 9729) with Ed25519.
//!
//! A client proves that it holds a key by signing what the TLS connection exports, so it needs no
//! challenge, and a server that does not know the key answers as if nothing had been sent: "If any
//! of the above checks fail, the backend MUST treat it as if the Authorization … header field was
//! missing" (RFC 9729 §6.3).

use data_encoding::BASE64URL_NOPAD;
use masque_http3::varint;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// The label for the TLS exporter (RFC 9729 §3).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-HTTP-Concealed-Authentication";

/// How many bytes the exporter must give (RFC 9729 §3.2).
pub const EXPORTER_OUTPUT_BYTES: usize = 48;

/// Ed25519 among the TLS signature schemes (RFC 8446 §4.2.3); the one scheme we speak.
pub const ED25519_SCHEME: u16 = 0x0807;

/// The longest key id that is read.
pub const MAX_KEY_ID_BYTES: usize = 256;

/// The longest header value that is read.
const MAX_VALUE_BYTES: usize = 2048;

const SIGNATURE_INPUT_BYTES: usize = 32;
const PUBLIC_KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
const VERIFICATION_BYTES: usize = 16;

/// The output of the TLS exporter: 32 bytes to sign, 16 to show.
pub type ExporterOutput = [u8; EXPORTER_OUTPUT_BYTES];

/// What goes into the context of the TLS exporter (RFC 9729 §3.1), besides the signature scheme.
#[derive(Clone, Copy, Debug)]
pub struct ExportContext<'a> {
    /// `k`: what the server finds the key by.
    pub key_id: &'a [u8],
    /// `a`: the Ed25519 public key.
    pub public_key: &'a [u8; PUBLIC_KEY_BYTES],
    /// The scheme of the request: `https`.
    pub scheme: &'a str,
    /// The host of the request as a URI has it (RFC 3986 §3.2.2): an IPv6 literal in brackets.
    pub host: &'a str,
    /// The port of the request; 443 if it names none.
    pub port: u16,
    /// The realm; empty if the field has none.
    pub realm: &'a str,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `k`: which key it means.
    pub key_id: Vec<u8>,
    /// `a`: the Ed25519 public key. The server must compare it with the key that it has for
    /// `key_id` (RFC 9729 §6.3).
    pub public_key: [u8; PUBLIC_KEY_BYTES],
    /// `realm`; empty if absent.
    pub realm: String,
    proof: [u8; SIGNATURE_BYTES],
    verification: [u8; VERIFICATION_BYTES],
}

/// The context for the TLS exporter:
///
/// ```text
/// Signature Algorithm (16), Key ID Length (i), Key ID, Public Key Length (i), Public Key,
/// Scheme Length (i), Scheme, Host Length (i), Host, Port (16), Realm Length (i), Realm
/// ```
pub fn export_context(context: &ExportContext<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(&ED25519_SCHEME.to_be_bytes());
    put_prefixed(&mut out, context.key_id);
    put_prefixed(&mut out, context.public_key);
    put_prefixed(&mut out, context.scheme.as_bytes());
    put_prefixed(&mut out, context.host.as_bytes());
    out.extend_from_slice(&context.port.to_be_bytes());
    put_prefixed(&mut out, context.realm.as_bytes());
    out
}

/// The value of `Authorization` for a connection whose exporter gave `output` for the context with
/// `key_id`, the public key of `key` and an empty realm.
pub fn sign(key: &Ed25519KeyPair, key_id: &[u8], output: &ExporterOutput) -> String {
    let (signature_input, verification) = output.split_at(SIGNATURE_INPUT_BYTES);
    format!(
        "Concealed k={}, a={}, s={ED25519_SCHEME}, v={}, p={}",
        BASE64URL_NOPAD.encode(key_id),
        BASE64URL_NOPAD.encode(key.public_key().as_ref()),
        BASE64URL_NOPAD.encode(verification),
        BASE64URL_NOPAD.encode(key.sign(&signed_content(signature_input)).as_ref()),
    )
}

/// Reads the value of `Authorization`. `None` for another scheme, another signature algorithm, or a
/// parameter that is missing, repeated or malformed: "the frontend MUST ignore the entire
/// Authorization … header field" (RFC 9729 §6.1).
pub fn parse(value: &[u8]) -> Option<Credentials> {
    if value.len() > MAX_VALUE_BYTES {
        return None;
    }
    let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("concealed") {
        return None;
    }
    let mut parameters = Parameters::default();
    for parameter in split_parameters(rest)? {
        // RFC 9110 §11.2: auth-param = token BWS "=" BWS ( token / quoted-string )
        let (name, value) = parameter.split_once('=')?;
        parameters.set(
            name.trim_matches([' ', '\t']),
            value.trim_matches([' ', '\t']),
        )?;
    }
    if parameters.scheme? != "2055" {
        return None;
    }
    let key_id = decode(parameters.key_id?)?;
    if key_id.len() > MAX_KEY_ID_BYTES {
        return None;
    }
    Some(Credentials {
        key_id,
        public_key: decode(parameters.public_key?)?.try_into().ok()?,
        realm: parameters.realm.map_or(Some(String::new()), unquote)?,
        proof: decode(parameters.proof?)?.try_into().ok()?,
        verification: decode(parameters.verification?)?.try_into().ok()?,
    })
}

/// Whether the credentials were made for the connection whose exporter gave `output`, by the holder
/// of their public key. Whether that key may do anything is for the caller.
pub fn verify(credentials: &Credentials, output: &ExporterOutput) -> bool {
    let (signature_input, verification) = output.split_at(SIGNATURE_INPUT_BYTES);
    // Every byte is looked at, so that time says nothing of where they differ.
    let difference = credentials
        .verification
        .iter()
        .zip(verification)
        .fold(0u8, |difference, (a, b)| difference | (a ^ b));
    let shown = std::hint::black_box(difference) == 0;
    let signed = UnparsedPublicKey::new(&ED25519, credentials.public_key)
        .verify(&signed_content(signature_input), &credentials.proof)
        .is_ok();
    shown & signed
}

/// RFC 9729 §3.3: 64 spaces, the context string, a zero byte, the signature input.
fn signed_content(signature_input: &[u8]) -> Vec<u8> {
    let mut content = vec![b' '; 64];
    content.extend_from_slice(b"HTTP Concealed Authentication\0");
    content.extend_from_slice(signature_input);
    content
}

fn put_prefixed(out: &mut Vec<u8>, value: &[u8]) {
    varint::put(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[derive(Default)]
struct Parameters<'a> {
    key_id: Option<&'a str>,
    public_key: Option<&'a str>,
    proof: Option<&'a str>,
    scheme: Option<&'a str>,
    verification: Option<&'a str>,
    realm: Option<&'a str>,
}

impl<'a> Parameters<'a> {
    /// `None` for a repeated parameter (RFC 9110 §11.2: "each parameter name MUST only occur once
    /// per challenge"). Unknown ones are ignored.
    fn set(&mut self, name: &str, value: &'a str) -> Option<()> {
        let slot = match name.to_ascii_lowercase().as_str() {
            "k" => &mut self.key_id,
            "a" => &mut self.public_key,
            "p" => &mut self.proof,
            "s" => &mut self.scheme,
            "v" => &mut self.verification,
            "realm" => &mut self.realm,
            _ => return Some(()),
        };
        slot.replace(value).is_none().then_some(())
    }
}

/// The parts between commas outside of quoted strings; empty ones are skipped (RFC 9110 §5.6.1).
fn split_parameters(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim_matches([' ', '\t']).is_empty());
    (!quoted).then_some(parts)
}

/// base64url "without quotes and without padding" (RFC 9729 §4).
fn decode(value: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(value.as_bytes()).ok()
}

/// A token or quoted string.
fn unquote(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return Some(value.to_owned());
    };
    let inner = inner.strip_suffix('"')?;
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.push(characters.next()?),
            '"' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
