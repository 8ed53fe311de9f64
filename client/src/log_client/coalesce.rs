//! Which waiting record sets go into one append request, and how its answer is split among them. Pure.
//!
//! * Sets keep their order. Sets of one request share the committed end that was known when they were first sent, so
//!   that a retry, whose known end is old, does not make a fresh set look old to the log.
//! * Invariant: the runs that the sets get add up to their counts, or the answer is not one.

use duramen_common::Offset;
use duramen_common::limits::APPEND_RECORDS_MAX;
use duramen_common::protocol::AppendedRun;

/// What decides whether a waiting set may join a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) records: u32,
    pub(super) bytes: usize,
    /// Committed end known when it was first sent; `None` when it never was.
    pub(super) known_end: Option<Offset>,
    /// Sent by itself, because the log refused it in company.
    pub(super) alone: bool,
}

/// Collects sets for one request.
#[derive(Debug)]
pub(super) struct Coalescer {
    bytes_max: usize,
    known_end_now: Offset,
    known_end: Offset,
    sets: usize,
    records: u64,
    bytes: usize,
    closed: bool,
}

impl Coalescer {
    pub(super) fn new(bytes_max: usize, known_end_now: Offset) -> Coalescer {
        Coalescer { bytes_max, known_end_now, known_end: known_end_now, sets: 0, records: 0, bytes: 0, closed: false }
    }

    /// Takes the set in if it fits; the first always does.
    pub(super) fn take(&mut self, set: Candidate) -> bool {
        let known_end = set.known_end.unwrap_or(self.known_end_now);
        if self.sets > 0 {
            let fits = !self.closed
                && !set.alone
                && known_end == self.known_end
                && self.records + u64::from(set.records) <= APPEND_RECORDS_MAX as u64
                && self.bytes + set.bytes <= self.bytes_max;
            if !fits {
                return false;
            }
        }
        self.known_end = known_end;
        self.sets += 1;
        self.records += u64::from(set.records);
        self.bytes += set.bytes;
        self.closed |= set.alone;
        true
    }

    /// The known end that the request carries.
    pub(super) fn known_end(&self) -> Offset {
        self.known_end
    }

    /// Records taken.
    pub(super) fn records(&self) -> u32 {
        self.records as u32
    }
}

/// Hands the runs of an answer out, set by set.
#[derive(Debug)]
pub(super) struct RunSplitter<'a> {
    runs: std::slice::Iter<'a, AppendedRun>,
    rest: Option<AppendedRun>,
}

impl<'a> RunSplitter<'a> {
    /// `None` unless the runs add up to `records`.
    pub(super) fn new(runs: &'a [AppendedRun], records: u32) -> Option<RunSplitter<'a>> {
        let total = runs.iter().try_fold(0u64, |sum, run| (count(run) > 0).then(|| sum + u64::from(count(run))));
        (total == Some(u64::from(records))).then(|| RunSplitter { runs: runs.iter(), rest: None })
    }

    /// The runs of the next `wanted` records. The counts of all calls add up to the whole.
    pub(super) fn next_set(&mut self, mut wanted: u32) -> Vec<AppendedRun> {
        let mut set = Vec::with_capacity(1);
        while wanted > 0
            && let Some(run) = self.rest.take().or_else(|| self.runs.next().copied())
        {
            let taken = count(&run).min(wanted);
            wanted -= taken;
            let (front, back) = split(run, taken);
            set.push(front);
            self.rest = back;
        }
        set
    }
}

fn count(run: &AppendedRun) -> u32 {
    match run {
        AppendedRun::At { count, .. } | AppendedRun::KeyReused { count } => *count,
    }
}

fn split(run: AppendedRun, at: u32) -> (AppendedRun, Option<AppendedRun>) {
    let rest = count(&run) - at;
    let (front, back) = match run {
        AppendedRun::At { first_offset, .. } => (
            AppendedRun::At { first_offset, count: at },
            AppendedRun::At { first_offset: Offset::new(first_offset.get().wrapping_add(u64::from(at))), count: rest },
        ),
        AppendedRun::KeyReused { .. } => (AppendedRun::KeyReused { count: at }, AppendedRun::KeyReused { count: rest }),
    };
    (front, (rest > 0).then_some(back))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs() -> impl Strategy<Value = Vec<AppendedRun>> {
        let run = (any::<bool>(), 0u64..1000, 1u32..20).prop_map(|(reused, first, count)| {
            if reused {
                AppendedRun::KeyReused { count }
            } else {
                AppendedRun::At { first_offset: Offset::new(first), count }
            }
        });
        proptest::collection::vec(run, 0..10)
    }

    /// One entry a record.
    fn flat(runs: &[AppendedRun]) -> Vec<Option<u64>> {
        runs.iter()
            .flat_map(|run| match *run {
                AppendedRun::At { first_offset, count } => {
                    (0..u64::from(count)).map(|n| Some(first_offset.get() + n)).collect::<Vec<_>>()
                }
                AppendedRun::KeyReused { count } => vec![None; count as usize],
            })
            .collect()
    }

    proptest! {
        /// Goal: each record keeps its own fate, wherever the sets' borders cut the runs.
        #[test]
        fn every_record_gets_its_own_fate(runs in runs(), cuts in proptest::collection::vec(1u32..15, 0..40)) {
            let all = flat(&runs);
            let mut splitter = RunSplitter::new(&runs, all.len() as u32).unwrap();
            let mut at = 0usize;
            for wanted in cuts {
                let wanted = wanted.min((all.len() - at) as u32);
                let set = flat(&splitter.next_set(wanted));
                prop_assert_eq!(&set[..], &all[at..at + wanted as usize]);
                at += wanted as usize;
            }
        }

        #[test]
        fn runs_that_do_not_add_up_are_no_answer(runs in runs(), records in 0u32..300) {
            let adds_up = flat(&runs).len() as u32 == records;
            prop_assert_eq!(RunSplitter::new(&runs, records).is_some(), adds_up);
        }
    }

    #[test]
    fn sets_join_while_they_fit_and_share_a_known_end() {
        let now = Offset::new(10);
        let fresh = Candidate { records: 1, bytes: 100, known_end: None, alone: false };
        let mut coalescer = Coalescer::new(250, now);
        assert!(coalescer.take(fresh) && coalescer.take(Candidate { known_end: Some(now), ..fresh }));
        assert!(!coalescer.take(fresh), "over the bytes");
        assert!(
            !coalescer.take(Candidate { bytes: 1, known_end: Some(Offset::new(9)), ..fresh }),
            "an older known end"
        );
        assert!(!coalescer.take(Candidate { bytes: 1, alone: true, ..fresh }), "one that must go alone");
        assert!(!coalescer.take(Candidate { bytes: 1, records: 65_535, ..fresh }), "over the records");
        assert_eq!((coalescer.known_end(), coalescer.records()), (now, 2));

        let mut coalescer = Coalescer::new(250, now);
        assert!(coalescer.take(Candidate { bytes: 1000, ..fresh }), "a large one goes by itself");
        assert!(!coalescer.take(Candidate { bytes: 1, ..fresh }));

        let mut coalescer = Coalescer::new(250, now);
        assert!(coalescer.take(Candidate { alone: true, known_end: Some(Offset::ZERO), ..fresh }));
        assert!(
            !coalescer.take(Candidate { known_end: Some(Offset::ZERO), ..fresh }),
            "company of one that goes alone"
        );
        assert_eq!(coalescer.known_end(), Offset::ZERO);
    }
}
