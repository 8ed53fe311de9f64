//! D14 and the log's contract, at a run's end: what was refused by name is not in the log, and what went into one append is
//! there whole, in order, or not at all, whether it was acknowledged or not.

use super::super::ledger::{Ledger, Ledgers};
use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId, RequestId};

/// Where an id stands first.
fn first_place(ledgers: &Ledgers, id: RequestId) -> Option<(PartitionId, Offset)> {
    let first = |(partition, ledger): (PartitionId, &Ledger)| Some((partition, *ledger.places(id).first()?));
    ledgers.iter().find_map(first)
}

/// Nothing of what was refused is in the log.
pub(super) fn check_refused(ids: &[RequestId], ledgers: &Ledgers) -> Result<(), Broken> {
    match ids.iter().find_map(|id| first_place(ledgers, *id)) {
        None => Ok(()),
        Some((partition, offset)) => {
            Err(Broken::new(1, format!("every attempt was refused by name, but it stands at {partition}:{offset}")))
        }
    }
}

/// The records of one append stand one behind the other, or nowhere.
pub(super) fn check_one_append(ids: &[RequestId], ledgers: &Ledgers) -> Result<(), Broken> {
    let places: Vec<Option<(PartitionId, Offset)>> = ids.iter().map(|id| first_place(ledgers, *id)).collect();
    let Some(first) = places.iter().flatten().next().copied() else { return Ok(()) };
    let follows = |(number, place): (usize, &Option<(PartitionId, Offset)>)| match place {
        Some((partition, offset)) => *partition == first.0 && *offset == first.1.plus(number as u64),
        None => false,
    };
    if places.iter().enumerate().all(follows) {
        return Ok(());
    }
    Err(Broken::new(1, format!("an append is torn: its records stand at {places:?}")))
}
