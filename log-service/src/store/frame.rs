//! The bytes of segments: header, frames, and what stands in them. Pure: slices in, values out.
//!
//! * A frame's CRC is seeded with its segment's random id and covers the previous frame's CRC, which the frame repeats: so
//!   a frame verifies by itself (for scanning on past damage) and as part of the chain (for reading).
//! * Invariant: no byte of a segment up to its end is outside some checksum, padding included.
//! * Invariant: what is read is written again as the same bytes. Reserved bytes and flags that mean nothing yet are refused: who
//!   set them meant something.
//! * All integers are little-endian. Frames start at multiples of eight.
//! * Source: docs/formats.md "Segment", "Frame"; DESIGN D2.

use super::types::{EntryBody, EntryId, LogEntry, SmallState, StoreIdentity, StoredMembership, StoredVote};
use bytes::{BufMut as _, Bytes, BytesMut};
use duramen_common::batch::RecordBatch;
use duramen_common::ids::{HistoryId, Offset, PartitionId, StoreId};
use duramen_common::planted::{Plant, is_planted};

/// "DSG1" as it stands in a file.
pub const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"DSG1");
/// The segment format that this program writes and reads.
pub const SEGMENT_FORMAT: u8 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 128;
/// "DFR1" as it stands in a file.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"DFR1");
/// The frame format that this program writes and reads.
pub const FRAME_FORMAT: u8 = 1;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 28;
/// Bytes of an entry's payload before its body: term, index, first offset.
pub const ENTRY_PREFIX_BYTES: usize = 24;
/// Largest payload: two of the largest batches and some.
pub const PAYLOAD_BYTES_MAX: usize = 2 * duramen_common::limits::BATCH_BYTES_MAX + 4096;

const SEGMENT_BASELINE: u8 = 1;
const NO_PREVIOUS: u64 = u64::MAX;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The small state, whole; the last one counts.
    State = 1,
    /// An entry with a record batch.
    Batch = 2,
    /// A new leader's no-op.
    Blank = 3,
    /// A membership entry.
    Membership = 4,
    /// Nothing but the durable end in its header.
    Marker = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        [Self::State, Self::Batch, Self::Blank, Self::Membership, Self::Marker]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }

    /// Whether it is an entry of the Raft log.
    #[must_use]
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Batch | Self::Blank | Self::Membership)
    }
}

/// The fixed part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose it is.
    pub identity: StoreIdentity,
    /// Which log.
    pub partition: PartitionId,
    /// Ascending within the partition.
    pub sequence: u64,
    /// Fresh for every use of a file.
    pub random_id: u128,
    /// Index of its first entry.
    pub base_index: u64,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Term of the entry before; 0 when there is none.
    pub base_term: u64,
    /// Nothing before it counts any more.
    pub baseline: bool,
    /// Sequence and end of the segment before it.
    pub previous: Option<(u64, u64)>,
}

impl SegmentHeader {
    /// What frames' checksums start from.
    #[must_use]
    pub fn seed(&self) -> u32 {
        if is_planted(Plant::StaleSegmentBytes) {
            return 0;
        }
        crc32c::crc32c(&self.random_id.to_le_bytes())
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = BytesMut::with_capacity(SEGMENT_HEADER_BYTES);
        let (previous_sequence, previous_end) = self.previous.unwrap_or((NO_PREVIOUS, 0));
        out.put_u32_le(SEGMENT_MAGIC);
        out.put_u8(SEGMENT_FORMAT);
        out.put_u8(if self.baseline { SEGMENT_BASELINE } else { 0 });
        out.put_u16_le(self.partition.get());
        out.put_u32_le(self.identity.history.bits());
        out.put_u32_le(0);
        out.put_u128_le(self.identity.store.bits());
        out.put_u64_le(self.sequence);
        out.put_u128_le(self.random_id);
        out.put_u64_le(self.base_index);
        out.put_u64_le(self.base_offset.get());
        out.put_u64_le(self.base_term);
        out.put_u64_le(previous_sequence);
        out.put_u64_le(previous_end);
        out.put_bytes(0, SEGMENT_HEADER_BYTES - 4 - out.len());
        out.put_u32_le(crc32c::crc32c(&out));
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Reads it back.
    pub fn parse(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let head = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderError::Damaged("cut off inside its header"))?;
        let (covered, crc) = head.split_at(SEGMENT_HEADER_BYTES - 4);
        let intact = u32_at(crc, 0) == crc32c::crc32c(covered);
        if u32_at(head, 0) != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged("not a segment (magic)"));
        }
        // A newer format may keep its checksum elsewhere, hence first; a flipped bit here is told apart by the checksum
        // that this format would have.
        let format = u8_at(head, 4);
        if format != SEGMENT_FORMAT {
            let mut ours = [0; SEGMENT_HEADER_BYTES - 4];
            ours.copy_from_slice(covered);
            ours[4] = SEGMENT_FORMAT;
            let flipped = u32_at(crc, 0) == crc32c::crc32c(&ours);
            return Err(if flipped { HeaderError::Damaged("format byte") } else { HeaderError::Format(format) });
        }
        if !intact {
            return Err(HeaderError::Damaged("header checksum"));
        }
        let previous_sequence = u64_at(head, 80);
        let header = SegmentHeader {
            identity: StoreIdentity {
                history: HistoryId::from_bits(u32_at(head, 8)),
                store: StoreId::from_bits(u128_at(head, 16)),
            },
            partition: PartitionId::new(u16_at(head, 6)),
            sequence: u64_at(head, 32),
            random_id: u128_at(head, 40),
            base_index: u64_at(head, 56),
            base_offset: Offset::new(u64_at(head, 64)),
            base_term: u64_at(head, 72),
            baseline: u8_at(head, 5) & SEGMENT_BASELINE != 0,
            previous: (previous_sequence != NO_PREVIOUS).then(|| (previous_sequence, u64_at(head, 88))),
        };
        if header.encode() == head { Ok(header) } else { Err(HeaderError::Damaged("reserved bytes are set")) }
    }
}

/// Why a segment's header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Not what was written.
    Damaged(&'static str),
    /// Of another format.
    Format(u8),
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What it holds.
    pub kind: FrameKind,
    /// Bytes of its payload, without padding.
    pub length: usize,
    /// CRC of the frame before it; the segment's seed for the first.
    pub previous_crc: u32,
    /// How far the segment was durable when this was written. Unit: bytes.
    pub durable_end: u64,
    /// Its own.
    pub crc: u32,
}

impl FrameHead {
    /// Bytes of the whole frame, padding included.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        frame_bytes(self.length)
    }
}

/// Bytes of a frame with a payload of this length.
#[must_use]
pub fn frame_bytes(payload: usize) -> usize {
    (FRAME_HEADER_BYTES + payload).next_multiple_of(8)
}

/// A frame's header and padding around a payload in pieces. The caller writes header, pieces, padding.
#[must_use]
pub fn seal(
    kind: FrameKind,
    pieces: &[&[u8]],
    seed: u32,
    previous_crc: u32,
    durable_end: u64,
) -> ([u8; FRAME_HEADER_BYTES], u32, usize) {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut head = [0; FRAME_HEADER_BYTES];
    head[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    head[4] = FRAME_FORMAT;
    head[5] = kind as u8;
    head[8..12].copy_from_slice(&u32::try_from(length).expect("payloads are bounded").to_le_bytes());
    head[12..16].copy_from_slice(&previous_crc.to_le_bytes());
    head[16..24].copy_from_slice(&durable_end.to_le_bytes());
    let padding = frame_bytes(length) - FRAME_HEADER_BYTES - length;
    let mut crc = crc32c::crc32c_append(seed, &head[..24]);
    for piece in pieces {
        crc = crc32c::crc32c_append(crc, piece);
    }
    crc = crc32c::crc32c_append(crc, &[0; 8][..padding]);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    (head, crc, padding)
}

/// The whole frame as one piece of memory.
#[must_use]
pub fn encode_frame(kind: FrameKind, payload: &[u8], seed: u32, previous_crc: u32, durable_end: u64) -> (Vec<u8>, u32) {
    let (head, crc, padding) = seal(kind, &[payload], seed, previous_crc, durable_end);
    let mut bytes = Vec::with_capacity(frame_bytes(payload.len()));
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len() + padding, 0);
    (bytes, crc)
}

/// Reads a frame's header; checks what can be checked without the payload.
pub fn parse_head(bytes: &[u8]) -> Result<FrameHead, &'static str> {
    let head = bytes.get(..FRAME_HEADER_BYTES).ok_or("cut off inside a frame's header")?;
    if u32_at(head, 0) != FRAME_MAGIC {
        return Err("no frame (magic)");
    }
    if u8_at(head, 4) != FRAME_FORMAT {
        return Err("a frame of an unknown format");
    }
    let kind = FrameKind::from_byte(u8_at(head, 5)).ok_or("a frame of an unknown kind")?;
    if u16_at(head, 6) != 0 {
        return Err("reserved bytes of a frame are set");
    }
    let length = u32_at(head, 8) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err("a frame that is too long");
    }
    Ok(FrameHead { kind, length, previous_crc: u32_at(head, 12), durable_end: u64_at(head, 16), crc: u32_at(head, 24) })
}

/// Checks a frame by itself: header, payload and padding against its CRC. Returns the payload.
pub fn parse_frame(bytes: &[u8], seed: u32) -> Result<(FrameHead, &[u8]), &'static str> {
    let head = parse_head(bytes)?;
    let frame = bytes.get(..head.frame_bytes()).ok_or("a frame that is cut off")?;
    let (header, body) = frame.split_at(FRAME_HEADER_BYTES);
    let crc = crc32c::crc32c_append(seed, header.get(..24).unwrap_or_default());
    if crc32c::crc32c_append(crc, body) != head.crc && !is_planted(Plant::TornTailAccepted) {
        return Err("frame checksum");
    }
    let (payload, padding) = body.split_at_checked(head.length).ok_or("a frame that is cut off")?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err("padding of a frame that is not zero");
    }
    match head.kind {
        kind if kind.is_entry() && payload.len() < ENTRY_PREFIX_BYTES => Err("an entry without its name"),
        FrameKind::Blank if payload.len() > ENTRY_PREFIX_BYTES => Err("a blank entry that holds something"),
        FrameKind::Marker if !payload.is_empty() => Err("a marker that holds something"),
        _ => Ok((head, payload)),
    }
}

/// Term, index and first offset of an entry's frame.
#[must_use]
pub fn entry_prefix(id: EntryId, first_offset: Offset) -> [u8; ENTRY_PREFIX_BYTES] {
    let mut bytes = [0; ENTRY_PREFIX_BYTES];
    bytes[..8].copy_from_slice(&id.term.to_le_bytes());
    bytes[8..16].copy_from_slice(&id.index.to_le_bytes());
    bytes[16..].copy_from_slice(&first_offset.get().to_le_bytes());
    bytes
}

/// Reads an entry's name and place back; the payload came from [`parse_frame`].
#[must_use]
pub fn parse_prefix(payload: &[u8]) -> (EntryId, Offset) {
    let id = EntryId { term: u64_at(payload, 0), index: u64_at(payload, 8) };
    (id, Offset::new(u64_at(payload, 16)))
}

/// An entry's payload as it stands in a file when its first record is at that offset.
#[must_use]
pub fn entry_payload(entry: &LogEntry, first_offset: Offset) -> Vec<u8> {
    let mut payload = Vec::with_capacity(ENTRY_PREFIX_BYTES + entry.body.bytes_len());
    payload.extend_from_slice(&entry_prefix(entry.id, first_offset));
    match &entry.body {
        EntryBody::Batch(batch) => payload.extend_from_slice(batch.clone().at(first_offset).bytes()),
        EntryBody::Membership(bytes) => payload.extend_from_slice(bytes),
        EntryBody::Blank => {}
    }
    payload
}

/// The frame kind of a body, and its bytes.
#[must_use]
pub fn body_bytes(body: &EntryBody) -> (FrameKind, &[u8]) {
    match body {
        EntryBody::Batch(batch) => (FrameKind::Batch, batch.bytes()),
        EntryBody::Blank => (FrameKind::Blank, &[]),
        EntryBody::Membership(bytes) => (FrameKind::Membership, bytes),
    }
}

/// An entry from its frame; `payload` is shared, not copied.
pub fn parse_entry(kind: FrameKind, payload: &Bytes) -> Result<LogEntry, &'static str> {
    if payload.len() < ENTRY_PREFIX_BYTES {
        return Err("an entry without its name");
    }
    let (id, first_offset) = parse_prefix(payload);
    let body = payload.slice(ENTRY_PREFIX_BYTES..);
    let body = match kind {
        FrameKind::Batch => {
            let batch = RecordBatch::parse(body).map_err(|_| "a record batch that does not parse")?;
            if batch.header().first_offset != first_offset {
                return Err("a record batch at another offset than its entry");
            }
            EntryBody::Batch(batch)
        }
        FrameKind::Blank if body.is_empty() => EntryBody::Blank,
        FrameKind::Blank => return Err("a blank entry that holds something"),
        FrameKind::Membership => EntryBody::Membership(body),
        FrameKind::State | FrameKind::Marker => return Err("no entry"),
    };
    Ok(LogEntry { id, body })
}

const STATE_VOTE: u8 = 1;
const STATE_COMMITTED: u8 = 2;
const STATE_MEMBERSHIP: u8 = 4;
const STATE_MEMBERSHIP_ID: u8 = 8;
const STATE_PURGED: u8 = 16;

/// The small state's bytes.
#[must_use]
pub fn encode_state(state: &SmallState) -> Bytes {
    let mut out = BytesMut::with_capacity(128);
    out.put_u8(0);
    let mut flags = 0;
    if let Some(vote) = state.vote {
        flags |= STATE_VOTE;
        out.put_u64_le(vote.term);
        out.put_u64_le(vote.node);
        out.put_u8(u8::from(vote.committed));
    }
    let mut put_id = |flag: u8, id: Option<EntryId>, out: &mut BytesMut| {
        if let Some(id) = id {
            flags |= flag;
            out.put_u64_le(id.term);
            out.put_u64_le(id.index);
        }
    };
    put_id(STATE_COMMITTED, state.committed, &mut out);
    put_id(STATE_PURGED, state.purged, &mut out);
    if let Some(membership) = &state.applied_membership {
        put_id(STATE_MEMBERSHIP_ID, membership.id, &mut out);
        out.put_slice(&membership.bytes);
        flags |= STATE_MEMBERSHIP;
    }
    out[0] = flags;
    out.freeze()
}

/// Reads [`encode_state`] back.
pub fn parse_state(payload: &[u8]) -> Result<SmallState, &'static str> {
    let mut reader = Reader(payload);
    let flags = reader.u8()?;
    let known = STATE_VOTE | STATE_COMMITTED | STATE_MEMBERSHIP | STATE_MEMBERSHIP_ID | STATE_PURGED;
    if flags & !known != 0 || flags & (STATE_MEMBERSHIP | STATE_MEMBERSHIP_ID) == STATE_MEMBERSHIP_ID {
        return Err("a small state with flags that mean nothing");
    }
    let mut state = SmallState::default();
    if flags & STATE_VOTE != 0 {
        state.vote = Some(StoredVote { term: reader.u64()?, node: reader.u64()?, committed: reader.bool()? });
    }
    if flags & STATE_COMMITTED != 0 {
        state.committed = Some(reader.id()?);
    }
    if flags & STATE_PURGED != 0 {
        state.purged = Some(reader.id()?);
    }
    if flags & STATE_MEMBERSHIP != 0 {
        let id = if flags & STATE_MEMBERSHIP_ID != 0 { Some(reader.id()?) } else { None };
        state.applied_membership = Some(StoredMembership { id, bytes: Bytes::copy_from_slice(reader.0) });
    } else if !reader.0.is_empty() {
        return Err("bytes after the small state");
    }
    Ok(state)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u8(&mut self) -> Result<u8, &'static str> {
        let (&first, rest) = self.0.split_first().ok_or("a small state that is cut off")?;
        self.0 = rest;
        Ok(first)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        let (first, rest) = self.0.split_first_chunk::<8>().ok_or("a small state that is cut off")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    fn bool(&mut self) -> Result<bool, &'static str> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a small state whose vote is neither committed nor not"),
        }
    }

    fn id(&mut self) -> Result<EntryId, &'static str> {
        Ok(EntryId { term: self.u64()?, index: self.u64()? })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let piece = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    *piece.expect("callers have checked the length")
}

fn u8_at(bytes: &[u8], at: usize) -> u8 {
    array::<1>(bytes, at)[0]
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(bytes, at))
}
