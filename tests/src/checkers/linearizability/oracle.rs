//! What the search is measured against: every order is tried, and good histories are made from an object that is atomic.

use super::{RegisterCall, RegisterHistory, RegisterReturn};
use crate::checkers::history::spans::{Span, history};
use crate::checkers::{Operation, Outcome};
use crate::harness::Rng;

pub(super) type Value = u32;
pub(super) type OneSpan = Span<(u8, RegisterCall<Value>), RegisterReturn<Value>>;
type One = Operation<(u8, RegisterCall<Value>), RegisterReturn<Value>>;

/// Whether some order of the operations explains all answers, by trying all. For one key, and few operations.
pub(super) fn has_order(history: &RegisterHistory<u8, Value>) -> bool {
    let operations: Vec<&One> = history.operations().iter().filter(|one| one.outcome != Outcome::Failed).collect();
    place(&operations, &mut vec![false; operations.len()], None)
}

fn place(operations: &[&One], placed: &mut Vec<bool>, value: Option<Value>) -> bool {
    if operations.iter().zip(placed.iter()).all(|(one, placed)| *placed || one.outcome == Outcome::Unknown) {
        return true;
    }
    for number in 0..operations.len() {
        let preceded =
            (0..operations.len()).any(|other| !placed[other] && operations[other].precedes(operations[number]));
        if placed[number] || preceded {
            continue;
        }
        let Some(next) = after(operations[number], value) else { continue };
        placed[number] = true;
        let found = place(operations, placed, next);
        placed[number] = false;
        if found {
            return true;
        }
    }
    false
}

/// The value after an operation, `None` when its answer does not fit to the value before.
fn after(operation: &One, value: Option<Value>) -> Option<Option<Value>> {
    let fits = match (&operation.call.1, &operation.outcome) {
        (RegisterCall::Read, Outcome::Ok(RegisterReturn::Value(seen))) => *seen == value,
        (RegisterCall::Cas { from, .. }, Outcome::Ok(RegisterReturn::Mismatch)) => {
            return (*from != value).then_some(value);
        }
        (RegisterCall::Cas { from, .. }, _) => *from == value,
        _ => true,
    };
    let next = match &operation.call.1 {
        RegisterCall::Read => value,
        RegisterCall::Write(to) | RegisterCall::Cas { to, .. } => *to,
    };
    fits.then_some(next)
}

/// How to make a good history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub operations: usize,
    pub processes: u64,
    pub values: Value,
    /// Whether every write has a value of its own.
    pub unique: bool,
    /// Of a thousand.
    pub unknown: usize,
    /// Of a thousand.
    pub failed: usize,
}

/// An operation under way: when it takes effect, and when its process hears of it.
struct Running {
    process: u64,
    from: u64,
    effect: u64,
    to: u64,
    call: RegisterCall<Value>,
    unknown: bool,
    answer: Option<RegisterReturn<Value>>,
}

/// A history of an object that is atomic: each operation takes effect at a random point between its invocation and its
/// end, an unknown one perhaps much later or never.
pub(super) fn good(shape: Shape, rng: &mut Rng) -> Vec<OneSpan> {
    let mut running: Vec<Running> = Vec::new();
    let mut spans = Vec::new();
    let mut idle_at = vec![0u64; shape.processes as usize];
    for number in 0..shape.operations {
        let place = (0..idle_at.len()).min_by_key(|&place| idle_at[place]).expect("there are processes");
        let from = idle_at[place] + 1 + rng.below(5) as u64;
        let to = from + 2 + rng.below(30) as u64;
        idle_at[place] = to;
        let mut value = || if shape.unique { number as Value } else { rng.below(shape.values as usize) as Value };
        let (one, other) = (value(), value());
        let call = match rng.below(8) {
            0..=2 => RegisterCall::Read,
            3 | 4 => RegisterCall::Write(Some(one)),
            5 => RegisterCall::Write(None),
            _ => {
                let before = rng.below(number.max(1)) as Value;
                let from = if shape.unique { before } else { other };
                RegisterCall::Cas { from: Some(from), to: Some(one) }
            }
        };
        let process = place as u64;
        if rng.below(1000) < shape.failed {
            spans.push(Span { process, from, to, call: (0, call), outcome: Outcome::Failed });
            continue;
        }
        let unknown = rng.below(1000) < shape.unknown;
        let effect = match (unknown, rng.below(3)) {
            (true, 0) => u64::MAX,
            (true, 1) => from + rng.below(3000) as u64,
            _ => from + rng.below((to - from) as usize) as u64,
        };
        running.push(Running { process, from, effect, to, call, unknown, answer: None });
    }
    running.sort_by_key(|one| one.effect);
    let mut value = None;
    for one in &mut running {
        one.answer = Some(match &one.call {
            RegisterCall::Read => RegisterReturn::Value(value),
            RegisterCall::Cas { from, .. } if *from != value => RegisterReturn::Mismatch,
            RegisterCall::Cas { .. } => RegisterReturn::Swapped,
            RegisterCall::Write(_) => RegisterReturn::Written,
        });
        match (&one.call, &one.answer) {
            (_, Some(RegisterReturn::Mismatch)) | (RegisterCall::Read, _) => {}
            (RegisterCall::Write(to) | RegisterCall::Cas { to, .. }, _) if one.effect < u64::MAX => value = *to,
            _ => {}
        }
    }
    spans.extend(running.into_iter().map(|one| {
        let outcome = match one.answer {
            Some(answer) if !one.unknown => Outcome::Ok(answer),
            _ => Outcome::Unknown,
        };
        Span { process: one.process, from: one.from, to: one.to, call: (0, one.call), outcome }
    }));
    spans
}

/// Spans as a history; they can be changed and tried again.
pub(super) fn as_history(spans: &[OneSpan]) -> RegisterHistory<u8, Value> {
    history(spans.iter().cloned())
}
