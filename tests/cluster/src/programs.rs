//! Where the programs under test are.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

/// Names the folder of the programs, instead of the one beside this test.
const FOLDER_VARIABLE: &str = "MASQUE_BIN";

/// One build at a time.
static BUILDING: Mutex<()> = Mutex::new(());

/// A program of the profile this test was built with; built, once, when it is not there.
pub(crate) fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return PathBuf::from(folder).join(name);
    }
    let this = std::env::current_exe().expect("the path of this program");
    // target/PROFILE of target/PROFILE/deps/operator-…
    let folder = this.ancestors().nth(2).expect("a folder of programs");
    let path = folder.join(name);
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "-p", name]);
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let status = command.status().expect("cargo");
        assert!(status.success(), "{command:?}: {status}");
    }
    path
}
