//! A client that speaks the log's own protocol to one log node at a time and stays with it, also when that node does not lead
//! any more, or leads without a majority: what a log client, which goes where it is helped, hardly ever does.
//!
//! * Appends under ids of its own, asked again under the same id, there and elsewhere, also while the first time is still
//!   open; tail questions. In: chance. Out: to the witness, what it was told.
//! * Invariants that it judges itself: an id has one offset, whoever is asked (7); a tail answer is not before anything that
//!   anybody knew when it was asked for (6). The rest is judged as for other clients.

use super::super::cluster::LOG_HOSTS;
use super::super::seen::{Appended, Ends, Seen};
use super::super::settings::Settings;
use super::Stage;
use crate::checkers::Outcome;
use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordSet};
use duramen_common::protocol::{
    AppendAnswer, AppendRequest, AppendedRun, LogRefusal, TailAnswer, TailRequest, service,
};
use duramen_common::{NodeId, Offset, PartitionId, RequestId, codec};
use duramen_transport::{CallError, Hello, Peer, Role, Transport};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Most attempts in a row at one append.
const ATTEMPTS_MAX: usize = 12;
/// How many appends it remembers.
const REMEMBERED_MAX: usize = 16;
/// How much longer an answer is waited for than the node was told. Unit: milliseconds.
const GRACE_MS: u64 = 150;

/// A client of log nodes.
pub struct Direct {
    number: u64,
    stage: Stage,
    rng: Rng,
    transport: Arc<dyn Transport>,
    addrs: Vec<String>,
    /// The node that it stays with.
    at: usize,
    appends: u64,
    asked: Vec<Append>,
    /// Longest pause between operations. Unit: milliseconds.
    pause_ms_max: u64,
}

/// An append, of one record.
#[derive(Clone, Debug)]
struct Append {
    partition: PartitionId,
    id: RequestId,
    set: RecordSet,
    /// What anybody knew before it was first sent.
    known: Ends,
    /// Where it stands, once somebody has said.
    offset: Option<Offset>,
    /// Whether any attempt has left open what became of it.
    is_open: bool,
}

impl Direct {
    /// A client that has asked nobody yet.
    #[must_use]
    pub fn new(number: u64, stage: Stage, mut rng: Rng, pause_ms_max: u64) -> Direct {
        let hello = Hello { role: Role::Client { name: format!("direct-{number}") }, history: None };
        let transport = stage.wire.transport(Box::new(move || hello.clone()));
        let addrs = Settings::names().into_iter().take(LOG_HOSTS).collect();
        let at = rng.below(LOG_HOSTS);
        Direct { number, stage, rng, transport, addrs, at, appends: 0, asked: Vec::new(), pause_ms_max }
    }

    /// Works until the stage ends.
    pub async fn run(mut self) {
        while !self.stage.has_ended() {
            self.pause(self.pause_ms_max).await;
            if self.rng.in_thousand(60) {
                self.at = self.rng.below(LOG_HOSTS);
            }
            match self.rng.below(100) {
                0..=39 => self.append().await,
                40..=59 => self.ask_again().await,
                _ => self.tail().await,
            }
        }
        self.asked.iter().for_each(|append| self.forget(append));
    }

    async fn pause(&mut self, ms_max: u64) {
        sleep(Duration::from_millis(self.rng.within(0, ms_max))).await;
    }

    fn known(&self) -> Ends {
        self.stage.witness.lock().known()
    }

    fn any_partition(&mut self) -> PartitionId {
        PartitionId::new(self.rng.below(usize::from(self.stage.partitions)) as u16)
    }

    /// Asks a node a question of the log's protocol.
    async fn ask<T: DeserializeOwned>(
        &self,
        node: usize,
        service: u8,
        body: Bytes,
        wait_ms: u64,
    ) -> Result<T, Failure> {
        let peer = Peer { addr: self.addrs[node].clone(), node: None };
        let timeout = Duration::from_millis(wait_ms + GRACE_MS);
        let answer = self.transport.call(&peer, service, body, timeout).await.map_err(Failure::Call)?;
        let answer: Result<T, LogRefusal> =
            codec::decode(&answer).map_err(|error| Failure::Garbled(error.to_string()))?;
        answer.map_err(Failure::Refusal)
    }

    /// Goes where the leader is said to be, now and then; stays otherwise.
    fn heed(&mut self, failure: &Failure) {
        match failure {
            Failure::Garbled(what) => self.wrong(0, format!("{}: {what}", self.addrs[self.at])),
            Failure::Refusal(LogRefusal::NotLeader { leader: Some(leader), .. }) if self.rng.in_thousand(600) => {
                self.at = host_of(*leader);
            }
            Failure::Call(_) if self.rng.in_thousand(200) => self.at = self.rng.below(LOG_HOSTS),
            _ => {}
        }
    }

    /// A record that nobody has written before.
    async fn append(&mut self) {
        self.appends += 1;
        let id = RequestId::of_idempotency_key(format!("d{}-{}", self.number, self.appends).as_bytes(), 0);
        let payload = vec![b'.'; self.rng.within(80, 200) as usize];
        let set = RecordSet::of(id, &Record::event(None, Bytes::from(payload))).expect("it is within the limits");
        let (partition, known) = (self.any_partition(), self.known());
        if self.asked.len() == REMEMBERED_MAX {
            let forgotten = self.asked.remove(0);
            self.forget(&forgotten);
        }
        self.asked.push(Append { partition, id, set, known, offset: None, is_open: false });
        self.insist(self.asked.len() - 1).await;
    }

    /// An append is not asked for again: if every attempt was refused by name, it must never be in the log.
    fn forget(&self, append: &Append) {
        if append.offset.is_none() && !append.is_open {
            self.stage.witness.lock().see(Seen::Refused { ids: vec![append.id] });
        }
    }

    /// One that was asked for before, rather one that nobody has answered.
    async fn ask_again(&mut self) {
        let is_for_open = self.rng.in_thousand(700);
        let among: Vec<usize> =
            (0..self.asked.len()).filter(|&which| !is_for_open || self.asked[which].offset.is_none()).collect();
        if !among.is_empty() {
            let which = *self.rng.pick(&among);
            self.insist(which).await;
        }
    }

    /// Asks for an append until somebody says where it stands, or patience ends.
    async fn insist(&mut self, which: usize) {
        let attempts = 1 + self.rng.below(ATTEMPTS_MAX);
        for _ in 0..attempts {
            let append = self.asked[which].clone();
            let wait_ms = *self.rng.pick(&[30, 150, 700]);
            let elsewhere = self.rng.in_thousand(200).then(|| self.rng.below(LOG_HOSTS));
            let here = self.attempt(self.at, &append, wait_ms);
            let answers = match elsewhere {
                None => vec![here.await],
                Some(node) => {
                    let (one, other) = tokio::join!(here, self.attempt(node, &append, wait_ms));
                    vec![one, other]
                }
            };
            let mut is_certain = false;
            for answer in answers {
                match answer {
                    Ok(run) => {
                        is_certain = true;
                        self.placed(which, run);
                    }
                    Err(failure) => {
                        self.asked[which].is_open |= !failure.is_definite();
                        self.heed(&failure);
                    }
                }
            }
            if is_certain {
                self.stage.witness.lock().count::<()>(&Outcome::Ok(()));
                return;
            }
            self.pause(60).await;
        }
        self.stage.witness.lock().count::<()>(&Outcome::Unknown);
    }

    async fn attempt(&self, node: usize, append: &Append, wait_ms: u64) -> Result<AppendedRun, Failure> {
        let request = AppendRequest {
            partition: append.partition,
            count: append.set.count,
            ids: append.set.ids.clone(),
            known_end: append.known.get(&append.partition).copied().unwrap_or_default(),
            timeout_ms: wait_ms,
        };
        let body = codec::encode_with_payload(&request, &append.set.records);
        let answer: AppendAnswer = self.ask(node, service::APPEND, body, wait_ms).await?;
        match answer.runs[..] {
            [run] => Ok(run),
            _ => Err(Failure::Garbled(format!("{:?} for one record", answer.runs))),
        }
    }

    /// Somebody has said where an append stands.
    fn placed(&mut self, which: usize, run: AppendedRun) {
        let append = &mut self.asked[which];
        let AppendedRun::At { first_offset: offset, count: 1 } = run else {
            let what = format!("{append:?} was answered {run:?}");
            return self.wrong(7, what);
        };
        match append.offset.replace(offset) {
            Some(first) if first == offset => {}
            Some(first) => {
                let what = format!("{append:?} was at {first} first, and is at {offset} now");
                self.wrong(7, what);
            }
            None => {
                let fingerprint = append.set.check().expect("it is whole")[0];
                let Append { partition, id, known, .. } = append.clone();
                let records = vec![(id, fingerprint, offset)];
                let appended = Appended { client: self.number, partition, records, known };
                self.stage.witness.lock().see(Seen::Appended(appended));
            }
        }
    }

    /// Asks how far the log reaches.
    async fn tail(&mut self) {
        let partition = self.any_partition();
        let node = if self.rng.in_thousand(800) { self.at } else { self.rng.below(LOG_HOSTS) };
        let wait_ms = *self.rng.pick(&[100, 400, 1_200]);
        let known = self.known().get(&partition).copied().unwrap_or_default();
        let body = codec::encode(&TailRequest { partition, timeout_ms: wait_ms });
        let outcome = match self.ask::<TailAnswer>(node, service::TAIL, body, wait_ms).await {
            Ok(TailAnswer { committed_end: end }) => {
                if end < known {
                    let name = &self.addrs[node];
                    self.wrong(
                        6,
                        format!("{name} gave {end} as the tail of partition {partition}, {known} was known before"),
                    );
                }
                self.stage.witness.lock().know(partition, end);
                Outcome::Ok(())
            }
            Err(failure) => {
                self.heed(&failure);
                Outcome::Failed
            }
        };
        self.stage.witness.lock().count(&outcome);
    }

    fn wrong(&self, invariant: u8, what: String) {
        self.stage.witness.lock().see(Seen::Wrong { invariant, what });
    }
}

/// Why a question has no answer.
enum Failure {
    Call(CallError),
    Refusal(LogRefusal),
    Garbled(String),
}

impl Failure {
    /// Whether the question has certainly changed nothing.
    fn is_definite(&self) -> bool {
        match self {
            Failure::Call(error) => error.is_definite(),
            Failure::Refusal(refusal) => refusal.is_definite(),
            Failure::Garbled(_) => false,
        }
    }
}

/// Log nodes are numbered from 1, hosts from 0.
fn host_of(node: NodeId) -> usize {
    (node.get() as usize).saturating_sub(1).min(LOG_HOSTS - 1)
}
