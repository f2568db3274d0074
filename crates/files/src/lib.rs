//! A file that is replaced whole, in a folder that others may write to as well.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Replaces a file: written beside it, under its name with the extension `new`, flushed, renamed over.
/// A crash leaves the former content or the new one, with the mode `mode` (less the umask).
///
/// The folder may belong to a user who may do less than this process. What stands under the other name
/// is removed, never written to, and a link that comes in its place meanwhile is an error
/// (open(2), O_EXCL: "symbolic links are not followed").
///
/// # Errors
/// What the operating system says; the former file is then whole.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_new_content_has_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("state.json"), dir.path().join("state.new"));
        // Left by a process that was killed.
        fs::write(&beside, "half").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).unwrap();
        for content in ["first", "2"] {
            replace(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(!beside.exists());
        }
    }

    #[test]
    fn no_link_leads_to_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state"), dir.path().join("victim"));
        fs::write(&victim, "root's").unwrap();
        for link in [dir.path().join("state.new"), path.clone()] {
            symlink(&victim, link).unwrap();
            replace(&path, b"new", 0o600).unwrap();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "root's");
            assert_eq!(fs::read_to_string(&path).unwrap(), "new");
            assert!(!path.is_symlink());
            fs::remove_file(&path).unwrap();
        }
    }

    /// As on a full disk.
    #[test]
    fn what_cannot_be_written_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        replace(&path, b"first", 0o600).unwrap();
        fs::create_dir(dir.path().join("state.new")).unwrap();
        replace(&path, b"second", 0o600).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
