//! Both forms of a DATAGRAM frame (RFC 9221 §4). The driver sends one of them only, so the other is made
//! from it where packets are encrypted.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::BytesMut;
use masque_http3::varint;
use quinn::{
    ConnectError, ConnectionId, Side,
    crypto::{
        ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey,
        Session, rustls::QuicClientConfig,
    },
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};

const PADDING: u8 = 0;
const ACK: u8 = 2;
const ACK_ECN: u8 = 3;
const WITHOUT_LENGTH: u8 = 0x30;
const WITH_LENGTH: u8 = 0x31;
/// What every datagram of the tests begins with: quarter stream id 0, context 0, IPv4.
const BEGINNING: [u8; 3] = [0, 0, 0x45];

/// How a DATAGRAM frame says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramForm {
    /// 0x31: by a length.
    WithLength,
    /// 0x30: it ends with the packet.
    WithoutLength,
}

/// TLS whose packets hold DATAGRAM frames of one form, unless one is before a frame of a stream.
pub(crate) struct FormedDatagrams {
    inner: Arc<QuicClientConfig>,
    former: Former,
}

/// Rewrites frames, and counts those of its form.
#[derive(Clone)]
struct Former {
    form: DatagramForm,
    sent: Arc<AtomicUsize>,
}

struct FormedSession {
    inner: Box<dyn Session>,
    former: Former,
}

struct FormedKey {
    inner: Box<dyn PacketKey>,
    former: Former,
}

impl FormedDatagrams {
    pub(crate) fn over(
        inner: QuicClientConfig,
        form: DatagramForm,
        sent: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let former = Former { form, sent };
        let inner = Arc::new(inner);
        Arc::new(Self { inner, former })
    }
}

impl Former {
    /// Gives a packet's DATAGRAM frame its form. The packet stays as long as it is: PADDING takes the
    /// room of the length. What the driver appended goes in front, because a frame without length is
    /// the last one.
    fn form(&self, payload: &mut [u8]) {
        let Some(frame) = find(payload) else {
            return;
        };
        if self.form == DatagramForm::WithoutLength {
            let (head, end) = (frame.data - frame.start, frame.end - frame.start);
            let payload = &mut payload[frame.start..];
            payload[..head].fill(PADDING);
            payload[head - 1] = WITHOUT_LENGTH;
            payload.rotate_left(end);
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn key(&self, inner: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        let former = self.clone();
        Box::new(FormedKey { inner, former })
    }
}

/// Where a DATAGRAM frame is in a packet's payload.
struct Found {
    start: usize,
    data: usize,
    end: usize,
}

/// The DATAGRAM frame of a test, where nothing is behind it but the ACK frame that the driver appends
/// when one is due.
fn find(payload: &[u8]) -> Option<Found> {
    (0..payload.len()).find_map(|start| {
        let (&WITH_LENGTH, rest) = payload[start..].split_first()? else {
            return None;
        };
        let (length, used) = varint::decode(rest)?;
        let length = usize::try_from(length).ok()?;
        let (data, behind) = rest[used..].split_at_checked(length)?;
        let whole = data.starts_with(&BEGINNING) && matches!(behind, [] | [ACK | ACK_ECN, ..]);
        let data = start + 1 + used;
        let end = data + length;
        whole.then_some(Found { start, data, end })
    })
}

impl ClientConfig for FormedDatagrams {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, server_name, params)?;
        let former = self.former.clone();
        Ok(Box::new(FormedSession { inner, former }))
    }
}

impl Session for FormedSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut keys = self.inner.write_handshake(buf)?;
        keys.packet.local = self.former.key(keys.packet.local);
        Some(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let KeyPair { local, remote } = self.inner.next_1rtt_keys()?;
        let local = self.former.key(local);
        Some(KeyPair { local, remote })
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

impl PacketKey for FormedKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.inner.tag_len();
        self.former.form(&mut buf[header_len..end]);
        self.inner.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formed(form: DatagramForm, payload: &[u8]) -> (Vec<u8>, usize) {
        let sent = Arc::new(AtomicUsize::new(0));
        let former = Former {
            form,
            sent: Arc::clone(&sent),
        };
        let mut payload = payload.to_vec();
        former.form(&mut payload);
        (payload, sent.load(Ordering::Relaxed))
    }

    #[test]
    fn a_frame_without_length_is_the_last_one() {
        let alone = [1, 0x31, 4, 0, 0, 0x45, 9];
        let without = formed(DatagramForm::WithoutLength, &alone);
        assert_eq!(without, (vec![1, 0, 0x30, 0, 0, 0x45, 9], 1));
        let before_ack = [1, 0x31, 4, 0, 0, 0x45, 9, 2, 7, 0, 0, 0];
        let without = formed(DatagramForm::WithoutLength, &before_ack);
        assert_eq!(without, (vec![1, 2, 7, 0, 0, 0, 0, 0x30, 0, 0, 0x45, 9], 1));
        for payload in [&alone[..], &before_ack] {
            let with = formed(DatagramForm::WithLength, payload);
            assert_eq!(with, (payload.to_vec(), 1));
        }
    }

    #[test]
    fn a_frame_before_one_of_a_stream_stays() {
        let before_stream = [0x31, 4, 0, 0, 0x45, 9, 0x08, 0, 5];
        for form in [DatagramForm::WithLength, DatagramForm::WithoutLength] {
            assert_eq!(formed(form, &before_stream), (before_stream.to_vec(), 0));
        }
    }
}
