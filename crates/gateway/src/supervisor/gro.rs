//! Lets the kernel merge what arrives in frames, where nobody else does.

use std::collections::BTreeSet;

use masque_netlink::{Gro, GroState, Kernel};

use crate::args::GroPolicy;

/// The devices that packets arrive on, and what the log has of them.
#[derive(Debug)]
pub(super) struct ReceiveOffload {
    /// `None`: every device stays as it is.
    gro: Option<Gro>,
    /// Devices whose GRO is off and stays so.
    told: BTreeSet<String>,
}

impl ReceiveOffload {
    pub(super) fn new(policy: GroPolicy) -> Self {
        let gro = match policy {
            GroPolicy::Keep => None,
            GroPolicy::Auto => Gro::new()
                .inspect_err(|error| tracing::warn!(%error, "GRO is left as it is"))
                .ok(),
        };
        Self {
            gro,
            told: BTreeSet::new(),
        }
    }

    /// Looks at the devices that have an address. What fails costs speed, and nothing else.
    pub(super) fn settle(&mut self, kernel: &Kernel) {
        let Some(gro) = &mut self.gro else { return };
        let links = match kernel.addressed_links() {
            Ok(links) => links,
            Err(error) => return tracing::debug!(%error, "GRO is left as it is"),
        };
        for link in links {
            match gro.turn_on(&link) {
                Ok(GroState::On) => {}
                Ok(GroState::TurnedOn) => tracing::info!(device = link, "GRO turned on"),
                Ok(GroState::Off) => {
                    if self.told.insert(link.clone()) {
                        tracing::info!(
                            device = link,
                            "GRO is off: each frame costs a pass through the kernel; \
                             `ethtool -K {link} gro on` merges them"
                        );
                    }
                }
                Err(error) => tracing::debug!(device = link, %error, "GRO is left as it is"),
            }
        }
    }

    /// Turns GRO off again where it was.
    pub(super) fn restore(&mut self) {
        if let Some(gro) = &mut self.gro {
            gro.restore();
        }
    }
}
