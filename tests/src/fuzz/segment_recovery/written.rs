//! Written: a log as it was written and synced, with what a judge must know of it.
//!
//! * A number stands for a script of one to three lives: appends, votes, truncations, marks; each life ends stopped or killed.
//!   Written once, then kept.
//! * Every entry, vote and mark here was acknowledged.

use crate::harness::Rng;
use crate::planted::chance::Chance;
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSetBuilder};
use duramen_common::{HistoryId, PartitionId, RequestId, StoreId};
use duramen_log_service::disk::{Disk as _, MemDisk};
use duramen_log_service::store::frame::{FRAME_HEADER_BYTES, FrameKind, SEGMENT_HEADER_BYTES, parse_head, parse_state};
use duramen_log_service::store::recover::{Successors, scan};
use duramen_log_service::store::{
    DataFolder, EntryBody, EntryId, LogEntry, PartitionLog, Store, StoreConfig, StoreError, StoreIdentity,
    StoredMembership, StoredVote, SyncMode,
};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

/// How many scripts there are.
pub(super) const SCRIPTS: usize = 16;
pub(super) const PARTITION: PartitionId = PartitionId::new(0);

/// The partition's folder.
pub(super) fn folder() -> PathBuf {
    PathBuf::from("/data/partitions/0")
}

/// A segment file.
#[derive(Clone)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// Where its frames lie.
    pub(super) frames: Vec<Range<usize>>,
}

/// What the last segment says at the end of one of its frames.
pub(super) struct Mark {
    /// The frame.
    pub(super) frame: Range<usize>,
    /// Up to where the frame says that the segment was durable.
    pub(super) durable_end: usize,
    /// Index after the last entry so far.
    pub(super) next_index: u64,
    /// The vote so far.
    pub(super) vote: Option<StoredVote>,
}

/// A log.
pub(super) struct Written {
    /// Segments, in order.
    pub(super) files: Vec<File>,
    /// What else there is: a file kept for reuse.
    pub(super) spare: Option<PathBuf>,
    /// All entries, each at its place.
    pub(super) entries: Vec<LogEntry>,
    /// Votes that were ever given.
    pub(super) votes: Vec<StoredVote>,
    /// The frames of the last segment.
    pub(super) marks: Vec<Mark>,
}

impl Written {
    /// The log of a script, of which there are [`SCRIPTS`].
    pub(super) fn of(script: usize) -> &'static Written {
        static KNOWN: [OnceLock<Written>; SCRIPTS] = [const { OnceLock::new() }; SCRIPTS];
        let script = script % SCRIPTS;
        KNOWN[script].get_or_init(|| Author::new(script as u64).write())
    }

    /// The last segment.
    pub(super) fn last(&self) -> &File {
        self.files.last().expect("a log has a segment")
    }

    /// Where the frames of the last segment end. Unit: bytes.
    pub(super) fn end(&self) -> usize {
        self.marks.last().map_or(0, |mark| mark.frame.end)
    }
}

/// Opens the log that is on a disk.
pub(super) fn open(disk: &MemDisk, life: u64) -> Result<(Store, Result<PartitionLog, StoreError>), StoreError> {
    let folder = DataFolder::lock(std::sync::Arc::new(disk.clone()), Path::new("/data"))?;
    let identity = StoreIdentity { history: HistoryId::from_bits(7), store: StoreId::from_bits(7) };
    // The cache holds little, so that files are read.
    let config = StoreConfig { segment_bytes: 4096, reserve_bytes: 0, cache_bytes_max: 2048, ..StoreConfig::default() };
    let entropy = std::sync::Arc::new(Chance::new(life, 1));
    let store = Store::open(folder, identity, config, entropy, SyncMode::Manual)?;
    let log = store.open_partition(PARTITION);
    Ok((store, log))
}

/// Writes a log.
struct Author {
    disk: MemDisk,
    rng: Rng,
    script: u64,
    term: u64,
    votes: Vec<StoredVote>,
}

impl Author {
    fn new(script: u64) -> Author {
        Author { disk: MemDisk::new(), rng: Rng::seeded(script), script, term: 1, votes: Vec::new() }
    }

    fn write(mut self) -> Written {
        let lives = 1 + self.script % 3;
        let mut entries = Vec::new();
        for life in 0..lives {
            let (store, log) = open(&self.disk, self.script * 10 + life).expect("nobody else has the folder");
            let log = log.expect("an undamaged log opens");
            self.live(&store, &log).expect("nothing fails here");
            entries = log.read_entries(0, u64::MAX, usize::MAX).expect("an undamaged log reads");
            if (self.script + life).is_multiple_of(2) {
                store.close();
            }
            drop((store, log));
            self.disk.kill();
        }
        self.look(entries)
    }

    fn live(&mut self, store: &Store, log: &PartitionLog) -> Result<(), StoreError> {
        let steps = 4 + self.rng.below(12);
        for _ in 0..steps {
            match self.rng.below(12) {
                0..=6 => self.append(log)?,
                7 | 8 => {
                    self.term += 1;
                    let vote = StoredVote { term: self.term, node: 1 + self.rng.below(3) as u64, committed: true };
                    stepping(store, log.save_vote(vote))?;
                    self.votes.push(vote);
                }
                9 => self.commit(log),
                10 => {
                    self.term += 1;
                    self.truncate(log)?;
                    self.append(log)?;
                }
                _ => {
                    store.step_idle();
                }
            }
            store.step();
        }
        Ok(())
    }

    fn append(&mut self, log: &PartitionLog) -> Result<(), StoreError> {
        let next = log.state().last.map_or(0, |last| last.index + 1);
        let mut entries = Vec::new();
        for index in next..=next + self.rng.below(6) as u64 {
            entries.push(entry(EntryId { term: self.term, index }, self.rng.below(5), self.rng.below(200)));
        }
        log.append(entries, Box::new(|_| {}))
    }

    /// Some entries are known to be committed.
    fn commit(&mut self, log: &PartitionLog) {
        let (start, end) = (log.ends().committed_end, log.ends().durable_end);
        let entries = log.read_entries(0, u64::MAX, usize::MAX).expect("an undamaged log reads");
        let ends = entries.iter().filter_map(|entry| match &entry.body {
            EntryBody::Batch(batch) => Some((entry.id, batch.header().end())),
            EntryBody::Blank | EntryBody::Membership(_) => None,
        });
        let ahead: Vec<_> = ends.filter(|&(_, offset)| offset > start && offset <= end).collect();
        if ahead.is_empty() {
            return;
        }
        let (id, offset_end) = *self.rng.pick(&ahead);
        let membership = StoredMembership { id: None, bytes: Bytes::from_static(b"members") };
        log.advance_committed(id, offset_end, Some(membership));
    }

    /// The log goes back, but never before what is known to be committed.
    fn truncate(&mut self, log: &PartitionLog) -> Result<(), StoreError> {
        let entries = log.read_entries(0, u64::MAX, usize::MAX)?;
        let floor = log.state().small.committed.map_or(0, |committed| committed.index + 1) as usize;
        if entries.len() > floor {
            let keep = floor + self.rng.below(entries.len() - floor);
            log.truncate_after(keep.checked_sub(1).map(|last| entries[last].id))?;
        }
        Ok(())
    }

    fn look(self, entries: Vec<LogEntry>) -> Written {
        let folder = folder();
        let names = self.disk.list(&folder).expect("it was made");
        let file = |name: &String| {
            let path = folder.join(name);
            let bytes = self.disk.bytes(&path);
            File { frames: frames(&bytes), path, bytes }
        };
        let files: Vec<File> = names.iter().filter(|name| name.ends_with(".segment")).map(file).collect();
        let spare = names.iter().find(|name| name.ends_with(".spare")).map(|name| folder.join(name));
        let marks = marks(files.last().expect("a log has a segment"));
        Written { files, spare, entries, votes: self.votes, marks }
    }
}

/// An entry: blank, of members, or of so many records with so long a payload.
pub(super) fn entry(id: EntryId, kind: usize, payload_bytes: usize) -> LogEntry {
    let body = match kind {
        0 => EntryBody::Blank,
        1 => EntryBody::Membership(Bytes::from_static(b"members")),
        count => {
            let mut builder = RecordSetBuilder::default();
            for number in 0..count as u64 - 1 {
                let request = RequestId::from_bits(u128::from(id.term) << 64 | u128::from(id.index) << 8).plus(number);
                let payload = Bytes::from(format!("{}/{}/{number}/", id.term, id.index).repeat(1 + payload_bytes / 8));
                builder.push(request, &Record::event(None, payload)).expect("a short event");
            }
            EntryBody::Batch(RecordBatch::build(&[builder.finish()], 1_700_000_000_000))
        }
    };
    LogEntry { id, body }
}

fn frames(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut frames: Vec<Range<usize>> = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Ok(head) = parse_head(bytes.get(at..).unwrap_or_default()) {
        frames.push(at..at + head.frame_bytes());
        at += head.frame_bytes();
    }
    frames
}

fn marks(file: &File) -> Vec<Mark> {
    let scan = scan(&file.bytes, Successors::None).expect("it is undamaged");
    let mut next_index = scan.header.base_index;
    let mut vote = None;
    let mark = |frame: &duramen_log_service::store::recover::FoundFrame| {
        let start = frame.position as usize;
        next_index += u64::from(frame.head.kind.is_entry());
        if frame.head.kind == FrameKind::State {
            let payload = start + FRAME_HEADER_BYTES..start + FRAME_HEADER_BYTES + frame.head.length;
            vote = parse_state(&file.bytes[payload]).expect("it is undamaged").vote;
        }
        let durable_end = frame.head.durable_end as usize;
        Mark { frame: start..start + frame.head.frame_bytes(), durable_end, next_index, vote }
    };
    scan.frames.iter().map(mark).collect()
}

/// A future's value, with the sync work done for it.
fn stepping<T>(store: &Store, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        store.step();
    }
}
