//! Copies the index into a fresh folder when its file has grown too large, while it is read and written.
//!
//! * `space` says when. A step moves [`STEP_BYTES`] and then rests, so that writers hardly wait.
//! * Invariant: a copy is whole and on the medium before it is named.
//! * A copy that fails is given up and tried again later. Damage in what is copied is kept for whoever calls next
//!   ([`Inner::check_copied`]): the index is then replaced.
//! * Source: ADR 0013.

use super::map::Map;
use super::pieces::Tally;
use super::space::{self, Look, ROOM_MULTIPLE};
use super::{Inner, Writer, copying_failed, file_failed, remove_folder, size_of, write_current};
use crate::index::panics::caught;
use crate::index::room::free_bytes;
use crate::index::store::sync_tree;
use crate::index::{IndexError, WriteError, Writes, check_folder};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether to copy.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a copy that failed is not tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// What a copy moves at once. Unit: bytes.
const STEP_BYTES: usize = 64 << 10;
/// After each step a copy rests this many times as long as the step took.
const REST: u32 = 3;

/// A copy that grows.
pub(super) struct FreshCopy {
    pub map: Map,
    pub tally: Tally,
    /// The last key that it has; `None` before the first.
    reached: Option<Vec<u8>>,
}

impl Inner {
    /// The copier's body.
    pub(super) fn keep_small(&self) {
        let mut pause = LOOK_EVERY;
        while !self.rests(pause) {
            pause = LOOK_EVERY;
            let Some(look) = self.look() else { continue };
            let began = Instant::now();
            // Damaged files make sled panic, here as in a reader's call.
            let copied = caught(|| self.copy());
            match copied.unwrap_or_else(|| Err(CopyError::Source(copying_failed("it panicked")))) {
                Ok(true) => {
                    let (before_bytes, after_bytes) = (look.size, self.writer.lock().size_before);
                    let took_ms = began.elapsed().as_millis();
                    tracing::info!(before_bytes, after_bytes, took_ms, "the index was copied to give space back");
                }
                Ok(false) => {}
                Err(CopyError::Source(error)) => {
                    tracing::warn!(%error, "damage was met while the index was copied");
                    self.writer.lock().give_up_copy();
                    *self.damage.write() = Some(error);
                    return;
                }
                Err(CopyError::Copy(error)) => {
                    tracing::warn!(%error, "the index could not be copied to give space back: tried again later");
                    self.writer.lock().give_up_copy();
                    pause = AGAIN_AFTER;
                }
            }
        }
    }

    /// Waits; says whether to stop.
    fn rests(&self, pause: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.stopped.wait_for(&mut stop, pause);
        }
        *stop
    }

    /// What there is to copy, if it is time and there is room.
    fn look(&self) -> Option<Look> {
        let size = size_of(self.map().folder());
        let mut writer = self.writer.lock();
        let look = Look {
            size,
            live: writer.tally.live_bytes,
            churned: writer.churned,
            churned_now: std::mem::take(&mut writer.churned_now),
            size_before: writer.size_before,
        };
        drop(writer);
        let needed = look.live.saturating_mul(ROOM_MULTIPLE).saturating_add(space::FREE_BYTES);
        let has_room = || free_bytes(&self.root).is_ok_and(|free| free > needed);
        (look.is_due() && has_room()).then_some(look)
    }

    /// Copies everything into the next folder, and lets that one count; `false` when it was given up.
    pub(super) fn copy(&self) -> Result<bool, CopyError> {
        let number = self.writer.lock().number + 1;
        let folder = self.root.join(number.to_string());
        remove_folder(&folder).map_err(file_failed("removing what a copy left"))?;
        let (map, tally) = Map::open(&folder, self.config)?;
        self.writer.lock().copy = Some(FreshCopy { map, tally, reached: None });
        loop {
            let began = Instant::now();
            if !self.step()? {
                break;
            }
            if self.rests(began.elapsed() * REST) {
                self.writer.lock().give_up_copy();
                return Ok(false);
            }
        }
        self.switch(number)
    }

    /// Moves the next keys into the copy; says whether there were any. What is visited must be what a point read finds: in a
    /// damaged tree they differ, and the copy would make one of them right.
    fn step(&self) -> Result<bool, CopyError> {
        let map = self.map();
        let mut writer = self.writer.lock();
        let Some(copy) = &mut writer.copy else { return Ok(false) };
        let start = copy.reached.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut moved, mut bytes): (Writes, usize) = (Vec::new(), 0);
        let visited = map.range(start, Bound::Unbounded, &mut |key, value| {
            bytes += key.len() + value.len();
            moved.push((key.to_vec(), Some(value.to_vec())));
            if bytes < STEP_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        visited.map_err(source_failed)?;
        for (key, value) in &moved {
            if map.get(key).map_err(source_failed)?.as_deref() != value.as_deref() {
                return Err(CopyError::Source(copying_failed("damaged: a key is not found where it stands")));
            }
        }
        let Some((last, _)) = moved.last() else { return Ok(false) };
        copy.reached = Some(last.clone());
        copy.map.write(&mut copy.tally, moved, None)?;
        // sled uses a segment again only once what replaced it is written.
        copy.map.flush()?;
        Ok(true)
    }

    /// The copy is whole: it counts from now on, and the folder before goes with its last reader.
    fn switch(&self, number: u64) -> Result<bool, CopyError> {
        // Most of it without holding writers up.
        sync_tree(&self.root.join(number.to_string())).map_err(file_failed("syncing a copy"))?;
        let mut writer = self.writer.lock();
        let Some(FreshCopy { map, tally, .. }) = writer.copy.take() else { return Ok(false) };
        if tally.live_bytes != writer.tally.live_bytes {
            return Err(CopyError::Source(copying_failed("the copy does not hold what the index holds")));
        }
        map.sync()?;
        check_folder("sled", &self.lock)?;
        write_current(&self.root, number).map_err(file_failed("naming a copy"))?;
        let size_before = size_of(map.folder());
        let before = std::mem::replace(&mut *self.map.write(), Arc::new(map));
        *writer = Writer { number, tally, copy: None, churned: 0, churned_now: 0, size_before };
        drop(writer);
        before.retire();
        Ok(true)
    }
}

/// Why a copy was not made.
#[derive(Debug)]
pub(super) enum CopyError {
    /// What was to be copied is damaged.
    Source(IndexError),
    /// The copy itself, or the disk that it would be on.
    Copy(IndexError),
}

impl From<IndexError> for CopyError {
    fn from(error: IndexError) -> CopyError {
        CopyError::Copy(error)
    }
}

impl From<WriteError> for CopyError {
    fn from(error: WriteError) -> CopyError {
        CopyError::Copy(error.into())
    }
}

/// Without descriptors, memory or space the index is as good as it was.
fn source_failed(error: IndexError) -> CopyError {
    match error.is_passing() {
        true => CopyError::Copy(error),
        false => CopyError::Source(error),
    }
}

impl FreshCopy {
    /// Whether the copying has come to this key.
    pub fn has(&self, key: &[u8]) -> bool {
        self.reached.as_ref().is_some_and(|reached| key <= &reached[..])
    }

    /// The writes to keys that the copy has come to. Later ones come with the copying.
    pub fn has_reached(&self, writes: &Writes) -> Writes {
        writes.iter().filter(|(key, _)| self.has(key)).cloned().collect()
    }
}
