//! HTTP Datagrams (RFC 9297) in QUIC DATAGRAM frames (RFC 9221).

use std::time::Duration;

use bytes::Bytes;
use masque_http3::{DatagramIn, StreamId, varint};
use quinn_proto::Datagram;

use super::{
    Machine, MachineStats,
    conn::{Conn, Sendable},
    live, schedule,
};
use crate::ConnId;

/// Why a datagram was not queued. It is gone: datagrams are unreliable (RFC 9221 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramSendError {
    /// It does not fit the path. The inner sender is told by Packet Too Big.
    #[error("the datagram does not fit: at most {max_payload_bytes} bytes now")]
    TooLarge {
        /// What fits now; see [`Machine::max_datagram_payload`].
        max_payload_bytes: usize,
    },
    /// As much waits for the congestion window already as may.
    #[error("the connection's queue is full")]
    QueueFull,
    /// The peer's SETTINGS have not arrived or allow no datagrams, or the stream's send side is
    /// closed (RFC 9297 §2.1).
    #[error("no datagrams may be sent on this stream now")]
    Blocked,
    /// There is no such connection any more.
    #[error("the connection is closed")]
    Closed,
}

impl Machine {
    /// Queues one HTTP Datagram of `payload_length` bytes that `write` fills in; the Quarter
    /// Stream ID goes in front of it. The bytes `write` is given hold arbitrary values.
    ///
    /// # Errors
    /// [`DatagramSendError`]: the datagram is dropped and counted, `write` was not called.
    pub fn send_datagram(
        &mut self,
        conn: ConnId,
        stream: StreamId,
        payload_length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), DatagramSendError> {
        let found = live(&mut self.slots, conn).ok_or(DatagramSendError::Closed)?;
        let Sendable {
            prefix,
            prefix_length,
            ..
        } = found
            .sendable_on(stream)
            .ok_or(DatagramSendError::Blocked)?;
        let length = prefix_length + payload_length;
        if length > found.max_datagram {
            self.stats.datagrams_too_large += 1;
            let max_payload_bytes = found.max_datagram.saturating_sub(prefix_length);
            return Err(DatagramSendError::TooLarge { max_payload_bytes });
        }
        let buffer = self.config.tuning.datagram_send_buffer_bytes();
        if found.queued(buffer) + length + PER_DATAGRAM > found.queue_limit {
            found.dropped_queue_full += 1;
            self.stats.datagrams_queue_full += 1;
            return Err(DatagramSendError::QueueFull);
        }
        let mut datagram = self.pieces.piece(length);
        let (head, payload) = datagram.split_at_mut(prefix_length);
        head.copy_from_slice(&prefix[..prefix_length]);
        write(payload);
        found
            .quic
            .datagrams()
            .send(datagram.freeze(), false)
            .map_err(|error| match error {
                quinn_proto::SendDatagramError::TooLarge => DatagramSendError::TooLarge {
                    max_payload_bytes: found.max_datagram.saturating_sub(prefix_length),
                },
                quinn_proto::SendDatagramError::Blocked(_) => DatagramSendError::QueueFull,
                quinn_proto::SendDatagramError::UnsupportedByPeer
                | quinn_proto::SendDatagramError::Disabled => DatagramSendError::Blocked,
            })?;
        self.stats.datagrams_sent += 1;
        self.unsent_bytes += length;
        schedule(&mut self.transmit, &mut found.in_transmit, conn.index);
        Ok(())
    }

    /// The largest payload [`send_datagram`](Self::send_datagram) takes on `stream` now; `None`
    /// while the peer takes no datagrams. It changes with the path: read it for every batch.
    pub fn max_datagram_payload(&self, conn: ConnId, stream: StreamId) -> Option<usize> {
        let conn = self.conn(conn)?;
        conn.max_datagram
            .checked_sub(varint::length(stream.quarter()))
    }

    /// Whether the connection could soon send so many datagrams more, `bytes` in all but the headers
    /// that segments repeat: a caller that keeps them in a queue of its own until then decides what is
    /// sent first, and what is lost. A connection where nothing waits has room for anything; one that
    /// is closed has, too, for what it is given is dropped. After a no [`poll_room`](Self::poll_room)
    /// tells when to ask again.
    pub fn has_room(&mut self, conn: ConnId, bytes: usize, datagrams: usize) -> bool {
        let buffer = self.config.tuning.datagram_send_buffer_bytes();
        let Some(conn) = live(&mut self.slots, conn) else {
            return true;
        };
        let queued = conn.queued(buffer);
        let room = queued == 0 || queued + bytes_at_most(bytes, datagrams) <= conn.room_limit;
        // One that has room for a short packet may still owe it to a longer one.
        conn.wants_room |= !room;
        room
    }

    /// Whether so many datagrams are no more than may wait at one time, so that
    /// [`has_room`](Self::has_room) could say yes though something waits. What is longer, a
    /// super-packet on a narrow path, has room as well where nothing waits, but then keeps everything
    /// behind it waiting for longer than the bound is meant to let it.
    pub fn may_wait_whole(&self, conn: ConnId, bytes: usize, datagrams: usize) -> bool {
        let conn = self.conn(conn);
        conn.is_none_or(|conn| bytes_at_most(bytes, datagrams) <= conn.room_limit)
    }

    /// A connection that had no room when it was asked last, and may have some since: it had a turn to
    /// send. Nothing waits in a connection that will have none, so each is told of but one that
    /// closes first, which has its event.
    pub fn poll_room(&mut self) -> Option<ConnId> {
        while let Some(index) = self.roomy.pop_front() {
            if let Some(conn) = self.slots[index as usize].conn.as_deref_mut() {
                conn.in_roomy = false;
                return Some(conn.id);
            }
        }
        None
    }

    /// The next HTTP Datagram: connection, request stream, and the payload behind the Quarter
    /// Stream ID, a slice of the received packet. Connections take turns by
    /// [`MachineConfig::datagram_quantum`](crate::MachineConfig::datagram_quantum).
    pub fn poll_datagram(&mut self) -> Option<(ConnId, StreamId, Bytes)> {
        if self.receive.is_empty() {
            self.settle();
        }
        let now_ms = self.now_ms();
        loop {
            let index = *self.receive.front()?;
            if self.quantum_left == 0 {
                self.quantum_left = self.config.datagram_quantum.max(1);
                self.receive.rotate_left(1);
                continue;
            }
            let conn = self.slots[index as usize].conn.as_deref_mut();
            if let Some(conn) = conn {
                let next = conn.next_datagram(now_ms, &mut self.stats);
                if let Some((stream, payload)) = next {
                    self.quantum_left -= 1;
                    self.stats.datagrams_received += 1;
                    return Some((conn.id, stream, payload));
                }
                if conn.early_datagrams {
                    let keep = Duration::from_millis(self.http_config.early_datagram_ms);
                    conn.keep_early_until(self.now + keep);
                }
                if conn.http_touched || conn.early_datagrams {
                    schedule(&mut self.service, &mut conn.in_service, index);
                }
                conn.in_receive = false;
            }
            self.receive.pop_front();
            self.quantum_left = self.config.datagram_quantum.max(1);
        }
    }
}

/// What a segment repeats of its super-packet's headers, and our prefix: at most 60 + 60 + 8.
const HEADERS_BYTES: usize = 128;

/// What so many datagrams, `bytes` in all but repeated headers, count for in a queue.
const fn bytes_at_most(bytes: usize, datagrams: usize) -> usize {
    bytes + datagrams * (PER_DATAGRAM + HEADERS_BYTES)
}

/// What quinn-proto counts for a queued datagram beside its bytes.
const PER_DATAGRAM: usize = size_of::<Datagram>();

impl Conn {
    /// Whether datagrams may be sent on `stream`, and the prefix they have. Remembered until
    /// anything happens to the connection, so that a packet costs no table lookup.
    fn sendable_on(&mut self, stream: StreamId) -> Option<Sendable> {
        if let Some(sendable) = self.sendable
            && sendable.stream == stream
        {
            return Some(sendable);
        }
        if !self.http.as_deref()?.may_send_datagram(stream) {
            return None;
        }
        let (prefix, prefix_length) = varint::encode(stream.quarter());
        let sendable = Sendable {
            stream,
            prefix,
            prefix_length,
        };
        self.sendable = Some(sendable);
        Some(sendable)
    }

    /// Bytes that wait to be sent, as quinn-proto counts them: payload and bookkeeping.
    fn queued(&mut self, buffer_bytes: usize) -> usize {
        (buffer_bytes - PER_DATAGRAM).saturating_sub(self.quic.datagrams().send_buffer_space())
    }

    fn next_datagram(
        &mut self,
        now_ms: u64,
        stats: &mut MachineStats,
    ) -> Option<(StreamId, Bytes)> {
        let Some(http) = self.http.as_deref_mut() else {
            while self.quic.datagrams().recv().is_some() {
                stats.datagrams_unclaimed += 1;
            }
            return None;
        };
        if self.early_datagrams
            && let Some(early) = http.poll_early_datagram()
        {
            return Some(early);
        }
        while let Some(datagram) = self.quic.datagrams().recv() {
            match http.handle_datagram(datagram, now_ms) {
                DatagramIn::Deliver { stream, payload } => return Some((stream, payload)),
                DatagramIn::Kept => self.early_datagrams = true,
                DatagramIn::Dropped(_) => stats.datagrams_unclaimed += 1,
                DatagramIn::Error => {
                    self.http_touched = true;
                    return None;
                }
            }
        }
        None
    }
}
