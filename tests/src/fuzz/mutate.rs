//! Mutator: inputs from seeds, by chance that is always the same.
//!
//! * In: seeds, words. Out: a seed with one to eight changes, without end. The kinds of change are those of libFuzzer.
//! * Deliberately absent: coverage. That is what libFuzzer is for.

use super::INPUT_BYTES_MAX;
use crate::harness::Rng;
use std::ops::Range;

/// Values at which code that counts goes wrong.
const EDGES: [u64; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX - 1, 1 << 63];

/// Makes inputs.
pub struct Mutator {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

impl Mutator {
    /// From these seeds, of which there is at least one.
    pub fn new(seeds: Vec<Vec<u8>>, words: &'static [&'static str]) -> Mutator {
        Mutator { rng: Rng::seeded(0x00f0_2200), seeds, words }
    }

    /// A place in so many bytes, their end included.
    fn place(&mut self, length: usize) -> usize {
        self.rng.below(length + 1)
    }

    /// A stretch of so many bytes, mostly a short one.
    fn stretch(&mut self, length: usize) -> Range<usize> {
        let start = self.place(length);
        let longest = if self.rng.below(4) == 0 { length } else { 16 };
        start..(start + 1 + self.rng.below(longest)).min(length)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        match self.rng.below(13) {
            0 | 1 => self.flip(bytes),
            2 => self.set(bytes),
            3 | 4 => self.edge(bytes),
            5 => {
                let (at, count) = (self.place(bytes.len()), 1 + self.rng.below(8));
                let piece = self.rng.bytes(count);
                bytes.splice(at..at, piece);
            }
            6 => {
                bytes.drain(self.stretch(bytes.len()));
            }
            7 => {
                let piece = bytes[self.stretch(bytes.len())].to_vec();
                let at = self.place(bytes.len());
                let times = if self.rng.below(8) == 0 { 1 + self.rng.below(40) } else { 1 };
                bytes.splice(at..at, piece.repeat(times));
            }
            8 => {
                let stretch = self.stretch(bytes.len());
                let at = self.rng.below(bytes.len() + 1 - stretch.len());
                bytes.copy_within(stretch, at);
            }
            9 => {
                bytes.truncate(self.place(bytes.len()));
            }
            10 => self.splice(bytes),
            _ => self.word(bytes),
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let (at, bit) = (self.rng.below(bytes.len()), self.rng.below(8));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn set(&mut self, bytes: &mut [u8]) {
        let (at, value) = (self.rng.below(bytes.len()), self.rng.bits() as u8);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }

    /// Writes a number at an edge, in one of the widths, in either byte order.
    fn edge(&mut self, bytes: &mut [u8]) {
        let width = *self.rng.pick(&[1usize, 2, 4, 8]);
        let value = self.rng.pick(&EDGES).wrapping_add(self.rng.below(3) as u64);
        let mut number = value.to_le_bytes()[..width].to_vec();
        if self.rng.below(4) == 0 {
            number.reverse();
        }
        let at = self.rng.below((bytes.len() + 1).saturating_sub(width).max(1));
        bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
    }

    /// A stretch of another seed, put in or over what is there.
    fn splice(&mut self, bytes: &mut Vec<u8>) {
        let other = self.rng.below(self.seeds.len());
        let stretch = self.stretch(self.seeds[other].len());
        let at = self.place(bytes.len());
        let over = if self.rng.below(2) == 0 { (at + stretch.len()).min(bytes.len()) } else { at };
        bytes.splice(at..over, self.seeds[other][stretch].iter().copied());
    }

    fn word(&mut self, bytes: &mut Vec<u8>) {
        if self.words.is_empty() {
            return self.edge(bytes);
        }
        let word = self.rng.pick(self.words).as_bytes();
        let at = self.place(bytes.len());
        let over = if self.rng.below(2) == 0 { (at + word.len()).min(bytes.len()) } else { at };
        bytes.splice(at..over, word.iter().copied());
    }
}

impl Iterator for Mutator {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.rng.pick(&self.seeds).clone();
        for _ in 0..1 + self.rng.below(3) * self.rng.below(4) {
            self.change(&mut bytes);
        }
        Some(bytes)
    }
}
