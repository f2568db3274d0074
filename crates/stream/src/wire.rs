//! The messages of `proto/snapshot.proto`, generated; `tests/generated.rs` keeps them current.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

include!("wire/networking.datumapis.com.stream.v1.rs");
