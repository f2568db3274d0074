//! Ends that nobody planned, and those that somebody did.

use std::{fs, path::Path, time::Instant};

use masque_netns_tests::{
    Client, Echo, Fabric, Flow, Gateway, Process, eventually, exchange, ping, within,
};
use nix::sys::signal::Signal;

use crate::{CUT_AFTER, WEB, WORK_V4, WORK_V6, address, at, connects_not, with_laptop};

const VPC: &str = "production-vpc";

#[test]
fn a_killed_client_comes_back_with_the_same_addresses() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let first = fabric.attach(&fabric.laptop, "laptop", VPC);
    let before = (first.ipv4(), first.ipv6());
    ping(&fabric.laptop, address(WORK_V4), &[]);
    first.kill();
    let again = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert_eq!((again.ipv4(), again.ipv6()), before);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    ping(&fabric.laptop, address(WORK_V6), &[]);
    let ended = again.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    // The killed one's connection ends by a timeout only.
    eventually("its session is over", || gateway.sessions() <= 1);
    let links = fabric.laptop.ip(&["-o", "link", "show"]);
    assert!(!links.contains("dc0"), "{links}");
}

#[test]
fn a_killed_gateway_is_repaired_by_the_next_and_the_client_is_back() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let before = (client.ipv4(), client.ipv6());
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let running = Gateway::kernel_state(&fabric.gateway);
    assert!(!running.is_empty());
    gateway.kill();
    let left = Gateway::kernel_state(&fabric.gateway);
    assert!(!left.is_empty(), "SIGKILL leaves something to repair");
    // What a crash of an older version might have left.
    let stale = "10.77.0.0/16 dev underlay proto 77 table 1297154055";
    fabric.gateway.route(stale);

    // Somebody uses the tunnel: the next gateway answers a packet it knows nothing of by a reset.
    let log = fabric.folder().join("ping.log");
    let pings = ["-i", "0.1", "-c", "200", WORK_V4];
    let _traffic = Process::start(&fabric.laptop, Path::new("ping"), &pings, &log);
    let gateway = Gateway::start(&fabric, &[]);
    gateway.wait_ready();
    let ready = Instant::now();
    eventually("the client is back", || {
        client.log().contains("connected again")
    });
    eprintln!("back {:?} after the gateway", ready.elapsed());
    assert_eq!((client.ipv4(), client.ipv6()), before);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    ping(&fabric.laptop, address(WORK_V6), &[]);
    let mut now = Gateway::kernel_state(&fabric.gateway);
    let mut wanted = running;
    for state in [&mut now, &mut wanted] {
        // Interface numbers differ.
        state.retain(|line| !line.contains(": mq"));
        state.sort();
    }
    assert_eq!(now, wanted, "the kernel is as before");
}

#[test]
fn sigterm_drains_and_leaves_nothing_in_the_kernel() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let mut client = fabric.attach(&fabric.laptop, "laptop", VPC);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    client.wait_line("the gateway is going away");
    assert!(client.process().runs(), "it waits for the gateway");
    assert_eq!(
        Gateway::kernel_state(&fabric.gateway),
        Vec::<String>::new(),
        "devices, rules and routes are gone"
    );
    let address = client.ipv4();
    let gateway = Gateway::start(&fabric, &[]);
    gateway.wait_ready();
    client.wait_line("connected again");
    assert_eq!(client.ipv4(), address);
}

/// No test ends by this deadline.
fn drain_long(fabric: &mut Fabric) {
    for point in &mut fabric.manifests.points {
        point.drain_s = 600;
    }
}

/// A drain may take hours: what is revoked meanwhile is revoked.
#[test]
fn an_edit_is_followed_while_draining() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    drain_long(&mut fabric);
    let mut gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let flow = Flow::start(&fabric.laptop, at(WORK_V4, WEB));
    eventually("the flow goes on", || flow.records() > 5);
    gateway.process().signal(Signal::SIGTERM);
    client.wait_line("the gateway is going away");
    let before = flow.records();
    eventually("the flow goes on", || flow.records() > before);
    fabric.manifests.production().rules[0] =
        "{name: web, ports: [{protocol: TCP, port: 80}]}".into();
    fabric.manifests.write();
    eventually("the removed rule cuts the flow", || {
        flow.silent() > CUT_AFTER
    });
    let records = flow.records();
    within(CUT_AFTER, || false);
    assert_eq!(flow.records(), records, "it was no mere pause");
    assert!(gateway.process().runs(), "and the drain goes on");
}

/// And what somebody breaks meanwhile is mended.
#[test]
fn a_device_that_somebody_breaks_is_mended_while_draining() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    drain_long(&mut fabric);
    let mut gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    gateway.process().signal(Signal::SIGTERM);
    client.wait_line("the gateway is going away");
    for tun in ["mq0", "mq1"] {
        fabric.gateway.ip(&["link", "del", tun]);
    }
    eventually("packets pass again", || {
        let once = ["-n", "-c", "1", "-W", "1", WORK_V4];
        let ping = fabric.laptop.command("ping", &once).output();
        ping.unwrap().status.success()
    });
    assert!(gateway.process().runs(), "and the drain goes on");
}

/// Whatever a gateway sets, the host has again afterwards what it had before; kill -9 only delays it.
#[test]
fn settings_are_put_back_after_a_kill_and_a_good_end() {
    let Some(fabric) = with_laptop() else { return };
    let names = [
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.conf.all.rp_filter",
        "net.ipv4.conf.underlay.rp_filter",
    ];
    let read = || -> Vec<String> {
        let read = |name| fabric.gateway.run("sysctl", &["-n", name]);
        names.map(read).into()
    };
    fabric.gateway.sysctl(names[0], "0");
    fabric.gateway.sysctl(names[1], "2");
    fabric.gateway.sysctl(names[2], "2");
    let before = read();
    let gateway = fabric.start_gateway();
    for name in names {
        let line = name.replace('.', "/");
        assert!(gateway.log().contains(&line), "{name}: {}", gateway.log());
    }
    gateway.kill();
    assert_ne!(read(), before, "SIGKILL leaves something to repair");
    let gateway = Gateway::start(&fabric, &[]);
    gateway.wait_ready();
    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(read(), before);
}

#[test]
fn a_drain_without_sessions_ends_at_once() {
    let Some(fabric) = with_laptop() else { return };
    let ended = fabric.start_gateway().terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    // It waited for nobody: the default deadline is ten minutes.
    assert!(ended.output.contains("sessions=0"), "{}", ended.output);
    assert!(
        !ended.output.contains("deadline passed"),
        "{}",
        ended.output
    );
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}

#[test]
fn sighup_reads_what_the_watch_cannot_see() {
    let Some(fabric) = with_laptop() else { return };
    let mut gateway = fabric.start_gateway();
    let _client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let _other = Echo::on_port(&fabric.work_1p, 8081);
    exchange(&fabric.laptop, at(WORK_V4, WEB), 1000).unwrap();
    // The same file, length and time.
    let path = fabric.manifests.dir.join("production-policy.yaml");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("8080", "8081");
    fs::write(&path, text).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    gateway.process().signal(Signal::SIGHUP);
    eventually("the other port is open", || {
        exchange(&fabric.laptop, at(WORK_V4, 8081), 10).is_ok()
    });
    connects_not(&fabric.laptop, at(WORK_V4, WEB));
}

#[test]
fn a_client_that_keeps_trying_attaches_once_there_is_a_gateway() {
    let Some(fabric) = with_laptop() else { return };
    // A run makes the certificate's authority, which the client has to read.
    let ended = fabric.start_gateway().terminate();
    assert_eq!(ended.code, Some(0));
    let client = Client::start(&fabric, &fabric.laptop, "laptop", VPC, &["--keep-trying"]);
    client.wait_line("not connected");
    let gateway = Gateway::start(&fabric, &[]);
    gateway.wait_ready();
    client.wait_attached();
    ping(&fabric.laptop, address(WORK_V4), &[]);
}
