//! A client: one operation after the other, chosen by its seed.
//!
//! * Its session is one token, merged from every position that it was told.
//! * It remembers each key's last version that it saw, for conditions, and what it wrote, for repeats.

use super::super::network::HostId;
use super::super::seen::Consistency;
use super::Stage;
use super::keys::Keys;
use super::mix::{Deed, Mix};
use super::record::Record;
use super::writer::{Condition, Write};
use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A client.
pub struct Client {
    /// Its number.
    pub number: u64,
    /// What it shares with others.
    pub stage: Stage,
    /// Its chance.
    pub rng: Rng,
    /// Its session, once it knows the history.
    pub session: Option<SessionToken>,
    /// What the session had seen some time ago.
    pub(super) older: Option<SessionToken>,
    /// Versions and values seen last.
    pub memory: BTreeMap<Bytes, (Offset, String)>,
    /// Writes that were answered.
    pub done: Vec<Record>,
    pub(super) keys: Keys,
    pub(super) next_value: u64,
    mix: Mix,
    /// Longest pause between operations. Unit: milliseconds.
    pause_ms_max: u64,
}

impl Client {
    /// A client that has seen nothing.
    #[must_use]
    pub fn new(number: u64, stage: Stage, keys: Keys, mix: Mix, mut rng: Rng, pause_ms_max: u64) -> Client {
        let pause_ms_max = rng.within(1, pause_ms_max);
        Client {
            number,
            stage,
            rng,
            session: None,
            older: None,
            memory: BTreeMap::new(),
            done: Vec::new(),
            keys,
            next_value: 0,
            mix,
            pause_ms_max,
        }
    }

    /// Works until the stage ends.
    pub async fn run(mut self) {
        while !self.stage.has_ended() {
            let pause = Duration::from_millis(self.rng.within(0, self.pause_ms_max));
            tokio::time::sleep(pause).await;
            self.act().await;
        }
    }

    /// Writes to a partition until that is acknowledged.
    pub async fn probe(mut self, partition: PartitionId, done: &AtomicBool) {
        while self.done.is_empty() {
            let key = self.keys.of(partition, &mut self.rng);
            let (value, idempotency_key) =
                (Some(self.fresh_value()), Some(format!("p{}-{}", self.number, self.next_value)));
            self.next_value += 1;
            let condition = Condition::None;
            self.write(Write { partition, key, value, condition, idempotency_key }).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.store(true, Ordering::Relaxed);
    }

    async fn act(&mut self) {
        let (partition, key) = self.keys.any(&mut self.rng);
        match self.mix.any(&mut self.rng) {
            Deed::ReadLinearizable => self.read(partition, key, Consistency::Linearizable).await,
            Deed::ReadSession => self.read(partition, key, Consistency::Session).await,
            Deed::ReadStale => self.read(partition, key, Consistency::Stale).await,
            Deed::Repeat => self.repeat().await,
            Deed::Change => self.change(partition, key, Condition::None).await,
            Deed::ChangeAbsent => self.change(partition, key, Condition::Absent).await,
            Deed::ChangeExisting => self.change(partition, key, Condition::Exists).await,
            Deed::ChangeSeen => {
                let condition = self.seen_version(partition, &key);
                self.change(partition, key, condition).await;
            }
            Deed::Batch => self.write_batch().await,
            Deed::Txn => self.transact().await,
            Deed::Scan => self.scan().await,
            Deed::Digest => self.compare_digests().await,
        }
    }

    /// Puts, or now and then deletes.
    async fn change(&mut self, partition: PartitionId, key: Bytes, condition: Condition) {
        let deletes = condition != Condition::Absent && self.rng.in_thousand(150);
        let value = (!deletes).then(|| self.fresh_value());
        let is_named = self.rng.in_thousand(850);
        let idempotency_key = is_named.then(|| format!("i{}-{}", self.number, self.next_value));
        self.next_value += 1;
        self.write(Write { partition, key, value, condition, idempotency_key }).await;
    }

    fn seen_version(&self, partition: PartitionId, key: &Bytes) -> Condition {
        let (Some(session), Some((offset, value))) = (&self.session, self.memory.get(key)) else {
            return Condition::Absent;
        };
        let version = SessionToken::of(session.history(), Timestamp { partition, offset: *offset });
        Condition::Version(version, value.clone())
    }

    pub(super) fn fresh_value(&mut self) -> String {
        let padding = if self.rng.in_thousand(30) { self.rng.below(1_500) } else { self.rng.below(20) };
        format!("c{}v{}{}", self.number, self.next_value, ".".repeat(padding))
    }

    /// Any serving node.
    pub fn any_node(&mut self) -> HostId {
        let (host, _) = self.rng.pick(&self.stage.serving);
        *host
    }

    /// What it is called.
    #[must_use]
    pub fn node_name(&self, host: HostId) -> String {
        let found = self.stage.serving.iter().find(|(other, _)| *other == host);
        found.map(|(_, name)| name.clone()).unwrap_or_default()
    }

    /// The session has seen this position.
    pub fn session_merges(&mut self, position: &SessionToken) {
        let session = self.session.get_or_insert_with(|| SessionToken::new(position.history()));
        if session.merge(position).is_err() {
            self.wrong_history(position.history());
        }
    }

    fn wrong_history(&self, theirs: HistoryId) {
        self.wrong(0, format!("a serving node speaks of history {theirs}"));
    }
}
