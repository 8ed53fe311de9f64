//! Registers: linearizable reads, writes and deletes at any serving node, on a few keys that everybody uses.

use super::record::{Asked, Record};
use super::slots::Slots;
use super::{Field, PATIENCE, WAIT_SECONDS, Workload, after, pause};
use crate::chaos::book::Slice;
use crate::checkers::Verdict;
use crate::checkers::history::{Counts, Outcome};
use crate::checkers::linearizability::{self, Bounds, RegisterCall, RegisterReturn};
use crate::harness::Answer;
use crate::harness::http::kv;
use std::sync::Arc;
use tokio::task::JoinSet;

const CLIENTS: u64 = 5;
const KEYS: usize = 4;

/// Operations on registers, by key.
pub type Registers = Record<(String, RegisterCall<String>), RegisterReturn<String>>;

/// The workload.
pub struct Register {
    pub(super) record: Registers,
    slots: Slots,
}

impl Register {
    /// For a round.
    #[must_use]
    pub fn new(field: &Field) -> Register {
        Register { record: Record::default(), slots: Slots::new(field, "register", KEYS) }
    }
}

impl Workload for Register {
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, _followers: &mut JoinSet<()>) {
        for client in 0..CLIENTS {
            askers.spawn(ask(Arc::clone(&self), Arc::clone(field), client));
        }
    }

    fn counts(&self) -> Counts {
        self.record.counts()
    }

    fn story(&self) -> String {
        self.record.story()
    }

    fn check(&self, _field: &Field, _slice: &Slice) -> Vec<String> {
        let mut violations = self.record.objections();
        violations.extend(disorder(&self.record));
        violations
    }
}

/// What has no order, as violations.
pub fn disorder(record: &Registers) -> Vec<String> {
    match record.with_history(|history| linearizability::check(history, &Bounds::default())) {
        Verdict::Valid => Vec::new(),
        Verdict::Violated(violations) => violations.iter().map(ToString::to_string).collect(),
        Verdict::Undecided { reason } => vec![format!("undecided, which counts as a violation: {reason}")],
    }
}

/// The value that a read showed.
pub fn value_of(answer: &Answer) -> Option<String> {
    (answer.status == 200).then(|| answer.text())
}

async fn ask(own: Arc<Register>, field: Arc<Field>, client: u64) {
    let mut rng = field.rng("register", client);
    let mut number = 0u64;
    while field.goes_on() {
        number += 1;
        let (key, taken) = own.slots.take(&mut rng);
        let http = field.serving(&mut rng);
        let target = kv(&key);
        let (call, request) = match rng.below(10) {
            0..5 => (RegisterCall::Read, http.get(target)),
            5..9 => {
                let value = format!("{client}-{number}");
                (RegisterCall::Write(Some(value.clone())), http.put(target, value))
            }
            _ => (RegisterCall::Write(None), http.delete(target)),
        };
        let is_read = call == RegisterCall::Read;
        let asking = async {
            let answer = request.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
            match is_read {
                true => {
                    own.record.judge(Asked::Read, &[200, 404], answer, |answer| RegisterReturn::Value(value_of(answer)))
                }
                false => own.record.judge(Asked::Write, &[204], answer, |_| RegisterReturn::Written),
            }
        };
        let outcome = own.record.note(client, (key, call), asking).await;
        if !is_read && matches!(outcome, Outcome::Unknown) {
            own.slots.unknown(taken);
        }
        after(&outcome).await;
        pause(&mut rng).await;
    }
}
