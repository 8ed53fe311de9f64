//! Seeded randomness (splitmix64), so that a failure can be run again.
//!
//! `DURAMEN_TEST_SEED` sets the seed; without it every run takes another one. The failure report prints it.

use duramen_common::seams::{Entropy as _, SystemEntropy};
use std::sync::OnceLock;

/// A seeded generator. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// The seed of this run: `DURAMEN_TEST_SEED`, or fresh.
#[must_use]
pub fn run_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("DURAMEN_TEST_SEED").ok().and_then(|text| text.parse().ok());
        given.unwrap_or_else(|| (SystemEntropy.bits() as u64) >> 1)
    })
}

impl Rng {
    /// A generator of its own for `stream`, from this run's seed.
    #[must_use]
    pub fn of_run(stream: u64) -> Rng {
        Rng::of_stream(run_seed(), stream)
    }

    /// A generator of its own for `stream`, from a given seed.
    #[must_use]
    pub fn of_stream(seed: u64, stream: u64) -> Rng {
        // Mixed first: this generator's states are a fixed step apart, so that neighbouring streams would be one stream.
        Rng(seed ^ Rng(stream).bits())
    }

    /// A generator from this very seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Rng {
        let mut rng = Rng(seed);
        rng.bits();
        rng
    }

    /// A generator of its own, from this one.
    #[must_use]
    pub fn branch(&mut self) -> Rng {
        Rng::seeded(self.bits())
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    /// One of these, of which there is at least one.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    /// Puts these into another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high.max(low) - low + 1)
    }

    /// True in so many of a thousand times.
    pub fn in_thousand(&mut self, times: u64) -> bool {
        times > 0 && self.bits() % 1_000 < times
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.bits() as u8).collect()
    }
}
