//! The command on a machine with a key of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use crate::person::Person;

const PROGRAM: &str = "datum-connect";
/// Names the folder of the programs, instead of the one beside this test.
const FOLDER_VARIABLE: &str = "MASQUE_BIN";

/// Folders of a machine.
pub(crate) struct Laptop {
    home: tempfile::TempDir,
    id: String,
}

/// A command that runs.
pub(crate) struct Running(Child);

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Laptop {
    /// One whose Connector is to have this name.
    pub(crate) fn new(name: &str) -> Self {
        let mut laptop = Self {
            home: tempfile::tempdir().unwrap(),
            id: String::new(),
        };
        let key = laptop.command(&["key", "--name", name]).output().unwrap();
        assert!(key.status.success(), "{key:?}");
        let id = laptop.command(&["key", "--id"]).output().unwrap();
        laptop.id = String::from_utf8(id.stdout).unwrap().trim().to_owned();
        laptop
    }

    /// The public half of its key.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Attaches to `production-vpc` with this person's kubeconfig.
    pub(crate) fn start(&self, person: &Person, more: &[&str]) -> Running {
        let mut command = self.command(&["attach", "--vpc", "production-vpc", "--no-tun"]);
        let kubeconfig = person.kubeconfig(self.home.path());
        command.arg("--kubeconfig").arg(kubeconfig).args(more);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .env_clear()
            .env("DATUM_CONNECT_DIR", self.home.path().join("config"))
            .env("DATUM_CONNECT_STATE_DIR", self.home.path().join("state"))
            .args(arguments);
        command
    }
}

impl Running {
    /// Waits until it ends; it has bounds of its own.
    pub(crate) fn wait(self) -> Ran {
        let output = self.0.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A CA that signed nothing here.
pub(crate) fn certificate() -> String {
    masque_testkit::DevelopmentCa::new().pem().to_owned()
}

/// The command of the profile this test was built with; built, once, when it is not there.
fn program() -> &'static PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
            return PathBuf::from(folder).join(PROGRAM);
        }
        let this = std::env::current_exe().unwrap();
        // target/PROFILE of target/PROFILE/deps/attach-…
        let path = this.ancestors().nth(2).unwrap().join(PROGRAM);
        if !path.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["build", "-p", PROGRAM]);
            command.current_dir(env!("CARGO_MANIFEST_DIR"));
            let status = command.status().unwrap();
            assert!(status.success(), "{command:?}: {status}");
        }
        path
    })
}
