//! The fold: what the log's events come to, for the workloads without keys and versions.
//!
//! * In: batches, in order, from 0. Out: messages by key, committed offsets, sets, sums; and how far it is.
//! * Invariant: at every position it is a function of the log's prefix: all nodes agree on it.
//! * It is all in memory, as Maelstrom's tests are short.
//! * Deliberately absent: how batches come (`folding_log`), what clients are told (`workloads`).

use crate::events::Event;
use duramen_common::Offset;
use duramen_common::batch::RecordBatch;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Which workload's events stand in the log, of those that read without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `broadcast`
    Broadcast,
    /// `g-set`
    Set,
    /// `g-counter`, `pn-counter`
    Counter,
}

/// Values without repeats, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Values {
    values: Vec<Value>,
    known: BTreeSet<String>,
}

impl Values {
    fn insert(&mut self, value: Value) {
        if self.known.insert(value.to_string()) {
            self.values.push(value);
        }
    }

    /// All.
    pub fn all(&self) -> &[Value] {
        &self.values
    }
}

/// The state at one position.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    end: Offset,
    messages: BTreeMap<String, Vec<(Offset, Value)>>,
    committed: BTreeMap<String, u64>,
    broadcast: Values,
    set: Values,
    sum: i128,
    last: Option<Kind>,
}

impl Fold {
    /// Takes in a batch; what it has already is passed over.
    pub fn apply(&mut self, batch: &RecordBatch) {
        for (offset, record) in batch.records() {
            if offset < self.end {
                continue;
            }
            if let Some((key, payload)) = record.event()
                && let Some(event) = Event::parse(key, payload)
            {
                self.take(offset, event);
            }
        }
        self.end = self.end.max(batch.header().end());
    }

    fn take(&mut self, offset: Offset, event: Event) {
        match event {
            Event::Sent { key, msg } => self.messages.entry(key).or_default().push((offset, msg)),
            Event::Committed(offsets) => {
                for (key, offset) in offsets {
                    let committed = self.committed.entry(key).or_default();
                    *committed = offset.max(*committed);
                }
            }
            Event::Broadcast(message) => {
                self.broadcast.insert(message);
                self.last = Some(Kind::Broadcast);
            }
            Event::Element(element) => {
                self.set.insert(element);
                self.last = Some(Kind::Set);
            }
            Event::Delta(delta) => {
                self.sum += i128::from(delta);
                self.last = Some(Kind::Counter);
            }
            Event::Block => {}
        }
    }

    /// Messages of a key from an offset on, at most `count`.
    pub fn messages(&self, key: &str, from: Offset, count: usize) -> &[(Offset, Value)] {
        let messages = self.messages.get(key).map(Vec::as_slice).unwrap_or_default();
        let messages = messages.get(messages.partition_point(|(offset, _)| *offset < from)..).unwrap_or_default();
        messages.get(..count).unwrap_or(messages)
    }

    /// The greatest offset committed for a key.
    pub fn committed(&self, key: &str) -> Option<u64> {
        self.committed.get(key).copied()
    }

    /// Messages of `broadcast`.
    pub fn broadcast(&self) -> &[Value] {
        self.broadcast.all()
    }

    /// Elements of `g-set`.
    pub fn set(&self) -> &[Value] {
        self.set.all()
    }

    /// The counter.
    pub fn sum(&self) -> i128 {
        self.sum
    }

    /// Of which workload the last such event was.
    pub fn last(&self) -> Option<Kind> {
        self.last
    }
}

/// The fold as it goes on, and those who wait for it.
pub struct SharedFold {
    fold: Mutex<Fold>,
    end: watch::Sender<Offset>,
}

impl SharedFold {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> SharedFold {
        SharedFold { fold: Mutex::default(), end: watch::Sender::new(Offset::ZERO) }
    }

    /// Takes in batches.
    pub fn apply<'b>(&self, batches: impl IntoIterator<Item = &'b RecordBatch>) {
        let mut fold = self.fold.lock();
        batches.into_iter().for_each(|batch| fold.apply(batch));
        let end = fold.end;
        drop(fold);
        self.end.send_if_modified(|before| std::mem::replace(before, end) != end);
    }

    /// Starts over: what it was made of is of another log.
    pub fn wipe(&self) {
        *self.fold.lock() = Fold::default();
        self.end.send_replace(Offset::ZERO);
    }

    /// Looks at it as it is.
    pub fn with<T>(&self, look: impl FnOnce(&Fold) -> T) -> T {
        look(&self.fold.lock())
    }

    /// Waits for the first event of a workload that reads without a key, and says of which the last one was.
    pub async fn first_kind(&self) -> Kind {
        let mut end = self.end.subscribe();
        loop {
            if let Some(kind) = self.with(Fold::last) {
                return kind;
            }
            // It outlives its sender only while nothing will come any more.
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until it covers an end; answers whether it does.
    pub async fn reach(&self, wanted: Offset, deadline: Instant) -> bool {
        let mut end = self.end.subscribe();
        timeout_at(deadline, end.wait_for(|&end| end >= wanted)).await.is_ok_and(|reached| reached.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::RequestId;
    use duramen_common::batch::RecordSetBuilder;
    use serde_json::json;

    fn batch(first_offset: u64, events: &[Event]) -> RecordBatch {
        let mut set = RecordSetBuilder::default();
        for (number, event) in events.iter().enumerate() {
            set.push(RequestId::from_bits(number as u128), &event.record().unwrap()).unwrap();
        }
        RecordBatch::build(&[set.finish()], 0).at(Offset::new(first_offset))
    }

    fn sent(key: &str, msg: u64) -> Event {
        Event::Sent { key: key.to_owned(), msg: json!(msg) }
    }

    #[test]
    fn messages_are_read_from_an_offset_on_in_order_and_whole() {
        let mut fold = Fold::default();
        fold.apply(&batch(0, &[sent("a", 1), sent("b", 2), Event::Block, sent("a", 3)]));
        fold.apply(&batch(4, &[sent("a", 4)]));
        let offsets = |key: &str, from: u64, count: usize| -> Vec<u64> {
            fold.messages(key, Offset::new(from), count).iter().map(|(offset, _)| offset.get()).collect()
        };
        assert_eq!(offsets("a", 0, 10), [0, 3, 4]);
        assert_eq!(offsets("a", 1, 10), [3, 4]);
        assert_eq!(offsets("a", 1, 1), [3]);
        assert_eq!(offsets("a", 5, 10), [0u64; 0]);
        assert_eq!(offsets("none", 0, 10), [0u64; 0]);
    }

    /// Goal: a batch that comes again, whole or in part, counts once. Method: a fetch from the middle of a batch brings all
    /// of it; a serving node that starts over brings everything.
    #[test]
    fn what_comes_again_counts_once() {
        let mut fold = Fold::default();
        let events = [Event::Delta(5), Event::Element(json!(1)), sent("a", 1)];
        for _ in 0..2 {
            fold.apply(&batch(0, &events[..1]));
            fold.apply(&batch(0, &events));
        }
        assert_eq!((fold.sum(), fold.set(), fold.messages("a", Offset::ZERO, 10).len()), (5, &[json!(1)][..], 1));
    }

    #[test]
    fn sets_have_no_repeats_and_offsets_only_grow() {
        let mut fold = Fold::default();
        let committed = |offset| Event::Committed(BTreeMap::from([("k".to_owned(), offset)]));
        let again = Event::Element(json!([1]));
        fold.apply(&batch(0, &[again.clone(), again, Event::Element(json!("1")), committed(5), committed(3)]));
        assert_eq!(fold.set(), [json!([1]), json!("1")]);
        assert_eq!((fold.committed("k"), fold.committed("other")), (Some(5), None));
        assert_eq!(fold.last(), Some(Kind::Set));
        fold.apply(&batch(5, &[Event::Broadcast(json!(0)), Event::Delta(-1)]));
        assert_eq!((fold.last(), fold.sum()), (Some(Kind::Counter), -1));
    }
}
