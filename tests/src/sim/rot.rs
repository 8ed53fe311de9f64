//! Rot: which bits of a log node's files become others.
//!
//! * In: what is on the medium. Out: a place in it, and the bits. Nothing else is touched.
//! * Invariant: whatever rots can be told and mended by somebody. So it is one log node a run; one place a file; below what a frame
//!   that is durable itself records as durable; a single bit, or some bytes of an entry's body; and one place a
//!   partition among the newest files, where entries may be that are not committed: with two of those lost at once nobody may be
//!   able to help.
//! * Source: DESIGN D2 "Recovery"; docs/adr/0003-segment-store.md.

use super::settings::DATA_DIR;
use crate::harness::Rng;
use duramen_log_service::disk::{Disk as _, MemDisk};
use duramen_log_service::store::frame::{ENTRY_PREFIX_BYTES, FRAME_HEADER_BYTES};
use duramen_log_service::store::recover::{FoundFrame, Successors, scan};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Partitions by their folders' names.
const PARTITIONS: [&str; 3] = ["0", "1", "meta"];
/// The newest files of a partition: there, entries may be that are not committed.
const NEWEST: usize = 2;

/// What has rotted so far.
#[derive(Debug, Default)]
pub(super) struct Rot {
    files: BTreeSet<PathBuf>,
    /// Partitions of which a newest file has.
    newest: BTreeSet<&'static str>,
}

/// A place that is to rot.
#[derive(Debug)]
pub(super) struct Spot {
    pub file: PathBuf,
    /// Unit: bytes.
    pub position: u64,
    /// What is flipped from there on.
    pub masks: Vec<u8>,
}

impl Rot {
    /// The next place; it counts as rotten from now on. `None` when there is none.
    pub(super) fn next(&mut self, medium: &MemDisk, rng: &mut Rng) -> Option<Spot> {
        let mut old = Vec::new();
        let mut newest = Vec::new();
        for partition in PARTITIONS {
            let folder = Path::new(DATA_DIR).join("partitions").join(partition);
            let names = medium.list(&folder).unwrap_or_default();
            let files: Vec<PathBuf> =
                names.iter().filter(|name| name.ends_with(".segment")).map(|name| folder.join(name)).collect();
            let (before, last) = files.split_at(files.len().saturating_sub(NEWEST));
            old.extend(before.iter().filter(|file| !self.files.contains(*file)).cloned());
            if !self.newest.contains(partition) && !last.iter().any(|file| self.files.contains(file)) {
                newest
                    .extend(last.iter().enumerate().map(|(at, file)| (partition, at + 1 == last.len(), file.clone())));
            }
        }
        let spot = if !newest.is_empty() && (old.is_empty() || rng.in_thousand(500)) {
            let (partition, is_last, file) = rng.pick(&newest).clone();
            let spot = newest_spot(file, is_last, medium, rng)?;
            self.newest.insert(partition);
            spot
        } else if old.is_empty() {
            return None;
        } else {
            let file = rng.pick(&old).clone();
            let length = medium.bytes(&file).len();
            bit(file, 0..length, rng)?
        };
        self.files.insert(spot.file.clone());
        Some(spot)
    }
}

/// A bit anywhere in a range.
fn bit(file: PathBuf, range: Range<usize>, rng: &mut Rng) -> Option<Spot> {
    if range.is_empty() {
        return None;
    }
    let position = (range.start + rng.below(range.len())) as u64;
    Some(Spot { file, position, masks: vec![1 << rng.below(8)] })
}

/// A bit of any byte, or of a frame's header, or some bytes of an entry's body.
fn newest_spot(file: PathBuf, is_last: bool, medium: &MemDisk, rng: &mut Rng) -> Option<Spot> {
    let bytes = medium.bytes(&file);
    let found = scan(&bytes, Successors::None).ok()?;
    let end = if is_last { proven_end(&found.frames) } else { bytes.len() as u64 };
    let frames: Vec<&FoundFrame> = found.frames.iter().filter(|frame| end_of(frame) <= end).collect();
    let entries: Vec<&FoundFrame> = frames
        .iter()
        .copied()
        .filter(|frame| frame.head.kind.is_entry() && frame.head.length > ENTRY_PREFIX_BYTES)
        .collect();
    match rng.below(3) {
        0 if !entries.is_empty() => {
            let frame = rng.pick(&entries);
            let body = frame.position as usize + FRAME_HEADER_BYTES + ENTRY_PREFIX_BYTES;
            let length = frame.head.length - ENTRY_PREFIX_BYTES;
            let from = rng.below(length);
            let masks = (0..(length - from).min(1 + rng.below(32))).map(|_| 1 + rng.below(255) as u8).collect();
            Some(Spot { file, position: (body + from) as u64, masks })
        }
        1 if !frames.is_empty() => {
            let start = rng.pick(&frames).position as usize;
            bit(file, start..start + FRAME_HEADER_BYTES, rng)
        }
        _ => bit(file, 0..end as usize, rng),
    }
}

fn end_of(frame: &FoundFrame) -> u64 {
    frame.position + frame.head.frame_bytes() as u64
}

/// How far a file that is written to is durable, as frames record it that are durable themselves: its start state is, and what a
/// frame below a recorded end records.
fn proven_end(frames: &[FoundFrame]) -> u64 {
    let recorded = frames.iter().map(|frame| frame.head.durable_end).max().unwrap_or_default();
    let durable = frames.iter().filter(|frame| end_of(frame) <= recorded);
    let start = frames.first().map_or(0, end_of);
    durable.map(|frame| frame.head.durable_end).fold(start, u64::max)
}
