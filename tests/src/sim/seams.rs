//! The seams of a simulated host: chance from its seed, a wall clock that can jump, no threads.

use super::network::Network;
use crate::harness::Rng;
use duramen_common::seams::{Entropy, Seams, Threads, WallClock};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// 2026-01-01: when simulations begin. Unit: milliseconds since 1970.
const EPOCH_MS: i64 = 1_767_225_600_000;

struct SimEntropy(Mutex<Rng>);

impl Entropy for SimEntropy {
    fn bits(&self) -> u128 {
        let mut rng = self.0.lock();
        (u128::from(rng.bits()) << 64) | u128::from(rng.bits())
    }
}

struct SimClock {
    network: Network,
    skew_ms: Arc<AtomicI64>,
}

impl WallClock for SimClock {
    fn now_ms(&self) -> u64 {
        let now_ms = EPOCH_MS + self.network.now_ms() as i64 + self.skew_ms.load(Ordering::Relaxed);
        now_ms.max(0) as u64
    }
}

/// The seams of one life of a host. `skew_ms` is how far its wall clock is off.
#[must_use]
pub fn seams(network: &Network, rng: Rng, skew_ms: Arc<AtomicI64>) -> Seams {
    Seams {
        clock: Arc::new(SimClock { network: network.clone(), skew_ms }),
        entropy: Arc::new(SimEntropy(Mutex::new(rng))),
        threads: Threads::None,
    }
}
