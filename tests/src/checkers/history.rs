//! What clients asked and were told, in one total order of events: the form that all checkers read.
//!
//! * Every invocation and every completion takes the next index, in the order in which they are recorded. Record an
//!   invocation before the request leaves and a completion after the answer came: then an operation that completed at a
//!   smaller index than another was invoked at did really come first, whatever the clock says.
//! * Times are for people. Unit: microseconds of whatever clock the caller has, real or virtual.
//! * An operation that never completes is unknown, as is one that completes so.

use std::fmt;

/// A place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The event's number in the history.
    pub index: u64,
    /// When, by the caller's clock. Unit: microseconds.
    pub at_us: u64,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It happened, between invocation and completion, with this result.
    Ok(R),
    /// Definitely nothing happened, and never will.
    Failed,
    /// It may have happened, may happen at any later time, or never.
    Unknown,
}

/// One operation: `C` says what was asked, `R` what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<C, R> {
    /// Who asked: one client, which does one thing after the other.
    pub process: u64,
    /// What was asked.
    pub call: C,
    /// When it began.
    pub invoked: Moment,
    /// When the process stopped waiting; `None` when it never did.
    pub completed: Option<Moment>,
    /// How it ended.
    pub outcome: Outcome<R>,
}

/// An operation's number in its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(usize);

/// Operations in the order of their invocations.
#[derive(Clone, Debug)]
pub struct History<C, R> {
    operations: Vec<Operation<C, R>>,
    next_index: u64,
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a result.
    pub ok: u64,
    /// Definitely without effect.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl<C, R> Default for History<C, R> {
    fn default() -> History<C, R> {
        History { operations: Vec::new(), next_index: 0 }
    }
}

impl<C, R> History<C, R> {
    /// An empty history.
    #[must_use]
    pub fn new() -> History<C, R> {
        History::default()
    }

    fn moment(&mut self, at_us: u64) -> Moment {
        let index = self.next_index;
        self.next_index += 1;
        Moment { index, at_us }
    }

    /// Notes that a process asks. To be called before the request leaves.
    pub fn invoke(&mut self, process: u64, at_us: u64, call: C) -> OperationId {
        let invoked = self.moment(at_us);
        self.operations.push(Operation { process, call, invoked, completed: None, outcome: Outcome::Unknown });
        OperationId(self.operations.len() - 1)
    }

    /// Notes how it ended. To be called after the answer came. Panics when it had ended before.
    pub fn complete(&mut self, operation: OperationId, at_us: u64, outcome: Outcome<R>) {
        let completed = self.moment(at_us);
        let operation = &mut self.operations[operation.0];
        assert!(operation.completed.is_none(), "an operation ends once");
        operation.completed = Some(completed);
        operation.outcome = outcome;
    }

    /// All operations, in the order of their invocations.
    #[must_use]
    pub fn operations(&self) -> &[Operation<C, R>] {
        &self.operations
    }

    /// The operations that ask for what `keeps` says, at their places.
    #[must_use]
    pub fn only(&self, keeps: impl Fn(&C) -> bool) -> History<C, R>
    where
        C: Clone,
        R: Clone,
    {
        let kept = self.operations.iter().filter(|operation| keeps(&operation.call));
        History { operations: kept.cloned().collect(), next_index: self.next_index }
    }

    /// How many ended how.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for operation in &self.operations {
            match operation.outcome {
                Outcome::Ok(_) => counts.ok += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
        }
        counts
    }
}

impl<C, R> Operation<C, R> {
    /// The index at which it had certainly happened; `None` when that is never certain.
    #[must_use]
    pub fn end_index(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Ok(_) => self.completed.map(|moment| moment.index),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }

    /// What was answered; `None` unless it ended well.
    #[must_use]
    pub fn result(&self) -> Option<&R> {
        match &self.outcome {
            Outcome::Ok(result) => Some(result),
            Outcome::Failed | Outcome::Unknown => None,
        }
    }

    /// Whether it definitely did nothing.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed)
    }

    /// Whether it had certainly happened before `other` was asked for.
    #[must_use]
    pub fn precedes(&self, other: &Operation<C, R>) -> bool {
        self.end_index().is_some_and(|end| end < other.invoked.index)
    }
}

impl<C: fmt::Debug, R: fmt::Debug> fmt::Display for Operation<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {} event {} at {} µs: {:?}",
            self.process, self.invoked.index, self.invoked.at_us, self.call
        )?;
        match &self.outcome {
            Outcome::Ok(result) => write!(f, " → {result:?}")?,
            Outcome::Failed => f.write_str(" → failed")?,
            Outcome::Unknown => f.write_str(" → unknown")?,
        }
        match self.completed {
            Some(completed) => write!(f, " (event {} at {} µs)", completed.index, completed.at_us),
            None => f.write_str(" (never ended)"),
        }
    }
}

/// Hand-made histories.
#[cfg(test)]
pub(crate) mod spans {
    use super::{History, Outcome};

    /// An operation from one time to another; at equal times, invocations come first: what touches is concurrent.
    #[derive(Clone, Debug)]
    pub(crate) struct Span<C, R> {
        pub process: u64,
        pub from: u64,
        pub to: u64,
        pub call: C,
        pub outcome: Outcome<R>,
    }

    /// The history in which these happen.
    pub(crate) fn history<C, R>(spans: impl IntoIterator<Item = Span<C, R>>) -> History<C, R> {
        let mut events = Vec::new();
        for (number, span) in spans.into_iter().enumerate() {
            events.push((span.from, 0, number, Some((span.process, span.call)), None));
            events.push((span.to, 1, number, None, Some(span.outcome)));
        }
        events.sort_by_key(|&(at, kind, number, ..)| (at, kind, number));
        let mut history = History::new();
        let mut ids = std::collections::BTreeMap::new();
        for (at, _, number, invocation, completion) in events {
            if let Some((process, call)) = invocation {
                ids.insert(number, history.invoke(process, at, call));
            }
            if let Some(outcome) = completion {
                history.complete(ids[&number], at, outcome);
            }
        }
        history
    }
}
