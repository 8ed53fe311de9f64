//! The scrub of one partition: reads all that the index holds of it, page by page, while it is written, and compares its set
//! hash with the flusher's.
//!
//! * In: pages under the gate, so that no flush comes in between; flushes between pages. Out: a verdict at the end.
//! * Invariant: `set` is the set hash of what the index holds up to `passed`: a page adds what it reads, and a flush applies
//!   its changes of keys that were passed.
//! * Deliberately absent: when and how fast (`scrubber`).
//! * Source: ADR 0012.

use super::PartitionView;
use crate::index::layout;
use crate::index::{IndexFault, SetHash};
use std::ops::{Bound, ControlFlow};

/// A page of a scrub ends after so many entries, or so many bytes: nothing is flushed meanwhile.
const PAGE_ENTRIES: usize = 256;
const PAGE_BYTES: usize = 256 * 1024;

/// How far a scrub has come.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// Every key of the partition up to this one was read; none yet when there is none.
    passed: Option<Vec<u8>>,
    set: SetHash,
}

impl Scrub {
    /// The last key that was read: what a flush changes up to there is for [`Scrub::merge`].
    pub(super) fn passed(&self) -> Option<&[u8]> {
        self.passed.as_deref()
    }

    /// Takes in what a flush changed of keys that were passed.
    pub(super) fn merge(&mut self, change: SetHash) {
        self.set.merge(change);
    }
}

/// What a page of a scrub has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScrubStep {
    /// So many entries are good; there may be more.
    More {
        /// How many.
        entries: usize,
    },
    /// The partition was read to its end, and is whole.
    Done,
    /// It was wiped meanwhile, or is condemned: by this scrub or otherwise.
    Over,
}

impl PartitionView {
    /// Begins a scrub; one that is under way is given up.
    pub(crate) fn begin_scrub(&self) {
        let _gate = self.gate.read();
        if self.state.read().unfinished.is_none() {
            *self.scrub.lock() = Some(Scrub::default());
        }
    }

    /// Reads the next page. Damage condemns the partition. Blocks.
    pub(crate) fn scrub_page(&self) -> ScrubStep {
        let epoch = self.epoch();
        match self.scrub_next(epoch) {
            Ok(ScrubStep::More { entries }) => ScrubStep::More { entries },
            Ok(step) => {
                *self.scrub.lock() = None;
                step
            }
            Err(fault) => {
                self.read_failed(&fault, epoch);
                ScrubStep::Over
            }
        }
    }

    fn scrub_next(&self, epoch: u64) -> Result<ScrubStep, IndexFault> {
        let _gate = self.gate.read();
        let mut under_way = self.scrub.lock();
        let Some(scrub) = under_way.as_mut() else { return Ok(ScrubStep::Over) };
        if !self.state.read().is_of(epoch) {
            return Ok(ScrubStep::Over);
        }
        for (start, end) in layout::ranges(self.partition) {
            let (Bound::Included(first), Bound::Included(last) | Bound::Excluded(last)) = (&start, &end) else {
                continue;
            };
            let low = match &scrub.passed {
                Some(passed) if passed >= last => continue,
                Some(passed) if passed >= first => Bound::Excluded(passed.clone()),
                Some(_) | None => start,
            };
            let (entries, full_at) = self.scrub_range(scrub, low, end.as_ref().map(Vec::as_slice))?;
            // A page that did not become full has read the range to its end; what a flush still adds to it counts as passed.
            scrub.passed = full_at.or(Some(last.clone()));
            return Ok(ScrubStep::More { entries });
        }
        let wanted = *self.set.lock();
        match scrub.set == wanted {
            true => Ok(ScrubStep::Done),
            false => Err(IndexFault::Incomplete { found: scrub.set.entries, expected: wanted.entries }),
        }
    }

    /// Reads one page of a range; returns how many entries it had, and the last key of a full page.
    fn scrub_range(
        &self,
        scrub: &mut Scrub,
        low: Bound<Vec<u8>>,
        high: Bound<&[u8]>,
    ) -> Result<(usize, Option<Vec<u8>>), IndexFault> {
        let (mut entries, mut bytes, mut fault, mut full_at) = (0, 0, None, None);
        let mut visited = Vec::new();
        self.index.range(low.as_ref().map(Vec::as_slice), high, &mut |key, value| {
            match layout::verified_hash(key, value) {
                Ok(hash) => {
                    scrub.set.insert(hash);
                    visited.push((key.to_vec(), hash));
                }
                Err(error) => fault = Some(error),
            }
            entries += 1;
            bytes += key.len() + value.len();
            if fault.is_none() && entries < PAGE_ENTRIES && bytes < PAGE_BYTES {
                return ControlFlow::Continue(());
            }
            full_at = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        for (key, wanted) in visited {
            // In a damaged tree a key may stand where a point read does not look.
            let found = self.index.get(&key)?.map(|found| layout::verified_hash(&key, &found)).transpose()?;
            if found != Some(wanted) {
                return Err(IndexFault::Misplaced);
            }
        }
        Ok((entries, full_at))
    }
}
