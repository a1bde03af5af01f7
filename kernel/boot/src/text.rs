//! Text of bounded length, copied from memory that a boot loader filled.
//!
//! Invariant: the text is printable ASCII, so that it can be logged on any console and be a
//! `&str`. A tab or line break becomes a space, any other byte a question mark.

use heliox_types::PAGE_BYTES;

use crate::{PhysicalMemory, PhysicalRange, Unreadable};

/// Printable ASCII text of at most `N` bytes.
#[derive(Clone, Debug)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

/// What became of a string that was copied into a [`Text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes of the source that were looked at, the terminating zero included.
    pub(crate) source_bytes: u64,
    /// The string went on, but there was no more room.
    pub(crate) truncated: bool,
    /// Some byte was not printable and became a question mark.
    pub(crate) replaced: bool,
}

impl<const N: usize> Text<N> {
    /// The empty text.
    pub(crate) const fn empty() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// Forgets the text.
    pub(crate) const fn clear(&mut self) {
        self.length = 0;
    }

    /// Number of bytes.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Adds one byte; false if there is no room.
    fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(self.length) {
            Some(slot) => {
                *slot = byte;
                self.length += 1;
                true
            }
            None => false,
        }
    }

    /// The whole text.
    pub(crate) fn as_str(&self) -> &str {
        self.part(0, self.length)
    }

    /// `length` bytes of the text from `start` on; nothing if they are not all there.
    pub(crate) fn part(&self, start: usize, length: usize) -> &str {
        start
            .checked_add(length)
            .filter(|&end| end <= self.length)
            .and_then(|end| self.bytes.get(start..end))
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }

    /// Adds at most `limit` bytes of the string in `source`, which ends at a zero byte or with
    /// `source`.
    ///
    /// Never reads across a page boundary in one go: what follows the string may be unreadable.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if the string runs into memory that cannot be read. What was copied until
    /// then stays.
    pub(crate) fn copy_string(
        &mut self,
        memory: &mut impl PhysicalMemory,
        source: PhysicalRange,
        limit: usize,
    ) -> Result<Copied, Unreadable> {
        let mut copied = Copied { source_bytes: 0, truncated: false, replaced: false };
        let mut room = limit;
        let mut chunk = [0; 64];
        while let Some(rest) = source
            .bytes()
            .checked_sub(copied.source_bytes)
            .filter(|&rest| rest != 0)
            .and_then(|rest| source.part(copied.source_bytes, rest))
        {
            let to_page_end = PAGE_BYTES - rest.start().offset_in_page();
            let bytes = rest.bytes().min(to_page_end).min(chunk.len() as u64);
            // At most 64, so the conversion keeps the value.
            let Some(chunk) = chunk.get_mut(..bytes as usize) else {
                break;
            };
            memory.read(rest.start(), chunk)?;
            for &mut byte in chunk {
                copied.source_bytes += 1;
                if byte == 0 {
                    return Ok(copied);
                }
                let printable = match byte {
                    b' '..=b'~' => byte,
                    b'\t' | b'\n' | b'\r' => b' ',
                    _ => {
                        copied.replaced = true;
                        b'?'
                    }
                };
                if room == 0 || !self.push(printable) {
                    copied.truncated = true;
                    return Ok(copied);
                }
                room -= 1;
            }
        }
        Ok(copied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::physical_memory::tests::TestMemory;

    fn copy<const N: usize>(bytes: &[u8], limit: usize) -> (Text<N>, Result<Copied, Unreadable>) {
        // The string ends right at the end of readable memory.
        let start = 0x3000 - bytes.len() as u64;
        let mut memory = TestMemory { start, bytes: bytes.to_vec() };
        let mut text = Text::empty();
        let source = PhysicalRange::new(start, 8192).unwrap();
        let result = text.copy_string(&mut memory, source, limit);
        (text, result)
    }

    #[test]
    fn a_string_ends_at_zero_and_nothing_behind_it_is_read() {
        let (text, result) = copy::<100>(b"root=disk quiet\0", 100);
        assert_eq!(text.as_str(), "root=disk quiet");
        assert_eq!(result.unwrap().source_bytes, 16);
        let (text, result) = copy::<8192>(&[&[b'x'; 5000][..], b"\0"].concat(), 8192);
        assert_eq!((text.len(), result.unwrap().truncated), (5000, false));
    }

    #[test]
    fn a_string_without_end_is_unreadable_where_memory_ends() {
        let (text, result) = copy::<100>(b"abc", 100);
        assert!(result.is_err());
        assert_eq!(text.as_str(), "abc");
    }

    #[test]
    fn a_long_string_is_truncated() {
        let (text, result) = copy::<4>(b"abcdef\0", 100);
        assert_eq!((text.as_str(), result.unwrap().truncated), ("abcd", true));
        let (text, result) = copy::<100>(b"abcdef\0", 3);
        assert_eq!((text.as_str(), result.unwrap().truncated), ("abc", true));
        let (text, result) = copy::<6>(b"abcdef\0", 6);
        assert_eq!((text.as_str(), result.unwrap().truncated), ("abcdef", false));
    }

    #[test]
    fn unprintable_bytes_are_replaced() {
        let (text, result) = copy::<100>(b"a\tb\x1b[0m\xff\0", 100);
        assert_eq!(text.as_str(), "a b?[0m?");
        assert!(result.unwrap().replaced);
    }
}
