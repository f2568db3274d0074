//! Capsules out of a stream: the same however it is cut, and the same when written again.

use bytes::Bytes;
use masque_protocol::{
    Capsule, CapsuleDecoder, CapsuleError, MAX_CONTROL_CAPSULE_BYTES, MAX_DATAGRAM_CAPSULE_BYTES,
};

use crate::input::Input;

type Outcome = (Vec<Capsule>, Result<(), CapsuleError>);

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let cuts = [input.u8(), input.u8()];
    let stream = input.rest();
    let whole = decode([stream].into_iter());
    assert_eq!(whole, decode(cut(stream, cuts)));
    for capsule in &whole.0 {
        let encoded = capsule.encode();
        let (again, end) = decode([&encoded[..]].into_iter());
        assert_eq!(end, Ok(()));
        match (capsule, &again[..]) {
            (
                Capsule::Unknown { capsule_type, .. },
                [
                    Capsule::Unknown {
                        capsule_type: again,
                        length_bytes: 0,
                    },
                ],
            ) => assert_eq!(capsule_type, again),
            (capsule, again) => assert_eq!(std::slice::from_ref(capsule), again),
        }
    }
    whole
        .0
        .iter()
        .any(|capsule| !matches!(capsule, Capsule::Unknown { .. }))
}

fn decode<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = CapsuleDecoder::new();
    let mut list = Vec::new();
    for part in parts {
        decoder.push(Bytes::copy_from_slice(part));
        loop {
            match decoder.poll() {
                Ok(Some(capsule)) => list.push(capsule),
                Ok(None) => break,
                Err(error) => return (list, Err(error)),
            }
        }
        assert!(!decoder.has_unread());
        let bound = MAX_CONTROL_CAPSULE_BYTES.max(MAX_DATAGRAM_CAPSULE_BYTES);
        assert!(decoder.buffered_bytes() as u64 <= bound);
    }
    let end = decoder.finish();
    (list, end)
}

/// The stream in parts whose lengths go round.
fn cut(stream: &[u8], cuts: [u8; 2]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    let mut lengths = cuts.into_iter().cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = usize::from(lengths.next()?).clamp(1, rest.len());
        let (part, tail) = rest.split_at(length);
        rest = tail;
        Some(part)
    })
}
