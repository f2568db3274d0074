//! What a connection wants after something happened to it.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use masque_http3 as http3;
use quinn_proto::{
    ConnectionError, ConnectionHandle, Dir, Event as QuicEvent, StreamEvent, StreamId,
};

use super::{MAX_WAITING_EVENTS, Machine, conn::Conn, millis, schedule, varint};
use crate::{CloseReason, Event, tls};

/// What one look at a connection came to.
#[derive(Default)]
struct Outcome {
    lost: Option<ConnectionError>,
    close: Option<(http3::Code, &'static str)>,
    connected: bool,
    datagrams: bool,
    overrun: u64,
}

impl Machine {
    /// Looks at every connection whose state changed, until many events wait for the driver.
    pub(super) fn settle(&mut self) {
        while self.events.len() < MAX_WAITING_EVENTS
            && let Some(index) = self.service.pop_front()
        {
            self.settle_one(index);
        }
    }

    /// A new turn: connections that had more to read than one turn takes go on.
    pub(super) fn read_on(&mut self) {
        while let Some(index) = self.read_later.pop_front() {
            if let Some(conn) = self.slots[index as usize].conn.as_mut() {
                conn.reads_later = false;
                conn.in_read_later = false;
                schedule(&mut self.service, &mut conn.in_service, index);
            }
        }
    }

    fn settle_one(&mut self, index: u32) {
        if !self.exchange_endpoint_events(index) {
            return;
        }
        let Some(conn) = self.slots[index as usize].conn.as_mut() else {
            return;
        };
        conn.in_service = false;
        let mut outcome = Outcome::default();
        while let Some(event) = conn.quic.poll() {
            match event {
                QuicEvent::Connected => {
                    self.stats.handshakes_completed += 1;
                    conn.open(self.now, &mut self.register);
                    if let Some(bounds) = self.config.admission.unused {
                        let patience = Duration::from_millis(bounds.after_handshake_ms.into());
                        conn.use_ends(self.now + patience, &mut self.register);
                    }
                    conn.peer_key = tls::peer_certificate_key(&conn.quic);
                    let http = http3::Connection::new(self.role, self.http_config.clone());
                    conn.http = Some(Box::new(http));
                    conn.http_touched = true;
                    outcome.connected = true;
                }
                QuicEvent::ConnectionLost { reason } => outcome.lost = Some(reason),
                QuicEvent::Stream(event) => on_stream_event(conn, event, &mut self.events),
                QuicEvent::DatagramReceived => outcome.datagrams = true,
                QuicEvent::HandshakeDataReady | QuicEvent::DatagramsUnblocked => {}
            }
        }
        if outcome.connected {
            self.events.push_back(Event::Connected { conn: conn.id });
        }
        if conn.is_open() {
            conn.read_waiting();
            if conn.reads_later {
                schedule(&mut self.read_later, &mut conn.in_read_later, index);
            }
            conn.tick_http(millis(self.epoch, self.now));
            conn.tell_stream_limit();
            conn.pump(
                self.config.stream_backlog_bytes,
                &mut self.events,
                &mut outcome.close,
            );
            outcome.overrun = std::mem::take(&mut conn.streams_overrun);
            conn.refresh(self.config.tuning.send_queue, &mut self.events);
        }
        self.conclude(index, outcome);
    }

    /// Carries events between QUIC's endpoint and a connection; false when the connection is gone.
    fn exchange_endpoint_events(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        let Some(conn) = slot.conn.as_mut() else {
            return false;
        };
        let handle = ConnectionHandle(index as usize);
        while let Some(event) = conn.quic.poll_endpoint_events() {
            let drained = event.is_drained();
            let answer = self.endpoint.handle_event(handle, event);
            if drained {
                self.forget(index);
                return false;
            }
            if let Some(answer) = answer {
                conn.quic.handle_event(answer);
            }
        }
        true
    }

    /// Removes a connection that QUIC is done with.
    fn forget(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(mut conn) = slot.conn.take() else {
            return;
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.deadlines.set(index, None);
        if conn.in_roomy {
            self.roomy.retain(|other| *other != index);
        }
        if let Some(admitted) = conn.close() {
            self.register.closed(admitted);
        }
        if !conn.closed_told {
            let reason = conn
                .quic
                .poll()
                .map_or(CloseReason::Reset, |event| match event {
                    QuicEvent::ConnectionLost { reason } => reason_of(reason, &mut conn),
                    _ => CloseReason::Reset,
                });
            self.events.push_back(Event::Closed {
                conn: conn.id,
                reason,
            });
        }
    }

    fn conclude(&mut self, index: u32, outcome: Outcome) {
        self.stats.streams_overrun += outcome.overrun;
        let Some(conn) = self.slots[index as usize].conn.as_mut() else {
            return;
        };
        if outcome.datagrams || std::mem::take(&mut conn.http_touched) {
            schedule(&mut self.receive, &mut conn.in_receive, index);
        }
        schedule(&mut self.transmit, &mut conn.in_transmit, index);
        if let Some(reason) = outcome.lost {
            let reason = reason_of(reason, conn);
            self.closed(index, reason);
        } else if let Some((code, text)) = outcome.close {
            let reason = CloseReason::Local {
                code,
                reason: text.to_owned(),
            };
            let bytes = Bytes::from_static(text.as_bytes());
            self.close_locally(index, varint(code.0), bytes, reason);
        }
    }
}

fn on_stream_event(conn: &mut Conn, event: StreamEvent, events: &mut VecDeque<Event>) {
    if conn.http.is_none() {
        return;
    }
    match event {
        StreamEvent::Opened { dir } => {
            while let Some(stream) = conn.quic.streams().accept(dir) {
                if dir == Dir::Bi {
                    conn.peer_opened = stream.index() + 1;
                }
                conn.arrived(stream);
            }
        }
        StreamEvent::Readable { id } => conn.arrived(id),
        StreamEvent::Writable { id } => conn.write_backlog(id, events),
        StreamEvent::Stopped { id, error_code } => conn.stopped(id, error_code),
        StreamEvent::Available { dir: Dir::Uni } => conn.http_touched = true,
        StreamEvent::Finished { .. } | StreamEvent::Available { .. } => {}
    }
}

fn reason_of(error: ConnectionError, conn: &mut Conn) -> CloseReason {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match error {
        ConnectionError::VersionMismatch => CloseReason::VersionMismatch,
        ConnectionError::TransportError(error) => match conn.certificate_error.take() {
            Some(certificate) => CloseReason::Certificate(certificate),
            None => CloseReason::Protocol {
                code: error.code.into(),
                reason: error.to_string(),
            },
        },
        ConnectionError::ConnectionClosed(close) => CloseReason::PeerTransport {
            code: close.error_code.into(),
            reason: text(&close.reason),
        },
        ConnectionError::ApplicationClosed(close) => CloseReason::Peer {
            code: http3::Code(close.error_code.into_inner()),
            reason: text(&close.reason),
        },
        ConnectionError::Reset => CloseReason::Reset,
        ConnectionError::TimedOut if conn.is_handshaking() => {
            CloseReason::HandshakeTimeout { heard: conn.heard }
        }
        ConnectionError::TimedOut => CloseReason::IdleTimeout,
        ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => CloseReason::Protocol {
            code: 0,
            reason: error.to_string(),
        },
    }
}

/// QUIC's name of a stream.
pub(super) fn quic_stream(stream: http3::StreamId) -> Option<StreamId> {
    quinn_proto::VarInt::from_u64(stream.0)
        .ok()
        .map(StreamId::from)
}

/// HTTP/3's name of a stream.
pub(super) fn http_stream(stream: StreamId) -> http3::StreamId {
    http3::StreamId(stream.into())
}

#[cfg(test)]
mod tests {
    use super::super::Slot;
    use super::*;
    use crate::{ConnId, MachineConfig};

    #[test]
    fn no_further_connection_is_looked_at_while_many_events_wait() {
        let config = MachineConfig::new([1; 32], [2; 32]);
        let mut machine =
            Machine::client(config, http3::Config::default(), std::time::Instant::now());
        machine.slots.push(Slot::default());
        machine.service.push_back(0);
        let conn = ConnId {
            index: 0,
            generation: 0,
        };
        let events = (0..MAX_WAITING_EVENTS).map(|_| Event::Connected { conn });
        machine.events.extend(events);
        machine.settle();
        assert_eq!(machine.service.len(), 1);
        assert!(machine.poll_event().is_some());
        machine.settle();
        assert!(machine.service.is_empty());
    }
}
