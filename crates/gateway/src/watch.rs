//! Has the folder of manifests changed? Answered by looking, not by inotify: a mounted ConfigMap is
//! replaced by a link that inotify on the files never reports, and network folders report nothing.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How often the folder is looked at; a change applies in well under a second.
pub(crate) const INTERVAL_MS: u64 = 200;
/// Looks that something missing is waited for at most before the folder is taken as it is: one that
/// never comes to rest counts all the same.
const SETTLE_LOOKS: u32 = 25;
/// Files looked at; a larger folder is read on SIGHUP only.
const MAX_FILES: usize = 4096;
/// Folders within the folder (a mounted Secret is one).
const MAX_DEPTH: usize = 4;

/// Everything that changes when a file does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length_bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    /// Owner and permissions decide whether it can be read.
    changed_s: i64,
    changed_ns: i64,
}

/// Remembers how the folder looked.
#[derive(Debug)]
pub(crate) struct Watch {
    dir: PathBuf,
    seen: BTreeMap<PathBuf, Stamp>,
    /// How the folder looked when a file was missing, and for how many looks one is missing now.
    unsettled: Option<(BTreeMap<PathBuf, Stamp>, u32)>,
}

impl Watch {
    /// Looks at the folder for the first time.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut watch = Self {
            dir: dir.to_owned(),
            seen: BTreeMap::new(),
            unsettled: None,
        };
        watch.changed();
        watch
    }

    /// Whether anything differs from what was told last. While a file is missing, only when two looks
    /// agree: `git checkout` deletes a file and then writes it, and what stands in between would end
    /// the sessions of those it names.
    pub(crate) fn changed(&mut self) -> bool {
        let mut now = BTreeMap::new();
        // A folder that cannot be read for a moment (being replaced) has not changed: the last good
        // state goes on.
        if look(&self.dir, 0, &mut now).is_err() {
            return false;
        }
        let missing = self.seen.keys().any(|path| !now.contains_key(path));
        let unsettled = self.unsettled.take();
        if missing {
            let looks = unsettled.as_ref().map_or(0, |(_, looks)| *looks);
            let rests = unsettled.is_some_and(|(before, _)| before == now);
            if !rests && looks < SETTLE_LOOKS {
                self.unsettled = Some((now, looks + 1));
                return false;
            }
        }
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

fn look(dir: &Path, depth: usize, out: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || out.len() >= MAX_FILES {
            continue;
        }
        // Follows links: what the manifest says is what counts, not where it is mounted.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() && depth < MAX_DEPTH {
            // A folder that may not be read holds no manifest for us, and hides no others.
            let _unreadable = look(&path, depth + 1, out);
        } else if metadata.is_file() {
            let stamp = Stamp {
                inode: metadata.ino(),
                length_bytes: metadata.len(),
                modified_s: metadata.mtime(),
                modified_ns: metadata.mtime_nsec(),
                changed_s: metadata.ctime(),
                changed_ns: metadata.ctime_nsec(),
            };
            out.insert(path, stamp);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_edits_additions_removals_and_link_swaps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(dir.path());
        assert!(!watch.changed());
        fs::write(&file, "ab").unwrap();
        assert!(watch.changed());
        assert!(!watch.changed());
        fs::write(dir.path().join("b.yaml"), "").unwrap();
        assert!(watch.changed());
        fs::remove_file(&file).unwrap();
        assert!(!watch.changed(), "it may come again");
        assert!(watch.changed());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(dir.path().join("b.yaml"), mode).unwrap();
        assert!(watch.changed(), "who may read it");
        fs::write(dir.path().join(".hidden"), "x").unwrap();
        assert!(!watch.changed());
        std::os::unix::fs::symlink(dir.path().join(".hidden"), dir.path().join("c.yaml")).unwrap();
        assert!(watch.changed());
    }

    #[test]
    fn what_is_deleted_and_written_again_is_never_missing() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a.yaml", "b.yaml"].map(|name| dir.path().join(name));
        files.iter().for_each(|file| fs::write(file, "a").unwrap());
        let mut watch = Watch::new(dir.path());
        // A look falls into each moment of a checkout.
        fs::remove_file(&files[0]).unwrap();
        assert!(!watch.changed());
        fs::remove_file(&files[1]).unwrap();
        assert!(!watch.changed());
        fs::write(&files[0], "new").unwrap();
        assert!(!watch.changed());
        fs::write(&files[1], "new").unwrap();
        assert!(watch.changed());
        assert!(!watch.changed());
    }

    #[test]
    fn a_folder_that_never_rests_counts_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "a").unwrap();
        fs::write(dir.path().join("b.yaml"), "b").unwrap();
        let mut watch = Watch::new(dir.path());
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        let mut looks = 0;
        while !watch.changed() {
            looks += 1;
            fs::write(&file, "a".repeat(looks + 1)).unwrap();
        }
        assert_eq!(looks, SETTLE_LOOKS as usize);
    }

    #[test]
    fn a_missing_folder_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), "a").unwrap();
        let mut watch = Watch::new(&path);
        fs::rename(&path, dir.path().join("n")).unwrap();
        assert!(!watch.changed());
    }
}
