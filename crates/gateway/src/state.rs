//! The state folder: one small JSON file, replaced atomically.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// The file that remembers who has which address.
const ADDRESSES: &str = "addresses.json";
/// The socket that `masque-gateway sessions`, `status` and `explain` ask.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
/// The key of stateless resets.
const RESET_SECRET: &str = "reset.key";
/// The file that remembers which kernel settings were changed.
const SYSCTLS: &str = "sysctls";
/// The files are their owner's alone.
const MODE: u32 = 0o600;
/// A state file is refused above this; 10,000 attachments take about 2 MiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The gateway's state folder.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Makes the folder if it is absent.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where the control socket lives.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path.join(CONTROL_SOCKET)
    }

    /// Where changed kernel settings are remembered.
    pub(crate) fn sysctls(path: &Path) -> PathBuf {
        path.join(SYSCTLS)
    }

    /// The remembered addresses; `None` when there are none yet. A file that cannot be read is
    /// set aside under another name, so that nothing is lost and the gateway starts.
    pub(crate) fn load_addresses<T: DeserializeOwned>(&self) -> Option<T> {
        let path = self.path.join(ADDRESSES);
        let read = || -> io::Result<T> {
            if fs::metadata(&path)?.len() > MAX_BYTES {
                return Err(io::Error::other(
                    "larger than any state this gateway writes",
                ));
            }
            serde_json::from_slice(&fs::read(&path)?).map_err(io::Error::from)
        };
        match read() {
            Ok(state) => Some(state),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let aside = path.with_extension("json.unreadable");
                tracing::warn!(
                    file = %path.display(), %error, kept_as = %aside.display(),
                    "the remembered addresses cannot be read; starting without them"
                );
                if let Err(error) = fs::rename(&path, &aside) {
                    tracing::warn!(%error, "and the file could not be set aside");
                }
                None
            }
        }
    }

    /// The key of stateless resets, the same after a restart: clients whose next packet is answered
    /// by a reset connect anew at once instead of after a timeout (RFC 9000 §10.3.2: "A single static
    /// key can be used across all connections to the same endpoint"). `fresh` is kept when there is
    /// none.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn reset_secret(&self, fresh: [u8; 32]) -> io::Result<[u8; 32]> {
        let path = self.path.join(RESET_SECRET);
        if let Ok(kept) = fs::read(&path)
            && let Ok(secret) = kept.try_into()
        {
            return Ok(secret);
        }
        masque_files::replace(&path, &fresh, MODE)?;
        Ok(fresh)
    }

    /// Replaces the remembered addresses: written beside, flushed, renamed over.
    ///
    /// # Errors
    /// What the operating system says; the former file is then whole.
    pub(crate) fn save_addresses<T: Serialize>(&self, state: &T) -> io::Result<()> {
        let path = self.path.join(ADDRESSES);
        masque_files::replace(&path, &serde_json::to_vec(state)?, MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("deep/er")).unwrap();
        assert_eq!(state.load_addresses::<Vec<u8>>(), None);
        state.save_addresses(&vec![1u8, 2]).unwrap();
        state.save_addresses(&vec![3u8]).unwrap();
        assert_eq!(state.load_addresses(), Some(vec![3u8]));
    }

    #[test]
    fn the_reset_secret_is_kept_and_a_broken_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.reset_secret([1; 32]).unwrap(), [1; 32]);
        assert_eq!(state.reset_secret([2; 32]).unwrap(), [1; 32]);
        fs::write(dir.path().join(RESET_SECRET), b"short").unwrap();
        assert_eq!(state.reset_secret([3; 32]).unwrap(), [3; 32]);
        assert_eq!(state.reset_secret([4; 32]).unwrap(), [3; 32]);
    }

    #[test]
    fn a_broken_state_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        fs::write(dir.path().join(ADDRESSES), b"{not json").unwrap();
        assert_eq!(state.load_addresses::<Vec<u8>>(), None);
        assert!(dir.path().join("addresses.json.unreadable").exists());
        assert!(!dir.path().join(ADDRESSES).exists());
    }
}
