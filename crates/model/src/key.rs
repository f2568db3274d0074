//! A connector's public key, the one identity on every transport.

use std::{fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, Encoding, HEXLOWER, HEXLOWER_PERMISSIVE, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Z-base-32 alphabet (Zooko), as in `2ovpybgj3snj…`.
const Z_BASE_32: &str = "ybndrfg8ejkmcpqxot1uwisza345h769";

/// An Ed25519 public key (RFC 8032), 32 bytes.
///
/// Reads 64 hexadecimal digits, or 52 characters of z-base-32 or RFC 4648 base32; writes
/// hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectorKey([u8; 32]);

impl ConnectorKey {
    /// Wraps the 32 raw bytes of an Ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a text is not a connector key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither 64 nor 52 characters.
    #[error(
        "a connector key has 64 hexadecimal digits or 52 characters of base32, this one has {0}; \
         `datum-connect key` prints the right form"
    )]
    Length(usize),
    /// A character outside the alphabet that the length calls for.
    #[error("not a connector key: it is neither hexadecimal, z-base-32 nor base32")]
    Alphabet,
}

impl FromStr for ConnectorKey {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        let bytes = match s.len() {
            64 => HEXLOWER_PERMISSIVE
                .decode(s.as_bytes())
                .map_err(|_| KeyError::Alphabet)?,
            52 => decode_base32(s)?,
            n => return Err(KeyError::Length(n)),
        };
        let bytes = bytes.try_into().map_err(|_| KeyError::Alphabet)?;
        Ok(Self(bytes))
    }
}

/// 52 base32 characters hold 260 bits: 256 of key and 4 that must be zero. Both alphabets are tried;
/// where a text fits both, the trailing bits decide, and z-base-32 (what connectors print) wins.
fn decode_base32(s: &str) -> Result<Vec<u8>, KeyError> {
    z_base_32()
        .and_then(|e| e.decode(s.as_bytes()).ok())
        .or_else(|| BASE32_NOPAD.decode(s.to_ascii_uppercase().as_bytes()).ok())
        .ok_or(KeyError::Alphabet)
}

fn z_base_32() -> Option<Encoding> {
    let mut spec = Specification::new();
    spec.symbols.push_str(Z_BASE_32);
    spec.encoding().ok()
}

impl fmt::Display for ConnectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ConnectorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectorKey({self})")
    }
}

impl Serialize for ConnectorKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectorKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_form() {
        let z = "2ovpybgj3snjmchns44pfn6dbwmdiu4ogfd66xyu72ghexllv6hq";
        assert!(z.parse::<ConnectorKey>().is_ok());
    }

    #[test]
    fn hexadecimal_round_trips() {
        let key = ConnectorKey::from_bytes([0xa5; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
    }

    #[test]
    fn base32_round_trips() {
        let key = ConnectorKey::from_bytes([7; 32]);
        let text = BASE32_NOPAD.encode(key.as_bytes()).to_lowercase();
        assert_eq!(text.len(), 52);
        // The same text may be z-base-32 of another key; only texts outside that alphabet are
        // certain to be read as RFC 4648.
        if text.contains(['l', 'v', '2']) {
            assert_eq!(text.parse(), Ok(key));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!("abc".parse::<ConnectorKey>(), Err(KeyError::Length(3)));
        assert_eq!(
            "g".repeat(64).parse::<ConnectorKey>(),
            Err(KeyError::Alphabet)
        );
    }
}
