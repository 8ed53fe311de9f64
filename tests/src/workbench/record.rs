//! Records: what each client asked of which node, and what it heard, in one order of events.
//!
//! * The same order as `checkers::History`: an invocation takes its number before the request leaves, a completion after
//!   the answer came.
//! * Invariant: what was answered with a definite code did not happen; no answer, or one with code 0 or 13, says nothing,
//!   unless what was asked for only reads.
//! * Source: Maelstrom's protocol, "Errors"; Jepsen's `ok`, `fail` and `info`.

use super::network::NodeIndex;
use crate::checkers::{History, Moment, Outcome};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use tokio::time::Instant;

/// A message's body.
pub type Body = Map<String, Value>;

/// Error codes that leave the outcome open: timeout and crash.
const INDEFINITE: [i64; 2] = [0, 13];

/// What a client heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// An answer.
    Answer(Body),
    /// An error.
    Error {
        /// Its code in Maelstrom's protocol.
        code: i64,
        /// Its text.
        text: String,
    },
    /// Nothing, for as long as it waited.
    Nothing,
}

/// How an operation ended, as Jepsen counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It happened.
    Ok,
    /// It did not happen.
    Fail,
    /// Nobody knows.
    Info,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// A client that does one thing after the other; after an unknown outcome it is another one.
    pub process: u64,
    /// Which node was asked.
    pub node: NodeIndex,
    /// What was asked, without the message's number.
    pub call: Body,
    /// Whether it changes nothing.
    pub is_read: bool,
    /// The round of reads after the recovery that it belongs to; `None`: it was asked while there were faults.
    pub final_round: Option<u32>,
    /// When it began.
    pub invoked: Moment,
    /// When the client stopped waiting.
    pub completed: Option<Moment>,
    /// What it heard.
    pub reply: Reply,
}

impl Record {
    /// The type of what was asked.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.call.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// How it ended.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match &self.reply {
            Reply::Answer(_) => Ending::Ok,
            Reply::Error { code, .. } if !INDEFINITE.contains(code) => Ending::Fail,
            Reply::Error { .. } | Reply::Nothing if self.is_read => Ending::Fail,
            Reply::Error { .. } | Reply::Nothing => Ending::Info,
        }
    }

    /// The code that it was answered with, if it was an error.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self.reply {
            Reply::Error { code, .. } => Some(code),
            Reply::Answer(_) | Reply::Nothing => None,
        }
    }

    /// A member of the answer.
    #[must_use]
    pub fn answered(&self, member: &str) -> Option<&Value> {
        match &self.reply {
            Reply::Answer(body) => body.get(member),
            Reply::Error { .. } | Reply::Nothing => None,
        }
    }

    /// The outcome of what is not refined further: what `result` makes of the answer.
    pub fn outcome<R>(&self, result: impl FnOnce(&Body) -> R) -> Outcome<R> {
        match (&self.reply, self.ending()) {
            (Reply::Answer(body), _) => Outcome::Ok(result(body)),
            (_, Ending::Fail) => Outcome::Failed,
            (_, Ending::Ok | Ending::Info) => Outcome::Unknown,
        }
    }

    /// How long it took. Unit: microseconds.
    #[must_use]
    pub fn took_us(&self) -> Option<u64> {
        self.completed.map(|completed| completed.at_us.saturating_sub(self.invoked.at_us))
    }

    fn json(&self) -> Value {
        let (ending, reply) = (
            format!("{:?}", self.ending()).to_lowercase(),
            match &self.reply {
                Reply::Answer(body) => json!(body),
                Reply::Error { code, text } => json!({ "type": "error", "code": code, "text": text }),
                Reply::Nothing => Value::Null,
            },
        );
        json!({
            "process": self.process,
            "node": format!("n{}", self.node + 1),
            "call": self.call,
            "ending": ending,
            "reply": reply,
            "final_round": self.final_round,
            "events": [self.invoked.index, self.completed.map(|moment| moment.index)],
            "at_us": [self.invoked.at_us, self.completed.map(|moment| moment.at_us)],
        })
    }
}

/// All operations of a run.
pub struct Records {
    began: Instant,
    next_index: u64,
    records: Vec<Record>,
}

impl Records {
    /// None yet; times count from now.
    #[must_use]
    pub fn new(began: Instant) -> Records {
        Records { began, next_index: 0, records: Vec::new() }
    }

    fn moment(&mut self) -> Moment {
        let index = self.next_index;
        self.next_index += 1;
        Moment { index, at_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX) }
    }

    /// Notes an invocation; answers the operation's number.
    pub fn invoke(&mut self, process: u64, node: NodeIndex, call: Body, is_read: bool, round: Option<u32>) -> usize {
        let invoked = self.moment();
        let reply = Reply::Nothing;
        self.records.push(Record { process, node, call, is_read, final_round: round, invoked, completed: None, reply });
        self.records.len() - 1
    }

    /// Notes what was heard; answers the whole operation.
    pub fn complete(&mut self, operation: usize, reply: Reply) -> Record {
        let completed = self.moment();
        let record = &mut self.records[operation];
        record.completed = Some(completed);
        record.reply = reply;
        record.clone()
    }

    /// All operations, in the order of their invocations.
    #[must_use]
    pub fn all(&self) -> &[Record] {
        &self.records
    }
}

/// Operations as a checker's history; `translate` leaves out what does not concern it.
pub fn history<C, R>(records: &[Record], translate: impl Fn(&Record) -> Option<(C, Outcome<R>)>) -> History<C, R> {
    let mut calls = BTreeMap::new();
    let mut outcomes = BTreeMap::new();
    for (number, record) in records.iter().enumerate() {
        if let Some((call, outcome)) = translate(record) {
            calls.insert(record.invoked.index, (number, call));
            if let Some(completed) = record.completed {
                outcomes.insert(completed.index, (number, outcome));
            }
        }
    }
    let mut history = History::new();
    let mut ids = BTreeMap::new();
    while let Some(index) = calls.keys().next().copied().into_iter().chain(outcomes.keys().next().copied()).min() {
        if let Some((number, call)) = calls.remove(&index) {
            let record = &records[number];
            ids.insert(number, history.invoke(record.process, record.invoked.at_us, call));
        } else if let Some((number, outcome)) = outcomes.remove(&index) {
            let at_us = records[number].completed.map_or(0, |moment| moment.at_us);
            history.complete(ids[&number], at_us, outcome);
        }
    }
    history
}

/// Writes operations as lines of JSON.
pub fn write_lines(records: &[Record], mut out: impl Write) -> io::Result<()> {
    for record in records {
        writeln!(out, "{}", record.json())?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str) -> Body {
        Body::from_iter([("type".to_owned(), json!(kind))])
    }

    /// Goal: nothing unknown counts as failed, and nothing failed as unknown. Method: every kind of reply, to what changes
    /// something and to what does not.
    #[test]
    fn endings_are_those_of_the_codes() {
        let error = |code| Reply::Error { code, text: String::new() };
        for (reply, write, read) in [
            (Reply::Answer(Body::new()), Ending::Ok, Ending::Ok),
            (error(11), Ending::Fail, Ending::Fail),
            (error(22), Ending::Fail, Ending::Fail),
            (error(0), Ending::Info, Ending::Fail),
            (error(13), Ending::Info, Ending::Fail),
            (Reply::Nothing, Ending::Info, Ending::Fail),
        ] {
            for (is_read, ending) in [(false, write), (true, read)] {
                let mut records = Records::new(Instant::now());
                let operation = records.invoke(0, 0, body("x"), is_read, None);
                assert_eq!(records.complete(operation, reply.clone()).ending(), ending, "{reply:?}, read: {is_read}");
            }
        }
    }

    #[test]
    fn a_history_has_the_order_of_the_events() {
        let mut records = Records::new(Instant::now());
        let first = records.invoke(0, 0, body("a"), false, None);
        let second = records.invoke(1, 0, body("b"), false, None);
        let _ = records.complete(second, Reply::Answer(Body::new()));
        let third = records.invoke(1, 0, body("c"), false, None);
        let _ = records.complete(first, Reply::Answer(Body::new()));
        let _ = records.complete(third, Reply::Nothing);
        let history = history(records.all(), |record| Some((record.kind().to_owned(), record.outcome(|_| ()))));
        let [a, b, c] = history.operations() else { panic!("three operations") };
        assert_eq!((a.call.as_str(), b.call.as_str(), c.call.as_str()), ("a", "b", "c"));
        assert!(b.precedes(c) && !a.precedes(c) && !b.precedes(a));
        assert_eq!(c.outcome, Outcome::Unknown);
    }
}
