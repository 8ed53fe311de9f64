//! Sessions: writes at one serving node, reads with the session's token at another, as a client behind a load balancer.
//!
//! * Every read must be answered from a position at or past its token's, never go back behind what its session saw, and show
//!   what the log's prefix up to that position folds to (`checkers::sessions`).
//! * A session forgets what it was not told: an unknown write is not in its token.

use super::record::{Asked, Record};
use super::{Field, PATIENCE, WAIT_SECONDS, Workload, after, pause};
use crate::chaos::book::Slice;
use crate::checkers::History;
use crate::checkers::history::Counts;
use crate::checkers::sessions::{self, Live, SessionStep};
use crate::harness::Rng;
use crate::harness::http::kv;
use bytes::Bytes;
use duramen_common::batch::Update;
use duramen_common::placement::partition_of;
use duramen_common::{Offset, SessionToken, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

const SESSIONS: u64 = 4;
const KEYS: usize = 6;

/// What a session asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A write of its own.
    Write {
        /// Of this key.
        key: String,
        /// `None` deletes.
        value: Option<String>,
    },
    /// A read.
    Read {
        /// Of this key.
        key: String,
        /// With this token.
        token: Option<SessionToken>,
    },
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// Where the write's record stands.
    Wrote(Timestamp),
    /// What was read.
    Read {
        /// The position that served it, in the key's partition.
        served: Option<Offset>,
        /// What was there.
        found: Option<Live>,
    },
}

/// The workload.
pub struct Session {
    pub(super) record: Record<Call, Return>,
    keys: Vec<String>,
}

impl Session {
    /// For a round.
    #[must_use]
    pub fn new(field: &Field) -> Session {
        let keys = (0..KEYS).map(|number| format!("session/{}/{number}", field.round)).collect();
        Session { record: Record::default(), keys }
    }
}

impl Workload for Session {
    fn spawn(self: Arc<Self>, field: &Arc<Field>, askers: &mut JoinSet<()>, _followers: &mut JoinSet<()>) {
        for process in 0..SESSIONS {
            let rng = field.rng("session", process);
            let (own, field) = (Arc::clone(&self), Arc::clone(field));
            askers.spawn(Client { own, field, process, rng, token: None }.run());
        }
    }

    fn counts(&self) -> Counts {
        self.record.counts()
    }

    fn story(&self) -> String {
        self.record.story()
    }

    fn check(&self, field: &Field, slice: &Slice) -> Vec<String> {
        let mut violations = self.record.objections();
        let told = self.record.with_history(|history| sessions_of(history, field.partitions));
        let verdict = sessions::check(&slice.log, &told);
        violations.extend(verdict.violations().iter().map(ToString::to_string));
        violations
    }
}

/// What each session was told, in its order; what it was not told is left out.
fn sessions_of(history: &History<Call, Return>, partitions: u16) -> Vec<sessions::Session> {
    let mut sessions: BTreeMap<u64, Vec<SessionStep>> = BTreeMap::new();
    for operation in history.operations() {
        let step = match (&operation.call, operation.result()) {
            (Call::Write { key, value }, Some(Return::Wrote(timestamp))) => {
                let value = value.as_ref().map(|value| Bytes::from(value.clone()));
                let updates = vec![Update { key: Bytes::from(key.clone()), value }];
                SessionStep::Wrote { timestamp: *timestamp, updates, took_effect: true }
            }
            (Call::Read { key, token }, Some(Return::Read { served, found })) => SessionStep::Read {
                key: Bytes::from(key.clone()),
                partition: partition_of(key.as_bytes(), partitions),
                asked: token.clone(),
                served: *served,
                found: found.clone(),
            },
            _ => continue,
        };
        sessions.entry(operation.process).or_default().push(step);
    }
    let named = |(process, steps)| sessions::Session { name: format!("session {process}"), steps };
    sessions.into_iter().map(named).collect()
}

/// One session.
struct Client {
    own: Arc<Session>,
    field: Arc<Field>,
    process: u64,
    rng: Rng,
    token: Option<SessionToken>,
}

impl Client {
    async fn run(mut self) {
        let mut number = 0u64;
        while self.field.goes_on() {
            number += 1;
            let key = self.rng.pick(&self.own.keys).clone();
            let writer = self.rng.below(self.field.serving.len());
            if self.rng.below(3) == 0 {
                let value = (self.rng.below(5) > 0).then(|| format!("{}-{number}", self.process));
                self.write(writer, key.clone(), value).await;
            }
            self.read((writer + 1) % self.field.serving.len(), key).await;
            pause(&mut self.rng).await;
        }
    }

    async fn write(&mut self, node: usize, key: String, value: Option<String>) {
        let (http, target) = (&self.field.serving[node], kv(&key));
        let request = match &value {
            Some(value) => http.put(target, value.clone()),
            None => http.delete(target),
        };
        let mut seen = None;
        let asking = async {
            let answer = request.wait(WAIT_SECONDS).limit(PATIENCE).send().await;
            self.own.record.judge(Asked::Write, &[204], answer, |answer| {
                let token = answer.timestamp();
                let timestamp = token.single().expect("a write is in one place");
                seen = Some(token);
                Return::Wrote(timestamp)
            })
        };
        let outcome = self.own.record.note(self.process, Call::Write { key, value }, asking).await;
        self.see(seen);
        after(&outcome).await;
    }

    async fn read(&mut self, node: usize, key: String) {
        let partition = partition_of(key.as_bytes(), self.field.partitions);
        let mut request = self.field.serving[node].get(kv(&key)).wait(WAIT_SECONDS).limit(PATIENCE);
        if let Some(token) = &self.token {
            request = request.after(token);
        }
        let mut seen = None;
        let asking = async {
            self.own.record.judge(Asked::Read, &[200, 404], request.send().await, |answer| {
                let version = || answer.version().position(partition).expect("a version is of its key's partition");
                let found = (answer.status == 200).then(|| Live { version: version(), value: answer.body.clone() });
                let served = answer.timestamp();
                seen = Some(served.clone());
                Return::Read { served: served.position(partition), found }
            })
        };
        let call = Call::Read { key, token: self.token.clone() };
        let outcome = self.own.record.note(self.process, call, asking).await;
        self.see(seen);
        after(&outcome).await;
    }

    /// Takes a position into the session's token.
    fn see(&mut self, seen: Option<SessionToken>) {
        let Some(seen) = seen else { return };
        let merged = match &mut self.token {
            None => {
                self.token = Some(seen);
                Ok(())
            }
            Some(token) => token.merge(&seen),
        };
        if let Err(error) = merged {
            self.own.record.object(format!("an answer's position is of another history: {error}"));
        }
    }
}
