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

/// The folders of one invocation.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    /// Key, profiles and settings; kept.
    pub(crate) config: PathBuf,
    /// Control sockets and notes about what to undo; gone after a reboot.
    pub(crate) state: PathBuf,
}

impl Dirs {
    /// Flags and their environment variables first, then the XDG base directories.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let config = match &global.config_dir {
            Some(dir) => dir.clone(),
            None => default_config(&absolute)?,
        };
        let state = match &global.state_dir {
            Some(dir) => dir.clone(),
            None => default_state(&absolute, nix::unistd::geteuid().as_raw()),
        };
        Ok(Self { config, state })
    }

    /// The key file unless a flag names another.
    pub(crate) fn key_file(&self, flag: Option<&Path>) -> PathBuf {
        flag.map_or_else(|| self.config.join("key.pem"), Path::to_owned)
    }

    /// The key of the user who called sudo, where root has none: they have made it as themselves.
    pub(crate) fn callers_key(&self) -> Option<PathBuf> {
        if !nix::unistd::geteuid().is_root() || self.key_file(None).exists() {
            return None;
        }
        let key = key_of(&env::var("SUDO_USER").ok()?, &home_of)?;
        key.exists().then_some(key)
    }

    /// Makes the folder of the control sockets, mode 0700, and refuses one of somebody else: in a
    /// shared place such as /tmp another user could have made it first.
    pub(crate) fn make_state(&self) -> Result<(), Failure> {
        let dir = &self.state;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| Failure::file("make the folder", dir, &error))?;
        self.check_state()
    }

    /// Whether the folder of the control sockets is ours alone; a missing one is fine.
    pub(crate) fn check_state(&self) -> Result<(), Failure> {
        let metadata = match fs::symlink_metadata(&self.state) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::file("read", &self.state, &error)),
        };
        let mode = metadata.permissions().mode() & 0o777;
        let ours = metadata.uid() == nix::unistd::geteuid().as_raw();
        if metadata.is_dir() && ours && mode & 0o022 == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Exit::NoPermission,
            format!(
                "{} is not a folder of this user alone (owner {}, mode {mode:03o})",
                self.state.display(),
                metadata.uid(),
            ),
            "name another: `--state-dir DIR`",
        ))
    }
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

fn default_state(variable: &dyn Fn(&str) -> Option<PathBuf>, uid: u32) -> PathBuf {
    match variable("XDG_RUNTIME_DIR") {
        Some(base) => base.join(NAME),
        None if uid == 0 => Path::new("/run").join(NAME),
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
        let state = |set, uid| default_state(&with(set), uid);
        assert_eq!(
            state(&[("XDG_RUNTIME_DIR", "/r")], 0),
            Path::new("/r/datum-connect")
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
        };
        dirs.check_state().unwrap();
        dirs.make_state().unwrap();
        let mode = fs::metadata(&dirs.state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::set_permissions(&dirs.state, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(dirs.make_state().unwrap_err().exit, Exit::NoPermission);
    }
}
