//! Compare-and-set: by version on registers that everybody uses, and counters whose increments must be exact.
//!
//! * No value is written to a key twice, so that "the version that I read" and "the value that I read" are one condition,
//!   and the checker can be told of values. A mismatch (412) is an answer, hence Ok.
//! * An increment insists: an unknown outcome is asked for again under the same idempotency key until it is known, or
//!   patience ends. At the end the counter must be what was acknowledged; each outcome that stayed unknown may
//!   have counted or not.

use super::record::{Asked, Record};
use super::register::{Registers, disorder, value_of};
use super::slots::Slots;
use super::{Field, PATIENCE, WAIT_SECONDS, Workload, after, pause};
use crate::chaos::book::Slice;
use crate::checkers::history::{Counts, Outcome};
use crate::checkers::linearizability::{RegisterCall, RegisterReturn};
use crate::harness::http::{Call, kv};
use crate::harness::{Answer, Http, Rng};
use std::sync::Arc;
use tokio::task::JoinSet;

const CLIENTS: u64 = 4;
const KEYS: usize = 3;
const COUNTERS: u64 = 2;
/// So many clients share a counter.
const INCREMENTERS: u64 = 4;
/// How often an increment is asked for while its outcome is unknown.
const INSIST_MAX: u32 = 10;

/// The workload.
pub struct CompareAndSet {
    pub(super) record: Registers,
    slots: Slots,
    pub(super) increments: Record<String, Incremented>,
}

/// What became of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incremented {
    /// It counted.
    Counted,
    /// Somebody else was faster.
    Overtaken,
}

impl CompareAndSet {
    /// For a round.
    #[must_use]
    pub fn new(field: &Field) -> CompareAndSet {
        let slots = Slots::new(field, "cas", KEYS);
        CompareAndSet { record: Record::default(), slots, increments: Record::default() }
    }
}

impl Workload for CompareAndSet {
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, _followers: &mut JoinSet<()>) {
        for client in 0..CLIENTS {
            askers.spawn(swap(Arc::clone(&self), Arc::clone(field), client));
        }
        for client in CLIENTS..CLIENTS + INCREMENTERS {
            askers.spawn(increment(Arc::clone(&self), Arc::clone(field), client));
        }
    }

    fn counts(&self) -> Counts {
        let (one, other) = (self.record.counts(), self.increments.counts());
        Counts { ok: one.ok + other.ok, failed: one.failed + other.failed, unknown: one.unknown + other.unknown }
    }

    fn story(&self) -> String {
        self.record.story() + &self.increments.story()
    }

    fn check(&self, field: &Field, slice: &Slice) -> Vec<String> {
        let mut violations = self.record.objections();
        violations.extend(self.increments.objections());
        violations.extend(disorder(&self.record));
        violations.extend((0..COUNTERS).filter_map(|number| {
            let counter = counter_key(field, number);
            let shown = slice.last_value(counter.as_bytes()).map(|value| String::from_utf8_lossy(&value).into_owned());
            self.inexact(&counter, shown.as_deref())
        }));
        violations
    }
}

impl CompareAndSet {
    /// What is wrong with a counter that shows this.
    fn inexact(&self, counter: &str, shown: Option<&str>) -> Option<String> {
        let (counted, unknown) = self.increments.with_history(|history| {
            let own = || history.operations().iter().filter(|operation| operation.call == counter);
            let counted = own().filter(|operation| operation.result() == Some(&Incremented::Counted)).count();
            (counted, own().filter(|operation| operation.outcome == Outcome::Unknown).count())
        });
        let value: Option<usize> = shown.map_or(Some(0), |text| text.parse().ok());
        let exact = value.is_some_and(|value| (counted..=counted + unknown).contains(&value));
        (!exact).then(|| {
            format!("{counter} shows {shown:?} after {counted} acknowledged increments, {unknown} more perhaps")
        })
    }
}

fn counter_key(field: &Field, number: u64) -> String {
    format!("count/{}/{number}", field.round)
}

/// A condition on what is there: the version that was read, or absence.
fn guarded(call: Call, read: &Answer) -> Call {
    match read.header("etag") {
        Some(tag) => call.header("if-match", tag),
        None => call.header("if-none-match", "*"),
    }
}

async fn swap(own: Arc<CompareAndSet>, field: Arc<Field>, client: u64) {
    let mut rng = field.rng("cas", client);
    let mut number = 0u64;
    while field.goes_on() {
        number += 1;
        let (key, taken) = own.slots.take(&mut rng);
        let mut read = None;
        let asking = async {
            let http = field.serving(&mut rng);
            let answer = http.get(kv(&key)).wait(WAIT_SECONDS).limit(PATIENCE).send().await;
            own.record.judge(Asked::Read, &[200, 404], answer, |answer| {
                read = Some(answer.clone());
                RegisterReturn::Value(value_of(answer))
            })
        };
        let outcome = own.record.note(client, (key.clone(), RegisterCall::Read), asking).await;
        let Some(read) = read else {
            after(&outcome).await;
            continue;
        };
        pause(&mut rng).await;
        let to = format!("{client}-{number}");
        let call = RegisterCall::Cas { from: value_of(&read), to: Some(to.clone()) };
        let asking = async {
            let request = guarded(field.serving(&mut rng).put(kv(&key), to), &read);
            let answer = request.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
            own.record.judge(Asked::Write, &[204, 412], answer, |answer| match answer.status {
                204 => RegisterReturn::Swapped,
                _ => RegisterReturn::Mismatch,
            })
        };
        let outcome = own.record.note(client, (key.clone(), call), asking).await;
        if matches!(outcome, Outcome::Unknown) {
            own.slots.unknown(taken);
        }
        after(&outcome).await;
        pause(&mut rng).await;
    }
}

async fn increment(own: Arc<CompareAndSet>, field: Arc<Field>, client: u64) {
    let mut rng = field.rng("count", client);
    let key = counter_key(&field, client % COUNTERS);
    while field.goes_on() {
        let http = field.serving(&mut rng);
        let read = http.get(kv(&key)).wait(WAIT_SECONDS).limit(PATIENCE).send().await;
        let Some(read) = read.ok().filter(|read| [200, 404].contains(&read.status)) else {
            pause(&mut rng).await;
            continue;
        };
        let value: u64 = value_of(&read).map_or(0, |text| text.parse().unwrap_or(0));
        let asking = insist(&own, &field, &key, value + 1, &read, &mut rng);
        let outcome = own.increments.note(client, key.clone(), asking).await;
        after(&outcome).await;
        pause(&mut rng).await;
    }
}

/// Asks for one increment until its outcome is known.
async fn insist(
    own: &CompareAndSet,
    field: &Field,
    key: &str,
    value: u64,
    read: &Answer,
    rng: &mut Rng,
) -> Outcome<Incremented> {
    let idempotency_key = format!("{key}#{:x}", rng.bits());
    let mut first = None;
    for _ in 0..INSIST_MAX {
        let http: &Http = field.serving(rng);
        let request = guarded(http.put(kv(key), value.to_string()), read).header("idempotency-key", &idempotency_key);
        let answer = request.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
        let outcome = own.increments.judge(Asked::Write, &[204, 412], answer, |answer| match answer.status {
            204 => Incremented::Counted,
            _ => Incremented::Overtaken,
        });
        match (&outcome, &first) {
            (Outcome::Ok(_), _) | (Outcome::Failed, None) => return outcome,
            // A refusal of a repeat says nothing of the attempt before it.
            (Outcome::Unknown | Outcome::Failed, _) => first = Some(Outcome::Unknown),
        }
        after(&outcome).await;
    }
    first.unwrap_or(Outcome::Unknown)
}
