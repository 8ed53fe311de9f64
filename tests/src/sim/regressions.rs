//! Seeds that met something once: `cargo test` runs each of them always, whatever other seeds it runs.
//!
//! * A seed is a run of the workload as it stands: when that changes, the seed is another run. A row is then looked for anew
//!   (`DURAMEN_PLANTED=… scripts/sim.sh --seeds N`), so that what it names is met again.

/// A seed, and what it met.
#[derive(Clone, Copy, Debug)]
pub struct Regression {
    /// The run.
    pub seed: u64,
    /// What it met.
    pub met: &'static str,
}

const fn met(seed: u64, met: &'static str) -> Regression {
    Regression { seed, met }
}

/// Each meets the bug that it names, where that is planted; or met it before it was mended.
pub const REGRESSIONS: &[Regression] = &[
    met(3, "a lost answer taken for a refusal: said not to be written, and written"),
    met(1, "a restarted leader that writes other entries at log ids that it has used"),
    met(2, "two tokens on one read, of which the older one counts"),
    met(2, "tail questions that get the answer of a round that began before them"),
    met(4, "a reader that gets the answer of a tail question that was sent before it came"),
    met(837, "damage in an entry that was replaced: a log node that did not start again"),
    met(
        14_188,
        "damage in an entry in whose place its peers had committed another: a log node that did not start again",
    ),
    met(14_405, "the same, in its last segment"),
];
