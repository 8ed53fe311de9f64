//! The state machine of a log: applying an entry only moves the committed end.
//!
//! * A data partition has no other state: its applied position is the persisted committed mark, so that nothing is
//!   applied twice. The meta group replays from the start, through its [`CommittedObserver`].
//! * A snapshot is a manifest: last log id, membership, offset end. With `SnapshotPolicy::Never` and no purging, openraft
//!   never asks for one in this release; transfer of the segments themselves is not built.
//! * Source: DESIGN D1, D2; openraft `storage::v2::RaftStateMachine`.

use super::storage::{decode_membership, encode_membership};
use super::types::{Appended, LogBatch, LogId, StoredMembership, TypeConfig, entry_id, log_id};
use crate::store::{self, PartitionLog};
use duramen_common::batch::RecordBatch;
use duramen_common::ids::Offset;
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// Sees every committed batch of a group, in order, each once a run.
pub trait CommittedObserver: Send + Sync + 'static {
    /// A batch was committed; its first offset is set.
    fn committed(&self, id: store::EntryId, batch: &RecordBatch);
}

/// What a snapshot of a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// First offset after the records that it covers.
    pub offset_end: Offset,
}

type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Manifest>;

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    offset_end: Offset,
    snapshot: Option<(SnapshotMeta, Manifest)>,
}

/// The state machine of one group.
pub struct StateMachine {
    log: PartitionLog,
    observer: Option<Arc<dyn CommittedObserver>>,
    applied: Arc<Mutex<Applied>>,
}

impl StateMachine {
    /// For a data partition: starts at the persisted committed mark.
    pub fn for_data(log: PartitionLog) -> Result<StateMachine, io::Error> {
        let state = log.state();
        let last = state.small.committed.map(log_id);
        let membership = stored_membership(state.small.applied_membership)?;
        let applied = Applied { last, membership, offset_end: state.ends.committed_end, snapshot: None };
        Ok(StateMachine { log, observer: None, applied: Arc::new(Mutex::new(applied)) })
    }

    /// For the meta group: starts at nothing, so that the observer sees the whole log again.
    #[must_use]
    pub fn for_meta(log: PartitionLog, observer: Arc<dyn CommittedObserver>) -> StateMachine {
        StateMachine { log, observer: Some(observer), applied: Arc::default() }
    }
}

fn stored_membership(stored: Option<store::StoredMembership>) -> Result<StoredMembership, io::Error> {
    match stored {
        None => Ok(StoredMembership::default()),
        Some(stored) => Ok(StoredMembership::new(stored.id.map(log_id), decode_membership(&stored.bytes)?)),
    }
}

fn to_store_membership(membership: &StoredMembership) -> store::StoredMembership {
    store::StoredMembership {
        id: membership.log_id().as_ref().map(entry_id),
        bytes: encode_membership(membership.membership()),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Manifest;
    type SnapshotBuilder = ManifestBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut applied = self.applied.lock().clone();
        let mut answers = Vec::new();
        let mut membership = None;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let mut answer = Appended { first_offset: applied.offset_end, count: 0 };
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(LogBatch(batch)) => {
                    let header = batch.header();
                    answer = Appended { first_offset: header.first_offset, count: header.end_delta };
                    applied.offset_end = header.end();
                    if let Some(observer) = &self.observer {
                        observer.committed(entry_id(&entry.log_id), &batch);
                    }
                }
                EntryPayload::Membership(found) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), found);
                    membership = Some(to_store_membership(&applied.membership));
                }
            }
            applied.last = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        if let Some(last) = &applied.last {
            self.log.advance_committed(entry_id(last), applied.offset_end, membership);
        }
        *self.applied.lock() = applied;
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> ManifestBuilder {
        ManifestBuilder { applied: Arc::clone(&self.applied) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Manifest) -> Result<(), io::Error> {
        if let Some(last) = &meta.last_log_id {
            let membership = to_store_membership(&meta.last_membership);
            self.log.install(entry_id(last), snapshot.offset_end, membership).await?;
        }
        let mut applied = self.applied.lock();
        applied.last = meta.last_log_id;
        applied.membership = meta.last_membership.clone();
        applied.offset_end = snapshot.offset_end;
        applied.snapshot = Some((meta.clone(), snapshot));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.applied.lock().snapshot.clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Makes a manifest of what is applied.
pub struct ManifestBuilder {
    applied: Arc<Mutex<Applied>>,
}

impl RaftSnapshotBuilder<TypeConfig> for ManifestBuilder {
    type SnapshotData = Manifest;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let mut applied = self.applied.lock();
        let meta = SnapshotMeta { last_log_id: applied.last, last_membership: applied.membership.clone() };
        let snapshot = Manifest { offset_end: applied.offset_end };
        applied.snapshot = Some((meta.clone(), snapshot.clone()));
        Ok(Snapshot { meta, snapshot })
    }
}
