//! Restoring a damaged frame, byte for byte, from what a peer holds at the same index.
//!
//! * A flipped bit in a small frame, or in the header of any, is found by trying (CRC32C tells single flips in short blocks
//!   apart); that needs no peer, and is what brings control frames back, which no peer has.
//! * An entry is rebuilt from the peer's, and accepted only when the bytes that result carry the CRC that is recorded: as the
//!   previous CRC in the frame behind it, or, where none is left, in the damaged frame itself. Nothing unproven is written, and
//!   nothing from which the chain would not go on.
//! * Deliberately absent: repair of several neighbouring control frames lost at once (refused; wipe and rejoin).
//! * Source: DESIGN D2 "Recovery"; docs/adr/0003-segment-store.md.

use super::StoreError;
use super::frame::{
    FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, body_bytes, encode_frame, entry_payload, frame_bytes,
    parse_frame,
};
use super::open::{Found, read_whole, scan_error, survey};
use super::recover::{FoundFrame, scan};
use super::segment::Point;
use super::service::Repair;
use super::types::{Damage, LogEntry};
use super::writer::{Place, SEGMENT_SUFFIX};

/// Longest frame in which a single flipped bit is searched for. CRC32C's distance is 6 up to 5243 bits. Unit: bytes.
const FLIP_SEARCH_BYTES_MAX: usize = 640;

/// A damaged place with what repair needs around it.
struct Wound {
    found: Found,
    bytes: Vec<u8>,
    damage: Damage,
}

pub(super) fn damage(place: &Place) -> Result<Option<Damage>, StoreError> {
    Ok(wound(place)?.map(|wound| wound.damage))
}

/// The first damaged place, looking at every byte.
fn wound(place: &Place) -> Result<Option<Wound>, StoreError> {
    restore_headers(place)?;
    let survey = survey(place)?;
    let successors: Vec<_> = (0..survey.live.len()).map(|number| survey.successors(number)).collect();
    for (found, successors) in survey.live.into_iter().zip(successors) {
        let bytes = read_whole(place, &found)?;
        match scan(&bytes, successors) {
            Ok(_) => {}
            Err(error) => {
                let StoreError::Corrupt { file, position, what, index } = scan_error(&found.path, error) else {
                    continue;
                };
                return Ok(Some(Wound { found, bytes, damage: Damage { file, position, what, index } }));
            }
        }
    }
    Ok(None)
}

/// Puts single flipped bits in segment headers right.
fn restore_headers(place: &Place) -> Result<(), StoreError> {
    let names = place.io("listing", &place.folder, place.disk.list(&place.folder))?;
    for name in names.iter().filter(|name| name.ends_with(SEGMENT_SUFFIX)) {
        let path = place.folder.join(name);
        let file = place.io("opening", &path, place.disk.open(&path, false))?;
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        let count = place.io("reading", &path, file.read_at(&mut bytes, 0))?;
        if count < SEGMENT_HEADER_BYTES || SegmentHeader::parse(&bytes).is_ok() {
            continue;
        }
        let fits = |bytes: &[u8]| SegmentHeader::parse(bytes).is_ok_and(|header| header.identity == place.identity);
        if let Some(restored) = unflip(&bytes, bytes.len(), fits) {
            place.io("restoring", &path, file.write_at(&[&restored], 0))?;
            place.io("syncing", &path, file.sync_data())?;
        }
    }
    Ok(())
}

/// Restores what can be restored with these entries, frame by frame.
pub(super) fn repair(place: &Place, entries: &[LogEntry]) -> Result<Repair, StoreError> {
    let mut last: Option<Damage> = None;
    loop {
        let Some(wound) = wound(place)? else { return Ok(Repair::Whole) };
        if last.as_ref().is_some_and(|last| (&last.file, last.position) == (&wound.damage.file, wound.damage.position))
        {
            return Ok(Repair::More(wound.damage));
        }
        let entry = entries.iter().find(|entry| entry.id.index == wound.damage.index);
        let Some(restored) = restore(&wound, entry) else {
            return match entry {
                None => Ok(Repair::More(wound.damage)),
                Some(entry) => Err(StoreError::NotRepaired {
                    file: wound.damage.file,
                    index: entry.id.index,
                    what: "the bytes it gives do not have the checksum that was recorded: the peer's entry is another \
                           one, or more than this frame is lost",
                }),
            };
        };
        let path = &wound.found.path;
        let file = wound.found.open(place)?;
        place.io("restoring", path, file.write_at(&[&restored], wound.damage.position))?;
        place.io("syncing", path, file.sync_data())?;
        last = Some(wound.damage);
    }
}

/// The bytes that belong at the damaged place, proven by a recorded CRC.
fn restore(wound: &Wound, entry: Option<&LogEntry>) -> Option<Vec<u8>> {
    let header = SegmentHeader::parse(&wound.bytes).ok()?;
    let seed = header.seed();
    let position = wound.damage.position as usize;
    let rest = wound.bytes.get(position..)?;
    let before = frames_before(&header, &wound.bytes, position);
    let (previous_crc, offset) =
        before.last().map_or((seed, header.base_offset), |(frame, at)| (frame.head.crc, at.offset));
    let short = rest.get(..rest.len().min(FLIP_SEARCH_BYTES_MAX))?;
    let follows = |bytes: &[u8]| parse_frame(bytes, seed).is_ok_and(|(head, _)| head.previous_crc == previous_crc);
    // In a header, the flipped bit may be one of the length: there the frame decides for itself how far it goes.
    let flipped = unflip(short, short.len(), follows).or_else(|| unflip(rest, FRAME_HEADER_BYTES, follows));
    let recorded_behind = |size: usize| {
        rest.get(size..).and_then(|behind| parse_frame(behind, seed).ok()).map(|(head, _)| head.previous_crc)
    };
    if let Some(restored) = flipped
        && let Ok((head, _)) = parse_frame(&restored, seed)
        && recorded_behind(head.frame_bytes()).is_none_or(|crc| crc == head.crc)
    {
        return restored.get(..head.frame_bytes()).map(<[u8]>::to_vec);
    }
    let entry = entry?;
    let payload = entry_payload(entry, offset);
    let size = frame_bytes(payload.len());
    let recorded_here = u32::from_le_bytes(*rest.get(24..)?.first_chunk()?);
    let recorded = recorded_behind(size).unwrap_or(recorded_here);
    let stored_end = u64::from_le_bytes(*rest.get(16..)?.first_chunk()?);
    // The durable end in the header is one of the places where a frame ends, and never before an earlier one.
    let last_end = before.last().map_or(0, |(frame, _)| frame.head.durable_end);
    let ends = before.iter().map(|(_, at)| at.position).filter(|&end| end >= last_end);
    let (kind, _) = body_bytes(&entry.body);
    std::iter::once(stored_end).chain(ends).find_map(|durable_end| {
        let (bytes, crc) = encode_frame(kind, &payload, seed, previous_crc, durable_end);
        (crc == recorded && position + bytes.len() <= wound.bytes.len()).then_some(bytes)
    })
}

/// The frames before the damaged place, each with the place after it.
fn frames_before(header: &SegmentHeader, bytes: &[u8], position: usize) -> Vec<(FoundFrame, Point)> {
    let seed = header.seed();
    let mut at = Point {
        position: SEGMENT_HEADER_BYTES as u64,
        previous_crc: seed,
        index: header.base_index,
        offset: header.base_offset,
    };
    let mut frames = Vec::new();
    while (at.position as usize) < position {
        let Ok((head, payload)) = parse_frame(bytes.get(at.position as usize..).unwrap_or_default(), seed) else {
            break;
        };
        let frame = FoundFrame { position: at.position, head };
        at = at.after(&head, payload);
        frames.push((frame, at));
    }
    frames
}

/// The bytes with the one bit flipped, of the first `count` bytes, that makes them fit.
fn unflip(bytes: &[u8], count: usize, fits: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut candidate = bytes.to_vec();
    for at in 0..count.min(candidate.len()) {
        for bit in 0..8 {
            let flip = 1u8 << bit;
            *candidate.get_mut(at)? ^= flip;
            if fits(&candidate) {
                return Some(candidate);
            }
            *candidate.get_mut(at)? ^= flip;
        }
    }
    None
}

const _: () = assert!(FRAME_HEADER_BYTES == 28, "restore reads durable end and CRC at their places");
