//! The boot information: what was loaded besides sigma0 and root, in the form that programs expect.
//!
//! A header, records that name each other by their distance, and texts. All words have 64 bits.

/// The header's first word.
const MAGIC: u64 = 0x14b0_021d;
/// Version of the header and of module records.
const VERSION: u64 = 1;
/// Bytes of the header, and of a module record.
const HEADER: usize = 64;
const RECORD: usize = 48;
/// Type of a record that describes a module.
const MODULE: u64 = 1;

/// A module in memory.
#[derive(Clone, Copy, Debug)]
pub struct Module<'b> {
    /// Physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Its name and arguments.
    pub command_line: &'b str,
}

/// Bytes that the boot information of these modules has.
pub fn size_of<'b>(modules: impl Iterator<Item = Module<'b>>) -> usize {
    HEADER + modules.map(|module| RECORD + text_size(module.command_line)).sum::<usize>()
}

/// Bytes of a text with the zero that ends it, as words.
fn text_size(text: &str) -> usize {
    (text.len() + 1).next_multiple_of(8)
}

/// Tells `write` the words and texts of the boot information, each with its offset in bytes. What it is not told
/// is zero.
///
/// # Errors
/// The first error of `write`.
pub fn describe<'b, E>(
    modules: impl Iterator<Item = Module<'b>> + Clone,
    mut write: impl FnMut(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let count = modules.clone().count();
    let size = size_of(modules.clone());
    let header = [MAGIC, VERSION, size as u64, HEADER as u64, count as u64];
    for (word, index) in header.into_iter().zip(0..) {
        write(index * 8, &word.to_le_bytes())?;
    }
    let mut at = HEADER;
    let mut text = HEADER + count * RECORD;
    for module in modules {
        // The last one names the end.
        let words = [MODULE, VERSION, RECORD as u64, module.start, module.size, (text - at) as u64];
        for (word, index) in words.into_iter().zip(0..) {
            write(at + index * 8, &word.to_le_bytes())?;
        }
        write(text, module.command_line.as_bytes())?;
        text += text_size(module.command_line);
        at += RECORD;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn records_lead_to_each_other_and_to_their_texts() {
        let modules = [
            Module { start: 0x10_0000, size: 100, command_line: "sigma0" },
            Module { start: 0x20_0000, size: 200, command_line: "root and arguments" },
        ];
        let size = size_of(modules.into_iter());
        let mut bytes = vec![0_u8; size];
        describe(modules.into_iter(), |at, part| {
            bytes[at..at + part.len()].copy_from_slice(part);
            Ok::<(), ()>(())
        })
        .unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(16), word(32)), (MAGIC, size as u64, 2));
        let mut at = word(24) as usize;
        for module in modules {
            assert_eq!((word(at), word(at + 24), word(at + 32)), (1, module.start, module.size));
            let text = at + word(at + 40) as usize;
            let end = text + bytes[text..].iter().position(|&byte| byte == 0).unwrap();
            assert_eq!(&bytes[text..end], module.command_line.as_bytes());
            at += word(at + 16) as usize;
        }
    }
}
