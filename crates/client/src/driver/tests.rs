//! Real sockets on loopback, a small gateway in a thread.

use std::{
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use masque_packet::build::build_udp;
use masque_testkit::{DevelopmentCa, free_port};
use masque_transport::{
    sockets::{SocketOptions, UdpSocket},
    tls::ServerTrust,
};

use super::{channel::ChannelPort, *};
use crate::{
    ConnectorIdentity, Phase, attach,
    tunnel::testing::{Behaviour, Gateway, Site},
};

const OURS: &str = "10.0.100.50";
const THEIRS: &str = "10.0.2.100";
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway on a port of its own that sends every packet back to its sender.
struct Running {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Place {
    site: Site,
    ca: String,
}

impl Place {
    fn new() -> Self {
        let ca = DevelopmentCa::new();
        let server = ca.server(&["localhost", "127.0.0.1"]);
        let site = Site {
            chain: server.cert_pem,
            key: server.key_pem,
        };
        Self {
            site,
            ca: ca.pem().to_owned(),
        }
    }

    fn config(&self, host: &str, port: u16) -> AttachConfig {
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let gateway = format!("https://{host}:{port}").parse().unwrap();
        let mut config = AttachConfig::new(gateway, "v".parse().unwrap(), identity);
        config.trust = ServerTrust::RootsPem(self.ca.as_bytes().to_vec());
        config
    }

    fn run(&self, port: u16) -> Running {
        self.run_as(port, Behaviour::default())
    }

    fn run_as(&self, port: u16, behaviour: Behaviour) -> Running {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut socket = UdpSocket::bind(&SocketOptions::new(address)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut gateway = Gateway::new(&self.site, behaviour, 1, Instant::now());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let now = Instant::now();
                socket.recv_batch(&mut gateway.machine, now, 256).unwrap();
                gateway.turn(now);
                for packet in std::mem::take(&mut gateway.packets) {
                    gateway.send(&returned(&packet));
                }
                socket.flush(&mut gateway.machine, now, 64).unwrap();
                thread::sleep(Duration::from_micros(200));
            }
        });
        Running {
            port,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The answer to an echo, or the packet with its addresses exchanged.
fn returned(packet: &[u8]) -> Vec<u8> {
    let mut reply = vec![0; packet.len()];
    if let Some(length) = masque_packet::icmp::build_echo_reply(&mut reply, packet) {
        reply.truncate(length);
        return reply;
    }
    let mut back = packet.to_vec();
    if back[0] >> 4 == 4 {
        back[12..16].copy_from_slice(&packet[16..20]);
        back[16..20].copy_from_slice(&packet[12..16]);
    }
    back
}

fn packet(number: u16) -> Vec<u8> {
    build_udp(
        OURS.parse().unwrap(),
        THEIRS.parse().unwrap(),
        7,
        9,
        &number.to_be_bytes(),
    )
}

/// Turns of a driver on this thread, until `done`.
#[track_caller]
fn drive(driver: &mut Driver<ChannelPort>, done: impl Fn(&Driver<ChannelPort>) -> bool) {
    let start = Instant::now();
    while !done(driver) {
        assert!(start.elapsed() < PATIENCE);
        if !driver.turn() {
            driver.wait();
        }
    }
}

#[test]
fn the_gateways_route_is_renewed_before_the_way_is_looked_up() {
    let place = Place::new();
    let gateway = place.run(0);
    let way = Arc::new(Mutex::new(IpAddr::from(Ipv4Addr::LOCALHOST)));
    let new: IpAddr = [127, 0, 0, 2].into();
    let route = Arc::clone(&way);
    let observer: Observer = Box::new(move |event| {
        if *event == TunnelEvent::NetworkChanged {
            *route.lock().unwrap() = new;
        }
    });
    let (port, _sender, _receiver) = channel().unwrap();
    let config = place.config("127.0.0.1", gateway.port);
    let mut driver = Driver::new(&config, port, observer).unwrap();
    let route = Arc::clone(&way);
    driver.way = Box::new(move |_| Ok(*route.lock().unwrap()));
    driver.network = None;
    driver.tunnel.start(Instant::now());
    drive(&mut driver, |driver| driver.tunnel.assignment().is_some());

    // The link is gone, and a route through the tunnel covers the gateway.
    *way.lock().unwrap() = OURS.parse().unwrap();
    driver.looks.sign(Instant::now());
    driver.turn();
    assert_eq!(driver.source, Some(new));
}

#[test]
fn a_machine_that_woke_up_looks_at_once() {
    let place = Place::new();
    let (port, _sender, _receiver) = channel().unwrap();
    let config = place.config("127.0.0.1", 9);
    let mut driver = Driver::new(&config, port, Box::new(|_| {})).unwrap();
    assert!(driver.alarm.is_some(), "the kernel has such timers");
    driver.network = None;
    driver.alarm = Some(WakeAlarm::ringing().unwrap());
    driver.ready = Ready::default();
    assert!(driver.wait());
    assert!(driver.ready.alarm, "the wait ended for another reason");
    driver.turn();
    assert!(!driver.alarm.unwrap().rings(), "and it is heard once");
}

#[test]
fn a_gateway_that_leaves_is_left_by_another_port() {
    let place = Place::new();
    let leaves = Behaviour {
        leaves_first_port: true,
        ..Behaviour::default()
    };
    let gateway = place.run_as(0, leaves);
    let attached = attach(&place.config("127.0.0.1", gateway.port)).unwrap();
    attached.events.wait_up(PATIENCE).unwrap();
}

#[test]
fn packets_pass_both_ways_without_a_device() {
    let place = Place::new();
    let gateway = place.run(0);
    let attached = attach(&place.config("localhost", gateway.port)).unwrap();
    let assignment = attached.events.wait_up(PATIENCE).unwrap();
    assert_eq!(
        assignment.addresses[0].addr(),
        OURS.parse::<IpAddr>().unwrap()
    );

    for number in 0..100 {
        attached.sender.send(packet(number)).unwrap();
        let back = attached.receiver.receive_timeout(PATIENCE).unwrap();
        assert_eq!(back[28..], number.to_be_bytes());
    }
    let handle = attached.attachment.handle();
    let pong = handle
        .ping(Some(THEIRS.parse().unwrap()), 56, PATIENCE)
        .unwrap();
    assert_eq!(pong.from, THEIRS.parse::<IpAddr>().unwrap());

    let status = handle.status();
    assert_eq!(status.phase, Phase::Connected);
    assert_eq!(status.counters.received_packets, 100);
    assert_eq!(
        status.remote,
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.port)))
    );
    assert_eq!(status.local.unwrap().ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(status.rtt_us > 0 && status.mtu_bytes >= 1280 && status.since_unix_s.is_some());

    let handle = handle.clone();
    handle.stop();
    assert_eq!(attached.attachment.join(), None);
    assert_eq!(
        handle.status().phase,
        Phase::Closed,
        "the last state is kept"
    );
    assert_eq!(handle.ping(None, 0, Duration::ZERO), Err(PingError::Over));
}

#[test]
fn a_restarted_gateway_is_found_again() {
    let place = Place::new();
    let gateway = place.run(free_port());
    let port = gateway.port;
    let attached = attach(&place.config("127.0.0.1", port)).unwrap();
    attached.events.wait_up(PATIENCE).unwrap();
    drop(gateway);
    for number in 0..10 {
        attached.sender.send(packet(number)).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        attached.attachment.handle().status().phase,
        Phase::Reconnecting
    );
    let start = Instant::now();
    let _gateway = place.run(port);
    attached.events.wait_up(PATIENCE).unwrap();
    eprintln!("found after {:?}", start.elapsed());
    attached.sender.send(packet(77)).unwrap();
    let back = attached.receiver.receive_timeout(PATIENCE).unwrap();
    assert_eq!(back[28..], 77_u16.to_be_bytes());
}

/// As while a gateway's authority is replaced by another (docs/operations.md).
#[test]
fn either_of_two_authorities_in_one_file_is_trusted() {
    let place = Place::new();
    let gateway = place.run(0);
    let other = DevelopmentCa::new();
    for both in [[other.pem(), &place.ca], [&place.ca, other.pem()]] {
        let mut config = place.config("127.0.0.1", gateway.port);
        config.trust = ServerTrust::RootsPem(both.concat().into_bytes());
        let attached = attach(&config).unwrap();
        attached.events.wait_up(PATIENCE).unwrap();
    }
    let mut config = place.config("127.0.0.1", gateway.port);
    config.trust = ServerTrust::RootsPem(other.pem().as_bytes().to_vec());
    let attached = attach(&config).unwrap();
    attached.events.wait_up(PATIENCE).unwrap_err();
}

#[test]
fn nobody_listening_is_said_at_once() {
    let place = Place::new();
    let attached = attach(&place.config("127.0.0.1", free_port())).unwrap();
    let error = attached.events.wait_up(PATIENCE).unwrap_err();
    // After a silence it would be another one.
    assert_eq!(error.code(), "unreachable", "{error}");
    assert_eq!(attached.attachment.join(), Some(error));
}

#[test]
fn a_name_that_is_none_is_said() {
    let place = Place::new();
    let attached = attach(&place.config("gateway.invalid", 4433)).unwrap();
    let error = attached.events.wait_up(PATIENCE).unwrap_err();
    assert_eq!(error.code(), "name-resolution", "{error}");
}

#[test]
fn a_packet_the_tunnel_does_not_carry_comes_back_as_an_icmp_error() {
    let place = Place::new();
    let gateway = place.run(0);
    let attached = attach(&place.config("127.0.0.1", gateway.port)).unwrap();
    attached.events.wait_up(PATIENCE).unwrap();
    let nowhere = build_udp(OURS.parse().unwrap(), [192, 0, 2, 1].into(), 7, 9, b"x");
    attached.sender.send(nowhere).unwrap();
    let error = attached.receiver.receive_timeout(PATIENCE).unwrap();
    assert_eq!(error[20..22], [3, 0], "destination unreachable, no route");
    let drops = attached.attachment.handle().status().counters.drops;
    assert_eq!(drops["send_destination_not_routed"], 1);
}
