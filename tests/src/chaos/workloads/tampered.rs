//! Good histories of every workload, and what somebody made of them.

use super::compare_and_set::{CompareAndSet, Incremented};
use super::feed::Follow;
use super::raw_log::{self, RawLog};
use super::record::Record;
use super::register::Register;
use super::session::{self, Session};
use super::{Field, Kind, Workload};
use crate::chaos::tests::slice;
use crate::checkers::feed::{FeedConnection, FeedEvent};
use crate::checkers::history::Outcome;
use crate::checkers::linearizability::{RegisterCall, RegisterReturn};
use crate::checkers::sessions::Live;
use bytes::Bytes;
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::testing::{event, put};

/// What somebody made of it, whether it may be, and what the judge said.
pub type Case = (&'static str, bool, Vec<String>);

/// A workload's cases.
pub fn cases(kind: Kind) -> Vec<Case> {
    match kind {
        Kind::Register => registers(),
        Kind::CompareAndSet => swaps(),
        Kind::Session => sessions(),
        Kind::Feed => feeds(),
        Kind::RawLog => raw_logs(),
    }
}

fn field() -> Field {
    Field::new((Vec::new(), Vec::new()), 1, 1, HistoryId::from_bits(1), vec![0])
}

/// Notes operations that come one after the other.
fn note<C: Clone, R: Clone>(record: &Record<C, R>, operations: &[(C, Outcome<R>)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (call, outcome) in operations {
        let _ = runtime.block_on(record.note(0, call.clone(), async { outcome.clone() }));
    }
}

type Told = ((String, RegisterCall<String>), Outcome<RegisterReturn<String>>);

fn read(value: Option<&str>) -> Told {
    (("k".to_owned(), RegisterCall::Read), Outcome::Ok(RegisterReturn::Value(value.map(str::to_owned))))
}

fn wrote(value: &str, outcome: Outcome<RegisterReturn<String>>) -> Told {
    (("k".to_owned(), RegisterCall::Write(Some(value.to_owned()))), outcome)
}

fn swapped(from: &str, to: &str, told: RegisterReturn<String>) -> Told {
    let call = RegisterCall::Cas { from: Some(from.to_owned()), to: Some(to.to_owned()) };
    (("k".to_owned(), call), Outcome::Ok(told))
}

fn registers() -> Vec<Case> {
    let written = || Outcome::Ok(RegisterReturn::Written);
    let judged = |name, is_good, operations: &[Told]| {
        let register = Register::new(&field());
        note(&register.record, operations);
        (name, is_good, register.check(&field(), &slice(Vec::new())))
    };
    let objected = Register::new(&field());
    objected.record.object("an answer that may not be".to_owned());
    vec![
        judged("as it was", true, &[read(None), wrote("1", written()), read(Some("1")), wrote("2", written())]),
        judged("an unknown write, seen", true, &[wrote("1", Outcome::Unknown), read(None), read(Some("1"))]),
        judged("an unknown write, taken back", false, &[wrote("1", Outcome::Unknown), read(Some("1")), read(None)]),
        judged("a stale read", false, &[wrote("1", written()), wrote("2", written()), read(Some("1"))]),
        judged("a lost write", false, &[wrote("1", written()), read(None)]),
        judged("a refused write, seen", false, &[wrote("1", Outcome::Failed), read(Some("1"))]),
        ("an answer that may not be", false, objected.check(&field(), &slice(Vec::new()))),
    ]
}

fn swaps() -> Vec<Case> {
    let written = || Outcome::Ok(RegisterReturn::Written);
    let check = |own: &CompareAndSet, shown: Option<&str>| {
        let records = shown.map(|value| put("count/1/0", value).into()).into_iter().collect();
        own.check(&field(), &slice(records))
    };
    let judged = |name, is_good, operations: &[Told]| {
        let own = CompareAndSet::new(&field());
        note(&own.record, operations);
        (name, is_good, check(&own, None))
    };
    let counted = |name, is_good, outcomes: &[Outcome<Incremented>], shown| {
        let own = CompareAndSet::new(&field());
        let operations: Vec<_> = outcomes.iter().map(|outcome| ("count/1/0".to_owned(), outcome.clone())).collect();
        note(&own.increments, &operations);
        (name, is_good, check(&own, shown))
    };
    let one = || Outcome::Ok(Incremented::Counted);
    let (swap, miss) = (RegisterReturn::Swapped, RegisterReturn::Mismatch);
    vec![
        judged("as it was", true, &[wrote("1", written()), swapped("1", "2", swap.clone()), read(Some("2"))]),
        judged("a mismatch that was none", false, &[wrote("1", written()), swapped("1", "2", miss)]),
        judged("swapped in vain", false, &[wrote("1", written()), swapped("0", "2", swap)]),
        counted("exact", true, &[one(), one(), Outcome::Ok(Incremented::Overtaken)], Some("2")),
        counted("perhaps one more", true, &[one(), Outcome::Unknown], Some("2")),
        counted("perhaps not", true, &[one(), Outcome::Unknown], Some("1")),
        counted("an increment lost", false, &[one(), one()], Some("1")),
        counted("an increment too many", false, &[one(), Outcome::Failed], Some("2")),
        counted("all lost", false, &[one()], None),
        counted("no number", false, &[one()], Some("x")),
    ]
}

fn sessions() -> Vec<Case> {
    use session::{Call, Return};
    let token = |offset: u64| {
        let timestamp = Timestamp { partition: PartitionId::new(0), offset: Offset::new(offset) };
        SessionToken::of(HistoryId::from_bits(1), timestamp)
    };
    let read = |asked: Option<u64>, served: u64, found: Option<(u64, &'static str)>| {
        let live = |(version, value): (u64, &'static str)| Live {
            version: Offset::new(version),
            value: Bytes::from_static(value.as_bytes()),
        };
        let told = Return::Read { served: Some(Offset::new(served)), found: found.map(live) };
        (Call::Read { key: "k".to_owned(), token: asked.map(token) }, Outcome::Ok(told))
    };
    let wrote = |value: &str, offset| {
        let timestamp = Timestamp { partition: PartitionId::new(0), offset: Offset::new(offset) };
        let call = Call::Write { key: "k".to_owned(), value: Some(value.to_owned()) };
        (call, Outcome::Ok(Return::Wrote(timestamp)))
    };
    let judged = |name, is_good, operations: &[(Call, Outcome<Return>)]| {
        let own = Session::new(&field());
        note(&own.record, operations);
        let log = slice(vec![put("k", "a").into(), put("other", "x").into(), put("k", "b").into()]);
        (name, is_good, own.check(&field(), &log))
    };
    vec![
        judged("as it was", true, &[wrote("a", 0), read(Some(0), 1, Some((0, "a"))), read(Some(1), 2, Some((2, "b")))]),
        judged("before its token", false, &[read(Some(2), 1, Some((0, "a")))]),
        judged("older than its position", false, &[read(None, 2, Some((0, "a")))]),
        judged("newer than its position", false, &[read(None, 1, Some((2, "b")))]),
        judged("another value", false, &[read(None, 2, Some((2, "c")))]),
        judged("nothing there", false, &[read(None, 2, None)]),
        judged("a position that no log has", false, &[read(None, 3, Some((2, "b")))]),
        judged("back behind what was read", false, &[read(None, 2, Some((2, "b"))), read(None, 1, Some((0, "a")))]),
        judged("its own write not seen", false, &[wrote("b", 2), read(None, 1, Some((0, "a")))]),
        judged("a write that is not there", false, &[wrote("b", 1)]),
    ]
}

fn feeds() -> Vec<Case> {
    let key = |number: u64| format!("feed/1/{number}");
    let at = |offset: u64| Timestamp { partition: PartitionId::new(0), offset: Offset::new(offset) };
    let change = |number: u64| FeedEvent::Change {
        version: at(number),
        key: Bytes::from(key(number)),
        value: Some(Bytes::from_static(b"v")),
        id: Some(SessionToken::of(HistoryId::from_bits(1), at(number))),
    };
    let judged = |name, is_good, connections: &[&[FeedEvent]]| {
        let own = Follow::default();
        let mut from = SessionToken::new(HistoryId::from_bits(1));
        for events in connections {
            let (reader, prefix) = ("follower 1".to_owned(), Bytes::from_static(b"feed/1/"));
            let connection = FeedConnection { reader, from: from.clone(), prefix, events: events.to_vec() };
            own.connections.lock().unwrap().push(connection);
            if let Some(FeedEvent::Change { id: Some(id), .. }) = events.last() {
                from = id.clone();
            }
        }
        let log = (0..3).map(|number| put(&key(number), "v").into()).collect();
        (name, is_good, own.check(&field(), &slice(log)))
    };
    let deleted = FeedEvent::Change {
        version: at(1),
        key: Bytes::from(key(1)),
        value: None,
        id: Some(SessionToken::of(HistoryId::from_bits(1), at(1))),
    };
    let objected = Follow::default();
    objected.record.object("not caught up".to_owned());
    vec![
        judged("as it was", true, &[&[change(0), change(1), change(2)]]),
        judged("over two connections", true, &[&[change(0)], &[change(1), change(2)]]),
        judged("a gap", false, &[&[change(0), change(2)]]),
        judged("a gap between connections", false, &[&[change(0)], &[change(2)]]),
        judged("a repeat", false, &[&[change(0), change(1), change(1)]]),
        judged("a repeat in another connection", false, &[&[change(0)], &[change(0), change(1)]]),
        judged("another order", false, &[&[change(1), change(0), change(2)]]),
        judged("another value", false, &[&[change(0), deleted]]),
        ("not caught up", false, objected.check(&field(), &slice(Vec::new()))),
    ]
}

fn raw_logs() -> Vec<Case> {
    use raw_log::{Call, Return};
    let append = |texts: &[&str], outcome: Outcome<Return>| {
        let payloads = texts.iter().map(|text| format!("raw/1/{text}")).collect();
        (Call::Append { partition: 0, payloads }, outcome)
    };
    let at = |offset| Outcome::Ok(Return::At(offset));
    let judged = |name, is_good, operations: &[(Call, Outcome<Return>)], events: &[&str]| {
        let own = RawLog::new(&field());
        note(&own.record, operations);
        let records = events.iter().map(|text| event(&format!("raw/1/{text}"))).collect();
        (name, is_good, own.check(&field(), &slice(records)))
    };
    let fetch =
        |from, hashes: &[u64]| (Call::Fetch { partition: 0, from }, Outcome::Ok(Return::Lines(hashes.to_vec())));
    let tail = |known_end, end| (Call::Tail { partition: 0, known_end }, Outcome::Ok(Return::End(end)));
    vec![
        judged("as it was", true, &[append(&["a"], at(0)), append(&["b", "c"], at(1))], &["a", "b", "c"]),
        judged("lost", false, &[append(&["a"], at(0)), append(&["b"], at(1))], &["a"]),
        judged("elsewhere", false, &[append(&["a"], at(0)), append(&["b"], at(1))], &["b", "a"]),
        judged("twice", false, &[append(&["a"], at(0))], &["a", "a"]),
        judged("unknown and there", true, &[append(&["a"], Outcome::Unknown)], &["a"]),
        judged("unknown and not there", true, &[append(&["a"], Outcome::Unknown)], &[]),
        judged("unknown and twice", false, &[append(&["a"], Outcome::Unknown)], &["a", "a"]),
        judged("unknown and torn", false, &[append(&["a", "b"], Outcome::Unknown)], &["b"]),
        judged("refused and there", false, &[append(&["a"], Outcome::Failed)], &["a"]),
        judged("from nobody", false, &[append(&["a"], at(0))], &["a", "z"]),
        judged("fetched", true, &[append(&["a", "b"], at(0)), fetch(0, &[0, 1])], &["a", "b"]),
        judged("fetched something else", false, &[append(&["a", "b"], at(0)), fetch(0, &[0, 7])], &["a", "b"]),
        judged("fetched with a gap", false, &[append(&["a", "b"], at(0)), fetch(0, &[1])], &["a", "b"]),
        judged("a tail behind", false, &[append(&["a", "b"], at(0)), tail(2, 1)], &["a", "b"]),
        judged("a tail", true, &[append(&["a", "b"], at(0)), tail(2, 2)], &["a", "b"]),
    ]
}
