//! Invariant 6: histories of linearizable operations are linearizable; session reads are monotonic and see their own writes.
//!
//! * As the run goes, by positions: the log is the order, so that it is enough that no operation stands before anything that
//!   anybody knew when it began. Session reads carry all that their session saw as their token (invariant 5).
//! * At the end, by what was read and written alone (`checkers`), which knows nothing of positions.

use super::super::ledger::Ledgers;
use super::super::seen::{Consistency, Read, Written};
use super::super::violation::Broken;
use super::super::witness::text;
use crate::checkers::Verdict;
use crate::checkers::linearizability::{Bounds, RegisterHistory, check};
use duramen_common::Timestamp;
use std::collections::BTreeSet;

/// A linearizable read is not older than what was known before it began.
pub(super) fn check_read(read: &Read) -> Result<(), Broken> {
    let known = read.known.get(&read.partition).copied().unwrap_or_default();
    if read.consistency == Consistency::Linearizable && read.served_end < known {
        return Err(Broken::new(6, format!("{known} was known before it began: {read:?}")));
    }
    Ok(())
}

/// A write that takes effect for the first time stands behind what was known before it began.
pub(super) fn check_write(write: &Written, place: Timestamp) -> Result<(), Broken> {
    let known = write.known.get(&place.partition).copied().unwrap_or_default();
    if place.offset < known {
        return Err(Broken::new(6, format!("{known} was known before it began, it stands at {place}: {write:?}")));
    }
    Ok(())
}

/// Judges the registers' history as a whole, but for keys of records that stand more than once: what was sent again after its
/// id had left the window is one operation to its client, and two to the register. The judges above hold it to the log.
pub fn judge_registers(history: &RegisterHistory<String, String>, ledgers: &Ledgers) -> Result<(), Broken> {
    let again: BTreeSet<String> =
        ledgers.iter().flat_map(|(_, ledger)| ledger.keys_written_again()).map(|key| text(key)).collect();
    match check(&history.only(|(key, _)| !again.contains(key)), &Bounds::default()) {
        Verdict::Valid => Ok(()),
        verdict => Err(Broken::new(6, verdict.to_string())),
    }
}
