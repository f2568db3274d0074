//! Writes the hand-made part of the fuzzing corpus: one file for each kind of thing that a target
//! knows, so that the fuzzer does not have to find out what a checksum is.
//!
//! `cargo run -p masque-replay --example seeds`

use std::{fs, io, net::IpAddr, path::PathBuf};

use masque_http3::varint;
use masque_packet::{
    build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp, tcp_flag},
    checksum::{checksum, pseudo_header},
    protocol,
};
use masque_protocol::{AssignedAddress, Capsule, RequestedAddress, from_prefixes};

fn main() -> io::Result<()> {
    let seeds = [
        ("packet", packets()),
        ("merge", merges()),
        ("capsule", capsules()),
        ("session", sessions()),
        ("frame", frames()),
        ("header", headers()),
        ("template", texts(&TEMPLATES)),
        ("fields", fields()),
        ("manifest", manifests()?),
        ("resources", resources()),
    ];
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (target, files) in seeds {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (number, data) in files.into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), data)?;
        }
    }
    Ok(())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4([10, 0, 0, 1].into()))
}

fn ends() -> [[IpAddr; 2]; 2] {
    [
        [address("10.0.0.1"), address("10.0.0.2")],
        [address("2001:db8::1"), address("2001:db8::2")],
    ]
}

/// Choices (segmentation kind, checksum start and offset, segment size, MSS), then the packet.
fn packets() -> Vec<Vec<u8>> {
    let with = |choices: [u8; 8], packet: &[u8]| [&choices[..], packet].concat();
    let mut files = Vec::new();
    for [from, to] in ends() {
        let syn = TcpFields {
            flags: tcp_flag::SYN,
            options: &[2, 4, 0x05, 0xb4, 1, 1, 4, 2],
            ..TcpFields::default()
        };
        let ack = TcpFields {
            flags: tcp_flag::ACK,
            ..TcpFields::default()
        };
        let plain = [0, 0, 0, 0, 0, 0, 0x04, 0xb0];
        let icmp = build_icmp_echo(from, to, 7, 1, b"echo");
        files.push(with(plain, &build_tcp(from, to, 1000, 80, &syn, b"")));
        files.push(with(plain, &build_udp(from, to, 1000, 53, b"datagram")));
        files.push(with(plain, &icmp));
        files.push(with(plain, &quoting(from, to, &icmp)));
        let (header, tcp_kind) = if from.is_ipv4() { (20, 1) } else { (40, 2) };
        let mut tcp = build_tcp(from, to, 1000, 80, &ack, &[7; 300]);
        let mut udp = build_udp(from, to, 1000, 53, &[7; 300]);
        for (packet, field, kind, number) in [
            (&mut tcp, 16, tcp_kind, protocol::TCP),
            (&mut udp, 6, 3, protocol::UDP),
        ] {
            let sum = pseudo_header(from, to, number, packet.len() - header).fold();
            packet[header + field..header + field + 2].copy_from_slice(&sum.to_be_bytes());
            let choices = [kind | 4, 0, header as u8, field as u8, 0, 64, 4, 0];
            files.push(with(choices, packet));
        }
    }
    let [_, [from, to]] = ends();
    let udp = [3, 0xe8, 0, 53, 0, 8, 0, 0];
    for (first, chain) in [
        (0, &[17, 0, 1, 4, 0, 0, 0, 0][..]),
        (44, &[17, 0, 0, 1, 0, 0, 0, 9]),
        (44, &[17, 0, 0, 8, 0, 0, 0, 9]),
        (
            43,
            &[
                17, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            ],
        ),
        (
            60,
            &[51, 0, 0, 0, 0, 0, 0, 0, 17, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],
        ),
    ] {
        let packet = build_ip(from, to, first, &[chain, &udp].concat());
        files.push(with([0; 8], &packet));
    }
    for (options, field) in [
        (&[][..], 0_u16),
        (&[0x94, 4, 0, 0, 7, 4, 4, 0], 0),
        (&[0x94, 4, 0, 0], 0x2010),
    ] {
        let mtu = [0, 0, 0, 0, 0, 0, 0, 100];
        files.push(with(mtu, &without_dont_fragment(options, field)));
    }
    files
}

/// An IPv4 packet that is longer than an MTU of 100 and may be fragmented.
fn without_dont_fragment(options: &[u8], flags_and_offset: u16) -> Vec<u8> {
    let [[from, to], _] = ends();
    let mut packet = build_ip(from, to, 99, &[options, &[7; 200]].concat());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20 + options.len()]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An ICMP error about `packet`; its own checksum is wrong, which only its receiver minds.
fn quoting(from: IpAddr, to: IpAddr, packet: &[u8]) -> Vec<u8> {
    let (number, kind) = if from.is_ipv4() {
        (protocol::ICMP, 3)
    } else {
        (protocol::ICMPV6, 1)
    };
    build_ip(
        to,
        from,
        number,
        &[&[kind, 0, 0, 0, 0, 0, 0, 0], packet].concat(),
    )
}

/// Slots, then steps: see `masque_replay`'s merge target.
fn merges() -> Vec<Vec<u8>> {
    vec![
        [&[4][..], &[5, 100, 5, 100, 5, 100, 0x15, 9]].concat(),
        [&[4][..], &[0x85, 100, 0x85, 100, 0xa5, 7, 0x85, 100]].concat(),
        [&[4][..], &[3, 100, 3, 100, 3, 40, 3, 100, 0x83, 9]].concat(),
        [
            &[2][..],
            &[0x0d, 90, 0x0d, 90, 0x2d, 90, 0x4d, 90, 0x6d, 90, 0x0d, 90],
        ]
        .concat(),
        [
            &[4][..],
            &[5, 100, 2, 44, 1, 2, 5, 100, 3, 50, 2, 30, 1, 2, 3, 50],
        ]
        .concat(),
        [&[4][..], &[5, 100, 2, 44, 1, 6, 5, 100, 1, 2, 8, 1, 0]].concat(),
        [&[0x44][..], &[3, 100, 3, 100, 5, 50, 5, 50]].concat(),
        std::iter::once(63).chain([5, 3].repeat(90)).collect(),
    ]
}

fn capsule_list() -> Vec<Vec<u8>> {
    let net = |text: &str| text.parse().unwrap_or_default();
    let assign = [net("10.0.100.50/32"), net("2001:db8::50/128")].map(AssignedAddress::unprompted);
    let request = RequestedAddress {
        request_id: 1,
        prefix: net("0.0.0.0/32"),
    };
    let routes = from_prefixes(&[net("10.0.0.0/16"), net("2001:db8::/32")], None);
    let filtered = from_prefixes(&[net("192.0.2.0/24")], Some(17));
    [
        Capsule::AddressAssign(assign.to_vec()),
        Capsule::AddressAssign(Vec::new()),
        Capsule::AddressRequest(vec![request]),
        Capsule::RouteAdvertisement(routes),
        Capsule::RouteAdvertisement(filtered),
        Capsule::Datagram(vec![0, 0x45, 1, 2].into()),
        Capsule::Unknown {
            capsule_type: 0x1ace_79ec,
            length_bytes: 0,
        },
    ]
    .iter()
    .map(|capsule| capsule.encode().to_vec())
    .collect()
}

fn capsules() -> Vec<Vec<u8>> {
    let mut list = capsule_list();
    list.push(list.concat());
    let mut unknown = Vec::new();
    varint::put(&mut unknown, 0x29 * 1000 + 0x17);
    varint::put(&mut unknown, 70);
    list.push([&unknown[..], &[9; 70], &list[0]].concat());
    list.iter()
        .map(|stream| [&[3, 7], &stream[..]].concat())
        .collect()
}

/// Flags, then commands of two honest ends, or chunks of a peer's bytes.
fn sessions() -> Vec<Vec<u8>> {
    let v4 = [32, 10, 0, 100, 50];
    let v6 = [0x80 | 64, 0x20, 0x01, 0x0d, 0xb8, 0x50];
    let mut honest = vec![0];
    for (op, count) in [(0, 2), (8, 0), (0x90, 2), (24, 2), (0x98, 1)] {
        honest.push(op);
        if op == 8 {
            honest.push(17);
        }
        honest.push(count);
        for prefix in [&v4[..], &v6].iter().take(count.into()) {
            honest.extend_from_slice(prefix);
        }
    }
    honest.extend([0x38, 0x28, 0, 3, 0xb8, 0x20, 3, 1, 2, 3, 0x30]);
    let mut files = vec![honest];
    for capsule in capsule_list() {
        for flags in [2, 3] {
            let head = [flags, 0, capsule.len() as u8];
            files.push([&head[..], &capsule, &[4, 3, 0, 0x45, 1, 13]].concat());
        }
    }
    files
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, kind);
    varint::put(&mut out, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

fn section(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let lines = lines
        .iter()
        .map(|(name, value)| qpack::HeaderField::new(*name, *value));
    let _ = qpack::encode_stateless(&mut out, lines);
    out
}

const EXTENDED: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "connect-ip"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/.well-known/masque/ip/*/*/"),
    ("capsule-protocol", "?1"),
];
const GET: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/"),
    ("cookie", "a=b"),
];

fn frames() -> Vec<Vec<u8>> {
    let settings = frame(4, &[0x08, 1, 0x33, 1, 0x06, 0x50, 0]);
    let control = [&[0][..], &settings, &frame(0x21, &[9]), &frame(7, &[8])].concat();
    let mut files = Vec::new();
    let messages = [
        frame(1, &section(&EXTENDED)),
        [
            frame(1, &section(&GET)),
            frame(0, b"body"),
            frame(1, &section(&[("a", "b")])),
        ]
        .concat(),
        frame(
            1,
            &section(&[(":status", "200"), ("capsule-protocol", "?1")]),
        ),
        [
            frame(1, &section(&[(":status", "103")])),
            frame(0x21, &[1; 30]),
        ]
        .concat(),
    ];
    for message in &messages {
        for role in [2, 3] {
            let head = [role, 1, 5, 30, 2, control.len() as u8];
            files.push([&head[..], &control, message].concat());
        }
        let chunk = |op: u8, fin: u8, data: &[u8]| [&[op, fin, data.len() as u8], data].concat();
        let server = [chunk(0x20, 0, &control), chunk(0, 0, message)].concat();
        let answers = [7, 2, 3, 2, 0, 9, 4, 110, 0, 0, 5, 0, 9, 0, 7, 5, 7, 5, 7, 4];
        files.push([&[0][..], &server, &answers].concat());
        let asked = [chunk(0x30, 0, &control[..control.len() - 3]), vec![6, 1, 0]].concat();
        let answered = chunk(0, 0xff, message);
        files.push([&[1][..], &asked, &answered, &answers].concat());
    }
    files
}

/// Choices of names and values, or a whole section behind an odd byte.
fn headers() -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> = vec![
        vec![0, 0x10, 0x24, 0x31, 0x42, 0x53, 0x86],
        vec![0, 0x60, 0x31, 0x42, 0x53, 0x0a, 3, b'a', b'=', b'b', 0x9c],
        vec![0, 0x10, 0x42],
        vec![0, 0x75, 0x86, 0x07, 1, b'p', 0x0f, 1, b'y', 1, b'z'],
        vec![0, 0x60, 0x31, 0x49, 0x53, 0xab],
    ];
    for lines in [&EXTENDED[..], &GET, &[(":status", "103"), ("link", "</a>")]] {
        files.push([&[1], &section(lines)[..]].concat());
    }
    files
}

/// A template at the client, a path template at the proxy, target, ipproto.
const TEMPLATES: [&str; 9] = [
    "https://a.example/.well-known/masque/ip/{target}/{ipproto}/\n/{target}\n*\n*",
    "https://a.example:8443/vpn\n/vpn\n10.0.0.0%2F8\n17",
    "https://[2001:db8::1]/ip{?target,ipproto}\n/ip\n2001%3Adb8%3A%3A%2F32\n255",
    "https://a.example/ip?t={target}&i={ipproto}\n/\na.example\n*",
    "https://a.example/ip?a=b{&target,ipproto}\n/\n0.0.0.0%2F0\n0",
    "https://a.example/{target,ipproto}/x\n/\n%2A\n6",
    "/ip?target=10.0.0.1&ipproto=6\n/ip{?target,ipproto}\nA.Example.\n6",
    "/a/%2A/6/\n/a/{target}/{ipproto}/\n::\n256",
    "/x?i=6&t=*\n/x?t={target}&i={ipproto}\n10.1\n06",
];

fn texts(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn fields() -> Vec<Vec<u8>> {
    let key = "A".repeat(43);
    let proof = "A".repeat(86);
    let verification = "A".repeat(22);
    let concealed = format!(
        "0Concealed k=YWJj, a={key}, s=2055, v={verification}, p={proof}, realm=\"a\\\"b\""
    );
    let mut files = texts(&[
        "0?1",
        "0?1;a=1;b=\"x\"",
        "0gateway.example; error=dns_error; details=\"no such name\"",
        "0FooCDN; received-status=503; next-hop=\"1.net\", \"Bar\";error=dns_timeout;x=?0;y=:AQ==:;z=1.5",
        "1a; error=quota\n\"b c\"",
        "3a, b\nc;details=\"\\\\\"\nd; error=destination_unavailable",
    ]);
    files.push(concealed.into_bytes());
    files
}

/// A flag, then objects: kind, name, how many changes (11 are none), and each change's field and
/// value by number.
fn resources() -> Vec<Vec<u8>> {
    let world = [0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 1, 2, 0, 2, 2, 0];
    let mut files = vec![[&[0][..], &world].concat()];
    for field in 0..40_u8 {
        // Fields of points, connectors, attachments and policies, as they follow each other.
        let kind = match field {
            0..27 => 0,
            27..33 => 2,
            33 => 1,
            _ => 3,
        };
        for value in [field, field * 5 + 3] {
            let changed = [kind, 0, 12, field, value % 44];
            files.push([&[field & 1][..], &world, &changed].concat());
        }
    }
    files
}

fn manifests() -> io::Result<Vec<Vec<u8>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/standalone");
    let mut names: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    names.sort_unstable();
    let mut files = Vec::new();
    let mut all = Vec::new();
    for name in names {
        let text = fs::read_to_string(name)?;
        // Comments teach the fuzzer nothing.
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect();
        let text = lines.join("\n");
        files.push(text.clone().into_bytes());
        all.push(text);
    }
    files.push(all.join("\n# next file\n").into_bytes());
    files.push(all.join("\n---\n").into_bytes());
    let json = br#"{"apiVersion": "networking.datumapis.com/v1alpha1", "kind": "VPC", "metadata": {"name": "a"}}"#;
    files.push(json.to_vec());
    Ok(files)
}
