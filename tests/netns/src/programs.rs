//! Where the programs under test are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

/// Names the folder of the programs, instead of the one beside this test.
const FOLDER_VARIABLE: &str = "MASQUE_BIN";
const PROGRAMS: [&str; 2] = ["masque-gateway", "datum-connect"];

/// The path of `masque-gateway` or `datum-connect` of the profile this test was built with. Builds
/// both, once, when they are not there.
#[track_caller]
pub fn program(name: &str) -> &'static Path {
    static FOUND: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let at = PROGRAMS.iter().position(|p| *p == name);
    let at = at.unwrap_or_else(|| panic!("no program of ours: {name}"));
    &FOUND.get_or_init(find)[at]
}

fn find() -> [PathBuf; 2] {
    let named = env::var_os(FOLDER_VARIABLE).map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(profile_folder);
    let paths = PROGRAMS.map(|name| folder.join(name));
    if named.is_none() && paths.iter().any(|path| !path.exists()) {
        build(&folder);
    }
    let sources = newest(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates"));
    for path in &paths {
        assert!(path.exists(), "{} is not there", path.display());
        if modified(path) < sources {
            eprintln!("note: {} is older than the sources", path.display());
        }
    }
    paths
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// When the latest source file below a folder was written.
fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") {
                return newest(&path);
            }
            let source = path.extension().is_some_and(|extension| extension == "rs");
            if source { modified(&path) } else { None }
        })
        .max()
}

/// `target/PROFILE` of `target/PROFILE/deps/netns-…`.
fn profile_folder() -> PathBuf {
    let this = env::current_exe().expect("the path of this program");
    let folder = this.ancestors().nth(2);
    folder.expect("a test lies in target/PROFILE/deps").into()
}

fn build(folder: &Path) {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("build");
    for name in PROGRAMS {
        command.args(["-p", name]);
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo");
    assert!(status.success(), "{command:?}: {status}");
}
