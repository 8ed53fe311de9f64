//! The switch of planted bugs, in builds that have them: a thread's, or the process's.

use super::Plant;
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The environment variable that plants a bug in a whole process, by name.
pub const PLANTED_VARIABLE: &str = "DURAMEN_PLANTED";

thread_local! {
    static HERE: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// No planted bug has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no planted bug is called {name:?}; there are: {}", Plant::ALL.iter().map(|plant| plant.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownPlant {
    /// The name.
    pub name: String,
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Plant {
    type Err = UnknownPlant;

    fn from_str(name: &str) -> Result<Plant, UnknownPlant> {
        let found = Plant::ALL.iter().find(|plant| plant.name() == name);
        found.copied().ok_or_else(|| UnknownPlant { name: name.to_owned() })
    }
}

/// Whether this bug is on: for what this thread does now, or for the process.
#[must_use]
pub fn is_planted(plant: Plant) -> bool {
    HERE.get().or_else(of_process) == Some(plant)
}

/// Plants a bug for what `work` does on this thread: the threads that it starts do without.
pub fn with<T>(plant: Plant, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Plant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _restore = Restore(HERE.replace(Some(plant)));
    work()
}

/// What the environment says, read once. A name that means nothing ends the process: whoever set it believes that a bug is on.
fn of_process() -> Option<Plant> {
    static PLANT: OnceLock<Option<Plant>> = OnceLock::new();
    *PLANT.get_or_init(|| {
        let name = std::env::var(PLANTED_VARIABLE).ok().filter(|name| !name.is_empty())?;
        match name.parse() {
            Ok(plant) => Some(plant),
            Err(error) => {
                #[expect(
                    clippy::print_stderr,
                    reason = "only builds for tests have this code, and it ends the process"
                )]
                {
                    eprintln!("{PLANTED_VARIABLE}: {error}");
                }
                std::process::exit(2);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_on_for_what_runs_inside_and_off_again_however_that_ends() {
        assert!(!is_planted(Plant::GuardIgnored));
        with(Plant::GuardIgnored, || {
            assert!(is_planted(Plant::GuardIgnored) && !is_planted(Plant::LeaderRestore));
            std::thread::spawn(|| assert!(!is_planted(Plant::GuardIgnored))).join().unwrap();
        });
        let panicked = std::panic::catch_unwind(|| with(Plant::GuardIgnored, || panic!("as it may")));
        assert!(panicked.is_err() && !is_planted(Plant::GuardIgnored));
    }

    #[test]
    fn names_are_unique_and_read_back() {
        for &plant in Plant::ALL {
            assert_eq!(plant.to_string().parse(), Ok(plant));
            assert!(plant.about().ends_with('.'), "{plant} is told in a sentence");
        }
        assert!("none-such".parse::<Plant>().unwrap_err().to_string().contains("guard-ignored"));
    }
}
