//! Invariant 8: a failed guard changes nothing; and what was said of guards is what the log's order says.
//!
//! * The ledger folds records as plainly as can be: one whose guards fail leaves no trace in it, and serving nodes are held
//!   to that fold (invariant 4). Here: a client that was told of a failed guard has a record in the log that did nothing.
//! * The client's own guards are held to the fold before the record, whatever guards the record itself carries.

use super::super::ledger::{Ledger, Ledgers};
use super::super::seen::{Effect, Written};
use super::super::violation::Broken;
use super::covering;
use duramen_common::batch::{Guard, GuardCondition};
use duramen_common::{Offset, Timestamp};
use duramen_serving_node::Outcome;

/// Holds a refusal to the ledger; false while that does not cover it.
pub(super) fn check_refused(write: &Written, ledgers: &Ledgers) -> Result<bool, Broken> {
    let Some(id) = write.id else { return Ok(true) };
    if write.seen.is_some_and(|seen| covering(ledgers.get(seen.partition), seen.offset).is_none()) {
        return Ok(false);
    }
    let Some((partition, ledger)) = ledgers.iter().find(|(_, ledger)| !ledger.places(id).is_empty()) else {
        return Ok(false);
    };
    // Beyond the window an id may stand at several places, and 412 does not say which one it speaks of.
    let mut broken = None;
    for place in ledger.places(id) {
        match check_at(write, Timestamp { partition, offset: *place }, ledger) {
            Ok(()) => return Ok(true),
            Err(error) => broken = Some(error),
        }
    }
    Err(broken.unwrap_or_else(|| Broken::new(1, format!("answered for, but it stands elsewhere: {write:?}"))))
}

/// Holds what a client was told of its guards to the record at its place, which the ledger covers.
pub(super) fn check_at(write: &Written, place: Timestamp, ledger: &Ledger) -> Result<(), Broken> {
    let is_effective = write.effect == Effect::Effective;
    let did = ledger.record(place.offset).map(|record| record.outcome);
    if is_effective != (did == Some(Outcome::Effective)) {
        let what = format!("said to be {:?}, but the record at {place} is {did:?}: {write:?}", write.effect);
        return Err(Broken::new(8, what));
    }
    let failed = write.guards.iter().find(|guard| !holds(guard, ledger, place.offset));
    match (is_effective, failed) {
        (true, Some(guard)) => Err(Broken::new(8, format!("{guard:?} does not hold before {place}: {write:?}"))),
        (false, None) => Err(Broken::new(8, format!("all guards hold before {place}: {write:?}"))),
        (true, None) | (false, Some(_)) => Ok(()),
    }
}

fn holds(guard: &Guard, ledger: &Ledger, end: Offset) -> bool {
    let version = ledger.version_at(&guard.key, end);
    match guard.condition {
        GuardCondition::Absent => version.is_none(),
        GuardCondition::Exists => version.is_some(),
        GuardCondition::Version(wanted) => version == Some(wanted),
    }
}
