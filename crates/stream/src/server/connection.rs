//! TCP and TLS of the operator's end.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use masque_model::ObjectName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::{
    bounds::{CONNECT_TIMEOUT, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_POINT},
    identity::{point_of_certificate, point_uri},
    tls::ServerTls,
};

/// After an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whom the certificate of a connection names.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) point: ObjectName,
    pub(super) uri: String,
}

/// A connection after its handshake.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
    _seat: Seat,
}

/// How many connections each ingress point has.
type Seats = Arc<Mutex<BTreeMap<ObjectName, usize>>>;

/// One connection of an ingress point, until it is dropped.
struct Seat {
    seats: Seats,
    point: ObjectName,
}

impl Seat {
    /// Nothing when the ingress point has [`MAX_CONNECTIONS_PER_POINT`] already.
    fn take(seats: &Seats, point: &ObjectName) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(point.clone()).or_default();
        if *count >= MAX_CONNECTIONS_PER_POINT {
            return None;
        }
        *count += 1;
        Some(Self {
            seats: Arc::clone(seats),
            point: point.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.point) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.point);
            }
        }
    }
}

/// Accepts connections; each makes its handshake by itself, so that a slow one holds up nobody.
pub(super) async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let seats = Seats::default();
    loop {
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a gateway's connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(tls.current());
        let (connections, seats) = (connections.clone(), Arc::clone(&seats));
        tokio::spawn(async move {
            let result = timeout(CONNECT_TIMEOUT, handshake(acceptor, stream)).await;
            match result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((stream, peer)) => {
                    let Some(seat) = Seat::take(&seats, &peer.point) else {
                        tracing::warn!(
                            %remote, ingress_point = %peer.point,
                            "refused: this ingress point has too many connections"
                        );
                        return;
                    };
                    let connection = Connection {
                        stream,
                        peer,
                        _permit: permit,
                        _seat: seat,
                    };
                    // The server has stopped otherwise.
                    let _stopped = connections.send(Ok(connection)).await;
                }
                Err(error) => tracing::info!(%remote, %error, "a TLS handshake failed"),
            }
        });
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, Peer)> {
    let stream = acceptor.accept(stream).await?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first());
    let leaf = leaf.ok_or_else(|| io::Error::other("the client has no certificate"))?;
    let point = point_of_certificate(leaf).map_err(io::Error::other)?;
    let peer = Peer {
        uri: point_uri(&point),
        point,
    };
    Ok((stream, peer))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ingress_point_does_not_take_every_place() {
        let seats = Seats::default();
        let (greedy, modest) = (ObjectName::new("a", "x"), ObjectName::new("b", "x"));
        let take = |point| Seat::take(&seats, point);
        let mut held: Vec<_> = (0..MAX_CONNECTIONS_PER_POINT)
            .map(|_| take(&greedy).unwrap())
            .collect();
        assert!(take(&greedy).is_none());
        assert!(take(&modest).is_some());
        held.pop();
        assert!(take(&greedy).is_some());
        held.clear();
        assert!(seats.lock().unwrap().is_empty());
    }
}
