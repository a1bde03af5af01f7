//! What programs say to root, and how: `docs/root-protocol.md`.
//!
//! A program sends its requests to its pager, which is root, with the labels of [`Request`]. All of
//! it is words, so that a program in any language can speak it.

use heliox_abi::KernelLabel;

/// The labels of requests to root begin here.
const BASE: u64 = 0x4845;

/// Labels of requests to root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Request {
    /// Write text: [`TextWords`]. Answered with an empty message.
    Write = BASE,
    /// End the program with the status in word 1. Not answered.
    Exit = BASE + 1,
    /// Tell the command line from the byte in word 1 on: answered with [`TextWords`], none at its
    /// end.
    CommandLine = BASE + 2,
    /// Make a thread: word 1 is 0 for one in the caller's space and 1 for one in a second space of
    /// the program, which has the same memory; word 2 the instruction pointer, word 3 the stack
    /// pointer, word 4 the priority. Answered with the thread's global id, or 0 and a reason.
    CreateThread = BASE + 3,
    /// Delete the thread named in word 1, which the program made. Answered with 1, or 0.
    DeleteThread = BASE + 4,
}

impl Request {
    /// The request with a label.
    #[must_use]
    pub const fn from_label(label: u64) -> Option<Self> {
        Some(match label.wrapping_sub(BASE) {
            0 => Self::Write,
            1 => Self::Exit,
            2 => Self::CommandLine,
            3 => Self::CreateThread,
            4 => Self::DeleteThread,
            _ => return None,
        })
    }
}

/// Bytes of text in one message.
pub const TEXT_BYTES: usize = 61 * 8;

/// Text in a message: word 1 is the number of bytes, at most [`TEXT_BYTES`]; from word 2 on the
/// bytes, eight in a word, the first in the lowest bits.
#[derive(Clone, Copy, Debug)]
pub struct TextWords {
    words: [u64; 62],
    count: usize,
}

impl TextWords {
    /// The words for `text`, or as much of it as fits.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        let length = text.len().min(TEXT_BYTES);
        let mut words = [0; 62];
        words[0] = length as u64;
        for (index, byte) in text.iter().take(length).enumerate() {
            words[1 + index / 8] |= u64::from(*byte) << (index % 8 * 8);
        }
        Self { words, count: 1 + length.div_ceil(8) }
    }

    /// The untyped words of the message.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        self.words.get(..self.count).unwrap_or(&[])
    }

    /// The bytes that the untyped words of a message say, into `buffer`; how many. What the words
    /// do not hold is left out, whatever they claim.
    pub fn read(words: &[u64], buffer: &mut [u8]) -> usize {
        let Some((&claimed, rest)) = words.split_first() else { return 0 };
        let claimed = usize::try_from(claimed).unwrap_or(usize::MAX);
        let length = claimed.min(rest.len() * 8).min(buffer.len());
        for (index, target) in buffer.iter_mut().take(length).enumerate() {
            *target = rest[index / 8].to_le_bytes()[index % 8];
        }
        length
    }
}

/// The kernel's protocol of a label, and its low four bits, which say more about it.
#[must_use]
pub fn kernel_label(label: u64) -> Option<(KernelLabel, u64)> {
    let low = label & 0xf;
    [
        KernelLabel::Interrupt,
        KernelLabel::PageFault,
        KernelLabel::Preemption,
        KernelLabel::PreemptionException,
        KernelLabel::Exception,
        KernelLabel::Sigma0,
        KernelLabel::PortFault,
    ]
    .into_iter()
    .find(|kind| kind.label(low) == label)
    .map(|kind| (kind, low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_message() {
        for length in [0, 1, 7, 8, 9, 100, TEXT_BYTES, TEXT_BYTES + 1] {
            let text: std::vec::Vec<u8> = (0..length).map(|index| index as u8).collect();
            let words = TextWords::new(&text);
            let mut buffer = [0; TEXT_BYTES];
            let read = TextWords::read(words.words(), &mut buffer);
            assert_eq!(&buffer[..read], &text[..length.min(TEXT_BYTES)]);
            assert!(words.words().len() <= 62);
        }
    }

    #[test]
    fn hostile_lengths_read_no_more_than_there_is() {
        let mut buffer = [0; 16];
        assert_eq!(TextWords::read(&[], &mut buffer), 0);
        assert_eq!(TextWords::read(&[u64::MAX], &mut buffer), 0);
        assert_eq!(TextWords::read(&[u64::MAX, 1], &mut buffer), 8);
        assert_eq!(TextWords::read(&[u64::MAX, 1, 2, 3], &mut buffer), 16);
    }

    #[test]
    fn labels_are_told_apart() {
        assert_eq!(kernel_label(0xffff_ffff_ffe4), Some((KernelLabel::PageFault, 4)));
        assert_eq!(kernel_label(0xffff_ffff_ff86), Some((KernelLabel::PortFault, 6)));
        assert_eq!(kernel_label(0xffff_ffff_ffa0), Some((KernelLabel::Sigma0, 0)));
        assert_eq!(kernel_label(0x4845), None);
        assert_eq!(Request::from_label(0x4846), Some(Request::Exit));
        assert_eq!(Request::from_label(0x484a), None);
        assert_eq!(Request::from_label(0x4844), None);
    }
}
