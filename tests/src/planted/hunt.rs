//! Hunt: runs a suite with a bug planted until it says what is broken, or its seeds are used up.

use super::suite::Suite;
use super::table::Row;
use duramen_common::planted;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// How a hunt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Catch {
    /// As the table says.
    Caught {
        /// What the suite said.
        said: String,
    },
    /// The suite said something that the table does not expect.
    Otherwise {
        /// What the suite said.
        said: String,
    },
    /// No seed showed it.
    Missed,
}

/// A hunt.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// For what.
    pub row: Row,
    /// How it ended.
    pub catch: Catch,
    /// Seeds that were run.
    pub seeds: u64,
    /// How long that took.
    pub took: Duration,
}

/// Looks for a bug.
#[must_use]
pub fn hunt(row: Row) -> Hunted {
    let began = Instant::now();
    for seed in 0..row.seeds_max {
        if let Err(said) = planted::with(row.plant, || row.suite.run_seed(seed)) {
            let is_expected = row.says.iter().any(|wanted| said.contains(wanted));
            let catch = if is_expected { Catch::Caught { said } } else { Catch::Otherwise { said } };
            return Hunted { row, catch, seeds: seed + 1, took: began.elapsed() };
        }
    }
    Hunted { row, catch: Catch::Missed, seeds: row.seeds_max, took: began.elapsed() }
}

/// Runs a suite without any bug; says at which seed it found one all the same.
pub fn control(suite: Suite, seeds: Range<u64>) -> Result<Duration, String> {
    let began = Instant::now();
    for seed in seeds {
        suite.run_seed(seed).map_err(|said| format!("seed {seed}: {said}"))?;
    }
    Ok(began.elapsed())
}
