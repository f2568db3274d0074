//! Stream bytes between QUIC and HTTP/3.

use std::collections::VecDeque;

use bytes::Bytes;
use masque_http3 as http3;
use quinn_proto::{Dir, ReadError, StreamId as QuicStreamId, VarInt, WriteError};

use super::{
    Machine,
    conn::{Backlog, Conn},
    live, schedule,
    service::{http_stream, quic_stream},
    varint,
};
use crate::{ConnId, Event};

/// Bytes of the control stream that may wait for the peer to let us open it. It carries SETTINGS
/// and GOAWAY; a peer that never permits the three streams of RFC 9114 §6.2 gets no more.
const MAX_CONTROL_BACKLOG_BYTES: usize = 64 * 1024;

/// Events of one connection that wait before it is read no further in this turn. What the peer sent
/// beyond waits in QUIC, within the flow-control window, and the others have their turns.
const MAX_EVENTS_A_TURN: usize = 256;

/// Bytes given to HTTP/3 between two looks at how many events wait: a packet's worth. The shortest
/// DATA frame that makes an event has three bytes, so [`MAX_EVENTS_A_TURN`] is passed by a third of
/// this at most.
const READ_PIECE_BYTES: usize = 1536;

/// Why no stream could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The connection is not open.
    #[error("the connection is closed or still in its handshake")]
    Closed,
    /// The peer permits no more streams now; try again when a request ended.
    #[error("the peer permits no more request streams now")]
    StreamLimit,
    /// HTTP/3 does not send the request.
    #[error(transparent)]
    Send(#[from] http3::SendError),
}

impl Machine {
    /// Opens a bidirectional stream (client). Nothing is sent before something is written to it.
    ///
    /// # Errors
    /// [`OpenError`]: nothing was opened.
    pub fn open_stream(&mut self, conn: ConnId) -> Result<http3::StreamId, OpenError> {
        let found = live(&mut self.slots, conn).filter(|conn| conn.http.is_some());
        let found = found.ok_or(OpenError::Closed)?;
        let stream = found
            .quic
            .streams()
            .open(Dir::Bi)
            .ok_or(OpenError::StreamLimit)?;
        Ok(http_stream(stream))
    }

    /// Opens a stream and sends a request on it (client). An extended CONNECT stays open, and is
    /// sent only after the peer's SETTINGS arrived (`http3::Event::Settings`).
    ///
    /// # Errors
    /// [`OpenError`]: no request was sent. A stream that was opened for it is abandoned.
    pub fn request(
        &mut self,
        conn: ConnId,
        head: &http3::RequestHead,
        fin: bool,
    ) -> Result<http3::StreamId, OpenError> {
        let stream = self.open_stream(conn)?;
        let http = self.http(conn).ok_or(OpenError::Closed)?;
        match http.send_request(stream, head, fin) {
            Ok(()) => Ok(stream),
            Err(error) => {
                if let Some(found) = live(&mut self.slots, conn) {
                    found.reset(stream, http3::Code::H3_REQUEST_CANCELLED);
                    found.stop_sending(stream, http3::Code::H3_REQUEST_CANCELLED);
                }
                Err(error.into())
            }
        }
    }

    /// Bytes that wait to be written on a stream. A driver that relays bytes stops reading its
    /// source while there are many, until [`Event::StreamWritable`].
    pub fn stream_backlog(&self, conn: ConnId, stream: http3::StreamId) -> usize {
        let backlog = self.conn(conn).and_then(|conn| conn.backlogs.get(&stream));
        backlog.map_or(0, |backlog| backlog.bytes)
    }

    /// Stops or resumes reading a stream: unread bytes stay within QUIC's flow-control window, so
    /// the peer stops sending (backpressure of a relayed TCP connection).
    pub fn set_stream_reading(&mut self, conn: ConnId, stream: http3::StreamId, reading: bool) {
        let Some(found) = live(&mut self.slots, conn) else {
            return;
        };
        let at = found.paused.iter().position(|paused| *paused == stream);
        match (reading, at) {
            (false, None) => found.paused.push(stream),
            (true, Some(at)) => {
                found.paused.swap_remove(at);
                if let Some(quic) = quic_stream(stream) {
                    found.arrived(quic);
                }
                schedule(&mut self.service, &mut found.in_service, conn.index);
            }
            _ => {}
        }
    }
}

impl Conn {
    /// Something arrived on a stream: hands it to HTTP/3, now or in a later turn.
    pub(super) fn arrived(&mut self, stream: QuicStreamId) {
        // No more than the streams that QUIC lets be open, so the search is short.
        if !self.readable.contains(&stream) {
            self.readable.push_back(stream);
        }
        self.read_waiting();
    }

    /// Reads the streams that wait for it, in turns, while few events wait.
    pub(super) fn read_waiting(&mut self) {
        while !self.reads_later
            && let Some(stream) = self.readable.pop_front()
        {
            if !self.read(stream) {
                self.readable.push_back(stream);
                self.reads_later = true;
            }
        }
    }

    /// Hands what arrived on a stream to HTTP/3; false if some of it is left.
    fn read(&mut self, stream: QuicStreamId) -> bool {
        let id = http_stream(stream);
        let Some(http) = self.http.as_deref_mut() else {
            return true;
        };
        if self.paused.contains(&id) {
            return true;
        }
        let mut receive = self.quic.recv_stream(stream);
        // Closed: stopped by us, or read to its end.
        let Ok(mut chunks) = receive.read(true) else {
            return true;
        };
        let all = loop {
            if http.waiting_events() >= MAX_EVENTS_A_TURN {
                break false;
            }
            match chunks.next(READ_PIECE_BYTES) {
                Ok(Some(chunk)) => http.handle_stream(id, chunk.bytes, false),
                Ok(None) => {
                    http.handle_stream(id, Bytes::new(), true);
                    break true;
                }
                Err(ReadError::Blocked) => break true,
                Err(ReadError::Reset(code)) => {
                    http.handle_reset(id, http3::Code(code.into_inner()));
                    break true;
                }
            }
        };
        // Credit is sent with the packets of this turn in any case.
        let _ = chunks.finalize();
        all
    }

    /// The peer stopped reading a stream.
    pub(super) fn stopped(&mut self, stream: QuicStreamId, code: VarInt) {
        let id = http_stream(stream);
        self.backlogs.remove(&id);
        self.sendable = None;
        if let Some(http) = self.http.as_deref_mut() {
            http.handle_stop_sending(id, http3::Code(code.into_inner()));
        }
    }

    /// Takes everything HTTP/3 wants done and everything it has to tell.
    pub(super) fn pump(
        &mut self,
        backlog_bound: usize,
        events: &mut VecDeque<Event>,
        close: &mut Option<(http3::Code, &'static str)>,
    ) {
        self.sendable = None;
        if self.control_waits {
            self.write_control(Bytes::new());
        }
        while let Some(output) = self.http.as_deref_mut().and_then(|http| http.poll_output()) {
            match output {
                http3::Output::Control(bytes) => self.write_control(bytes),
                http3::Output::Stream { stream, data, fin } => {
                    self.write(stream, data, fin, backlog_bound);
                }
                http3::Output::Reset { stream, code } => self.reset(stream, code),
                http3::Output::StopSending { stream, code } => self.stop_sending(stream, code),
                http3::Output::Close { code, reason } => *close = Some((code, reason)),
            }
        }
        let conn = self.id;
        while let Some(event) = self.http.as_deref_mut().and_then(|http| http.poll_event()) {
            events.push_back(Event::Http { conn, event });
        }
    }

    fn write_control(&mut self, bytes: Bytes) {
        if self.control.is_none() {
            self.control = self.quic.streams().open(Dir::Uni);
        }
        let Some(control) = self.control else {
            self.control_waits = true;
            let backlog = self.backlogs.entry(CONTROL_PLACEHOLDER).or_default();
            if backlog.bytes + bytes.len() <= MAX_CONTROL_BACKLOG_BYTES {
                backlog.push(bytes);
            }
            return;
        };
        let id = http_stream(control);
        if std::mem::take(&mut self.control_waits)
            && let Some(waiting) = self.backlogs.remove(&CONTROL_PLACEHOLDER)
        {
            self.backlogs.insert(id, waiting);
            self.drain_backlog(id);
        }
        self.write(id, bytes, false, MAX_CONTROL_BACKLOG_BYTES);
    }

    fn write(&mut self, stream: http3::StreamId, data: Bytes, fin: bool, bound: usize) {
        if data.is_empty() && !fin {
            return;
        }
        let backlog = self.backlogs.entry(stream).or_default();
        backlog.push(data);
        backlog.fin |= fin;
        self.drain_backlog(stream);
        if self
            .backlogs
            .get(&stream)
            .is_some_and(|backlog| backlog.bytes > bound)
        {
            self.streams_overrun += 1;
            self.backlogs.remove(&stream);
            if let Some(http) = self.http.as_deref_mut() {
                http.abort(stream, http3::Code::H3_INTERNAL_ERROR);
            }
        }
    }

    /// Writes more of a backlog; tells the driver when nothing is left.
    pub(super) fn write_backlog(&mut self, stream: QuicStreamId, events: &mut VecDeque<Event>) {
        let id = http_stream(stream);
        if self.backlogs.contains_key(&id) {
            self.drain_backlog(id);
            if !self.backlogs.contains_key(&id) && Some(stream) != self.control {
                events.push_back(Event::StreamWritable {
                    conn: self.id,
                    stream: id,
                });
            }
        }
    }

    /// Writes what flow control lets through; removes the backlog when it is empty.
    fn drain_backlog(&mut self, stream: http3::StreamId) {
        let (Some(id), Some(backlog)) = (quic_stream(stream), self.backlogs.get_mut(&stream))
        else {
            return;
        };
        let mut send = self.quic.send_stream(id);
        let chunks = backlog.chunks.make_contiguous();
        let blocked = match send.write_chunks(chunks) {
            Ok(written) => {
                backlog.bytes -= written.bytes;
                backlog.chunks.drain(..written.chunks);
                !backlog.chunks.is_empty()
            }
            Err(WriteError::Blocked) => !backlog.chunks.is_empty(),
            // Nobody reads it any more; HTTP/3 hears of that by itself.
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                self.backlogs.remove(&stream);
                return;
            }
        };
        if !blocked {
            if backlog.fin {
                // An error says that the peer stopped the stream; it ends all the same.
                let _ = send.finish();
            }
            self.backlogs.remove(&stream);
        }
    }

    pub(super) fn reset(&mut self, stream: http3::StreamId, code: http3::Code) {
        self.backlogs.remove(&stream);
        self.sendable = None;
        if let Some(id) = quic_stream(stream) {
            // An error says that it is closed already.
            let _ = self.quic.send_stream(id).reset(varint(code.0));
        }
    }

    pub(super) fn stop_sending(&mut self, stream: http3::StreamId, code: http3::Code) {
        self.paused.retain(|paused| *paused != stream);
        if let Some(id) = quic_stream(stream) {
            // An error says that it is closed already.
            let _ = self.quic.recv_stream(id).stop(varint(code.0));
        }
    }
}

/// Where control bytes wait before the control stream has an id; no stream has this one.
const CONTROL_PLACEHOLDER: http3::StreamId = http3::StreamId(u64::MAX);

impl Backlog {
    fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.bytes += data.len();
            self.chunks.push_back(data);
        }
    }
}
