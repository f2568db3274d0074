//! Two hosts, each with a TUN device, joined by threads that move packets between the queues:
//!
//! ```text
//!  namespace a                                      namespace b
//!  iperf-like TCP/UDP ── tuna ══ thread ══ tunb ── TCP/UDP
//!  10.7.0.1, 2001:db8:7::1                          10.7.0.2, 2001:db8:7::2
//! ```
//! The kernels of both sides do the real work: they make super-packets, verify checksums and
//! segment what is written.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a failed test"
)]

use std::{
    collections::BTreeSet,
    io::{IoSlice, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use masque_packet::{
    ip,
    merge::{Merger, Push},
    segment::{self, GsoInfo, GsoKind},
};
use masque_testkit::{Lab, Netns};
use masque_tun::{
    PacketFault, READ_BUFFER_BYTES, TunConfig, TunDevice, TunError, TunQueue, Written,
};

const MTU_BYTES: usize = 1400;
const TRANSFER_BYTES: usize = 4 << 20;
const HOSTS: [&str; 2] = ["10.7.0.1", "10.7.0.2"];
const HOSTS_V6: [&str; 2] = ["2001:db8:7::1", "2001:db8:7::2"];

/// How a thread moves packets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Move {
    /// Super-packets as they are.
    Whole,
    /// Split into packets of one MTU, written one by one.
    Split,
    /// Split, merged again, and written as super-packets of several pieces.
    Merge,
}

#[derive(Debug, Default)]
struct Stats {
    read_supers: AtomicUsize,
    written_supers: AtomicUsize,
    longest_plain_bytes: AtomicUsize,
    refused: AtomicUsize,
    full: AtomicUsize,
    kinds: Mutex<BTreeSet<String>>,
    queues: Mutex<BTreeSet<usize>>,
}

struct Wire {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    stats: [Arc<Stats>; 2],
    takes_udp: bool,
    // Dropped after the threads: the namespaces go last.
    hosts: [Netns; 2],
    _lab: Lab,
}

impl Wire {
    fn start(how: Move, offload: bool, queues: usize) -> Option<Self> {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        let hosts = [lab.host("a"), lab.host("b")];
        let (mut ends, mut takes_udp) = (Vec::new(), false);
        for (i, host) in hosts.iter().enumerate() {
            let config = TunConfig {
                name: "tun-test".into(),
                queues,
                offload,
            };
            let (device, queues) = host.enter(|| TunDevice::open(&config)).unwrap();
            assert_eq!(device.name, "tun-test");
            assert_eq!(device.offloads.tcp, offload);
            takes_udp = device.offloads.udp;
            host.ip(&[
                "link",
                "set",
                "tun-test",
                "up",
                "mtu",
                &MTU_BYTES.to_string(),
            ]);
            host.address("tun-test", &format!("{}/24", HOSTS[i]));
            host.address("tun-test", &format!("{}/64", HOSTS_V6[i]));
            ends.push(Arc::new(queues));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stats = [Arc::new(Stats::default()), Arc::new(Stats::default())];
        let mut threads = Vec::new();
        for (from, stats) in stats.iter().enumerate() {
            let (source, sink) = (ends[from].clone(), ends[1 - from].clone());
            let (stop, stats) = (stop.clone(), stats.clone());
            threads.push(thread::spawn(move || {
                pump(&source, &sink[0], how, &stop, &stats)
            }));
        }
        Some(Self {
            stop,
            threads,
            stats,
            takes_udp,
            hosts,
            _lab: lab,
        })
    }

    /// Sends bytes from host `from` to the other and checks that every one arrives.
    fn tcp(&self, from: usize, addresses: [&str; 2]) {
        let to: IpAddr = addresses[1 - from].parse().unwrap();
        let listener = self.hosts[1 - from].enter(|| TcpListener::bind((to, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let receiver = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hash = Fold::default();
            let mut buf = vec![0; 1 << 16];
            loop {
                match stream.read(&mut buf).unwrap() {
                    0 => return hash,
                    n => hash.add(&buf[..n]),
                }
            }
        });
        let mut stream = self.hosts[from].enter(|| TcpStream::connect(target).unwrap());
        let mut sent = Fold::default();
        let mut buf = vec![0u8; 1 << 16];
        for round in 0..TRANSFER_BYTES / buf.len() {
            for (i, byte) in buf.iter_mut().enumerate() {
                *byte = (i * 31 + round * 7) as u8;
            }
            stream.write_all(&buf).unwrap();
            sent.add(&buf);
        }
        drop(stream);
        assert_eq!(receiver.join().unwrap(), sent);
    }

    fn kinds(&self, from: usize) -> Vec<String> {
        self.stats[from]
            .kinds
            .lock()
            .unwrap()
            .iter()
            .cloned()
            .collect()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("a thread that moves packets failed");
            }
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Fold(u64, usize);

impl Fold {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
        }
        self.1 += bytes.len();
    }
}

fn pump(source: &[TunQueue], sink: &TunQueue, how: Move, stop: &AtomicBool, stats: &Stats) {
    let mut buf = vec![0; READ_BUFFER_BYTES];
    while !stop.load(Ordering::Relaxed) {
        wait_readable(source);
        for (index, queue) in source.iter().enumerate() {
            while let Some(packet) = queue.read(&mut buf).unwrap() {
                stats.queues.lock().unwrap().insert(index);
                stats
                    .kinds
                    .lock()
                    .unwrap()
                    .insert(format!("{:?}", packet.gso.kind));
                if packet.gso.kind == GsoKind::None {
                    stats
                        .longest_plain_bytes
                        .fetch_max(packet.packet.len(), Ordering::Relaxed);
                } else {
                    stats.read_supers.fetch_add(1, Ordering::Relaxed);
                }
                deliver(packet.packet, &packet.gso, sink, how, stats);
            }
        }
    }
}

fn deliver(packet: &[u8], gso: &GsoInfo, sink: &TunQueue, how: Move, stats: &Stats) {
    if how == Move::Whole {
        let split_at = usize::from(gso.header_bytes).min(packet.len());
        let (headers, payload) = packet.split_at(split_at);
        // Two pieces, to see that the order is kept.
        let (front, back) = payload.split_at(payload.len() / 2);
        if gso.kind != GsoKind::None {
            stats.written_supers.fetch_add(1, Ordering::Relaxed);
        }
        return send(
            sink,
            gso,
            headers,
            &[IoSlice::new(front), IoSlice::new(back)],
            stats,
        );
    }
    let mut segments = segment::segments(packet, gso).unwrap();
    let mut packets = Vec::new();
    while segments.remaining() > 0 {
        let mut out = vec![0; segments.max_packet_bytes()];
        let length = segments.write_next(&mut out).unwrap();
        out.truncate(length);
        packets.push(out);
    }
    if how == Move::Split {
        for packet in &packets {
            send(sink, &GsoInfo::default(), packet, &[], stats);
        }
        return;
    }
    let mut merger = Merger::new(8);
    for packet in &packets {
        assert_ne!(merger.push(packet, &ip::parse(packet).unwrap()), Push::Full);
    }
    for output in merger.outputs() {
        if output.gso.kind != GsoKind::None {
            stats.written_supers.fetch_add(1, Ordering::Relaxed);
        }
        let pieces: Vec<_> = output
            .pieces
            .iter()
            .map(|p| IoSlice::new(&packets[p.packet()][p.range()]))
            .collect();
        send(sink, &output.gso, output.headers, &pieces, stats);
    }
}

fn send(sink: &TunQueue, gso: &GsoInfo, headers: &[u8], pieces: &[IoSlice<'_>], stats: &Stats) {
    match sink.write_super(gso, headers, pieces) {
        Ok(Written::Done) => {}
        Ok(Written::Full) => {
            stats.full.fetch_add(1, Ordering::Relaxed);
        }
        Err(TunError::Refused) => {
            stats.refused.fetch_add(1, Ordering::Relaxed);
        }
        Err(e) => panic!("{e}: {gso:?}, {} bytes of headers", headers.len()),
    }
}

#[expect(unsafe_code, reason = "poll of the queues")]
fn wait_readable(queues: &[TunQueue]) {
    let mut fds: Vec<_> = queues
        .iter()
        .map(|q| libc::pollfd {
            fd: q.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: the array is valid for its length.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 20) };
}

#[test]
fn super_packets_cross_whole_in_both_directions() {
    let Some(wire) = Wire::start(Move::Whole, true, 1) else {
        return;
    };
    for from in [0, 1] {
        wire.tcp(from, HOSTS);
        wire.tcp(from, HOSTS_V6);
    }
    for (from, stats) in wire.stats.iter().enumerate() {
        assert!(stats.read_supers.load(Ordering::Relaxed) > 20, "{stats:?}");
        assert_eq!(stats.refused.load(Ordering::Relaxed), 0);
        assert_eq!(wire.kinds(from), ["None", "TcpV4", "TcpV6"]);
    }
}

#[test]
fn split_packets_have_right_checksums() {
    // Written plain, their checksums are verified by the receiving kernel; a wrong one would stall
    // the transfer.
    let Some(wire) = Wire::start(Move::Split, true, 1) else {
        return;
    };
    wire.tcp(0, HOSTS);
    wire.tcp(1, HOSTS_V6);
    assert!(wire.stats[0].read_supers.load(Ordering::Relaxed) > 20);
    assert_eq!(wire.stats[0].refused.load(Ordering::Relaxed), 0);
}

#[test]
fn merged_packets_are_taken_as_super_packets() {
    let Some(wire) = Wire::start(Move::Merge, true, 1) else {
        return;
    };
    wire.tcp(0, HOSTS);
    wire.tcp(1, HOSTS_V6);
    for stats in &wire.stats {
        assert_eq!(stats.refused.load(Ordering::Relaxed), 0);
    }
    assert!(
        wire.stats[0].written_supers.load(Ordering::Relaxed) > 20,
        "{:?}",
        wire.stats
    );
    assert!(
        wire.stats[1].written_supers.load(Ordering::Relaxed) > 20,
        "{:?}",
        wire.stats
    );
}

#[test]
fn without_offloads_every_packet_fits_the_mtu() {
    let Some(wire) = Wire::start(Move::Whole, false, 1) else {
        return;
    };
    wire.tcp(0, HOSTS);
    let stats = &wire.stats[0];
    assert_eq!(stats.read_supers.load(Ordering::Relaxed), 0);
    assert_eq!(stats.longest_plain_bytes.load(Ordering::Relaxed), MTU_BYTES);
}

#[test]
fn every_queue_carries_flows() {
    let Some(wire) = Wire::start(Move::Whole, true, 3) else {
        return;
    };
    // The kernel picks a queue by the flow's hash; that twelve flows meet in one is very unlikely.
    for _ in 0..6 {
        wire.tcp(0, HOSTS);
        wire.tcp(0, HOSTS_V6);
    }
    assert!(wire.stats[0].queues.lock().unwrap().len() > 1);
    assert_eq!(wire.stats[0].refused.load(Ordering::Relaxed), 0);
}

#[test]
fn udp_super_packets_become_the_datagrams_again() {
    let Some(wire) = Wire::start(Move::Whole, true, 1) else {
        return;
    };
    for addresses in [HOSTS, HOSTS_V6] {
        let ip = |i: usize| addresses[i].parse::<IpAddr>().unwrap();
        let receiver = wire.hosts[1].enter(|| UdpSocket::bind((ip(1), 0)).unwrap());
        let sender = wire.hosts[0].enter(|| UdpSocket::bind((ip(0), 0)).unwrap());
        receiver
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let target = receiver.local_addr().unwrap();
        let payload: Vec<u8> = (0..10_000u32).map(|i| (i / 1000) as u8).collect();
        send_segmented(&sender, target, &payload, 1000);
        let mut buf = [0; 2000];
        for expected in 0..10u8 {
            let (length, _) = receiver.recv_from(&mut buf).unwrap_or_else(|e| {
                panic!("datagram {expected} to {target}: {e}; {:?}", wire.stats[0])
            });
            assert_eq!(buf[..length], [expected; 1000]);
        }
    }
    // Before Linux 6.2 the kernel segments UDP itself.
    let got_super = wire.kinds(0).contains(&"UdpL4".to_owned());
    assert_eq!(got_super, wire.takes_udp, "{:?}", wire.kinds(0));
}

/// One `sendmsg` with UDP_SEGMENT.
#[expect(unsafe_code, reason = "setsockopt UDP_SEGMENT has no safe form in std")]
fn send_segmented(socket: &UdpSocket, to: SocketAddr, payload: &[u8], segment_bytes: i32) {
    // SAFETY: the option takes one int.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const segment_bytes).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0, "UDP_SEGMENT");
    assert_eq!(socket.send_to(payload, to).unwrap(), payload.len());
}

#[test]
fn errors_say_what_is_wrong() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let ns = lab.host("a");
    let config = TunConfig {
        name: "taken".into(),
        queues: 2,
        offload: true,
    };
    let (device, queues) = ns.enter(|| TunDevice::open(&config)).unwrap();
    // A multi-queue device could be joined; that would steal half of its packets.
    let again = ns.enter(|| TunDevice::open(&config)).unwrap_err();
    assert!(
        matches!(again, TunError::NameTaken(ref name) if name == "taken"),
        "{again}"
    );
    let queue = &queues[0];
    let mut short = vec![0; READ_BUFFER_BYTES - 1];
    assert!(matches!(
        queue.read(&mut short),
        Err(TunError::ShortBuffer { .. })
    ));
    let packet = [0x45u8; 100];
    assert!(
        matches!(queue.write(&packet), Err(TunError::Down)),
        "the interface is down"
    );
    ns.ip(&["link", "set", "taken", "up"]);
    let mut buf = vec![0; READ_BUFFER_BYTES];
    assert!(
        matches!(queue.write(&[0x25; 100]), Err(TunError::Refused)),
        "neither IPv4 nor IPv6"
    );
    assert!(matches!(
        queue.write(&[]),
        Err(TunError::BadWrite(PacketFault::Short(0)))
    ));
    let many = vec![IoSlice::new(&packet); 255];
    let long = queue.write_super(&GsoInfo::default(), &[], &many);
    assert!(matches!(
        long,
        Err(TunError::BadWrite(PacketFault::Pieces(255)))
    ));
    while queue.read(&mut buf).unwrap().is_some() {}
    let (shown, index) = (
        ns.ip(&["-o", "link", "show", "taken"]),
        device.index.to_string(),
    );
    assert_eq!(shown.split(':').next(), Some(index.as_str()));
    ns.ip(&["link", "del", "taken"]);
    assert!(matches!(queue.read(&mut buf), Err(TunError::Down)));
    drop(queues);
    let unnamed = TunConfig {
        name: String::new(),
        queues: 1,
        offload: false,
    };
    let (device, _queues) = ns.enter(|| TunDevice::open(&unnamed)).unwrap();
    assert_eq!(device.name, "tun0");
}

#[test]
fn a_device_vanishes_with_its_queues() {
    if let Err(skip) = Lab::available() {
        eprintln!("{skip}");
        return;
    }
    let mut lab = Lab::new();
    let ns = lab.host("a");
    let config = TunConfig {
        name: "brief".into(),
        queues: 1,
        offload: true,
    };
    let opened = ns.enter(|| TunDevice::open(&config)).unwrap();
    assert!(ns.ip(&["link"]).contains("brief"));
    drop(opened);
    let start = Instant::now();
    while ns.ip(&["link"]).contains("brief") {
        assert!(start.elapsed() < Duration::from_secs(2), "still there");
        thread::sleep(Duration::from_millis(10));
    }
}
