//! The JSON of writes of many keys: ops and guards, as batches and transactions carry them.
//!
//! * Invariant: everything is checked before anything is appended.
//! * Source: DESIGN §4.

use super::Api;
use super::body;
use super::body::RequestBody;
use super::errors::Failure;
use super::extract::{self, ASKING_MIN, IdempotencyKey};
use bytes::Bytes;
use duramen_common::batch::Update;
use duramen_common::json::Object;
use duramen_common::limits::{BODY_BYTES_MAX, OPS_MAX};
use duramen_common::{Blob, ProblemKind, SessionToken};
use hyper::http::request::Parts;
use serde::{Deserialize, Deserializer};
use std::time::Duration;

/// What every POST of operations brings, whatever its operations are.
pub(crate) struct Posted {
    /// How long its answer may take.
    pub(crate) wait: Duration,
    /// The sender's, or one made here.
    pub(crate) idempotency_key: IdempotencyKey,
    /// The operations, not read yet.
    pub(crate) body: Bytes,
}

impl Posted {
    /// Checks the headers, then reads the body.
    pub(crate) async fn read(api: &Api, parts: &Parts, body: &mut RequestBody) -> Result<Posted, Failure> {
        extract::check_json(&parts.headers)?;
        let wait = extract::wait(&parts.headers, api.config.wait_default, api.config.wait_max)?.max(ASKING_MIN);
        let idempotency_key = IdempotencyKey::of(&parts.headers, &*api.seams.entropy)?;
        let body = body::read(body, BODY_BYTES_MAX, "the body").await?;
        Ok(Posted { wait, idempotency_key, body })
    }
}

/// `{"put":{"key","value"}}` or `{"delete":{"key"}}`
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put(Object<Put>),
    Delete(Object<Delete>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: Blob,
    value: Blob,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    key: Blob,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    ops: Vec<Op>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TxnBody {
    #[serde(default, rename = "if")]
    guards: Vec<Object<GuardBody>>,
    #[serde(default)]
    ops: Vec<Op>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GuardBody {
    key: Blob,
    /// It must stand there, if only as null: a guard that was forgotten must not pass for "absent".
    #[serde(deserialize_with = "version_or_null")]
    version: Option<String>,
}

fn version_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// A guard of a transaction: the version that its key must have, or none.
pub(crate) struct TxnGuard {
    pub(crate) key: Bytes,
    pub(crate) version: Option<SessionToken>,
}

/// A transaction, checked.
pub(crate) struct Txn {
    pub(crate) guards: Vec<TxnGuard>,
    pub(crate) updates: Vec<Update>,
}

/// The ops of a batch, in order.
pub(crate) fn batch(api: &Api, body: &[u8]) -> Result<Vec<Update>, Failure> {
    let Object(body): Object<BatchBody> = parse(body)?;
    updates(api, body.ops)
}

/// The guards and ops of a transaction.
pub(crate) fn txn(api: &Api, body: &[u8]) -> Result<Txn, Failure> {
    let Object(body): Object<TxnBody> = parse(body)?;
    if body.guards.len() > OPS_MAX {
        return Err(Failure::too_large("the number of guards", OPS_MAX));
    }
    let updates = updates(api, body.ops)?;
    let guards = body.guards.into_iter().map(|Object(guard)| {
        extract::check_key(&guard.key.0)?;
        let version = guard.version.map(|text| extract::token(text.as_bytes())).transpose()?;
        Ok(TxnGuard { key: guard.key.0, version })
    });
    Ok(Txn { guards: guards.collect::<Result<_, Failure>>()?, updates })
}

fn parse<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::new(ProblemKind::BadRequest, format!("the body is not what it should be: {error}")))
}

fn updates(api: &Api, ops: Vec<Op>) -> Result<Vec<Update>, Failure> {
    if ops.len() > OPS_MAX {
        return Err(Failure::too_large("the number of ops", OPS_MAX));
    }
    let limit = api.config.value_bytes_max;
    let update = |op| {
        let update = match op {
            Op::Put(Object(put)) => Update { key: put.key.0, value: Some(put.value.0) },
            Op::Delete(Object(delete)) => Update { key: delete.key.0, value: None },
        };
        extract::check_key(&update.key)?;
        if update.value.as_ref().is_some_and(|value| value.len() > limit) {
            return Err(Failure::too_large("a value", limit));
        }
        Ok(update)
    };
    ops.into_iter().map(update).collect()
}
