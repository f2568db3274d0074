//! What the application sends on streams.

use bytes::{Bytes, BytesMut};

use super::Connection;
use crate::{
    Code, Output, RequestHead, ResponseHead, Role, SendError, StreamId, frame,
    headers::codec,
    request::{Request, SendState},
};

/// Payloads up to this are copied behind their frame header, so that a capsule is one write;
/// longer ones are handed on as they are.
const COPY_BELOW_BYTES: usize = 512;

impl Connection {
    /// Sends a request on `stream`, a bidirectional stream that the driver has just opened
    /// (client). An extended CONNECT stays open; another request is finished if `fin`.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_request(
        &mut self,
        stream: StreamId,
        head: &RequestHead,
        fin: bool,
    ) -> Result<(), SendError> {
        if self.is_closed {
            return Err(SendError::Closed);
        }
        if self.goaway.is_received() {
            return Err(SendError::GoingAway);
        }
        let number = stream.quarter();
        let is_fresh = self.requests.get(number).is_none() && !self.requests.is_closed(number);
        if self.role == Role::Server || !stream.is_request() || !is_fresh {
            return Err(SendError::StreamClosed);
        }
        // "Upon receipt of SETTINGS_ENABLE_CONNECT_PROTOCOL with a value of 1, a client MAY use the
        // Extended CONNECT" (RFC 8441 §3, RFC 9220 §3)
        let may_extend = self.peer.as_ref().is_some_and(|peer| peer.extended_connect);
        if head.protocol.is_some() && !may_extend {
            return Err(SendError::NoExtendedConnect);
        }
        let data = codec::encode_request(head, self.peer_max_field_section_bytes())?;
        let fin = fin && head.protocol.is_none();
        self.requests.insert(number, Request::outgoing(head, fin));
        self.outputs.push_back(Output::Stream { stream, data, fin });
        Ok(())
    }

    /// Answers a request (server). With `fin`, the answer is complete, and the peer is asked with
    /// STOP_SENDING(H3_NO_ERROR) to stop sending a body nobody reads (RFC 9114 §4.1).
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_response(
        &mut self,
        stream: StreamId,
        head: &ResponseHead,
        fin: bool,
    ) -> Result<(), SendError> {
        let limit_bytes = self.peer_max_field_section_bytes();
        let request = self.writable(stream)?;
        if request.send != SendState::Head || !request.is_announced() {
            return Err(SendError::StreamClosed);
        }
        if fin && head.status < 200 {
            return Err(SendError::Malformed("an interim response is not the last"));
        }
        let data = codec::encode_response(head, limit_bytes)?;
        request.respond(head.status);
        self.outputs.push_back(Output::Stream { stream, data, fin });
        if fin {
            self.finished(stream, true);
        }
        Ok(())
    }

    /// Whether the peer takes a response with this head: one larger than its
    /// SETTINGS_MAX_FIELD_SECTION_SIZE is not sent (RFC 9114 §4.2.2).
    pub fn takes_response(&self, head: &ResponseHead) -> bool {
        codec::encode_response(head, self.peer_max_field_section_bytes()).is_ok()
    }

    /// Sends `data` in one DATA frame. With `fin`, our side of the stream is finished; a server
    /// whose answer is complete, other than a tunnel, asks the peer to stop sending as
    /// [`send_response`](Self::send_response) does.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_data(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        let is_server = self.role == Role::Server;
        let request = self.writable(stream)?;
        if request.send == SendState::Head {
            return Err(SendError::Malformed("DATA before the final response"));
        }
        let is_answer = is_server && !request.is_tunnel();
        let length = data.len();
        if length > 0 {
            let mut header = BytesMut::with_capacity(10 + length.min(COPY_BELOW_BYTES));
            frame::put_header(&mut header, frame::DATA, length);
            if length <= COPY_BELOW_BYTES {
                header.extend_from_slice(&data);
                self.outputs.push_back(Output::Stream {
                    stream,
                    data: header.freeze(),
                    fin,
                });
            } else {
                let header = Output::Stream {
                    stream,
                    data: header.freeze(),
                    fin: false,
                };
                self.outputs
                    .extend([header, Output::Stream { stream, data, fin }]);
            }
        } else if fin {
            self.outputs.push_back(Output::Stream { stream, data, fin });
        }
        if fin {
            self.finished(stream, is_answer);
        }
        Ok(())
    }

    /// Abandons a request in both directions.
    pub fn abort(&mut self, stream: StreamId, code: Code) {
        if stream.is_request() {
            self.terminate(stream, code, code);
        }
    }

    /// The request, if we may write to it.
    fn writable(&mut self, stream: StreamId) -> Result<&mut Request, SendError> {
        if self.is_closed {
            return Err(SendError::Closed);
        }
        match self.requests.get_mut(stream.quarter()) {
            Some(request) if stream.is_request() && request.send != SendState::Closed => {
                Ok(request)
            }
            _ => Err(SendError::StreamClosed),
        }
    }

    /// Our side is finished. "When the server does not need to receive the remainder of the
    /// request, it MAY abort reading the request stream, send a complete response, and cleanly
    /// close the sending part of the stream. The error code H3_NO_ERROR SHOULD be used when
    /// requesting that the client stop sending on the request stream." (RFC 9114 §4.1)
    fn finished(&mut self, stream: StreamId, is_answer: bool) {
        let Some(request) = self.requests.get_mut(stream.quarter()) else {
            return;
        };
        request.send = SendState::Closed;
        if is_answer && request.is_receiving {
            request.is_receiving = false;
            let code = Code::H3_NO_ERROR;
            self.outputs.push_back(Output::StopSending { stream, code });
        }
        self.settle(stream);
    }
}
