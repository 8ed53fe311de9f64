//! Damage: what an input does to the files of a log.
//!
//! * Eight bytes stand for one change: what, to which file, two places, a length, one more byte. Places are taken modulo what
//!   there is, so that every input means something.

use super::written::{Written, folder};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// Bytes of one change in an input.
pub(super) const CHANGE_BYTES: usize = 8;
/// Most changes of one input.
const CHANGES_MAX: usize = 8;
/// Bytes that a disk writes, or does not, together.
const SECTOR_BYTES: usize = 512;
/// How many kinds of change there are.
pub(super) const KINDS: u8 = 15;

/// The files of the folder, by path.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// One change, as an input says it.
struct Change {
    kind: u8,
    file: usize,
    one: usize,
    other: usize,
    length: usize,
    value: u8,
}

/// The files as they were written.
pub(super) fn whole(written: &Written) -> Files {
    written.files.iter().map(|file| (file.path.clone(), file.bytes.clone())).collect()
}

/// The files after all changes of an input.
pub(super) fn damaged(written: &Written, changes: &[u8]) -> Files {
    let mut files = whole(written);
    for change in changes.chunks_exact(CHANGE_BYTES).take(CHANGES_MAX) {
        let &[kind, file, one_low, one_high, other_low, other_high, length, value] = change else { continue };
        let one = usize::from(u16::from_le_bytes([one_low, one_high]));
        let other = usize::from(u16::from_le_bytes([other_low, other_high]));
        let length = 1 + usize::from(length);
        Change { kind: kind % KINDS, file: usize::from(file), one, other, length, value }.make(written, &mut files);
    }
    files
}

impl Change {
    fn make(&self, written: &Written, files: &mut Files) {
        let number = self.file % written.files.len();
        let original = &written.files[number];
        let neighbour = &written.files[self.other % written.files.len()];
        if self.kind == 13 {
            // The last file may not vanish: nothing would tell that it was there.
            if number + 1 < written.files.len() {
                files.remove(&original.path);
            }
            return;
        }
        if self.kind == 14 {
            files.insert(self.junk(written), neighbour.bytes.clone());
            return;
        }
        if self.kind == 12 {
            if let Some(bytes) = files.get(&neighbour.path).cloned()
                && let Some(here) = files.get_mut(&original.path)
            {
                let here = std::mem::replace(here, bytes);
                files.insert(neighbour.path.clone(), here);
            }
            return;
        }
        let Some(bytes) = files.get_mut(&original.path) else { return };
        match self.kind {
            0 => {
                let at = self.one % bytes.len().max(1);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (self.value % 8));
            }
            1 => bytes.truncate(self.one % (bytes.len() + 1)),
            2 => fill(bytes, self.one, self.length, 0),
            3 => swap(bytes, self.block(self.one), self.block(self.other)),
            4 => copy(bytes, self.block(self.one), self.block(self.other).start),
            5 => {
                let from = self.other % (neighbour.bytes.len() + 1);
                let stale = neighbour.bytes[from..].iter().take(8 * self.length);
                let at = if self.value.is_multiple_of(2) { from } else { self.one % (bytes.len() + 1) };
                bytes.iter_mut().skip(at).zip(stale).for_each(|(byte, stale)| *byte = *stale);
            }
            6 => fill(bytes, self.one, self.length, self.value),
            7 => self.tear(bytes, original.frames.last().map_or(0, |frame| frame.end)),
            8 => bytes.extend(std::iter::repeat_n(self.value, self.length)),
            9 => {
                if let (Some(one), Some(other)) =
                    (self.frame(&original.frames, self.one), self.frame(&original.frames, self.other))
                {
                    swap(bytes, one, other);
                }
            }
            10 => {
                if let Some(frame) = self.frame(&original.frames, self.one).filter(|frame| frame.end <= bytes.len()) {
                    bytes.drain(frame);
                }
            }
            _ => {
                let frames = (self.frame(&original.frames, self.one), self.frame(&original.frames, self.other));
                if let (Some(frame), Some(before)) = frames
                    && frame.end <= bytes.len()
                    && before.start <= bytes.len()
                {
                    let copied = bytes[frame].to_vec();
                    bytes.splice(before.start..before.start, copied);
                }
            }
        }
    }

    /// Whole words of eight bytes.
    fn block(&self, at: usize) -> Range<usize> {
        let start = at / 8 * 8;
        start..start + 8 * self.length
    }

    fn frame(&self, frames: &[Range<usize>], number: usize) -> Option<Range<usize>> {
        frames.get(number % frames.len().max(1)).cloned()
    }

    /// Some sectors from a place near the end on were never written.
    fn tear(&self, bytes: &mut [u8], end: usize) {
        let start = end.saturating_sub(1 + self.one % 1024);
        let mut at = start;
        for number in 0..8 {
            let next = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
            if self.value >> number & 1 == 0 {
                fill(bytes, at, next - at, 0);
            }
            at = next;
        }
        fill(bytes, at, usize::MAX, 0);
    }

    /// A file that is no segment: one that never got its name, or that waits for reuse.
    fn junk(&self, written: &Written) -> PathBuf {
        match (&written.spare, self.value % 2) {
            (_, 0) => folder().join("unnamed.tmp"),
            (Some(spare), _) => spare.clone(),
            (None, _) => folder().join(format!("{:020}.spare", self.one)),
        }
    }
}

fn fill(bytes: &mut [u8], at: usize, length: usize, value: u8) {
    let at = at % bytes.len().max(1);
    bytes.iter_mut().skip(at).take(length).for_each(|byte| *byte = value);
}

/// Two stretches change places where they do not overlap; the shorter one's length counts.
fn swap(bytes: &mut [u8], one: Range<usize>, other: Range<usize>) {
    let (first, second) = if one.start <= other.start { (one, other) } else { (other, one) };
    let length = first.len().min(second.len());
    if first.start + length > second.start || second.start + length > bytes.len() {
        return;
    }
    let (head, tail) = bytes.split_at_mut(second.start);
    head[first.start..first.start + length].swap_with_slice(&mut tail[..length]);
}

fn copy(bytes: &mut [u8], from: Range<usize>, to: usize) {
    if from.end <= bytes.len() && to + from.len() <= bytes.len() {
        bytes.copy_within(from, to);
    }
}
