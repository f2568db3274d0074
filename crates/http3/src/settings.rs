//! SETTINGS (RFC 9114 §7.2.4).

use bytes::{Bytes, BytesMut};

use crate::{Code, Config, Role, error::Fault, varint};

/// SETTINGS_MAX_FIELD_SECTION_SIZE (RFC 9114 §7.2.4.1).
pub const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 9220 §5).
pub const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
/// SETTINGS_H3_DATAGRAM (RFC 9297 §2.1.1).
pub const H3_DATAGRAM: u64 = 0x33;

/// The longest SETTINGS payload we read: 64 settings even if each takes the longest encoding.
/// Longer ones end the connection with H3_EXCESSIVE_LOAD (RFC 9114 §10.5).
pub(crate) const MAX_SETTINGS_BYTES: u64 = 1024;

/// The peer's settings.
#[derive(Debug)]
pub(crate) struct PeerSettings {
    all: Vec<(u64, u64)>,
    /// It accepts extended CONNECT.
    pub(crate) extended_connect: bool,
    /// It accepts HTTP Datagrams in QUIC DATAGRAM frames.
    pub(crate) datagrams: bool,
    /// The largest field section it accepts, unlimited by default.
    pub(crate) max_field_section_bytes: u64,
}

impl PeerSettings {
    /// Reads the payload of a SETTINGS frame.
    pub(crate) fn decode(payload: &[u8]) -> Result<Self, Fault> {
        let mut all: Vec<(u64, u64)> = Vec::new();
        let mut rest = payload;
        while !rest.is_empty() {
            let (id, value);
            (id, rest) = split(rest)?;
            (value, rest) = split(rest)?;
            check(id, value)?;
            // "The same setting identifier MUST NOT occur more than once" (§7.2.4)
            if all.iter().any(|(seen, _)| *seen == id) {
                return Err(Fault::Connection(
                    Code::H3_SETTINGS_ERROR,
                    "duplicate setting",
                ));
            }
            all.push((id, value));
        }
        let find = |id| {
            all.iter()
                .find(|(seen, _)| *seen == id)
                .map(|(_, value)| *value)
        };
        Ok(Self {
            extended_connect: find(ENABLE_CONNECT_PROTOCOL) == Some(1),
            datagrams: find(H3_DATAGRAM) == Some(1),
            max_field_section_bytes: find(MAX_FIELD_SECTION_SIZE).unwrap_or(u64::MAX),
            all,
        })
    }

    /// Every setting as sent.
    pub(crate) fn all(&self) -> &[(u64, u64)] {
        &self.all
    }
}

fn split(input: &[u8]) -> Result<(u64, &[u8]), Fault> {
    match varint::decode(input) {
        Some((value, used)) => Ok((value, &input[used..])),
        None => Err(Fault::Connection(
            Code::H3_FRAME_ERROR,
            "SETTINGS ends inside a setting",
        )),
    }
}

fn check(id: u64, value: u64) -> Result<(), Fault> {
    match id {
        // "their receipt MUST be treated as a connection error of type H3_SETTINGS_ERROR"
        // (RFC 9114 §7.2.4.1, settings of HTTP/2 without a counterpart)
        0x02..=0x05 => Err(Fault::Connection(
            Code::H3_SETTINGS_ERROR,
            "setting reserved for HTTP/2",
        )),
        // RFC 8441 §3 with RFC 9220 §3; RFC 9297 §2.1.1: only 0 and 1.
        ENABLE_CONNECT_PROTOCOL | H3_DATAGRAM if value > 1 => Err(Fault::Connection(
            Code::H3_SETTINGS_ERROR,
            "boolean setting above 1",
        )),
        _ => Ok(()),
    }
}

/// The payload of our SETTINGS frame. Of settings named twice the first counts, and ids that may
/// not be sent are left out, so `extra_settings` cannot make the frame invalid.
pub(crate) fn encode(role: Role, config: &Config) -> Bytes {
    let mut ours = vec![(MAX_FIELD_SECTION_SIZE, config.max_field_section_bytes)];
    if role == Role::Server && config.extended_connect {
        ours.push((ENABLE_CONNECT_PROTOCOL, 1));
    }
    if config.datagrams {
        ours.push((H3_DATAGRAM, 1));
    }
    ours.extend(&config.extra_settings);
    if let Some(seed) = config.grease_seed {
        ours.push((grease_id(seed), mix(seed) & 0xff));
    }
    let mut out = BytesMut::new();
    for (index, (id, value)) in ours.iter().enumerate() {
        let repeated = ours[..index].iter().any(|(earlier, _)| earlier == id);
        let sendable = *id <= varint::MAX && *value <= varint::MAX && check(*id, *value).is_ok();
        if sendable && !repeated {
            varint::put(&mut out, *id);
            varint::put(&mut out, *value);
        }
    }
    out.freeze()
}

/// An identifier of the format 0x1f × N + 0x21, reserved "to exercise the requirement that unknown
/// identifiers be ignored" (RFC 9114 §7.2.4.1, §7.2.8).
pub(crate) fn grease_id(seed: u64) -> u64 {
    0x1f * (mix(seed) >> 32) + 0x21
}

/// Spreads the bits of a seed (the finisher of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(u64, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, value) in pairs {
            varint::put(&mut out, *id);
            varint::put(&mut out, *value);
        }
        out
    }

    #[test]
    fn ours_can_be_read() {
        let config = Config {
            extra_settings: vec![(0x2b60_3742, 1), (0x33, 0), (0x02, 9), (7, u64::MAX)],
            grease_seed: Some(42),
            ..Config::default()
        };
        let peer = PeerSettings::decode(&encode(Role::Server, &config)).unwrap();
        assert!(peer.extended_connect && peer.datagrams);
        assert_eq!(peer.max_field_section_bytes, config.max_field_section_bytes);
        assert_eq!(peer.all()[3], (0x2b60_3742, 1));
        assert_eq!(
            peer.all().len(),
            5,
            "the repeated and the unsendable ones are left out"
        );
        assert_eq!((peer.all()[4].0 - 0x21) % 0x1f, 0);
        let client = PeerSettings::decode(&encode(Role::Client, &config)).unwrap();
        assert!(
            !client.extended_connect,
            "only servers announce extended CONNECT"
        );
    }

    #[test]
    fn grease_ids_fit_a_varint_and_vary() {
        for seed in [0, 1, u64::MAX] {
            assert!(grease_id(seed) <= varint::MAX);
            assert_ne!(grease_id(seed), grease_id(seed ^ 1));
        }
    }

    #[test]
    fn n07_n18_n26_bad_settings() {
        let code = |pairs: &[(u64, u64)]| match PeerSettings::decode(&settings(pairs)) {
            Err(Fault::Connection(code, _)) => Some(code),
            _ => None,
        };
        for id in 2..=5 {
            assert_eq!(code(&[(id, 0)]), Some(Code::H3_SETTINGS_ERROR), "{id}");
        }
        for id in [ENABLE_CONNECT_PROTOCOL, H3_DATAGRAM] {
            assert_eq!(code(&[(id, 2)]), Some(Code::H3_SETTINGS_ERROR), "{id}");
            assert_eq!(code(&[(id, 0)]), None);
        }
        assert_eq!(
            code(&[(0x99, 0), (6, 1), (0x99, 1)]),
            Some(Code::H3_SETTINGS_ERROR)
        );
        assert_eq!(
            code(&[(0x99, 7), (0x21, varint::MAX)]),
            None,
            "unknown ids are ignored"
        );
        let mut cut = settings(&[(6, 16384)]);
        cut.pop();
        let error = PeerSettings::decode(&cut).unwrap_err();
        assert!(matches!(error, Fault::Connection(Code::H3_FRAME_ERROR, _)));
    }
}
