//! Invariant 7: a request id takes effect at most once within the last W offsets.
//!
//! The ledger knows every place of every id; two of one id must be at least W apart.

use super::super::ledger::Ledgers;
use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId};
use std::collections::BTreeMap;

/// How far each partition has been looked through.
pub struct OnceSeen {
    window: u64,
    looked: BTreeMap<PartitionId, Offset>,
}

impl OnceSeen {
    /// For this window. Unit: records.
    #[must_use]
    pub fn new(window: u64) -> OnceSeen {
        OnceSeen { window, looked: BTreeMap::new() }
    }

    /// Looks through what is new.
    pub fn check(&mut self, ledgers: &Ledgers) -> Result<(), Broken> {
        for (partition, ledger) in ledgers.iter() {
            let looked = self.looked.entry(partition).or_default();
            while let Some(record) = ledger.record(*looked) {
                let before = ledger.places(record.id).iter().rfind(|place| **place < *looked);
                if let Some(before) = before.filter(|before| looked.since(**before) < self.window) {
                    let what =
                        format!("id {} stands at {partition}:{before} and again at {partition}:{looked}", record.id);
                    return Err(Broken::new(7, what));
                }
                *looked = looked.next();
            }
        }
        Ok(())
    }
}
