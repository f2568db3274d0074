//! The systemd unit in `packaging/`: a folder that `masque-gateway init` wrote runs by what it says.

use std::{fs, path::Path, process::Command};

use masque_netns_tests::{Ended, Fabric, Gateway, Process, UNDERLAY_GATEWAY, program};

use crate::{
    start::{END_MAX, NOBODY, told, tun_for_everybody},
    with_laptop,
};

const UNIT: &str = include_str!("../../../../packaging/masque-gateway.service");
const SYSUSERS: &str = include_str!("../../../../packaging/masque-gateway.sysusers.conf");
const OPERATIONS: &str = include_str!("../../../../docs/operations.md");
/// The placeholder that `init` writes for a connector's key.
const NO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What the unit says of `key`.
fn says(key: &str) -> Option<&'static str> {
    let value = |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    UNIT.lines().find_map(value)
}

/// A capability as setpriv has it.
fn capability(key: &str) -> String {
    let name = says(key).unwrap().to_lowercase();
    format!("-all,+{}", name.strip_prefix("cap_").unwrap())
}

/// The unit's command line in the namespace of the gateway, by an ordinary user with the unit's
/// capabilities. Any user stands for the unit's own, which this machine does not have.
fn command(fabric: &Fabric, dir: &Path) -> String {
    let (program, dir) = (program("masque-gateway").display(), dir.display());
    let words = says("ExecStart").unwrap().split_whitespace().skip(1);
    let words: Vec<&str> = words.collect();
    let words = words
        .join(" ")
        .replace("/etc/masque-gateway", &dir.to_string());
    let state = fabric.folder().join(says("StateDirectory").unwrap());
    fs::create_dir_all(&state).unwrap();
    chown(&state);
    format!(
        "{tun} && exec env STATE_DIRECTORY={state} setpriv --reuid {NOBODY} --regid {NOBODY} \
         --clear-groups --no-new-privs --bounding-set {bounding} --inh-caps {ambient} \
         --ambient-caps {ambient} {program} {words}",
        tun = tun_for_everybody(fabric),
        state = state.display(),
        bounding = capability("CapabilityBoundingSet"),
        ambient = capability("AmbientCapabilities"),
    )
}

/// As `docs/operations.md` tells after `init`.
#[track_caller]
fn chown(path: &Path) {
    let owner = format!("{NOBODY}:{NOBODY}");
    let done = Command::new("chown")
        .args(["-R", &owner])
        .arg(path)
        .status();
    assert!(done.unwrap().success());
}

/// What `init` writes, with a connector's key in place of the placeholder.
fn starter(fabric: &Fabric) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(fabric.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = fabric.folder().join("starter");
    let path = dir.to_str().unwrap();
    fabric.gateway.run(
        program("masque-gateway").to_str().unwrap(),
        &["init", path, "--host", "192.0.2.1"],
    );
    let file = dir.join("connectors.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(NO_KEY));
    let text = text.replace(NO_KEY, &fabric.manifests.connectors["laptop"]);
    fs::write(&file, text).unwrap();
    dir
}

#[test]
fn what_init_wrote_runs_by_the_systemd_unit() {
    let Some(fabric) = with_laptop() else { return };
    let dir = starter(&fabric);
    let start = |log: &str| {
        let script = command(&fabric, &dir);
        let log = fabric.folder().join(log);
        Process::start(&fabric.gateway, Path::new("sh"), &["-c", &script], &log)
    };
    let ended = |process: Process| -> Ended { process.end(END_MAX) };

    // The key is its owner's alone, and the unit's user is not root.
    told(
        &ended(start("start.log")),
        77,
        &["secrets: Permission denied", "`sudo chown -R nobody "],
    );
    chown(&dir);
    // At boot there may be no route yet; systemd tries again, without end.
    let ended = ended(start("start.log"));
    told(&ended, 71, &["no route"]);
    let prevented = says("RestartPreventExitStatus").unwrap();
    assert!(!prevented.split_whitespace().any(|status| status == "71"));

    fabric.gateway.route(&format!(
        "2001:db8:ff03:1::/64 via fd00:0:0:a::1 dev {UNDERLAY_GATEWAY}"
    ));
    let gateway = Gateway::adopt(&fabric, start("gateway.log"));
    gateway.wait_ready();
    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}

#[test]
fn the_unit_has_a_user_that_a_folder_can_be_given_to() {
    assert_eq!(says("DynamicUser"), None);
    let user = says("User").unwrap();
    assert!(SYSUSERS.contains(&format!("\nu {user} -")), "{SYSUSERS}");
    let folder = says("ExecStart").unwrap().rsplit(' ').next().unwrap();
    let chown = format!("chown -R {user}: {folder}");
    assert!(OPERATIONS.contains(&chown), "no {chown:?}");
    assert_eq!(says("StartLimitIntervalSec"), Some("0"));
}
