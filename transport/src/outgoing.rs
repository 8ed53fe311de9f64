//! What waits to be written on a connection: many frames become one write.
//!
//! * In: frames. Out: one vectored write at a time. Small bodies are copied together, large ones are written in place.
//! * Invariant: cancelling `write_to` loses nothing: bytes leave here only when the socket has taken them.
//! * Deliberately absent: a limit; the owner stops adding at its own (`len`).

use crate::frame::{self, FrameKind};
use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, IoSlice, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Bodies up to this long are copied beside their headers. Unit: bytes.
const COPY_BYTES_MAX: usize = 8 * 1024;
/// Most pieces handed to the system at once.
const SLICES: usize = 32;

/// Bytes on their way to a socket.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Ready pieces, oldest first.
    pieces: VecDeque<Bytes>,
    /// Small frames behind them, still growing.
    tail: BytesMut,
    length: usize,
}

impl Outgoing {
    /// Adds raw bytes.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Adds a frame. The caller keeps bodies within the frame limit, so that their length fits 32 bits.
    pub(crate) fn push(&mut self, kind: FrameKind, service: u8, request: u64, body: Bytes) {
        let length = u32::try_from(body.len()).expect("bodies are bounded by the frame limit");
        self.push_bytes(&frame::header(kind, service, request, length));
        if body.len() <= COPY_BYTES_MAX {
            self.push_bytes(&body);
            return;
        }
        self.pieces.push_back(self.tail.split().freeze());
        self.length += body.len();
        self.pieces.push_back(body);
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Writes as much as the socket takes at once.
    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(&mut self, socket: &mut W) -> Result<()> {
        if !self.tail.is_empty() && self.pieces.len() < SLICES {
            self.pieces.push_back(self.tail.split().freeze());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        let written = socket.write_vectored(slices.get(..count).unwrap_or_default()).await?;
        if written == 0 && self.length > 0 {
            return Err(Error::from(ErrorKind::WriteZero));
        }
        self.advance(written);
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.length -= written;
        while let Some(first) = self.pieces.front_mut() {
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameBuffer;
    use tokio::io::AsyncReadExt as _;

    /// Goal: frames of any size leave whole and in order, through a pipe that takes little at a time.
    #[tokio::test]
    async fn frames_leave_whole_and_in_order() {
        let (mut writer, mut reader) = tokio::io::duplex(1000);
        let sizes = [0usize, 5, 9000, 100, 100, 70_000, 8192, 1, 8193];
        let mut outgoing = Outgoing::default();
        for (number, &size) in sizes.iter().enumerate() {
            outgoing.push(FrameKind::Answer, 0, number as u64, Bytes::from(vec![number as u8; size]));
        }
        let writing = async move {
            while !outgoing.is_empty() {
                outgoing.write_to(&mut writer).await.unwrap();
            }
            assert_eq!(outgoing.len(), 0);
        };
        let reading = async move {
            let mut buffer = FrameBuffer::default();
            let mut frames = Vec::new();
            while reader.read_buf(buffer.room()).await.unwrap() > 0 {
                while let Some(frame) = buffer.take_frame(1 << 20).unwrap() {
                    frames.push(frame);
                }
            }
            frames
        };
        let ((), frames) = tokio::join!(writing, reading);
        assert_eq!(frames.len(), sizes.len());
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(frame.request, number as u64);
            assert_eq!(frame.body, vec![number as u8; sizes[number]]);
        }
    }
}
