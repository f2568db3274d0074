//! The kernel's links, rules, routes and seg6 state: observe, diff, apply.
//!
//! [`Kernel`] is a handle on one network namespace. A gateway computes a
//! [`KernelPlan`](masque_srv6::KernelPlan), [`Kernel::observe`]s, takes the [`diff`] and
//! [`Kernel::apply`]s it; doing that again finds nothing to do, and after a crash it repairs what is
//! left. Everything the gateway makes carries its own route protocol number, so nothing of anybody
//! else is touched. [`Kernel::clear`] takes all of it away.
//!
//! A client uses the plain functions: [`Kernel::set_noqueue`], [`Kernel::set_link_up`],
//! [`Kernel::add_address`], [`Kernel::claim_route`], [`Kernel::route_to`]. Both let [`Gro`] merge what arrives in frames.
//!
//! All calls block for the microseconds that a netlink request takes, and need no runtime.
//!
//! **Namespaces.** The sockets belong to the network namespace of the thread that called
//! [`Kernel::open`]; files below `/proc/sys` to that of the thread that calls. Use one namespace.
//!
//! **Settings.** [`Kernel::clear`] restores the sysctls and the outer source address that this process
//! changed. Those that a process changed which was killed are restored by the next one if both
//! [remember](Kernel::remember_settings) them in the same file.
#![allow(unsafe_code, reason = "netlink sockets through libc")]

mod apply;
mod change;
mod error;
mod generic;
mod gro;
mod host;
mod kernel;
mod link_state;
mod message;
mod observe;
mod owner;
mod probe;
mod settings;
mod socket;
mod sysctl;
mod tx_queue;

pub use change::{Change, Place, diff};
pub use error::{NetlinkError, Refusal, Refusals};
pub use gro::{Gro, GroState};
pub use host::{HostRoute, RouteLookup};
pub use kernel::{CLIENT_ROUTE_PROTOCOL, Kernel, ROUTE_PROTOCOL};
pub use link_state::{LinkMonitor, LinkState, link_mtu};
pub use observe::{Observed, ObservedLink, RouteKey};
pub use sysctl::is_network_setting;
