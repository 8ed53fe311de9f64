//! Frames between processes: how bytes on a connection become messages. Pure: no sockets, no clock.
//!
//! * In: bytes as they come. Out: whole frames whose bodies share those bytes, or why the peer must be cut off.
//! * Invariant: a length is checked against the limit before anything is reserved for it, and room grows only with what
//!   has really come, so that a claimed length allocates nothing.
//! * Deliberately absent: a checksum (TCP has one, and record batches carry their own), what bodies mean.
//! * Source: docs/formats.md "Frames between processes".

use bytes::{Buf as _, Bytes, BytesMut};
use duramen_common::HistoryId;

/// The first four bytes in either direction.
pub const MAGIC: [u8; 4] = *b"DRTP";
/// The version that this program speaks.
pub const VERSION: u16 = 1;
/// Bytes before the first frame, in either direction.
pub const PREAMBLE_BYTES: usize = 8;
/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 16;
/// Largest body before the handshake is done. Unit: bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;

/// How much is read at once, when there is nothing larger to expect. Unit: bytes.
const READ_BYTES: usize = 64 * 1024;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Caller: who calls. The first frame.
    Hello,
    /// Server: come in. The first frame.
    Welcome,
    /// Server: why not, as UTF-8; the connection is closed behind it.
    Refused,
    /// Caller: a request.
    Request,
    /// Server: the answer to the request of the same number.
    Answer,
    /// Server: the request was handled, but its answer cannot be given; why, as UTF-8.
    Failed,
}

impl FrameKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Refused => 3,
            Self::Request => 4,
            Self::Answer => 5,
            Self::Failed => 6,
        }
    }

    const fn of(byte: u8) -> Option<FrameKind> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Welcome),
            3 => Some(Self::Refused),
            4 => Some(Self::Request),
            5 => Some(Self::Answer),
            6 => Some(Self::Failed),
            _ => None,
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The service of a request; 0 otherwise.
    pub service: u8,
    /// Ties an answer to its request. In a refusal: [`refusal_tag`]. Otherwise 0.
    pub request: u64,
    /// Its content.
    pub body: Bytes,
}

/// Why bytes are not frames. The peer is told, and cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another protocol.
    #[error("this port speaks Duramen's framed protocol between nodes, and what came is something else ({found:02x?})")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another version of this protocol.
    #[error(
        "the peer speaks version {found} of the framed protocol, this program version {VERSION}: upgrade the older"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// A kind that this version does not know.
    #[error("unknown kind of frame {found}")]
    Kind {
        /// The kind byte.
        found: u8,
    },
    /// Reserved bytes that are not zero.
    #[error("reserved bytes of a frame are set: a newer version wrote it")]
    Reserved,
    /// Over the limit.
    #[error("frame of {length} bytes, the limit is {limit}")]
    TooLong {
        /// Its body's length in bytes.
        length: u32,
        /// The limit in bytes.
        limit: usize,
    },
}

/// What each side sends first: magic, version, two reserved bytes.
#[must_use]
pub fn preamble() -> [u8; PREAMBLE_BYTES] {
    let [m0, m1, m2, m3] = MAGIC;
    let [v0, v1] = VERSION.to_le_bytes();
    [m0, m1, m2, m3, v0, v1, 0, 0]
}

/// Checks what the other side sent first.
pub fn check_preamble(bytes: [u8; PREAMBLE_BYTES]) -> Result<(), FrameError> {
    let [m0, m1, m2, m3, v0, v1, r0, r1] = bytes;
    let found = [m0, m1, m2, m3];
    if found != MAGIC {
        return Err(FrameError::Magic { found });
    }
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    if [r0, r1] == [0, 0] { Ok(()) } else { Err(FrameError::Reserved) }
}

/// The bytes in front of a body.
#[must_use]
pub fn header(kind: FrameKind, service: u8, request: u64, body_length: u32) -> [u8; HEADER_BYTES] {
    let [l0, l1, l2, l3] = body_length.to_le_bytes();
    let [r0, r1, r2, r3, r4, r5, r6, r7] = request.to_le_bytes();
    [l0, l1, l2, l3, kind.byte(), service, 0, 0, r0, r1, r2, r3, r4, r5, r6, r7]
}

/// Marks that a refusal names a history.
const HISTORY_NAMED: u64 = 1 << 32;

/// What stands for a request number in a refusal: the history that the caller has met, when that is why.
#[must_use]
pub fn refusal_tag(history: Option<HistoryId>) -> u64 {
    history.map_or(0, |history| HISTORY_NAMED | u64::from(history.bits()))
}

/// The history that a refusal names.
#[must_use]
pub fn history_in_refusal(tag: u64) -> Option<HistoryId> {
    (tag & !0x00ff_ffff == HISTORY_NAMED).then(|| HistoryId::from_bits(tag as u32))
}

/// Collects bytes and takes whole frames off them.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: BytesMut,
}

impl FrameBuffer {
    /// Takes the preamble off the front; `None` when fewer bytes have come.
    pub fn take_preamble(&mut self) -> Option<[u8; PREAMBLE_BYTES]> {
        let preamble = *self.bytes.first_chunk::<PREAMBLE_BYTES>()?;
        self.bytes.advance(PREAMBLE_BYTES);
        Some(preamble)
    }

    /// Takes the next frame off the front; `None` when it is not whole yet.
    pub fn take_frame(&mut self, body_bytes_max: usize) -> Result<Option<Frame>, FrameError> {
        let Some(&[l0, l1, l2, l3, kind, service, z0, z1, r0, r1, r2, r3, r4, r5, r6, r7]) =
            self.bytes.first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let kind = FrameKind::of(kind).ok_or(FrameError::Kind { found: kind })?;
        if [z0, z1] != [0, 0] {
            return Err(FrameError::Reserved);
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length as usize > body_bytes_max {
            return Err(FrameError::TooLong { length, limit: body_bytes_max });
        }
        if self.bytes.len() - HEADER_BYTES < length as usize {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        let body = self.bytes.split_to(length as usize).freeze();
        let request = u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]);
        Ok(Some(Frame { kind, service, request, body }))
    }

    /// Where to read to, with room for more. Room grows with what has come: a frame that is half here gets at most as
    /// much again, whatever length it claims.
    pub fn room(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() - self.bytes.len() < HEADER_BYTES.max(READ_BYTES / 16) {
            self.bytes.reserve(READ_BYTES.max(self.bytes.len()));
        }
        &mut self.bytes
    }

    /// What has come and was not taken.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = FrameKind> {
        (1u8..=6).prop_map(|byte| FrameKind::of(byte).unwrap())
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let body = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        (kinds(), any::<u8>(), any::<u64>(), body).prop_map(|(kind, service, request, body)| Frame {
            kind,
            service,
            request,
            body,
        })
    }

    fn drain(buffer: &mut FrameBuffer, limit: usize) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = buffer.take_frame(limit)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    proptest! {
        /// Goal: frames come out as they went in, wherever the network cut the bytes.
        #[test]
        fn frames_survive_any_cutting(frames in proptest::collection::vec(frames(), 0..8), piece in 1usize..50) {
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend_from_slice(&header(frame.kind, frame.service, frame.request, frame.body.len() as u32));
                bytes.extend_from_slice(&frame.body);
            }
            let mut buffer = FrameBuffer::default();
            let mut out = Vec::new();
            for piece in bytes.chunks(piece) {
                buffer.room().extend_from_slice(piece);
                out.extend(drain(&mut buffer, 300).unwrap());
            }
            prop_assert_eq!(out, frames);
            prop_assert!(buffer.pending().is_empty());
        }

        /// Goal: hostile bytes never panic, and never make us reserve more than a read's worth or twice what came.
        #[test]
        fn any_bytes_are_refused_or_taken_without_room_for_claims(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            plausible: bool,
        ) {
            if plausible && bytes.len() >= HEADER_BYTES {
                bytes[..HEADER_BYTES].copy_from_slice(&header(FrameKind::Request, 1, 2, 16 << 20));
            }
            let mut buffer = FrameBuffer::default();
            for piece in bytes.chunks(100) {
                buffer.room().extend_from_slice(piece);
                if drain(&mut buffer, 16 << 20).is_err() {
                    break;
                }
            }
            buffer.room();
            prop_assert!(buffer.capacity() <= 2 * READ_BYTES + 2 * bytes.len(), "{} reserved", buffer.capacity());
            if let Some(first) = bytes.first_chunk::<PREAMBLE_BYTES>() {
                let _ = check_preamble(*first);
            }
        }
    }

    #[test]
    fn what_is_over_the_limit_is_refused_by_its_header_alone() {
        let mut buffer = FrameBuffer::default();
        buffer.room().extend_from_slice(&header(FrameKind::Request, 1, 1, 301));
        assert_eq!(buffer.take_frame(300), Err(FrameError::TooLong { length: 301, limit: 300 }));
    }

    #[test]
    fn a_refusal_names_a_history_or_none() {
        for history in [None, Some(HistoryId::from_bits(0)), Some(HistoryId::from_bits(0x00c7_f3a1))] {
            assert_eq!(history_in_refusal(refusal_tag(history)), history);
        }
        assert_eq!(history_in_refusal(u64::MAX), None);
    }

    /// Pinned: the bytes of version 1.
    #[test]
    fn the_layout_never_changes() {
        assert_eq!(preamble(), *b"DRTP\x01\x00\x00\x00");
        assert_eq!(header(FrameKind::Request, 7, 0x0102, 5), [5, 0, 0, 0, 4, 7, 0, 0, 0x02, 0x01, 0, 0, 0, 0, 0, 0]);
        assert_eq!(check_preamble(*b"DRTP\x02\x00\x00\x00"), Err(FrameError::Version { found: 2 }));
        assert_eq!(check_preamble(*b"GET / HT"), Err(FrameError::Magic { found: *b"GET " }));
    }
}
