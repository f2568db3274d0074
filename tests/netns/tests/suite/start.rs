//! A gateway that cannot start: one line that says why, and the exit status of sysexits(3).

use std::{fs, net::UdpSocket, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use masque_netns_tests::{Ended, Fabric, Gateway, Process, UNDERLAY_GATEWAY, ping, program};
use rcgen::{CertificateParams, KeyPair};

use crate::{WORK_V4, WORK_V6, address, with_laptop};

pub(crate) const END_MAX: Duration = Duration::from_secs(20);
/// A user without any right (Debian: nobody).
pub(crate) const NOBODY: &str = "65534";
/// Runs a program as that user, with the one capability that a gateway needs.
const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs \
                         --bounding-set -all,+net_admin --inh-caps -all,+net_admin \
                         --ambient-caps -all,+net_admin";

#[track_caller]
fn run(fabric: &Fabric, args: &[&str]) -> Ended {
    let log = fabric.folder().join("start.log");
    Process::run(
        &fabric.gateway,
        program("masque-gateway"),
        args,
        &log,
        END_MAX,
    )
}

#[track_caller]
pub(crate) fn told(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.output);
    let own = |line: &&str| line.starts_with("masque-gateway: ");
    let lines: Vec<&str> = ended.output.lines().filter(own).collect();
    assert_eq!(lines.len(), 1, "{}", ended.output);
    for word in words {
        assert!(lines[0].contains(word), "no {word:?} in: {}", lines[0]);
    }
}

fn manifests(fabric: &Fabric) -> String {
    fabric.manifests.dir.to_str().unwrap().to_owned()
}

#[test]
fn a_taken_port() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    let dir = manifests(&fabric);
    let taken = fabric.gateway.enter(|| UdpSocket::bind("[::]:4433"));
    let ended = run(&fabric, &["--manifests", &dir]);
    told(&ended, 69, &["UDP port 4433", "ss -lunp"]);
    drop(taken);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());

    let admin = fabric
        .gateway
        .enter(|| std::net::TcpListener::bind("127.0.0.1:9464"));
    let ended = run(&fabric, &["--manifests", &dir]);
    told(&ended, 69, &["127.0.0.1:9464", "--admin"]);
    drop(admin);

    let mut first = fabric.start_gateway();
    let ended = run(&fabric, &["--manifests", &dir, "--admin", "127.0.0.1:9465"]);
    assert!(matches!(ended.code, Some(69 | 74)), "{}", ended.output);
    assert!(ended.output.contains("another gateway"), "{}", ended.output);
    assert!(
        first.process().runs() && first.is_ready(),
        "the first one goes on"
    );
}

#[test]
fn nothing_to_run_on() {
    let Some(fabric) = with_laptop() else { return };
    told(&run(&fabric, &[]), 64, &["--manifests"]);
    let ended = run(&fabric, &["--manifests", "/nowhere"]);
    told(&ended, 66, &["/nowhere", "masque-gateway init"]);
    let empty = fabric.folder().join("empty");
    fs::create_dir(&empty).unwrap();
    let ended = run(&fabric, &["--manifests", empty.to_str().unwrap()]);
    told(&ended, 78, &["no VPCIngressPoint", "masque-gateway check"]);
}

#[test]
fn certificates_that_cannot_serve() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.points.truncate(1);
    fabric.manifests.production().certificate = Some("gateway-tls".into());
    fabric.manifests.write();
    let dir = manifests(&fabric);
    let start = |fabric: &Fabric| run(fabric, &["--manifests", &dir]);

    let ended = start(&fabric);
    told(&ended, 78, &["masque-gateway check"]);
    assert!(ended.output.contains("gateway-tls"), "{}", ended.output);

    let secret = fabric.manifests.dir.join("secrets/gateway-tls");
    fs::create_dir_all(&secret).unwrap();
    let (expired, key) = certificate(-20, -10);
    put(&secret, &expired, &key);
    let shows = "`openssl x509 -in ";
    told(&start(&fabric), 78, &["gateway-tls", "expired", shows]);

    let (good, own) = certificate(-1, 10);
    put(&secret, &good, &key);
    told(&start(&fabric), 78, &["gateway-tls", "key", shows]);

    put(&secret, "no certificate\n", &own);
    told(&start(&fabric), 78, &["gateway-tls"]);

    put(&secret, &good, &own);
    let gateway = Gateway::start(&fabric, &[]);
    gateway.wait_ready();
}

fn put(secret: &Path, certificate: &str, key: &str) {
    fs::write(secret.join("tls.crt"), certificate).unwrap();
    fs::write(secret.join("tls.key"), key).unwrap();
}

/// Certificate and key, good from and until so many days from now.
fn certificate(from_days: i64, until_days: i64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["192.0.2.1".to_owned()]).unwrap();
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now + time::Duration::days(from_days);
    params.not_after = now + time::Duration::days(until_days);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn no_way_to_the_fabric() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    for node in [1, 2] {
        let locator = format!("fd00:0:1:{node}::/64");
        fabric.gateway.ip(&["-6", "route", "del", &locator]);
    }
    let ended = run(&fabric, &["--manifests", &manifests(&fabric)]);
    told(&ended, 71, &["no route", "--underlay"]);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}

/// Before any route is looked for: without IPv6 there is none, and none can be added.
#[test]
fn ipv6_is_off() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    fabric.gateway.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let dir = manifests(&fabric);
    let command = "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`";
    for more in [&[][..], &["--underlay", UNDERLAY_GATEWAY]] {
        let ended = run(&fabric, &[&["--manifests", dir.as_str()], more].concat());
        told(&ended, 71, &["IPv6 is off", command]);
    }
}

#[test]
fn no_tun_device() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    let program = program("masque-gateway").to_str().unwrap();
    // In the mount namespace that `ip netns exec` made.
    let script = format!(
        "mount -t tmpfs none /dev/net && exec {program} --manifests {}",
        manifests(&fabric)
    );
    let log = fabric.folder().join("start.log");
    let args = ["-c", &script];
    let ended = Process::run(&fabric.gateway, Path::new("sh"), &args, &log, END_MAX);
    told(&ended, 73, &["there is no /dev/net/tun", "`modprobe tun`"]);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}

#[test]
fn a_certificate_that_may_not_be_read() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.points.truncate(1);
    fabric.manifests.production().certificate = Some("gateway-tls".into());
    give_to_nobody(&fabric);
    let secret = fabric.manifests.dir.join("secrets/gateway-tls");
    fs::create_dir_all(&secret).unwrap();
    let (chain, key) = certificate(-1, 10);
    put(&secret, &chain, &key);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(secret.join("tls.key"), mode).unwrap();
    let as_nobody = |command: &str| {
        let script = format!(
            "exec {AS_NOBODY} {} {command} {}",
            program("masque-gateway").display(),
            manifests(&fabric)
        );
        let log = fabric.folder().join("start.log");
        Process::run(
            &fabric.gateway,
            Path::new("sh"),
            &["-c", &script],
            &log,
            END_MAX,
        )
    };
    let chown = "let the gateway's user read it: `sudo chown -R ";
    let words = ["tls.key", "Permission denied", chown];
    told(&as_nobody("--manifests"), 77, &words);
    let words = [
        "tls.key",
        "Permission denied",
        "`sudo masque-gateway check ",
    ];
    told(&as_nobody("check"), 77, &words);
    // As `init` makes it: nobody else may even look into the folder.
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(fabric.manifests.dir.join("secrets"), mode).unwrap();
    let words = ["secrets: Permission denied", chown];
    told(&as_nobody("--manifests"), 77, &words);
    told(&as_nobody("check"), 77, &["secrets: Permission denied"]);
    // That hides no other error, and what a manifest holds needs no look into the folder.
    let manifest = fabric.manifests.dir.join("secret.yaml");
    fs::write(&manifest, "kind: [").unwrap();
    let ended = as_nobody("check");
    told(&ended, 65, &["1 error(s)"]);
    for word in ["secrets: Permission denied", "secret.yaml:"] {
        assert!(ended.output.contains(word), "{word}: {}", ended.output);
    }
    let indented = |pem: &str| pem.replace('\n', "\n    ");
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: gateway-tls}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&chain),
        indented(&key)
    );
    fs::write(&manifest, secret).unwrap();
    let ended = as_nobody("check");
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.output.contains("1 listener(s)"), "{}", ended.output);
}

/// Lets user 65534 read the manifests and write the state.
fn give_to_nobody(fabric: &Fabric) {
    fabric.manifests.write();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(fabric.folder(), mode).unwrap();
    let state = fabric.manifests.dir.join(".state");
    fs::create_dir_all(&state).unwrap();
    let id = NOBODY.parse().unwrap();
    std::os::unix::fs::chown(&state, Some(id), Some(id)).unwrap();
}

#[test]
fn no_permission_to_change_the_network() {
    let Some(fabric) = with_laptop() else { return };
    give_to_nobody(&fabric);
    let program = program("masque-gateway").to_str().unwrap();
    let dir = manifests(&fabric);
    let args = [
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        program,
        "--manifests",
        &dir,
    ];
    let log = fabric.folder().join("start.log");
    let ended = Process::run(&fabric.gateway, Path::new("setpriv"), &args, &log, END_MAX);
    told(&ended, 77, &["CAP_NET_ADMIN"]);
}

/// Shell words before a program that is not root's: some machines let only root open the device,
/// and it sees another one, in the mount namespace that `ip netns exec` made.
pub(crate) fn tun_for_everybody(fabric: &Fabric) -> String {
    let tun = fabric.folder().join("tun");
    let tun = tun.display();
    format!("rm -f {tun} && mknod -m 666 {tun} c 10 200 && mount --bind {tun} /dev/net/tun")
}

#[test]
fn cap_net_admin_is_enough_to_serve() {
    let Some(fabric) = with_laptop() else { return };
    give_to_nobody(&fabric);
    let program = program("masque-gateway").to_str().unwrap();
    let dir = manifests(&fabric);
    let script = format!(
        "{tun} && exec {AS_NOBODY} \
         {program} --manifests {dir}",
        tun = tun_for_everybody(&fabric)
    );
    let log = fabric.folder().join("gateway.log");
    let process = Process::start(&fabric.gateway, Path::new("sh"), &["-c", &script], &log);
    let gateway = Gateway::adopt(&fabric, process);
    gateway.wait_ready();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    ping(&fabric.laptop, address(WORK_V4), &[]);
    ping(&fabric.laptop, address(WORK_V6), &[]);
    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}
