//! All of openraft (DESIGN D1): types, storage adapter, state machine, network, groups.
//!
//! * [`Group`] is what the rest of the node sees: propose, read index, who leads, peers' messages. `wire` is how they
//!   stand between nodes; `storage` and `state_machine` adapt the store.
//! * Architecture invariant: no other module names openraft.

pub mod config;
pub mod group;
mod network;
mod offers;
mod peers_room;
mod runtime;
mod standing;
pub mod state_machine;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub(crate) mod wire;

pub use config::RaftTimings;
pub use group::{Group, GroupFailure, GroupParts, Leading, Proposal, ProposeFailure, ReadIndexFailure};
pub use peers_room::PeersRoom;
pub use standing::Standing;
pub use state_machine::CommittedObserver;
pub use wire::PeerMessage;

#[cfg(test)]
mod tests;
