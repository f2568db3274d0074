//! Addresses are given once, whatever operators do.
