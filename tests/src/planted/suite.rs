//! Suite: what runs a seed and says what is broken.

use super::{operator_suite, serving_suite, store_suite, terms_suite};
use crate::sim::{self, SimOptions};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A seeded suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// `store_suite`: a log on a disk that forgets.
    Store,
    /// `serving_suite`: a serving node over a log in memory.
    Serving,
    /// `crate::sim`: the whole cluster.
    Simulator,
    /// `crate::sim`, with leaders that are broken again and again and clients that stay with them.
    Leaders,
    /// `terms_suite`: one group whose lead is handed around.
    Terms,
    /// `operator_suite`: real processes, and what happens to machines that people look after.
    Operator,
}

impl Suite {
    /// All of them.
    pub const ALL: [Suite; 6] =
        [Suite::Store, Suite::Serving, Suite::Simulator, Suite::Leaders, Suite::Terms, Suite::Operator];

    /// Runs a seed; an assertion of the program itself that fails there counts too.
    pub fn run_seed(self, seed: u64) -> Result<(), String> {
        let run = || match self {
            Suite::Store => store_suite::run_seed(seed),
            Suite::Serving => serving_suite::run_seed(seed),
            Suite::Simulator => simulate(seed, &SimOptions::default()),
            Suite::Leaders => simulate(seed, &SimOptions::of_leaders()),
            Suite::Terms => terms_suite::run_seed(seed),
            Suite::Operator => operator_suite::run_seed(seed),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(format!("panic: {}", message(&*panic))))
    }
}

fn simulate(seed: u64, options: &SimOptions) -> Result<(), String> {
    sim::run_seed(seed, options).map(|_| ()).map_err(|violation| violation.to_string())
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Suite::Store => "store",
            Suite::Serving => "serving",
            Suite::Simulator => "simulator",
            Suite::Leaders => "leaders",
            Suite::Terms => "terms",
            Suite::Operator => "operator",
        })
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of an unknown kind")
}
