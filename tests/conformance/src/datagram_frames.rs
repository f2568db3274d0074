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

/// TLS whose packets hold DATAGRAM frames of one form.
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
    /// Gives the DATAGRAM frame that a packet ends with its form. The packet stays as long as it is:
    /// PADDING takes the room of the length.
    fn form(&self, payload: &mut [u8]) {
        let Some((at, data)) = find(payload) else {
            return;
        };
        if self.form == DatagramForm::WithoutLength {
            payload[at..data].fill(PADDING);
            payload[data - 1] = WITHOUT_LENGTH;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn key(&self, inner: Box<dyn PacketKey>) -> Box<dyn PacketKey> {
        let former = self.clone();
        Box::new(FormedKey { inner, former })
    }
}

/// Where the DATAGRAM frame that ends a packet is, and where its data begins.
fn find(payload: &[u8]) -> Option<(usize, usize)> {
    (0..payload.len()).find_map(|at| {
        let (&WITH_LENGTH, rest) = payload[at..].split_first()? else {
            return None;
        };
        let (length, used) = varint::decode(rest)?;
        let data = &rest[used..];
        let whole = data.len() as u64 == length && data.starts_with(&BEGINNING);
        whole.then_some((at, at + 1 + used))
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
