//! Seams of the suites here: chance from a seed, a clock that stands, no threads.

use crate::harness::Rng;
use duramen_common::seams::{Entropy, Seams, Threads, WallClock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A seeded generator that many may ask.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<Rng>>);

impl Chance {
    /// Of a seed.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Chance {
        Chance(Arc::new(Mutex::new(Rng::of_stream(seed, stream))))
    }

    fn rng(&self) -> MutexGuard<'_, Rng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound`, which is at least 1.
    #[must_use]
    pub fn below(&self, bound: usize) -> usize {
        self.rng().below(bound)
    }

    /// A time below `bound_ms`. Unit: milliseconds.
    #[must_use]
    pub fn ms(&self, bound_ms: usize) -> Duration {
        Duration::from_millis(self.below(bound_ms) as u64)
    }

    /// As the seams of a node.
    #[must_use]
    pub fn seams(&self) -> Seams {
        Seams { clock: Arc::new(self.clone()), entropy: Arc::new(self.clone()), threads: Threads::None }
    }
}

impl Entropy for Chance {
    fn bits(&self) -> u128 {
        let mut rng = self.rng();
        u128::from(rng.bits()) << 64 | u128::from(rng.bits())
    }
}

impl WallClock for Chance {
    fn now_ms(&self) -> u64 {
        1_767_225_600_000
    }
}
