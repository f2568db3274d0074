//! The ledger of one ingress point: addresses on their way into a status, and addresses at rest.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::children::child_name;

/// Claims of one ledger; further attachments wait for the next pass.
pub const MAX_CLAIMS: usize = 512;

/// Addresses of one ledger at rest; of more, those that rested longest are free early.
pub const MAX_RESTING: usize = 2048;

/// The key of a ledger's ConfigMap.
const KEY: &str = "ledger.json";

/// The ConfigMap with an ingress point's ledger.
pub fn ledger_name(point_name: &str) -> String {
    format!("{}-addresses", child_name(point_name))
}

/// What one ingress point is about to give, and what it does not give yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Who gives: attachments must have been seen up to this `resourceVersion`.
    pub as_of: u64,
    /// Addresses on their way into a status, by the attachment's name (in the ingress point's
    /// namespace).
    pub claims: BTreeMap<String, Claim>,
    /// Addresses that nobody may get yet.
    pub resting: BTreeMap<IpAddr, Resting>,
}

/// Addresses on their way into a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The attachment's `resourceVersion`; void once it has a newer one.
    pub version: u64,
    /// All its addresses at this ingress point.
    pub addresses: Vec<IpAddr>,
}

/// An address that rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resting {
    /// Until when, in seconds since the Unix epoch.
    pub until_unix_s: u64,
    /// The attachment that had it, and may have it back at once.
    pub owner: String,
}

/// Why a ConfigMap is not a ledger.
#[derive(Debug)]
pub struct LedgerError(serde_json::Error);

impl std::fmt::Display for LedgerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{KEY} is not a ledger of addresses ({}); delete the ConfigMap",
            self.0
        )
    }
}

impl std::error::Error for LedgerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Ledger {
    /// Reads the data of a ledger's ConfigMap. Without data it is an empty one.
    ///
    /// # Errors
    /// [`LedgerError`] when somebody else wrote there.
    pub fn from_data(data: Option<&BTreeMap<String, String>>) -> Result<Self, LedgerError> {
        match data.and_then(|data| data.get(KEY)) {
            Some(text) => serde_json::from_str(text).map_err(LedgerError),
            None => Ok(Self::default()),
        }
    }

    /// The data of a ledger's ConfigMap.
    pub fn to_data(&self) -> BTreeMap<String, String> {
        // A map with texts as keys always has a JSON form.
        let text = serde_json::to_string(self).unwrap_or_default();
        [(KEY.to_owned(), text)].into()
    }

    /// Puts an address to rest.
    pub(super) fn rest(&mut self, address: IpAddr, resting: Resting) {
        self.resting.insert(address, resting);
        while self.resting.len() > MAX_RESTING {
            let oldest = self
                .resting
                .iter()
                .min_by_key(|(_, resting)| resting.until_unix_s);
            let Some(oldest) = oldest.map(|(address, _)| *address) else {
                break;
            };
            self.resting.remove(&oldest);
        }
    }
}
