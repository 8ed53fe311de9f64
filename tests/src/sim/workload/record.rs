//! A record that a client wants written, whichever way: how it is asked for, what its answers mean, and what it is to
//! registers.
//!
//! * A guard on a version stands for the value that its client saw under that version: each value is written once in a run.
//! * To registers, a record is one operation for each of its keys, all at the same time. That is less than the record
//!   promises, and true of it.

use super::super::seen::Effect;
use super::super::witness::text;
use super::caller::{Answer, Call};
use super::client::Client;
use crate::checkers::Outcome;
use crate::checkers::linearizability::{RegisterCall, RegisterReturn};
use bytes::Bytes;
use duramen_common::batch::{Guard, Update};
use duramen_common::{PartitionId, RequestId, Timestamp};
use std::collections::BTreeMap;

/// What a register holds; none where its key is absent.
pub type Value = Option<String>;

/// A guard, and the value that it stands for: none in particular where it only asks that the key exists.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// The guard.
    pub guard: Guard,
    /// What its client saw.
    pub value: Option<Value>,
}

/// How a record is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `PUT` or `DELETE` of one key.
    Key,
    /// `POST /v1/txn`
    Txn,
}

/// A record to be written.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which way.
    pub form: Form,
    /// Where its keys live.
    pub partition: PartitionId,
    /// On what it depends.
    pub guards: Vec<Guarded>,
    /// What it changes.
    pub updates: Vec<Update>,
    /// The name under which it can be repeated.
    pub idempotency_key: Option<String>,
    /// The request.
    pub call: Call,
}

/// What one attempt lets a client conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is in the log, and this is what it did.
    Certain(Effect, Option<Timestamp>),
    /// Nothing was appended by this attempt.
    Refused,
    /// Nobody knows.
    Open,
}

impl Record {
    /// Its id, where the client knows it.
    #[must_use]
    pub fn id(&self) -> Option<RequestId> {
        self.idempotency_key.as_ref().map(|key| RequestId::of_idempotency_key(key.as_bytes(), 0))
    }

    /// What its answer means.
    pub(super) fn conclude(&self, client: &Client, answer: &Answer) -> Attempt {
        let place = answer.position().and_then(|position| position.single());
        let place = place.filter(|place| place.partition == self.partition);
        match (answer.status.as_u16(), self.form, place) {
            (204, Form::Key, Some(_)) => Attempt::Certain(Effect::Effective, place),
            (412, Form::Key, _) if !self.guards.is_empty() => Attempt::Certain(Effect::NoEffect, None),
            (200, Form::Txn, Some(_)) => match answer.json()["committed"].as_bool() {
                Some(true) => Attempt::Certain(Effect::Effective, place),
                Some(false) if !self.guards.is_empty() => Attempt::Certain(Effect::NoEffect, place),
                _ => self.wrong(client, answer),
            },
            (503 | 429 | 507, ..) if answer.is_definite_refusal() => Attempt::Refused,
            (503, ..) => Attempt::Open,
            _ => self.wrong(client, answer),
        }
    }

    fn wrong(&self, client: &Client, answer: &Answer) -> Attempt {
        let (status, position, body) = (answer.status, answer.header("log-timestamp"), text(&answer.body));
        client.wrong(1, format!("{self:?} was answered {status} at {position:?}: {body}"));
        Attempt::Open
    }

    /// What it asks of each register.
    #[must_use]
    pub fn registers(&self) -> BTreeMap<Bytes, RegisterCall<String>> {
        let mut calls = BTreeMap::new();
        for Update { key, value } in &self.updates {
            calls.insert(key.clone(), RegisterCall::Write(value.as_deref().map(text)));
        }
        for Guarded { guard, value } in &self.guards {
            let Some(from) = value.clone() else { continue };
            let to = match calls.get(&guard.key) {
                Some(RegisterCall::Write(to)) => to.clone(),
                _ => from.clone(),
            };
            calls.insert(guard.key.clone(), RegisterCall::Cas { from, to });
        }
        calls
    }

    /// What became of one of these.
    #[must_use]
    pub fn register_outcome(&self, call: &RegisterCall<String>, effect: Effect) -> Outcome<RegisterReturn<String>> {
        match (call, effect) {
            (RegisterCall::Cas { .. }, Effect::Effective) => Outcome::Ok(RegisterReturn::Swapped),
            (_, Effect::Effective) => Outcome::Ok(RegisterReturn::Written),
            // Of several guards, nobody says which one failed.
            (RegisterCall::Cas { .. }, Effect::NoEffect) if self.guards.len() == 1 => {
                Outcome::Ok(RegisterReturn::Mismatch)
            }
            // That a key was absent a register's write cannot tell.
            (_, Effect::NoEffect) => Outcome::Failed,
        }
    }
}
