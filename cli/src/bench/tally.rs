//! What was counted: latencies and errors by kind of request. One a thread, merged at the end.

use hdrhistogram::Histogram;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest latency that is told apart. Unit: nanoseconds.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OpKind {
    Put,
    Get,
    Append,
}

impl OpKind {
    pub(super) const ALL: [OpKind; 3] = [OpKind::Put, OpKind::Get, OpKind::Append];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Append => "append",
        }
    }
}

/// Why a request did not succeed, in few words, so that equal reasons are counted together.
pub(super) type Reason = Cow<'static, str>;

/// Counts of one thread, or of all.
pub(super) struct Tally {
    /// By [`OpKind`], in its order. Unit: nanoseconds.
    latencies: [Histogram<u64>; OpKind::ALL.len()],
    /// How often what went wrong.
    pub errors: BTreeMap<Reason, u64>,
    /// CPU time of the generator within the window.
    pub cpu: Duration,
}

impl Tally {
    pub(super) fn new() -> Tally {
        let histogram =
            || Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3).expect("the bounds are constant and valid");
        Tally { latencies: std::array::from_fn(|_| histogram()), errors: BTreeMap::new(), cpu: Duration::ZERO }
    }

    pub(super) fn record(&mut self, kind: OpKind, latency: Duration, result: Result<(), Reason>) {
        match result {
            Ok(()) => self.latencies[kind as usize].saturating_record(latency.as_nanos() as u64),
            Err(reason) => *self.errors.entry(reason).or_default() += 1,
        }
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        for (ours, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            ours.add(theirs).expect("all histograms have the same bounds");
        }
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        self.cpu += other.cpu;
    }

    pub(super) fn latencies(&self, kind: OpKind) -> &Histogram<u64> {
        &self.latencies[kind as usize]
    }

    /// All kinds together.
    pub(super) fn all(&self) -> Histogram<u64> {
        let mut all = self.latencies[0].clone();
        for other in &self.latencies[1..] {
            all.add(other).expect("all histograms have the same bounds");
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_counts_add_up() {
        let (mut one, mut other) = (Tally::new(), Tally::new());
        one.record(OpKind::Get, Duration::from_micros(100), Ok(()));
        one.record(OpKind::Get, Duration::from_micros(100), Err("timeout".into()));
        other.record(OpKind::Put, Duration::from_secs(1000), Ok(()));
        other.record(OpKind::Put, Duration::from_secs(1), Err("timeout".into()));
        one.merge(&other);
        assert_eq!(one.all().len(), 2);
        assert_eq!(one.latencies(OpKind::Get).len(), 1);
        assert_eq!(one.errors["timeout"], 2);
        assert!(one.all().max() >= LATENCY_NS_MAX, "a latency over the bound counts as the bound");
    }
}
