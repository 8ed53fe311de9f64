//! Goal: every anomaly is found by its name, and no valid history is called wrong. Method: hand-made histories; random
//! ones of an atomic store, good and with one provable lie; tiny ones against an oracle that tries all serial orders.

use super::{AnomalyKind, ListHistory, MicroOp, RegisterTxnHistory, check_lists, check_registers};
use crate::checkers::history::spans::{Span, history};
use crate::checkers::{Operation, Outcome};
use crate::harness::Rng;
use std::collections::BTreeMap;
use std::fmt::Debug;

type Call = Vec<MicroOp<u32, u32>>;
/// A step, and what a read saw.
type Said = (MicroOp<u32, u32>, Option<Vec<u32>>);
type Lists = Span<Call, Vec<Vec<u32>>>;
type Registers = Span<Call, Vec<Option<u32>>>;

fn w(key: u32, value: u32) -> Said {
    (MicroOp::Write(key, value), None)
}

/// A read of a list; of a register, the first element is what was seen.
fn r(key: u32, seen: &[u32]) -> Said {
    (MicroOp::Read(key), Some(seen.to_vec()))
}

fn txn(from: u64, to: u64, steps: &[Said]) -> Lists {
    let call = steps.iter().map(|(micro_op, _)| micro_op.clone()).collect();
    let seen = steps.iter().filter_map(|(_, seen)| seen.clone()).collect();
    Span { process: from, from, to, call, outcome: Outcome::Ok(seen) }
}

fn ends(mut txn: Lists, outcome: Outcome<Vec<Vec<u32>>>) -> Lists {
    txn.outcome = outcome;
    txn
}

fn as_register(txn: &Lists) -> Registers {
    let outcome = match &txn.outcome {
        Outcome::Ok(seen) => Outcome::Ok(seen.iter().map(|seen| seen.first().copied()).collect()),
        Outcome::Failed => Outcome::Failed,
        Outcome::Unknown => Outcome::Unknown,
    };
    Span { process: txn.process, from: txn.from, to: txn.to, call: txn.call.clone(), outcome }
}

fn lists(txns: &[Lists]) -> Vec<AnomalyKind> {
    let verdict = check_lists(&history(txns.iter().cloned()));
    verdict.violations().iter().map(|anomaly| anomaly.kind).collect()
}

fn registers(txns: &[Lists]) -> Vec<AnomalyKind> {
    let verdict = check_registers(&history(txns.iter().map(as_register)));
    verdict.violations().iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn good_histories_are_valid() {
    let one =
        [txn(1, 2, &[r(1, &[]), w(1, 1), r(1, &[1])]), txn(3, 4, &[r(1, &[1]), w(1, 2)]), txn(5, 6, &[r(1, &[1, 2])])];
    assert_eq!(lists(&one), []);
    let concurrent = [txn(1, 9, &[w(1, 1)]), txn(2, 8, &[w(1, 2), w(2, 3)]), txn(10, 11, &[r(1, &[2, 1]), r(2, &[3])])];
    assert_eq!(lists(&concurrent), []);
    let one =
        [txn(1, 2, &[r(1, &[]), w(1, 1), r(1, &[1])]), txn(3, 4, &[r(1, &[1]), w(1, 2)]), txn(5, 6, &[r(1, &[2])])];
    assert_eq!(registers(&one), []);
    let concurrent = [txn(1, 9, &[w(1, 1)]), txn(2, 8, &[w(1, 2), w(2, 3)]), txn(10, 11, &[r(1, &[1]), r(2, &[3])])];
    assert_eq!(registers(&concurrent), []);
}

#[test]
fn a_transaction_sees_its_own_writes() {
    assert_eq!(lists(&[txn(1, 2, &[w(1, 1), r(1, &[])])]), [AnomalyKind::Internal]);
    assert_eq!(registers(&[txn(1, 2, &[w(1, 1), r(1, &[])])]), [AnomalyKind::Internal]);
    let moves = [txn(1, 9, &[r(1, &[]), r(1, &[1])]), txn(2, 3, &[w(1, 1)])];
    assert!(lists(&moves).contains(&AnomalyKind::Internal));
    assert!(registers(&moves).contains(&AnomalyKind::Internal));
    assert!(lists(&[txn(1, 2, &[r(1, &[1]), w(1, 1)])]).contains(&AnomalyKind::Internal), "read before it was written");
}

#[test]
fn g1a_a_failed_write_is_read() {
    let txns = [ends(txn(1, 2, &[w(1, 1)]), Outcome::Failed), txn(3, 4, &[r(1, &[1])])];
    assert_eq!(lists(&txns), [AnomalyKind::AbortedRead]);
    assert_eq!(registers(&txns), [AnomalyKind::AbortedRead]);
}

#[test]
fn g1b_a_write_from_amid_a_transaction_is_read() {
    let txns = [txn(1, 9, &[w(1, 1), w(1, 2)]), txn(2, 8, &[r(1, &[1])])];
    assert!(lists(&txns).contains(&AnomalyKind::IntermediateRead));
    assert!(registers(&txns).contains(&AnomalyKind::IntermediateRead));
}

#[test]
fn a_value_from_nowhere_is_found() {
    let txns = [txn(1, 9, &[w(1, 1)]), txn(2, 8, &[r(1, &[2])])];
    assert!(lists(&txns).contains(&AnomalyKind::UnwrittenRead));
    assert!(registers(&txns).contains(&AnomalyKind::UnwrittenRead));
}

#[test]
fn duplicates_incompatible_orders_and_lost_appends_are_found() {
    let twice = [txn(1, 2, &[w(1, 1)]), txn(3, 4, &[r(1, &[1, 1])])];
    assert!(lists(&twice).contains(&AnomalyKind::Duplicate));
    let two = || [txn(1, 2, &[w(1, 1)]), txn(1, 2, &[w(1, 2)])];
    let torn: Vec<Lists> =
        two().into_iter().chain([txn(3, 4, &[r(1, &[1, 2])]), txn(3, 4, &[r(1, &[2, 1])])]).collect();
    assert!(lists(&torn).contains(&AnomalyKind::IncompatibleOrder));
    let lost: Vec<Lists> = two().into_iter().chain([txn(3, 4, &[r(1, &[1])])]).collect();
    assert_eq!(lists(&lost), [AnomalyKind::LostAppend, AnomalyKind::GSingleRealTime]);
    assert_eq!(lists(&[two().as_slice(), &[txn(2, 4, &[r(1, &[1])])]].concat()), [], "it may come after the read");
}

#[test]
fn a_lost_update_is_found() {
    let lost = [
        txn(1, 2, &[w(1, 1)]),
        txn(3, 8, &[r(1, &[1]), w(1, 2)]),
        txn(4, 9, &[r(1, &[1]), w(1, 3)]),
        txn(10, 11, &[r(1, &[1, 2, 3])]),
    ];
    assert_eq!(lists(&lost), [AnomalyKind::LostUpdate, AnomalyKind::GSingle]);
    assert!(registers(&lost[..3]).contains(&AnomalyKind::LostUpdate));
}

#[test]
fn g0_writes_interleave() {
    let txns =
        [txn(1, 9, &[w(1, 1), w(2, 1)]), txn(1, 9, &[w(1, 2), w(2, 2)]), txn(10, 11, &[r(1, &[1, 2]), r(2, &[2, 1])])];
    assert!(lists(&txns).contains(&AnomalyKind::G0));
}

#[test]
fn g1c_two_transactions_read_each_other() {
    let txns = [txn(1, 9, &[w(1, 1), r(2, &[2])]), txn(1, 9, &[w(2, 2), r(1, &[1])])];
    assert_eq!(lists(&txns), [AnomalyKind::G1c]);
    assert_eq!(registers(&txns), [AnomalyKind::G1c]);
}

#[test]
fn g_single_a_read_sees_half_of_a_transaction() {
    let txns = [txn(1, 9, &[w(1, 1), w(2, 2)]), txn(1, 9, &[r(1, &[1]), r(2, &[])]), txn(10, 11, &[r(2, &[2])])];
    assert_eq!(lists(&txns), [AnomalyKind::GSingle]);
    assert_eq!(registers(&txns), [AnomalyKind::GSingle]);
}

#[test]
fn g2_write_skew() {
    let txns =
        [txn(1, 9, &[r(1, &[]), w(2, 2)]), txn(1, 9, &[r(2, &[]), w(1, 1)]), txn(10, 11, &[r(1, &[1]), r(2, &[2])])];
    assert_eq!(lists(&txns), [AnomalyKind::G2]);
    assert_eq!(registers(&txns), [AnomalyKind::G2]);
}

#[test]
fn real_time_violations_are_found() {
    let stale = [txn(1, 2, &[w(1, 1)]), txn(3, 4, &[r(1, &[])]), txn(5, 6, &[r(1, &[1])])];
    assert_eq!(lists(&stale), [AnomalyKind::GSingleRealTime]);
    assert!(!registers(&stale).is_empty());
    let backwards = [txn(1, 2, &[w(1, 1)]), txn(3, 4, &[w(1, 2)]), txn(5, 6, &[r(1, &[2, 1])])];
    assert_eq!(lists(&backwards), [AnomalyKind::G0RealTime]);
    let old = [txn(1, 2, &[w(1, 1)]), txn(3, 4, &[w(1, 2)]), txn(5, 6, &[r(1, &[1])])];
    assert_eq!(registers(&old), [AnomalyKind::CyclicVersions]);
    let over_two_keys = [txn(1, 2, &[w(1, 1)]), txn(3, 9, &[r(1, &[]), r(2, &[])]), txn(4, 5, &[w(2, 2)])];
    assert!(!lists(&[&over_two_keys[..], &[txn(10, 11, &[r(1, &[1]), r(2, &[2])])]].concat()).is_empty());
    assert!(!registers(&over_two_keys).is_empty());
}

#[test]
fn an_unknown_transaction_counts_once_it_is_read() {
    let unknown = || ends(txn(1, 2, &[w(1, 1), w(2, 1)]), Outcome::Unknown);
    assert_eq!(lists(&[unknown(), txn(3, 4, &[r(1, &[])])]), []);
    assert_eq!(lists(&[unknown(), txn(3, 4, &[r(1, &[])]), txn(5, 6, &[r(1, &[1]), r(2, &[1])])]), []);
    let half = [unknown(), txn(3, 4, &[r(1, &[1]), r(2, &[])]), txn(5, 6, &[r(2, &[1])])];
    assert_eq!(lists(&half), [AnomalyKind::GSingle]);
    assert_eq!(registers(&half), [AnomalyKind::GSingle]);
    let gone = [unknown(), txn(3, 4, &[r(1, &[1])]), txn(5, 6, &[r(1, &[])])];
    assert!(!lists(&gone).is_empty() && !registers(&gone).is_empty());
}

#[test]
fn a_cycle_is_printed_with_its_reasons() {
    let txns =
        [txn(1, 9, &[r(1, &[]), w(2, 2)]), txn(1, 9, &[r(2, &[]), w(1, 1)]), txn(10, 11, &[r(1, &[1]), r(2, &[2])])];
    let text = check_lists(&history(txns)).to_string();
    assert!(text.contains("G2 (write skew): a cycle of 2 transactions"), "{text}");
    assert!(text.contains("rw: it saw nothing last of key 1, before the next one's 1"), "{text}");
}

/// Random transactions of an atomic store. `last` reads every key at the end.
fn good(count: usize, processes: usize, keys: usize, last: bool, rng: &mut Rng, is_list: bool) -> Vec<Lists> {
    let mut spans = Vec::new();
    let mut idle_at = vec![0u64; processes];
    let mut next_value = 0;
    for _ in 0..count {
        let process = (0..processes).min_by_key(|&process| idle_at[process]).expect("there are processes");
        let from = idle_at[process] + 1 + rng.below(5) as u64;
        let to = from + 2 + rng.below(30) as u64;
        idle_at[process] = to;
        let call: Call = (0..1 + rng.below(4))
            .map(|_| {
                let key = rng.below(keys) as u32;
                next_value += 1;
                if rng.below(2) == 0 { MicroOp::Read(key) } else { MicroOp::Write(key, next_value) }
            })
            .collect();
        let effect = from + rng.below((to - from) as usize) as u64;
        spans.push((effect, Span { process: process as u64, from, to, call, outcome: Outcome::Ok(Vec::new()) }));
    }
    let end = spans.iter().map(|(_, span)| span.to).max().unwrap_or(0);
    if last {
        let call = (0..keys as u32).map(MicroOp::Read).collect();
        spans.push((end + 1, Span { process: 0, from: end + 1, to: end + 2, call, outcome: Outcome::Ok(Vec::new()) }));
    }
    for (effect, span) in &mut spans {
        let is_last = span.from > end;
        match rng.below(20) {
            0 if !is_last => span.outcome = Outcome::Failed,
            // An unknown one takes effect late, or never.
            1 | 2 if !is_last => {
                span.outcome = Outcome::Unknown;
                *effect = if rng.below(2) == 0 { u64::MAX } else { *effect + rng.below(300) as u64 };
            }
            _ => {}
        }
    }
    spans.sort_by_key(|&(effect, _)| effect);
    let mut store: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (effect, span) in &mut spans {
        if *effect < u64::MAX && span.outcome != Outcome::Failed {
            let seen = run(&mut store, &span.call, is_list);
            if span.outcome != Outcome::Unknown {
                span.outcome = Outcome::Ok(seen);
            }
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

fn run(store: &mut BTreeMap<u32, Vec<u32>>, call: &Call, is_list: bool) -> Vec<Vec<u32>> {
    let mut seen = Vec::new();
    for micro_op in call {
        match micro_op {
            MicroOp::Read(key) => seen.push(store.get(key).cloned().unwrap_or_default()),
            MicroOp::Write(key, value) if is_list => store.entry(*key).or_default().push(*value),
            MicroOp::Write(key, value) => drop(store.insert(*key, vec![*value])),
        }
    }
    seen
}

/// Whether some serial order that keeps real time explains all answers, by trying all.
fn has_serial_order<S: Clone + Debug + PartialEq>(
    txns: &[Operation<Call, Vec<S>>],
    done: &mut Vec<bool>,
    store: &BTreeMap<u32, Vec<u32>>,
    is_list: bool,
    seen_as: &impl Fn(Vec<u32>) -> S,
) -> bool {
    let settled = |(txn, done): (&Operation<Call, Vec<S>>, &bool)| *done || matches!(txn.outcome, Outcome::Unknown);
    if txns.iter().zip(done.iter()).all(settled) {
        return true;
    }
    for number in 0..txns.len() {
        if done[number] || (0..txns.len()).any(|other| !done[other] && txns[other].precedes(&txns[number])) {
            continue;
        }
        let mut after = store.clone();
        let seen: Vec<S> = run(&mut after, &txns[number].call, is_list).into_iter().map(seen_as).collect();
        if txns[number].result().is_some_and(|result| *result != seen) {
            continue;
        }
        done[number] = true;
        let found = has_serial_order(txns, done, &after, is_list, seen_as);
        done[number] = false;
        if found {
            return true;
        }
    }
    false
}

fn effective<S: Clone>(history: &crate::checkers::History<Call, Vec<S>>) -> Vec<Operation<Call, Vec<S>>> {
    history.operations().iter().filter(|txn| !matches!(txn.outcome, Outcome::Failed)).cloned().collect()
}

fn text(history: &ListHistory<u32, u32>) -> String {
    history.operations().iter().map(|operation| format!("{operation}\n")).collect()
}

/// Changes one answer a little.
fn disturb(txns: &mut [Lists], rng: &mut Rng) {
    let place = rng.below(txns.len());
    let donor = txns[rng.below(txns.len())].call.clone();
    let Outcome::Ok(seen) = &mut txns[place].outcome else { return };
    if seen.is_empty() {
        return;
    }
    let which = rng.below(seen.len());
    let list = &mut seen[which];
    match rng.below(4) {
        0 => drop(list.pop()),
        1 if list.len() > 1 => list.swap(0, 1),
        2 => list.truncate(rng.below(list.len() + 1)),
        _ => {
            let other = donor.iter().find_map(|micro_op| match micro_op {
                MicroOp::Write(_, value) => Some(*value),
                MicroOp::Read(_) => None,
            });
            list.extend(other);
        }
    }
}

/// Goal: for lists whose appends are all read in the end, the checker is exact; else, and for registers, what it calls
/// wrong is wrong. Method: tiny histories, one answer changed, against all serial orders.
#[test]
fn the_checkers_agree_with_trying_all_serial_orders() {
    let (mut wrong, mut missed) = (0, 0);
    for seed in 0..8_000 {
        let mut rng = Rng::of_stream(seed, 3);
        let last = rng.below(3) > 0;
        let mut txns = good(5, 3, 2, last, &mut rng, true);
        disturb(&mut txns, &mut rng);
        let history: ListHistory<u32, u32> = history(txns.iter().cloned());
        let all = effective(&history);
        let exists = has_serial_order(&all, &mut vec![false; all.len()], &BTreeMap::new(), true, &|seen| seen);
        let verdict = check_lists(&history);
        assert!(!exists || verdict.is_valid(), "seed {seed}: {verdict}");
        assert!(exists || !last || !verdict.is_valid(), "seed {seed}: believed\n{}", text(&history));
        wrong += u32::from(!exists);
    }
    assert!(wrong > 1500, "only {wrong} wrong histories");
    wrong = 0;
    for seed in 0..8_000 {
        let mut rng = Rng::of_stream(seed, 4);
        let mut txns = good(5, 3, 2, true, &mut rng, false);
        disturb(&mut txns, &mut rng);
        let history: RegisterTxnHistory<u32, u32> = history(txns.iter().map(as_register));
        let all = effective(&history);
        let first = |seen: Vec<u32>| seen.first().copied();
        let exists = has_serial_order(&all, &mut vec![false; all.len()], &BTreeMap::new(), false, &first);
        let verdict = check_registers(&history);
        assert!(!exists || verdict.is_valid(), "seed {seed}: {verdict}");
        wrong += u32::from(!exists);
        missed += u32::from(!exists && verdict.is_valid());
    }
    assert!(wrong > 600 && missed * 10 < wrong, "{missed} of {wrong} wrong histories over registers were missed");
}

/// Puts one provable lie into a good history of lists. Says which, when there was a place for it.
fn lie(txns: &mut Vec<Lists>, rng: &mut Rng) -> Option<&'static str> {
    let reads: Vec<(usize, usize)> = txns
        .iter()
        .enumerate()
        .filter_map(|(place, txn)| match &txn.outcome {
            Outcome::Ok(seen) => {
                Some(seen.iter().enumerate().filter(|(_, seen)| seen.len() > 2).map(move |(read, _)| (place, read)))
            }
            _ => None,
        })
        .flatten()
        .collect();
    if reads.is_empty() {
        return None;
    }
    let (place, read) = reads[rng.below(reads.len())];
    let writer_of = |value: u32| {
        move |txn: &Lists| txn.call.iter().any(|op| matches!(op, MicroOp::Write(_, other) if *other == value))
    };
    let Outcome::Ok(seen) = &txns[place].outcome else { return None };
    let list = seen[read].clone();
    let last = list[list.len() - 1];
    let change = |txns: &mut Vec<Lists>, list: Vec<u32>| {
        if let Outcome::Ok(seen) = &mut txns[place].outcome {
            seen[read] = list;
        }
    };
    match rng.below(6) {
        0 => {
            change(txns, [&list[..], &[1_000_000]].concat());
            Some("a value that nobody wrote")
        }
        1 => {
            let writer = txns.iter().position(writer_of(list[0]))?;
            (writer != place).then_some(())?;
            txns[writer].outcome = Outcome::Failed;
            Some("a failed write that was read")
        }
        2 => {
            change(txns, [&list[..], &list[..1]].concat());
            Some("an element twice")
        }
        3 => {
            let swapped = [&[list[1], list[0]], &list[2..]].concat();
            change(txns, swapped);
            txns.iter()
                .enumerate()
                .any(|(other, txn)| {
                    other != place
                        && matches!(&txn.outcome, Outcome::Ok(seen) if seen.iter().any(|seen| seen.starts_with(&list)))
                })
                .then_some("another order than others saw")
        }
        4 => {
            let writer = txns.iter().find(|txn| writer_of(last)(txn))?;
            let ended = matches!(writer.outcome, Outcome::Ok(_)) && writer.to < txns[place].from;
            ended.then(|| change(txns, list[..list.len() - 1].to_vec()))?;
            Some("a stale read")
        }
        _ => {
            let end = txns.iter().map(|txn| txn.to).max()? + 1;
            let key = txns[place]
                .call
                .iter()
                .filter_map(|op| if let MicroOp::Read(key) = op { Some(*key) } else { None })
                .nth(read)?;
            txns.push(txn(end, end + 1, &[w(key, 2_000_000)]));
            txns.push(txn(end + 2, end + 3, &[r(key, &list)]));
            Some("a lost append")
        }
    }
}

#[test]
fn every_provable_lie_in_a_good_history_is_found() {
    let mut told = BTreeMap::new();
    for seed in 0..600 {
        let mut rng = Rng::of_stream(seed, 5);
        let mut txns = good(60, 6, 3, true, &mut rng, true);
        check_lists(&history(txns.iter().cloned())).require("a good history");
        let before = txns.clone();
        match lie(&mut txns, &mut rng) {
            Some(what) => {
                *told.entry(what).or_insert(0) += 1;
                assert!(!check_lists(&history(txns)).is_valid(), "seed {seed}: believed {what}");
            }
            None => drop(before),
        }
        check_registers(&history(good(60, 6, 3, true, &mut rng, false).iter().map(as_register)))
            .require("a good history");
    }
    assert!(told.len() == 6 && told.values().all(|&count| count > 10), "{told:?}");
}

/// Goal: long histories take seconds, not hours.
#[test]
fn twenty_thousand_transactions_are_checked() {
    let mut rng = Rng::of_stream(1, 6);
    let txns = good(20_000, 10, 2000, true, &mut rng, true);
    check_lists(&history(txns)).require("a good history");
    let txns = good(20_000, 10, 2000, true, &mut rng, false);
    check_registers(&history(txns.iter().map(as_register))).require("a good history");
}
