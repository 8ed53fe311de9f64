//! Invariant 4: a serving node's live triples equal the fold of the log's prefix up to its published applied end, whatever
//! crashed, and however it was rebuilt.
//!
//! Each time an applied end is seen to have moved, all of the partition's live keys, versions and values are compared with
//! the ledger's fold at that end.

use super::super::ledger::Ledgers;
use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId};
use duramen_serving_node::PartitionView;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The applied end at which each view was compared last.
#[derive(Default)]
pub struct FoldsSeen {
    compared: BTreeMap<(usize, PartitionId), Offset>,
    comparisons: u64,
}

impl FoldsSeen {
    /// A host's views begin a new life.
    pub fn forget(&mut self, host: usize) {
        self.compared.retain(|(other, _), _| *other != host);
    }

    /// How often views were compared.
    #[must_use]
    pub fn comparisons(&self) -> u64 {
        self.comparisons
    }

    /// Compares a view with the fold, if it has moved and the ledger has got there.
    pub fn check(&mut self, host: usize, name: &str, view: &PartitionView, ledgers: &Ledgers) -> Result<(), Broken> {
        let partition = view.partition();
        let Some(applied_end) = view.status().applied_end else { return Ok(()) };
        let (Some(ledger), key) = (ledgers.get(partition), (host, partition)) else { return Ok(()) };
        if self.compared.get(&key) == Some(&applied_end) || ledger.end() < applied_end {
            return Ok(());
        }
        let read = view.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX);
        let read = read.map_err(|error| Broken::new(4, format!("{name}: {error}")))?;
        if read.applied_end != applied_end {
            return Ok(());
        }
        self.compared.insert(key, applied_end);
        self.comparisons += 1;
        let mut found = read.value.iter();
        let mut wanted = ledger.live_at(applied_end);
        loop {
            let differ = match (found.next(), wanted.next()) {
                (None, None) => return Ok(()),
                (Some((key, item)), Some((wanted, version, value)))
                    if key == wanted && item.version == version && item.value == *value =>
                {
                    continue;
                }
                (found, wanted) => format!("has {found:?}, the fold {wanted:?}"),
            };
            return Err(Broken::new(4, format!("{name}, partition {partition}, applied end {applied_end}: {differ}")));
        }
    }
}
