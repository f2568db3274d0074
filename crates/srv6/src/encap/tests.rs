use proptest::prelude::*;

use super::*;

fn source() -> Ipv6Addr {
    "2001:db8:ff03:3::1".parse().unwrap()
}

fn sid() -> Sid {
    "2001:db8:ff03:1:e001::".parse().unwrap()
}

fn ipv4(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 63, 17, 0, 0, 10, 0, 100, 50, 10, 0, 2, 100,
    ];
    packet.extend(payload);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn ipv6(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([59, 64]);
    packet.extend([0xfd; 32]);
    packet.extend(payload);
    packet
}

fn encapsulated(inner: &[u8]) -> Vec<u8> {
    let mut outer = outer_header(inner, source(), sid(), 0x12345)
        .unwrap()
        .to_vec();
    outer.extend(inner);
    outer
}

#[test]
fn the_outer_header_is_the_fabrics() {
    let inner = ipv4(b"hello");
    let expected: [u8; 40] = [
        0x60, 0x01, 0x23, 0x45, 0, 25, 4,
        64, // no traffic class, label, length, IPv4, hop limit
        0x20, 0x01, 0x0d, 0xb8, 0xff, 0x03, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, // source
        0x20, 0x01, 0x0d, 0xb8, 0xff, 0x03, 0, 1, 0xe0, 0x01, 0, 0, 0, 0, 0, 0, // SID
    ];
    assert_eq!(
        outer_header(&inner, source(), sid(), 0xfff1_2345),
        Ok(expected)
    );
    assert_eq!(outer_header(&ipv6(b""), source(), sid(), 0).unwrap()[6], 41);
}

#[test]
fn refuses_what_is_no_packet() {
    let header = |inner: &[u8]| outer_header(inner, source(), sid(), 1);
    assert_eq!(header(b""), Err(EncapError::Version(0)));
    assert_eq!(header(&[0x50; 60]), Err(EncapError::Version(5)));
    assert_eq!(header(&[0x45; 65_536]), Err(EncapError::Length(65_536)));
    assert!(header(&[0x45; 65_535]).is_ok());
}

#[test]
fn takes_back_what_it_wrapped() {
    for inner in [ipv4(b"payload"), ipv6(b"payload")] {
        let outer = encapsulated(&inner);
        let other: Sid = "2001:db8:ff03:1:e002::".parse().unwrap();
        let got = decapsulate(&outer, &[other, sid()]);
        assert_eq!(
            got,
            Ok(Inner {
                sid: sid(),
                packet: &inner
            })
        );
        assert_eq!(decapsulate(&outer, &[other]), Err(DecapError::UnknownSid));
    }
}

#[test]
fn drops_every_other_form() {
    let good = encapsulated(&ipv4(b"payload"));
    let broken = |edit: fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        decapsulate(&packet, &[sid()]).map(|inner| inner.packet.len())
    };
    assert_eq!(broken(|_| ()), Ok(27));
    assert_eq!(broken(|p| p.truncate(39)), Err(DecapError::OuterLength));
    assert_eq!(broken(|p| p.truncate(60)), Err(DecapError::OuterLength));
    assert_eq!(broken(|p| p.push(0)), Err(DecapError::OuterLength));
    assert_eq!(broken(|p| p[0] = 0x45), Err(DecapError::OuterVersion));
    assert_eq!(broken(|p| p[6] = 43), Err(DecapError::RoutingHeader));
    assert_eq!(broken(|p| p[6] = 41), Err(DecapError::MalformedInner));
    for next_header in [0, 6, 17, 44, 50, 58, 59, 60, 143] {
        let mut packet = good.clone();
        packet[6] = next_header;
        assert_eq!(decapsulate(&packet, &[sid()]), Err(DecapError::NextHeader));
    }
    // The inner length lies, in both directions, and so does its header length.
    assert_eq!(broken(|p| p[43] += 1), Err(DecapError::MalformedInner));
    assert_eq!(broken(|p| p[43] -= 1), Err(DecapError::MalformedInner));
    assert_eq!(broken(|p| p[40] = 0x44), Err(DecapError::MalformedInner));
}

#[test]
fn flow_labels_differ_and_are_never_zero() {
    assert_eq!(flow_label(0), 1);
    let labels: std::collections::BTreeSet<u32> = (0..1000u64)
        .map(|flow| flow_label(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    assert!(labels.len() > 990);
    assert!(labels.iter().all(|&label| label != 0 && label <= 0xf_ffff));
}

proptest! {
    #[test]
    fn never_panics_on_noise(mut noise in prop::collection::vec(any::<u8>(), 0..120), seed: bool) {
        if seed && noise.len() >= 40 {
            noise[0] = 0x60;
            let payload_bytes = noise.len() - 40;
            noise[4..6].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            noise[6] = if noise[7] & 1 == 0 { 4 } else { 41 };
            noise[24..40].copy_from_slice(&sid().0.octets());
        }
        if let Ok(inner) = decapsulate(&noise, &[sid()]) {
            prop_assert_eq!(inner.packet.len() + OUTER_BYTES, noise.len());
        }
    }

    #[test]
    fn round_trips(payload in prop::collection::vec(any::<u8>(), 0..2000), v6: bool, hash: u64) {
        let inner = if v6 { ipv6(&payload) } else { ipv4(&payload) };
        let mut outer = outer_header(&inner, source(), sid(), flow_label(hash)).unwrap().to_vec();
        outer.extend(&inner);
        prop_assert_eq!(decapsulate(&outer, &[sid()]).unwrap().packet, &inner[..]);
    }
}
