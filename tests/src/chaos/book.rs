//! The log as it was found: read from every log node after each round, compared record by record, and folded.
//!
//! * In: `GET /v1/log/{partition}` of all log nodes. Out: the round's records (`Slice`), and what differs.
//! * Of earlier rounds only a hash of each record is kept, so that a replica can be held against all of it at any time,
//!   and the fold (`testing::Model`), which serving nodes must show.

use crate::checkers::log::{Log, LoggedRecord};
use crate::harness::feed::blob;
use crate::harness::{Http, poll};
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, Record, Update};
use duramen_common::placement::partition_of;
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::testing::Model;
use serde_json::Value;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

/// How long a replica may take to have what was committed.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How many differences are told of one kind.
const TOLD_MAX: usize = 3;

/// What a round added to the log.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Where each partition ended before.
    pub begins: Vec<u64>,
    /// The records since.
    pub log: Log,
    /// A hash of each, by partition.
    pub hashes: Vec<Vec<u64>>,
}

impl Slice {
    /// Nothing added yet to a log that ends here.
    #[must_use]
    pub fn new(history: HistoryId, begins: Vec<u64>) -> Slice {
        Slice { hashes: vec![Vec::new(); begins.len()], log: Log::new(history), begins }
    }

    /// The value of a key after all of it. For keys that the round began with.
    #[must_use]
    pub fn last_value(&self, key: &[u8]) -> Option<Bytes> {
        let partition = partition_of(key, u16::try_from(self.begins.len()).expect("a cluster has few partitions"));
        let changes = self.log.effective_updates(partition);
        let changes = changes.iter().rev().flat_map(|(_, updates)| updates.iter().rev());
        changes.into_iter().find(|update| update.key == key).and_then(|update| update.value.clone())
    }
}

/// What is known of the log.
#[derive(Debug)]
pub struct Book {
    history: HistoryId,
    /// A hash of every record, by partition and offset.
    hashes: Vec<Vec<u64>>,
    /// The fold of each partition.
    folds: Vec<Model>,
}

impl Book {
    /// Nothing known yet of so many partitions.
    #[must_use]
    pub fn new(history: HistoryId, partitions: u16) -> Book {
        let count = usize::from(partitions);
        Book { history, hashes: vec![Vec::new(); count], folds: vec![Model::default(); count] }
    }

    /// Where each partition's known part ends.
    #[must_use]
    pub fn ends(&self) -> Vec<u64> {
        self.hashes.iter().map(|partition| partition.len() as u64).collect()
    }

    /// How many records are known.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.ends().iter().sum()
    }

    /// Nothing added yet to what is known.
    #[must_use]
    pub fn slice(&self) -> Slice {
        Slice::new(self.history, self.ends())
    }

    /// Version and value of every live key.
    pub fn live(&self) -> impl Iterator<Item = (&Vec<u8>, &(Offset, Vec<u8>))> {
        self.folds.iter().flat_map(|fold| &fold.live)
    }

    /// Reads on to what is committed now, at every log node.
    pub async fn extend(&mut self, nodes: &[Http], slice: &mut Slice) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        for (partition, begin) in (0u16..).zip(self.ends()) {
            let end = committed_end(nodes, partition).await.map_err(|why| vec![why])?;
            let mut first: Option<Vec<String>> = None;
            for (number, http) in nodes.iter().enumerate() {
                match (lines(http, partition, begin, end).await, &first) {
                    (Ok(lines), None) => first = Some(lines),
                    (Ok(lines), Some(first)) => wrong.extend(differences(first, &lines, number, partition, begin)),
                    (Err(why), _) => wrong.push(why),
                }
            }
            let lines = first.ok_or_else(|| wrong.clone())?;
            for (offset, line) in (begin..).zip(&lines) {
                self.take(partition, offset, line, slice).map_err(|why| vec![why])?;
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Holds all that one log node has, below what is known, against what is known. The outer `Err` says that it would not
    /// give a record, the inner what differs.
    pub async fn verify(&self, http: &Http) -> Result<Result<(), Vec<String>>, String> {
        let mut wrong = Vec::new();
        for (partition, known) in (0u16..).zip(&self.hashes) {
            let lines = lines(http, partition, 0, known.len() as u64).await?;
            let differing = (0u64..).zip(lines.iter().zip(known)).filter(|(_, (line, known))| hash_of(line) != **known);
            for (offset, (line, _)) in differing.take(TOLD_MAX) {
                wrong.push(format!("{} gives another record at {partition}:{offset} than before: {line}", http.addr()));
            }
        }
        Ok(if wrong.is_empty() { Ok(()) } else { Err(wrong) })
    }

    /// One line, folded in.
    pub(super) fn take(&mut self, partition: u16, offset: u64, line: &str, slice: &mut Slice) -> Result<(), String> {
        let (place, partition) = (usize::from(partition), PartitionId::new(partition));
        let unreadable = |why: &str| format!("record {partition}:{offset} is not readable ({why}): {line}");
        let json: Value = serde_json::from_str(line).map_err(|error| unreadable(&error.to_string()))?;
        let offset = Offset::new(offset);
        if position(&json["timestamp"]) != Some(Timestamp { partition, offset }) {
            return Err(unreadable("it says that it is elsewhere"));
        }
        let record = record_of(&json).ok_or_else(|| unreadable("neither event nor updates"))?;
        let hash = hash_of(line);
        self.hashes[place].push(hash);
        self.folds[place].fold(offset, &record, false);
        slice.hashes[place].push(hash);
        slice.log.push(partition, LoggedRecord { offset, record, is_settled: false });
        Ok(())
    }
}

/// A record as it was appended.
fn record_of(json: &Value) -> Option<Record> {
    let bytes = |value: &Value| Bytes::from(blob(value));
    if !json["event"].is_null() {
        let key = (!json["key"].is_null()).then(|| bytes(&json["key"]));
        return Some(Record::event(key, bytes(&json["event"])));
    }
    let updates = json["updates"].as_array()?.iter().map(|update| {
        let value = (update["delete"] != true).then(|| bytes(&update["value"]));
        Update { key: bytes(&update["key"]), value }
    });
    let guards = json["guards"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|guard| {
        let condition = match guard["version"].as_str() {
            None => GuardCondition::Absent,
            Some("*") => GuardCondition::Exists,
            Some(_) => GuardCondition::Version(position(&guard["version"])?.offset),
        };
        Some(Guard { key: bytes(&guard["key"]), condition })
    });
    Some(Record::updates(guards.collect::<Option<_>>()?, updates.collect()))
}

/// The one position that a token names.
fn position(token: &Value) -> Option<Timestamp> {
    let token: SessionToken = token.as_str()?.parse().ok()?;
    token.single()
}

/// Hash of a record's line.
#[must_use]
pub fn hash_of(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// Where a partition's log ends, as its leader confirms at any node.
async fn committed_end(nodes: &[Http], partition: u16) -> Result<u64, String> {
    let asking = || async {
        let mut last = String::new();
        for http in nodes {
            let answer = http.get(format!("/v1/log/{partition}/tail")).limit(ANSWER_WITHIN).send().await;
            match answer {
                Ok(answer) if answer.status == 200 => return Ok(answer.json()["committed_end"].as_u64()),
                Ok(answer) => last = answer.to_string(),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    };
    let end = poll(&format!("the end of partition {partition}"), CAUGHT_UP_WITHIN, asking).await?;
    end.ok_or_else(|| format!("the tail of partition {partition} is no number"))
}

/// The records of a partition from `begin` to `end`, as lines.
async fn lines(http: &Http, partition: u16, begin: u64, end: u64) -> Result<Vec<String>, String> {
    let mut lines: Vec<String> = Vec::new();
    while begin + (lines.len() as u64) < end {
        let from = begin + lines.len() as u64;
        let limit = (end - from).min(1000);
        let what = format!("records {partition}:{from} to {end} of {}", http.addr());
        let page = poll(&what, CAUGHT_UP_WITHIN, || async {
            let call = http.get(format!("/v1/log/{partition}?from={from}&limit={limit}&wait=5"));
            let answer = call.limit(ANSWER_WITHIN).send().await.map_err(|error| error.to_string())?;
            match answer.status {
                200 if !answer.body.is_empty() => Ok(answer.text()),
                _ => Err(answer.to_string()),
            }
        })
        .await?;
        lines.extend(page.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// What differs between two replicas' records.
fn differences(one: &[String], other: &[String], number: usize, partition: u16, begin: u64) -> Vec<String> {
    let pairs = (begin..).zip(one.iter().zip(other));
    let mut wrong: Vec<String> = pairs
        .filter(|(_, (one, other))| one != other)
        .take(TOLD_MAX)
        .map(|(offset, (one, other))| {
            let place = PartitionId::new(partition);
            format!("replicas differ at {place}:{offset}: log-1 has {one}, log-{} has {other}", number + 1)
        })
        .collect();
    if one.len() != other.len() {
        let (one, other) = (one.len(), other.len());
        wrong.push(format!("replicas of partition {partition} differ in length: {one} and {other}"));
    }
    wrong
}
