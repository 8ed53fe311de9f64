//! Goal: each judge of what clients were told finds a lie. Method: a small log, what is true of it, and one thing changed at
//! a time.

use super::Told;
use crate::sim::ledger::Ledgers;
use crate::sim::seen::{Appended, Consistency, Digest, Effect, Ends, Fetched, Page, Seen, Written};
use crate::sim::violation::Broken;
use bytes::Bytes;
use duramen_common::batch::{Guard, GuardCondition, RecordBatch, Update};
use duramen_common::protocol::BatchId;
use duramen_common::{HistoryId, Offset, PartitionId, RequestId, SessionToken, Timestamp};
use duramen_serving_node::testing::{delete, guard, put, record_set};

const PARTITION: PartitionId = PartitionId::new(0);
const BATCH: BatchId = BatchId { term: 1, index: 7 };

/// Ids 100 to 104 at offsets 0 to 4: `a` and `b`, `a` again, `b` gone, a failed guard, `c`.
fn batch() -> RecordBatch {
    let drafts = [
        put("a", "1").and(put("b", "1")),
        put("a", "2"),
        delete("b"),
        put("a", "3").when(guard("b", GuardCondition::Exists)),
        put("c", "4"),
    ];
    RecordBatch::build(&[record_set(100, drafts)], 0)
}

fn ledgers() -> Ledgers {
    let mut ledgers = Ledgers::default();
    ledgers.of(PARTITION).take(BATCH, batch().bytes()).unwrap();
    ledgers
}

fn id(number: u128) -> RequestId {
    RequestId::from_bits(number)
}

fn at(offset: u64) -> Timestamp {
    Timestamp { partition: PARTITION, offset: Offset::new(offset) }
}

fn ends(end: u64) -> Ends {
    Ends::from([(PARTITION, Offset::new(end))])
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// What the invariants say of this, and of the whole run after it.
fn judge(seen: Vec<Seen>) -> Result<(), Broken> {
    let (mut told, ledgers) = (Told::default(), ledgers());
    told.judge(seen, &ledgers)?;
    told.judge_rest(&ledgers)
}

#[track_caller]
fn is_true(seen: Seen) {
    judge(vec![seen]).unwrap();
}

#[track_caller]
fn is_a_lie(seen: Seen, invariant: u8, says: &str) {
    let broken = judge(vec![seen]).unwrap_err();
    assert!(broken.invariant == invariant && broken.what.contains(says), "{broken:?}");
}

fn first() -> Written {
    let updates = [("a", "1"), ("b", "1")];
    let update = |(key, value)| Update { key: bytes(key), value: Some(bytes(value)) };
    Written {
        client: 1,
        place: Some(at(0)),
        seen: Some(at(0)),
        id: Some(id(100)),
        guards: vec![Guard { key: bytes("a"), condition: GuardCondition::Absent }],
        updates: updates.map(update).to_vec(),
        effect: Effect::Effective,
        known: Ends::default(),
    }
}

#[test]
fn a_transaction_is_there_whole_and_its_guards_are_as_answered() {
    is_true(Seen::Write(first()));
    let mut torn = first();
    torn.updates[1].value = Some(bytes("2"));
    is_a_lie(Seen::Write(torn), 1, "the record there leaves");
    is_a_lie(Seen::Write(Written { id: Some(id(101)), ..first() }), 1, "the record with id");
    let version = GuardCondition::Version(Offset::new(9));
    let guards = vec![Guard { key: bytes("a"), condition: version }];
    is_a_lie(Seen::Write(Written { guards, ..first() }), 8, "does not hold");
    is_a_lie(Seen::Write(Written { effect: Effect::NoEffect, ..first() }), 8, "said to be NoEffect");
    is_a_lie(Seen::Write(Written { known: ends(1), ..first() }), 6, "was known before");
}

#[test]
fn a_failed_guard_failed() {
    let failed = |condition| Written {
        place: Some(at(3)),
        id: Some(id(103)),
        guards: vec![Guard { key: bytes("b"), condition }],
        effect: Effect::NoEffect,
        ..first()
    };
    is_true(Seen::Write(failed(GuardCondition::Exists)));
    is_true(Seen::Write(Written { place: None, ..failed(GuardCondition::Exists) }));
    is_a_lie(Seen::Write(failed(GuardCondition::Absent)), 8, "all guards hold");
    is_a_lie(Seen::Write(Written { place: None, ..failed(GuardCondition::Absent) }), 8, "all guards hold");
}

/// Goal: a repeat beyond the window is judged by its own place, once the ledger has it, not by the first one's.
#[test]
fn a_refusal_without_a_place_is_judged_once_all_that_its_client_saw_is_known() {
    let refused =
        |seen| Seen::Write(Written { place: None, seen: Some(at(seen)), effect: Effect::NoEffect, ..first() });
    is_a_lie(refused(4), 8, "said to be NoEffect");
    let mut told = Told::default();
    told.judge(vec![refused(5)], &ledgers()).unwrap();
    assert!(told.waits());
}

#[test]
fn an_append_is_whole_and_what_was_refused_is_nowhere() {
    is_true(Seen::OneAppend { ids: vec![id(101), id(102), id(103)] });
    is_true(Seen::OneAppend { ids: vec![id(7), id(8)] });
    is_a_lie(Seen::OneAppend { ids: vec![id(104), id(7)] }, 1, "torn");
    is_a_lie(Seen::OneAppend { ids: vec![id(102), id(101)] }, 1, "torn");
    is_true(Seen::Refused { ids: vec![id(7)] });
    is_a_lie(Seen::Refused { ids: vec![id(7), id(102)] }, 1, "refused by name");
}

fn page() -> Page {
    Page {
        client: 1,
        node: "serving-1".to_owned(),
        consistency: Consistency::Linearizable,
        token: Some(SessionToken::of(HistoryId::from_bits(7), at(4))),
        start: Bytes::new(),
        after: None,
        limit: 10,
        items: vec![(bytes("a"), at(1), bytes("2")), (bytes("c"), at(4), bytes("4"))],
        has_more: false,
        ends: ends(5),
        known: ends(5),
    }
}

#[test]
fn a_page_is_the_fold_at_its_position_and_not_older_than_its_token() {
    is_true(Seen::Page(page()));
    let (mut gap, mut short) = (page(), page());
    gap.items.remove(0);
    is_a_lie(Seen::Page(gap), 4, "not the fold");
    short.items.pop();
    is_a_lie(Seen::Page(short.clone()), 4, "not the fold");
    is_true(Seen::Page(Page { has_more: true, limit: 1, ..short.clone() }));
    is_a_lie(Seen::Page(Page { has_more: true, ..short }), 4, "not the fold");
    is_a_lie(Seen::Page(Page { after: Some(bytes("a")), ..page() }), 4, "not the fold");
    is_a_lie(Seen::Page(Page { ends: ends(4), ..page() }), 5, "covers");
    is_a_lie(Seen::Page(Page { ends: ends(4), token: None, ..page() }), 6, "was known before");
    let stale = Page { consistency: Consistency::Stale, ends: ends(4), ..page() };
    is_a_lie(Seen::Page(stale.clone()), 4, "not the fold");
    is_true(Seen::Page(Page { items: stale.items[..1].to_vec(), ..stale }));
}

#[test]
fn digests_at_one_applied_end_are_the_same() {
    let digest = |digest: &str, end| {
        let node = "serving-1".to_owned();
        Seen::Digest(Digest {
            node,
            partition: PARTITION,
            applied_end: Offset::new(end),
            digest: digest.to_owned(),
            token: Some(SessionToken::of(HistoryId::from_bits(7), at(3))),
        })
    };
    judge(vec![digest("x", 4), digest("y", 5), digest("x", 4)]).unwrap();
    let broken = judge(vec![digest("x", 4), digest("y", 4)]).unwrap_err();
    assert!(broken.invariant == 4 && broken.what.contains("two digests"), "{broken:?}");
    is_a_lie(digest("x", 3), 5, "covers its token");
}

#[test]
fn an_appended_record_stands_where_the_log_said() {
    let fingerprint = batch().records().nth(4).unwrap().1.fingerprint();
    let appended = |id, fingerprint, offset, known| {
        let records = vec![(id, fingerprint, Offset::new(offset))];
        Seen::Appended(Appended { client: 1, partition: PARTITION, records, known: ends(known) })
    };
    is_true(appended(id(104), fingerprint, 4, 4));
    is_a_lie(appended(id(103), fingerprint, 4, 4), 1, "another record");
    is_a_lie(appended(id(104), fingerprint + 1, 4, 4), 1, "another record");
    is_a_lie(appended(id(104), fingerprint, 3, 0), 1, "another record");
    is_a_lie(appended(id(104), fingerprint, 4, 5), 6, "was known before");
    is_a_lie(appended(id(104), fingerprint, 9, 0), 1, "does not know");
}

#[test]
fn a_fetch_gives_the_ledgers_bytes() {
    let fetched = |id, bytes: &Bytes, from, next| {
        let (batches, from, next_offset) = (vec![(id, bytes.clone())], Offset::new(from), Offset::new(next));
        Seen::Fetched(Fetched { client: 1, partition: PARTITION, from, batches, next_offset })
    };
    let right = batch();
    is_true(fetched(BATCH, right.bytes(), 2, 5));
    is_a_lie(fetched(BatchId { term: 2, ..BATCH }, right.bytes(), 0, 5), 2, "other bytes");
    let other = RecordBatch::build(&[record_set(100, [put("a", "1")])], 0);
    is_a_lie(fetched(BATCH, other.bytes(), 0, 1), 2, "other bytes");
    is_a_lie(fetched(BATCH, right.bytes(), 0, 6), 2, "go on elsewhere");
    is_a_lie(fetched(BATCH, right.bytes(), 5, 5), 2, "do not follow");
}
