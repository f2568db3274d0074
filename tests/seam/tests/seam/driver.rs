//! An iroh connection that feeds `masque_http3::Connection` and carries out its outputs.
//!
//! Every stream has a task that reads it; the driver owns the state machine and what writes. That
//! is all there is to a transport: no line here knows of CONNECT-IP.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;
use iroh::endpoint::{
    ApplicationClose, Connection as Quic, ConnectionError, ReadError, RecvStream, SendStream,
    VarInt,
};
use masque_http3::{
    Code, Config, Connection, DatagramIn, Event, Output, RequestHead, Role, SendError, StreamId,
    datagram_prefix,
};
use tokio::sync::{mpsc, oneshot};

/// What waits between the readers and the driver; readers wait when it is full.
const INCOMING: usize = 256;

/// What a driver's owner is told.
#[derive(Debug)]
pub(crate) enum Got {
    Event(Event),
    Datagram(StreamId, Bytes),
    /// The connection is over: the code its closer gave.
    Closed {
        by_peer: bool,
        code: Code,
    },
}

/// What the readers saw.
enum Incoming {
    Opened(SendStream),
    Bytes(StreamId, Bytes, bool),
    Reset(StreamId, Code),
    Stopped(StreamId, Code),
    Datagram(Bytes),
    Over(ConnectionError),
}

pub(crate) struct Driver {
    pub(crate) quic: Quic,
    pub(crate) http: Connection,
    control: Option<SendStream>,
    requests: BTreeMap<StreamId, SendStream>,
    readers: BTreeMap<StreamId, oneshot::Sender<Code>>,
    incoming: mpsc::Receiver<Incoming>,
    report: mpsc::Sender<Incoming>,
    new_readers: mpsc::Receiver<(StreamId, oneshot::Sender<Code>)>,
    epoch: Instant,
}

impl Driver {
    pub(crate) fn new(quic: Quic, role: Role) -> Self {
        let (report, incoming) = mpsc::channel(INCOMING);
        let (announce, new_readers) = mpsc::channel(INCOMING);
        tokio::spawn(accept_uni(quic.clone(), report.clone(), announce.clone()));
        tokio::spawn(accept_bi(quic.clone(), report.clone(), announce));
        tokio::spawn(read_datagrams(quic.clone(), report.clone()));
        Self {
            http: Connection::new(role, Config::default()),
            quic,
            control: None,
            requests: BTreeMap::new(),
            readers: BTreeMap::new(),
            incoming,
            report,
            new_readers,
            epoch: Instant::now(),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// The next thing that happened, after everything the state machine wants was carried out.
    /// May be cancelled while it waits.
    pub(crate) async fn next(&mut self) -> Got {
        loop {
            self.flush().await;
            if let Some(event) = self.http.poll_event() {
                return Got::Event(event);
            }
            if let Some((stream, payload)) = self.http.poll_early_datagram() {
                return Got::Datagram(stream, payload);
            }
            let incoming = self.incoming.recv().await.expect("we hold a sender");
            match incoming {
                Incoming::Opened(send) => self.opened(send),
                Incoming::Bytes(stream, data, fin) => self.http.handle_stream(stream, data, fin),
                Incoming::Reset(stream, code) => self.http.handle_reset(stream, code),
                Incoming::Stopped(stream, code) => self.http.handle_stop_sending(stream, code),
                Incoming::Datagram(payload) => {
                    let now_ms = self.now_ms();
                    if let DatagramIn::Deliver { stream, payload } =
                        self.http.handle_datagram(payload, now_ms)
                    {
                        return Got::Datagram(stream, payload);
                    }
                }
                Incoming::Over(error) => return closed(&error),
            }
        }
    }

    /// Opens a stream and sends a request on it.
    pub(crate) async fn request(&mut self, head: &RequestHead) -> Result<StreamId, SendError> {
        let (send, recv) = self.quic.open_bi().await.expect("the peer permits streams");
        let stream = StreamId(send.id().into());
        self.http.send_request(stream, head, false)?;
        let (stop, stopped) = oneshot::channel();
        self.readers.insert(stream, stop);
        tokio::spawn(read(recv, stopped, self.report.clone()));
        self.opened(send);
        self.flush().await;
        Ok(stream)
    }

    /// Sends an HTTP Datagram if the rules permit one on this stream.
    pub(crate) fn send_datagram(&self, stream: StreamId, payload: &[u8]) -> bool {
        if !self.http.may_send_datagram(stream) {
            return false;
        }
        let (prefix, length) = datagram_prefix(stream);
        let datagram = [&prefix[..length], payload].concat();
        self.quic
            .send_datagram(datagram.into())
            .expect("it fits the path");
        true
    }

    /// Carries out what the state machine wants.
    pub(crate) async fn flush(&mut self) {
        while let Ok((stream, stop)) = self.new_readers.try_recv() {
            self.readers.insert(stream, stop);
        }
        while let Some(output) = self.http.poll_output() {
            match output {
                Output::Control(data) => {
                    if self.control.is_none() {
                        self.control = self.quic.open_uni().await.ok();
                    }
                    if let Some(control) = &mut self.control {
                        let _ = control.write_chunk(data).await;
                    }
                }
                Output::Stream { stream, data, fin } => {
                    let send = self.requests.get_mut(&stream).expect("an open request");
                    let _ = send.write_chunk(data).await;
                    if fin {
                        let _ = send.finish();
                        self.requests.remove(&stream);
                    }
                }
                Output::Reset { stream, code } => {
                    if let Some(mut send) = self.requests.remove(&stream) {
                        let _ = send.reset(varint(code));
                    }
                }
                Output::StopSending { stream, code } => {
                    if let Some(stop) = self.readers.remove(&stream) {
                        let _ = stop.send(code);
                    }
                }
                Output::Close { code, reason } => self.quic.close(varint(code), reason.as_bytes()),
            }
        }
    }

    fn opened(&mut self, send: SendStream) {
        let stream = StreamId(send.id().into());
        tokio::spawn(watch_stop(stream, send.stopped(), self.report.clone()));
        self.requests.insert(stream, send);
    }
}

async fn accept_uni(
    quic: Quic,
    report: mpsc::Sender<Incoming>,
    announce: mpsc::Sender<(StreamId, oneshot::Sender<Code>)>,
) {
    while let Ok(recv) = quic.accept_uni().await {
        begin(recv, &report, &announce).await;
    }
}

async fn accept_bi(
    quic: Quic,
    report: mpsc::Sender<Incoming>,
    announce: mpsc::Sender<(StreamId, oneshot::Sender<Code>)>,
) {
    while let Ok((send, recv)) = quic.accept_bi().await {
        // In front of what is read, so that an answer finds the stream.
        let _ = report.send(Incoming::Opened(send)).await;
        begin(recv, &report, &announce).await;
    }
}

async fn begin(
    recv: RecvStream,
    report: &mpsc::Sender<Incoming>,
    announce: &mpsc::Sender<(StreamId, oneshot::Sender<Code>)>,
) {
    let (stop, stopped) = oneshot::channel();
    let _ = announce.send((StreamId(recv.id().into()), stop)).await;
    tokio::spawn(read(recv, stopped, report.clone()));
}

/// Reads one stream to its end, or until it is to be stopped.
async fn read(
    mut recv: RecvStream,
    mut stopped: oneshot::Receiver<Code>,
    report: mpsc::Sender<Incoming>,
) {
    let stream = StreamId(recv.id().into());
    let mut may_stop = true;
    loop {
        let chunk = tokio::select! {
            code = &mut stopped, if may_stop => {
                if let Ok(code) = code {
                    let _ = recv.stop(varint(code));
                    return;
                }
                may_stop = false;
                continue;
            }
            chunk = recv.read_chunk(64 * 1024) => chunk,
        };
        let (incoming, is_last) = match chunk {
            Ok(Some(data)) => (Incoming::Bytes(stream, data, false), false),
            Ok(None) => (Incoming::Bytes(stream, Bytes::new(), true), true),
            Err(ReadError::Reset(code)) => (Incoming::Reset(stream, Code(code.into_inner())), true),
            Err(_) => return,
        };
        if report.send(incoming).await.is_err() || is_last {
            return;
        }
    }
}

async fn watch_stop(
    stream: StreamId,
    stopped: impl Future<Output = Result<Option<VarInt>, iroh::endpoint::StoppedError>>,
    report: mpsc::Sender<Incoming>,
) {
    if let Ok(Some(code)) = stopped.await {
        let code = Code(code.into_inner());
        let _ = report.send(Incoming::Stopped(stream, code)).await;
    }
}

/// Reads datagrams until the connection is over, and says why it is.
async fn read_datagrams(quic: Quic, report: mpsc::Sender<Incoming>) {
    loop {
        let incoming = match quic.read_datagram().await {
            Ok(payload) => Incoming::Datagram(payload),
            Err(error) => {
                let _ = report.send(Incoming::Over(error)).await;
                return;
            }
        };
        if report.send(incoming).await.is_err() {
            return;
        }
    }
}

fn closed(error: &ConnectionError) -> Got {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { error_code, .. }) => Got::Closed {
            by_peer: true,
            code: Code(error_code.into_inner()),
        },
        ConnectionError::LocallyClosed => Got::Closed {
            by_peer: false,
            code: Code::H3_NO_ERROR,
        },
        other => panic!("the connection broke: {other}"),
    }
}

fn varint(code: Code) -> VarInt {
    VarInt::from_u64(code.0).expect("codes are varints")
}
