//! Invariant 1: an acknowledged record is in every later committed prefix, at the offset that was answered.
//!
//! The ledger is what replicas publish as committed, and every replica is held to it (invariant 2): so it is enough that the
//! record stands in it, at its offset, with its id and what the client sent: all of its updates.

use super::super::ledger::Ledger;
use super::super::seen::{Effect, Written};
use super::super::violation::Broken;
use super::guards;
use duramen_common::Timestamp;
use duramen_common::batch::Update;

/// Holds an acknowledgement to the ledger, which covers its place.
pub(super) fn check(write: &Written, place: Timestamp, ledger: &Ledger) -> Result<(), Broken> {
    let lost = |why: &str| Err(Broken::new(1, format!("acknowledged at {place}, but {why}: {write:?}")));
    let Some(record) = ledger.record(place.offset) else { return lost("no record stands there") };
    if write.id.is_some_and(|id| id != record.id) {
        return lost(&format!("the record with id {} stands there", record.id));
    }
    guards::check_at(write, place, ledger)?;
    if write.effect == Effect::NoEffect {
        return Ok(());
    }
    for (number, Update { key, value }) in write.updates.iter().enumerate() {
        if write.updates[number + 1..].iter().any(|later| later.key == key) {
            continue;
        }
        match ledger.key_at(key, place.offset.next()) {
            Some((offset, found)) if *offset == place.offset && found == value => {}
            found => return lost(&format!("the record there leaves {found:?}")),
        }
    }
    Ok(())
}
