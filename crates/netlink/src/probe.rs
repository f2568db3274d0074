//! What the running kernel can do: it is asked to do it, in a table that nothing leads to.

use std::{net::Ipv6Addr, path::Path};

use masque_srv6::{
    Behaviour, KernelCapabilities, NEXT_HOP_NETWORK, Route, RouteAction, SLOTS_MAX, Sid, Slot,
    TABLE_BASE, VrfLink,
};

use crate::{Kernel, NetlinkError, Place, RouteKey, kernel::ROUTE_PROTOCOL, sysctl};

/// A table just below those in use.
const PROBE_TABLE: u32 = TABLE_BASE - 1;
/// The last slot's VRF table, so that one which a crash leaves behind is known as ours.
const PROBE_SLOT: Slot = Slot(SLOTS_MAX - 1);
const PROBE_VRF: &str = "mqprobe";
/// A destination of the documentation prefix (RFC 3849).
const PROBE_ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Up in every namespace that is in use.
const PROBE_LINK: &str = "lo";
const STRICT_MODE: &str = "net/vrf/strict_mode";

impl Kernel {
    /// Finds out what the kernel can do, by adding and deleting routes and a VRF that nothing uses.
    ///
    /// # Errors
    /// [`NetlinkError::NotPermitted`] without CAP_NET_ADMIN, for then nothing can be found out;
    /// [`NetlinkError::Busy`] if another gateway lives here.
    pub fn probe(&self) -> Result<KernelCapabilities, NetlinkError> {
        self.claim()?;
        let disabled = sysctl::read("net/ipv6/conf/all/disable_ipv6");
        let ipv6 = Path::new("/proc/net/if_inet6").exists() && disabled.as_deref() != Some("1");
        if !ipv6 {
            return Ok(KernelCapabilities::default());
        }
        let link = || PROBE_LINK.to_owned();
        let local = |behaviour| RouteAction::Decapsulate {
            behaviour,
            link: link(),
        };
        let next_hop = NEXT_HOP_NETWORK.network();
        let (vrf, end_dt46) = self.probe_vrf()?;
        Ok(KernelCapabilities {
            ipv6,
            encap_red: self.takes(RouteAction::Encapsulate {
                sid: Sid(PROBE_ADDRESS),
                link: link(),
            })?,
            vrf,
            end_dt46,
            end_dt6: self.takes(local(Behaviour::EndDt6 { table: PROBE_TABLE }))?,
            end_dx4: self.takes(local(Behaviour::EndDx4 { next_hop }))?,
        })
    }

    /// Whether VRFs can be made, and End.DT46 in one.
    fn probe_vrf(&self) -> Result<(bool, bool), NetlinkError> {
        let table = PROBE_SLOT.ingress_table();
        let vrf = VrfLink {
            name: PROBE_VRF.to_owned(),
            table,
        };
        match self.add_vrf(&vrf) {
            Ok(()) => {}
            Err(error @ NetlinkError::NotPermitted { .. }) => return Err(error),
            Err(_) => return Ok((false, false)),
        }
        // End.DT46 wants exactly one VRF for its table; the setting is there once the VRF is.
        let strict = sysctl::read(STRICT_MODE);
        let set = sysctl::write(STRICT_MODE, "1");
        let link = PROBE_VRF.to_owned();
        let behaviour = Behaviour::EndDt46 { vrf_table: table };
        let taken = self.takes(RouteAction::Decapsulate { behaviour, link });
        if let (Ok(()), Some(original)) = (set, strict) {
            sysctl::restore(
                STRICT_MODE,
                &sysctl::Changed {
                    original,
                    to: "1".to_owned(),
                },
            );
        }
        self.delete_link(PROBE_VRF)?;
        Ok((true, taken?))
    }

    /// Whether the kernel takes a route with that action.
    fn takes(&self, action: RouteAction) -> Result<bool, NetlinkError> {
        let destination = ipnet::IpNet::from(std::net::IpAddr::from(PROBE_ADDRESS));
        let route = Route {
            table: PROBE_TABLE,
            destination,
            metric: 1,
            action,
        };
        match self.add_route(Place::Taken, &route) {
            Ok(()) => {
                self.delete_route_key(&RouteKey::of(&route), ROUTE_PROTOCOL)?;
                Ok(true)
            }
            Err(error @ NetlinkError::NotPermitted { .. }) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "probe");
                Ok(false)
            }
        }
    }
}
