//! What changes around a gateway while it runs.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use masque_netns_tests::{
    Fabric, Gateway, Process, UNDERLAY_GATEWAY, eventually, ping, ping_fails, program, within,
};

use crate::{WORK_V4, WORK_V6, address, with_laptop};

const VPC: &str = "production-vpc";
/// Whatever breaks a device, packets flow again by then.
const BACK_MAX: Duration = Duration::from_secs(15);
/// Attachments of a folder that takes a while to carry out.
const MANY: usize = 3000;
/// So many edits are tried: the machine may pause during one, a gateway that is held up is so by each.
const EDITS: usize = 3;

#[test]
fn a_second_gateway_leaves_the_first_one_alone() {
    let Some(fabric) = with_laptop() else { return };
    let mut first = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let before = Gateway::kernel_state(&fabric.gateway);
    let dir = fabric.manifests.dir.to_str().unwrap();
    let state = fabric.folder().join("other-state");
    // Nothing of its own is in the way of the other one.
    let args = [
        "--manifests",
        dir,
        "--state-dir",
        state.to_str().unwrap(),
        "--admin",
        "127.0.0.1:9465",
    ];
    let log = fabric.folder().join("second.log");
    let program = program("masque-gateway");
    let limit = Duration::from_secs(10);
    let ended = Process::run(&fabric.gateway, program, &args, &log, limit);
    assert_eq!(ended.code, Some(69), "{}", ended.output);
    let words = "another gateway runs in this network namespace";
    assert!(ended.output.contains(words), "{}", ended.output);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), before);
    assert!(first.process().runs() && first.is_ready());
    ping(&fabric.laptop, address(WORK_V4), &[]);
}

/// How often other manifests were carried out so far.
fn applied(gateway: &Gateway) -> usize {
    gateway.log().matches("manifests applied").count()
}

/// Whether one echo request is answered soon.
fn answers(fabric: &Fabric, to: &str) -> bool {
    let ping = fabric
        .laptop
        .command("ping", &["-n", "-c", "1", "-W", "0.3", to])
        .output();
    ping.unwrap().status.success()
}

#[test]
fn a_device_that_somebody_breaks_is_mended() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let devices = fabric.gateway.ip(&["-o", "link", "show"]);
    let names = devices.lines().filter_map(|line| line.split(": ").nth(1));
    let tuns: Vec<String> = names
        .filter(|name| name.starts_with("mq"))
        .map(str::to_owned)
        .collect();
    assert_eq!(tuns.len(), 2, "{devices}");
    let reopened = || {
        gateway
            .metrics()
            .sum("masque_gateway_tun_reopened_total", &[])
    };
    assert_eq!(reopened(), 0);
    for (round, way) in ["del", "down"].into_iter().enumerate() {
        for tun in &tuns {
            match way {
                "del" => fabric.gateway.ip(&["link", "del", tun]),
                _ => fabric.gateway.ip(&["link", "set", tun, way]),
            };
        }
        for to in [WORK_V4, WORK_V6] {
            let back = within(BACK_MAX, || answers(&fabric, to));
            assert!(back.is_some(), "{way}, {to}:\n{}", gateway.log());
        }
        // It may have seen the first one gone before the second one was.
        eventually("both are open again", || reopened() >= 2);
        assert_eq!(reopened(), 2, "round {round}");
    }
    assert!(gateway.log().contains("is open again"), "{}", gateway.log());
    assert!(gateway.is_ready());
}

/// As when the program before on that port takes a while to end.
#[test]
fn a_port_that_is_taken_is_open_soon_after_it_is_free() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    let gateway = fabric.start_gateway();
    let taken = fabric
        .gateway
        .enter(|| std::net::UdpSocket::bind("[::]:4434"));
    fabric.manifests.points[1].port = 4434;
    fabric.manifests.write();
    eventually("it says so", || {
        let answer = gateway.http("/readyz").unwrap_or_default();
        answer.starts_with("HTTP/1.1 503") && answer.contains("UDP port 4434")
    });
    drop(taken);
    gateway.wait_ready();
    let status = gateway.ask("status");
    assert!(!status.contains("Problems"), "{status}");
}

#[test]
fn another_mtu_of_the_underlay_reaches_sessions() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let whole = ["-M", "do", "-s", "1352"];
    ping(&fabric.laptop, address(WORK_V4), &whole);
    let dir = fabric.manifests.dir.to_str().unwrap();
    let gateway_program = program("masque-gateway").to_str().unwrap();
    let mtu = |bytes: u32| {
        let ask = ["sessions", "--json", "--manifests", dir];
        let text = fabric.gateway.run(gateway_program, &ask);
        text.contains(&format!("\"mtu_bytes\": {bytes},"))
    };
    let set = |mtu| {
        let change = ["link", "set", UNDERLAY_GATEWAY, "mtu", mtu];
        fabric.gateway.ip(&change)
    };
    set("1400");
    eventually("the session has 40 bytes less", || mtu(1360));
    let told = ping_fails(&fabric.laptop, address(WORK_V4), &whole);
    assert!(told.contains("mtu"), "{told}");
    ping(
        &fabric.laptop,
        address(WORK_V4),
        &["-M", "do", "-s", "1332"],
    );
    set("1500");
    eventually("and has them again", || !mtu(1360));
    assert!(gateway.is_ready());
}

#[test]
fn sessions_end_with_their_method_and_with_their_hostname() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let path = fabric.manifests.dir.join("production.yaml");
    let good = fs::read_to_string(&path).unwrap();
    let other_name = good.replace("protocol: HTTP3,", "protocol: HTTP3, hostname: other.test,");
    let other_method = format!("{good}  authentication: {{methods: [ClientCertificate]}}\n");
    for (bad, reason) in [
        (other_name, "listener_removed"),
        (other_method, "method_refused"),
    ] {
        let client = fabric.attach(&fabric.laptop, "laptop", VPC);
        ping(&fabric.laptop, address(WORK_V4), &[]);
        let label = format!("reason=\"{reason}\"");
        let ends = || {
            let metrics = gateway.metrics();
            metrics.sum("masque_gateway_session_ends_total", &[&label])
        };
        assert_eq!(ends(), 0);
        fabric.manifests.replace("production.yaml", &bad);
        eventually(reason, || ends() == 1);
        assert_eq!(gateway.sessions(), 0);
        client.kill();
        let before = applied(&gateway);
        fabric.manifests.replace("production.yaml", &good);
        eventually("the good one runs again", || applied(&gateway) > before);
    }
}

#[test]
fn health_answers_while_many_attachments_are_carried_out() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.production().pools[0] = "10.9.0.0/16".to_owned();
    for number in 0..MANY {
        let mut key = String::new();
        write!(key, "{:064x}", number + 1).unwrap();
        let name = format!("c{number}");
        fabric.manifests.connectors.insert(name.clone(), key);
        fabric.manifests.attach(&name, VPC);
    }
    let gateway = fabric.start_gateway();
    assert_eq!(applied(&gateway), 1);
    let mut slowest = Vec::new();
    for edit in 1..=EDITS {
        let last = fabric.manifests.attachments.last_mut().unwrap();
        last.more = vec![format!("suspend: {}", edit % 2 == 1)];
        fabric.manifests.write();
        let (edited, mut longest) = (Instant::now(), Duration::ZERO);
        let done = within(Duration::from_secs(60), || {
            let asked = Instant::now();
            let answer = gateway.http("/healthz").unwrap_or_default();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            longest = longest.max(asked.elapsed());
            applied(&gateway) == 1 + edit
        });
        assert!(done.is_some(), "{}", gateway.log());
        let took = edited.elapsed();
        eprintln!("{MANY} attachments in {took:?}; the slowest answer took {longest:?}");
        if longest < took / 3 {
            return;
        }
        slowest.push((longest, took));
    }
    panic!("answers were held up: {slowest:?}");
}
