//! connect-ip-go, as a client of our gateway and as a proxy for our client.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};

use bytes::Bytes;
use masque_packet::{
    build::build_icmp_echo,
    flow::flow_key,
    icmp::{IcmpKind, classify},
    ip::parse,
};
use masque_protocol::{
    Event, Role, Scope, Session, Template,
    context::IP_PACKET_PREFIX,
    from_prefixes,
    request::{Verdict, check_response, connect_ip_request},
};
use masque_transport::http3::{self, StreamId};

use crate::{
    certificates::{SERVER_NAME, TestTls},
    client::Client,
    gateway::{ASSIGNED, Gateway, ROUTED, net},
};

pub(crate) const WORKLOAD: &str = "10.0.1.10";
pub(crate) const PINGS: usize = 50;

/// The programs around connect-ip-go by version: where each is, or why it is not.
static PROGRAMS: [(&str, OnceLock<Result<PathBuf, String>>); 2] =
    [("v0.1", OnceLock::new()), ("v0.7", OnceLock::new())];

pub(crate) fn program(version: &str) -> Result<PathBuf, String> {
    let (_, built) = PROGRAMS.iter().find(|(name, _)| *name == version).unwrap();
    // Two tests run the newer one, and nothing is written where a program runs.
    built.get_or_init(|| build(version)).clone()
}

fn build(version: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("go")
        .join(version);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("connect-ip-go-{version}"));
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(folder)
        .output();
    match built {
        Err(error) => Err(format!("there is no go: {error}")),
        Ok(built) if built.status.success() => Ok(program),
        Ok(built) => Err(String::from_utf8_lossy(&built.stderr)
            .trim()
            .replace('\n', "; ")),
    }
}

/// Files of a test, as the programs want them.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(tls: &TestTls) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chain.pem"), &tls.chain_pem).unwrap();
        std::fs::write(folder.path().join("key.pem"), &tls.key_pem).unwrap();
        Self { folder }
    }

    fn command(&self, program: &Path, address: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("ADDRESS", address)
            .env("TEMPLATE", format!("https://{SERVER_NAME}/vpn"))
            .env("SERVER_NAME", SERVER_NAME)
            .env("ROOTS", self.folder.path().join("chain.pem"))
            .env("WORKLOAD", WORKLOAD)
            .env("PINGS", PINGS.to_string());
        command
    }
}

fn run_client(version: &str) {
    let program = match program(version) {
        Ok(program) => program,
        Err(reason) => return println!("SKIPPED: connect-ip-go {version} as a client: {reason}"),
    };
    let tls = TestTls::new();
    let gateway = Gateway::start(&tls);
    let files = Files::new(&tls);
    let address = gateway.address.to_string();
    let Output {
        stdout,
        stderr,
        status,
    } = files.command(&program, &address).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    let mut expected = vec![
        "status 200".to_owned(),
        "route 10.0.0.0 10.0.255.255 0".to_owned(),
        "route fd20:10:: fd20:10:0:ffff:ffff:ffff:ffff:ffff 0".to_owned(),
    ];
    let is_new = version != "v0.1";
    for prefix in ASSIGNED {
        // The newer one also says whether it had asked, and whether it was refused.
        let more = if is_new { " false false" } else { "" };
        expected.push(format!("assigned {prefix}{more}"));
    }
    expected.push(format!("replies {PINGS}"));
    // What is too big it answers itself: fragmentation needed.
    expected.push("too-big 3 4".to_owned());
    if is_new {
        expected.extend([
            "answered 0.0.0.0/32 true true".to_owned(),
            "answered ::/128 true true".to_owned(),
        ]);
        expected.extend(ASSIGNED.map(|prefix| format!("answered {prefix} false false")));
    }
    expected.push("closed".to_owned());
    assert_eq!(lines, expected, "{stderr}");
    let record = gateway.stop();
    assert_eq!(record.packets, PINGS);
    assert_eq!(record.address_requests, if is_new { 2 } else { 0 });
    let [head] = &record.requests[..] else {
        panic!("{:?}", record.requests)
    };
    assert_eq!(head.path.as_deref(), Some("/vpn"));
    assert_eq!(record.closed.len(), 1, "{:?}", record.closed);
}

#[test]
fn version_0_1_as_a_client() {
    run_client("v0.1");
}

#[test]
fn version_0_7_as_a_client() {
    run_client("v0.7");
}

/// A proxy that runs until it is dropped.
struct Proxy {
    child: Child,
    address: std::net::SocketAddr,
}

impl Proxy {
    fn start(program: &Path, files: &Files) -> Self {
        let mut child = files
            .command(program, "127.0.0.1:0")
            .env("MODE", "proxy")
            .env("CERTIFICATE", files.folder.path().join("chain.pem"))
            .env("KEY", files.folder.path().join("key.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        child.stdout = Some(stdout.into_inner());
        let address = line.trim().strip_prefix("listening ").expect("it listens");
        Self {
            address: address.parse().unwrap(),
            child,
        }
    }

    /// Ends it; what it said since it listens.
    fn stop(mut self) -> String {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn version_0_7_as_a_proxy() {
    let program = match program("v0.7") {
        Ok(program) => program,
        Err(reason) => return println!("SKIPPED: connect-ip-go v0.7 as a proxy: {reason}"),
    };
    let tls = TestTls::new();
    let proxy = Proxy::start(&program, &Files::new(&tls));
    let mut client = Client::connect(&tls, proxy.address);
    let template = Template::parse(&format!("https://{SERVER_NAME}/vpn")).unwrap();
    let head = connect_ip_request(&template.expand(&Scope::ANY), Vec::new());
    let stream = client.request(&head, false);
    assert_eq!(check_response(&client.response(stream)), Ok(Verdict::Open));
    client.http().accept_datagrams(stream);

    let tunnel = negotiate(&mut client, stream);
    for number in 0..PINGS {
        ping(&mut client, stream, &tunnel, number);
    }

    client.http().send_data(stream, Bytes::new(), true).unwrap();
    client.until(|client| client.is_finished(stream));
    let is_reset = |event: &http3::Event| matches!(event, http3::Event::Reset { .. });
    assert!(!client.events.iter().any(is_reset));
    client.end();
    let said = proxy.stop();
    let packets = format!("packets {PINGS}");
    assert_eq!(said.lines().next(), Some(&*packets), "{said}");
}

/// What the proxy assigns and advertises unasked, and its answer to what we ask.
fn negotiate(client: &mut Client, stream: StreamId) -> Session {
    let mut tunnel = Session::new(Role::Client);
    let asked = tunnel.request_addresses(&[net("::/128")]).unwrap();
    let capsule = tunnel.poll_transmit().unwrap();
    client.http().send_data(stream, capsule, false).unwrap();
    let (mut events, mut read) = (Vec::new(), 0);
    while events.len() < 3 {
        client.until(|client| client.body(stream).len() > read);
        let body = client.body(stream);
        tunnel.handle_data(Bytes::copy_from_slice(&body[read..]), 0);
        read = body.len();
        while let Some(event) = tunnel.poll_event().unwrap() {
            events.push(event);
        }
    }
    assert_eq!(tunnel.routes(), from_prefixes(&[net(ROUTED[0])], None));
    let assigned: Vec<_> = tunnel.assigned().iter().map(|entry| entry.prefix).collect();
    assert_eq!(assigned, [net(PROXY_ASSIGNS)]);
    let mut answers = events.iter().filter_map(|event| match event {
        Event::Assigned(list) => list.iter().find(|entry| entry.request_id != 0),
        _ => None,
    });
    let answer = answers.next().expect("each request is answered");
    assert_eq!(answer.request_id, asked[0].request_id);
    assert!(answer.is_refusal() && answers.next().is_none());
    tunnel
}

/// The address that the Go proxy assigns.
const PROXY_ASSIGNS: &str = "10.0.100.77/32";

/// A ping of a size that grows with its number, and its reply.
fn ping(client: &mut Client, stream: StreamId, tunnel: &Session, number: usize) {
    let (from, to) = (net(PROXY_ASSIGNS).addr(), WORKLOAD.parse().unwrap());
    let data = vec![number as u8; number * 1252 / PINGS];
    let packet = build_icmp_echo(from, to, 7, number as u16, &data);
    let payload = [&IP_PACKET_PREFIX[..], &packet].concat();
    let (conn, write) = (client.conn, |out: &mut [u8]| out.copy_from_slice(&payload));
    client
        .machine()
        .send_datagram(conn, stream, payload.len(), write)
        .unwrap();
    client.until(|client| client.datagrams.len() > number);
    let (_, payload) = client.datagrams[number].clone();
    let reply = tunnel.handle_datagram(payload).unwrap();
    let (sent, got) = (parse(&packet).unwrap(), parse(&reply).unwrap());
    assert_eq!(flow_key(&got, &reply), flow_key(&sent, &packet).reversed());
    assert_eq!(got.total_bytes, packet.len());
    let expected = IcmpKind::EchoReply {
        identifier: 7,
        sequence: number as u16,
    };
    assert_eq!(classify(&got, &reply), Some(expected));
}
