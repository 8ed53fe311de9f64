//! Registers under fire: writers, linearizable readers and sessions over all nodes, and what they were told.
//!
//! * Each register has one writer, which writes 1, 2, 3, …; each value is written once, so that every read tells which write
//!   it saw. After an outcome that it does not know the writer goes on: such a write may take effect at any later time.
//! * Nothing is judged here: `checkers::linearizability` judges writes and linearizable reads, `checkers::sessions` what
//!   sessions read and what writers were acknowledged, against the log itself.
//! * Source: Herlihy and Wing 1990; DESIGN §6, invariants 1, 5 and 6.

use super::cluster::Cluster;
use super::http::{Answer, Call, Http, kv};
use super::log_lines;
use super::rng::Rng;
use super::writers::judge;
use crate::checkers::acknowledged::Told;
use crate::checkers::history::OperationId;
use crate::checkers::linearizability::{Bounds, RegisterCall, RegisterHistory, RegisterReturn};
use crate::checkers::sessions::{Live, Session, SessionStep};
use crate::checkers::{Outcome, linearizability, sessions};
use bytes::Bytes;
use duramen_common::SessionToken;
use duramen_common::batch::Update;
use duramen_common::placement::partition_of;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Running writers and readers.
pub struct Registers {
    tasks: JoinSet<Session>,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    began: Instant,
    partitions: u16,
    registers: usize,
    nodes: Vec<Http>,
    history: Mutex<RegisterHistory<String, u64>>,
    writes: AtomicU64,
    reads: AtomicU64,
    session_reads: AtomicU64,
}

impl Registers {
    /// Starts `writers` writers, twice as many linearizable readers, and as many sessions, over all serving nodes.
    #[must_use]
    pub fn start(writers: usize, cluster: &Cluster) -> Registers {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            began: Instant::now(),
            partitions: cluster.partitions,
            registers: writers,
            nodes: (0..cluster.serving.len()).map(|number| cluster.http(number)).collect(),
            history: Mutex::new(RegisterHistory::new()),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            session_reads: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for number in 0..writers {
            tasks.spawn(write(Arc::clone(&shared), number));
            tasks.spawn(read(Arc::clone(&shared), number * 2));
            tasks.spawn(read(Arc::clone(&shared), number * 2 + 1));
            tasks.spawn(session(Arc::clone(&shared), number));
        }
        Registers { tasks, shared }
    }

    /// Acknowledged writes, linearizable reads and session reads so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.shared.writes), count(&self.shared.reads), count(&self.shared.session_reads))
    }

    /// Lets everybody finish, and judges. Panics when one of them was told what may not be. Nothing else may be writing.
    pub async fn finish(mut self, cluster: &Cluster) -> (u64, u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        while let Some(task) = self.tasks.join_next().await {
            told.push(task.expect("a register's client panicked"));
        }
        linearizability::check(&self.shared.history(), &Bounds::default()).require("registers");
        sessions::check(&log_lines::read_all(cluster).await, &told).require("sessions");
        self.counts()
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn history(&self) -> MutexGuard<'_, RegisterHistory<String, u64>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn invoke(&self, process: u64, key: &str, call: RegisterCall<u64>) -> OperationId {
        self.history().invoke(process, self.now_us(), (key.to_owned(), call))
    }

    fn complete(&self, operation: OperationId, outcome: Outcome<RegisterReturn<u64>>) {
        self.history().complete(operation, self.now_us(), outcome);
    }

    fn node(&self, rng: &mut Rng) -> &Http {
        &self.nodes[rng.below(self.nodes.len())]
    }
}

fn register(number: usize) -> String {
    format!("r{number}")
}

async fn write(shared: Arc<Shared>, number: usize) -> Session {
    let process = 100 + number as u64;
    let mut rng = Rng::of_run(process);
    let mut told = Session { name: format!("writer {number}"), steps: Vec::new() };
    let key = register(number);
    for value in 1u64.. {
        if !shared.goes_on() {
            break;
        }
        let operation = shared.invoke(process, &key, RegisterCall::Write(Some(value)));
        let answer = shared.node(&mut rng).put(kv(&key), value.to_string()).wait(2).send().await;
        match judge(answer) {
            Told::Acknowledged(version) => {
                shared.complete(operation, Outcome::Ok(RegisterReturn::Written));
                shared.writes.fetch_add(1, Ordering::Relaxed);
                let version: SessionToken = version.parse().expect("a version is a token");
                let timestamp = version.single().expect("a version is one timestamp");
                let update = Update { key: Bytes::from(key.clone()), value: Some(Bytes::from(value.to_string())) };
                told.steps.push(SessionStep::Wrote { timestamp, updates: vec![update], took_effect: true });
            }
            Told::Refused(_) => {
                shared.complete(operation, Outcome::Failed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Told::Unknown(_) => shared.complete(operation, Outcome::Unknown),
        }
    }
    told
}

async fn read(shared: Arc<Shared>, number: usize) -> Session {
    let process = 200 + number as u64;
    let mut rng = Rng::of_run(process);
    while shared.goes_on() {
        let key = register(rng.below(shared.registers));
        let operation = shared.invoke(process, &key, RegisterCall::Read);
        let outcome = match ask(shared.node(&mut rng).get(kv(&key)).wait(2)).await {
            Some((_, value)) => {
                shared.reads.fetch_add(1, Ordering::Relaxed);
                Outcome::Ok(RegisterReturn::Value(value))
            }
            None => Outcome::Unknown,
        };
        shared.complete(operation, outcome);
    }
    Session::default()
}

/// Reads with the token of everything seen, at whichever node.
async fn session(shared: Arc<Shared>, number: usize) -> Session {
    let mut rng = Rng::of_run(300 + number as u64);
    let mut told = Session { name: format!("session {number}"), steps: Vec::new() };
    let mut token: Option<SessionToken> = None;
    while shared.goes_on() {
        let key = register(rng.below(shared.registers));
        let partition = partition_of(key.as_bytes(), shared.partitions);
        let mut call = shared.node(&mut rng).get(kv(&key)).wait(2);
        if let Some(token) = &token {
            call = call.after(token);
        }
        let Some((answer, value)) = ask(call).await else { continue };
        let served = answer.timestamp();
        let live = |value: u64| Live {
            version: answer.version().single().expect("a version is one timestamp").offset,
            value: Bytes::from(value.to_string()),
        };
        told.steps.push(SessionStep::Read {
            key: Bytes::from(key),
            partition,
            asked: token.clone(),
            served: served.position(partition),
            found: value.map(live),
        });
        match &mut token {
            None => token = Some(served),
            Some(token) => token.merge(&served).expect("one history"),
        }
        shared.session_reads.fetch_add(1, Ordering::Relaxed);
        // These need no network: without a pause they would take the machine.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    told
}

/// What a read showed; `None` when there was no answer.
async fn ask(call: Call) -> Option<(Answer, Option<u64>)> {
    let answer = call.send().await.ok();
    let found = answer.and_then(|answer| match answer.status {
        200 => {
            let value = answer.text().parse().unwrap_or_else(|_| panic!("not a register's value: {answer}"));
            Some((answer, Some(value)))
        }
        404 => Some((answer, None)),
        429 | 503 => None,
        _ => panic!("a read may not be answered like this: {answer}"),
    });
    if found.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    found
}
