//! Per-key linearizability of registers: read, write (also of nothing: delete), compare-and-set.
//!
//! * Linearizability is local: a history is linearizable if and only if each key's part is, so keys are checked alone.
//! * `search` is the algorithm (Wing and Gong 1993 with Lowe's just-in-time order and memo, 2017), `configuration` its
//!   memo. Values are numbered, so that both work on small integers.
//! * A failed operation is dropped. An unknown one may take effect at any time after its invocation, or never.
//! * Bounds on steps and on configurations answer `Undecided`.
//! * Source: Herlihy and Wing 1990; Wing and Gong 1993; Lowe 2017, "Testing for linearizability".

mod configuration;
#[cfg(test)]
mod oracle;
mod search;
#[cfg(test)]
mod tests;

use super::{History, Outcome, Verdict};
use search::Found;
use std::collections::BTreeMap;
use std::fmt;

/// What a client asks of one register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterCall<V> {
    /// Its value.
    Read,
    /// This value from now on; `None` deletes.
    Write(Option<V>),
    /// `to` from now on, if it is `from`.
    Cas {
        /// What it must be.
        from: Option<V>,
        /// What it becomes.
        to: Option<V>,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterReturn<V> {
    /// The value that was read.
    Value(Option<V>),
    /// A write happened.
    Written,
    /// A compare-and-set happened.
    Swapped,
    /// A compare-and-set found another value than `from`. Stronger than a failed operation, which says nothing of the
    /// value.
    Mismatch,
}

/// Operations on many registers, each absent at first.
pub type RegisterHistory<K, V> = History<(K, RegisterCall<V>), RegisterReturn<V>>;

/// How much work one key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Configurations looked at in one run over the key's operations (there may be four, each broader than the one before).
    pub steps_max: u64,
    /// Configurations remembered at once.
    pub configurations_max: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { steps_max: 20_000_000, configurations_max: 200_000 }
    }
}

/// A key whose operations have no order that explains them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotLinearizable {
    /// The key.
    pub key: String,
    /// The operation that could not be placed.
    pub culprit: String,
    /// How many of the key's operations end before it: all of those have an order.
    pub explained: usize,
    /// What was going on when the culprit ended.
    pub concurrent: Vec<String>,
    /// Every way (up to a few) to explain all that ended before: the value that it leaves and its last operations.
    pub explanations: Vec<Explanation>,
    /// The first writers of the value that the culprit saw, when it saw one.
    pub writers: Vec<String>,
}

/// One linearization of what ended before the culprit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The register's value at its end.
    pub value: String,
    /// Its last operations that change the register or could not be placed elsewhere, in their order.
    pub last: Vec<String>,
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {} is not linearizable: no place for", self.key)?;
        writeln!(f, "    {}", self.culprit)?;
        writeln!(f, "  the {} operations that ended before it can be explained; while it ran, also:", self.explained)?;
        for operation in &self.concurrent {
            writeln!(f, "    {operation}")?;
        }
        match self.writers.is_empty() {
            true => writeln!(f, "  nobody ever wrote what it saw")?,
            false => writeln!(f, "  who wrote what it saw:")?,
        }
        for operation in &self.writers {
            writeln!(f, "    {operation}")?;
        }
        for explanation in &self.explanations {
            writeln!(f, "  an order that leaves {}, its end:", explanation.value)?;
            for operation in &explanation.last {
                writeln!(f, "    {operation}")?;
            }
        }
        Ok(())
    }
}

/// A value's number within its key; 0 stands for absence.
pub(super) type ValueId = u32;
/// The state of a register that nobody has written.
pub(super) const ABSENT: ValueId = 0;

/// What an operation does to a register, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// Possible where the value is this one; changes nothing.
    Read(ValueId),
    /// Possible where the value is another one; changes nothing.
    Miss(ValueId),
    /// Always possible.
    Write(ValueId),
    /// Possible where the value is the first; then it is the second.
    Swap(ValueId, ValueId),
}

/// One key's operation, in numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub effect: Effect,
    pub invoked: u64,
    /// `None`: unknown.
    pub completed: Option<u64>,
    /// The operation's place in the history.
    pub source: usize,
}

/// Numbers for one key's values.
struct Values<V>(BTreeMap<Option<V>, ValueId>);

impl<V: Ord + Clone> Values<V> {
    fn new() -> Values<V> {
        Values(BTreeMap::from([(None, ABSENT)]))
    }

    fn number(&mut self, value: &Option<V>) -> ValueId {
        let next = self.0.len() as ValueId;
        match self.0.get(value) {
            Some(&number) => number,
            None => *self.0.entry(value.clone()).or_insert(next),
        }
    }
}

/// Whether every key of the history is linearizable.
///
/// # Panics
/// When a result is not of the kind that its call has: a bug of who recorded.
pub fn check<K, V>(history: &RegisterHistory<K, V>, bounds: &Bounds) -> Verdict<NotLinearizable>
where
    K: Ord + Clone + fmt::Debug,
    V: Ord + Clone + fmt::Debug,
{
    let mut keys: BTreeMap<&K, Vec<usize>> = BTreeMap::new();
    for (number, operation) in history.operations().iter().enumerate() {
        keys.entry(&operation.call.0).or_default().push(number);
    }
    let mut violations = Vec::new();
    let mut undecided = None;
    for (key, numbers) in keys {
        let mut values = Values::new();
        let steps: Vec<Step> = numbers.iter().filter_map(|&number| step(history, number, &mut values)).collect();
        match search::run(&steps, bounds) {
            Found::Order => {}
            Found::TooMuch { reason, stuck_at } => {
                let stuck_at = stuck_at.map_or_else(String::new, |number| {
                    format!("; narrower searches found no place for {}", history.operations()[steps[number].source])
                });
                undecided = Some(format!("key {key:?}: {reason}{stuck_at}"));
            }
            Found::Nothing(dead_end) => violations.push(report(history, key, &steps, &values, &dead_end)),
        }
    }
    match undecided {
        Some(reason) if violations.is_empty() => Verdict::Undecided { reason },
        _ => Verdict::of(violations),
    }
}

/// The operation in numbers; `None` when it cannot matter: it failed, or it is a read without an answer.
fn step<K, V: Ord + Clone>(history: &RegisterHistory<K, V>, number: usize, values: &mut Values<V>) -> Option<Step> {
    let operation = &history.operations()[number];
    let effect = match (&operation.call.1, &operation.outcome) {
        (_, Outcome::Failed) | (RegisterCall::Read, Outcome::Unknown) => return None,
        (RegisterCall::Read, Outcome::Ok(RegisterReturn::Value(value))) => Effect::Read(values.number(value)),
        (RegisterCall::Write(value), Outcome::Ok(RegisterReturn::Written) | Outcome::Unknown) => {
            Effect::Write(values.number(value))
        }
        (RegisterCall::Cas { from, .. }, Outcome::Ok(RegisterReturn::Mismatch)) => Effect::Miss(values.number(from)),
        // It changes nothing: to have swapped a value for itself is to have read it.
        (RegisterCall::Cas { from, to }, Outcome::Ok(RegisterReturn::Swapped)) if from == to => {
            Effect::Read(values.number(from))
        }
        (RegisterCall::Cas { from, to }, Outcome::Unknown) if from == to => return None,
        (RegisterCall::Cas { from, to }, Outcome::Ok(RegisterReturn::Swapped) | Outcome::Unknown) => {
            Effect::Swap(values.number(from), values.number(to))
        }
        (_, Outcome::Ok(_)) => panic!("a result of another kind than its call, event {}", operation.invoked.index),
    };
    Some(Step { effect, invoked: operation.invoked.index, completed: operation.end_index(), source: number })
}

/// How much of each kind a report shows.
const SHOWN_MAX: usize = 12;

fn report<K, V>(
    history: &RegisterHistory<K, V>,
    key: &K,
    steps: &[Step],
    values: &Values<V>,
    dead_end: &search::DeadEnd,
) -> NotLinearizable
where
    K: fmt::Debug,
    V: fmt::Debug,
{
    let show = |&number: &usize| history.operations()[steps[number].source].to_string();
    let culprit = &steps[dead_end.culprit];
    let saw = match culprit.effect {
        Effect::Read(value) | Effect::Swap(value, _) => Some(value),
        Effect::Miss(_) | Effect::Write(_) => None,
    };
    let writes = |&number: &usize| match steps[number].effect {
        Effect::Write(value) | Effect::Swap(_, value) => Some(value) == saw && number != dead_end.culprit,
        Effect::Read(_) | Effect::Miss(_) => false,
    };
    let value_of = |wanted: ValueId| {
        let found = values.0.iter().find(|&(_, &number)| number == wanted);
        found.map_or_else(String::new, |(value, _)| format!("{value:?}"))
    };
    let explain = |(value, last): &(ValueId, Vec<usize>)| Explanation {
        value: value_of(*value),
        last: last.iter().map(show).collect(),
    };
    NotLinearizable {
        key: format!("{key:?}"),
        culprit: show(&dead_end.culprit),
        explained: steps.iter().filter(|step| step.completed < culprit.completed && step.completed.is_some()).count(),
        concurrent: dead_end.concurrent.iter().take(SHOWN_MAX).map(show).collect(),
        explanations: dead_end.explanations.iter().map(explain).collect(),
        writers: (0..steps.len()).filter(writes).take(SHOWN_MAX).map(|number| show(&number)).collect(),
    }
}
