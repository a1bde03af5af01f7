//! The record of a page, or of a larger unit: a word with what it is, whose it is, how often it is
//! referenced, and when a translation of it was last removed.
//!
//! Only a format; what the parts mean, and who may change them, is the business of the kernel's
//! abstraction layer.

use crate::domain::OwnerCode;
use crate::status::Status;

/// Everything that is known about a unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Record(u64);

const _: () = assert!(size_of::<Record>() == 8 && Record::NOT_INSTALLED.0 == 0);

/// A part of a record: its first bit, and a mask as wide as it is.
#[derive(Clone, Copy)]
struct Field(u32, u64);

impl Record {
    const STATUS: Field = Field(0, 0xf);
    const OWNER: Field = Field(4, 0xffff);
    /// References of a normal unit; entries of a page table; uses and entries of a root; pages
    /// that are not normal in a mixed unit.
    const COUNT: Field = Field(20, 0xf_ffff);
    /// The last removal of a translation: the low bits of its epoch.
    const STAMP: Field = Field(40, Self::STAMP_MASK);
    /// The bits of an epoch that are kept.
    pub const STAMP_MASK: u64 = 0xff_ffff;

    /// What is added to a record when its count rises by one.
    const ONE: u64 = 1 << Self::COUNT.0;

    /// The largest count: the highest bit of the field.
    pub const COUNT_LIMIT: u32 = 0x8_0000;

    /// Status and owner together.
    const IDENTITY: u64 = 0xf_ffff;

    /// The record of a page that does not exist: all zero, which the boot code relies on.
    pub const NOT_INSTALLED: Self = Self::new(Status::NotInstalled, OwnerCode::HYPERVISOR);

    /// The record of a page that is `status` and belongs to `owner`, without references.
    #[must_use]
    pub const fn new(status: Status, owner: OwnerCode) -> Self {
        let mut record = Self(0);
        record.set_status(status);
        record.set_owner(owner);
        record
    }

    /// The record of a larger unit of which none of the `pages` pages exists.
    #[must_use]
    pub const fn not_installed(pages: u64) -> Self {
        let mut record = Self::new(Status::Mixed, OwnerCode::HYPERVISOR);
        record.set(Self::COUNT, pages);
        record
    }

    const fn get(self, Field(shift, mask): Field) -> u64 {
        self.0 >> shift & mask
    }

    const fn set(&mut self, Field(shift, mask): Field, value: u64) {
        self.0 = self.0 & !(mask << shift) | (value & mask) << shift;
    }

    /// What the unit is.
    #[must_use]
    pub fn status(self) -> Status {
        Status::from_number(self.get(Self::STATUS) as u8)
    }

    /// Whether it is normal memory.
    #[must_use]
    pub const fn is_normal(self) -> bool {
        self.get(Self::STATUS) == Status::Normal as u64
    }

    /// Whose it is.
    #[must_use]
    pub const fn owner(self) -> OwnerCode {
        OwnerCode::from_bits(self.get(Self::OWNER) as u16)
    }

    /// Changes whose it is.
    pub const fn set_owner(&mut self, owner: OwnerCode) {
        self.set(Self::OWNER, owner.bits() as u64);
    }

    /// References of a normal unit; entries of a page table; uses and entries of a root; pages
    /// that are not normal in a mixed unit.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.get(Self::COUNT) as u32
    }

    /// Whether the count is the largest.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.count() >= Self::COUNT_LIMIT
    }

    /// Changes the count.
    pub const fn set_count(&mut self, count: u32) {
        self.set(Self::COUNT, count as u64);
    }

    /// The low bits of the epoch of the last removal of a translation.
    #[must_use]
    pub const fn stamp(self) -> u64 {
        self.get(Self::STAMP)
    }

    /// Whether it is `status` and belongs to `owner`.
    #[must_use]
    pub const fn has(self, status: Status, owner: OwnerCode) -> bool {
        (self.0 ^ Self::new(status, owner).0) & Self::IDENTITY == 0
    }

    /// Changes what it is.
    pub const fn set_status(&mut self, status: Status) {
        self.set(Self::STATUS, status as u64);
    }

    /// Changes the stamp to the low bits of `epoch`.
    pub const fn set_stamp(&mut self, epoch: u64) {
        self.set(Self::STAMP, epoch);
    }

    /// Counts one more. That there is room has been checked.
    pub const fn add_one(&mut self) {
        self.0 += Self::ONE;
    }

    /// Counts one less. One was counted.
    pub const fn take_one(&mut self) {
        debug_assert!(self.count() > 0);
        self.0 -= Self::ONE;
    }

    /// Of a larger unit, `pages` pages that were not normal became it.
    pub const fn count_normal(&mut self, pages: u64) {
        self.set(Self::COUNT, self.get(Self::COUNT).wrapping_sub(pages));
        if self.count() == 0 {
            self.set_status(Status::Normal);
        }
    }

    /// Of a larger unit, which is not referenced, a page that was normal is it no more.
    pub const fn count_special(&mut self) {
        self.set_status(Status::Mixed);
        self.set(Self::COUNT, self.get(Self::COUNT) + 1);
    }
}

impl core::fmt::Debug for Record {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (status, owner, count) = (self.status(), self.owner().owner(), self.count());
        write!(formatter, "Record({status:?}, {owner:?}, count {count}, stamp {})", self.stamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DomainId;

    #[test]
    fn each_part_is_changed_by_itself() {
        let owner = OwnerCode::of(DomainId::ZERO);
        let mut record = Record::new(Status::Normal, owner);
        record.set_stamp(u64::MAX);
        record.set_count(Record::COUNT_LIMIT - 1);
        record.add_one();
        assert!(record.is_full() && record.is_normal() && record.has(Status::Normal, owner));
        assert_eq!(record.stamp(), Record::STAMP_MASK);
        record.set_owner(OwnerCode::NOBODY);
        record.set_status(Status::Io);
        record.take_one();
        assert_eq!(record.count(), Record::COUNT_LIMIT - 1);
        assert_eq!(record.stamp(), Record::STAMP_MASK);
        assert!(record.has(Status::Io, OwnerCode::NOBODY) && !record.has(Status::Io, owner));
        assert_eq!(record.status(), Status::Io);
    }

    #[test]
    fn larger_units_are_normal_if_all_their_pages_are() {
        let mut unit = Record::not_installed(4);
        unit.count_normal(3);
        assert_eq!((unit.status(), unit.count()), (Status::Mixed, 1));
        unit.count_normal(1);
        assert_eq!((unit.is_normal(), unit.count()), (true, 0));
        unit.count_special();
        assert_eq!((unit.status(), unit.count()), (Status::Mixed, 1));
    }
}
