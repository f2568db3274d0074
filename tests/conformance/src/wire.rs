//! What both ends of a raw connection do.

use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};

use crate::frames::{self, HEADERS, split};

/// Anything that should happen at all happens in this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// One connection, and its control streams.
pub struct Wire {
    /// The connection.
    pub connection: Connection,
    /// Kept: a control stream must stay open.
    control: Option<SendStream>,
    /// Kept: to stop reading it would end the connection.
    peer_control: Option<RecvStream>,
}

impl Wire {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            control: None,
            peer_control: None,
        }
    }

    /// Ends the control stream, which nobody may (RFC 9114 §6.2.1).
    pub fn finish_control(&mut self) {
        let stream = self.control.as_mut().expect("open_control came first");
        stream.finish().expect("it is open");
    }

    /// Opens a unidirectional stream with these bytes; it stays open.
    pub async fn open_uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Opens the control stream with these bytes.
    pub async fn open_control(&mut self, bytes: &[u8]) {
        self.control = Some(self.open_uni(bytes).await);
    }

    /// Appends to the control stream.
    pub async fn on_control(&mut self, bytes: &[u8]) {
        // The peer may have closed the connection already.
        let _closed = self
            .control
            .as_mut()
            .expect("open_control came first")
            .write_all(bytes)
            .await;
    }

    /// The application code that the peer closes the connection with.
    pub async fn close_code(&self) -> u64 {
        match tokio::time::timeout(PATIENCE, self.connection.closed()).await {
            Ok(quinn::ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            Ok(other) => panic!("closed otherwise: {other}"),
            Err(_) => panic!("the peer does not close the connection"),
        }
    }

    /// The peer's SETTINGS.
    pub async fn peer_settings(&mut self) -> Vec<(u64, u64)> {
        let mut stream = self.connection.accept_uni().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            let chunk = stream
                .read_chunk(4096, true)
                .await
                .unwrap()
                .expect("an open control stream");
            bytes.extend_from_slice(&chunk.bytes);
            let Some((kind, payload, _)) = bytes.get(1..).and_then(split) else {
                continue;
            };
            assert_eq!(
                (bytes[0], kind),
                (0, frames::SETTINGS),
                "the control stream comes first"
            );
            let mut settings = Vec::new();
            let mut rest = &payload[..];
            while let Some((id, used)) = masque_http3::varint::decode(rest) {
                let (value, more) = masque_http3::varint::decode(&rest[used..]).unwrap();
                settings.push((id, value));
                rest = &rest[used + more..];
            }
            self.peer_control = Some(stream);
            return settings;
        }
    }
}

/// What comes back on a request stream.
pub struct Reader {
    stream: RecvStream,
    buffer: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// The next frame's type and payload; `Err` is the code of a reset, 0 the end of the stream.
    pub async fn frame(&mut self) -> Result<(u64, Vec<u8>), u64> {
        loop {
            if let Some((kind, payload, used)) = split(&self.buffer) {
                self.buffer.drain(..used);
                return Ok((kind, payload));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.stream.read_chunk(65_536, true));
            match chunk.await.expect("an answer in time") {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(0),
                Err(quinn::ReadError::Reset(code)) => return Err(code.into_inner()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The field section of the answer.
    pub async fn head(&mut self) -> Vec<u8> {
        loop {
            let (kind, payload) = self.frame().await.expect("an answer");
            if kind == HEADERS {
                return payload;
            }
        }
    }

    /// The answer's status.
    pub async fn status(&mut self) -> u16 {
        frames::status(&self.head().await)
    }

    /// The code that the peer resets the stream with.
    pub async fn reset_code(&mut self) -> u64 {
        loop {
            if let Err(code) = self.frame().await {
                return code;
            }
        }
    }

    /// The next capsules, from DATA frames that hold whole ones.
    pub async fn capsules(&mut self, count: usize) -> Vec<(u64, Vec<u8>)> {
        let mut capsules = Vec::new();
        let mut bytes = Vec::new();
        while capsules.len() < count {
            let (kind, payload) = self.frame().await.expect("capsules");
            if kind == frames::DATA {
                bytes.extend(payload);
            }
            while let Some((kind, value, used)) = split(&bytes) {
                bytes.drain(..used);
                capsules.push((kind, value));
            }
        }
        capsules
    }
}
