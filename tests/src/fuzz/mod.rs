//! Fuzz targets: what bytes from outside, or damaged ones, must never do.
//!
//! * A [`Target`] is a plain function over bytes that panics where something is wrong. libFuzzer calls it (`fuzz/`,
//!   `scripts/fuzz.sh`), and so does `cargo test` (`tests/tests/fuzz.rs`) with a fixed number of inputs: seeds built in code, and what
//!   a seeded generator makes of them.
//! * `nasty` inputs are made by hand, or were found by a run and mended since; each has a name that says what it is.
//! * `duramen-fuzz` runs one input again, without libFuzzer.
//! * Deliberately absent: time, files, sockets, threads. The same input always does the same.

mod consensus_messages;
mod frames;
mod http_keys;
mod mutate;
mod record_batch;
mod segment_recovery;
mod session_token;

use mutate::Mutator;

/// Longest input. Unit: bytes.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Heap that a byte of input may cost, beside what a target needs in any case. Unit: bytes.
const HEAP_BYTES_PER_BYTE: usize = 128;

/// What is attacked, and with what.
pub struct Target {
    /// Its name, for libFuzzer and on the command line.
    pub name: &'static str,
    /// Attacks with these bytes; panics where something is wrong.
    pub run: fn(&[u8]),
    /// What inputs are made from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs by hand, and those that found something: what it is, and its bytes.
    pub nasty: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// What stands in inputs that mean something.
    pub words: &'static [&'static str],
    /// How many inputs `cargo test` makes from the seeds: some seconds of work.
    pub inputs: usize,
    /// Most heap at once for an empty input; each byte may cost 128 more. Unit: bytes.
    pub heap_bytes_max: usize,
}

/// All of them.
pub const TARGETS: [&Target; 6] = [
    &record_batch::TARGET,
    &session_token::TARGET,
    &frames::TARGET,
    &http_keys::TARGET,
    &segment_recovery::TARGET,
    &consensus_messages::TARGET,
];

impl Target {
    /// The target of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Seeds, nasty inputs, and then `count` made from them; the same in every run.
    pub fn inputs(&self, count: usize) -> impl Iterator<Item = Vec<u8>> + use<> {
        let mut known = (self.seeds)();
        known.extend((self.nasty)().into_iter().map(|(_, input)| input));
        let mutator = Mutator::new(known.clone(), self.words);
        known.into_iter().chain(mutator.take(count))
    }

    /// Most heap that an input of this length may take at once. Unit: bytes.
    #[must_use]
    pub fn heap_limit_bytes(&self, input_bytes: usize) -> u64 {
        (self.heap_bytes_max + HEAP_BYTES_PER_BYTE * input_bytes) as u64
    }
}

/// Places to cut `length` bytes at: all of a short input, some of a long one, `marks` included.
fn cuts(length: usize, marks: impl IntoIterator<Item = usize>) -> Vec<usize> {
    const CUTS_MAX: usize = 24;
    let step = length.div_ceil(CUTS_MAX).max(1);
    let near = marks.into_iter().take(CUTS_MAX).flat_map(|mark| [mark.saturating_sub(1), mark, mark + 1]);
    let mut cuts: Vec<usize> = (0..length).step_by(step).chain(near).filter(|&cut| cut < length).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
