//! What one turn takes of each source, with more waiting than that: others have their share of the
//! turn, and the rest goes with the next ones.

use std::os::fd::AsFd;

use masque_packet::{build::build_udp, flow::FlowKey, segment::GsoInfo};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::{
    served::{CLIENT, HOST, PORT, Served},
    *,
};

const ROOM_BYTES: usize = 1024 * 1024;

/// Turns until the count has come to `all`; what it was after each turn. A turn that leaves something
/// must say so, or the shard would sleep.
fn counts(bench: &mut Bench, all: u64, count: impl Fn(&Bench) -> u64) -> Vec<u64> {
    let mut counts = Vec::new();
    while counts.last() != Some(&all) {
        assert!(counts.len() < 20, "{counts:?} of {all}");
        let more = bench.shard.turn();
        let now = count(bench);
        assert!(more || now == all, "it would sleep: {counts:?}, {now}");
        counts.push(now);
    }
    counts
}

/// Datagrams of a version of QUIC that nobody knows are answered, each.
#[test]
fn a_turn_receives_and_sends_no_more_than_its_budgets() {
    const DATAGRAMS: u64 = 512 + 1;
    let mut bench = Bench::new();
    let (address, _) = bench.listen();
    bench.shard.turn();
    let socket = bench.shard.ports[0].socket();
    let (room_bytes, _) = socket.buffer_bytes().unwrap();
    if room_bytes < 4 * 1024 * 1024 {
        return println!("SKIPPED: a socket's buffer holds {room_bytes} bytes only");
    }
    let socket = std::net::UdpSocket::from(socket.as_fd().try_clone_to_owned().unwrap());
    let stranger = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    stranger.set_nonblocking(true).unwrap();
    let mut datagram = [0; 1200];
    // A long header of a version that forces negotiation (RFC 9000 §15), and connection ids of eight
    // bytes.
    datagram[..6].copy_from_slice(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]);
    datagram[14] = 8;
    for _ in 0..DATAGRAMS {
        stranger.send_to(&datagram, address).unwrap();
    }
    let waits = || socket.peek(&mut [0; 1]).is_ok();
    bench.shard.ports[0].ready = true;
    let (mut answers, mut turns) = (0, 0);
    while answers < DATAGRAMS {
        turns += 1;
        let more = bench.shard.turn();
        assert_eq!(waits(), turns == 1, "one waits after the first turn");
        let before = answers;
        while stranger.recv(&mut datagram).is_ok() {
            answers += 1;
        }
        assert_eq!(answers, DATAGRAMS.min(before + 64));
        assert!(more || answers == DATAGRAMS, "it would sleep");
    }
}

/// Sends so many commands that are answered; counts the answers so far.
fn commands(bench: &Bench, count: usize) -> impl FnMut() -> usize + use<> {
    let ask = |_| {
        let (reply, told) = oneshot::channel();
        let sessions = false;
        let command = Command::Report { sessions, reply };
        bench.mailbox.send(command).unwrap();
        told
    };
    let mut asked: Vec<_> = (0..count).map(ask).collect();
    move || {
        asked.retain_mut(|told| told.try_recv().is_err());
        count - asked.len()
    }
}

#[test]
fn a_turn_takes_no_more_commands_than_its_budget() {
    let mut bench = Bench::new();
    let mut answered = commands(&bench, 150);
    for taken in [64, 128, 150] {
        let more = bench.shard.turn();
        assert_eq!((answered(), more), (taken, taken < 150));
    }
}

#[test]
fn a_turn_obeys_no_more_commands_between_packets_than_its_budget() {
    let Some(mut served) = Served::new(ROOM_BYTES) else {
        return;
    };
    served.host_sends(200);
    let before = served.to_client();
    let mut answered = commands(&served.bench, 150);
    for (obeyed, packets) in [(64, 1), (128, 2), (150, 200)] {
        let (shard, at) = (&mut served.bench.shard, Instant::now());
        let more = shard.vpcs_to_datagrams(at, Now::default());
        assert_eq!(answered(), obeyed);
        assert_eq!(served.to_client() - before, packets);
        assert_eq!(more, packets < 200);
    }
}

/// Many small datagrams, which come in few QUIC packets.
fn datagrams_of_a_client(has_tunnel: bool, count: impl Fn(&Bench) -> u64) {
    const DATAGRAMS: u64 = 1500;
    let mut bench = Bench::with_room(ROOM_BYTES);
    let (key, _) = bench.open(grant());
    if !has_tunnel {
        bench.shard.tunnels.remove(key).unwrap();
    }
    let client = &mut bench.client;
    let sent = |client: &Machine| client.connection_stats(key.conn).unwrap().datagrams_sent;
    for _ in 0..DATAGRAMS {
        let datagram = client.send_datagram(key.conn, key.stream, 21, |out| out.fill(0));
        datagram.unwrap();
    }
    let mut now = Instant::now();
    while sent(client) < DATAGRAMS {
        bench.socket.flush(client, now, 64).unwrap();
        // They leave at a pace.
        now += Duration::from_millis(1);
    }
    bench.shard.ports[0].ready = true;
    assert_eq!(counts(&mut bench, DATAGRAMS, count), [1024, 1500]);
}

#[test]
fn a_turn_takes_no_more_datagrams_of_clients_than_its_budget() {
    datagrams_of_a_client(true, |bench| bench.shard.figures.tun_missing);
}

#[test]
fn datagrams_for_no_tunnel_count_as_well() {
    datagrams_of_a_client(false, |bench| bench.shard.figures.unclaimed);
}

#[test]
fn a_turn_reads_no_more_of_a_queue_than_its_budget() {
    let Some(mut served) = Served::new(ROOM_BYTES) else {
        return;
    };
    let behind = queue_with_a_packet(&mut served.lab);
    served.host_sends(400);
    served.bench.shard.open_vpc(VpcIndex(1), behind, false);
    // Half of 512 is the other VPC's as long as it has packets.
    for taken in [256, 400] {
        let more = served.bench.shard.turn();
        assert_eq!(served.to_client(), taken);
        assert!(more || taken == 400, "it would sleep");
        let strays = served.bench.shard.plane.stray_counters();
        assert!(strays.dropped_total() > 0, "the other VPC has to wait");
    }
    served.bench.until(|bench| bench.datagrams == 400);
}

/// A hundred packets of a client are acknowledged by fifty: what a turn left of them in the device's
/// line would grow until it is lost there.
#[test]
fn a_turn_takes_all_that_the_devices_line_holds() {
    let Some(mut served) = Served::new(1024 * 1024) else {
        return;
    };
    served.host_sends(400);
    let (at, before) = (Instant::now(), served.to_client());
    let more = served.bench.shard.vpcs_to_datagrams(at, Now::default());
    assert_eq!(served.to_client() - before, 400);
    assert!(!more, "the line is empty");
}

#[test]
fn a_turn_takes_two_megabytes_of_super_packets_and_no_more() {
    let Some(mut served) = Served::new(16 * 1024 * 1024) else {
        return;
    };
    if !served.merges_udp {
        println!("SKIPPED: this kernel's TUN takes no UDP super-packets (Linux 6.2 has them)");
        return;
    }
    setsockopt(&served.inside, UdpGsoSegment, &1300).unwrap();
    for _ in 0..50 {
        let to = (Ipv4Addr::from(CLIENT), PORT);
        served.inside.send_to(&[7; 45 * 1300], to).unwrap();
    }
    let (at, before) = (Instant::now(), served.to_client());
    let shard = &mut served.bench.shard;
    assert!(
        shard.vpcs_to_datagrams(at, Now::default()),
        "there are more"
    );
    let taken = (2_u64 << 20).div_ceil(45 * 1300 + 28);
    assert_eq!(served.to_client() - before, 45 * taken);
}

#[test]
fn a_turn_takes_no_more_handed_packets_than_its_budget() {
    let Some(mut served) = Served::new(ROOM_BYTES) else {
        return;
    };
    let packet = build_udp(HOST.into(), CLIENT.into(), PORT, PORT, &[7; 100]);
    // A VPC that is not here, because one alone has no more places than a turn takes.
    for vpc in [1; 100].into_iter().chain([0; 200]) {
        let mailbox = &served.bench.mailbox;
        assert!(mailbox.hand_over(VpcIndex(vpc), &GsoInfo::default(), &packet));
    }
    served.bench.shard.mail = true;
    served.host_sends(1);
    for taken in [156, 200] {
        let more = served.bench.shard.turn();
        assert_eq!(served.to_client(), taken + 1, "with one of its own queue");
        assert!(more || taken == 200, "it would sleep");
    }
    served.bench.until(|bench| bench.datagrams == 201);
}

/// So many packets of one length wait; how many have left after each turn.
fn sent_of_what_waits(bench: &mut Bench, packets: u64, packet_bytes: usize) -> Vec<u64> {
    let (_, slot) = bench.open(grant());
    let (shard, at) = (&mut bench.shard, Instant::now());
    for _ in 0..packets {
        let (flow, gso) = (FlowKey::UNSPECIFIED, GsoInfo::default());
        let client = (slot, &flow);
        let (packet, figures) = (vec![7; packet_bytes], &mut shard.figures);
        shard.waiting.push(at, client, &packet, &gso, figures);
    }
    let sent = |bench: &Bench| packets - bench.shard.waiting.len() as u64;
    counts(bench, packets, sent)
}

#[test]
fn a_turn_sends_no_more_of_what_waits_than_its_budget() {
    let mut bench = Bench::with_room(ROOM_BYTES);
    assert_eq!(sent_of_what_waits(&mut bench, 600, 100), [512, 600]);
    bench.until(|bench| bench.datagrams == 600);
    let mut bench = Bench::with_room(ROOM_BYTES);
    let sent = sent_of_what_waits(&mut bench, 50, 60_000);
    assert_eq!(sent, [35, 50], "35 are two megabytes");
}

#[test]
fn a_turn_takes_two_megabytes_of_handed_packets_and_no_more() {
    let mut bench = Bench::new();
    for _ in 0..50 {
        let packet = vec![7; 60_000];
        let mailbox = &bench.mailbox;
        assert!(mailbox.hand_over(VpcIndex(0), &GsoInfo::default(), &packet));
    }
    bench.shard.mail = true;
    assert!(bench.shard.turn(), "it would sleep");
    let left = std::iter::from_fn(|| bench.mailbox.packet()).count();
    assert_eq!(left, 50 - 35);
}
