//! The peer's QPACK encoder and decoder streams (RFC 9204 §4.2–§4.4).
//!
//! We announce a dynamic table of capacity 0 and never refer to the peer's, so nearly every
//! instruction is an error, and none needs state beyond the integer being read.

use crate::{Code, error::Fault};

/// Reads the encoder stream. With a maximum capacity of 0, the one instruction that the peer
/// may send is Set Dynamic Table Capacity with the value 0 (RFC 9204 §3.2.3, §4.3.1).
pub(crate) fn read_encoder(input: &[u8]) -> Result<(), Fault> {
    const SET_CAPACITY_0: u8 = 0b0010_0000;
    if input.iter().all(|byte| *byte == SET_CAPACITY_0) {
        return Ok(());
    }
    let reason = "QPACK encoder instruction without a dynamic table";
    Err(Fault::Connection(Code::QPACK_ENCODER_STREAM_ERROR, reason))
}

/// Reads the decoder stream.
#[derive(Debug, Default)]
pub(crate) struct DecoderStream {
    /// Continuation bytes of the Stream Cancellation being read, if one is.
    continuation: Option<u8>,
}

/// A 62-bit stream id takes a 6-bit prefix and at most this many continuation bytes.
const MAX_CONTINUATION_BYTES: u8 = 9;

impl DecoderStream {
    /// Reads instructions cut anywhere. A Stream Cancellation may come for any stream (§4.4.2).
    /// A Section Acknowledgment of a section without dynamic references (§4.4.1), and an Insert
    /// Count Increment beyond what was inserted (§4.4.3), are errors.
    pub(crate) fn read(&mut self, input: &[u8]) -> Result<(), Fault> {
        for byte in input {
            self.continuation = match self.continuation {
                Some(_) if byte & 0x80 == 0 => None,
                Some(MAX_CONTINUATION_BYTES) => return Err(wrong("QPACK integer is too long")),
                Some(count) => Some(count + 1),
                None if byte & 0b1100_0000 != 0b0100_0000 => {
                    return Err(wrong("QPACK decoder instruction without a dynamic table"));
                }
                None => (byte & 0b0011_1111 == 0b0011_1111).then_some(1),
            }
        }
        Ok(())
    }
}

const fn wrong(reason: &'static str) -> Fault {
    Fault::Connection(Code::QPACK_DECODER_STREAM_ERROR, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n16_encoder_stream() {
        assert_eq!(read_encoder(&[0x20, 0x20]), Ok(()));
        // capacity 1, capacity 31 + ..., insert with name reference, insert, duplicate
        for byte in [0x21, 0x3f, 0xc0, 0x40, 0x00] {
            let error = read_encoder(&[0x20, byte]).unwrap_err();
            assert!(matches!(
                error,
                Fault::Connection(Code::QPACK_ENCODER_STREAM_ERROR, _)
            ));
        }
    }

    #[test]
    fn n16_decoder_stream() {
        let read = |bytes: &[u8]| {
            let mut stream = DecoderStream::default();
            let whole = stream.read(bytes);
            let mut stream = DecoderStream::default();
            let split = bytes.iter().try_for_each(|byte| stream.read(&[*byte]));
            assert_eq!(whole, split);
            whole
        };
        // cancellations of streams 4, 63 and 2^62 − 1
        let longest = [0x7f, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
        assert_eq!(read(&[&[0x44, 0x7f, 0x00][..], &longest].concat()), Ok(()));
        for bad in [
            &[0x84][..],
            &[0x01],
            &[0x00],
            &[0x7f, 0x80, 0x00, 0x84],
            &[0xff],
        ] {
            let error = read(bad).unwrap_err();
            assert!(matches!(
                error,
                Fault::Connection(Code::QPACK_DECODER_STREAM_ERROR, _)
            ));
        }
        assert!(read(&[&[0x7f][..], &[0xff; 11]].concat()).is_err());
    }
}
