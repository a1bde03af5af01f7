//! Thread control blocks that programs can reach (UTCBs), in pages of four.
//!
//! A page is mapped in its space, for programs to read and write, and in the kernel. It is kept as long
//! as one of its blocks belongs to a thread. What is in it is a program's: every word is
//! untrusted each time that it is read.

use heliox_abi::utcb;
use heliox_hal::kernel_mapping::KernelMapping;

use crate::thread::{NOBODY, Number};

/// Blocks in a page.
pub(crate) const BLOCKS: usize = 4;

/// A page of UTCBs.
#[derive(Debug)]
pub struct UtcbPage {
    /// The kernel's mapping; `None`: the place is free.
    pub(crate) mapping: Option<KernelMapping>,
    /// Address of the page in its space.
    pub(crate) address: u64,
    /// Whose the blocks are.
    pub(crate) threads: [Number; BLOCKS],
    /// The next page of the same space, or the next free place, plus one; 0: none.
    pub(crate) next: u32,
}

impl UtcbPage {
    /// A free place.
    pub fn free() -> Self {
        Self { mapping: None, address: 0, threads: [NOBODY; BLOCKS], next: 0 }
    }

    /// Whether no block belongs to a thread.
    pub(crate) fn is_unused(&self) -> bool {
        self.threads == [NOBODY; BLOCKS]
    }
}

/// All pages of UTCBs.
#[derive(Debug)]
pub(crate) struct UtcbPages<'k> {
    table: &'k mut [UtcbPage],
    nowhere: UtcbPage,
    free: u32,
}

impl<'k> UtcbPages<'k> {
    pub(crate) fn new(table: &'k mut [UtcbPage]) -> Self {
        let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        for (page, following) in table.iter_mut().zip(2..) {
            *page = UtcbPage::free();
            page.next = if following <= count { following } else { 0 };
        }
        Self { free: u32::from(count > 0), table, nowhere: UtcbPage::free() }
    }

    pub(crate) fn at(&self, number: u32) -> &UtcbPage {
        self.table.get(number as usize).unwrap_or(&self.nowhere)
    }

    pub(crate) fn at_mut(&mut self, number: u32) -> &mut UtcbPage {
        self.table.get_mut(number as usize).unwrap_or(&mut self.nowhere)
    }

    /// Whether there is a free place.
    pub(crate) fn has_room(&self) -> bool {
        self.free != 0
    }

    /// The page at `address` in a space whose first page is `first`.
    pub(crate) fn find(&self, first: u32, address: u64) -> Option<u32> {
        let mut at = first;
        while let Some(number) = at.checked_sub(1) {
            let page = self.at(number);
            if page.address == address >> 12 << 12 {
                return Some(number);
            }
            at = page.next;
        }
        None
    }

    /// Adds a page to a space, whose first page was `first`; the page is the first afterwards.
    pub(crate) fn add(
        &mut self,
        first: &mut u32,
        mapping: KernelMapping,
        address: u64,
    ) -> Result<u32, KernelMapping> {
        let Some(number) = self.free.checked_sub(1) else { return Err(mapping) };
        self.free = self.at(number).next;
        let next = core::mem::replace(first, number + 1);
        *self.at_mut(number) =
            UtcbPage { mapping: Some(mapping), address, threads: [NOBODY; BLOCKS], next };
        Ok(number)
    }

    /// Takes a page out of a space, whose first page is `first`.
    pub(crate) fn remove(&mut self, first: &mut u32, number: u32) -> Option<KernelMapping> {
        let next = self.at(number).next;
        if *first == number + 1 {
            *first = next;
        } else {
            let mut at = *first;
            while let Some(before) = at.checked_sub(1) {
                if self.at(before).next == number + 1 {
                    self.at_mut(before).next = next;
                    break;
                }
                at = self.at(before).next;
            }
        }
        let free = core::mem::replace(&mut self.free, number + 1);
        let page = self.at_mut(number);
        page.next = free;
        page.address = 0;
        page.mapping.take()
    }
}

/// Which block of its page the address of a first message register, or of a block, lies in.
pub(crate) fn slot_of(address: u64) -> usize {
    (address >> utcb::BITS) as usize % BLOCKS
}
