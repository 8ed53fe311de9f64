//! Workload: simulated clients. Each does one thing after the other over HTTP, remembers what it was told, and tells the
//! witness.
//!
//! * `caller` is one HTTP exchange; `keys` what they fight over; `writer`, `txn`, `batch`, `reader` and `scanner` the operations;
//!   `client` who chooses, from a `mix` that each seed has of its own.
//! * `follower` follows the feed; `log_user` uses the log itself; `direct` one log node at a time.
//! * Invariant: a client concludes no more than an answer says: 412 and 2xx are certain, `no-leader`, `log-full` and
//!   `overloaded` mean that nothing happened, all else leaves it open.

pub mod batch;
pub mod caller;
pub mod client;
pub mod direct;
pub mod follower;
pub mod keys;
pub mod log_user;
pub mod mix;
pub mod reader;
pub mod record;
pub mod scanner;
pub mod txn;
pub mod writer;

use super::network::{HostId, Network};
use super::wire::Wire;
use super::witness::Witness;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What all clients share.
#[derive(Clone)]
pub struct Stage {
    /// The clients' host.
    pub wire: Wire,
    /// Serving nodes by host, with their names.
    pub serving: Vec<(HostId, String)>,
    /// What was seen.
    pub witness: Arc<Mutex<Witness>>,
    /// Data partitions.
    pub partitions: u16,
    /// Set when clients finish what they do and begin nothing more.
    pub ends: Arc<AtomicBool>,
}

impl Stage {
    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.wire.network()
    }

    /// Whether clients begin nothing more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }
}
