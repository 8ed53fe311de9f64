//! Goal: each lie that a session can be told is found by its name. Method: a small log, true steps, and one change each;
//! then random true sessions over a random log, and every single change of one of their answers.

use super::{Live, Session, SessionAnomalyKind as Kind, SessionStep, check};
use crate::checkers::log::Log;
use crate::harness::Rng;
use bytes::Bytes;
use duramen_common::batch::{GuardCondition, Record, Update};
use duramen_common::{HistoryId, Offset, PartitionId, SessionToken, Timestamp};
use duramen_serving_node::testing::{Draft, Model, at, delete, guard, put, records};

const P: PartitionId = PartitionId::new(0);

fn history() -> HistoryId {
    HistoryId::from_bits(7)
}

fn timestamp(offset: u64) -> Timestamp {
    Timestamp { partition: P, offset: Offset::new(offset) }
}

fn token(offset: u64) -> Option<SessionToken> {
    Some(SessionToken::of(history(), timestamp(offset)))
}

fn log(drafts: Vec<Draft>) -> Log {
    let mut log = Log::new(history());
    log.push_batch(P, &at(records(drafts), 0));
    log
}

/// a=1, then a=2 if a is still as at 0, then the same once more (which fails), then a is gone.
fn small() -> Log {
    let guarded = |value| put("a", value).when(guard("a", GuardCondition::Version(Offset::ZERO)));
    log(vec![put("a", "1"), guarded("2"), guarded("3"), delete("a")])
}

fn read(asked: Option<SessionToken>, served: Option<u64>, found: Option<(u64, &'static str)>) -> SessionStep {
    let found = found
        .map(|(version, value)| Live { version: Offset::new(version), value: Bytes::from_static(value.as_bytes()) });
    SessionStep::Read { key: Bytes::from_static(b"a"), partition: P, asked, served: served.map(Offset::new), found }
}

fn wrote(offset: u64, value: Option<&'static str>, took_effect: bool) -> SessionStep {
    let value = value.map(|value| Bytes::from_static(value.as_bytes()));
    let updates = vec![Update { key: Bytes::from_static(b"a"), value }];
    SessionStep::Wrote { timestamp: timestamp(offset), updates, took_effect }
}

fn kinds(steps: Vec<SessionStep>) -> Vec<Kind> {
    let session = Session { name: "one".to_owned(), steps };
    check(&small(), &[session]).violations().iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn true_sessions_are_valid() {
    let reads = [
        read(None, None, None),
        read(None, Some(0), Some((0, "1"))),
        read(token(0), Some(1), Some((1, "2"))),
        read(token(1), Some(2), Some((1, "2"))),
        read(token(2), Some(3), None),
    ];
    assert_eq!(kinds(reads.to_vec()), []);
    let writes =
        [wrote(0, Some("1"), true), wrote(1, Some("2"), true), wrote(2, Some("3"), false), wrote(3, None, true)];
    assert_eq!(kinds([&writes[..1], &reads[1..3], &writes[2..], &reads[4..]].concat()), []);
}

#[test]
fn each_lie_is_found_by_its_name() {
    assert_eq!(kinds(vec![read(token(2), Some(1), Some((1, "2")))]), [Kind::TokenIgnored]);
    assert_eq!(kinds(vec![read(token(0), None, None)]), [Kind::TokenIgnored]);
    assert_eq!(kinds(vec![wrote(1, Some("2"), true), read(None, Some(0), Some((0, "1")))]), [Kind::OwnWriteUnseen]);
    assert_eq!(kinds(vec![read(None, Some(1), Some((1, "2"))), read(None, Some(0), Some((0, "1")))]), [Kind::WentBack]);
    assert_eq!(kinds(vec![read(None, Some(4), None)]), [Kind::BeyondTheLog]);
    assert_eq!(kinds(vec![read(None, Some(1), Some((0, "1")))]), [Kind::WrongValue], "a stale value");
    assert_eq!(kinds(vec![read(None, Some(2), Some((2, "3")))]), [Kind::WrongValue], "a failed guard's value");
    assert_eq!(kinds(vec![read(None, Some(3), Some((1, "2")))]), [Kind::WrongValue], "a deleted value");
    assert_eq!(kinds(vec![read(None, Some(1), None)]), [Kind::WrongValue], "404");
    assert_eq!(kinds(vec![wrote(0, Some("9"), true)]), [Kind::LostWrite]);
    assert_eq!(kinds(vec![wrote(4, Some("9"), true)]), [Kind::LostWrite]);
    assert_eq!(kinds(vec![wrote(2, Some("3"), true)]), [Kind::WrongOutcome]);
    assert_eq!(kinds(vec![wrote(1, Some("2"), false)]), [Kind::WrongOutcome]);
}

/// Random records over three keys.
fn random_log(rng: &mut Rng) -> Log {
    let drafts = (0..60).map(|number| {
        let key = ["a", "b", "c"][rng.below(3)];
        let draft = if rng.below(5) == 0 { delete(key) } else { put(key, &number.to_string()) };
        match rng.below(4) {
            0 => draft.when(guard(key, GuardCondition::Version(Offset::new(rng.below(60) as u64)))),
            1 => draft.when(guard(key, GuardCondition::Exists)),
            _ => draft,
        }
    });
    log(drafts.collect())
}

#[test]
fn every_changed_answer_of_a_random_session_is_found() {
    for seed in 0..300 {
        let mut rng = Rng::of_stream(seed, 8);
        let log = random_log(&mut rng);
        let mut session = Session::default();
        let mut position = 0;
        while position < 60 {
            let key = Bytes::from_static([b"a", b"b", b"c"][rng.below(3)]);
            let mut model = Model::default();
            for logged in &log.records(P)[..=position] {
                model.fold(logged.offset, &logged.record, false);
            }
            let found = model.live.get(&key[..]);
            let found = found.map(|(version, value)| Live { version: *version, value: Bytes::copy_from_slice(value) });
            let served = Some(Offset::new(position as u64));
            let asked = token(rng.below(position + 1) as u64);
            session.steps.push(SessionStep::Read { key, partition: P, asked, served, found });
            position += rng.below(4);
            if rng.below(10) == 0 {
                position += 1;
            }
        }
        check(&log, std::slice::from_ref(&session)).require("a true session");
        for step in 0..session.steps.len() {
            let mut lied = session.clone();
            let SessionStep::Read { asked, served, found, .. } = &mut lied.steps[step] else { continue };
            match (rng.below(3), &mut *found) {
                (0, Some(live)) => live.version = live.version.next(),
                (1, Some(live)) => live.value = Bytes::from_static(b"x"),
                (2, _) => *asked = token(served.map_or(0, Offset::get) + 1),
                (_, None) => *found = Some(Live { version: Offset::ZERO, value: Bytes::new() }),
                _ => *found = None,
            }
            assert!(!check(&log, &[lied]).is_valid(), "seed {seed}: step {step}");
        }
    }
}

/// Records that are no updates are nobody's writes.
#[test]
fn an_event_is_not_taken_for_a_write() {
    let mut log = small();
    let record = Record::event(Some(Bytes::from_static(b"a")), Bytes::from_static(b"9"));
    log.push(P, crate::checkers::log::LoggedRecord { offset: Offset::new(4), record, is_settled: false });
    let told = |steps| check(&log, &[Session { name: String::new(), steps }]);
    assert_eq!(told(vec![wrote(4, Some("9"), true)]).violations()[0].kind, Kind::LostWrite);
    told(vec![read(None, Some(4), None)]).require("an event changes nothing");
}
