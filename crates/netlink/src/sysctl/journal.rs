//! Remembers on disk what settings said before this process changed them, so that they can be put
//! back by the next one if this one is killed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv6Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Changed, is_network_setting};

/// The outer source address of seg6 among the settings; no file below `/proc/sys`.
pub(crate) const TUNNEL_SOURCE: &str = "seg6/tunsrc";

/// A note is refused above this: a gateway changes a few settings of the host.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// The note's first word.
const VERSION: &str = "sysctls-1";
/// The file is its owner's alone.
const MODE: u32 = 0o600;

/// The file. Its first line says whose settings it is about: a namespace of this boot. Every other
/// line is a setting, its original and its new value, with tabs between.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    namespace: String,
}

impl Journal {
    /// A note about the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the operating system says of the namespace.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let namespace = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(Self {
            path: path.to_owned(),
            namespace: format!("{} {}:{}", boot.trim(), namespace.dev(), namespace.ino()),
        })
    }

    /// What an earlier process changed here and did not put back. Nothing of another namespace, and
    /// nothing of a note that no gateway has written: its folder may belong to a user who may do less
    /// than this process, which is to write what stands in the note.
    pub(crate) fn load(&self) -> BTreeMap<String, Changed> {
        let read = || -> io::Result<String> {
            if fs::metadata(&self.path)?.len() > MAX_BYTES {
                return Err(io::Error::other("larger than any that a gateway writes"));
            }
            fs::read_to_string(&self.path)
        };
        match read() {
            Ok(text) => self.parse(&text).unwrap_or_default(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %self.path.display(), %error, "changed sysctls are not known");
                }
                BTreeMap::new()
            }
        }
    }

    fn parse(&self, text: &str) -> Option<BTreeMap<String, Changed>> {
        let mut lines = text.lines();
        if lines.next()? != self.head() {
            return None;
        }
        let entry = |line: &str| {
            let mut words = line.split('\t').map(str::to_owned);
            let (path, original, to) = (words.next()?, words.next()?, words.next()?);
            let address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
            let known = match path.as_str() {
                TUNNEL_SOURCE => address(&original) && address(&to),
                path => is_network_setting(path),
            };
            let whole = known && words.next().is_none();
            whole.then_some((path, Changed { original, to }))
        };
        lines.map(entry).collect()
    }

    fn head(&self) -> String {
        format!("{VERSION} {}", self.namespace)
    }

    /// Notes what is changed from now on; without any change there is no file. What fails costs the
    /// restoring after a crash, and nothing else.
    pub(crate) fn save(&self, changed: &BTreeMap<String, Changed>) {
        let saved = if changed.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            self.replace(changed)
        };
        if let Err(error) = saved {
            tracing::warn!(
                file = %self.path.display(), %error,
                "changed sysctls are not remembered: after a crash they stay as they are"
            );
        }
    }

    fn replace(&self, changed: &BTreeMap<String, Changed>) -> io::Result<()> {
        let mut text = self.head() + "\n";
        for (path, Changed { original, to }) in changed {
            let words = [path, original, to].map(|word| word.replace(['\t', '\n'], " "));
            text += &(words.join("\t") + "\n");
        }
        masque_files::replace(&self.path, text.as_bytes(), MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(original: &str, to: &str) -> Changed {
        Changed {
            original: original.to_owned(),
            to: to.to_owned(),
        }
    }

    #[test]
    fn a_note_comes_back_in_its_namespace_and_boot_only() {
        let path = std::env::temp_dir().join(format!("masque-sysctls-{}", std::process::id()));
        let mut journal = Journal::new(&path).unwrap();
        assert!(journal.load().is_empty());
        let all = [
            ("net/ipv4/conf/all/rp_filter".to_owned(), changed("2", "0")),
            ("net/ipv6/conf/all/forwarding".to_owned(), changed("0", "1")),
            (TUNNEL_SOURCE.to_owned(), changed("::", "fd00::3")),
        ];
        let all = BTreeMap::from(all);
        journal.save(&all);
        assert_eq!(journal.load(), all);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}one word\n")).unwrap();
        assert!(journal.load().is_empty(), "half a note is none");
        // As the owner of the folder could write who is not root.
        for line in [
            "kernel/core_pattern\t|/tmp/mine %p\tcore\n",
            "net/../kernel/core_pattern\t|/tmp/mine\tcore\n",
            "seg6/tunsrc\tfd00::1\tanything\n",
        ] {
            fs::write(&path, format!("{text}{line}")).unwrap();
            assert!(journal.load().is_empty(), "{line}");
        }
        fs::write(&path, text).unwrap();
        let own = std::mem::replace(&mut journal.namespace, "another 4:1".to_owned());
        assert!(journal.load().is_empty());
        journal.namespace = own;
        journal.save(&BTreeMap::new());
        assert!(!path.exists());
    }
}
