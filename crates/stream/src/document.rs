//! A Snapshot in the form that travels and lies on disk.

use std::fmt;

use data_encoding::HEXLOWER;
use masque_model::{ObjectName, Snapshot};
use prost::bytes::Bytes;
use ring::digest::{SHA256, digest};

use crate::{bounds::MAX_SNAPSHOT_BYTES, wire};

/// SHA-256 of a Snapshot's content, which its version is no part of; written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotHash([u8; 32]);

impl SnapshotHash {
    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn of(payload: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, payload).as_ref());
        Self(hash)
    }

    /// From the bytes of a message; `None` unless there are 32.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotHash({self})")
    }
}

/// A Snapshot, encoded once and shared by all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    ingress_point: ObjectName,
    version: u64,
    hash: SnapshotHash,
    payload: Bytes,
}

/// Why bytes are not a Snapshot, or a Snapshot cannot travel.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// More than [`MAX_SNAPSHOT_BYTES`].
    #[error(
        "the Snapshot has {bytes} bytes, {MAX_SNAPSHOT_BYTES} are allowed; spread its attachments \
         over several VPCIngressPoints"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The payload is not what was sent or written.
    #[error("the Snapshot is damaged: its SHA-256 is not the one beside it")]
    Damaged,
    /// A peer of another version, or a broken one.
    #[error(
        "the Snapshot cannot be read: {0}; operator and gateway must be of neighbouring versions"
    )]
    Unreadable(#[from] serde_json::Error),
    /// Somebody else's Snapshot.
    #[error("the Snapshot is of VPCIngressPoint {is}, and this pod belongs to {wanted}")]
    OtherPoint {
        /// Whose it is.
        is: ObjectName,
        /// Whose it ought to be.
        wanted: ObjectName,
    },
}

impl Document {
    /// Encodes a Snapshot.
    ///
    /// # Errors
    /// [`DocumentError::TooLarge`].
    pub fn encode(snapshot: &Snapshot) -> Result<Self, DocumentError> {
        let content = Snapshot {
            version: 0,
            ..snapshot.clone()
        };
        let payload = Bytes::from(serde_json::to_vec(&content)?);
        if payload.len() > MAX_SNAPSHOT_BYTES {
            return Err(DocumentError::TooLarge {
                bytes: payload.len(),
            });
        }
        Ok(Self {
            ingress_point: snapshot.ingress_point.clone(),
            version: snapshot.version,
            hash: SnapshotHash::of(&payload),
            payload,
        })
    }

    /// Checks and decodes what a stream or a file held, for the ingress point `wanted`.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(crate) fn decode(
        version: u64,
        hash: &[u8],
        payload: &[u8],
        wanted: &ObjectName,
    ) -> Result<(SnapshotHash, Snapshot), DocumentError> {
        if payload.len() > MAX_SNAPSHOT_BYTES {
            return Err(DocumentError::TooLarge {
                bytes: payload.len(),
            });
        }
        let is = SnapshotHash::of(payload);
        if hash != is.as_bytes() {
            return Err(DocumentError::Damaged);
        }
        let content: Snapshot = serde_json::from_slice(payload)?;
        if content.ingress_point != *wanted {
            return Err(DocumentError::OtherPoint {
                is: content.ingress_point,
                wanted: wanted.clone(),
            });
        }
        Ok((is, Snapshot { version, ..content }))
    }

    /// Whose it is.
    pub fn ingress_point(&self) -> &ObjectName {
        &self.ingress_point
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hash of its content, for the status.
    pub fn hash(&self) -> SnapshotHash {
        self.hash
    }

    /// How many bytes its content takes.
    pub fn size_bytes(&self) -> usize {
        self.payload.len()
    }

    pub(crate) fn message(&self) -> wire::Snapshot {
        wire::Snapshot {
            version: self.version,
            hash: self.hash.as_bytes().to_vec(),
            payload: self.payload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::{point, snapshot};

    fn decoded(document: &Document) -> Result<(SnapshotHash, Snapshot), DocumentError> {
        let message = document.message();
        Document::decode(
            message.version,
            &message.hash,
            &message.payload,
            &point("a"),
        )
    }

    #[test]
    fn what_is_encoded_comes_back() {
        let snapshot = snapshot("a", 7);
        let document = Document::encode(&snapshot).unwrap();
        assert_eq!(decoded(&document).unwrap(), (document.hash(), snapshot));
    }

    #[test]
    fn the_version_is_no_part_of_the_hash() {
        let of = |name, version| Document::encode(&snapshot(name, version)).unwrap().hash();
        assert_eq!(of("a", 1), of("a", 2));
        assert_ne!(of("a", 1), of("b", 1));
    }

    #[test]
    fn damage_and_strangers_are_refused() {
        let mut document = Document::encode(&snapshot("b", 1)).unwrap();
        assert!(matches!(
            decoded(&document),
            Err(DocumentError::OtherPoint { .. })
        ));
        document.payload = Bytes::from_static(b"{}");
        assert!(matches!(decoded(&document), Err(DocumentError::Damaged)));
        document.hash = SnapshotHash::of(b"{}");
        assert!(matches!(
            decoded(&document),
            Err(DocumentError::Unreadable(_))
        ));
    }

    /// What a later version wrote may restrict something; running without it would open what it
    /// closes.
    #[test]
    fn what_a_later_version_added_is_not_ignored() {
        let mut later = snapshot("a", 0);
        later.rules.push(masque_model::Rule {
            policy: point("p"),
            name: "r".to_owned(),
            mode: masque_model::Mode::Enforce,
            action: masque_model::Action::Allow,
            direction: masque_model::Direction::ToVpc,
            attachments: masque_model::AttachmentSet::All,
            prefixes: Vec::new(),
            ports: Vec::new(),
            not_after_unix_s: None,
        });
        let payload = serde_json::to_value(&later).unwrap();
        let read = |payload: &serde_json::Value| {
            let payload = serde_json::to_vec(payload).unwrap();
            let hash = SnapshotHash::of(&payload);
            Document::decode(0, hash.as_bytes(), &payload, &point("a"))
        };
        assert_eq!(read(&payload).unwrap().1, later);
        for place in [
            "",
            "/rules/0",
            "/listeners/0",
            "/sessions",
            "/fabric/Static",
        ] {
            let mut payload = payload.clone();
            let object = payload.pointer_mut(place).unwrap();
            object["onlyOnWeekdays"] = true.into();
            let error = read(&payload).unwrap_err().to_string();
            assert!(error.contains("onlyOnWeekdays"), "{place}: {error}");
            assert!(error.contains("neighbouring versions"), "{error}");
        }
    }

    #[test]
    fn a_large_one_is_refused_at_both_ends() {
        let mut large = snapshot("a", 1);
        large.listeners[0].path_templates = vec!["x".repeat(1024 * 1024); 16];
        let refused = Document::encode(&large).unwrap_err();
        assert!(matches!(refused, DocumentError::TooLarge { bytes } if bytes > MAX_SNAPSHOT_BYTES));
        let payload = serde_json::to_vec(&large).unwrap();
        let hash = SnapshotHash::of(&payload);
        let refused = Document::decode(1, hash.as_bytes(), &payload, &point("a"));
        assert!(matches!(refused, Err(DocumentError::TooLarge { .. })));
        large.listeners[0].path_templates.pop();
        assert!(Document::encode(&large).is_ok());
    }
}
