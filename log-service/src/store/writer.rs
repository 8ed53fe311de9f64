//! The writing end of a partition: frames into the active segment, a new segment when it is full or the log goes back.
//!
//! * In: frames in call order. Out: bytes on the medium when `sync` returned `Ok`.
//! * Invariants: a segment is synced and cut to its end before its successor gets a name; a segment's header and start
//!   state are synced before it gets its name, and its folder before anything else goes into it.
//! * A truncation is a segment whose base lies before its predecessor's end: within a segment, entries are dense.
//! * A full disk is no damage: a call that met it has changed nothing that counts, and can be made again. What was gathered stays
//!   gathered until it is durable, because a sync that found no space has lost what it should have written.
//! * Deliberately absent: other retries; after any other error the caller never writes again.
//! * Source: DESIGN D2; docs/adr/0003-segment-store.md.

use super::StoreError;
use super::frame::{
    FrameKind, SEGMENT_HEADER_BYTES, SegmentHeader, body_bytes, encode_frame, encode_state, entry_payload, frame_bytes,
    seal,
};
use super::handles::{Handle, OpenFiles};
use super::reserve::Reserve;
use super::segment::{Point, Segment};
use super::types::{LogEntry, SmallState, StoreConfig, StoreIdentity};
use crate::disk::{Disk, DiskFile};
use duramen_common::ids::{Offset, PartitionId};
use duramen_common::planted::{Plant, is_planted};
use duramen_common::seams::Entropy;
use duramen_common::shortage::is_no_space;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Extension of segments.
pub const SEGMENT_SUFFIX: &str = ".segment";
/// Extension of files kept for reuse.
pub const SPARE_SUFFIX: &str = ".spare";
/// A segment that has no name yet.
pub const UNNAMED: &str = "unnamed.tmp";

/// What every part of one partition's store needs.
#[derive(Clone)]
pub struct Place {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The partition's folder.
    pub folder: PathBuf,
    /// Whose.
    pub identity: StoreIdentity,
    /// Which.
    pub partition: PartitionId,
    /// Length of its segments. Unit: bytes.
    pub segment_bytes: u64,
    /// Limits.
    pub config: Arc<StoreConfig>,
    /// What is left when the disk is full.
    pub reserve: Arc<Reserve>,
    /// For segments' random ids.
    pub entropy: Arc<dyn Entropy>,
    /// Which files are open.
    pub files: Arc<OpenFiles>,
}

/// Where a new segment begins.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Index of its first entry.
    pub index: u64,
    /// Offset of its first record.
    pub offset: Offset,
    /// Term of the entry before.
    pub term: u64,
    /// Nothing before it counts any more.
    pub baseline: bool,
}

/// The writing end.
pub struct Writer {
    place: Place,
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    at: Point,
    last_term: u64,
    durable: u64,
    heads: Vec<Gathered>,
    gathered_bytes: u64,
    points: Vec<Point>,
}

/// One frame on its way: its header and name, its body, its padding.
struct Gathered {
    head: Vec<u8>,
    body: bytes::Bytes,
    padding: usize,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file of a segment.
    #[must_use]
    pub fn segment_path(&self, sequence: u64) -> PathBuf {
        self.path(&format!("{sequence:020}{SEGMENT_SUFFIX}"))
    }

    pub(super) fn io<T>(&self, what: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::io(what, path, error))
    }

    /// Fails when a file is not the one under its name any more: what goes into it would be lost with its last handle.
    fn check_named(&self, file: &dyn DiskFile, path: &Path) -> Result<(), StoreError> {
        if self.io("looking for", path, file.is_named(path))? {
            return Ok(());
        }
        Err(StoreError::Taken { file: path.to_path_buf() })
    }

    /// Makes a segment with its start state, durably, and gives it its name.
    pub fn create_segment(
        &self,
        sequence: u64,
        base: Base,
        previous: Option<(u64, u64)>,
        state: &SmallState,
    ) -> Result<Writer, StoreError> {
        self.create_filled_segment(sequence, base, previous, state, &[])
    }

    /// The same, with entries in it that are as durable as the segment's name.
    pub fn create_filled_segment(
        &self,
        sequence: u64,
        base: Base,
        previous: Option<(u64, u64)>,
        state: &SmallState,
        entries: &[LogEntry],
    ) -> Result<Writer, StoreError> {
        loop {
            match self.try_create_segment(sequence, base, previous, state, entries) {
                Err(error) if error.is_no_space() && self.reserve.give() => {}
                settled => return settled,
            }
        }
    }

    fn try_create_segment(
        &self,
        sequence: u64,
        base: Base,
        previous: Option<(u64, u64)>,
        state: &SmallState,
        entries: &[LogEntry],
    ) -> Result<Writer, StoreError> {
        let header = SegmentHeader {
            identity: self.identity,
            partition: self.partition,
            sequence,
            random_id: self.entropy.bits(),
            base_index: base.index,
            base_offset: base.offset,
            base_term: base.term,
            baseline: base.baseline,
            previous,
        };
        let unnamed = self.path(UNNAMED);
        let names = self.io("listing", &self.folder, self.disk.list(&self.folder))?;
        if let Some(spare) = names.iter().find(|name| name.ends_with(SPARE_SUFFIX)) {
            self.io("renaming", &unnamed, self.disk.rename(&self.path(spare), &unnamed))?;
        }
        let file = self.io("creating", &unnamed, self.disk.open(&unnamed, true))?;
        let free = self.io("asking for space in", &self.folder, self.disk.free_bytes(&self.folder))?;
        let has_room = free >= self.segment_bytes.saturating_add(self.config.reserve_bytes);
        let ahead = if has_room { self.segment_bytes } else { self.reserve.piece_bytes() / 2 };
        match file.allocate(ahead) {
            // Others may have been faster: the segment then begins without space of its own.
            Err(error) if is_no_space(&error) => {}
            allocated => self.io("reserving", &unnamed, allocated)?,
        }
        let (frames, filled) = first_frames(&header, base, state, entries);
        self.io("writing", &unnamed, file.write_at(&[&header.encode(), &frames], 0))?;
        self.io("syncing", &unnamed, file.sync_data())?;
        let path = self.segment_path(sequence);
        // Never over a file that somebody else made; and what has the name now is what was written.
        self.io("renaming", &path, self.disk.rename_new(&unnamed, &path))?;
        self.check_named(&*file, &path)?;
        if let Err(error) = self.disk.sync_dir(&self.folder) {
            // A next try needs the name.
            if is_no_space(&error) {
                self.io("renaming", &unnamed, self.disk.rename(&path, &unnamed))?;
            }
            return Err(StoreError::io("syncing", &self.folder, error));
        }
        let handle = Handle::kept(&self.disk, &path, &self.files, Arc::clone(&file));
        let segment = Arc::new(Segment::new(header, handle, filled.position, true));
        Ok(Writer {
            place: self.clone(),
            segment,
            file,
            at: filled,
            last_term: entries.last().map_or(base.term, |last| last.id.term),
            durable: filled.position,
            heads: Vec::new(),
            gathered_bytes: 0,
            points: Vec::new(),
        })
    }

    /// Removes a segment that counts no more, or keeps its file as a spare. A file that somebody still reads is not
    /// written over.
    pub fn discard(&self, segment: Arc<Segment>) -> Result<(), StoreError> {
        let path = segment.path().to_path_buf();
        let sequence = segment.header.sequence;
        let unread = match Arc::try_unwrap(segment) {
            Ok(_) => true,
            Err(segment) => {
                self.io("opening", &path, segment.keep())?;
                false
            }
        };
        let names = self.io("listing", &self.folder, self.disk.list(&self.folder))?;
        let spares = names.iter().filter(|name| name.ends_with(SPARE_SUFFIX)).count();
        if unread && spares < self.config.spares_max {
            let spare = self.path(&format!("{sequence:020}{SPARE_SUFFIX}"));
            self.io("renaming", &path, self.disk.rename(&path, &spare))?;
        } else {
            self.io("removing", &path, self.disk.remove(&path))?;
        }
        self.io("syncing", &self.folder, self.disk.sync_dir(&self.folder))
    }
}

/// What a segment has when it gets its name, and the place behind it: its start state; entries, and then a marker, without
/// which damage to them would pass for a torn tail.
fn first_frames(header: &SegmentHeader, base: Base, state: &SmallState, entries: &[LogEntry]) -> (Vec<u8>, Point) {
    let seed = header.seed();
    let mut frames = Vec::new();
    let mut at =
        Point { position: SEGMENT_HEADER_BYTES as u64, previous_crc: seed, index: base.index, offset: base.offset };
    let mut push = |at: &mut Point, kind, payload: &[u8], durable_end| {
        let (frame, crc) = encode_frame(kind, payload, seed, at.previous_crc, durable_end);
        at.position += frame.len() as u64;
        at.previous_crc = crc;
        frames.extend_from_slice(&frame);
    };
    push(&mut at, FrameKind::State, &encode_state(state), SEGMENT_HEADER_BYTES as u64);
    let durable_end = at.position;
    for entry in entries {
        let payload = entry_payload(entry, at.offset);
        push(&mut at, body_bytes(&entry.body).0, &payload, durable_end);
        at.index = entry.id.index + 1;
        at.offset = at.offset.plus(entry.body.offset_count());
    }
    if !entries.is_empty() {
        let durable_end = at.position;
        push(&mut at, FrameKind::Marker, &[], durable_end);
    }
    (frames, at)
}

impl Writer {
    /// Where it writes.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The segment that grows.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Whether an entry should go to the next segment.
    #[must_use]
    pub fn is_full_for(&self, entry: &LogEntry) -> bool {
        let frame = frame_bytes(super::frame::ENTRY_PREFIX_BYTES + entry.body.bytes_len()) as u64;
        let has_entries = self.at.index > self.segment.header.base_index;
        has_entries && self.at.position + frame > self.place.segment_bytes
    }

    /// Gathers an entry.
    pub fn entry(&mut self, entry: &LogEntry, first_offset: Offset) {
        let (kind, body) = body_bytes(&entry.body);
        let prefix = super::frame::entry_prefix(entry.id, first_offset);
        let (head, crc, padding) =
            seal(kind, &[&prefix, body], self.segment.header.seed(), self.at.previous_crc, self.durable);
        let shared = match &entry.body {
            super::EntryBody::Batch(batch) => batch.bytes().clone(),
            super::EntryBody::Blank => bytes::Bytes::new(),
            super::EntryBody::Membership(bytes) => bytes.clone(),
        };
        let mut front = Vec::with_capacity(head.len() + prefix.len());
        front.extend_from_slice(&head);
        front.extend_from_slice(&prefix);
        self.points.push(self.at);
        self.advance(Gathered { head: front, body: shared, padding }, crc);
        self.last_term = entry.id.term;
        self.at.index = entry.id.index + 1;
        self.at.offset = first_offset.plus(entry.body.offset_count());
    }

    /// Gathers the small state.
    pub fn state(&mut self, state: &SmallState) {
        self.control(FrameKind::State, encode_state(state));
    }

    /// Gathers a frame that only records the durable end.
    pub fn marker(&mut self) {
        self.control(FrameKind::Marker, bytes::Bytes::new());
    }

    fn control(&mut self, kind: FrameKind, payload: bytes::Bytes) {
        let seed = self.segment.header.seed();
        let (head, crc, padding) = seal(kind, &[&payload], seed, self.at.previous_crc, self.durable);
        self.advance(Gathered { head: head.to_vec(), body: payload, padding }, crc);
    }

    fn advance(&mut self, gathered: Gathered, crc: u32) {
        let bytes = (gathered.head.len() + gathered.body.len() + gathered.padding) as u64;
        self.heads.push(gathered);
        self.gathered_bytes += bytes;
        self.at.position += bytes;
        self.at.previous_crc = crc;
    }

    /// Writes what is gathered; harmless when done twice.
    pub fn write(&mut self) -> Result<(), StoreError> {
        if self.heads.is_empty() {
            return Ok(());
        }
        let zeros = [0u8; 8];
        let slices: Vec<&[u8]> = self
            .heads
            .iter()
            .flat_map(|frame| [&frame.head[..], &frame.body[..], &zeros[..frame.padding]])
            .filter(|slice| !slice.is_empty())
            .collect();
        let start = self.at.position - self.gathered_bytes;
        let file = &self.file;
        loop {
            match file.write_at(&slices, start) {
                Ok(()) => return Ok(()),
                Err(error) if is_no_space(&error) && self.place.reserve.give() => {
                    // Half of what was given is taken at once, for the next small frames, before anybody else takes it.
                    let ahead = self.at.position + self.place.reserve.piece_bytes() / 2;
                    match file.allocate(ahead) {
                        // Part of it may be taken all the same; the write finds out whether it fits.
                        Err(error) if is_no_space(&error) => {}
                        allocated => self.place.io("reserving", self.segment.path(), allocated)?,
                    }
                }
                Err(error) => return Err(StoreError::io("writing", self.segment.path(), error)),
            }
        }
    }

    /// Waits until everything written is durable, then lets readers see it.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.durable == self.at.position {
            return Ok(());
        }
        if !is_planted(Plant::NoSyncBeforeAck)
            && let Err(error) = self.file.sync_data()
        {
            let error = StoreError::io("syncing", self.segment.path(), error);
            if !error.is_no_space() {
                self.heads.clear();
                self.gathered_bytes = 0;
            }
            return Err(error);
        }
        self.heads.clear();
        self.gathered_bytes = 0;
        // A file without its name is gone with this process: nothing in it may be acknowledged.
        self.place.check_named(&*self.file, self.segment.path())?;
        self.durable = self.at.position;
        for point in self.points.drain(..) {
            self.segment.note(point);
        }
        self.segment.publish(self.durable);
        Ok(())
    }

    /// Ends this segment and begins another.
    pub fn roll(&mut self, base: Base, state: &SmallState) -> Result<(), StoreError> {
        self.write()?;
        self.sync()?;
        let end = self.at.position;
        let path = self.segment.path();
        // Its real length: an allocation that failed may have made the file longer, too.
        if self.place.io("measuring", path, self.file.len())? > end {
            self.place.io("cutting", path, self.file.set_len(end))?;
            self.place.io("syncing", path, self.file.sync_data())?;
        }
        let sequence = self.segment.header.sequence;
        let previous = (!base.baseline).then_some((sequence, end));
        let next = self.place.create_segment(sequence + 1, base, previous, state)?;
        std::mem::replace(self, next).segment.settle();
        Ok(())
    }

    /// Where the next segment begins when this one is full.
    #[must_use]
    pub fn next_base(&self) -> Base {
        Base { index: self.at.index, offset: self.at.offset, term: self.last_term, baseline: false }
    }
}
