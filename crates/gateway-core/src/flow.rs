//! The flows that passed, so that rules are only asked for first packets and replies pass.
//!
//! A fixed number of entries, allocated once. Every flow belongs to an attachment (its owner), and
//! no owner's flows can push out another's: an owner with too many loses its own.

mod fragment;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use fragment::{Follows, FragmentRing, Piece};
pub(crate) use state::{FlowState, TcpFlags};
pub(crate) use table::{Flow, FlowId, FlowTable, Judged};
