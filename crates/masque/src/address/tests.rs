use super::*;
use crate::{Capsule, CapsuleDecoder};

/// Decodes one capsule of type 1 or 2 with the given value.
fn decode(capsule_type: u8, value: &[u8]) -> Result<Capsule, CapsuleError> {
    let mut decoder = CapsuleDecoder::new();
    decoder.push([&[capsule_type, value.len() as u8], value].concat().into());
    decoder.poll().map(Option::unwrap)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn n47_assign_vectors() {
    let value = [
        &[0, 4, 192, 0, 2, 11, 32][..],
        &[0x40, 0x07, 6],
        &[0x20, 1, 0xd, 0xb8],
        &[0; 12],
        &[64],
    ]
    .concat();
    let list = vec![
        AssignedAddress {
            request_id: 0,
            prefix: net("192.0.2.11/32"),
        },
        AssignedAddress {
            request_id: 7,
            prefix: net("2001:db8::/64"),
        },
    ];
    assert_eq!(decode(1, &value), Ok(Capsule::AddressAssign(list.clone())));
    // The shortest varint is what we write.
    let encoded = Capsule::AddressAssign(list).encode();
    assert_eq!(&encoded[..11], [1, 26, 0, 4, 192, 0, 2, 11, 32, 7, 6]);
    assert_eq!(
        decode(1, &[]),
        Ok(Capsule::AddressAssign(Vec::new())),
        "n48: all withdrawn"
    );
}

#[test]
fn n47_malformed_entries() {
    let address = "10.0.0.1".parse().unwrap();
    for (value, error) in [
        (&[0, 5, 10, 0, 0, 1, 32][..], CapsuleError::IpVersion(5)),
        (&[0, 0], CapsuleError::IpVersion(0)),
        (
            &[0, 4, 10, 0, 0, 0, 33],
            CapsuleError::PrefixLength {
                prefix_length: 33,
                max: 32,
            },
        ),
        (
            &[0, 4, 10, 0, 0, 1, 24],
            CapsuleError::HostBits {
                address,
                prefix_length: 24,
            },
        ),
        (
            &[0, 4, 10, 0, 0, 1, 0],
            CapsuleError::HostBits {
                address,
                prefix_length: 0,
            },
        ),
        (&[0], CapsuleError::Truncated { capsule_type: 1 }),
        (&[0x40], CapsuleError::Truncated { capsule_type: 1 }),
        (
            &[0, 4, 10, 0, 0],
            CapsuleError::Truncated { capsule_type: 1 },
        ),
        (
            &[0, 4, 10, 0, 0, 1],
            CapsuleError::Truncated { capsule_type: 1 },
        ),
        (
            &[0, 4, 10, 0, 0, 1, 32, 0],
            CapsuleError::Truncated { capsule_type: 1 },
        ),
        (
            &[0, 6, 10, 0, 0, 1, 32],
            CapsuleError::Truncated { capsule_type: 1 },
        ),
    ] {
        let got = decode(1, value).unwrap_err();
        assert_eq!(got, error, "{value:?}");
        assert_eq!(got.code(), masque_http3::Code::H3_MESSAGE_ERROR);
    }
    let v6 = [&[0, 6][..], &[0; 16], &[129]].concat();
    let error = CapsuleError::PrefixLength {
        prefix_length: 129,
        max: 128,
    };
    assert_eq!(decode(1, &v6), Err(error));
    let host_bits = [&[0, 6][..], &[0; 15], &[1, 127]].concat();
    assert!(matches!(
        decode(1, &host_bits),
        Err(CapsuleError::HostBits { .. })
    ));
}

#[test]
fn n50_requests_need_an_entry_and_an_id() {
    assert_eq!(decode(2, &[]), Err(CapsuleError::EmptyAddressRequest));
    assert_eq!(
        decode(2, &[0, 4, 0, 0, 0, 0, 32]),
        Err(CapsuleError::RequestIdZero)
    );
    let any = RequestedAddress {
        request_id: 1,
        prefix: net("0.0.0.0/32"),
    };
    assert_eq!(
        decode(2, &[1, 4, 0, 0, 0, 0, 32]),
        Ok(Capsule::AddressRequest(vec![any])),
        "the request of RFC 9484 §8.1"
    );
    assert!(any.is_any());
    assert!(matches!(
        decode(2, &[1, 4, 10, 0, 0, 1, 8]),
        Err(CapsuleError::HostBits { .. })
    ));
}

#[test]
fn n51_refusals_are_all_zero_and_full_length() {
    for (wish, refusal) in [("10.0.0.0/8", "0.0.0.0/32"), ("2001:db8::/48", "::/128")] {
        let request = RequestedAddress {
            request_id: 9,
            prefix: net(wish),
        };
        let answer = AssignedAddress::refusal(&request);
        assert_eq!(
            answer,
            AssignedAddress {
                request_id: 9,
                prefix: net(refusal)
            }
        );
        assert!(answer.is_refusal());
    }
    assert!(
        !AssignedAddress::unprompted(net("0.0.0.0/0")).is_refusal(),
        "a default prefix"
    );
}

#[test]
fn host_bits_never_leave() {
    let prefix = IpNet::new("10.1.2.3".parse().unwrap(), 8).unwrap();
    let encoded = Capsule::AddressAssign(vec![AssignedAddress::unprompted(prefix)]).encode();
    assert_eq!(encoded[..], [1, 7, 0, 4, 10, 0, 0, 0, 8]);
}
