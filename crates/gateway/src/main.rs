//! The gateway: terminates CONNECT-IP tunnels and bridges their packets into SRv6 VPCs.

fn main() {}
