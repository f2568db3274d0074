//! One blocking netlink socket: a request, its replies, its acknowledgement.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// What the kernel fills at most with one `recvmsg` of a dump.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Bound on the messages of one reply; a dump has one for each route or link.
const REPLIES_MAX: usize = 1 << 20;
/// How often a dump that the kernel found to be inconsistent is repeated.
const DUMP_ATTEMPTS: u32 = 5;
/// The kernel answers at once; this only ends a wait for an answer that was lost.
const RECEIVE_TIMEOUT_S: i64 = 5;

/// `nlmsghdr` flags.
pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
const DUMP_INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;
const EXTENDED_ACK: u16 = 0x200;

const KIND_ERROR: u16 = libc::NLMSG_ERROR as u16;
const KIND_DONE: u16 = libc::NLMSG_DONE as u16;
const KIND_NOOP: u16 = libc::NLMSG_NOOP as u16;
const ACK_ATTRIBUTE_MESSAGE: u16 = 1;

/// A netlink socket bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    fd: OwnedFd,
    sequence: u32,
}

/// A message of a reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The kernel refused it.
    Refused { errno: i32, message: Option<String> },
    /// The socket failed.
    Broken(String),
}

impl RequestError {
    /// The error number of a refusal, else 0.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Broken(_) => 0,
        }
    }
}

impl Socket {
    /// Opens a socket of one netlink protocol.
    pub(crate) fn open(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: plain system call; the descriptor is owned at once.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, kind, protocol);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let timeout = libc::timeval {
            tv_sec: RECEIVE_TIMEOUT_S,
            tv_usec: 0,
        };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
        // Errors in words, without the request repeated. All three are as old as Linux 4.20; what is
        // refused here only costs the words.
        let on: libc::c_int = 1;
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let _ = set_option(&fd, libc::SOL_NETLINK, option, &on);
        }
        Ok(Self {
            state: Mutex::new(State { fd, sequence: 0 }),
        })
    }

    /// Sends a request and waits for its acknowledgement. Returns what came before it.
    pub(crate) fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Vec<Reply>, RequestError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = REQUEST | flags | if flags & DUMP == DUMP { 0 } else { ACK };
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(replies) = state.exchange(kind, flags, body)? {
                return Ok(replies);
            }
        }
        Err(RequestError::Broken(
            "the table changes faster than it can be read".into(),
        ))
    }
}

impl State {
    /// One request and its replies; `None` for a dump that must be repeated.
    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Option<Vec<Reply>>, RequestError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(kind, flags, body)?;
        let mut replies = Vec::new();
        let mut interrupted = false;
        let mut buf = vec![0; RECEIVE_BYTES];
        loop {
            let length = self.receive(&mut buf)?;
            for message in Messages(&buf[..length]) {
                let Some(message) = message else {
                    return Err(RequestError::Broken("a message is cut short".into()));
                };
                // An answer to an earlier request that timed out.
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    KIND_NOOP => {}
                    KIND_ERROR | KIND_DONE => {
                        outcome(&message)?;
                        return Ok((!interrupted).then_some(replies));
                    }
                    _ => keep(&mut replies, &message)?,
                }
            }
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> Result<(), RequestError> {
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        let length = (HEADER_BYTES + body.len()) as u32;
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        // Port 0: the kernel fills in ours.
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: the buffer is valid for its length; an unconnected netlink socket sends to the
        // kernel.
        let sent = unsafe {
            libc::send(
                self.fd.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if usize::try_from(sent) == Ok(message.len()) {
            return Ok(());
        }
        Err(RequestError::Broken(format!(
            "send: {}",
            io::Error::last_os_error()
        )))
    }

    fn receive(&self, buf: &mut [u8]) -> Result<usize, RequestError> {
        loop {
            // SAFETY: the buffer is valid and writable for its length. With MSG_TRUNC the result is
            // the length that the message had.
            let received = unsafe {
                let flags = libc::MSG_TRUNC;
                libc::recv(
                    self.fd.as_raw_fd(),
                    buf.as_mut_ptr().cast(),
                    buf.len(),
                    flags,
                )
            };
            match usize::try_from(received) {
                Ok(length) if length <= buf.len() => return Ok(length),
                Ok(length) => {
                    return Err(RequestError::Broken(format!("a reply of {length} bytes")));
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(RequestError::Broken(format!("receive: {error}")));
                    }
                }
            }
        }
    }
}

/// The messages of one datagram; `None` for one whose length is wrong, after which it ends.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Option<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = self.split();
        if message.is_none() {
            self.0 = &[];
        }
        Some(message)
    }
}

impl<'a> Messages<'a> {
    fn split(&mut self) -> Option<Message<'a>> {
        let header = self.0.first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(HEADER_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    }
}

/// Reads an acknowledgement or the end of a dump.
fn outcome(message: &Message<'_>) -> Result<(), RequestError> {
    let Some(code) = message.body.first_chunk::<4>() else {
        // NLMSG_DONE of old kernels has no code.
        return Ok(());
    };
    let errno = i32::from_ne_bytes(*code).saturating_neg();
    if errno == 0 {
        return Ok(());
    }
    let mut attributes_at = 4;
    if message.kind == KIND_ERROR {
        attributes_at += HEADER_BYTES;
        if message.flags & CAPPED == 0 {
            attributes_at = message.body.len();
        }
    }
    let text = (message.flags & EXTENDED_ACK != 0)
        .then(|| message.body.get(attributes_at..).unwrap_or_default())
        .and_then(|attributes| attribute(attributes, ACK_ATTRIBUTE_MESSAGE))
        .map(text_of);
    Err(RequestError::Refused {
        errno,
        message: text,
    })
}

/// The value of the first attribute of a kind (`struct nlattr`: length, kind, value, padding).
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let [l0, l1, k0, k1] = *attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        // The two upper bits are flags: nested, network byte order.
        if u16::from_ne_bytes([k0, k1]) & 0x3fff == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A NUL-terminated text of the kernel.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn set_option<T>(
    fd: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: value points to `length` bytes that live through the call.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, length) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Adds one message to the replies of a request.
fn keep(replies: &mut Vec<Reply>, message: &Message<'_>) -> Result<(), RequestError> {
    if replies.len() == REPLIES_MAX {
        return Err(RequestError::Broken(format!("over {REPLIES_MAX} replies")));
    }
    replies.push(Reply {
        kind: message.kind,
        body: message.body.to_vec(),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_taken_apart_and_lies_end_it() {
        let mut bytes = message(24, 0, b"abc");
        bytes.extend(message(25, 2, b""));
        let got: Vec<_> = Messages(&bytes)
            .map(|m| m.map(|m| (m.kind, m.body.len())))
            .collect();
        assert_eq!(got, [Some((24, 3)), Some((25, 0))]);
        for length in [0u32, 15, 1000] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let got: Vec<_> = Messages(&bytes).map(|m| m.is_some()).collect();
            assert_eq!(got, [false]);
        }
    }

    #[test]
    fn a_refusal_comes_with_the_kernels_words() {
        let mut body = (-22i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER_BYTES]);
        let text = b"Invalid thing\0";
        body.extend((4 + text.len() as u16).to_ne_bytes());
        body.extend(ACK_ATTRIBUTE_MESSAGE.to_ne_bytes());
        body.extend(text);
        let bytes = message(KIND_ERROR, CAPPED | EXTENDED_ACK, &body);
        let parsed = Messages(&bytes).next().flatten().unwrap();
        let Err(RequestError::Refused { errno, message }) = outcome(&parsed) else {
            panic!()
        };
        assert_eq!((errno, message.as_deref()), (22, Some("Invalid thing")));
        let fine = message_ok();
        assert!(outcome(&Messages(&fine).next().flatten().unwrap()).is_ok());
    }

    fn message_ok() -> Vec<u8> {
        message(KIND_ERROR, CAPPED, &[0; 4 + HEADER_BYTES])
    }

    #[test]
    fn attributes_are_found_behind_padding_and_flags() {
        let mut bytes = vec![5, 0, 3, 0, b'x', 0, 0, 0];
        bytes.extend([6, 0, 4, 0x80, 1, 2]);
        if cfg!(target_endian = "little") {
            assert_eq!(attribute(&bytes, 3), Some(&b"x"[..]));
            assert_eq!(attribute(&bytes, 4), Some(&[1, 2][..]));
            assert_eq!(attribute(&bytes, 5), None);
            assert_eq!(attribute(&bytes[..12], 4), None, "cut short");
            assert_eq!(attribute(&[0; 16], 1), None, "length 0 makes no progress");
        }
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::open(libc::NETLINK_ROUTE).unwrap();
        // A dump of links: struct ifinfomsg, all zero.
        let links = socket.request(libc::RTM_GETLINK, DUMP, &[0; 16]).unwrap();
        assert!(links.iter().any(|link| link.kind == libc::RTM_NEWLINK));
        // No such request.
        let error = socket.request(9999, 0, &[]).unwrap_err();
        assert_ne!(error.errno(), 0);
    }

    #[test]
    fn the_replies_of_one_request_are_bounded() {
        let bytes = message(24, 0, b"");
        let one = Messages(&bytes).next().flatten().unwrap();
        let mut replies = Vec::new();
        for _ in 0..REPLIES_MAX {
            keep(&mut replies, &one).unwrap();
        }
        assert!(matches!(
            keep(&mut replies, &one),
            Err(RequestError::Broken(_))
        ));
        assert_eq!(replies.len(), REPLIES_MAX);
    }
}
