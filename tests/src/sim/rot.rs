//! Rot: which bits of a log node's files become others.
//!
//! * In: what is on the medium. Out: a place in it, and the bits. Nothing else is touched.
//! * Invariant: whatever rots can be told and mended by somebody. So it is one log node a run; one place a file; below what a frame
//!   that is durable itself records as durable; a single bit, or some bytes of a batch behind its header, by which it is
//!   still known; and one place a partition among the newest files, where entries may be that are not committed: with
//!   two of those lost at once nobody may be able to help.
//! * Source: DESIGN D2 "Recovery"; docs/adr/0003-segment-store.md.

use super::settings::DATA_DIR;
use crate::harness::Rng;
use duramen_common::batch::BATCH_HEADER_BYTES;
use duramen_log_service::disk::{Disk as _, MemDisk};
use duramen_log_service::store::frame::{ENTRY_PREFIX_BYTES, FRAME_HEADER_BYTES, FrameKind};
use duramen_log_service::store::recover::{FoundFrame, Successors, scan};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Partitions by their folders' names.
const PARTITIONS: [&str; 3] = ["0", "1", "meta"];
/// The newest files of a partition: there, entries may be that are not committed.
const NEWEST: usize = 2;
/// The last batches of a file.
const LAST: usize = 3;
/// Bytes of a frame before its batch's records.
const BEFORE_RECORDS: usize = FRAME_HEADER_BYTES + ENTRY_PREFIX_BYTES + BATCH_HEADER_BYTES;

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
    /// Whether anything has rotted.
    pub(super) fn has_begun(&self) -> bool {
        !self.files.is_empty()
    }

    /// A place in any file; it counts as rotten from now on. `None` when there is none.
    pub(super) fn anywhere(&mut self, medium: &MemDisk, rng: &mut Rng) -> Option<Spot> {
        let is_fresh = |file: &&PathBuf| !self.files.contains(*file);
        let files = PARTITIONS.map(|partition| segments(medium, partition));
        let old: Vec<&PathBuf> =
            files.iter().flat_map(|files| files.split_at(newest_of(files)).0).filter(is_fresh).collect();
        let newest = self.fresh_newest(medium);
        let spot = if !newest.is_empty() && (old.is_empty() || rng.in_thousand(500)) {
            let (partition, file, is_last) = rng.pick(&newest).clone();
            let spot = newest_spot(file, is_last, medium, rng)?;
            self.newest.insert(partition);
            spot
        } else if old.is_empty() {
            return None;
        } else {
            let file = (*rng.pick(&old)).clone();
            let length = medium.bytes(&file).len();
            bit(file, 0..length, rng)?
        };
        self.files.insert(spot.file.clone());
        Some(spot)
    }

    /// Some bytes of one of the last batches of a file that is written to; it counts as rotten from now on. `None` when there is none.
    pub(super) fn last_batch(&mut self, medium: &MemDisk, rng: &mut Rng) -> Option<Spot> {
        let candidates: Vec<(&str, PathBuf, FoundFrame)> = self
            .fresh_newest(medium)
            .into_iter()
            .flat_map(|(partition, file, is_last)| {
                let frames = proven_frames(&medium.bytes(&file), is_last);
                let batches: Vec<FoundFrame> = frames.into_iter().filter(is_batch).collect();
                let last = batches.len().saturating_sub(LAST);
                batches.into_iter().skip(last).map(move |frame| (partition, file.clone(), frame))
            })
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let (partition, file, frame) = rng.pick(&candidates).clone();
        self.newest.insert(partition);
        self.files.insert(file.clone());
        Some(records(file, &frame, rng))
    }

    /// The newest files of partitions of which none of them has rotted; whether each is the last.
    fn fresh_newest(&self, medium: &MemDisk) -> Vec<(&'static str, PathBuf, bool)> {
        let mut fresh = Vec::new();
        for partition in PARTITIONS.into_iter().filter(|partition| !self.newest.contains(partition)) {
            let files = segments(medium, partition);
            let newest = files.get(newest_of(&files)..).unwrap_or_default();
            if !newest.iter().any(|file| self.files.contains(file)) {
                let last = newest.last();
                fresh.extend(newest.iter().map(|file| (partition, file.clone(), Some(file) == last)));
            }
        }
        fresh
    }
}

fn segments(medium: &MemDisk, partition: &str) -> Vec<PathBuf> {
    let folder = Path::new(DATA_DIR).join("partitions").join(partition);
    let names = medium.list(&folder).unwrap_or_default();
    names.iter().filter(|name| name.ends_with(".segment")).map(|name| folder.join(name)).collect()
}

/// Where the newest of some files begin.
fn newest_of(files: &[PathBuf]) -> usize {
    files.len().saturating_sub(NEWEST)
}

/// A bit of any byte, or of a frame's header, or some bytes of a batch's records.
fn newest_spot(file: PathBuf, is_last: bool, medium: &MemDisk, rng: &mut Rng) -> Option<Spot> {
    let frames = proven_frames(&medium.bytes(&file), is_last);
    let batches: Vec<FoundFrame> = frames.iter().copied().filter(is_batch).collect();
    match rng.below(3) {
        0 if !batches.is_empty() => Some(records(file, rng.pick(&batches), rng)),
        1 if !frames.is_empty() => {
            let start = rng.pick(&frames).position as usize;
            bit(file, start..start + FRAME_HEADER_BYTES, rng)
        }
        _ => bit(file, 0..frames.last().map_or(0, end_of) as usize, rng),
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

/// Some bytes of a batch's records.
fn records(file: PathBuf, frame: &FoundFrame, rng: &mut Rng) -> Spot {
    let length = FRAME_HEADER_BYTES + frame.head.length - BEFORE_RECORDS;
    let from = rng.below(length);
    let masks = (0..(length - from).min(1 + rng.below(32))).map(|_| 1 + rng.below(255) as u8).collect();
    Spot { file, position: frame.position + (BEFORE_RECORDS + from) as u64, masks }
}

fn is_batch(frame: &FoundFrame) -> bool {
    frame.head.kind == FrameKind::Batch && FRAME_HEADER_BYTES + frame.head.length > BEFORE_RECORDS
}

fn end_of(frame: &FoundFrame) -> u64 {
    frame.position + frame.head.frame_bytes() as u64
}

/// Frames of which damage can be told for sure. In a file that is written to, those below what frames record as durable that are
/// durable themselves: the start state is, and what ends before a recorded end.
fn proven_frames(bytes: &[u8], is_last: bool) -> Vec<FoundFrame> {
    let Ok(found) = scan(bytes, Successors::None) else { return Vec::new() };
    let recorded = found.frames.iter().map(|frame| frame.head.durable_end).max().unwrap_or_default();
    let durable = found.frames.iter().filter(|frame| end_of(frame) <= recorded);
    let start = found.frames.first().map_or(0, end_of);
    let proven = durable.map(|frame| frame.head.durable_end).fold(start, u64::max);
    found.frames.into_iter().filter(|frame| !is_last || end_of(frame) <= proven).collect()
}
