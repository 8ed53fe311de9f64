//! What a run that broke an invariant says, and how to see it again.

use std::fmt;

/// An invariant does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its number in DESIGN §6; 0 for what no run may do (a panic, a node that does not come back).
    pub invariant: u8,
    /// What was seen.
    pub what: String,
}

impl Broken {
    /// Of this invariant.
    #[must_use]
    pub fn new(invariant: u8, what: impl Into<String>) -> Broken {
        Broken { invariant, what: what.into() }
    }

    /// The same, seen there.
    #[must_use]
    pub fn at(self, place: &str) -> Broken {
        Broken { what: format!("{place}: {}", self.what), ..self }
    }
}

/// A run that broke an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The run.
    pub seed: u64,
    /// When, in virtual time. Unit: milliseconds.
    pub at_ms: u64,
    /// What.
    pub broken: Broken,
    /// What runs it again.
    pub command: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at_ms, broken, command } = self;
        let name = match broken.invariant {
            0 => "a run must not".to_owned(),
            number => format!("invariant {number}"),
        };
        write!(f, "seed {seed}, {at_ms} ms: {name}: {}\nreproduce: {command} --seed {seed} --trace", broken.what)
    }
}

impl std::error::Error for Violation {}
