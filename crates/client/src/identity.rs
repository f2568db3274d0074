//! The connector's Ed25519 key pair: one identity on every path to a gateway.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, Encoding, HEXLOWER, Specification};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// Alphabet of z-base-32, the form in which connectors print their key.
const Z_BASE_32: &str = "ybndrfg8ejkmcpqxot1uwisza345h769";
/// RFC 7468 §2: lines of 64 characters.
const PEM_LINE_CHARS: usize = 64;
const SEED_BYTES: usize = 32;
/// OCTET STRING of 34 bytes, which holds an OCTET STRING of 32 (RFC 8410 §7).
const SEED_HEADER: [u8; 4] = [0x04, 0x22, 0x04, 0x20];
/// A key file is about 200 bytes; anything beyond this is no key file.
const KEY_FILE_MAX_BYTES: u64 = 64 * 1024;

/// An Ed25519 key pair (RFC 8032). Its public half is what a Connector resource carries in
/// `status.connectionDetails.publicKey.id`, and what a gateway knows the connector by.
pub struct ConnectorIdentity {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
}

/// The public half of a [`ConnectorIdentity`]: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicId([u8; 32]);

/// Why a key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is not there.
    #[error("there is no key file {}; `datum-connect key` makes one", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others than its owner may read it.
    #[error(
        "the key file {} can be read by others (mode {mode:03o}); `chmod 600 {}` closes it",
        path.display(), path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "{} holds no Ed25519 private key in PKCS#8 PEM ({reason}); move it away and run \
         `datum-connect key`", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A new key would have replaced one that is there.
    #[error("{} exists; a new key would cut this connector off its attachments, so it is kept",
        path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} the key file {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gives no random numbers, so no key can be made")]
    Random,
}

impl ConnectorIdentity {
    /// A new key pair.
    ///
    /// # Errors
    /// [`KeyFileError::Random`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, KeyFileError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| KeyFileError::Random)?;
        Self::from_pkcs8(document.as_ref()).map_err(|_| KeyFileError::Random)
    }

    /// Reads PKCS #8 DER (RFC 5958), with or without the public key inside.
    ///
    /// # Errors
    /// The reason, when it is no Ed25519 private key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|rejected| rejected.to_string())?;
        Ok(Self {
            pkcs8: der.to_vec(),
            pair,
        })
    }

    /// Reads a PEM file (`PRIVATE KEY`) that only its owner may read.
    ///
    /// # Errors
    /// [`KeyFileError`]: missing, readable by others, or no such key.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing {
                path: path.to_owned(),
            },
            _ => io(error),
        })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let malformed = |reason: String| KeyFileError::Malformed {
            path: path.to_owned(),
            reason,
        };
        if metadata.len() > KEY_FILE_MAX_BYTES {
            return Err(malformed(format!("{} bytes", metadata.len())));
        }
        let pem = fs::read(path).map_err(io)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|error| malformed(error.to_string()))?;
        Self::from_pkcs8(der.secret_pkcs8_der()).map_err(malformed)
    }

    /// Writes a new PEM file with mode 0600; never replaces one.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] or [`KeyFileError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists {
                path: path.to_owned(),
            },
            _ => KeyFileError::Io {
                action: "write",
                path: path.to_owned(),
                source,
            },
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(self.pem().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io)
    }

    /// The key as PKCS #8 DER. Secret.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    pub fn public_id(&self) -> PublicId {
        let mut id = [0; 32];
        id.copy_from_slice(self.pair.public_key().as_ref());
        PublicId(id)
    }

    /// Signs a message (RFC 8032 §5.1.6).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }

    /// The private key itself (RFC 8032 §5.1.5): in PKCS #8 it is an OCTET STRING inside an OCTET
    /// STRING (RFC 8410 §7), the first of its length.
    pub(crate) fn seed(&self) -> [u8; 32] {
        let mut seed = [0; SEED_BYTES];
        if let Some(at) = self
            .pkcs8
            .windows(SEED_HEADER.len())
            .position(|w| w == SEED_HEADER)
        {
            let start = at + SEED_HEADER.len();
            if let Some(bytes) = self.pkcs8.get(start..start + SEED_BYTES) {
                seed.copy_from_slice(bytes);
            }
        }
        seed
    }

    pub(crate) fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }

    fn pem(&self) -> String {
        let base64 = BASE64.encode(&self.pkcs8);
        let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = base64.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(PEM_LINE_CHARS));
            pem.push_str(line);
            pem.push('\n');
            rest = tail;
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        pem
    }
}

/// Never shows the private half.
impl fmt::Debug for ConnectorIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectorIdentity({})", self.public_id())
    }
}

impl PublicId {
    /// The raw bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits, the form resources carry.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// 52 characters of z-base-32, the form used in DNS names.
    pub fn z_base_32(&self) -> String {
        z_base_32().map_or_else(String::new, |encoding| encoding.encode(&self.0))
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicId({self})")
    }
}

fn z_base_32() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str(Z_BASE_32);
    specification.encoding().ok()
}

#[cfg(test)]
mod tests;
