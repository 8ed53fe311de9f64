//! Goal: every anomaly is found by its name, and good histories are valid. Method: hand-made histories; random ones of
//! an atomic log, and the same with one provable lie.

use super::{KafkaAnomalyKind as Kind, KafkaCall, KafkaReturn, check, unseen};
use crate::checkers::Outcome;
use crate::checkers::history::spans::{Span, history};
use crate::harness::Rng;
use std::collections::BTreeMap;

type One = Span<KafkaCall<u8, u32>, KafkaReturn<u8, u32>>;

fn ok(from: u64, to: u64, call: KafkaCall<u8, u32>, result: KafkaReturn<u8, u32>) -> One {
    Span { process: from, from, to, call, outcome: Outcome::Ok(result) }
}

fn send(from: u64, to: u64, message: u32, offset: u64) -> One {
    ok(from, to, KafkaCall::Send { key: 0, message }, KafkaReturn::Sent { offset })
}

fn poll(from: u64, to: u64, start: u64, shown: &[(u64, u32)]) -> One {
    let messages = BTreeMap::from([(0, shown.to_vec())]);
    ok(from, to, KafkaCall::Poll { from: BTreeMap::from([(0, start)]) }, KafkaReturn::Polled { messages })
}

fn commit(from: u64, to: u64, offset: u64) -> One {
    ok(from, to, KafkaCall::CommitOffsets { offsets: BTreeMap::from([(0, offset)]) }, KafkaReturn::Committed)
}

fn list(from: u64, to: u64, offset: Option<u64>) -> One {
    let offsets = offset.map(|offset| (0, offset)).into_iter().collect();
    ok(from, to, KafkaCall::ListCommittedOffsets { keys: vec![0] }, KafkaReturn::CommittedOffsets { offsets })
}

fn ends(mut span: One, outcome: Outcome<KafkaReturn<u8, u32>>) -> One {
    span.outcome = outcome;
    span
}

fn kinds(spans: &[One]) -> Vec<Kind> {
    check(&history(spans.iter().cloned())).violations().iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn good_histories_are_valid() {
    let sends = [send(1, 2, 1, 0), send(3, 4, 2, 3), send(3, 5, 3, 2)];
    let polls = [poll(6, 7, 0, &[(0, 1), (2, 3), (3, 2)]), poll(6, 7, 1, &[(2, 3)]), poll(8, 9, 0, &[])];
    assert_eq!(kinds(&[&sends[..], &polls].concat()), []);
    let unknown = ends(send(1, 2, 9, 0), Outcome::Unknown);
    assert_eq!(kinds(&[unknown.clone(), send(3, 4, 1, 1), poll(5, 6, 0, &[(1, 1)])]), [], "it need not be there");
    assert_eq!(kinds(&[unknown, send(3, 4, 1, 1), poll(5, 6, 0, &[(1, 1), (4, 9)])]), [], "it may come late");
    assert_eq!(
        kinds(&[list(1, 2, None), commit(1, 3, 5), list(2, 4, Some(5)), commit(5, 6, 3), list(7, 8, Some(5))]),
        []
    );
}

#[test]
fn a_lost_write_is_found() {
    let lost = [send(1, 2, 1, 0), send(3, 4, 2, 1), poll(5, 6, 0, &[(1, 2)])];
    assert_eq!(kinds(&lost), [Kind::LostWrite]);
    assert_eq!(unseen(&history(lost)), [(0, 0, 1)]);
}

#[test]
fn a_duplicate_is_found() {
    assert!(kinds(&[send(1, 2, 1, 0), poll(3, 4, 0, &[(0, 1), (1, 1)])]).contains(&Kind::Duplicate));
}

#[test]
fn divergent_offsets_are_found() {
    let two = [send(1, 9, 1, 0), send(1, 9, 2, 1), poll(2, 3, 0, &[(0, 1)]), poll(4, 5, 0, &[(0, 2)])];
    assert!(kinds(&two).contains(&Kind::DivergentOffset));
    assert!(kinds(&[send(1, 9, 1, 0), send(1, 9, 2, 0)]).contains(&Kind::DivergentOffset));
}

#[test]
fn reordered_and_skipping_polls_are_found() {
    let sends = [send(1, 2, 1, 0), send(3, 4, 2, 1), send(5, 6, 3, 2)];
    let with = |poll: One| kinds(&[&sends[..], &[poll]].concat());
    assert!(with(poll(7, 8, 0, &[(1, 2), (0, 1)])).contains(&Kind::ReorderedPoll));
    assert!(with(poll(7, 8, 1, &[(0, 1), (1, 2)])).contains(&Kind::ReorderedPoll), "it begins too early");
    assert_eq!(with(poll(7, 8, 1, &[(2, 3)])), [Kind::LostWrite], "it begins too late");
    let polls = [poll(7, 8, 0, &[(0, 1), (1, 2), (2, 3)]), poll(7, 8, 0, &[(0, 1), (2, 3)])];
    assert_eq!(kinds(&[&sends[..], &polls].concat()), [Kind::Skipped]);
}

#[test]
fn a_send_before_what_was_known_is_found() {
    assert_eq!(kinds(&[send(1, 2, 1, 5), send(3, 4, 2, 4)]), [Kind::ReorderedSend]);
    let unknown = ends(send(1, 2, 1, 0), Outcome::Unknown);
    assert_eq!(kinds(&[unknown, poll(3, 4, 5, &[(5, 1)]), send(5, 6, 2, 4)]), [Kind::ReorderedSend]);
}

#[test]
fn reads_of_failed_and_of_strange_messages_are_found() {
    let failed = ends(send(1, 2, 1, 0), Outcome::Failed);
    assert_eq!(kinds(&[failed, poll(3, 4, 0, &[(0, 1)])]), [Kind::AbortedRead]);
    assert_eq!(kinds(&[poll(3, 4, 0, &[(0, 1)])]), [Kind::UnwrittenRead]);
    assert_eq!(kinds(&[poll(1, 2, 0, &[(0, 1)]), ends(send(3, 4, 1, 0), Outcome::Unknown)]), [Kind::UnwrittenRead]);
}

#[test]
fn committed_offsets_that_go_back_or_come_from_nowhere_are_found() {
    assert_eq!(kinds(&[commit(1, 2, 5), list(3, 4, None)]), [Kind::CommittedBackwards]);
    assert_eq!(kinds(&[commit(1, 2, 3), commit(1, 2, 5), list(3, 4, Some(3))]), [Kind::CommittedBackwards]);
    let unknown = || ends(commit(1, 2, 5), Outcome::Unknown);
    assert_eq!(kinds(&[unknown(), list(3, 4, Some(5)), list(5, 6, None)]), [Kind::CommittedBackwards]);
    assert_eq!(kinds(&[unknown(), list(3, 4, None), list(5, 6, Some(5))]), []);
    assert_eq!(kinds(&[commit(1, 2, 3), list(3, 4, Some(4))]), [Kind::UnknownCommit]);
    assert_eq!(kinds(&[list(1, 2, Some(4)), commit(3, 4, 4)]), [Kind::UnknownCommit]);
}

/// Sends and polls of an atomic log, with gaps in its offsets.
fn good(rng: &mut Rng) -> Vec<One> {
    let mut spans = Vec::new();
    let mut idle_at = [0u64; 6];
    for message in 0..80u32 {
        let process = (0..idle_at.len()).min_by_key(|&process| idle_at[process]).expect("there are processes");
        let from = idle_at[process] + 1 + rng.below(5) as u64;
        let to = from + 2 + rng.below(30) as u64;
        idle_at[process] = to;
        let effect = from + rng.below((to - from) as usize) as u64;
        let span =
            if rng.below(2) == 0 { send(from, to, message, 0) } else { poll(from, to, rng.below(60) as u64, &[]) };
        spans.push((effect, span));
    }
    spans.sort_by_key(|&(effect, _)| effect);
    let mut log: Vec<(u64, u32)> = Vec::new();
    for (_, span) in &mut spans {
        let next = log.last().map_or(0, |&(last, _)| last + 1 + rng.below(3) as u64);
        match (&span.call, rng.below(10)) {
            (KafkaCall::Send { .. }, 0) => span.outcome = Outcome::Failed,
            (KafkaCall::Send { .. }, 1) => span.outcome = Outcome::Unknown,
            (KafkaCall::Send { message, .. }, ending) => {
                log.push((next, *message));
                span.outcome =
                    if ending == 2 { Outcome::Unknown } else { Outcome::Ok(KafkaReturn::Sent { offset: next }) };
            }
            (KafkaCall::Poll { from }, _) => {
                let shown = log.iter().copied().filter(|&(offset, _)| offset >= from[&0]).take(rng.below(40)).collect();
                span.outcome = Outcome::Ok(KafkaReturn::Polled { messages: BTreeMap::from([(0, shown)]) });
            }
            _ => {}
        }
    }
    let end = idle_at.into_iter().max().unwrap_or(0) + 1;
    let mut spans: Vec<One> = spans.into_iter().map(|(_, span)| span).collect();
    spans.push(poll(end, end + 1, 0, &log));
    spans
}

/// Goal: each kind of provable lie is found wherever it stands. Method: one lie in a random good history.
#[test]
fn every_provable_lie_in_a_good_history_is_found() {
    let mut told = 0;
    for seed in 0..400 {
        let mut rng = Rng::of_stream(seed, 7);
        let spans = good(&mut rng);
        check(&history(spans.clone())).require("a good history");
        assert_eq!(unseen(&history(spans.clone())), []);
        for kind in 0..5 {
            let mut spans = spans.clone();
            // Not the last poll: what only it shows, nobody else knows.
            let long = |&place: &usize| shown(&mut spans[place].clone()).is_some_and(|shown| shown.len() > 2);
            let polls: Vec<usize> = (0..spans.len() - 1).filter(long).collect();
            if polls.is_empty() {
                continue;
            }
            let place = polls[rng.below(polls.len())];
            let shown = shown(&mut spans[place]).expect("it is a poll");
            let which = rng.below(shown.len() - 1);
            match kind {
                0 => drop(shown.remove(which)),
                1 => shown.swap(which, which + 1),
                2 => (shown[which].1, shown[which + 1].1) = (shown[which + 1].1, shown[which].1),
                3 => shown.push((1_000_000, shown[which].1)),
                _ => shown[which].1 = 1_000_000,
            }
            told += 1;
            assert!(!check(&history(spans)).is_valid(), "seed {seed}: a lie of kind {kind} was believed");
        }
    }
    assert!(told > 1500, "only {told} lies");
}

fn shown(span: &mut One) -> Option<&mut Vec<(u64, u32)>> {
    match &mut span.outcome {
        Outcome::Ok(KafkaReturn::Polled { messages }) => messages.get_mut(&0),
        _ => None,
    }
}
