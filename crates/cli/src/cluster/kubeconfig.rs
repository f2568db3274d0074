//! Which kubeconfig, and whose.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{
    dirs::home_of,
    failure::{Exit, Failure},
};

/// An API server that does not take a connection for this long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a choice depends on besides the flags.
pub(crate) struct Surroundings<'a> {
    /// Reads an environment variable.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The home folder of a user of this machine.
    pub(crate) home_of: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// Whether a file is there.
    pub(crate) exists: &'a dyn Fn(&Path) -> bool,
    /// Whether this is root, who may have come by sudo.
    pub(crate) is_root: bool,
}

impl Surroundings<'_> {
    /// The files to read and to merge, as kubectl does: the one that was named, else those of
    /// `KUBECONFIG`, else the one in the home folder. sudo drops `KUBECONFIG` and changes the home
    /// folder: where root has none, it is that of the user who called it.
    pub(crate) fn files(&self, named: Option<&Path>) -> Vec<PathBuf> {
        if let Some(named) = named {
            return vec![named.to_owned()];
        }
        if let Some(list) = (self.variable)("KUBECONFIG") {
            let list: Vec<PathBuf> = std::env::split_paths(&list)
                .filter(|path| !path.as_os_str().is_empty())
                .collect();
            if !list.is_empty() {
                return list;
            }
        }
        let below = |home: PathBuf| home.join(".kube/config");
        let own = (self.variable)("HOME").map(PathBuf::from).map(below);
        if let Some(own) = own.as_ref().filter(|own| (self.exists)(own)) {
            return vec![own.clone()];
        }
        let caller = (self.variable)("SUDO_USER").filter(|_| self.is_root);
        let callers = caller
            .and_then(|user| (self.home_of)(user.to_str()?))
            .map(below)
            .filter(|path| (self.exists)(path));
        callers.or(own).into_iter().collect()
    }
}

/// The kubeconfig for this call.
pub(crate) async fn load(named: Option<&Path>, context: Option<&str>) -> Result<Config, Failure> {
    let surroundings = Surroundings {
        variable: &|name| std::env::var_os(name),
        home_of: &home_of,
        exists: &|path| path.exists(),
        is_root: nix::unistd::geteuid().is_root(),
    };
    let files = surroundings.files(named);
    let merged = read(&files)?;
    let contexts: Vec<String> = merged.contexts.iter().map(|one| one.name.clone()).collect();
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(merged, &options)
        .await
        .map_err(|error| unusable(&error, &files, &contexts))?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

/// Reads and merges; of several files those that are not there are passed over.
fn read(files: &[PathBuf]) -> Result<Kubeconfig, Failure> {
    let there: Vec<&PathBuf> = files.iter().filter(|file| file.exists()).collect();
    if there.is_empty() {
        let what = match files.first() {
            Some(file) => format!("there is no kubeconfig {}", file.display()),
            None => "there is no kubeconfig, and HOME is not set".to_owned(),
        };
        return Err(Failure::new(
            Exit::NoInput,
            what,
            "name one: `--kubeconfig FILE`",
        ));
    }
    let mut merged = Kubeconfig::default();
    for file in there {
        merged = Kubeconfig::read_from(file)
            .and_then(|one| merged.merge(one))
            .map_err(|error| unusable(&error, std::slice::from_ref(file), &[]))?;
    }
    Ok(merged)
}

/// Why a kubeconfig cannot be used.
fn unusable(error: &KubeconfigError, files: &[PathBuf], contexts: &[String]) -> Failure {
    let shown: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let shown = shown.join(", ");
    let known = match contexts {
        [] => "it has no contexts".to_owned(),
        contexts => format!("its contexts are {}", contexts.join(", ")),
    };
    let (exit, what, advice) = match error {
        KubeconfigError::ReadConfig(cause, _) => {
            let exit = match cause.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::NoPermission,
                _ => Exit::NoInput,
            };
            let what = format!("cannot read the kubeconfig {shown}: {cause}");
            (exit, what, format!("check it: `ls -l {shown}`"))
        }
        KubeconfigError::CurrentContextNotSet => {
            let what = format!("the kubeconfig {shown} has no current context");
            (Exit::Config, what, format!("{known}: `--context NAME`"))
        }
        KubeconfigError::LoadContext(name) => {
            let what = format!("the kubeconfig {shown} has no context {name}");
            (Exit::Config, what, format!("{known}: `--context NAME`"))
        }
        other => {
            let what = format!("the kubeconfig {shown} cannot be used: {other}");
            let advice = format!("`kubectl --kubeconfig {shown} config view` reads the same file");
            (Exit::Config, what, advice)
        }
    };
    Failure::new(exit, what, advice)
}

#[cfg(test)]
mod tests;
