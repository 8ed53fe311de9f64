//! Reads of one key: linearizable, within the session, and stale.
//!
//! * In: what to read and how. Out: to the witness, what was found and at which position.
//! * A read that is answered names the position that it was served at, whatever it found.

use super::super::seen::{Consistency, Read, Seen};
use super::caller::{Answer, Call};
use super::client::Client;
use crate::checkers::Outcome;
use crate::checkers::linearizability::{RegisterCall, RegisterReturn};
use crate::harness::http::kv;
use bytes::Bytes;
use duramen_common::{Offset, PartitionId, SessionToken};
use std::time::Duration;

/// Version and value; none where the key is absent.
type Found = Option<(Offset, Bytes)>;

impl Client {
    /// Reads, and tells the witness.
    pub async fn read(&mut self, partition: PartitionId, key: Bytes, consistency: Consistency) {
        let is_register = consistency == Consistency::Linearizable;
        let token = match consistency {
            Consistency::Session => self.session.clone(),
            Consistency::Linearizable | Consistency::Stale if self.rng.in_thousand(100) => self.session.clone(),
            Consistency::Linearizable | Consistency::Stale => None,
        };
        if consistency == Consistency::Session && token.is_none() {
            return;
        }
        let known = self.stage.witness.lock().known();
        let now_ms = self.stage.network().now_ms();
        let operation =
            is_register.then(|| self.stage.witness.lock().invoke(self.number, now_ms, &key, RegisterCall::Read));
        let node = self.any_node();
        let wait = self.rng.within(1, 4);
        let mut target = format!("{}?consistency={}", kv(&key), word(consistency));
        // Tokens on one read are merged, whatever order they come in: an older one must not hide the session's.
        if let (Some(_), Some(older)) = (&token, &self.older) {
            target += &format!("&after={older}");
        }
        if self.rng.in_thousand(50) {
            self.older.clone_from(&self.session);
        }
        let mut call = Call::new("GET", target)
            .header("prefer", format!("wait={wait}"))
            .within(Duration::from_millis(wait * 1_000 + 500));
        if let Some(token) = &token {
            call = call.header("read-after", token.to_string());
        }
        let answer = call.send(&self.stage.wire, node).await;
        let found = answer.ok().and_then(|answer| self.found(&answer, partition, token.as_ref()));
        let now_ms = self.stage.network().now_ms();
        let outcome = match &found {
            Some((found, _)) => {
                Outcome::Ok(RegisterReturn::Value(found.as_ref().map(|(_, value)| super::super::witness::text(value))))
            }
            None => Outcome::Failed,
        };
        let mut witness = self.stage.witness.lock();
        witness.count(&outcome);
        if let Some(operation) = operation {
            witness.complete(operation, now_ms, outcome);
        }
        let Some((found, position)) = found else { return };
        let served_end = position.position(partition).map_or(Offset::ZERO, Offset::next);
        let node = self.node_name(node);
        let read = Read { client: self.number, node, consistency, token, partition, key, found, served_end, known };
        let (key, found) = (read.key.clone(), read.found.clone());
        witness.see(Seen::Read(read));
        drop(witness);
        self.session_merges(&position);
        let seen = found.map(|(offset, value)| (offset, Some(super::super::witness::text(&value))));
        self.remember(&key, seen);
    }

    /// What a read's answer says: version and value, or none, and the position; nothing where it cannot say.
    fn found(
        &self,
        answer: &Answer,
        partition: PartitionId,
        token: Option<&SessionToken>,
    ) -> Option<(Found, SessionToken)> {
        let status = answer.status.as_u16();
        match (status, answer.position(), answer.etag().and_then(|etag| etag.position(partition))) {
            (200, Some(position), Some(version)) => Some((Some((version, answer.body.clone())), position)),
            (404, Some(position), None) => Some((None, position)),
            (503, _, _) => None,
            _ => {
                let problem = answer.problem();
                self.wrong(5, format!("a read with token {token:?} was answered {status} {problem:?}"));
                None
            }
        }
    }
}

/// As a query says it.
pub(super) fn word(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Session => "session",
        Consistency::Stale => "stale",
    }
}
