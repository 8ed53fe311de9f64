//! Seeds that met something once: `cargo test` runs each of them always, whatever other seeds it runs.
//!
//! * A seed is a run of the workload as it stands: when that changes, the seed is another run. A row is then looked for anew
//!   (`DURAMEN_PLANTED=… scripts/sim.sh --seeds N`), so that what it names is met again.

use super::run::SimOptions;

/// A seed, and what it met.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    /// The run.
    pub seed: u64,
    /// Whether the faults are for leaders (`--leaders`).
    pub is_of_leaders: bool,
    /// What it met.
    pub met: &'static str,
}

impl Regression {
    /// How the run goes.
    #[must_use]
    pub fn options(&self) -> SimOptions {
        if self.is_of_leaders { SimOptions::of_leaders() } else { SimOptions::default() }
    }
}

const fn met(seed: u64, met: &'static str) -> Regression {
    Regression { seed, is_of_leaders: false, met }
}

const fn met_by_leaders(seed: u64, met: &'static str) -> Regression {
    Regression { seed, is_of_leaders: true, met }
}

/// Each meets the bug that it names, where that is planted; or met it before it was mended, with the faults as they were then.
pub const REGRESSIONS: &[Regression] = &[
    met(3, "a lost answer taken for a refusal: said not to be written, and written"),
    met(1, "a restarted leader that writes other entries at log ids that it has used"),
    met(2, "two tokens on one read, of which the older one counts"),
    met(2, "tail questions that get the answer of a round that began before them"),
    met(4, "a reader that gets the answer of a tail question that was sent before it came"),
    met(837, "damage in an entry that was replaced: a log node that did not start again"),
    met_by_leaders(
        6,
        "damage in an entry in whose place its peers had committed another: a log node that did not start again",
    ),
    met_by_leaders(36, "the same, in the meta partition"),
    met(23_523, "a repeat beyond the window that was judged by its first place (tests)"),
    met_by_leaders(101, "damage that was made on another node than it was made for (tests)"),
];
