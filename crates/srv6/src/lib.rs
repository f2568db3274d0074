//! SRv6 for one gateway: the fabric's uSID layout, encapsulation and decapsulation of single
//! packets, and the kernel state that a VPC needs, as plain data. No sockets, no netlink.
#![forbid(unsafe_code)]

mod encap;
mod plan;
mod usid;

pub use masque_model::Sid;

pub use encap::{
    DecapError, EncapError, HOP_LIMIT, Inner, OUTER_BYTES, decapsulate, flow_label, outer_header,
};
pub use plan::{
    Behaviour, Decapsulation, Family, GATEWAY_RULE_PRIORITY, KernelCapabilities, KernelPlan,
    LOCAL_RULE_PRIORITY, NEXT_HOP_NETWORK, OUTER_RULE_PRIORITY, PlanError, Planned, Route,
    RouteAction, Rule, SLOTS_MAX, Slot, Sysctl, TABLE_BASE, TUN_MTU_BYTES, TunLink, VpcLinks,
    VrfLink, decapsulation, plan,
};
pub use usid::{
    ARGUMENT_MAX, BLOCK_BITS, FUNCTION_END_DT2, FUNCTION_END_DT46, NODE_MAX, Usid, UsidError,
};
