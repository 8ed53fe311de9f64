//! Frames: those between processes, and those on disk. What decodes is written again as the same bytes; what is cut off is
//! incomplete, and nothing else.
//!
//! * Each input is tried as a connection's bytes, as a segment's header, as a frame on disk, as an entry and as a small state; on disk
//!   also with the checksum that it should have.
//! * Source: docs/formats.md "Frames between processes", "Segment", "Frame".

use super::{Target, cuts, record_batch};
use bytes::Bytes;
use duramen_common::batch::{Record, RecordBatch, RecordSet};
use duramen_common::limits::FRAME_BYTES_MAX;
use duramen_common::{HistoryId, Offset, PartitionId, RequestId, StoreId};
use duramen_log_service::store::frame::{self as stored, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use duramen_log_service::store::{EntryId, SmallState, StoreIdentity, StoredMembership, StoredVote};
use duramen_transport::frame::{
    self as sent, Frame, FrameBuffer, FrameError, FrameKind, HANDSHAKE_BYTES_MAX, HEADER_BYTES, PREAMBLE_BYTES,
};

/// The target.
pub const TARGET: Target = Target {
    name: "frames",
    run,
    seeds,
    nasty,
    words: &["DRTP", "DSG1", "DFR1", "DRB1"],
    inputs: 250_000,
    heap_bytes_max: 512 * 1024,
};

/// Room that a connection's buffer may have, beside twice what came. Unit: bytes.
const ROOM_BYTES: usize = 128 * 1024;
/// What the checksums of stored frames start from here.
const SEED: u32 = 0x5eed;

fn run(data: &[u8]) {
    connection(data);
    segment_header(data);
    stored_frame(data);
    entry(data);
    small_state(data);
}

/// What came of a connection's bytes: frames, how many bytes they took, and what ended it.
#[derive(Debug, PartialEq)]
struct Came {
    frames: Vec<Frame>,
    bytes: usize,
    error: Option<FrameError>,
}

fn connection(data: &[u8]) {
    let mut buffer = FrameBuffer::default();
    buffer.room().extend_from_slice(data);
    let preamble = buffer.take_preamble();
    assert_eq!(preamble.is_some(), data.len() >= PREAMBLE_BYTES);
    if preamble.is_some_and(|bytes| sent::check_preamble(bytes).is_ok()) {
        assert_eq!(preamble, Some(sent::preamble()));
    }
    let data = data.get(PREAMBLE_BYTES..).unwrap_or_default();
    for limit in [HANDSHAKE_BYTES_MAX, FRAME_BYTES_MAX] {
        let whole = receive(data, data.len().max(1), limit);
        assert_eq!(receive(data, 1 + data.len() / 7, limit), whole, "in pieces");
        let mut ends = vec![0];
        let mut again = Vec::with_capacity(whole.bytes);
        for frame in &whole.frames {
            assert!(frame.body.len() <= limit);
            let length = u32::try_from(frame.body.len()).expect("it is within the limit");
            again.extend_from_slice(&sent::header(frame.kind, frame.service, frame.request, length));
            again.extend_from_slice(&frame.body);
            ends.push(again.len());
        }
        assert_eq!(again, data[..whole.bytes]);
        if let (None, Some(head)) = (whole.error, data[whole.bytes..].first_chunk::<4>()) {
            let claimed = u32::from_le_bytes(*head) as usize;
            assert!(claimed <= limit || data.len() < whole.bytes + HEADER_BYTES, "{claimed} bytes are waited for");
        }
        let marks = ends.iter().flat_map(|&end| [end, end + HEADER_BYTES]);
        for cut in cuts(data.len(), marks) {
            let part = receive(&data[..cut], cut.max(1), limit);
            let count = ends.partition_point(|&end| end <= cut) - 1;
            assert_eq!(part.frames, whole.frames[..count], "cut at {cut}");
            let is_told = cut >= whole.bytes + HEADER_BYTES;
            assert_eq!(part.error, whole.error.filter(|_| is_told), "cut at {cut}");
        }
    }
}

/// Takes frames off bytes that come in pieces, as a connection does.
fn receive(data: &[u8], piece_bytes: usize, limit: usize) -> Came {
    let mut buffer = FrameBuffer::default();
    let mut came = Came { frames: Vec::new(), bytes: 0, error: None };
    for piece in data.chunks(piece_bytes) {
        buffer.room().extend_from_slice(piece);
        loop {
            match buffer.take_frame(limit) {
                Ok(Some(frame)) => {
                    came.bytes += HEADER_BYTES + frame.body.len();
                    came.frames.push(frame);
                }
                Ok(None) => break,
                Err(error) => {
                    came.error = Some(error);
                    return came;
                }
            }
        }
        let room = buffer.room().capacity();
        assert!(room <= ROOM_BYTES + 2 * data.len(), "room for {room} bytes");
    }
    assert_eq!(buffer.pending(), &data[came.bytes..]);
    came
}

fn segment_header(data: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(header) = SegmentHeader::parse(bytes) {
            assert_eq!(header.encode(), bytes[..SEGMENT_HEADER_BYTES]);
        }
    };
    check(data);
    let Some(head) = data.get(..SEGMENT_HEADER_BYTES) else { return };
    let mut forged = head.to_vec();
    let crc = crc32c::crc32c(&forged[..SEGMENT_HEADER_BYTES - 4]);
    forged[SEGMENT_HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    check(&forged);
    for cut in [0, 1, SEGMENT_HEADER_BYTES - 1] {
        assert!(SegmentHeader::parse(&forged[..cut]).is_err());
    }
}

fn stored_frame(data: &[u8]) {
    check_frame(data);
    let Ok(head) = stored::parse_head(data) else { return };
    let Some(frame) = data.get(..head.frame_bytes()) else {
        let told = stored::parse_frame(data, SEED);
        assert!(told.is_err_and(|what| what.contains("cut off")), "a frame that is not all there: {told:?}");
        return;
    };
    let mut forged = frame.to_vec();
    let crc = crc32c::crc32c_append(SEED, &forged[..FRAME_HEADER_BYTES - 4]);
    let crc = crc32c::crc32c_append(crc, &forged[FRAME_HEADER_BYTES..]);
    forged[FRAME_HEADER_BYTES - 4..FRAME_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    check_frame(&forged);
}

fn check_frame(bytes: &[u8]) {
    let Ok((head, payload)) = stored::parse_frame(bytes, SEED) else { return };
    let frame = &bytes[..head.frame_bytes()];
    let (again, crc) = stored::encode_frame(head.kind, payload, SEED, head.previous_crc, head.durable_end);
    assert_eq!((&again[..], crc), (frame, head.crc));
    for cut in cuts(frame.len(), [FRAME_HEADER_BYTES]) {
        let told = stored::parse_frame(&frame[..cut], SEED).map(|(head, _)| head);
        assert!(told.is_err_and(|what| what.contains("cut off")), "cut at {cut}: {told:?}");
    }
    if head.kind.is_entry() {
        check_entry(head.kind, &Bytes::copy_from_slice(payload));
    }
}

fn entry(data: &[u8]) {
    for kind in [stored::FrameKind::Batch, stored::FrameKind::Blank, stored::FrameKind::Membership] {
        check_entry(kind, &Bytes::copy_from_slice(data));
    }
    // A batch stands where its entry says, and has the checksum that it should have.
    let Some((prefix, body)) = data.split_at_checked(stored::ENTRY_PREFIX_BYTES) else { return };
    let (id, _) = stored::parse_prefix(prefix);
    let body = record_batch::with_checksum(body).unwrap_or_else(|| Bytes::copy_from_slice(body));
    if let Ok(batch) = RecordBatch::parse(body) {
        let place = stored::entry_prefix(id, batch.header().first_offset);
        let payload = Bytes::from([&place[..], batch.bytes()].concat());
        assert!(stored::parse_entry(stored::FrameKind::Batch, &payload).is_ok());
        check_entry(stored::FrameKind::Batch, &payload);
    }
}

fn check_entry(kind: stored::FrameKind, payload: &Bytes) {
    let Ok(entry) = stored::parse_entry(kind, payload) else { return };
    let (again, body) = stored::body_bytes(&entry.body);
    let (id, first_offset) = stored::parse_prefix(payload);
    assert_eq!((again, entry.id), (kind, id));
    assert_eq!([&stored::entry_prefix(id, first_offset)[..], body].concat(), payload[..]);
}

fn small_state(data: &[u8]) {
    if let Ok(state) = stored::parse_state(data) {
        assert_eq!(stored::encode_state(&state), data);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let hello = [sent::header(FrameKind::Hello, 0, 0, 5).to_vec(), b"hello".to_vec()].concat();
    let request = [sent::header(FrameKind::Request, 64, 7, 12).to_vec(), b"twelve bytes".to_vec()].concat();
    let empty = sent::header(FrameKind::Answer, 0, u64::MAX, 0).to_vec();
    let frames = [sent::preamble().to_vec(), hello, request, empty].concat();
    let mut seeds = vec![Vec::new(), frames, header().encode().to_vec()];
    let record = Record::event(None, Bytes::from_static(b"opaque"));
    let set = RecordSet::of(RequestId::from_bits(7), &record).expect("a small record");
    let batch = RecordBatch::build(&[set], 0).at(Offset::new(5));
    let id = EntryId { term: 3, index: 9 };
    let place = stored::entry_prefix(id, Offset::new(5));
    for (kind, payload) in [
        (stored::FrameKind::Batch, [&place[..], batch.bytes()].concat()),
        (stored::FrameKind::Blank, place.to_vec()),
        (stored::FrameKind::Membership, [&place[..], b"members"].concat()),
        (stored::FrameKind::State, stored::encode_state(&state()).to_vec()),
        (stored::FrameKind::State, stored::encode_state(&SmallState::default()).to_vec()),
        (stored::FrameKind::Marker, Vec::new()),
    ] {
        seeds.push(stored::encode_frame(kind, &payload, SEED, 11, 128).0);
        seeds.push(payload);
    }
    seeds
}

fn header() -> SegmentHeader {
    SegmentHeader {
        identity: StoreIdentity { history: HistoryId::from_bits(0x00c7_f3a1), store: StoreId::from_bits(7) },
        partition: PartitionId::new(2),
        sequence: 4,
        random_id: 0x0102_0304_0506_0708,
        base_index: 17,
        base_offset: Offset::new(42),
        base_term: 3,
        baseline: true,
        previous: Some((3, 4096)),
    }
}

fn state() -> SmallState {
    let id = EntryId { term: 2, index: 5 };
    SmallState {
        vote: Some(StoredVote { term: 3, node: 2, committed: true }),
        committed: Some(id),
        applied_membership: Some(StoredMembership { id: Some(id), bytes: Bytes::from_static(b"members") }),
        purged: Some(EntryId { term: 1, index: 0 }),
    }
}

fn nasty() -> Vec<(&'static str, Vec<u8>)> {
    let claim = |length: u32| [&sent::preamble()[..], &sent::header(FrameKind::Request, 1, 1, length)].concat();
    let with = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let (frame, _) = stored::encode_frame(stored::FrameKind::Marker, b"", SEED, 0, 0);
    let (blank, _) = stored::encode_frame(stored::FrameKind::Blank, &[7; 40], SEED, 0, 0);
    let (marker, _) = stored::encode_frame(stored::FrameKind::Marker, b"more", SEED, 0, 0);
    let state = stored::encode_state(&state()).to_vec();
    vec![
        ("a frame that claims 4 GiB", claim(u32::MAX)),
        ("a frame that claims all it may, and none of it comes", claim(FRAME_BYTES_MAX as u32)),
        ("a frame that claims a byte over the limit", claim(FRAME_BYTES_MAX as u32 + 1)),
        ("a frame that claims all it may before the welcome", claim(HANDSHAKE_BYTES_MAX as u32)),
        ("a request of HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a stored frame that claims 4 GiB", [b"DFR1\x01\x05\0\0\xff\xff\xff\xff".to_vec(), vec![0; 16]].concat()),
        ("an entry shorter than its name", stored::encode_frame(stored::FrameKind::Batch, &[1; 23], SEED, 0, 0).0),
        ("found: a reserved byte of a stored frame", with(frame.clone(), 6, 1)),
        ("found: padding that is not zero", with(frame, FRAME_HEADER_BYTES, 1)),
        ("found: a blank entry with a body", blank),
        ("found: a marker with a payload", marker),
        ("found: an unknown flag of a small state", vec![0x20]),
        ("found: a membership's name without a membership", [vec![8], vec![0; 16]].concat()),
        ("found: a vote that is committed twice over", with(state, 17, 2)),
        ("found: an unknown flag of a segment", with(header().encode().to_vec(), 5, 0x81)),
        ("found: a reserved byte of a segment", with(header().encode().to_vec(), 100, 1)),
        ("found: a history of more than 24 bits", with(header().encode().to_vec(), 11, 1)),
    ]
}
