//! The built command: what it prints, where, and how it exits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use masque_testkit::{once_free, until_free};

const KEY_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";
/// RFC 8032 §7.1, test 1.
const KEY_ID: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// Folders of one invocation after the other.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.config()).unwrap();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(home.state())
            .unwrap();
        home
    }

    fn with_key() -> Self {
        let home = Self::new();
        let path = home.config().join("key.pem");
        fs::write(&path, KEY_PEM).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        home
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_datum-connect"));
        command
            .env_clear()
            .arg("--config-dir")
            .arg(self.config())
            .arg("--state-dir")
            .arg(self.state())
            .args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Ran {
        Ran::from(self.command(line).output().unwrap())
    }

    /// Answers each request with the next of these lines, as a running attachment would.
    fn attachment(&self, vpc: &str, answers: &[&str]) -> thread::JoinHandle<Vec<String>> {
        let path = self.state().join(format!("{vpc}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        thread::spawn(move || {
            let mut requests = Vec::new();
            let mut answers = answers.into_iter();
            while answers.len() > 0 {
                let (stream, _) = listener.accept().unwrap();
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines() {
                    requests.push(line.unwrap());
                    writer
                        .write_all(answers.next().unwrap().as_bytes())
                        .unwrap();
                    writer.write_all(b"\n").unwrap();
                    if answers.len() == 0 {
                        // A process that ends takes its socket along.
                        fs::remove_file(&path).unwrap();
                        break;
                    }
                }
            }
            requests
        })
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

const CONNECTED: &str = r#"{"answer":"status","vpc":"production-vpc","pid":7,"device":"dc0",
"phase":"Connected","transport":"h3","gateway":"https://gw.example:4433",
"addresses":["10.0.100.50/32"],"routes":["10.0.0.0/16"],"mtuBytes":1412,"rttUs":900,
"reconnects":0,"counters":{"sentPackets":1,"sentBytes":100,"receivedPackets":2,
"receivedBytes":200,"drops":{"send_too_big":3}}}"#;

fn connected() -> String {
    CONNECTED.replace('\n', "")
}

#[test]
fn key_makes_a_key_once_and_prints_what_kubectl_takes() {
    let home = Home::new();
    let first = home.run("key --vpc team/production-vpc --name laptop --allowed-route 10.0.0.0/16");
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.stderr.starts_with("made ") && first.stderr.lines().count() == 1);
    let mode = fs::metadata(home.config().join("key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = home.run("key --vpc team/production-vpc --allowed-route 10.0.0.0/16");
    assert_eq!(again.stderr, "");
    assert_eq!(
        again.stdout, first.stdout,
        "the name and the key are remembered"
    );
    let id = home.run("key --id").stdout;
    assert_eq!(id.trim_end().len(), 64);
    assert!(
        first
            .stdout
            .contains(&format!("publicKey: {{id: {}", id.trim_end()))
    );
}

#[test]
fn key_prints_exactly_this() {
    let home = Home::with_key();
    let ran = home.run("key --vpc production-vpc --name developer-laptop");
    let expected = format!(
        "# public key: {KEY_ID}\n\
         # z-base-32:  47pjoycnsrfmxikm95jh13y88e8qnhzu5kungjpxyepgt7a8krpy\n\
         # Save this in the folder of manifests of a standalone gateway, or apply it to a cluster.\n\
         # Where the Connector resource has a status subresource, apply the status too:\n\
         #   datum-connect key | kubectl apply --server-side --subresource=status -f -\n\
         apiVersion: networking.datumapis.com/v1alpha1\n\
         kind: Connector\n\
         metadata: {{name: developer-laptop}}\n\
         spec:\n  connectorClassName: datum-connect\n\
         status:\n  connectionDetails:\n    type: PublicKey\n    publicKey: {{id: {KEY_ID}, \
         homeRelay: \"https://relay.datum.net\", addresses: []}}\n\
         ---\n\
         apiVersion: networking.datumapis.com/v1alpha1\n\
         kind: ConnectorAttachment\n\
         metadata: {{name: developer-laptop-production-vpc}}\n\
         spec:\n  connectorRef: {{name: developer-laptop}}\n  vpcRef: {{name: production-vpc}}\n  \
         ipAllocation: {{mode: Dynamic}}\n  allowedRoutes: []\n"
    );
    assert_eq!(ran.stdout, expected);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn usage_errors_exit_64() {
    let home = Home::with_key();
    for line in [
        "",
        "attach --vpc UPPER",
        "attach --vpc v --gateway http://gw.example",
        "attach --vpc v --gateway https://gw.example --mtu 1000",
        "attach --vpc v",
        "attach",
        "ping",
        "ping 10.0.0.1 --gateway",
        "key --name Not_A_Name",
        "--log a=b=c status",
    ] {
        let ran = home.run(line);
        assert_eq!(ran.code, 64, "{line:?}: {ran:?}");
        assert!(
            !ran.stderr.is_empty() && ran.stdout.is_empty(),
            "{line:?}: {ran:?}"
        );
    }
    let unknown = home.run("attach --vpc production-vpc");
    assert_eq!(
        unknown.stderr,
        "datum-connect: where the gateway of production-vpc is, is not known yet; say it once: \
         `datum-connect attach --vpc production-vpc --gateway https://HOST:PORT`\n"
    );
}

#[test]
fn help_and_version_are_no_errors() {
    let home = Home::new();
    let help = home.run("--help");
    assert_eq!(help.code, 0);
    for command in [
        "key",
        "attach",
        "detach",
        "status",
        "ping",
        "doctor",
        "completions",
    ] {
        assert!(
            help.stdout.contains(command),
            "{command} is not in the help"
        );
    }
    assert!(
        !home.run("attach --help").stdout.contains("--child"),
        "it is for ourselves"
    );
    assert!(home.run("--version").stdout.starts_with("datum-connect "));
    assert!(home.run("completions bash").stdout.contains("complete -F"));
}

#[test]
fn what_is_missing_or_wrong_is_told_apart() {
    let attach = "attach --vpc v --no-tun --gateway https://127.0.0.1:9";
    let without = Home::new().run(attach);
    assert_eq!(without.code, 66, "{without:?}");
    assert!(
        without.stderr.contains("`datum-connect key` makes one"),
        "{without:?}"
    );

    let home = Home::with_key();
    let no_ca = home.run(&format!("{attach} --ca /nowhere/ca.crt"));
    assert_eq!(no_ca.code, 66, "{no_ca:?}");
    assert!(no_ca.stderr.contains("/nowhere/ca.crt"), "{no_ca:?}");

    fs::create_dir(home.config().join("profiles")).unwrap();
    fs::write(home.config().join("profiles/v.json"), "{").unwrap();
    assert_eq!(home.run(attach).code, 78);
    assert_ne!(
        home.run(&format!("{attach} --fresh --ca /nowhere")).code,
        78,
        "it is not read"
    );

    let key = home.config().join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let open = home.run(&attach.replace("--vpc v", "--vpc w"));
    assert_eq!(open.code, 77, "{open:?}");
    assert!(open.stderr.contains("chmod 600"), "{open:?}");

    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(home.run("status").code, 77);
}

#[test]
fn nobody_at_the_gateway_exits_69_and_says_so() {
    let home = Home::with_key();
    let ca = home.config().join("ca.crt");
    fs::write(&ca, masque_testkit::DevelopmentCa::new().pem()).unwrap();
    let port = masque_testkit::free_port();
    let ca = ca.display();
    let line = format!("attach --vpc v --no-tun --gateway https://127.0.0.1:{port} --ca {ca}");
    for line in [line.clone(), format!("{line} --background")] {
        let ran = home.run(&line);
        assert_eq!(ran.code, 69, "{ran:?}");
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(
            lines[0],
            format!("  connect       https://127.0.0.1:{port}")
        );
        assert_eq!(
            lines[1],
            format!(
                "datum-connect: the gateway 127.0.0.1:{port} cannot be reached: connection refused: \
                 nothing listens on its UDP port; check that the gateway runs and that its UDP port \
                 is {port}"
            )
        );
        assert_eq!(lines.len(), 2, "{ran:?}");
    }
    assert!(
        !home.config().join("profiles/v.json").exists(),
        "what failed is not remembered"
    );
    assert!(
        fs::read_dir(home.state()).unwrap().next().is_none(),
        "nothing is left"
    );
}

#[test]
fn status_prints_what_the_design_document_shows() {
    let home = Home::with_key();
    home.run("key --name developer-laptop");
    let none = home.run("status");
    assert_eq!(
        none.stdout,
        "Connector: developer-laptop (Ready)\nProtocol: MASQUE\nVPC Attachments:\n  (none)\n"
    );
    let attachment = home.attachment("production-vpc", &[&connected(), &connected()]);
    let ran = home.run("status");
    assert_eq!(
        ran.stdout,
        "Connector: developer-laptop (Ready)\nProtocol: MASQUE\nVPC Attachments:\n  \
         - production-vpc: 10.0.100.50 (Connected)\n"
    );
    let json: serde_json::Value = serde_json::from_str(&home.run("status --json").stdout).unwrap();
    assert_eq!(json["id"], KEY_ID);
    let shown = &json["attachments"][0];
    assert_eq!(shown["device"], "dc0");
    assert_eq!(shown["counters"]["drops"]["send_too_big"], 3);
    assert_eq!(
        attachment.join().unwrap(),
        [r#"{"op":"status"}"#, r#"{"op":"status"}"#]
    );
}

#[test]
fn detach_waits_for_the_end_and_names_what_is_not_there() {
    let home = Home::with_key();
    let attachment = home.attachment("production-vpc", &[r#"{"answer":"detaching"}"#]);
    let ran = home.run("detach");
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (0, "detached from production-vpc\n")
    );
    assert_eq!(attachment.join().unwrap(), [r#"{"op":"detach"}"#]);

    assert_eq!(home.run("detach").code, 0, "nothing to end is no error");
    let named = home.run("detach --vpc production-vpc");
    assert_eq!(named.code, 69);
    assert!(
        named
            .stderr
            .contains("attach it: `datum-connect attach --vpc production-vpc`")
    );
}

#[test]
fn a_socket_of_a_dead_process_is_cleaned_up() {
    let home = Home::with_key();
    let path = home.state().join("production-vpc.sock");
    drop(UnixListener::bind(&path).unwrap());
    until_free(|| UnixStream::connect(&path).is_ok());
    assert!(path.exists());
    assert!(home.run("status").stdout.ends_with("(none)\n"));
    assert!(!path.exists());
}

#[test]
fn ping_prints_each_answer_and_fails_without_any() {
    let home = Home::with_key();
    let pong = r#"{"answer":"pong","from":"10.0.2.10","rttUs":1500}"#;
    let late = r#"{"answer":"error","reason":"no answer in 1000 ms"}"#;
    let attachment = home.attachment("production-vpc", &[pong, late]);
    let ran = home.run("ping 10.0.2.10 -c 2");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.stdout,
        "10.0.2.10: seq=1 time=1.500 ms\n\
         1 of 2 answered, min 1.500 ms median 1.500 ms max 1.500 ms\n"
    );
    assert_eq!(ran.stderr, "seq=2: no answer in 1000 ms\n");
    let request = r#"{"op":"ping","address":"10.0.2.10","sizeBytes":56,"timeoutMs":1000}"#;
    assert_eq!(attachment.join().unwrap(), [request, request]);

    let attachment = home.attachment("production-vpc", &[late]);
    let ran = home.run("ping --gateway -c 1");
    assert_eq!(ran.code, 69);
    assert!(
        ran.stderr
            .contains("datum-connect doctor --vpc production-vpc"),
        "{ran:?}"
    );
    attachment.join().unwrap();
}

#[test]
fn doctor_stops_where_things_fail() {
    let home = Home::with_key();
    let ran = home.run("doctor --vpc production-vpc");
    assert_eq!(ran.code, 64, "{ran:?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with("ok    key      ") && lines[0].ends_with(KEY_ID),
        "{ran:?}"
    );
    assert!(
        lines[1].starts_with("FAIL  profile  where the gateway"),
        "{ran:?}"
    );
    assert_eq!(lines.last(), Some(&"-     echo     not tried"));
}

#[test]
fn doctor_and_status_look_at_the_key_that_attach_uses() {
    let home = Home::with_key();
    let elsewhere = home.0.path().join("elsewhere.pem");
    fs::rename(home.config().join("key.pem"), &elsewhere).unwrap();
    assert!(home.run("status").stdout.contains("(NoKey)"));
    fs::create_dir(home.config().join("profiles")).unwrap();
    let profile = serde_json::json!({"gateway": "https://127.0.0.1:9", "key": elsewhere});
    fs::write(home.config().join("profiles/v.json"), profile.to_string()).unwrap();

    for line in ["status", "status --json"] {
        let status = home.run(line);
        let is_ready = status.stdout.contains("(Ready)") || status.stdout.contains(KEY_ID);
        assert!(is_ready, "{status:?}");
    }
    let doctor = home.run("doctor");
    let first = doctor.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("ok    key ") && first.ends_with(KEY_ID),
        "{doctor:?}"
    );

    // What is typed wins, and what fails first gives the status.
    let doctor = home.run("doctor --key /nowhere/key.pem");
    assert_eq!(doctor.code, 66, "{doctor:?}");
    let failed: Vec<&str> = doctor
        .stdout
        .lines()
        .filter(|l| l.starts_with("FAIL"))
        .collect();
    assert!(failed[0].starts_with("FAIL  key      "), "{doctor:?}");
}

/// A command that runs on, and ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway that says nothing, for as long as the socket is there.
fn silent_gateway(home: &Home) -> (std::net::UdpSocket, String) {
    let ca = home.config().join("ca.crt");
    fs::write(&ca, masque_testkit::DevelopmentCa::new().pem()).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let ca = ca.display();
    let line = format!(
        "attach --vpc v --no-tun --keep-trying --gateway https://127.0.0.1:{port} --ca {ca}"
    );
    (socket, line)
}

/// Looks until it is true, for 15 s at most.
fn eventually(what: &str, fact: impl Fn() -> bool) {
    for _ in 0..750 {
        if fact() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("not within 15 s: {what}");
}

#[test]
fn ctrl_c_ends_what_is_not_in_the_background_yet() {
    let home = Home::with_key();
    let (_gateway, line) = silent_gateway(&home);
    // A terminal signals the group of what it started.
    let mut command = home.command(&format!("{line} --background"));
    let mut starter = Running::start(command.process_group(0));
    let socket = home.state().join("v.sock");
    eventually("the second process is there", || socket.exists());
    let group = nix::unistd::Pid::from_raw(starter.0.id().cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    starter.0.wait().unwrap();
    let gone = || !socket.exists();
    for _ in 0..250 {
        if gone() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    home.run("detach");
    panic!("it goes on attaching");
}

/// Debian's nobody.
const NOBODY: u32 = 65534;

#[test]
fn sudo_leaves_the_socket_to_its_caller() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let home = Home::with_key();
    fs::set_permissions(home.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (_gateway, line) = silent_gateway(&home);
    let mut command = home.command(&line);
    command.env("SUDO_UID", NOBODY.to_string());
    let mut attached = Running::start(&mut command);
    let socket = home.state().join("v.sock");
    eventually("the socket is there", || {
        fs::metadata(&socket).is_ok_and(|it| it.uid() == NOBODY)
    });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&home.state())), (0o600, 0o755));
    assert_eq!(
        fs::metadata(home.state()).unwrap().uid(),
        0,
        "root writes there"
    );

    // A copy that nobody may run, wherever the build is.
    let program = home.0.path().join("datum-connect");
    fs::copy(env!("CARGO_BIN_EXE_datum-connect"), &program).unwrap();
    let ask = |uid: u32, line: &str| {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .uid(uid)
            .arg("--config-dir")
            .arg("/nowhere")
            .arg("--state-dir");
        command.arg(home.state()).args(line.split_whitespace());
        // A child that another test forked meanwhile may have the copy open to write.
        let is_written = |error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy;
        Ran::from(once_free(is_written, || command.output()))
    };
    let theirs = ask(NOBODY, "status");
    assert!(
        theirs.stdout.contains("  - v: - (Connecting)"),
        "{theirs:?}"
    );
    assert_eq!(theirs.stderr, "");
    let others = ask(NOBODY - 1, "status");
    assert!(others.stdout.ends_with("  (none)\n"), "{others:?}");
    assert!(
        others.stderr.contains("`sudo datum-connect status`"),
        "{others:?}"
    );
    let others = ask(NOBODY - 1, "detach --vpc v");
    assert_eq!(others.code, 69, "{others:?}");
    assert!(others.stderr.contains("`sudo datum-connect"), "{others:?}");

    let detached = ask(NOBODY, "detach");
    assert_eq!(
        (detached.code, detached.stderr.as_str()),
        (0, "detached from v\n")
    );
    assert!(attached.0.wait().unwrap().success());
}
