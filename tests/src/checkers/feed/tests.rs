//! Goal: each lie that a feed can tell is found by its name. Method: a log with records of several updates, failed guards
//! and two partitions; what a right feed tells of it, cut off anywhere and resumed; and every kind of single change.

use super::{FeedAnomalyKind as Kind, FeedConnection, FeedEvent, check};
use crate::checkers::log::Log;
use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::batch::GuardCondition;
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::testing::{at, delete, guard, put, records};

fn history() -> HistoryId {
    HistoryId::from_bits(7)
}

fn log() -> Log {
    let mut log = Log::new(history());
    let fails = put("x", "never").when(guard("x", GuardCondition::Version(Offset::new(99))));
    let two = put("a", "3").and(put("b", "3"));
    let first = vec![put("a", "0"), delete("a"), fails.clone(), two, put("c", "4"), put("c", "4")];
    log.push_batch(PartitionId::new(0), &at(records(first), 0));
    let second = vec![put("d", "0").and(put("d", "1")), fails, put("e", "2")];
    log.push_batch(PartitionId::new(1), &at(records(second), 0));
    log
}

fn changes(log: &Log, prefix: &[u8]) -> Vec<(Timestamp, Bytes, Option<Bytes>, bool)> {
    let mut changes = Vec::new();
    for partition in log.partitions() {
        for (offset, updates) in log.effective_updates(partition) {
            let updates: Vec<_> = updates.iter().filter(|update| update.key.starts_with(prefix)).collect();
            for (number, update) in updates.iter().enumerate() {
                let at = Timestamp { partition, offset };
                changes.push((at, update.key.clone(), update.value.clone(), number + 1 == updates.len()));
            }
        }
    }
    changes
}

/// What a right feed tells, from a position on; the partitions' parts are mixed at random.
fn right(log: &Log, reader: &str, from: &SessionToken, rng: &mut Rng) -> FeedConnection {
    let mut token = from.clone();
    let mut left: Vec<Vec<_>> = log
        .partitions()
        .map(|partition| {
            let behind = |at: Timestamp| at.partition == partition && Some(at.offset) > from.position(partition);
            changes(log, b"").into_iter().filter(|change| behind(change.0)).rev().collect()
        })
        .collect();
    let mut events = Vec::new();
    while left.iter().any(|left| !left.is_empty()) {
        let place = rng.below(left.len());
        // A record stays whole.
        while let Some((version, key, value, is_last)) = left[place].pop() {
            if is_last {
                token.see(version);
            }
            let id = is_last.then(|| token.clone());
            events.push(FeedEvent::Change { version, key, value, id });
            if is_last {
                break;
            }
        }
        if rng.below(4) == 0 {
            events.push(FeedEvent::Progress { id: token.clone() });
        }
    }
    FeedConnection { reader: reader.to_owned(), from: from.clone(), prefix: Bytes::new(), events }
}

fn last_id(connection: &FeedConnection) -> SessionToken {
    let ids = connection.events.iter().rev().filter_map(|event| match event {
        FeedEvent::Change { id, .. } => id.clone(),
        FeedEvent::Progress { id } => Some(id.clone()),
    });
    ids.chain([connection.from.clone()]).next().expect("there is the start")
}

fn kind(log: &Log, connection: FeedConnection) -> Option<Kind> {
    check(log, &[connection]).violations().first().map(|anomaly| anomaly.kind)
}

/// Goal: right feeds are valid wherever they are cut off and resumed.
#[test]
fn right_feeds_are_valid_however_often_they_are_cut_off() {
    let log = log();
    for seed in 0..300 {
        let mut rng = Rng::of_stream(seed, 9);
        let mut from = SessionToken::new(history());
        let mut connections = Vec::new();
        for _ in 0..4 {
            let mut connection = right(&log, "one", &from, &mut rng);
            connection.events.truncate(rng.below(connection.events.len() + 1));
            from = last_id(&connection);
            connections.push(connection);
        }
        check(&log, &connections).require("a right feed");
    }
}

#[test]
fn a_prefix_leaves_others_out_and_moves_the_last_event() {
    let log = log();
    let partition = PartitionId::new(0);
    let at = |offset| Timestamp { partition, offset: Offset::new(offset) };
    let put = |offset, value: Option<&'static str>| FeedEvent::Change {
        version: at(offset),
        key: Bytes::from_static(b"a"),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        id: Some(SessionToken::of(history(), at(offset))),
    };
    let events = vec![put(0, Some("0")), put(1, None), put(3, Some("3"))];
    let connection = FeedConnection {
        reader: String::new(),
        from: SessionToken::new(history()),
        prefix: Bytes::from_static(b"a"),
        events,
    };
    check(&log, &[connection]).require("a feed with a prefix");
}

#[test]
fn each_lie_is_found_by_its_name() {
    let log = log();
    let start = SessionToken::new(history());
    for seed in 0..300 {
        let mut rng = Rng::of_stream(seed, 10);
        let connection = right(&log, "one", &start, &mut rng);
        let is_change = |event: &FeedEvent| matches!(event, FeedEvent::Change { .. });
        let places: Vec<usize> =
            (0..connection.events.len()).filter(|&place| is_change(&connection.events[place])).collect();
        let place = places[rng.below(places.len())];
        let lied = |change: &dyn Fn(&mut Vec<FeedEvent>)| {
            let mut lied = connection.clone();
            change(&mut lied.events);
            kind(&log, lied)
        };
        let FeedEvent::Change { version, .. } = connection.events[place].clone() else { continue };
        let later = |event: &FeedEvent| matches!(event, FeedEvent::Change { version: other, .. } if other.partition == version.partition);
        // The last of a partition may be missing: the feed was cut off there. Unless an id says that it was told.
        if connection.events[place + 1..].iter().any(later) {
            let kind = lied(&|events| drop(events.remove(place)));
            assert!(matches!(kind, Some(Kind::Gap | Kind::IdAhead)), "seed {seed}: left out: {kind:?}");
        }
        let kind = lied(&|events| events.insert(place, events[place].clone()));
        assert!(matches!(kind, Some(Kind::Repeat)) || kind == Some(Kind::IdAhead), "seed {seed}: twice: {kind:?}");
        let kind = lied(&|events| change_value(&mut events[place]));
        assert_eq!(kind, Some(Kind::Invented), "seed {seed}");
        let kind = lied(&|events| change_id(&mut events[place], |_| None));
        assert!(kind == Some(Kind::IdBehind) || has_no_id(&connection.events[place]), "seed {seed}: {kind:?}");
        let far = |_| Some(SessionToken::of(history(), Timestamp { offset: Offset::new(90), ..version }));
        let kind = lied(&|events| change_id(&mut events[place], far));
        assert!(matches!(kind, Some(Kind::IdAhead | Kind::IdBehind)), "seed {seed}: {kind:?}");
        let kind = lied(&|events| change_id(&mut events[place], |_| Some(start.clone())));
        assert!(matches!(kind, Some(Kind::IdBehind | Kind::IdAhead)), "seed {seed}: {kind:?}");
    }
}

fn change_value(event: &mut FeedEvent) {
    if let FeedEvent::Change { value, .. } = event {
        *value = Some(Bytes::from_static(b"never"));
    }
}

fn change_id(event: &mut FeedEvent, change: impl Fn(Option<SessionToken>) -> Option<SessionToken>) {
    if let FeedEvent::Change { id, .. } = event {
        *id = change(id.take());
    }
}

fn has_no_id(event: &FeedEvent) -> bool {
    matches!(event, FeedEvent::Change { id: None, .. })
}

/// Goal: what the planted bugs do: a feed that resumes one record early or late, or tells what took no effect.
#[test]
fn resuming_one_early_or_late_is_found() {
    let log = log();
    let mut rng = Rng::of_stream(1, 11);
    let partition = PartitionId::new(0);
    let token = |offset| SessionToken::of(history(), Timestamp { partition, offset: Offset::new(offset) });
    let resumed = |from: u64, told_from: u64, rng: &mut Rng| {
        let told = right(&log, "one", &token(told_from), rng);
        let events = told
            .events
            .into_iter()
            .filter(|event| matches!(event, FeedEvent::Change { version, .. } if version.partition == partition));
        FeedConnection { from: token(from), events: events.collect(), ..told }
    };
    assert_eq!(kind(&log, resumed(1, 0, &mut rng)), Some(Kind::Repeat));
    assert_eq!(kind(&log, resumed(0, 1, &mut rng)), Some(Kind::Gap));
    let early = resumed(1, 0, &mut rng);
    let next = FeedConnection { from: last_id(&early), events: Vec::new(), ..early.clone() };
    assert_eq!(check(&log, &[early, next]).violations().len(), 1, "its reader resumed where it had come to");
    let ineffective = FeedEvent::Change {
        version: Timestamp { partition, offset: Offset::new(2) },
        key: Bytes::from_static(b"x"),
        value: Some(Bytes::from_static(b"never")),
        id: Some(token(2)),
    };
    let connection = FeedConnection { events: vec![ineffective], ..resumed(1, 1, &mut rng) };
    assert_eq!(kind(&log, connection), Some(Kind::Invented));
}

#[test]
fn a_reader_that_resumes_elsewhere_is_found() {
    let log = log();
    let mut rng = Rng::of_stream(1, 12);
    let first = right(&log, "one", &SessionToken::new(history()), &mut rng);
    let second = right(&log, "one", &SessionToken::new(history()), &mut rng);
    let other = FeedConnection { reader: "other".to_owned(), ..second.clone() };
    check(&log, &[first.clone(), other]).require("two readers");
    assert_eq!(check(&log, &[first, second]).violations()[0].kind, Kind::ResumedElsewhere);
}
