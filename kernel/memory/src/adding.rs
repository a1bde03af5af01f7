//! Mapping a region of any size, by the largest pages that fit.

use heliox_hal::entry::RootKind;
use heliox_hal::memory::UserMemory;
use heliox_hal::page_map::{PageMap, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::share::Share;
use heliox_types::error::Error;
use heliox_types::flexpage::{Flexpage, VirtualRange};
use heliox_types::rights::Rights;
use heliox_types::{PAGE_BITS, VirtualAddress};

use crate::Progress;

/// A region that is being mapped.
///
/// Invariant: `done` bytes from the start of `range` and of `region` on are mapped; it is not more
/// than the size of either.
#[derive(Clone, Debug)]
pub struct Adding<'share> {
    range: VirtualRange,
    region: PhysicalRegion,
    rights: Rights,
    share: Option<&'share Share>,
    done: u64,
}

impl<'share> Adding<'share> {
    /// Maps all of `region` from `to` on, with `rights`. Memory of an owner other than the page
    /// map's takes a `share`.
    ///
    /// # Errors
    ///
    /// [`Error::Misaligned`] if `to` is not the start of a page of 4 KiB; [`Error::BadRange`] if
    /// the region does not fit between it and the end of the half of the address space.
    pub fn new(
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&'share Share>,
    ) -> Result<Self, Error> {
        if to.offset_in_page() != 0 {
            return Err(Error::Misaligned { start: to.get(), bits: PAGE_BITS });
        }
        let range = VirtualRange::new(to, region.pages())?;
        Ok(Self { range, region, rights, share, done: 0 })
    }

    /// Number of pages of 4 KiB that are mapped so far.
    #[must_use]
    pub const fn pages_done(&self) -> u64 {
        self.done >> PAGE_BITS
    }

    /// Maps one more page.
    ///
    /// # Errors
    ///
    /// As [`UserMemory::add_mapping`].
    pub fn step<M: UserMemory, K: RootKind>(
        &mut self,
        memory: &mut M,
        map: &mut PageMap<K>,
        supply: &mut TableSupply,
    ) -> Result<Progress, Error> {
        let Some(most) = ((1 << self.region.bits()) - self.done).checked_ilog2() else {
            return Ok(Progress::Done);
        };
        let to = VirtualAddress::sign_extended(self.range.start().get() + self.done);
        let from = self.region.first_frame().address();
        let from = from.checked_add(self.done).unwrap_or(from);
        let mut bits = (to.get() | from.get()).trailing_zeros().min(most);
        // The largest page that all of these allow; a smaller one if the memory was collected from
        // several owners, so that only of each page it is known whose it is.
        loop {
            bits = memory.page_bits(bits);
            let part = self.region.derive(Flexpage::physical(from, bits)?)?;
            match memory.add_mapping(map, to, part, self.rights, self.share, supply) {
                Ok(()) => break,
                Err(Error::NotOwner { owner: None, .. }) if bits > PAGE_BITS => bits -= 1,
                Err(error) => return Err(error),
            }
        }
        self.done += 1 << bits;
        Ok(if self.done >> self.region.bits() == 0 { Progress::More } else { Progress::Done })
    }
}
