//! The client SDK: attach to a VPC through CONNECT-IP, packets in, packets out.
