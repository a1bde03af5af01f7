//! The boot information: which modules were loaded, where they are, and their command lines.
//!
//! It lies in memory that the reader may have to map first, so it is read word by word through a
//! function. Nothing in it is trusted: whatever it says, reading ends, and no offset leads out of
//! the size that it states.

/// What the boot information begins with.
pub const MAGIC: u64 = 0x14b0_021d;
/// The version of its form.
pub const VERSION: u64 = 1;
/// Bytes before the first record at least.
pub const HEADER_BYTES: u64 = 64;
/// The type of a module's record.
pub const MODULE: u64 = 1;
/// More records than this are not looked at.
const MOST_RECORDS: u64 = 4096;

/// Reads words of the boot information.
pub trait Source {
    /// The word at a byte offset, a multiple of 8; `None` if it cannot be read.
    fn word(&self, offset: u64) -> Option<u64>;

    /// The byte at an offset.
    fn byte(&self, offset: u64) -> Option<u8> {
        Some(self.word(offset & !7)?.to_le_bytes()[(offset & 7) as usize])
    }
}

impl Source for [u64] {
    fn word(&self, offset: u64) -> Option<u64> {
        self.get(usize::try_from(offset / 8).ok()?).copied()
    }
}

/// A module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its physical address.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Offset of its command line within the boot information; `None`: it has none.
    pub command_line: Option<u64>,
}

/// Why there is no boot information to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// It cannot be read at all.
    Unreadable,
    /// It begins with this word.
    Magic(u64),
    /// It is of this version.
    Version(u64),
    /// Its size of so many bytes is less than that of its header.
    Size(u64),
}

/// The boot information in `source`.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo<'a, S: Source + ?Sized> {
    source: &'a S,
    bytes: u64,
    first: u64,
    count: u64,
}

impl<'a, S: Source + ?Sized> BootInfo<'a, S> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// It is not readable, or not what it should be.
    pub fn parse(source: &'a S) -> Result<Self, BootInfoError> {
        let word = |index: u64| source.word(index * 8).ok_or(BootInfoError::Unreadable);
        match word(0)? {
            MAGIC => {}
            other => return Err(BootInfoError::Magic(other)),
        }
        match word(1)? {
            VERSION => {}
            other => return Err(BootInfoError::Version(other)),
        }
        let (bytes, first, count) = (word(2)?, word(3)?, word(4)?);
        if bytes < HEADER_BYTES {
            return Err(BootInfoError::Size(bytes));
        }
        Ok(Self { source, bytes, first, count: count.min(MOST_RECORDS) })
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of records that it states, of whatever types.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    fn word(&self, offset: u64) -> Option<u64> {
        let inside = offset.is_multiple_of(8) && offset.checked_add(8)? <= self.bytes;
        if inside { self.source.word(offset) } else { None }
    }

    /// The modules, in the order of their records; a record that does not lie inside ends them.
    pub fn modules(&self) -> impl Iterator<Item = Module> + use<'a, '_, S> {
        let mut next = Some(self.first);
        (0..self.count)
            .map_while(move |_| {
                let at = next?;
                let kind = self.word(at)?;
                let following = self.word(at.checked_add(16)?)?;
                // A record that names itself or an earlier one as the next ends the list.
                next = if following == 0 { None } else { at.checked_add(following) };
                Some((kind, at))
            })
            .filter(|(kind, _)| *kind == MODULE)
            .map_while(|(_, at)| {
                let field = |index: u64| self.word(at.checked_add(index * 8)?);
                let command_line = match field(5)? {
                    0 => None,
                    offset => at.checked_add(offset).filter(|offset| *offset < self.bytes),
                };
                Some(Module { start: field(3)?, bytes: field(4)?, command_line })
            })
    }

    /// A module's command line, as much of it as fits into `buffer` and can be read; empty if it
    /// has none.
    pub fn command_line<'b>(&self, module: &Module, buffer: &'b mut [u8]) -> &'b [u8] {
        let mut length = 0;
        if let Some(start) = module.command_line {
            for (target, offset) in buffer.iter_mut().zip(start..self.bytes) {
                match self.source.byte(offset) {
                    Some(byte) if byte != 0 => *target = byte,
                    _ => break,
                }
                length += 1;
            }
        }
        buffer.get(..length).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// Two modules and, between them, a record of another type.
    fn words() -> Vec<u64> {
        let mut words = vec![0x14b0_021d, 1, 0, 64, 3, 0, 0, 0];
        // Offset 64: a module, whose command line is 48 bytes on.
        words.extend([1, 1, 64, 0x20_0000, 0x1234, 48]);
        words.extend([u64::from_le_bytes(*b"sigma0 a"), u64::from_le_bytes(*b" b\0xxxxx")]);
        // Offset 128: of another type.
        words.extend([0x102, 1, 32, 0xffff]);
        // Offset 160.
        words.extend([1, 1, 0, 0x30_0000, 7, 0]);
        words[2] = words.len() as u64 * 8;
        words
    }

    #[test]
    fn modules_are_found_among_other_records() {
        let words = words();
        let info = BootInfo::parse(words.as_slice()).unwrap();
        let modules: Vec<_> = info.modules().collect();
        assert_eq!(
            modules,
            [
                Module { start: 0x20_0000, bytes: 0x1234, command_line: Some(112) },
                Module { start: 0x30_0000, bytes: 7, command_line: None },
            ]
        );
        let mut buffer = [0; 32];
        assert_eq!(info.command_line(&modules[0], &mut buffer), b"sigma0 a b");
        assert_eq!(info.command_line(&modules[0], &mut buffer[..4]), b"sigm");
        assert_eq!(info.command_line(&modules[1], &mut buffer), b"");
    }

    #[test]
    fn what_is_not_boot_information_is_refused() {
        let mut words = words();
        assert_eq!(BootInfo::parse(&words[..2]).unwrap_err(), BootInfoError::Unreadable);
        words[2] = 8;
        assert_eq!(BootInfo::parse(words.as_slice()).unwrap_err(), BootInfoError::Size(8));
        words[1] = 2;
        assert_eq!(BootInfo::parse(words.as_slice()).unwrap_err(), BootInfoError::Version(2));
        words[0] = 1;
        assert_eq!(BootInfo::parse(words.as_slice()).unwrap_err(), BootInfoError::Magic(1));
    }

    #[test]
    fn whatever_it_says_reading_ends_inside() {
        let good = words();
        for index in 2..good.len() {
            for value in [0, 1, 7, 8, 24, 64, 160, u64::MAX - 8, u64::MAX, 1 << 63] {
                let mut words = good.clone();
                words[index] = value;
                let Ok(info) = BootInfo::parse(words.as_slice()) else { continue };
                let mut buffer = [0; 16];
                let mut seen = 0;
                for module in info.modules() {
                    assert!(info.command_line(&module, &mut buffer).len() <= 16);
                    seen += 1;
                }
                assert!(seen <= MOST_RECORDS);
            }
        }
    }
}
