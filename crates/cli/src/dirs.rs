//! Where the key, the profiles and the control sockets are.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    args::Global,
    failure::{Exit, Failure},
};

/// Folder name below the XDG base directories.
const NAME: &str = "datum-connect";
/// Where root's sockets and notes are.
const ROOT_STATE: &str = "/run/datum-connect";

/// The folders of one invocation.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    /// Key, profiles and settings; kept.
    pub(crate) config: PathBuf,
    /// Control sockets and notes about what to undo; gone after a reboot.
    pub(crate) state: PathBuf,
    /// Where commands look for root's attachments too: `sudo datum-connect attach` leaves its socket
    /// to the user who called it. `None` when a folder was named, and for root.
    pub(crate) root_state: Option<PathBuf>,
}

impl Dirs {
    /// Flags and their environment variables first, then the XDG base directories.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let config = match &global.config_dir {
            Some(dir) => dir.clone(),
            None => default_config(&absolute)?,
        };
        let uid = nix::unistd::geteuid().as_raw();
        let (state, root_state) = match &global.state_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let state = default_state(&absolute, &owner_of, uid);
                let root_state = Path::new(ROOT_STATE).to_owned();
                (state, (uid != 0).then_some(root_state))
            }
        };
        Ok(Self {
            config,
            state,
            root_state,
        })
    }

    /// The key file: the one that a flag or a profile names, else this user's, else that of the user
    /// who called sudo.
    pub(crate) fn key_file(&self, named: Option<&Path>) -> PathBuf {
        named
            .map(Path::to_owned)
            .or_else(|| self.callers_key())
            .unwrap_or_else(|| self.own_key())
    }

    fn own_key(&self) -> PathBuf {
        self.config.join("key.pem")
    }

    /// The key of the user who called sudo, where root has none: they have made it as themselves.
    pub(crate) fn callers_key(&self) -> Option<PathBuf> {
        if !nix::unistd::geteuid().is_root() || self.own_key().exists() {
            return None;
        }
        let key = key_of(&env::var("SUDO_USER").ok()?, &home_of)?;
        key.exists().then_some(key)
    }

    /// Makes the folder of the control sockets, mode 0700, and refuses one of somebody else: in a
    /// shared place such as /tmp another user could have made it first. Under sudo its caller may
    /// look into it (0755), for one of the sockets is theirs.
    pub(crate) fn make_state(&self) -> Result<(), Failure> {
        let dir = &self.state;
        let failed = |error: io::Error| Failure::file("make the folder", dir, &error);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
        self.check_state()?;
        if sudo_caller().is_some() {
            // Never theirs: root writes notes and logs there.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(())
    }

    /// Whether the folder of the control sockets is ours alone; a missing one is fine.
    fn check_state(&self) -> Result<(), Failure> {
        check_owner(&self.state, &[nix::unistd::geteuid().as_raw()])
    }

    /// The folders where attachments are looked for. Those of root are as good as ours.
    pub(crate) fn states(&self) -> Result<Vec<&Path>, Failure> {
        let all = [Some(&self.state), self.root_state.as_ref()];
        let all: Vec<&Path> = all.into_iter().flatten().map(PathBuf::as_path).collect();
        for dir in &all {
            check_owner(dir, &[nix::unistd::geteuid().as_raw(), 0])?;
        }
        Ok(all)
    }
}

/// Whether only these users can change what is in a folder; a missing one is fine.
fn check_owner(dir: &Path, owners: &[u32]) -> Result<(), Failure> {
    let metadata = match fs::symlink_metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file("read", dir, &error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    let owner = metadata.uid();
    if metadata.is_dir() && owners.contains(&owner) && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NoPermission,
        format!(
            "{} is not a folder of this user alone (owner {owner}, mode {mode:03o})",
            dir.display(),
        ),
        "name another: `--state-dir DIR`",
    ))
}

/// The user who called sudo, when this is root.
pub(crate) fn sudo_caller() -> Option<u32> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let uid = env::var("SUDO_UID").ok()?.parse().ok()?;
    (uid != 0).then_some(uid)
}

fn owner_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.uid())
}

/// The home folder of a user of this machine.
pub(crate) fn home_of(user: &str) -> Option<PathBuf> {
    Some(nix::unistd::User::from_name(user).ok()??.dir)
}

/// Where a user keeps the key. Their environment is not ours, so that XDG_CONFIG_HOME is unknown.
fn key_of(user: &str, home_of: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    Some(home_of(user)?.join(".config").join(NAME).join("key.pem"))
}

/// An environment variable that holds an absolute path; the XDG specification tells to ignore
/// relative ones.
fn absolute(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

fn default_config(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Failure> {
    variable("XDG_CONFIG_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".config")))
        .map(|base| base.join(NAME))
        .ok_or_else(|| {
            Failure::new(
                Exit::Config,
                "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for the key",
                "name one: `--config-dir DIR`",
            )
        })
}

/// A runtime folder that is another user's, as `sudo -E` leaves it in the environment, is none: it
/// must be owned by the user, says the XDG specification.
fn default_state(
    variable: &dyn Fn(&str) -> Option<PathBuf>,
    owner_of: &dyn Fn(&Path) -> Option<u32>,
    uid: u32,
) -> PathBuf {
    let base = variable("XDG_RUNTIME_DIR");
    match base.filter(|base| owner_of(base).is_none_or(|owner| owner == uid)) {
        Some(base) => base.join(NAME),
        None if uid == 0 => PathBuf::from(ROOT_STATE),
        None => env::temp_dir().join(format!("{NAME}-{uid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<PathBuf> + 'a {
        move |name| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, path)| PathBuf::from(path))
        }
    }

    #[test]
    fn sudo_knows_where_its_caller_keeps_the_key() {
        let home_of = |user: &str| (user == "ada").then(|| PathBuf::from("/home/ada"));
        let key = Path::new("/home/ada/.config/datum-connect/key.pem");
        assert_eq!(key_of("ada", &home_of).as_deref(), Some(key));
        assert_eq!(key_of("eve", &home_of), None);
    }

    #[test]
    fn defaults_follow_xdg() {
        let config = |set| default_config(&with(set)).map_err(|f| f.exit);
        assert_eq!(
            config(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]),
            Ok("/c/datum-connect".into())
        );
        assert_eq!(
            config(&[("HOME", "/h")]),
            Ok("/h/.config/datum-connect".into())
        );
        assert_eq!(config(&[]), Err(Exit::Config));
        let owner_of = |path: &Path| (path == Path::new("/r")).then_some(1000);
        let state = |set, uid| default_state(&with(set), &owner_of, uid);
        assert_eq!(
            state(&[("XDG_RUNTIME_DIR", "/r")], 1000),
            Path::new("/r/datum-connect")
        );
        assert_eq!(
            state(&[("XDG_RUNTIME_DIR", "/unknown")], 0),
            Path::new("/unknown/datum-connect")
        );
        assert_eq!(
            state(&[("XDG_RUNTIME_DIR", "/r")], 0),
            Path::new("/run/datum-connect"),
            "that of the user who called `sudo -E`"
        );
        assert_eq!(state(&[], 0), Path::new("/run/datum-connect"));
        assert!(state(&[], 1000).ends_with("datum-connect-1000"));
    }

    #[test]
    fn a_folder_others_may_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            config: parent.path().to_owned(),
            state: parent.path().join("state"),
            root_state: None,
        };
        dirs.check_state().unwrap();
        dirs.make_state().unwrap();
        let mode = fs::metadata(&dirs.state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(&dirs.state, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(dirs.make_state().unwrap_err().exit, Exit::NoPermission);
    }
}
