//! What a segment's bytes still hold: pure, bytes in, decision out.
//!
//! * Walks the frames from the start. At the first that does not verify or does not continue the chain, it scans on for
//!   frames that verify by themselves and takes the greatest durable end that any of them recorded: a bad place below it
//!   is damage, at or above it a torn tail.
//! * Invariant: the frame that holds the start state was synced before the segment got its name, so that the recorded
//!   durable end is never before that frame's end. In a closed segment everything was durable.
//! * What a later segment replaced is never read again (entries by a truncation, control frames by its start state), so that
//!   damage there is none.
//! * What it cannot tell: damage to the last sync group within the idle time before a crash looks like a torn tail.
//! * Source: DESIGN D2 "Recovery"; docs/formats.md "Recovery".

use super::frame::{
    ENTRY_PREFIX_BYTES, FRAME_HEADER_BYTES, FrameHead, FrameKind, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader,
    parse_frame, parse_head, parse_prefix, parse_state,
};
use super::types::SmallState;
use duramen_common::batch::BatchHeader;
use duramen_common::planted::{Plant, is_planted};

/// What was found in a segment.
#[derive(Debug)]
pub struct Scan {
    /// Its header.
    pub header: SegmentHeader,
    /// Frames that verify, in order.
    pub frames: Vec<FoundFrame>,
    /// Where they end. Unit: bytes.
    pub end: u64,
    /// The greatest durable end recorded. Unit: bytes.
    pub durable_end: u64,
    /// CRC of the last frame.
    pub crc: u32,
    /// Index that comes after its last entry.
    pub next_index: u64,
    /// The small state as of its end.
    pub state: SmallState,
}

/// A frame that verifies.
#[derive(Clone, Copy, Debug)]
pub struct FoundFrame {
    /// Where it starts. Unit: bytes.
    pub position: u64,
    /// Its header.
    pub head: FrameHead,
}

/// Why a segment is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// The header's format is not ours.
    Format(u8),
    /// A place below what was durable does not verify.
    Damaged {
        /// Where. Unit: bytes.
        position: u64,
        /// What is wrong.
        what: &'static str,
        /// The entry that should be there, if it is one.
        index: u64,
    },
}

/// What follows a segment, and with it what of the segment must verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successors {
    /// Nothing: what was durable when the last frame was written must verify; behind it may be a torn tail.
    None,
    /// Other segments: everything must verify but what they replaced.
    Some {
        /// The first index that they replaced: the least of their base indexes.
        live_end: u64,
    },
}

/// Reads a whole segment, up to its first frame that does not verify.
pub fn scan(bytes: &[u8], successors: Successors) -> Result<Scan, ScanError> {
    let mut scan = begin(bytes)?;
    let stopped = walk(bytes, &mut scan);
    if scan.frames.is_empty() && !is_replaced(&scan, successors) {
        let what = stopped.unwrap_or("cut off before its start state");
        return Err(ScanError::Damaged { position: scan.end, what, index: scan.next_index });
    }
    match refusal(bytes, &scan, successors, stopped) {
        Some(what) => Err(ScanError::Damaged { position: scan.end, what, index: scan.next_index }),
        None => Ok(scan),
    }
}

/// Reads a segment past one damaged entry, whose frame is left out: its index is `next_index` of the frames before it. `None` where
/// more than that is damaged, or where it cannot be seen that it was an entry, and one.
///
/// No checksum vouches for the header by which the frame ends where it says. The frame that stands there does: it records the
/// checksum that the damaged one says is its own, and none stands before it. Behind the damage, then, the chain goes on, and no
/// vote and no entry is lost with it. In a closed segment the file's end will do: entries are counted by the segments
/// behind, which repeat the vote.
#[must_use]
pub fn scan_past_entry(bytes: &[u8], successors: Successors) -> Option<Scan> {
    let mut scan = begin(bytes).ok()?;
    walk(bytes, &mut scan)?;
    let seed = scan.header.seed();
    let rest = bytes.get(scan.end as usize..)?;
    let damaged = parse_head(rest).ok()?;
    let frame = rest.get(..damaged.frame_bytes())?;
    let frames_before = scan.frames.len();
    let is_frame = |at: usize| rest.get(at..).is_some_and(|rest| parse_frame(rest, seed).is_ok());
    if frames_before == 0 || !damaged.kind.is_entry() || (8..frame.len()).step_by(8).any(is_frame) {
        return None;
    }
    let is_named = names_itself(&damaged, frame, &scan);
    scan.end += frame.len() as u64;
    scan.next_index += 1;
    scan.crc = damaged.crc;
    let stopped = walk(bytes, &mut scan);
    let behind = scan.frames.get(frames_before..)?;
    let is_vouched_for = match successors {
        Successors::Some { .. } => {
            is_replaced(&scan, successors) && (bytes.len() as u64 == scan.end || !behind.is_empty())
        }
        // A small state is whole: had the damaged frame been one, too, nothing is lost. An entry tells the index of the one before it,
        // unless the chain goes on to one that tells another.
        Successors::None => {
            let tells = |frame: &FoundFrame| frame.head.kind == FrameKind::State || frame.head.kind.is_entry();
            let next = bytes.get(scan.end as usize..).and_then(|next| parse_frame(next, seed).ok());
            let is_contradicted = next.is_some_and(|(head, _)| head.previous_crc == scan.crc);
            !is_contradicted && !behind.is_empty() && (is_named || behind.iter().any(tells))
        }
    };
    (is_vouched_for && refusal(bytes, &scan, successors, stopped).is_none()).then_some(scan)
}

/// Whether a damaged frame is the batch that comes next, by what is left of its payload: its index follows, there was a vote for its
/// term, and the batch's header is one, of the same offset and of the frame's length.
fn names_itself(damaged: &FrameHead, frame: &[u8], scan: &Scan) -> bool {
    let payload = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + damaged.length).unwrap_or_default();
    let Some((name, batch)) = payload.split_at_checked(ENTRY_PREFIX_BYTES) else { return false };
    let (id, first_offset) = parse_prefix(name);
    let is_voted_for = scan.state.vote.is_some_and(|vote| (1..=vote.term).contains(&id.term));
    damaged.kind == FrameKind::Batch
        && id.index == scan.next_index
        && is_voted_for
        && BatchHeader::parse(batch)
            .is_ok_and(|header| header.first_offset == first_offset && header.length as usize == batch.len())
}

/// Whether all that comes next was replaced by later segments.
fn is_replaced(scan: &Scan, successors: Successors) -> bool {
    matches!(successors, Successors::Some { live_end } if scan.next_index >= live_end)
}

/// A scan that has read the header.
fn begin(bytes: &[u8]) -> Result<Scan, ScanError> {
    let header = SegmentHeader::parse(bytes).map_err(|error| match error {
        HeaderError::Format(found) => ScanError::Format(found),
        HeaderError::Damaged(what) => ScanError::Damaged { position: 0, what, index: 0 },
    })?;
    Ok(Scan {
        header,
        frames: Vec::new(),
        end: SEGMENT_HEADER_BYTES as u64,
        durable_end: 0,
        crc: header.seed(),
        next_index: header.base_index,
        state: SmallState::default(),
    })
}

/// Takes frames into the scan as long as they verify; says why the next one does not, unless the bytes end there.
fn walk(bytes: &[u8], scan: &mut Scan) -> Option<&'static str> {
    let seed = scan.header.seed();
    loop {
        let rest = bytes.get(scan.end as usize..).unwrap_or_default();
        if rest.is_empty() {
            return None;
        }
        if let Err(what) = next_frame(rest, seed, scan) {
            return Some(what);
        }
    }
}

/// Why a segment whose frames end here is refused.
fn refusal(bytes: &[u8], scan: &Scan, successors: Successors, stopped: Option<&'static str>) -> Option<&'static str> {
    match successors {
        Successors::Some { .. } => stopped.filter(|_| !is_replaced(scan, successors)),
        Successors::None => damage_below_durable(bytes, scan, stopped),
    }
}

/// What is wrong with a segment that nothing follows; a torn tail is not.
fn damage_below_durable(bytes: &[u8], scan: &Scan, stopped: Option<&'static str>) -> Option<&'static str> {
    let rest = bytes.get(scan.end as usize..).unwrap_or_default();
    let recorded = match stopped {
        Some(_) if !is_planted(Plant::TornAcknowledgedFrame) => recorded_beyond(rest, scan.end, scan.header.seed()),
        _ => 0,
    };
    let is_damage = scan.end < scan.durable_end.max(recorded);
    is_damage.then_some(stopped.unwrap_or("cut off below what was durable"))
}

/// Takes the next frame into the scan, or says why it is none.
fn next_frame(rest: &[u8], seed: u32, scan: &mut Scan) -> Result<(), &'static str> {
    let (head, payload) = parse_frame(rest, seed)?;
    if head.previous_crc != scan.crc && !is_planted(Plant::StaleSegmentBytes) {
        return Err("a frame that does not follow the one before it");
    }
    if scan.frames.is_empty() && head.kind != FrameKind::State {
        return Err("a segment that does not start with its state");
    }
    if head.kind == FrameKind::State {
        scan.state = parse_state(payload)?;
    }
    if head.kind.is_entry() {
        let (id, _) = parse_prefix(payload);
        if id.index != scan.next_index {
            return Err("an entry out of order");
        }
        scan.next_index += 1;
    }
    scan.frames.push(FoundFrame { position: scan.end, head });
    scan.end += head.frame_bytes() as u64;
    scan.crc = head.crc;
    let start_end = if scan.frames.len() == 1 { scan.end } else { 0 };
    scan.durable_end = scan.durable_end.max(head.durable_end).max(start_end);
    Ok(())
}

/// The greatest durable end that any frame beyond a bad place recorded; the next place a frame could be is a multiple
/// of eight.
fn recorded_beyond(rest: &[u8], position: u64, seed: u32) -> u64 {
    debug_assert_eq!(position % 8, 0, "frames start at multiples of eight");
    let mut recorded = 0;
    for at in (0..rest.len()).step_by(8) {
        let candidate = rest.get(at..).unwrap_or_default();
        if candidate.starts_with(b"DFR1")
            && let Ok((head, _)) = parse_frame(candidate, seed)
        {
            recorded = recorded.max(head.durable_end);
        }
    }
    recorded
}
