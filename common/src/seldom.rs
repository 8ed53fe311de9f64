//! A log line that could come twenty times a second comes seldom: at once the first time, then with a count.
//!
//! * In: moments at which the line would be written. Out: whether it is, and how many were not.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How far two lines are apart.
const EVERY: Duration = Duration::from_secs(10);

/// One place that logs.
#[derive(Debug, Default)]
pub struct Seldom {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether the line is due; with it, how many lines were left out since the last one.
    pub fn is_due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            state.unsaid += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_comes_at_once_and_the_next_with_a_count() {
        let seldom = Seldom::default();
        let start = Instant::now();
        assert_eq!(seldom.is_due(start), Some(0));
        for ms in 1..20 {
            assert_eq!(seldom.is_due(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(seldom.is_due(start + EVERY), Some(19));
        assert_eq!(seldom.is_due(start + 2 * EVERY), Some(0));
    }
}
