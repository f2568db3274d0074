//! What QUIC delivers on streams.

use bytes::Bytes;

use super::Connection;
use crate::{
    Code, Event, Output, RequestHead, ResponseHead, Role, StreamId,
    control::ControlFrame,
    error::Fault,
    headers::codec,
    request::{DatagramUse, Received, Request, SendState},
    uni::UniStep,
};

impl Connection {
    /// In-order bytes of a stream the peer writes; `fin` with the last of them.
    pub fn handle_stream(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        if self.is_closed || self.is_send_only(stream) {
            return;
        }
        let result = if stream.is_uni() {
            self.receive_uni(stream, data, fin)
        } else if stream.is_request() {
            self.receive_request(stream, data, fin)
        } else {
            // "Clients MUST treat receipt of a server-initiated bidirectional stream as a
            // connection error of type H3_STREAM_CREATION_ERROR" (RFC 9114 §6.1)
            let reason = "bidirectional stream from a server";
            Err(Fault::Connection(Code::H3_STREAM_CREATION_ERROR, reason))
        };
        if let Err(fault) = result {
            self.fail(stream, fault);
        }
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, stream: StreamId, code: Code) {
        if self.is_closed || self.is_send_only(stream) {
            return;
        }
        if stream.is_uni() {
            if let Err(fault) = self.uni.end(stream) {
                self.fail(stream, fault);
            }
            return;
        }
        if !stream.is_request() {
            return;
        }
        match self.requests.get_mut(stream.quarter()) {
            Some(request) if request.is_receiving => {
                request.is_receiving = false;
                self.give_up(stream, code, Code::H3_REQUEST_CANCELLED);
            }
            Some(_) => {}
            None => self.cancel_unopened(stream, Code::H3_REQUEST_CANCELLED),
        }
    }

    /// The peer asked us to stop sending on a stream. A client goes on receiving: "Clients MUST
    /// NOT discard complete responses as a result of having their request terminated abruptly"
    /// (RFC 9114 §4.1); a tunnel that the server wants closed for another reason than
    /// H3_NO_ERROR is over.
    pub fn handle_stop_sending(&mut self, stream: StreamId, code: Code) {
        if self.is_closed {
            return;
        }
        // Our only unidirectional stream of our own, and the first: "the receiver MUST NOT request
        // that the sender close the control stream" (RFC 9114 §6.2.1).
        let ours = StreamId(if self.role == Role::Client { 2 } else { 3 });
        if stream == ours {
            return self.close(
                Code::H3_CLOSED_CRITICAL_STREAM,
                "our control stream was stopped",
            );
        }
        if !stream.is_request() {
            return;
        }
        match self.requests.get_mut(stream.quarter()) {
            Some(request) if request.send == SendState::Closed => {}
            Some(request)
                if self.role == Role::Client
                    && (code == Code::H3_NO_ERROR || !request.is_tunnel()) =>
            {
                request.send = SendState::Closed;
                self.outputs.push_back(Output::Reset { stream, code });
                self.settle(stream);
            }
            // "An endpoint that receives a STOP_SENDING frame MUST send a RESET_STREAM frame (...)
            // An endpoint SHOULD copy the error code from the STOP_SENDING frame" (RFC 9000 §3.5).
            // A server ends the other direction too: "If the stream is reset or reading is aborted
            // by the client, a proxy SHOULD perform the same operation on the other direction"
            // (RFC 9114 §4.4).
            Some(_) => self.give_up(stream, code, code),
            None => self.cancel_unopened(stream, code),
        }
    }

    /// Ends what a broken rule ends.
    pub(super) fn fail(&mut self, stream: StreamId, fault: Fault) {
        match fault {
            Fault::Connection(code, reason) => self.close(code, reason),
            Fault::Stream(code) => self.give_up_with(stream, code, code, code),
            Fault::FieldSectionTooLarge => self.refuse_section(stream),
        }
    }

    /// The peer ended a request with `code`; we answer with `reset`.
    fn give_up(&mut self, stream: StreamId, code: Code, reset: Code) {
        self.give_up_with(stream, code, reset, Code::H3_REQUEST_CANCELLED);
    }

    fn give_up_with(&mut self, stream: StreamId, code: Code, reset: Code, stop: Code) {
        let Some(request) = self.requests.get(stream.quarter()) else {
            return;
        };
        if request.is_announced() {
            self.events.push_back(Event::Reset { stream, code });
        }
        self.terminate(stream, reset, stop);
    }

    /// The peer gave a request up before any of it came (server): our side has to end too.
    fn cancel_unopened(&mut self, stream: StreamId, code: Code) {
        if self.role == Role::Server && !self.requests.is_closed(stream.quarter()) {
            self.outputs.push_back(Output::Reset { stream, code });
            let stop = Code::H3_REQUEST_CANCELLED;
            self.outputs
                .push_back(Output::StopSending { stream, code: stop });
            self.forget(stream);
        }
    }

    /// A field section is larger than ours may be: "A server that receives a larger header section
    /// than it is willing to handle can send an HTTP 431 (Request Header Fields Too Large) status
    /// code" (RFC 9114 §4.2.2).
    fn refuse_section(&mut self, stream: StreamId) {
        let is_request_head = self
            .requests
            .get(stream.quarter())
            .is_some_and(|request| self.role == Role::Server && !request.is_announced());
        let answer = ResponseHead {
            status: 431,
            fields: Vec::new(),
        };
        match codec::encode_response(&answer, self.peer_max_field_section_bytes()) {
            Ok(data) if is_request_head => {
                self.outputs.push_back(Output::Stream {
                    stream,
                    data,
                    fin: true,
                });
                self.outputs.push_back(Output::StopSending {
                    stream,
                    code: Code::H3_NO_ERROR,
                });
                self.forget(stream);
            }
            _ => self.fail(stream, Fault::Stream(Code::H3_EXCESSIVE_LOAD)),
        }
    }

    /// Whether only we write this stream.
    fn is_send_only(&self, stream: StreamId) -> bool {
        let is_ours = stream.is_server_initiated() == (self.role == Role::Server);
        is_ours && !stream.is_request()
    }

    fn receive_uni(&mut self, stream: StreamId, mut data: Bytes, fin: bool) -> Result<(), Fault> {
        let max_useless = self.config.max_useless_frames;
        while let Some(step) = self.uni.next(stream, &mut data, max_useless)? {
            match step {
                UniStep::Unwanted => {
                    let code = Code::H3_STREAM_CREATION_ERROR;
                    self.outputs.push_back(Output::StopSending { stream, code });
                }
                UniStep::Control(ControlFrame::Settings(settings)) => {
                    self.datagrams_ready = self.config.datagrams && settings.datagrams;
                    self.events
                        .push_back(Event::Settings(settings.all().to_vec()));
                    self.peer = Some(settings);
                }
                UniStep::Control(ControlFrame::GoAway(id)) => self.receive_goaway(id)?,
            }
        }
        if fin { self.uni.end(stream) } else { Ok(()) }
    }

    /// Requests that the server says it will not process are over: they can be tried on another
    /// connection (RFC 9114 §5.2).
    fn receive_goaway(&mut self, id: u64) -> Result<(), Fault> {
        self.goaway.receive(self.role, id)?;
        self.events.push_back(Event::GoAway { id });
        if self.role == Role::Client {
            for number in self.requests.from(id / 4) {
                let stream = StreamId(number * 4);
                let code = Code::H3_REQUEST_REJECTED;
                self.events.push_back(Event::Reset { stream, code });
                let code = Code::H3_REQUEST_CANCELLED;
                self.terminate(stream, code, code);
            }
        }
        Ok(())
    }

    fn receive_request(
        &mut self,
        stream: StreamId,
        mut data: Bytes,
        fin: bool,
    ) -> Result<(), Fault> {
        let number = stream.quarter();
        if self.requests.get(number).is_none() && !self.let_in(stream) {
            return Ok(());
        }
        while let Some(request) = self.requests.get_mut(number)
            && request.is_receiving
        {
            match request.next(&mut data, &self.limits)? {
                Some(Received::Data(data)) => {
                    self.events.push_back(Event::Data { stream, data });
                }
                Some(Received::Request(head)) => self.requested(stream, head)?,
                Some(Received::Response(head)) => {
                    self.events.push_back(Event::Response { stream, head });
                }
                None => break,
            }
        }
        match self.requests.get_mut(number) {
            Some(request) if fin && request.is_receiving => request.finish()?,
            _ => return Ok(()),
        }
        self.events.push_back(Event::Finished { stream });
        self.early.forget(number);
        self.settle(stream);
        Ok(())
    }

    /// Makes a new request, or rejects it: "When the server cancels a request without performing any
    /// application processing, the request is considered "rejected". The server SHOULD abort its
    /// response stream with the error code H3_REQUEST_REJECTED." (RFC 9114 §4.1.1)
    fn let_in(&mut self, stream: StreamId) -> bool {
        let number = stream.quarter();
        if self.role == Role::Client || self.requests.is_closed(number) {
            return false;
        }
        if self.goaway.rejects(number) || self.requests.len() >= self.config.max_requests {
            let code = Code::H3_REQUEST_REJECTED;
            self.outputs.push_back(Output::Reset { stream, code });
            self.outputs.push_back(Output::StopSending { stream, code });
            self.forget(stream);
            return false;
        }
        self.goaway.note_request(number);
        self.requests.insert(number, Request::incoming());
        true
    }

    /// A request came whole and valid. "If an HTTP Datagram is received and it is associated with
    /// a request that has no known semantics for HTTP Datagrams, the receiver MUST terminate the
    /// request. If HTTP/3 is in use, the request stream MUST be aborted with H3_DATAGRAM_ERROR"
    /// (RFC 9297 §2): also when the datagram overtook the request.
    fn requested(&mut self, stream: StreamId, head: RequestHead) -> Result<(), Fault> {
        let number = stream.quarter();
        let datagrams = self.requests.get(number).map(|request| request.datagrams);
        if datagrams == Some(DatagramUse::Unknown) && self.early.has(number) {
            self.terminate(stream, Code::H3_DATAGRAM_ERROR, Code::H3_DATAGRAM_ERROR);
            return Ok(());
        }
        self.events.push_back(Event::Request { stream, head });
        Ok(())
    }
}
