//! Batches: many changes at once, of any keys, each atomic by itself; those of one partition in one append.
//!
//! * Retried as a whole, under the same Idempotency-Key, while any of its changes is not certain.

use super::super::packet::HttpLoss;
use super::super::seen::{Effect, Ends, Seen, Written};
use super::caller::{Answer, Call, is_definite_refusal, problem_type};
use super::client::Client;
use super::record::Attempt;
use super::txn::op;
use crate::checkers::Outcome;
use crate::checkers::linearizability::{RegisterCall, RegisterReturn};
use duramen_common::batch::Update;
use duramen_common::{PartitionId, RequestId, SessionToken};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most changes of one.
const OPS_MAX: usize = 8;

/// A batch on its way.
struct Batch {
    updates: Vec<(PartitionId, Update)>,
    idempotency_key: String,
    known: Ends,
    /// What is known of each change.
    told: Vec<Attempt>,
}

impl Batch {
    fn id(&self, place: usize) -> RequestId {
        RequestId::of_idempotency_key(self.idempotency_key.as_bytes(), place as u32)
    }

    fn is_certain(&self) -> bool {
        self.told.iter().all(|told| matches!(told, Attempt::Certain(..)))
    }

    /// An attempt without an answer for each change.
    fn take_all(&mut self, attempt: Attempt) {
        (0..self.told.len()).for_each(|place| self.take(place, attempt));
    }

    fn take(&mut self, place: usize, attempt: Attempt) {
        let told = &mut self.told[place];
        *told = match (*told, attempt) {
            (Attempt::Certain(..), _) | (Attempt::Open, Attempt::Refused) => *told,
            _ => attempt,
        };
    }
}

impl Client {
    /// A batch, and tells the witness.
    pub(super) async fn write_batch(&mut self) {
        let updates = (0..1 + self.rng.below(OPS_MAX)).map(|_| {
            let (partition, key) = self.keys.any(&mut self.rng);
            (partition, self.update(key))
        });
        let updates: Vec<(PartitionId, Update)> = updates.collect();
        let ops: Vec<Value> = updates.iter().map(|(_, update)| op(update)).collect();
        let idempotency_key = format!("b{}-{}", self.number, self.next_value);
        self.next_value += 1;
        let call = Call::new("POST", "/v1/batch").json(&json!({"ops": ops}));
        let call = call.header("idempotency-key", idempotency_key.clone());
        let now_ms = self.stage.network().now_ms();
        let (known, operations) = {
            let mut witness = self.stage.witness.lock();
            let invoke = |(_, Update { key, value }): &(PartitionId, Update)| {
                let value = value.as_deref().map(super::super::witness::text);
                witness.invoke(self.number, now_ms, key, RegisterCall::Write(value))
            };
            let operations: Vec<_> = updates.iter().map(invoke).collect();
            (witness.known(), operations)
        };
        let told = vec![Attempt::Refused; updates.len()];
        let mut batch = Batch { updates, idempotency_key, known, told };
        for attempt in 0..self.patience(true) {
            if attempt > 0 {
                self.pause_before_retry().await;
            }
            match self.send(&call).await {
                Ok(answer) => self.note_batch(&mut batch, &answer),
                Err(HttpLoss::Refused) => {}
                Err(HttpLoss::Broken) => batch.take_all(Attempt::Open),
            }
            if batch.is_certain() {
                break;
            }
        }
        let now_ms = self.stage.network().now_ms();
        let mut witness = self.stage.witness.lock();
        for (operation, told) in operations.into_iter().zip(&batch.told) {
            witness.complete(operation, now_ms, outcome_of(*told, RegisterReturn::Written));
        }
        let worst = batch.told.iter().copied().find(|told| !matches!(told, Attempt::Certain(..)));
        witness.count(&worst.map_or(Outcome::Ok(()), |told| outcome_of(told, ())));
        drop(witness);
        self.note_appends(&batch);
    }

    /// What an answer says of each change.
    fn note_batch(&mut self, batch: &mut Batch, answer: &Answer) {
        let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
        match answer.status.as_u16() {
            200 if results.len() == batch.updates.len() => {}
            503 | 429 | 507 if answer.is_definite_refusal() => return,
            503 => return batch.take_all(Attempt::Open),
            status => {
                self.wrong(0, format!("a batch was answered {status}: {}", super::super::witness::text(&answer.body)));
                return batch.take_all(Attempt::Open);
            }
        }
        for (place, result) in results.iter().enumerate() {
            let attempt = self.note_result(batch, place, result);
            batch.take(place, attempt);
        }
    }

    fn note_result(&mut self, batch: &Batch, place: usize, result: &Value) -> Attempt {
        let (partition, update) = &batch.updates[place];
        let timestamp: Option<SessionToken> = result["timestamp"].as_str().and_then(|text| text.parse().ok());
        let timestamp = timestamp.and_then(|token| token.single()).filter(|at| at.partition == *partition);
        match (result["status"].as_u64(), timestamp, problem_type(&result["problem"]).as_deref()) {
            (Some(204), Some(at), None) => {
                let value = update.value.as_deref().map(super::super::witness::text);
                self.remember(&update.key, Some((at.offset, value)));
                self.stage.witness.lock().see(Seen::Write(Written {
                    client: self.number,
                    place: Some(at),
                    seen: Some(at),
                    id: Some(batch.id(place)),
                    guards: Vec::new(),
                    updates: vec![update.clone()],
                    effect: Effect::Effective,
                    known: batch.known.clone(),
                }));
                Attempt::Certain(Effect::Effective, Some(at))
            }
            (Some(503 | 429 | 507), None, Some(problem)) if is_definite_refusal(problem) => Attempt::Refused,
            (Some(503), None, Some(_)) => Attempt::Open,
            _ => {
                self.wrong(0, format!("change {place} of batch {} was answered {result}", batch.idempotency_key));
                Attempt::Open
            }
        }
    }

    /// The changes of one partition are one append.
    fn note_appends(&self, batch: &Batch) {
        let mut appends: BTreeMap<PartitionId, Vec<usize>> = BTreeMap::new();
        for (place, (partition, _)) in batch.updates.iter().enumerate() {
            appends.entry(*partition).or_default().push(place);
        }
        let mut witness = self.stage.witness.lock();
        for places in appends.into_values() {
            let ids = places.iter().map(|place| batch.id(*place)).collect();
            if places.iter().all(|place| batch.told[*place] == Attempt::Refused) {
                witness.see(Seen::Refused { ids });
            } else {
                witness.see(Seen::OneAppend { ids });
            }
        }
    }
}

fn outcome_of<R>(told: Attempt, done: R) -> Outcome<R> {
    match told {
        Attempt::Certain(..) => Outcome::Ok(done),
        Attempt::Refused => Outcome::Failed,
        Attempt::Open => Outcome::Unknown,
    }
}
