//! Segment: one append-only file of a partition's log, as it is read.
//!
//! * In: positions that the writer publishes. Out: frames, verified along the chain, from a sparse index point on.
//! * The sparse index has a point about every 64 KiB (40 KiB of memory for a full segment); the writer feeds it while a
//!   segment grows, for an older one it is built on first use by walking the frames.
//! * Invariant: nothing is handed out that did not verify, and nothing beyond the published end is read.
//! * Source: docs/formats.md "Segment".

use super::StoreError;
use super::frame::{
    FRAME_HEADER_BYTES, FrameHead, FrameKind, SEGMENT_HEADER_BYTES, SegmentHeader, parse_frame, parse_head,
    parse_prefix,
};
use super::handles::Handle;
use crate::disk::DiskFile;
use bytes::Bytes;
use duramen_common::batch::BatchHeader;
use duramen_common::ids::Offset;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes between two points of the sparse index.
const POINT_EVERY_BYTES: u64 = 64 * 1024;
/// Bytes read from the file at once, unless a frame is larger.
const READ_BYTES: usize = 256 * 1024;

/// A place where reading can start.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Where the next frame starts. Unit: bytes.
    pub position: u64,
    /// CRC of the frame before it.
    pub previous_crc: u32,
    /// Index of the next entry.
    pub index: u64,
    /// Offset of the next record.
    pub offset: Offset,
}

impl Point {
    /// The place after a frame.
    #[must_use]
    pub fn after(self, head: &FrameHead, payload: &[u8]) -> Point {
        let mut next = Point { position: self.position + head.frame_bytes() as u64, previous_crc: head.crc, ..self };
        if head.kind.is_entry() {
            let (id, first_offset) = parse_prefix(payload);
            next.index = id.index + 1;
            next.offset = first_offset;
            if head.kind == FrameKind::Batch
                && let Ok(batch) =
                    BatchHeader::parse(payload.get(super::frame::ENTRY_PREFIX_BYTES..).unwrap_or_default())
            {
                next.offset = batch.end();
            }
        }
        next
    }
}

/// One file of the log.
pub struct Segment {
    /// Its fixed part.
    pub header: SegmentHeader,
    /// Its file, open or not.
    handle: Handle,
    end: AtomicU64,
    points: Mutex<Points>,
}

struct Points {
    list: Vec<Point>,
    whole: bool,
}

impl Segment {
    /// A segment that grows (`whole` points are fed by the writer) or one found on disk.
    #[must_use]
    pub fn new(header: SegmentHeader, handle: Handle, end: u64, fed: bool) -> Segment {
        let points = Mutex::new(Points { list: Vec::new(), whole: fed });
        Segment { header, handle, end: AtomicU64::new(end), points }
    }

    /// Where its file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.path()
    }

    /// It is only read from now on.
    pub fn settle(&self) {
        self.handle.settle();
    }

    /// Its file stays open for those who read it.
    pub fn keep(&self) -> std::io::Result<()> {
        self.handle.keep()
    }

    /// The place of its first frame.
    #[must_use]
    pub fn start(&self) -> Point {
        Point {
            position: SEGMENT_HEADER_BYTES as u64,
            previous_crc: self.header.seed(),
            index: self.header.base_index,
            offset: self.header.base_offset,
        }
    }

    /// How far it may be read. Unit: bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Lets readers go up to `end`.
    pub fn publish(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// Feeds the sparse index while the segment grows.
    pub fn note(&self, point: Point) {
        let mut points = self.points.lock();
        let last = points.list.last().map_or(0, |last| last.position);
        if point.position >= last + POINT_EVERY_BYTES {
            points.list.push(point);
        }
    }

    /// The latest point at or before what `before` accepts.
    fn floor(&self, before: impl Fn(&Point) -> bool) -> Result<Point, StoreError> {
        let mut points = self.points.lock();
        if !points.whole {
            // Damage ends the index, not the reading: whoever reads up to it meets it, and what was replaced is never read.
            let mut walk = Walk::new(self, self.start());
            let mut last = 0;
            loop {
                match walk.next_frame() {
                    Ok(Some(frame)) if frame.at.position >= last + POINT_EVERY_BYTES => {
                        last = frame.at.position;
                        points.list.push(frame.at);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(StoreError::Corrupt { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            points.whole = true;
        }
        let count = points.list.partition_point(before);
        Ok(count.checked_sub(1).and_then(|at| points.list.get(at).copied()).unwrap_or_else(|| self.start()))
    }

    /// Walks frames from a place at or before the entry of that index.
    pub fn walk_to_index(&self, index: u64) -> Result<Walk<'_>, StoreError> {
        Ok(Walk::new(self, self.floor(|point| point.index <= index)?))
    }

    /// Walks frames from a place at or before the batch with that offset.
    pub fn walk_to_offset(&self, offset: Offset) -> Result<Walk<'_>, StoreError> {
        Ok(Walk::new(self, self.floor(|point| point.offset <= offset)?))
    }

    fn corrupt(&self, at: Point, what: &str) -> StoreError {
        StoreError::Corrupt {
            file: self.path().to_path_buf(),
            position: at.position,
            what: what.to_owned(),
            index: at.index,
        }
    }
}

/// A verified frame.
pub struct WalkedFrame {
    /// Where it starts.
    pub at: Point,
    /// Its header.
    pub head: FrameHead,
    /// Its payload; shares the read buffer.
    pub payload: Bytes,
}

/// Reads frames one behind the other.
pub struct Walk<'a> {
    segment: &'a Segment,
    /// Open from the first read on.
    file: Option<Arc<dyn DiskFile>>,
    at: Point,
    buffer: Bytes,
    buffer_at: u64,
}

impl<'a> Walk<'a> {
    fn new(segment: &'a Segment, at: Point) -> Walk<'a> {
        Walk { segment, file: None, at, buffer: Bytes::new(), buffer_at: at.position }
    }

    /// Index of the entry that comes next.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.at.index
    }

    /// The next frame; `None` at the published end.
    pub fn next_frame(&mut self) -> Result<Option<WalkedFrame>, StoreError> {
        if self.at.position >= self.segment.end() {
            return Ok(None);
        }
        let head = parse_head(&self.bytes(FRAME_HEADER_BYTES)?).map_err(|what| self.segment.corrupt(self.at, what))?;
        let frame = self.bytes(head.frame_bytes())?;
        let (head, payload) =
            parse_frame(&frame, self.segment.header.seed()).map_err(|what| self.segment.corrupt(self.at, what))?;
        if head.previous_crc != self.at.previous_crc {
            return Err(self.segment.corrupt(self.at, "a frame that does not follow the one before it"));
        }
        if head.kind.is_entry() && parse_prefix(payload).0.index != self.at.index {
            return Err(self.segment.corrupt(self.at, "an entry out of order"));
        }
        let payload = frame.slice_ref(payload);
        let at = self.at;
        self.at = at.after(&head, &payload);
        Ok(Some(WalkedFrame { at, head, payload }))
    }

    /// `length` bytes at the current place; fewer at the published end.
    fn bytes(&mut self, length: usize) -> Result<Bytes, StoreError> {
        let skip = (self.at.position - self.buffer_at) as usize;
        if self.buffer.len() < skip + length {
            let room = (self.segment.end() - self.at.position) as usize;
            let mut buffer = vec![0; length.max(READ_BYTES).min(room)];
            let io = |what, error| StoreError::io(what, self.segment.path(), error);
            let file = match &self.file {
                Some(file) => file,
                None => self.file.insert(self.segment.handle.file().map_err(|error| io("opening", error))?),
            };
            let count = file.read_at(&mut buffer, self.at.position).map_err(|error| io("reading", error))?;
            buffer.truncate(count);
            self.buffer = Bytes::from(buffer);
            self.buffer_at = self.at.position;
            return Ok(self.buffer.slice(..length.min(count)));
        }
        Ok(self.buffer.slice(skip..skip + length))
    }
}
