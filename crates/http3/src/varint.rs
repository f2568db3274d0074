//! Variable-length integers (RFC 9000 §16).

/// The largest value a varint holds, 2^62 − 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Reads one varint from the front of `input`: the value and how many bytes it took (1, 2, 4 or
/// 8), or `None` when `input` is too short. Non-minimal encodings are read (RFC 9000 §16).
pub fn decode(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let length = 1usize << (first >> 6);
    let bytes = input.get(..length)?;
    let value = bytes[1..]
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| {
            value << 8 | u64::from(*byte)
        });
    Some((value, length))
}

/// How many bytes the shortest encoding of `value` takes.
pub const fn length(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// The shortest encoding of `value`: the first `usize` bytes of the array. Values above [`MAX`]
/// are a caller's bug; their two top bits are lost.
pub const fn encode(value: u64) -> ([u8; 8], usize) {
    let length = length(value);
    let tag = length.trailing_zeros() as u64;
    let shifted = (value & MAX) << (64 - 8 * length) | tag << 62;
    (shifted.to_be_bytes(), length)
}

/// Appends the shortest encoding of `value`.
pub fn put(out: &mut impl bytes::BufMut, value: u64) {
    let (bytes, length) = encode(value);
    out.put_slice(&bytes[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 9000 §A.1
    const VECTORS: [(&[u8], u64); 4] = [
        (
            &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
            151_288_809_941_952_652,
        ),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0x7b, 0xbd], 15_293),
        (&[0x25], 37),
    ];

    #[test]
    fn rfc_vectors() {
        for (bytes, value) in VECTORS {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
            let (encoded, length) = encode(value);
            assert_eq!(&encoded[..length], bytes);
            assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(
            decode(&[0x40, 0x25]),
            Some((37, 2)),
            "non-minimal encodings are legal"
        );
    }

    #[test]
    fn boundaries_round_trip() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, MAX] {
            let (bytes, length) = encode(value);
            assert_eq!(decode(&bytes[..length]), Some((value, length)));
        }
    }
}
