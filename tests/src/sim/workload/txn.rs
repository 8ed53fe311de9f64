//! Transactions: guards and changes of several keys of one partition, all or nothing; what was read last is what they depend
//! on, or what is read just before.

use super::super::seen::Consistency;
use super::caller::Call;
use super::client::Client;
use super::record::{Form, Guarded, Record};
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, Update};
use duramen_common::{Blob, PartitionId, SessionToken, Timestamp};
use serde_json::{Value, json};

/// Most keys of one.
const KEYS_MAX: usize = 4;

impl Client {
    /// A transaction, and tells the witness.
    pub(super) async fn transact(&mut self) {
        let (partition, _) = self.keys.any(&mut self.rng);
        let keys = self.keys.several(partition, KEYS_MAX, &mut self.rng);
        let (mut guarded, mut changed) = (Vec::new(), Vec::new());
        for key in keys {
            let (guards, changes) = *self.rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
            guarded.extend(guards.then(|| key.clone()));
            changed.extend(changes.then_some(key));
        }
        if self.rng.in_thousand(300) {
            for key in &guarded {
                self.read(partition, key.clone(), Consistency::Linearizable).await;
            }
        }
        // A guard needs the history's name, which a client learns with its first answer.
        let guards: Vec<Guarded> = match self.session.is_some() {
            true => guarded.into_iter().map(|key| self.guard(key)).collect(),
            false => Vec::new(),
        };
        let mut updates: Vec<Update> = changed.into_iter().map(|key| self.update(key)).collect();
        if let Some(first) = updates.first().filter(|_| self.rng.in_thousand(50)).map(|update| update.key.clone()) {
            let again = self.update(first);
            updates.push(again);
        }
        if guards.is_empty() && updates.is_empty() {
            return;
        }
        let record = self.txn(partition, guards, updates);
        self.write_record(record).await;
    }

    fn txn(&mut self, partition: PartitionId, guards: Vec<Guarded>, updates: Vec<Update>) -> Record {
        let conditions: Vec<Value> = guards.iter().map(|guarded| self.condition(partition, &guarded.guard)).collect();
        let ops: Vec<Value> = updates.iter().map(op).collect();
        let mut call = Call::new("POST", "/v1/txn").json(&json!({"if": conditions, "ops": ops}));
        let idempotency_key = self.rng.in_thousand(900).then(|| format!("t{}-{}", self.number, self.next_value));
        self.next_value += 1;
        if let Some(key) = &idempotency_key {
            call = call.header("idempotency-key", key.clone());
        }
        Record { form: Form::Txn, partition, guards, updates, idempotency_key, call }
    }

    /// That a key is as it was seen last.
    fn guard(&self, key: Bytes) -> Guarded {
        let (condition, value) = match self.memory.get(&key) {
            Some((offset, value)) => (GuardCondition::Version(*offset), Some(value.clone())),
            None => (GuardCondition::Absent, None),
        };
        Guarded { guard: Guard { key, condition }, value: Some(value) }
    }

    fn condition(&self, partition: PartitionId, guard: &Guard) -> Value {
        let version = match (guard.condition, &self.session) {
            (GuardCondition::Version(offset), Some(session)) => {
                Some(SessionToken::of(session.history(), Timestamp { partition, offset }))
            }
            _ => None,
        };
        json!({"key": Blob(guard.key.clone()), "version": version})
    }

    /// Puts a fresh value, or now and then deletes.
    pub(super) fn update(&mut self, key: Bytes) -> Update {
        let deletes = self.rng.in_thousand(120);
        let value = (!deletes).then(|| Bytes::from(self.fresh_value()));
        self.next_value += 1;
        Update { key, value }
    }
}

/// As batches and transactions carry it.
pub(super) fn op(update: &Update) -> Value {
    let key = Blob(update.key.clone());
    match &update.value {
        Some(value) => json!({"put": {"key": key, "value": Blob(value.clone())}}),
        None => json!({"delete": {"key": key}}),
    }
}
