//! The archive in which modules reach a kernel that was booted through PVH.
//!
//! QEMU hands such a kernel exactly one file, so all modules travel in one cpio archive of
//! the `newc` kind. Hides that format. Three things go beyond it, and the kernel relies on
//! them:
//!
//! - an entry's name field is the module's whole command line, `NAME ARGUMENTS`;
//! - that field is padded with NUL bytes (which its length counts) so that the data of every
//!   entry starts at a multiple of 4096 bytes in the archive, and can be mapped as pages;
//! - an entry named `TRAILER!!!` ends the archive.
//!
//! Times, owners and device numbers are zero, so equal modules make equal archives.

use std::io::{self, Write};

/// Data of an entry starts at a multiple of this many bytes.
pub const DATA_ALIGNMENT: u64 = 4096;
/// The name of the entry that ends an archive.
pub const TRAILER: &str = "TRAILER!!!";

const HEADER_BYTES: u64 = 110;
/// Header and data are each padded to this many bytes.
const FIELD_ALIGNMENT: u64 = 4;
const REGULAR_FILE: u32 = 0o100_644;

/// Writes an archive to `output`, entry by entry.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an archive at the beginning of `output`.
    pub fn new(output: W) -> Self {
        Self { output, written: 0, entries: 0 }
    }

    /// Adds one entry: `command_line` as its name, and `data`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the data is larger than the format can say (4 GiB - 1), or if the
    /// command line has a NUL byte or is [`TRAILER`]; else what writing failed with.
    pub fn add(&mut self, command_line: &str, data: &[u8]) -> io::Result<()> {
        if command_line.contains('\0') || command_line == TRAILER {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` cannot name a module", command_line.escape_default()),
            ));
        }
        let data_start = (self.written + HEADER_BYTES + command_line.len() as u64 + 1)
            .next_multiple_of(DATA_ALIGNMENT);
        let name_bytes = data_start - self.written - HEADER_BYTES;
        self.entries += 1;
        self.entry(self.entries, REGULAR_FILE, command_line, name_bytes, data)
    }

    /// Ends the archive.
    ///
    /// # Errors
    ///
    /// What writing failed with.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry(0, 0, TRAILER, TRAILER.len() as u64 + 1, &[])?;
        self.output.flush()
    }

    fn entry(
        &mut self,
        inode: u32,
        mode: u32,
        name: &str,
        name_bytes: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "larger than 4 GiB");
        let data_bytes = u32::try_from(data.len()).map_err(too_large)?;
        let name_field = u32::try_from(name_bytes).map_err(too_large)?;
        let fields = [inode, mode, 0, 0, 1, 0, data_bytes, 0, 0, 0, 0, name_field, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.pad(name_bytes - name.len() as u64)?;
        self.pad(self.written.next_multiple_of(FIELD_ALIGNMENT) - self.written)?;
        self.put(data)?;
        self.pad(self.written.next_multiple_of(FIELD_ALIGNMENT) - self.written)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes `count` zero bytes; callers never need more than a page and a name.
    fn pad(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), count), &mut self.output)?;
        self.written += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (command_line, data) in entries {
            writer.add(command_line, data).unwrap();
        }
        writer.finish().unwrap();
        bytes
    }

    /// Reads an archive as its format says, knowing nothing of the writer: command line,
    /// where the data starts, data.
    fn parse(bytes: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let field = |at: usize, index: usize| {
            let start = at + 6 + index * 8;
            let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let mut at = 0;
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (data_bytes, name_bytes) = (field(at, 6), field(at, 11));
            let name = &bytes[at + 110..at + 110 + name_bytes];
            assert_eq!(name.last(), Some(&0));
            let name = name.split(|byte| *byte == 0).next().unwrap();
            let name = String::from_utf8(name.to_vec()).unwrap();
            let start = (at + 110 + name_bytes).next_multiple_of(4);
            if name == TRAILER {
                assert_eq!(start.next_multiple_of(4), bytes.len());
                return found;
            }
            let data = bytes[start..start + data_bytes].to_vec();
            found.push((name, start, data));
            at = (start + data_bytes).next_multiple_of(4);
        }
    }

    #[test]
    fn data_starts_on_pages_whatever_the_lengths() {
        for name_length in [1, 2, 3, 4, 100, 3984, 3985, 3986, 3987, 5000] {
            for data_length in [0, 1, 2, 3, 4, 4095, 4096, 4097] {
                let name = "n".repeat(name_length);
                let data = vec![0xa5; data_length];
                let bytes = archive(&[(&name, &data), ("second with arguments", b"xyz")]);
                let entries = parse(&bytes);
                assert_eq!(entries.len(), 2);
                assert_eq!((&entries[0].0, &entries[0].2), (&name, &data));
                assert_eq!(entries[1].0, "second with arguments");
                assert_eq!(entries[1].2, b"xyz");
                for (_, start, _) in entries {
                    assert_eq!(start % 4096, 0);
                }
            }
        }
    }

    #[test]
    fn no_modules_is_an_archive_too() {
        assert_eq!(parse(&archive(&[])), []);
    }

    #[test]
    fn names_that_would_confuse_a_reader_are_refused() {
        for name in ["a\0b", TRAILER] {
            let error = Writer::new(Vec::new()).add(name, b"").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
