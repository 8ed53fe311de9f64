//! A map in one folder of sled: the caller's whole values outside, pieces inside.
//!
//! * A write looks up what it replaces: so the old value's pieces are known, and the tally stays exact. The leaf is needed for
//!   the write anyway.
//! * A point read is two steps where a value is cut. When the pieces are not there, the stub is read again: another stub means
//!   that a write came between, the same one means damage.
//! * Invariant: a stub is found only with its pieces, also after a kill: they are in sled's log before it, and removed after it.
//! * Source: ADR 0013.

use super::pieces::{
    PIECE_BYTES, RESERVED, Stored, Stub, TALLY_KEY, Tally, decode, encode_whole, is_reserved, piece_key,
};
use crate::index::{IndexError, Visit, Witness, WriteError, Writes};
use bytes::Bytes;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pieces that are written or removed at once.
const STEP_PIECES: usize = 50;
/// Room that is made at once for the pieces of a value: those of 1 MiB.
const CAPACITY_PIECES: usize = 205;
/// A batch of more than this waits until what was written before is out of sled's buffers.
const LARGE_BATCH_BYTES: u64 = 256 << 10;

/// How often, and how far apart, an open is tried again while sled's lock is held: 5 seconds in all.
const UNLOCK_TRIES: usize = 500;
const UNLOCK_PAUSE: Duration = Duration::from_millis(10);

/// How a folder is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapConfig {
    pub cache_bytes: u64,
    pub flush_every_ms: u64,
}

pub(super) struct Map {
    db: Option<sled::Db>,
    folder: PathBuf,
    is_retired: AtomicBool,
}

pub(super) fn failed(action: &'static str) -> impl FnOnce(sled::Error) -> IndexError {
    move |error| IndexError { kind: "sled", action, reason: error.to_string() }
}

fn damaged(what: &str) -> IndexError {
    IndexError { kind: "sled", action: "reading", reason: format!("damaged: {what}") }
}

fn refused(reason: String) -> IndexError {
    IndexError { kind: "sled", action: "writing", reason }
}

fn pieces_missing() -> IndexError {
    damaged("pieces of a value are missing or wrong")
}

/// Nothing was written.
fn nothing(error: IndexError) -> WriteError {
    WriteError::Nothing(error.into())
}

/// Opens once nothing in this process holds sled's lock on the file any more.
///
/// The index folder is locked by its owner, so no other process can hold it. This one can, shortly after the file was closed:
/// sled's threads finish what they were writing, and a child process has every open file until its program starts.
fn open_unlocked(folder: &Path, config: MapConfig) -> Result<sled::Db, sled::Error> {
    let sled =
        sled::Config::new().path(folder).cache_capacity(config.cache_bytes).flush_every_ms(Some(config.flush_every_ms));
    for _ in 0..UNLOCK_TRIES {
        match sled.open() {
            Err(error) if is_locked(&error) => {
                #[expect(clippy::disallowed_methods, reason = "nothing tells when the lock is released")]
                std::thread::sleep(UNLOCK_PAUSE);
            }
            opened => return opened,
        }
    }
    sled.open()
}

/// sled gives no kind for this error, only a text.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

/// Frees what a batch of `writes` has replaced. sled copies a node at every insert and leaves the old one to epoch
/// collection, which runs once in 128 pins; a batch pins once, so that without this hundreds of megabytes of old nodes
/// pile up behind large batches. One flush collects at most 8 bags of 64; three epochs must pass.
fn collect_garbage(writes: usize) {
    for _ in 0..3 + writes / 128 {
        crossbeam_epoch::pin().flush();
    }
}

/// What a write has done.
pub(super) struct Written {
    /// How many bytes of entries came and went.
    pub churned: u64,
    /// The entry that the witness has added.
    pub closing: Option<(Vec<u8>, Vec<u8>)>,
}

/// What a write is going to do.
#[derive(Default)]
struct Plan {
    /// As it is afterwards.
    tally: Tally,
    churned: u64,
    made: Writes,
    batch: Writes,
    dropped: Writes,
}

impl Plan {
    /// What stands under a key goes; says what that is.
    fn replace<'s>(&mut self, key: &[u8], stored: Option<&'s [u8]>) -> Result<Option<Stored<'s>>, WriteError> {
        if is_reserved(key) {
            return Err(nothing(refused("keys that begin with ff ff ff belong to the index".to_owned())));
        }
        let Some(stored) = stored else { return Ok(None) };
        let old = decode(stored).ok_or_else(|| nothing(damaged("an entry")))?;
        if let Stored::Cut(stub) = old {
            self.dropped.extend((0..stub.count()).map(|number| (piece_key(stub.generation, number), None)));
        }
        let weight = Tally::stored_weight(key, old);
        self.tally.live_bytes = self.tally.live_bytes.saturating_sub(weight);
        self.churned += weight;
        Ok(Some(old))
    }

    /// What is to stand under a key.
    fn add(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), WriteError> {
        let Some(value) = value else {
            self.batch.push((key, None));
            return Ok(());
        };
        let weight = Tally::weight(&key, value.len());
        self.tally.live_bytes += weight;
        self.churned += weight;
        if value.len() <= PIECE_BYTES {
            self.batch.push((key, Some(encode_whole(value))));
            return Ok(());
        }
        let stub = Stub::of(self.tally.next_generation, &value)
            .ok_or_else(|| nothing(refused(format!("a value of {} bytes is too long", value.len()))))?;
        self.tally.next_generation += 1;
        let pieces = (0..).zip(value.chunks(PIECE_BYTES));
        self.made.extend(pieces.map(|(number, piece)| (piece_key(stub.generation, number), Some(piece.to_vec()))));
        self.batch.push((key, Some(stub.encode())));
        Ok(())
    }
}

impl Map {
    /// Opens what is there, or makes it; with its tally.
    pub fn open(folder: &Path, config: MapConfig) -> Result<(Map, Tally), IndexError> {
        let db = open_unlocked(folder, config).map_err(failed("opening"))?;
        let tally = match db.get(TALLY_KEY).map_err(failed("reading the tally"))? {
            Some(bytes) => Tally::decode(&bytes).ok_or_else(|| damaged("the tally has the wrong length"))?,
            None if db.is_empty() => Tally::default(),
            None => return Err(damaged("the tally is missing")),
        };
        Ok((Map { db: Some(db), folder: folder.to_path_buf(), is_retired: AtomicBool::new(false) }, tally))
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("a map has its database until it is dropped")
    }

    /// Another folder counts now: this one is removed once nobody reads in it any more.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A key's value.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, IndexError> {
        if is_reserved(key) {
            return Ok(None);
        }
        let mut overtaken = None;
        loop {
            let Some(stored) = self.stored(key)? else { return Ok(None) };
            let stub = match decode(&stored).ok_or_else(|| damaged("an entry"))? {
                Stored::Whole(value) => return Ok(Some(Bytes::copy_from_slice(value))),
                Stored::Cut(stub) => stub,
            };
            if let Some(value) = self.assemble(stub)? {
                return Ok(Some(value));
            }
            // Each turn has seen another write of this key.
            if overtaken.replace(stub) == Some(stub) {
                return Err(pieces_missing());
            }
        }
    }

    fn stored(&self, key: &[u8]) -> Result<Option<sled::IVec>, IndexError> {
        self.db().get(key).map_err(failed("reading"))
    }

    /// The value that a stub leads to; `None` when its pieces are not there as it says.
    fn assemble(&self, stub: Stub) -> Result<Option<Bytes>, IndexError> {
        let count = stub.count();
        // A damaged stub may say anything.
        let mut value = Vec::with_capacity((count as usize).min(CAPACITY_PIECES) * PIECE_BYTES);
        let pieces = self.db().range(piece_key(stub.generation, 0)..piece_key(stub.generation, count));
        for (number, piece) in (0..count).zip(pieces) {
            let (key, bytes) = piece.map_err(failed("reading pieces"))?;
            if key != piece_key(stub.generation, number) || bytes.len() > PIECE_BYTES {
                return Ok(None);
            }
            value.extend_from_slice(&bytes);
        }
        Ok(stub.fits(&value).then(|| Bytes::from(value)))
    }

    /// Visits the caller's keys in order until told to break.
    pub fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, visit: Visit<'_>) -> Result<(), IndexError> {
        let end = match end {
            Bound::Included(key) | Bound::Excluded(key) if !is_reserved(key) => end,
            _ => Bound::Excluded(RESERVED),
        };
        if let Bound::Included(start) | Bound::Excluded(start) = start
            && is_reserved(start)
        {
            return Ok(());
        }
        for entry in self.db().range::<&[u8], _>((start, end)) {
            let (key, stored) = entry.map_err(failed("reading a range"))?;
            let shown = match decode(&stored).ok_or_else(|| damaged("an entry"))? {
                Stored::Whole(value) => visit(&key, value),
                // Read anew: a write may have come between, and the key may be gone.
                Stored::Cut(_) => match self.get(&key)? {
                    Some(value) => visit(&key, &value),
                    None => continue,
                },
            };
            if shown.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Applies writes, all or none, with what the witness adds. The tally is of what is stored, if this succeeds.
    ///
    /// New pieces go first, while nothing leads to them, then in one batch the stubs and everything else, then the old pieces
    /// are removed. sled finds again what it logged up to some point, so that a kill in between leaves at most pieces that
    /// nothing leads to; the next copy drops them.
    pub fn write(
        &self,
        tally: &mut Tally,
        mut writes: Writes,
        witness: Option<&mut dyn Witness>,
    ) -> Result<Written, WriteError> {
        let mut plan = Plan { tally: *tally, ..Plan::default() };
        let mut closing = None;
        if let Some(witness) = witness {
            for (number, (key, _)) in writes.iter().enumerate() {
                let stored = self.stored(key).map_err(nothing)?;
                let seen = match plan.replace(key, stored.as_deref())? {
                    Some(Stored::Cut(stub)) => {
                        let value = self.assemble(stub).and_then(|value| value.ok_or_else(pieces_missing));
                        witness.replaces(number, key, Some(&value.map_err(nothing)?))
                    }
                    Some(Stored::Whole(value)) => witness.replaces(number, key, Some(value)),
                    None => witness.replaces(number, key, None),
                };
                seen.map_err(WriteError::Nothing)?;
            }
            let (key, value) = witness.closing();
            plan.replace(&key, self.stored(&key).map_err(nothing)?.as_deref())?;
            closing = Some((key.clone(), value.clone()));
            writes.push((key, Some(value)));
        } else {
            for (key, _) in &writes {
                plan.replace(key, self.stored(key).map_err(nothing)?.as_deref())?;
            }
        }
        for (key, value) in writes {
            plan.add(key, value)?;
        }
        plan.batch.push((TALLY_KEY.to_vec(), Some(plan.tally.encode())));
        self.apply_in_steps(plan.made)?;
        if plan.churned > LARGE_BATCH_BYTES {
            // So that its buffers find free threads: see there.
            self.flush()?;
        }
        self.apply(plan.batch)?;
        self.apply_in_steps(plan.dropped)?;
        *tally = plan.tally;
        Ok(Written { churned: plan.churned, closing })
    }

    /// Applies a few pieces at a time and waits until they are written. sled writes its buffers on seven threads, and comes to
    /// a stop for good when all of them wait for an allocation that itself waits for the file to be cut, behind them in the
    /// queue. A few pieces are two buffers.
    fn apply_in_steps(&self, mut writes: Writes) -> Result<(), IndexError> {
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(STEP_PIECES));
            self.apply(std::mem::replace(&mut writes, rest))?;
            self.flush()?;
        }
        Ok(())
    }

    /// One atomic batch.
    fn apply(&self, writes: Writes) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        let count = writes.len();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db().apply_batch(batch).map_err(failed("writing"))?;
        collect_garbage(count);
        Ok(())
    }

    /// Hands everything to the kernel.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db().flush().map(drop).map_err(failed("flushing"))
    }

    /// Brings everything onto the medium: sled on Linux leaves that to the kernel.
    pub fn sync(&self) -> Result<(), IndexError> {
        self.flush()?;
        crate::index::store::sync_tree(&self.folder).map_err(|error| IndexError {
            kind: "sled",
            action: "syncing files",
            reason: error.to_string(),
        })
    }

    #[cfg(test)]
    pub fn raw(&self) -> &sled::Db {
        self.db()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // Its files are its own until here.
        drop(self.db.take());
        if self.is_retired.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "not removed now: the next start removes it");
        }
    }
}
