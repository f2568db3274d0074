//! Who has which client address.
//!
//! Invariants: no address has two holders; a freed address rests before another attachment gets
//! it; both survive a restart ([`AddressBookState`]). An attachment keeps its addresses as long as
//! it exists; only when a pool has no free address left, one of an attachment without a session
//! for longer than resume window and quarantine together is taken back.

mod book;
mod pool;
mod state;
mod vpc_book;

#[cfg(test)]
mod tests;

pub use book::{AddressBook, AddressError, Demand, MAX_HOLDERS, Owner, Site};
pub use pool::{PoolUsage, gateway_address, gateway_addresses};
pub use state::{AddressBookState, Holding};
