//! A clock that can be set: how far the binary under test is off the machine's time of day, read from a file.
//!
//! * In: a file with a number of milliseconds, negative for a clock that is slow. Missing or unreadable: the clock is right.
//!   The file is read each time the clock is asked, so that a clock can jump while its node runs.
//! * It moves what nodes record (`common::seams::WallClock`: the time of a record batch). The times in front of log lines and
//!   the `Date` header come from the machine; nothing is decided by either.
//! * Source: a time namespace of Linux shifts the monotonic clocks only, and the time of day is the whole machine's.

use duramen_common::seams::{Seams, SystemClock, WallClock};
use std::path::PathBuf;
use std::sync::Arc;

/// The variable that names the file.
pub const CLOCK_VARIABLE: &str = "DURAMEN_TEST_CLOCK";

/// The system's seams, with a clock that can be set where the variable asks for one.
#[must_use]
pub fn seams() -> Seams {
    let system = Seams::system();
    match std::env::var_os(CLOCK_VARIABLE) {
        Some(file) => Seams { clock: Arc::new(SetClock { file: file.into() }), ..system },
        None => system,
    }
}

struct SetClock {
    file: PathBuf,
}

impl WallClock for SetClock {
    fn now_ms(&self) -> u64 {
        let set = std::fs::read_to_string(&self.file).ok();
        let off_ms: i64 = set.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        SystemClock.now_ms().saturating_add_signed(off_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_its_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SetClock { file: folder.path().join("clock") };
        let off_ms = || clock.now_ms().abs_diff(SystemClock.now_ms());
        assert!(off_ms() < 60_000);
        for (set, at_least) in [("86400000", 86_000_000), ("-86400000\n", 86_000_000)] {
            std::fs::write(&clock.file, set).unwrap();
            assert!(off_ms() > at_least, "{set}");
        }
        std::fs::write(&clock.file, "noon").unwrap();
        assert!(off_ms() < 60_000);
    }
}
