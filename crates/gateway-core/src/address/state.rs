//! The address book as it lies on disk.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Owner;
use masque_model::ObjectName;

/// What an [`AddressBook`](super::AddressBook) must remember over a restart.
///
/// Times are what is left at the time of the export, so that only a wall clock is needed to read
/// it again; a wall clock that went back makes addresses rest longer, never shorter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressBookState {
    /// When it was written, in seconds since the Unix epoch.
    pub exported_unix_s: u64,
    /// Every address that is held or rests.
    pub holdings: Vec<Holding>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The VPC it belongs to.
    pub vpc: ObjectName,
    /// The address.
    pub address: IpAddr,
    /// Who holds it, or held it last.
    pub owner: Owner,
    /// Whether the owner holds it, or it rests.
    pub bound: bool,
    /// Until it may be taken from its owner (`bound`) or given to anybody, in milliseconds.
    pub remaining_ms: u64,
}
