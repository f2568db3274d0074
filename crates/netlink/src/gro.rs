//! Generic receive offload (GRO) of veth devices: what arrives in frames of one MTU goes on in
//! super-packets.
//!
//! Every other kind of device has GRO on unless somebody turned it off. A veth, the device of every
//! pod and container, is made with it off: where no network card of the node merged a flow before
//! (it does not merge UDP that it forwards), each frame passes the kernel, the socket and the tunnel
//! by itself. Only veth devices are changed, each once: who turns it off later is obeyed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CStr,
    io,
    net::UdpSocket,
    os::fd::AsRawFd,
};

use masque_srv6::Family;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressMessage, AddressScope},
};

use crate::{
    Kernel, LinkState, NetlinkError,
    link_state::{any_socket, named},
    message,
    socket::DUMP,
};

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Commands of linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
/// What a veth calls its driver.
const VETH: &[u8] = b"veth";

/// What a look at a device found, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroState {
    /// It is on.
    On,
    /// It was off, as a veth is made, and is on now.
    TurnedOn,
    /// It is off: the device is no veth, so that somebody wanted that, or it was turned off after we
    /// had turned it on.
    Off,
}

/// The devices whose GRO this process turned on, in the network namespace of the thread that made it.
/// Turns it off again when dropped; after a crash it stays on.
#[derive(Debug)]
pub struct Gro {
    socket: UdpSocket,
    /// By name, with their index: another device of the same name has another one.
    turned_on: BTreeMap<String, u32>,
}

impl Gro {
    /// Nothing is changed yet.
    ///
    /// # Errors
    /// The namespace has no socket to ask through.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            socket: any_socket()?,
            turned_on: BTreeMap::new(),
        })
    }

    /// Turns GRO on for a veth where it is off, once.
    ///
    /// # Errors
    /// What the kernel says: `ENODEV` without such a device, `EPERM` without CAP_NET_ADMIN.
    pub fn turn_on(&mut self, link: &str) -> io::Result<GroState> {
        let index = LinkState::of(link)?.index;
        if self.get(link)? {
            return Ok(GroState::On);
        }
        if self.turned_on.get(link) == Some(&index) || !self.is_veth(link)? {
            return Ok(GroState::Off);
        }
        self.set(link, true)?;
        self.turned_on.insert(link.to_owned(), index);
        Ok(GroState::TurnedOn)
    }

    /// Notes that another process turned GRO on for a device, so that it is turned off in the end.
    pub fn adopt(&mut self, link: &str) {
        if let Ok(state) = LinkState::of(link) {
            self.turned_on.insert(link.to_owned(), state.index);
        }
    }

    /// Leaves it on for a device that others need.
    pub fn forget(&mut self, link: &str) {
        self.turned_on.remove(link);
    }

    /// The names of the devices whose GRO was turned on.
    pub fn turned_on(&self) -> impl Iterator<Item = &str> {
        self.turned_on.keys().map(String::as_str)
    }

    /// Turns GRO off again where it was. Devices that are gone are no error.
    pub fn restore(&mut self) {
        for (link, index) in std::mem::take(&mut self.turned_on) {
            if LinkState::of(&link).is_ok_and(|state| state.index == index)
                && let Err(error) = self.set(&link, false)
            {
                tracing::warn!(link, %error, "GRO stays on");
            }
        }
    }

    fn get(&self, link: &str) -> io::Result<bool> {
        let mut value = EthtoolValue {
            command: ETHTOOL_GGRO,
            data: 0,
        };
        self.ask(link, &mut value)?;
        Ok(value.data != 0)
    }

    fn set(&self, link: &str, on: bool) -> io::Result<()> {
        self.ask(
            link,
            &mut EthtoolValue {
                command: ETHTOOL_SGRO,
                data: on.into(),
            },
        )
    }

    fn is_veth(&self, link: &str) -> io::Result<bool> {
        let mut info = EthtoolDriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            rest: [0; 160],
        };
        self.ask(link, &mut info)?;
        let driver = CStr::from_bytes_until_nul(&info.driver);
        Ok(driver.is_ok_and(|driver| driver.to_bytes() == VETH))
    }

    fn ask(&self, link: &str, command: &mut impl EthtoolCommand) -> io::Result<()> {
        let mut request = named(link)?;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        // SAFETY: the kernel reads and writes the command that ifru_data points to, and no more than
        // its type, which `EthtoolCommand` promises to be that of its command number. Both live through
        // the call.
        let done =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Gro {
    fn drop(&mut self) {
        self.restore();
    }
}

/// A structure of linux/ethtool.h, laid out as the command at its beginning says.
///
/// # Safety
/// The implementer has the layout that the kernel expects for every value `command` is given.
unsafe trait EthtoolCommand {}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct EthtoolDriverInfo {
    command: u32,
    driver: [u8; 32],
    /// Versions, the bus and numbers, which nobody reads.
    rest: [u8; 160],
}

// SAFETY: ETHTOOL_GGRO and ETHTOOL_SGRO take a `struct ethtool_value`: two 32-bit numbers.
unsafe impl EthtoolCommand for EthtoolValue {}
// SAFETY: ETHTOOL_GDRVINFO takes a `struct ethtool_drvinfo`: a 32-bit number, five strings of 32 bytes,
// 12 reserved bytes and five 32-bit numbers, 196 bytes in all.
unsafe impl EthtoolCommand for EthtoolDriverInfo {}
const _: () = assert!(size_of::<EthtoolDriverInfo>() == 196);

impl Kernel {
    /// The devices that are up and have an address of more than the link: those by which this
    /// namespace talks to others. The loopback is none.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn addressed_links(&self) -> Result<Vec<String>, NetlinkError> {
        let mut addressed = BTreeSet::new();
        for family in Family::BOTH {
            let mut request = AddressMessage::default();
            request.header.family = message::address_family(family);
            let replies = self
                .request(&RouteNetlinkMessage::GetAddress(request), DUMP)
                .map_err(|error| {
                    let action = || "reading the addresses".to_owned();
                    NetlinkError::from_request(error, "netlink", action)
                })?;
            addressed.extend(replies.iter().filter_map(|reply| match reply {
                RouteNetlinkMessage::NewAddress(address) => {
                    let wide = address.header.scope == AddressScope::Universe;
                    wide.then_some(address.header.index)
                }
                _ => None,
            }));
        }
        let links = self.links()?.into_iter();
        Ok(links
            .filter(|(name, link)| link.up && name != "lo" && addressed.contains(&link.index))
            .map(|(name, _)| name)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use masque_testkit::{Lab, Netns};

    use super::*;

    fn lab() -> Option<(Lab, Netns, Netns)> {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        let (pod, node) = (lab.host("pod"), lab.host("node"));
        lab.veth((&pod, "eth0"), (&node, "pod"), 1500);
        Some((lab, pod, node))
    }

    #[test]
    fn a_veth_is_turned_on_and_off_again() {
        let Some((_lab, pod, _node)) = lab() else {
            return;
        };
        pod.enter(|| {
            let mut gro = Gro::new().unwrap();
            assert!(!gro.get("eth0").unwrap(), "as a veth is made");
            assert_eq!(gro.turn_on("eth0").unwrap(), GroState::TurnedOn);
            assert_eq!(gro.turn_on("eth0").unwrap(), GroState::On);
            assert_eq!(gro.turned_on().collect::<Vec<_>>(), ["eth0"]);
            let other = Gro::new().unwrap();
            drop(gro);
            assert!(!other.get("eth0").unwrap());
        });
    }

    #[test]
    fn who_turns_it_off_is_obeyed() {
        let Some((_lab, pod, _node)) = lab() else {
            return;
        };
        pod.enter(|| {
            let mut gro = Gro::new().unwrap();
            gro.turn_on("eth0").unwrap();
            gro.set("eth0", false).unwrap();
            assert_eq!(gro.turn_on("eth0").unwrap(), GroState::Off);
            assert!(!gro.get("eth0").unwrap());
        });
    }

    #[test]
    fn what_was_on_before_stays_on() {
        let Some((_lab, pod, _node)) = lab() else {
            return;
        };
        pod.enter(|| {
            let mut gro = Gro::new().unwrap();
            gro.set("eth0", true).unwrap();
            assert_eq!(gro.turn_on("eth0").unwrap(), GroState::On);
            gro.restore();
            assert!(gro.get("eth0").unwrap());
        });
    }

    #[test]
    fn what_a_crashed_process_left_is_adopted() {
        let Some((_lab, pod, _node)) = lab() else {
            return;
        };
        pod.enter(|| {
            let mut gro = Gro::new().unwrap();
            gro.set("eth0", true).unwrap();
            gro.adopt("eth0");
            gro.adopt("gone");
            gro.restore();
            assert!(!gro.get("eth0").unwrap());
        });
    }

    #[test]
    fn other_devices_are_left_alone() {
        let Some((_lab, pod, _node)) = lab() else {
            return;
        };
        pod.ip(&["link", "add", "br0", "type", "bridge"]);
        pod.enter(|| {
            let mut gro = Gro::new().unwrap();
            gro.set("br0", false).unwrap();
            assert_eq!(gro.turn_on("br0").unwrap(), GroState::Off);
            assert!(!gro.get("br0").unwrap());
            let error = gro.turn_on("gone").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn links_with_an_address_are_found() {
        let Some((_lab, pod, node)) = lab() else {
            return;
        };
        node.ip(&["link", "set", "pod", "up"]);
        node.ip(&["addr", "add", "192.0.2.9/32", "dev", "lo"]);
        let links = |ns: &Netns| ns.enter(|| Kernel::open().unwrap().addressed_links().unwrap());
        assert!(
            links(&node).is_empty(),
            "a link-local address is not enough"
        );
        pod.address("eth0", "2001:db8::2/64");
        assert_eq!(links(&pod), ["eth0"]);
        node.address("pod", "192.0.2.1/24");
        assert_eq!(links(&node), ["pod"]);
    }
}
