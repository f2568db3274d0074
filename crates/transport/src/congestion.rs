//! Which congestion controller a tunnel runs, and the one we add.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, CubicConfig, NewRenoConfig,
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
                Arc::new(config)
            }
            Self::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(initial_window_bytes);
                Arc::new(config)
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
