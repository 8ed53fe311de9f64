//! `kafka`: logs with offsets: send, poll, commit, list what is committed.
//!
//! * Each client polls on from where it was; a new process begins at what is committed. After so many messages a key makes
//!   place for a new one.
//! * In the end every node shows every acknowledged message of every key.
//! * Source: Maelstrom's `kafka`; its operations and their bodies.

use super::{Asker, Load, body, in_words, last_round, unanswered};
use crate::checkers::kafka::{KafkaCall, KafkaHistory, KafkaReturn, check, unseen};
use crate::checkers::{Outcome, Verdict};
use crate::harness::rng::Rng;
use crate::workbench::record::{Body, Ending, Record, history};
use crate::workbench::settings::Settings;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Keys in use at a time.
const KEYS: u64 = 4;
/// Messages sent to one key: fewer than a poll may show.
const KEY_MESSAGES_MAX: u64 = 128;

type Call = KafkaCall<String, u64>;
type Return = KafkaReturn<String, u64>;

/// Logs, one for each key.
pub struct Kafka {
    /// Messages sent to each key that is in use.
    keys: BTreeMap<u64, u64>,
    next_key: u64,
    next_message: u64,
    consumers: Vec<Consumer>,
}

/// What a client has read.
#[derive(Clone, Default)]
struct Consumer {
    /// `None`: it has not asked yet where to begin.
    process: Option<u64>,
    next_offsets: BTreeMap<String, u64>,
}

impl Kafka {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Kafka {
        Kafka {
            keys: (0..KEYS).map(|key| (key, 0)).collect(),
            next_key: KEYS,
            next_message: 0,
            consumers: vec![Consumer::default(); settings.concurrency],
        }
    }

    fn send(&mut self, rng: &mut Rng) -> Body {
        let place = rng.below(self.keys.len());
        let key = self.keys.keys().nth(place).copied().unwrap_or_default();
        let messages = self.keys.entry(key).or_default();
        *messages += 1;
        if *messages >= KEY_MESSAGES_MAX {
            self.keys.remove(&key);
            self.keys.insert(self.next_key, 0);
            self.next_key += 1;
        }
        self.next_message += 1;
        body("send", json!({ "key": key.to_string(), "msg": self.next_message }))
    }
}

impl Load for Kafka {
    fn next(&mut self, asker: Asker, rng: &mut Rng) -> Body {
        let keys: Vec<String> = self.keys.keys().map(ToString::to_string).collect();
        let consumer = &self.consumers[asker.thread];
        let read = consumer.next_offsets.iter().filter_map(|(key, &next)| Some((key, next.checked_sub(1)?)));
        let read: BTreeMap<&String, u64> = read.collect();
        match rng.below(20) {
            _ if consumer.process != Some(asker.process) => body("list_committed_offsets", json!({ "keys": keys })),
            0 => body("list_committed_offsets", json!({ "keys": keys })),
            1..3 if !read.is_empty() => body("commit_offsets", json!({ "offsets": read })),
            1..11 => {
                let from = |key: &String| (key.clone(), consumer.next_offsets.get(key).copied().unwrap_or(0));
                let from: BTreeMap<String, u64> = keys.iter().map(from).collect();
                body("poll", json!({ "offsets": from }))
            }
            _ => self.send(rng),
        }
    }

    fn is_read(&self, call: &Body) -> bool {
        call.get("type").is_some_and(|kind| kind == "poll" || kind == "list_committed_offsets")
    }

    fn heard(&mut self, asker: Asker, record: &Record) {
        let consumer = &mut self.consumers[asker.thread];
        match answer(record) {
            Some(Return::CommittedOffsets { offsets }) if consumer.process != Some(asker.process) => {
                *consumer = Consumer { process: Some(asker.process), next_offsets: offsets };
            }
            Some(Return::Polled { messages }) => {
                let ends = messages.into_iter().filter_map(|(key, messages)| Some((key, messages.last()?.0 + 1)));
                consumer.next_offsets.extend(ends);
            }
            _ => {}
        }
    }

    fn final_call(&self) -> Option<Body> {
        let from: BTreeMap<String, u64> = (0..self.next_key).map(|key| (key.to_string(), 0)).collect();
        Some(body("poll", json!({ "offsets": from })))
    }

    fn judge(&self, records: &[Record]) -> Verdict<String> {
        let unfit = records.iter().filter(|record| record.ending() == Ending::Ok && answer(record).is_none());
        let mut violations: Vec<String> =
            unfit.map(|record| format!("an answer that is none to what was asked: {record:?}")).collect();
        violations.extend(last_round(records).filter_map(unanswered));
        let nodes: BTreeSet<usize> = last_round(records).map(|record| record.node).collect();
        for node in nodes {
            let last = records.iter().filter_map(|record| record.final_round).max();
            let is_of_node = |record: &Record| {
                record.kind() == "send" || (record.node == node && record.final_round == last && last.is_some())
            };
            let its: KafkaHistory<String, u64> =
                history(records, |record| is_of_node(record).then(|| translate(record)).flatten());
            let unseen = unseen(&its);
            if !unseen.is_empty() {
                violations.push(format!("n{} does not show in the end (key, offset, message): {unseen:?}", node + 1));
            }
        }
        match in_words(check(&history(records, translate))) {
            Verdict::Violated(found) => violations.extend(found),
            Verdict::Undecided { reason } if violations.is_empty() => return Verdict::Undecided { reason },
            Verdict::Undecided { .. } | Verdict::Valid => {}
        }
        Verdict::of(violations)
    }
}

fn offsets(value: &Value) -> Option<BTreeMap<String, u64>> {
    value.as_object()?.iter().map(|(key, offset)| Some((key.clone(), offset.as_u64()?))).collect()
}

fn messages(value: &Value) -> Option<Vec<(u64, u64)>> {
    value.as_array()?.iter().map(|pair| Some((pair.get(0)?.as_u64()?, pair.get(1)?.as_u64()?))).collect()
}

fn call(record: &Record) -> Option<Call> {
    let member = |name| record.call.get(name);
    Some(match record.kind() {
        "send" => Call::Send { key: member("key")?.as_str()?.to_owned(), message: member("msg")?.as_u64()? },
        "poll" => Call::Poll { from: offsets(member("offsets")?)? },
        "commit_offsets" => Call::CommitOffsets { offsets: offsets(member("offsets")?)? },
        _ => {
            let keys = member("keys")?.as_array()?.iter();
            Call::ListCommittedOffsets { keys: keys.filter_map(Value::as_str).map(str::to_owned).collect() }
        }
    })
}

/// What was answered; `None` when nothing was, or not what the call asks for.
fn answer(record: &Record) -> Option<Return> {
    Some(match record.kind() {
        "send" => Return::Sent { offset: record.answered("offset")?.as_u64()? },
        "poll" => {
            let by_key = record.answered("msgs")?.as_object()?.iter();
            let by_key = by_key.map(|(key, pairs)| Some((key.clone(), messages(pairs)?)));
            Return::Polled { messages: by_key.collect::<Option<_>>()? }
        }
        "commit_offsets" => record.answered("type").map(|_| Return::Committed)?,
        _ => Return::CommittedOffsets { offsets: offsets(record.answered("offsets")?)? },
    })
}

fn translate(record: &Record) -> Option<(Call, Outcome<Return>)> {
    let call = call(record)?;
    match record.ending() {
        Ending::Ok => answer(record).map(|answer| (call, Outcome::Ok(answer))),
        Ending::Fail => Some((call, Outcome::Failed)),
        Ending::Info => Some((call, Outcome::Unknown)),
    }
}
