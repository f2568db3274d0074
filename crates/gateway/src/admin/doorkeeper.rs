//! Lets so many connections in and no more, each for so long and no longer: whoever can reach the
//! admin port must not be able to take the gateway's file descriptors, nor the place of a probe.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Sleep,
};

/// Connections at one time, and one that waits for its place: a few scrapers and probes need a
/// handful. More wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// A connection ends so long after it began when it waits for its peer: for a request, or for an
/// answer to be taken. Scrapers connect anew.
const MAX_AGE: Duration = Duration::from_secs(30);
/// After an error of accepting, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener. Where no place is free, the newcomer gets that of the connection whose peer is silent
/// longest: a kubelet that had to wait behind silent ones would kill the pod.
pub(super) struct Doorkeeper {
    listener: TcpListener,
    places: Arc<Semaphore>,
    guests: Arc<Guests>,
}

/// Who is in.
#[derive(Default)]
struct Guests(Mutex<Seats>);

#[derive(Default)]
struct Seats {
    /// Grows with everything that a peer says or takes.
    turn: u64,
    /// By the turn in which each began.
    seats: BTreeMap<u64, Seat>,
}

struct Seat {
    /// The turn in which the peer last said or took something.
    active: u64,
    /// Dropped to send the visitor away.
    _stays: oneshot::Sender<()>,
}

impl Guests {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn welcome(&self) -> (u64, oneshot::Receiver<()>) {
        let (stays, leave) = oneshot::channel();
        let mut guests = self.seats();
        guests.turn += 1;
        let turn = guests.turn;
        let seat = Seat {
            active: turn,
            _stays: stays,
        };
        guests.seats.insert(turn, seat);
        (turn, leave)
    }

    fn is_active(&self, seat: u64) {
        let mut guests = self.seats();
        guests.turn += 1;
        let turn = guests.turn;
        if let Some(seat) = guests.seats.get_mut(&seat) {
            seat.active = turn;
        }
    }

    fn send_silent_away(&self) {
        let mut guests = self.seats();
        let silent = guests.seats.iter().min_by_key(|(_, seat)| seat.active);
        if let Some(silent) = silent.map(|(turn, _)| *turn) {
            guests.seats.remove(&silent);
        }
    }
}

/// A connection that was let in.
pub(super) struct Visitor {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    seat: u64,
    /// Says that the place is wanted.
    leave: oneshot::Receiver<()>,
    guests: Arc<Guests>,
    _place: OwnedSemaphorePermit,
}

impl Doorkeeper {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            guests: Arc::default(),
        }
    }

    async fn let_in(&self, stream: TcpStream) -> Option<Visitor> {
        if self.places.available_permits() == 0 {
            self.guests.send_silent_away();
        }
        // Nobody closes the semaphore.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (seat, leave) = self.guests.welcome();
        Some(Visitor {
            stream,
            end: Box::pin(tokio::time::sleep(MAX_AGE)),
            seat,
            leave,
            guests: Arc::clone(&self.guests),
            _place: place,
        })
    }
}

impl Listener for Doorkeeper {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(visitor) = self.let_in(stream).await {
                        return (visitor, peer);
                    }
                }
                Err(error) => tracing::warn!(%error, "admin port"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Visitor {
    /// `work` if it need not wait for the peer, or may still.
    fn in_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if work.is_ready() {
            self.guests.is_active(self.seat);
            return work;
        }
        // Once it was told it must not be asked again.
        let leaves = self.leave.is_terminated() || Pin::new(&mut self.leave).poll(cx).is_ready();
        if !leaves {
            ready!(self.end.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.guests.seats().seats.remove(&self.seat);
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.in_time(cx, read)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn serve() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        tokio::spawn(axum::serve(Doorkeeper::new(listener), router).into_future());
        address
    }

    /// Whether the gateway answers; awaited for as long as the connection is open.
    async fn asked(stream: &mut TcpStream) -> bool {
        let ask = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        if stream.write_all(ask).await.is_err() {
            return false;
        }
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await;
        read.is_ok_and(|count| answer[..count].ends_with(b"here"))
    }

    #[tokio::test]
    async fn a_newcomer_gets_the_place_of_who_is_silent_longest() {
        let address = serve().await;
        let mut all = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            all.push(TcpStream::connect(address).await.unwrap());
        }
        // The third is the one that says nothing after all others did.
        for (i, stream) in all.iter_mut().enumerate() {
            assert!(i == 2 || asked(stream).await);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        assert!(asked(&mut late).await);
        let mut silent = all.remove(2);
        assert!(!asked(&mut silent).await, "it was sent away");
        for stream in &mut all {
            assert!(asked(stream).await, "nobody else was");
        }
    }

    #[tokio::test]
    async fn probes_are_answered_whatever_holds_the_places() {
        let address = serve().await;
        for begin in [&b""[..], b"GET / HTTP/1.1\r\nhos"] {
            let mut all = Vec::new();
            for _ in 0..2 * MAX_CONNECTIONS {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(begin).await.unwrap();
                all.push(stream);
            }
            for _ in 0..3 {
                let mut probe = TcpStream::connect(address).await.unwrap();
                assert!(asked(&mut probe).await);
            }
        }
    }

    #[tokio::test]
    async fn the_places_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut door = Doorkeeper::new(listener);
        let (mut peers, mut visitors) = (Vec::new(), Vec::new());
        for _ in 0..MAX_CONNECTIONS {
            peers.push(TcpStream::connect(address).await.unwrap());
            visitors.push(door.accept().await.0);
        }
        peers.push(TcpStream::connect(address).await.unwrap());
        // Who is asked to leave has not left yet.
        let limit = Duration::from_millis(100);
        let late = tokio::time::timeout(limit, door.accept()).await;
        assert!(late.is_err());
        peers.push(TcpStream::connect(address).await.unwrap());
        let mut silent = visitors.remove(0);
        // A server may flush and shut down what it could not read from.
        for _ in 0..2 {
            let read = silent.read(&mut [0; 8]).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop(silent);
        door.accept().await;
    }

    /// In real time the peer would be waited for; here the clock runs on while nobody has to do
    /// anything.
    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_half_of_it_is_left() {
        let address = serve().await;
        for begin in [&b""[..], b"GET / HTTP/1.1\r\nhos"] {
            let began = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begin).await.unwrap();
            let mut rest = Vec::new();
            // By a reset or by an end, but not never.
            let _ended = stream.read_to_end(&mut rest).await;
            assert!(began.elapsed() >= MAX_AGE, "{:?}", began.elapsed());
        }
    }
}
