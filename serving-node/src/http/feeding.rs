//! What all feeds of a node share: the budget of their events, and how they read older batches from the log.
//!
//! * Invariant: fetched batches are held by at most [`FETCHES_MAX`] feeds at once, and only until a piece is made of them.
//! * A batch that is larger than a piece is kept for the next piece, in a memory of bounded size: what falls out of it is
//!   fetched again.
//! * Source: docs/adr/0016-what-a-reader-may-hold.md.

use bytes::Bytes;
use duramen_common::batch::RecordBatch;
use duramen_common::budget::{Budget, Held};
use duramen_common::protocol::BatchId;
use duramen_common::{Offset, PartitionId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};

/// Feeds that read the log at once. Each holds what one fetch gave, at most one batch or 256 KiB.
const FETCHES_MAX: usize = 8;
/// Batches that feeds are in the midst of. Unit: bytes.
const CUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A batch of the log, with its identity there.
#[derive(Clone)]
pub(crate) struct Fetched {
    pub(crate) batch: RecordBatch,
    pub(crate) id: BatchId,
}

/// What feeds share. One per node.
pub(crate) struct Feeding {
    budget: Budget,
    fetches: Semaphore,
    cut: Mutex<CutBatches>,
}

#[derive(Default)]
struct CutBatches {
    batches: VecDeque<(PartitionId, Fetched)>,
    bytes: usize,
}

impl Feeding {
    /// With a budget for what is on its way to consumers.
    pub(crate) fn new(bytes_max: usize) -> Feeding {
        Feeding { budget: Budget::new(bytes_max), fetches: Semaphore::new(FETCHES_MAX), cut: Mutex::default() }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A turn to read the log.
    pub(crate) async fn fetch_turn(&self) -> SemaphorePermit<'_> {
        self.fetches.acquire().await.expect("the semaphore is never closed")
    }

    /// The batch that holds this offset, if a feed was lately in the midst of it.
    pub(crate) fn cut_batch(&self, partition: PartitionId, offset: Offset) -> Option<Fetched> {
        let holds = |fetched: &Fetched| {
            let header = fetched.batch.header();
            header.first_offset <= offset && offset < header.end()
        };
        let cut = self.cut.lock();
        let (_, found) = cut.batches.iter().rev().find(|(of, fetched)| *of == partition && holds(fetched))?;
        Some(found.clone())
    }

    /// Keeps a batch that is not given whole; the oldest go for it.
    pub(crate) fn keep_cut(&self, partition: PartitionId, fetched: Fetched) {
        if self.cut_batch(partition, fetched.batch.header().first_offset).is_some() {
            return;
        }
        let mut cut = self.cut.lock();
        cut.bytes += fetched.batch.bytes().len();
        cut.batches.push_back((partition, fetched));
        while cut.bytes > CUT_BYTES_MAX {
            let Some((_, oldest)) = cut.batches.pop_front() else { break };
            cut.bytes -= oldest.batch.bytes().len();
        }
    }
}

/// A piece of a feed on its way: the feed's turn and its share of the budget end when the socket has taken it.
pub(super) struct Piece<T> {
    text: Vec<u8>,
    _turn: OwnedMutexGuard<T>,
    _held: Option<Held>,
}

impl<T: Send + 'static> Piece<T> {
    pub(super) fn bytes(text: Vec<u8>, turn: OwnedMutexGuard<T>, held: Option<Held>) -> Bytes {
        Bytes::from_owner(Piece { text, _turn: turn, _held: held })
    }
}

impl<T> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}
