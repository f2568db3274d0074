//! The datum-connect command: attaches a machine to a VPC.

fn main() {}
