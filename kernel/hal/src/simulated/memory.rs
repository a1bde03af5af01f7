//! Simulated physical memory.
//!
//! The contents of a frame are its 512 words up to the last one that is not zero. So a machine
//! whose programs touch one word of a frame, and whose tables have four entries, costs a few
//! words to copy, to compare and to hash, while bulk access works on all 4096 bytes.
//! Contents are shared between copies of a machine until written.
//!
//! Invariant: contents that read alike are represented alike (no trailing zero word, no empty
//! list), so that derived equality is equality of what can be read.

use std::sync::Arc;
use std::vec::Vec;

use heliox_types::PAGE_BYTES;

/// Number of 8-byte words of a frame.
pub(super) const WORDS: usize = PAGE_BYTES as usize / 8;

/// The contents of a frame; `None` is all zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Contents(Option<Arc<Vec<u64>>>);

/// The contents of all frames, by slot number (see [`Layout::slot`](super::layout::Layout)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Memory(Vec<Contents>);

impl Memory {
    /// Memory of `slots` frames, all zero.
    pub(super) fn new(slots: usize) -> Self {
        Self(std::vec![Contents::default(); slots])
    }

    /// The words of a frame, without trailing zeros.
    pub(super) fn words(&self, slot: usize) -> &[u64] {
        self.0[slot].0.as_ref().map_or(&[], |words| words)
    }

    /// Word `index` of a frame.
    pub(super) fn word(&self, slot: usize, index: usize) -> u64 {
        self.words(slot).get(index).copied().unwrap_or(0)
    }

    /// Replaces word `index`, below [`WORDS`], of a frame.
    pub(super) fn set_word(&mut self, slot: usize, index: usize, value: u64) {
        assert!(index < WORDS);
        if self.word(slot, index) == value {
            return;
        }
        let contents = &mut self.0[slot].0;
        let words = Arc::make_mut(contents.get_or_insert_default());
        if words.len() <= index {
            words.resize(index + 1, 0);
        }
        words[index] = value;
        while words.last() == Some(&0) {
            words.pop();
        }
        if words.is_empty() {
            *contents = None;
        }
    }

    /// Makes a frame all zero.
    pub(super) fn clear(&mut self, slot: usize) {
        self.0[slot].0 = None;
    }

    /// Reads bytes of a frame from `offset` on; they must not reach past its end.
    pub(super) fn read(&self, slot: usize, offset: usize, bytes: &mut [u8]) {
        for (distance, byte) in bytes.iter_mut().enumerate() {
            let at = offset + distance;
            *byte = self.word(slot, at / 8).to_le_bytes()[at % 8];
        }
    }

    /// Writes bytes of a frame from `offset` on; they must not reach past its end.
    pub(super) fn write(&mut self, slot: usize, offset: usize, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let (index, first) = (at / 8, at % 8);
            let count = (8 - first).min(bytes.len() - done);
            let mut word = self.word(slot, index).to_le_bytes();
            word[first..first + count].copy_from_slice(&bytes[done..done + count]);
            self.set_word(slot, index, u64::from_le_bytes(word));
            done += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_that_read_alike_are_equal() {
        let empty = Memory::new(2);
        let mut memory = empty.clone();
        memory.set_word(1, 511, 7);
        memory.set_word(1, 3, 9);
        assert_ne!(memory, empty);
        memory.set_word(1, 511, 0);
        assert_eq!(memory.words(1), &[0, 0, 0, 9]);
        memory.set_word(1, 3, 0);
        assert_eq!(memory, empty);
    }

    #[test]
    fn a_copy_does_not_see_later_writes() {
        let mut memory = Memory::new(1);
        memory.set_word(0, 0, 1);
        let copy = memory.clone();
        memory.set_word(0, 0, 2);
        assert_eq!((copy.word(0, 0), memory.word(0, 0)), (1, 2));
    }

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let mut memory = Memory::new(1);
        memory.write(0, 6, &[1, 2, 3, 4]);
        assert_eq!(memory.word(0, 0), 0x0201_0000_0000_0000);
        assert_eq!(memory.word(0, 1), 0x0403);
        let mut bytes = [0xff; 6];
        memory.read(0, 5, &mut bytes);
        assert_eq!(bytes, [0, 1, 2, 3, 4, 0]);
        memory.write(0, 4088, &[9; 8]);
        assert_eq!(memory.words(0).len(), WORDS);
    }
}
