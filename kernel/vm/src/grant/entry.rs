//! Entries of grant tables: what is at which bit, and how an entry is pinned.
//!
//! Hides the two formats. Version 1 has 8 bytes for an entry: flags (16 bits), domain (16), frame
//! (32), and the hypervisor's marks *reading* and *writing* are among the flags. Version 2 has 16
//! bytes (flags, domain, where a part begins and how long it is, 16 bits each; frame, 64 bits), with
//! the marks in an array of its own.
//!
//! An entry is checked, marked, and looked at again: if it is still what was checked, it is pinned as
//! what was checked. A domain that takes its grant back either did so before it was marked, and then
//! the second look finds that, or finds the mark.

use crate::access::Window;
use crate::backing::{Backing, Rights};
use crate::error::Error;
use crate::guest::DomainId;

/// How often an entry that changes while it is looked at is read anew.
const ATTEMPTS: u32 = 4;

/// Version 1: bits of the flags.
const TYPE: u64 = 3;
const PERMIT_ACCESS: u64 = 1;
const READ_ONLY: u64 = 1 << 2;
const READING: u64 = 1 << 3;
const WRITING: u64 = 1 << 4;
const PART: u64 = 1 << 8;

/// Entries that Xen's interface keeps when the version changes: the first, for console and
/// xenstore.
pub(crate) const RESERVED: u32 = 8;

/// The version of a grant table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 8 bytes for an entry.
    #[default]
    One,
    /// 16 bytes for an entry, and 2 for its status.
    Two,
}

impl Version {
    /// The version with this number.
    pub(crate) const fn of(version: u32) -> Result<Self, Error> {
        match version {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => Err(Error::BadVersion { version }),
        }
    }

    /// Words of an entry, as log2.
    const fn word_bits(self) -> u32 {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }

    /// Entries in a frame.
    pub(crate) const fn entries<B: Backing>(self) -> u64 {
        B::PAGE_WORDS >> self.word_bits()
    }

    /// The first word of an entry in its frame, from its place there.
    const fn word(self, place: u64) -> u64 {
        place << self.word_bits()
    }
}

/// A part of a page, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Part {
    /// Whether the `bytes` bytes from `offset` on lie in this part. No sum wraps.
    pub(crate) const fn contains(self, offset: u64, bytes: u64) -> bool {
        match offset.checked_add(bytes) {
            Some(end) => self.offset <= offset && end <= self.offset + self.bytes,
            None => false,
        }
    }
}

/// An entry as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) grants_access: bool,
    pub(crate) domain: u16,
    pub(crate) read_only: bool,
    /// The frame, as the guest numbers it and wrote it.
    pub(crate) guest: u64,
    pub(crate) part: Option<Part>,
}

impl Entry {
    const NONE: Self =
        Self { grants_access: false, domain: 0, read_only: false, guest: 0, part: None };

    /// Of version 1.
    const fn one(word: u64) -> Self {
        Self {
            grants_access: word & TYPE == PERMIT_ACCESS,
            domain: (word >> 16) as u16,
            read_only: word & READ_ONLY != 0,
            guest: word >> 32,
            part: None,
        }
    }

    /// Of version 2.
    const fn two(head: u64, guest: u64) -> Self {
        let part = Part { offset: head >> 32 & 0xffff, bytes: head >> 48 };
        Self {
            grants_access: head & TYPE == PERMIT_ACCESS,
            domain: (head >> 16) as u16,
            read_only: head & READ_ONLY != 0,
            guest,
            part: if head & PART == 0 { None } else { Some(part) },
        }
    }

    /// Check that the entry lets `domain` use the page with `rights`.
    pub(crate) const fn check(
        &self,
        reference: u32,
        domain: DomainId,
        rights: Rights,
    ) -> Result<(), Error> {
        if !self.grants_access || self.domain != domain.number() {
            return Err(Error::NotGranted { reference });
        }
        if self.read_only && matches!(rights, Rights::Write) {
            return Err(Error::ReadOnly { reference });
        }
        Ok(())
    }
}

/// Where an entry is.
pub(crate) struct Place {
    pub(crate) version: Version,
    /// The table's frame that has it, and its place there.
    pub(crate) table: Window,
    pub(crate) place: u64,
    /// The frame that has its marks, and its place there; of version 2.
    pub(crate) status: Option<(Window, u64)>,
}

impl Place {
    /// The entry as it is now, and its words without marks.
    fn read<B: Backing>(&self, backing: &mut B) -> (Entry, [u64; 2]) {
        let word = self.version.word(self.place);
        match self.version {
            Version::One => {
                let value = backing.load(&self.table, word);
                (Entry::one(value), [value & !(READING | WRITING), 0])
            }
            Version::Two => {
                let head = backing.load(&self.table, word);
                let guest = backing.load(&self.table, word + 1);
                (Entry::two(head, guest), [head, guest])
            }
        }
    }

    /// Mark the entry as used with `rights`, if `check` finds nothing wrong with it: what was
    /// checked is what was there when it was marked. `marked` says what is marked already, by other
    /// uses.
    pub(crate) fn pin<B: Backing>(
        &self,
        backing: &mut B,
        reference: u32,
        rights: Rights,
        marked: Marks,
        check: impl Fn(&Entry) -> Result<(), Error>,
    ) -> Result<Entry, Error> {
        for _ in 0..ATTEMPTS {
            let (entry, words) = self.read(backing);
            check(&entry)?;
            self.mark(backing, rights);
            if self.read(backing).1 == words {
                return Ok(entry);
            }
            self.unmark(backing, marked);
        }
        Err(Error::Contended { reference })
    }

    fn mark<B: Backing>(&self, backing: &mut B, rights: Rights) {
        let marks = match rights {
            Rights::Read => READING,
            Rights::Write => READING | WRITING,
        };
        match &self.status {
            None => backing.update(&self.table, self.version.word(self.place), 0, marks),
            // In the status, the marks are the lowest bits, in the same order.
            Some((status, place)) => {
                backing.update(status, place / 4, 0, (marks >> 3) << shift(*place));
            }
        }
    }

    /// Leave only the marks that `marks` names.
    pub(crate) fn unmark<B: Backing>(&self, backing: &mut B, marks: Marks) {
        let reading = if marks.reading { 0 } else { READING };
        let writing = if marks.writing { 0 } else { WRITING };
        let clear = reading | writing;
        match &self.status {
            None => backing.update(&self.table, self.version.word(self.place), clear, 0),
            Some((status, place)) => {
                backing.update(status, place / 4, (clear >> 3) << shift(*place), 0);
            }
        }
    }

    /// Write an entry that nobody uses, in the format of this version: what changing the version
    /// keeps. What the format cannot say becomes an entry that grants nothing.
    pub(crate) fn write<B: Backing>(&self, backing: &mut B, entry: &Entry) {
        let entry = match self.version {
            Version::One if entry.part.is_some() || entry.guest >> 32 != 0 => &Entry::NONE,
            _ => entry,
        };
        let flags = [
            (entry.grants_access, PERMIT_ACCESS),
            (entry.read_only, READ_ONLY),
            (entry.part.is_some(), PART),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set);
        let flags = set.fold(0, |flags, (_, flag)| flags | flag);
        let head = flags | u64::from(entry.domain) << 16;
        let word = self.version.word(self.place);
        match self.version {
            Version::One => backing.store(&self.table, word, head | entry.guest << 32),
            Version::Two => {
                let part = entry.part.unwrap_or(Part { offset: 0, bytes: 0 });
                let head = head | part.offset << 32 | part.bytes << 48;
                backing.store(&self.table, word + 1, entry.guest);
                backing.store(&self.table, word, head);
            }
        }
    }

    /// The entry, for [`Self::write`].
    pub(crate) fn keep<B: Backing>(&self, backing: &mut B) -> Entry {
        self.read(backing).0
    }
}

/// Where a status is in its word: four to a word.
const fn shift(place: u64) -> u64 {
    place % 4 * 16
}

/// What an entry is marked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) reading: bool,
    pub(crate) writing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_xen_has_them() {
        // struct grant_entry_v1: u16 flags, u16 domid, u32 frame.
        let bytes = [0x05, 0x00, 0x34, 0x12, 0x78, 0x56, 0x34, 0x12];
        let entry = Entry::one(u64::from_le_bytes(bytes));
        assert!(entry.grants_access && entry.read_only);
        assert_eq!((entry.domain, entry.guest, entry.part), (0x1234, 0x1234_5678, None));
        // union grant_entry_v2, sub_page: u16 flags, u16 domid, u16 page_off, u16 length, u64 frame.
        let head = [0x01, 0x01, 0x02, 0x00, 0x10, 0x00, 0x20, 0x00];
        let entry = Entry::two(u64::from_le_bytes(head), 7);
        assert!(entry.grants_access && !entry.read_only);
        assert_eq!(entry.part, Some(Part { offset: 16, bytes: 32 }));
        assert_eq!((entry.domain, entry.guest), (2, 7));
        // accept_transfer and transitive grant no access.
        assert!(!Entry::one(2).grants_access && !Entry::two(3, 0).grants_access);
    }

    #[test]
    fn parts_do_not_wrap() {
        let part = Part { offset: 16, bytes: 32 };
        assert!(part.contains(16, 32) && part.contains(48, 0) && part.contains(20, 8));
        assert!(!part.contains(15, 2) && !part.contains(40, 9) && !part.contains(u64::MAX, 2));
        assert!(!Part { offset: 0xffff, bytes: 0xffff }.contains(0, 1));
    }
}
