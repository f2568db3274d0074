//! Lets so many connections in and no more, each for so long and no longer: whoever can reach the
//! admin port must not be able to take the gateway's file descriptors.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};

/// Connections at one time: a few scrapers and probes need a handful. More wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// A connection ends so long after it began when it waits for its peer: for a request, or for an
/// answer to be taken. Scrapers connect anew.
const MAX_AGE: Duration = Duration::from_secs(30);
/// After an error of accepting, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener.
pub(super) struct Doorkeeper {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// A connection that was let in.
pub(super) struct Visitor {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Doorkeeper {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl Listener for Doorkeeper {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await;
            match (self.listener.accept().await, place) {
                (Ok((stream, peer)), Ok(place)) => {
                    let end = Box::pin(tokio::time::sleep(MAX_AGE));
                    let visitor = Visitor {
                        stream,
                        end,
                        _place: place,
                    };
                    return (visitor, peer);
                }
                (Err(error), _) => tracing::warn!(%error, "admin port"),
                // Nobody closes the semaphore.
                (Ok(_), Err(_)) => {}
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
            return work;
        }
        ready!(self.end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
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

    async fn asked(stream: &mut TcpStream) -> bool {
        let ask = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = [0; 512];
        let limit = Duration::from_millis(300);
        let read = tokio::time::timeout(limit, stream.read(&mut answer)).await;
        matches!(read, Ok(Ok(count)) if answer[..count].ends_with(b"here"))
    }

    #[tokio::test]
    async fn one_more_waits_until_one_leaves() {
        let address = serve().await;
        let mut all = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(asked(&mut stream).await);
            all.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        assert!(!asked(&mut late).await);
        all.pop();
        let mut answer = [0; 512];
        let count = late.read(&mut answer).await.unwrap();
        assert!(answer[..count].ends_with(b"here"));
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
