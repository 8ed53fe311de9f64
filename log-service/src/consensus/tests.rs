//! openraft's own storage suite, over the disk in memory and a real folder.

use super::state_machine::StateMachine;
use super::storage::LogStore;
use super::types::{Entry, Membership, TypeConfig, log_id, raft_vote};
use crate::disk::{Disk, MemDisk, RealDisk};
use crate::store::{DataFolder, EntryId, Store, StoreConfig, StoreIdentity, StoredVote, SyncMode};
use duramen_common::ids::{HistoryId, PartitionId, StoreId};
use duramen_common::seams::SystemEntropy;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EmptyNode, EntryPayload, StorageError, StorageHelper};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

struct Builder {
    real: bool,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (Store, Option<tempfile::TempDir>)> for Builder {
    async fn build(
        &self,
    ) -> Result<((Store, Option<tempfile::TempDir>), LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = self.real.then(|| tempfile::tempdir().unwrap());
        let (disk, path): (Arc<dyn Disk>, &Path) = match &folder {
            Some(folder) => (Arc::new(RealDisk), folder.path()),
            None => (Arc::new(MemDisk::new()), Path::new("/data")),
        };
        let identity = StoreIdentity { history: HistoryId::from_bits(1), store: StoreId::from_bits(2) };
        let config = StoreConfig { segment_bytes: 4096, reserve_bytes: 0, ..StoreConfig::default() };
        let folder_lock = DataFolder::lock(disk, path).unwrap();
        let store = Store::open(folder_lock, identity, config, Arc::new(SystemEntropy), SyncMode::Thread).unwrap();
        let log = store.open_partition(PartitionId::new(0)).unwrap();
        let machine = StateMachine::for_data(log.clone()).unwrap();
        Ok(((store, folder), LogStore::new(log), machine))
    }
}

fn opened(disk: &MemDisk) -> (Store, LogStore, StateMachine) {
    let identity = StoreIdentity { history: HistoryId::from_bits(1), store: StoreId::from_bits(2) };
    let config = StoreConfig { segment_bytes: 4096, reserve_bytes: 0, ..StoreConfig::default() };
    let folder = DataFolder::lock(Arc::new(disk.clone()), Path::new("/data")).unwrap();
    let store = Store::open(folder, identity, config, Arc::new(SystemEntropy), SyncMode::Thread).unwrap();
    let log = store.open_partition(PartitionId::new(0)).unwrap();
    let machine = StateMachine::for_data(log.clone()).unwrap();
    (store, LogStore::new(log), machine)
}

/// Goal: a node that crashes between the commit of its first membership and its application still has one; without, it
/// would never stand for election again. Method: the calls that openraft makes, up to `save_committed`; a vote, which
/// takes the small state to the disk; a crash; what openraft then finds at start.
#[tokio::test]
async fn a_membership_survives_a_crash_before_it_is_applied() {
    let disk = MemDisk::new();
    let (store, mut log, machine) = opened(&disk);
    let members: BTreeMap<u64, EmptyNode> = (1..=3).map(|node| (node, EmptyNode {})).collect();
    let voters: BTreeSet<u64> = (1..=3).collect();
    let membership = Membership::new(vec![voters.clone()], members).unwrap();
    let id = |term, index| log_id(EntryId { term, index });
    let entries = [
        Entry { log_id: id(0, 0), payload: EntryPayload::Membership(membership) },
        Entry { log_id: id(1, 1), payload: EntryPayload::Blank },
    ];
    log.blocking_append(entries).await.unwrap();
    log.save_committed(Some(id(1, 1))).await.unwrap();
    log.save_vote(&raft_vote(StoredVote { term: 1, node: 1, committed: true })).await.unwrap();
    store.close();
    drop((store, log, machine));
    disk.crash(1);
    let (_store, mut log, mut machine) = opened(&disk);
    let state = StorageHelper::new(&mut log, &mut machine).with_id(1).get_initial_state().await.unwrap();
    let found: BTreeSet<u64> = state.membership_state.effective().membership().voter_ids().collect();
    assert_eq!(found, voters);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes_in_memory() {
    Suite::test_all(Builder { real: false }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_storage_suite_passes_on_files() {
    Suite::test_all(Builder { real: true }).await.unwrap();
}
