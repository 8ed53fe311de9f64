//! At a run's end: what feeds told (no gap, no repeat, no other order, over all connections) and what sessions were told
//! (invariants 5 and 6), by the checkers that other tests use too, which hold it to the whole log.

use super::super::ledger::Ledgers;
use super::super::violation::Broken;
use crate::checkers::Verdict;
use crate::checkers::feed::{self, FeedConnection};
use crate::checkers::log::Log;
use crate::checkers::sessions::{self, Session};
use duramen_common::HistoryId;
use duramen_common::batch::RecordBatch;
use std::fmt::Display;

/// Judges every connection of a feed.
pub fn judge_feeds(connections: &[FeedConnection], ledgers: &Ledgers) -> Result<(), Broken> {
    verdict(&feed::check(&log(ledgers), connections), "feeds")
}

/// Judges every session.
pub fn judge_sessions(told: &[Session], ledgers: &Ledgers) -> Result<(), Broken> {
    verdict(&sessions::check(&log(ledgers), told), "sessions")
}

fn verdict<A: Display>(verdict: &Verdict<A>, of: &str) -> Result<(), Broken> {
    match verdict {
        Verdict::Valid => Ok(()),
        verdict => Err(Broken::new(5, format!("{of}: {verdict}"))),
    }
}

/// The data partitions' records. Whose history they are the checkers do not ask.
fn log(ledgers: &Ledgers) -> Log {
    let mut log = Log::new(HistoryId::from_bits(0));
    for (partition, ledger) in ledgers.iter().filter(|(partition, _)| !partition.is_meta()) {
        for bytes in ledger.batches() {
            let batch = RecordBatch::parse(bytes.clone()).expect("the ledger has parsed it before");
            log.push_batch(partition, &batch);
        }
    }
    log
}
