//! Planted bugs: each is caught by its suite, and without it the suite is silent.

use duramen_tests::planted::{Catch, Suite, TABLE, control, hunt};

/// Seeds that must be silent without a bug; `scripts/planted.sh` runs more.
fn control_seeds(suite: Suite) -> u64 {
    match suite {
        Suite::Store => 300,
        Suite::Serving => 12,
        // The module `sim` runs more.
        Suite::Simulator => 2,
        Suite::Leaders => 40,
        Suite::Terms => 20,
        // The module `chaos` runs more.
        Suite::Operator => 1,
    }
}

/// Goal: every suite would notice the bug that it is there for. Method: plant it, run seeds until the suite says what the
/// table expects. To see the table: `scripts/planted.sh`.
#[test]
fn every_planted_bug_is_caught_by_its_suite() {
    crate::setup();
    for &row in TABLE {
        let hunted = hunt(row);
        let is_caught = matches!(hunted.catch, Catch::Caught { .. });
        assert!(is_caught, "{} in {} seeds of {}: {:?}", row.plant, hunted.seeds, row.suite, hunted.catch);
    }
}

#[test]
fn without_a_bug_the_suites_are_silent() {
    crate::setup();
    for suite in Suite::ALL {
        control(suite, 0..control_seeds(suite)).unwrap_or_else(|said| panic!("{suite}: {said}"));
    }
}
