//! GOAWAY in both directions (RFC 9114 §5.2).

use bytes::{Bytes, BytesMut};

use crate::{Code, Role, error::Fault, frame, varint};

/// The id of the first GOAWAY of a graceful shutdown: "An endpoint that is attempting to gracefully
/// shut down a connection can send a GOAWAY frame with a value set to the maximum possible value
/// (2^62-4 for servers, 2^62-1 for clients)."
const fn last_possible_id(role: Role) -> u64 {
    match role {
        Role::Client => varint::MAX,
        Role::Server => varint::MAX - 3,
    }
}

/// What was said about going away.
#[derive(Debug, Default)]
pub(crate) struct GoAway {
    received: Option<u64>,
    sent: Option<u64>,
    /// The first request number no request was accepted at or above (server).
    next_request: u64,
}

impl GoAway {
    /// The peer's GOAWAY names `id`; `role` is ours.
    pub(crate) fn receive(&mut self, role: Role, id: u64) -> Result<(), Fault> {
        let wrong = |reason| Err(Fault::Connection(Code::H3_ID_ERROR, reason));
        // "A client MUST treat receipt of a GOAWAY frame containing a Stream ID of any other type
        // as a connection error of type H3_ID_ERROR." (§7.2.6)
        if role == Role::Client && !id.is_multiple_of(4) {
            return wrong("GOAWAY with the id of no request stream");
        }
        // "Receiving a GOAWAY containing a larger identifier than previously received MUST be
        // treated as a connection error of type H3_ID_ERROR."
        if self.received.is_some_and(|earlier| id > earlier) {
            return wrong("GOAWAY with a larger id than before");
        }
        self.received = Some(id);
        Ok(())
    }

    /// The peer takes no new requests: "Endpoints MUST NOT initiate new requests or promise new
    /// pushes on the connection after receipt of a GOAWAY frame from the peer."
    pub(crate) fn is_received(&self) -> bool {
        self.received.is_some()
    }

    /// A request was let in (server).
    pub(crate) fn note_request(&mut self, number: u64) {
        self.next_request = self.next_request.max(number + 1);
    }

    /// Whether our GOAWAY rules out a request: "Requests or pushes with the indicated
    /// identifier or greater are rejected (...) by the sender of the GOAWAY."
    pub(crate) fn rejects(&self, number: u64) -> bool {
        self.sent.is_some_and(|id| number.saturating_mul(4) >= id)
    }

    /// The next GOAWAY frame of a graceful shutdown, if one is left to send.
    pub(crate) fn shut_down(&mut self, role: Role) -> Option<Bytes> {
        let first = last_possible_id(role);
        let id = match self.sent {
            None => first,
            // Push ids, if we are a client: of pushes there were none.
            Some(sent) if sent == first => (self.next_request * 4).min(first),
            Some(_) => return None,
        };
        self.sent = Some(id);
        let mut out = BytesMut::with_capacity(10);
        frame::put_header(&mut out, frame::GOAWAY, varint::length(id));
        varint::put(&mut out, id);
        Some(out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n14_two_steps_then_silence() {
        let mut goaway = GoAway::default();
        goaway.note_request(2);
        goaway.note_request(1);
        assert!(!goaway.rejects(1 << 40));
        let first = goaway.shut_down(Role::Server).unwrap();
        assert_eq!(
            first[..],
            [7, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc]
        );
        assert!(!goaway.rejects(3));
        goaway.note_request(3);
        assert_eq!(goaway.shut_down(Role::Server).unwrap()[..], [7, 1, 16]);
        assert!(goaway.rejects(4) && !goaway.rejects(3));
        assert_eq!(goaway.shut_down(Role::Server), None);
        let mut client = GoAway::default();
        assert_eq!(client.shut_down(Role::Client).unwrap()[2..], [0xff; 8]);
        assert_eq!(client.shut_down(Role::Client).unwrap()[..], [7, 1, 0]);
        assert_eq!(client.shut_down(Role::Client), None);
    }

    #[test]
    fn n14_received_ids() {
        let mut goaway = GoAway::default();
        assert!(goaway.receive(Role::Client, 6).is_err());
        assert_eq!(goaway.receive(Role::Client, varint::MAX - 3), Ok(()));
        assert_eq!(goaway.receive(Role::Client, 8), Ok(()));
        assert_eq!(goaway.receive(Role::Client, 8), Ok(()));
        let error = goaway.receive(Role::Client, 12).unwrap_err();
        assert!(matches!(error, Fault::Connection(Code::H3_ID_ERROR, _)));
        assert_eq!(
            GoAway::default().receive(Role::Server, 7),
            Ok(()),
            "a push id may be any"
        );
    }
}
