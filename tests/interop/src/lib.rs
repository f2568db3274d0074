//! Independent implementations against ours: the h3 crate on quinn, and connect-ip-go.
#![forbid(unsafe_code)]
