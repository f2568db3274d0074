//! How many small UDP packets a second come through without loss.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use masque_testkit::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use super::echo::PAYLOAD_BYTES;
use crate::{failure::Failure, interrupt};

/// UDP port of the sink.
pub(crate) const PORT: u16 = 7008;
/// Holds everything that can arrive between two looks of the receiver.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// The receiver looks this often: a wake-up for each packet would measure the receiver.
const RECEIVE_EVERY: Duration = Duration::from_micros(500);
const SEND_EVERY: Duration = Duration::from_micros(100);
/// Most packets sent back to back; what falls due beyond it is not made up for at once.
const BURST_MAX: u64 = 64;
/// Late packets count until so long after the last one was sent.
const LINGER: Duration = Duration::from_millis(100);
/// "Without loss": at most one packet in a thousand, on a machine that others interrupt, too.
const LOSS_MAX: f64 = 0.001;
/// A sender that cannot keep nine tenths of the pace is the limit itself.
const PACE_MIN: f64 = 0.9;
const FIRST_RATE: f64 = 16_000.0;
const DOUBLINGS_MAX: u32 = 6;
const HALVINGS: u32 = 3;
/// A trial that lost packets is tried again so often.
const TRIALS: u32 = 2;

/// One trial at one rate.
#[derive(Clone, Copy, Debug)]
struct Trial {
    sent: u64,
    received: u64,
    seconds: f64,
    kept_pace: bool,
}

impl Trial {
    #[expect(clippy::cast_precision_loss, reason = "packets of one second")]
    fn lossless(&self) -> bool {
        self.sent > 0
            && self.sent.saturating_sub(self.received) as f64 <= LOSS_MAX * self.sent as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "packets of one second")]
    fn rate(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

/// Two sockets through one tunnel.
#[derive(Debug)]
pub(crate) struct Flood {
    sender: UdpSocket,
    sink: UdpSocket,
}

impl Flood {
    pub(crate) fn open(
        client: &Netns,
        workload: &Netns,
        target: Ipv4Addr,
    ) -> Result<Self, Failure> {
        let sink = workload.enter(|| {
            let socket = UdpSocket::bind((target, PORT))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        });
        let sender = client.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((target, PORT))?;
            io::Result::Ok(socket)
        });
        Ok(Self {
            sender: sender.map_err(Failure::io("the sender's socket"))?,
            sink: sink.map_err(Failure::io("the sink's socket"))?,
        })
    }

    /// Doubles the rate until packets are lost, then halves the gap: packets a second, never more
    /// than `DOUBLINGS_MAX + HALVINGS` rates.
    pub(crate) fn search(&self, time: Duration) -> Result<f64, Failure> {
        let (mut best, mut good, mut rate) = (0.0_f64, 0.0, FIRST_RATE);
        let mut bad = None;
        for _ in 0..=DOUBLINGS_MAX {
            let trial = self.trial(rate, time)?;
            if !trial.lossless() {
                bad = Some(rate);
                break;
            }
            best = best.max(trial.rate());
            if !trial.kept_pace {
                return Ok(best);
            }
            good = rate;
            rate *= 2.0;
        }
        let Some(mut bad) = bad else { return Ok(best) };
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(good, bad);
            let trial = self.trial(middle, time)?;
            if trial.lossless() {
                best = best.max(trial.rate());
                good = middle;
            } else {
                bad = middle;
            }
        }
        Ok(best)
    }

    /// The first trial without loss, else the last.
    fn trial(&self, rate: f64, time: Duration) -> Result<Trial, Failure> {
        let mut trial = self.once(rate, time)?;
        for _ in 1..TRIALS {
            if trial.lossless() {
                break;
            }
            trial = self.once(rate, time)?;
        }
        Ok(trial)
    }

    fn once(&self, rate: f64, time: Duration) -> Result<Trial, Failure> {
        drain(&self.sink);
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let (sent, seconds, received) = thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&self.sink, &done));
            let sent = self.send(rate, time);
            let seconds = start.elapsed().as_secs_f64();
            done.store(true, Ordering::Release);
            (sent, seconds, receiver.join().unwrap_or_default())
        });
        interrupt::check()?;
        #[expect(clippy::cast_precision_loss, reason = "packets of one second")]
        let kept_pace = sent as f64 >= PACE_MIN * rate * time.as_secs_f64();
        Ok(Trial {
            sent,
            received,
            seconds,
            kept_pace,
        })
    }

    /// Packets handed to the kernel.
    fn send(&self, rate: f64, time: Duration) -> u64 {
        let packet = [0x5a; PAYLOAD_BYTES];
        let start = Instant::now();
        let (mut sent, mut due_before) = (0, 0);
        loop {
            let elapsed = start.elapsed();
            if elapsed >= time || interrupt::check().is_err() {
                return sent;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "packets of one second"
            )]
            let due = (rate * elapsed.as_secs_f64()) as u64;
            for _ in 0..(due - due_before).min(BURST_MAX) {
                sent += u64::from(self.sender.send(&packet).is_ok());
            }
            let behind = due - due_before > BURST_MAX;
            due_before = due.min(due_before + BURST_MAX);
            if !behind {
                thread::sleep(SEND_EVERY);
            }
        }
    }
}

/// Counts until `done`, and a little longer.
fn receive(sink: &UdpSocket, done: &AtomicBool) -> u64 {
    let (mut received, mut end) = (0, None);
    loop {
        let arrived = drain(sink);
        received += arrived;
        let now = Instant::now();
        if end.is_none() && done.load(Ordering::Acquire) || arrived > 0 && end.is_some() {
            end = Some(now + LINGER);
        }
        if end.is_some_and(|end| now >= end) {
            return received;
        }
        thread::sleep(RECEIVE_EVERY);
    }
}

fn drain(sink: &UdpSocket) -> u64 {
    let mut packet = [0; 2 * PAYLOAD_BYTES];
    let mut count = 0;
    while sink.recv(&mut packet).is_ok() {
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_loses_nothing_at_a_modest_rate() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        sink.set_nonblocking(true).unwrap();
        setsockopt(&sink, sockopt::RcvBuf, &(1 << 20)).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(sink.local_addr().unwrap()).unwrap();
        let flood = Flood { sender, sink };
        let trial = flood.once(2_000.0, Duration::from_millis(200)).unwrap();
        assert!(trial.sent >= 100 && trial.sent <= 400, "{trial:?}");
        assert_eq!(trial.received, trial.sent);
        assert!(trial.lossless());
        assert!(
            !Trial {
                received: trial.sent - trial.sent / 50,
                ..trial
            }
            .lossless()
        );
    }
}
