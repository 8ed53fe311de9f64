//! Damage: what becomes of a partition whose index cannot be believed, while the node runs.
//!
//! ```text
//! good ── damage met ──▶ condemned ── keeper ──▶ wiping ──▶ good, from offset 0
//!  └───────── compacted, other log ─────────────▶
//! ```
//!
//! * Invariant: a condemned partition shows nothing, and nothing is applied or flushed, until its wipe is done.
//! * Invariant: what was read of the index, or fetched for it, before a wipe is not believed afterwards: wipes count as
//!   rotations for readers and are numbered (`epoch`) for whoever applies.
//! * Deliberately absent: when it happens (`keeper`).
//! * Source: ADR 0012.

use super::{Frontiers, PartitionView, State};
use crate::index::layout;
use crate::index::{Index, IndexError, IndexFault, IndexStore, SetHash, StoreError};
use duramen_common::{Offset, PartitionId};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Whether a partition's index can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As far as anybody knows.
    Good,
    /// Damage was met in it, and nobody has seen to it yet.
    Condemned(IndexFault),
    /// It is being emptied.
    Wiping,
}

impl PartitionView {
    /// Damage was met in what the state of `epoch` has in the index. From now on nothing is shown, and the keeper is told.
    pub(crate) fn condemn(&self, fault: &IndexFault, epoch: u64) {
        if fault.is_passing() {
            return;
        }
        {
            let mut state = self.state.write();
            if !state.is_of(epoch) {
                return;
            }
            state.standing = Standing::Condemned(fault.clone());
            state.ready = false;
        }
        self.publish();
        self.alarm.notify_one();
    }

    /// Why this partition must be wiped; `None` when it need not be.
    pub(crate) fn condemned(&self) -> Option<IndexFault> {
        match &self.state.read().standing {
            Standing::Condemned(fault) => Some(fault.clone()),
            Standing::Good | Standing::Wiping => None,
        }
    }

    /// Whether nothing speaks against what the index holds.
    pub(crate) fn is_good(&self) -> bool {
        self.state.read().is_good()
    }

    /// Returns once nothing speaks against what the index holds.
    pub(crate) async fn good(&self) {
        let mut wipes = self.wipes();
        while !self.is_good() {
            // The view holds the sender, so that this cannot fail.
            let _ = wipes.changed().await;
        }
    }

    /// Changes to the number of the state that follows, whenever a wipe is done.
    pub(crate) fn wipes(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    /// Names the state of now: as [`super::Position`] does.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.read().epoch
    }

    /// Forgets everything and starts over at 0. When that fails the partition stays condemned. Blocks.
    pub(crate) fn wipe(&self) -> Result<(), IndexFault> {
        let _gate = self.gate.write();
        self.forget();
        match remove(&*self.index, self.partition) {
            Ok(()) => {
                self.begin_anew();
                Ok(())
            }
            Err(error) => {
                let fault = IndexFault::from(error);
                self.state.write().standing = Standing::Condemned(fault.clone());
                Err(fault)
            }
        }
    }

    /// The state from before is gone, and nothing is done with the index. Under the gate.
    fn forget(&self) {
        {
            let mut state = self.state.write();
            self.budget.release(state.bytes_to_release());
            *state = State { standing: Standing::Wiping, ..State::fresh(state.epoch + 1) };
            self.rotations.fetch_add(1, Ordering::Release);
        }
        self.publish();
        self.recent.lock().reset(Offset::ZERO);
        *self.frontiers.lock() = Frontiers::default();
        self.committed_end.store(0, Ordering::Relaxed);
    }

    /// The index is empty: whoever waited for that goes on. Under the gate.
    fn begin_anew(&self) {
        *self.set.lock() = SetHash::default();
        *self.scrub.lock() = None;
        let epoch = {
            let mut state = self.state.write();
            state.standing = Standing::Good;
            state.epoch
        };
        self.epochs.send_replace(epoch);
    }
}

/// Replaces the index of all partitions by a fresh one. When that fails they stay condemned. Blocks.
pub(crate) fn replace_index(views: &[Arc<PartitionView>], store: &IndexStore) -> Result<(), StoreError> {
    let gates: Vec<_> = views.iter().map(|view| view.gate.write()).collect();
    views.iter().for_each(|view| view.forget());
    let replaced = store.start_over();
    match &replaced {
        Ok(()) => views.iter().for_each(|view| view.begin_anew()),
        Err(error) => {
            let reason = error.to_string();
            let fault = IndexFault::Engine(IndexError { kind: "index", action: "replacing it", reason });
            views.iter().for_each(|view| view.state.write().standing = Standing::Condemned(fault.clone()));
        }
    }
    drop(gates);
    replaced
}

/// How many keys one write removes when a partition is cleared.
const CLEAR_KEYS: usize = 4096;

/// Removes a partition from the index.
pub(crate) fn remove(index: &dyn Index, partition: PartitionId) -> Result<(), IndexError> {
    // The meta first: without it, whatever else is left does not pass for the partition's state.
    index.write(vec![(layout::meta_key(partition), None)])?;
    for (start, end) in layout::ranges(partition) {
        loop {
            let mut writes = Vec::new();
            let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
            index.range(start, end, &mut |key, _| {
                writes.push((key.to_vec(), None));
                if writes.len() < CLEAR_KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if writes.is_empty() {
                break;
            }
            index.write(writes)?;
        }
    }
    Ok(())
}
