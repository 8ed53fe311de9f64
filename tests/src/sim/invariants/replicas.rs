//! Invariant 2: two replicas that have committed offset n hold the same record bytes up to n, where neither is settled.
//!
//! Every batch that a replica publishes as committed, in each of its lives from the first offset on, is compared with the
//! ledger, byte by byte and with the entry's term and index.

use super::super::ledger::Ledgers;
use super::super::violation::Broken;
use duramen_common::{Offset, PartitionId};
use duramen_log_service::store::{PartitionLog, StoreError};
use std::collections::BTreeMap;

/// How far each replica has been compared in its present life.
#[derive(Default)]
pub struct ReplicasSeen {
    compared: BTreeMap<(usize, PartitionId), Offset>,
}

impl ReplicasSeen {
    /// A host's replicas begin a new life, and are compared from the beginning.
    pub fn forget(&mut self, host: usize) {
        self.compared.retain(|(other, _), _| *other != host);
    }

    /// Compares what a replica has published since it was looked at last. Damage that it meets and reports is not a
    /// difference.
    pub fn check(
        &mut self,
        host: usize,
        name: &str,
        log: &PartitionLog,
        ledgers: &mut Ledgers,
    ) -> Result<Result<(), StoreError>, Broken> {
        let partition = log.partition();
        let compared = self.compared.entry((host, partition)).or_default();
        let committed_end = log.ends().committed_end;
        if committed_end <= *compared {
            return Ok(Ok(()));
        }
        let batches = match log.read_from(*compared, committed_end, usize::MAX) {
            Ok(batches) => batches,
            Err(error) => return Ok(Err(error)),
        };
        let ledger = ledgers.of(partition);
        for (id, bytes) in &batches {
            ledger.take(*id, bytes).map_err(|broken| broken.at(&format!("{name}, partition {partition}")))?;
        }
        if ledger.end() < committed_end {
            let end = ledger.end();
            let what = format!("{name}, partition {partition}: committed up to {committed_end}, but has only {end}");
            return Err(Broken::new(2, what));
        }
        *compared = committed_end;
        Ok(Ok(()))
    }
}
