//! Invariant 3: `first_offset ≤ horizon ≤ settled_end ≤ committed_end ≤ durable_end ≤ append_end` on a log replica, for the ends
//! that it publishes. Horizon and settled end are the first offset as long as there is no compaction.
//!
//! Also: the published committed end never goes back within a life.

use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId};
use duramen_log_service::store::Ends;
use std::collections::BTreeMap;

/// The committed ends seen of each replica in its present life.
#[derive(Default)]
pub struct EndsSeen {
    committed: BTreeMap<(usize, PartitionId), Offset>,
}

impl EndsSeen {
    /// A host's replicas begin a new life.
    pub fn forget(&mut self, host: usize) {
        self.committed.retain(|(other, _), _| *other != host);
    }

    /// Looks at a replica's ends.
    pub fn check(&mut self, host: usize, name: &str, partition: PartitionId, ends: Ends) -> Result<(), Broken> {
        let Ends { first_offset, committed_end, durable_end, append_end } = ends;
        if !(first_offset <= committed_end && committed_end <= durable_end && durable_end <= append_end) {
            return Err(Broken::new(3, format!("{name}, partition {partition}: {ends:?}")));
        }
        let seen = self.committed.entry((host, partition)).or_default();
        if committed_end < *seen {
            let what =
                format!("{name}, partition {partition}: the committed end went back from {seen} to {committed_end}");
            return Err(Broken::new(3, what));
        }
        *seen = committed_end;
        Ok(())
    }
}
