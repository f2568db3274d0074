//! Which congestion controller a tunnel runs, and the one we add.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::{
    RttEstimator,
    congestion::{
        BbrConfig, Controller, ControllerFactory, ControllerMetrics, CubicConfig, NewRenoConfig,
    },
};

/// The congestion controller of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// CUBIC (RFC 9438): fair to what else uses the path. The default.
    #[default]
    Cubic,
    /// NewReno (RFC 9002 §7).
    NewReno,
    /// BBR: does not halve on a single loss, which the inner TCP would see as a second halving.
    Bbr,
    /// A window that loss does not move, for links whose capacity is the operator's own.
    ///
    /// RFC 9484 §10: congestion control may be disabled only for packets that hold nothing but
    /// datagrams with IP packets, because the inner flows are congestion controlled; the outer
    /// packets are then sent Not-ECT (§10.2). Streams of such a connection are bounded by their
    /// flow-control windows.
    Fixed {
        /// Bytes in flight at most.
        window_bytes: u64,
    },
}

impl Congestion {
    /// Whether outer packets may be marked ECT.
    pub(crate) const fn marks_ecn(self) -> bool {
        !matches!(self, Self::Fixed { .. })
    }

    pub(crate) fn factory(
        self,
        initial_window_bytes: u64,
    ) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(initial_window_bytes);
                Arc::new(ValidatedFactory(Arc::new(config)))
            }
            Self::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(initial_window_bytes);
                Arc::new(ValidatedFactory(Arc::new(config)))
            }
            Self::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(initial_window_bytes);
                Arc::new(config)
            }
            Self::Fixed { window_bytes } => Arc::new(FixedWindow { window_bytes }),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct FixedWindow {
    window_bytes: u64,
}

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.window_bytes
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        self.window_bytes
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Keeps a window that grows by acknowledgements within reach of what is in flight.
///
/// RFC 9002 §7.8: "When bytes in flight is smaller than the congestion window and sending is not
/// pacing limited, the congestion window is underutilized. … If this happens due to insufficient
/// application data or flow control limits, the congestion window SHOULD NOT be increased". A shard
/// that encrypts as fast as it can is held back by its processor, which looks like pacing to
/// quinn-proto: without this, the window of a fast link grows without end, and is sent in one
/// burst the first time the peer is late. As in RFC 7661, a window less than half used stays.
struct Validated {
    inner: Box<dyn Controller>,
    usage: Usage,
}

/// How much of its window a connection uses.
#[derive(Clone, Copy, Debug)]
struct Usage {
    /// Bytes acknowledged in this batch of acknowledgements.
    acked_bytes: u64,
    /// Bytes in flight before the last batch.
    peak_bytes: u64,
}

impl Usage {
    /// Counts acknowledged bytes; whether less than half of the window is used.
    fn on_ack(&mut self, bytes: u64, window: u64) -> bool {
        self.acked_bytes += bytes;
        self.peak_bytes.max(self.acked_bytes).saturating_mul(2) < window
    }

    fn on_end_acks(&mut self, in_flight: u64) {
        self.peak_bytes = in_flight + std::mem::take(&mut self.acked_bytes);
    }
}

struct ValidatedFactory(Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for ValidatedFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.0.clone().build(now, current_mtu);
        let peak_bytes = inner.initial_window();
        Box::new(Validated {
            inner,
            usage: Usage {
                acked_bytes: 0,
                peak_bytes,
            },
        })
    }
}

impl Controller for Validated {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let underused = self.usage.on_ack(bytes, self.inner.window());
        self.inner
            .on_ack(now, sent, bytes, app_limited || underused, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.usage.on_end_acks(in_flight);
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_half_a_window_is_underused() {
        let mut usage = Usage {
            acked_bytes: 0,
            peak_bytes: 10_000,
        };
        assert!(
            !usage.on_ack(5_000, 20_000),
            "as much was in flight as half the window"
        );
        usage.on_end_acks(4_999);
        assert!(usage.on_ack(1, 20_000), "9,999 were in flight");
        assert!(
            !usage.on_ack(9_999, 20_000),
            "one batch acknowledges more than was known"
        );
        usage.on_end_acks(0);
        assert!(!usage.on_ack(1, 20_000));
    }

    #[test]
    fn a_fixed_window_is_fixed_and_not_ecn_capable() {
        let fixed = Congestion::Fixed {
            window_bytes: 1_000_000,
        };
        let mut controller = fixed.factory(10_000).build(Instant::now(), 1400);
        controller.on_congestion_event(Instant::now(), Instant::now(), true, 500_000);
        assert_eq!(controller.window(), 1_000_000);
        assert!(!fixed.marks_ecn() && Congestion::Cubic.marks_ecn());
    }
}
