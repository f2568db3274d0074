//! The Snapshot that a pod keeps on its disk, so that it starts without its operator.
//!
//! One file: a line `masque-snapshot 1 VERSION SHA256`, then the payload as it came. Written beside,
//! flushed, renamed over: a crash leaves the former one or the new one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER_PERMISSIVE;
use masque_model::ObjectName;
use prost::bytes::Bytes;

use crate::{
    bounds::MAX_SNAPSHOT_BYTES,
    client::Received,
    document::{Document, DocumentError},
};

const MAGIC: &str = "masque-snapshot 1";
/// The file is its owner's alone.
const MODE: u32 = 0o600;
/// The first line: magic, a number of 20 digits, a hash of 64.
const MAX_HEADER_BYTES: usize = 128;

/// The file.
#[derive(Clone, Debug)]
pub struct Kept {
    path: PathBuf,
}

/// Why there is nothing to start from. The file was set aside under the name of `aside`.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}; starting without it", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what was written.
    #[error(
        "{path} is no Snapshot ({reason}); kept as {aside}, starting without it",
        path = path.display(), aside = aside.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        aside: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Kept {
    /// The file at `path`; it need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Snapshot of `ingress_point` that was kept; `None` when there is none.
    ///
    /// # Errors
    /// [`KeptError`]; the pod starts without, and waits for its operator.
    pub fn load(&self, ingress_point: &ObjectName) -> Result<Option<Received>, KeptError> {
        let read = |error| KeptError::Read {
            path: self.path.clone(),
            error,
        };
        let metadata = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(read)?,
        };
        if metadata.len() > (MAX_SNAPSHOT_BYTES + MAX_HEADER_BYTES) as u64 {
            return Err(self.set_aside("it is larger than any Snapshot".to_owned()));
        }
        let content = fs::read(&self.path).map_err(read)?;
        match parse(&content, ingress_point) {
            Ok(received) => Ok(Some(received)),
            Err(reason) => Err(self.set_aside(reason)),
        }
    }

    /// Keeps this one instead.
    ///
    /// # Errors
    /// What the operating system says; the former one is then whole.
    pub fn save(&self, received: &Received) -> io::Result<()> {
        let (version, hash) = (received.snapshot.version, received.hash);
        let header = format!("{MAGIC} {version} {hash}\n");
        let content = [header.as_bytes(), &received.payload].concat();
        masque_files::replace(&self.path, &content, MODE)
    }

    fn set_aside(&self, reason: String) -> KeptError {
        let aside = self.path.with_extension("unreadable");
        // If it cannot be moved, the next Snapshot replaces it.
        let _moved = fs::rename(&self.path, &aside);
        KeptError::Damaged {
            path: self.path.clone(),
            aside,
            reason,
        }
    }
}

fn parse(content: &[u8], ingress_point: &ObjectName) -> Result<Received, String> {
    let header_ends = content
        .iter()
        .take(MAX_HEADER_BYTES)
        .position(|byte| *byte == b'\n')
        .ok_or("it has no first line")?;
    let (header, payload) = content.split_at(header_ends);
    let payload = Bytes::copy_from_slice(&payload[1..]);
    let (version, hash) = std::str::from_utf8(header)
        .ok()
        .and_then(|header| {
            header
                .strip_prefix(MAGIC)?
                .strip_prefix(' ')?
                .split_once(' ')
        })
        .ok_or("its first line is another one")?;
    let version = version.parse().map_err(|_| "its version is no number")?;
    let hash = HEXLOWER_PERMISSIVE
        .decode(hash.as_bytes())
        .map_err(|_| "its hash is not hexadecimal")?;
    let (hash, snapshot) = Document::decode(version, &hash, &payload, ingress_point)
        .map_err(|error: DocumentError| error.to_string())?;
    Ok(Received {
        snapshot,
        hash,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::{point, snapshot, with_content};

    fn received(snapshot: &masque_model::Snapshot) -> Received {
        let message = Document::encode(snapshot).unwrap().message();
        Received::read(&message, &snapshot.ingress_point).unwrap()
    }

    fn in_folder() -> (tempfile::TempDir, Kept) {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path().join("snapshot"));
        (dir, kept)
    }

    #[test]
    fn the_last_one_saved_comes_back() {
        let (_dir, kept) = in_folder();
        assert_eq!(kept.load(&point("a")).unwrap(), None);
        kept.save(&received(&snapshot("a", 3))).unwrap();
        let last = received(&with_content("a", 4, 9));
        kept.save(&last).unwrap();
        assert_eq!(kept.load(&point("a")).unwrap(), Some(last));
    }

    #[test]
    fn a_damaged_file_is_named_and_set_aside() {
        let (dir, kept) = in_folder();
        kept.save(&received(&snapshot("a", 3))).unwrap();
        let good = fs::read(kept.path()).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let cut = &good[..good.len() - 1];
        let later = [b"masque-snapshot 2", &good[MAGIC.len()..]].concat();
        let long = vec![b'x'; MAX_SNAPSHOT_BYTES + MAX_HEADER_BYTES + 1];
        for bad in [
            &flipped[..],
            cut,
            b"",
            b"\n",
            b"masque-snapshot 1 x y\n{}",
            &later,
            &long,
        ] {
            fs::write(kept.path(), bad).unwrap();
            let error = kept.load(&point("a")).unwrap_err();
            assert!(error.to_string().contains("snapshot.unreadable"), "{error}");
            assert!(dir.path().join("snapshot.unreadable").exists());
            assert_eq!(kept.load(&point("a")).unwrap(), None);
        }
    }

    /// As on a full disk: what was kept is whole, and the error is the caller's to tell.
    #[test]
    fn what_cannot_be_written_costs_nothing() {
        let (dir, kept) = in_folder();
        let first = received(&snapshot("a", 3));
        kept.save(&first).unwrap();
        // A folder of that name is in the way of the new file.
        fs::create_dir(dir.path().join("snapshot.new")).unwrap();
        kept.save(&received(&snapshot("a", 4))).unwrap_err();
        assert_eq!(kept.load(&point("a")).unwrap(), Some(first));
    }

    #[test]
    fn the_one_of_another_point_is_not_taken() {
        let (_dir, kept) = in_folder();
        kept.save(&received(&snapshot("a", 3))).unwrap();
        assert!(matches!(
            kept.load(&point("b")),
            Err(KeptError::Damaged { .. })
        ));
    }
}
