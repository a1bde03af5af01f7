//! A domain's guest-physical address space: its nested page map, and the paging pool.
//!
//! Hides where pages for page tables are, and that a table that was taken out of a page map can be
//! used again only when no processor can walk through it any more.

use heliox_hal::domain::Owner;
use heliox_hal::entry::Nested;
use heliox_hal::page_map::{PageMap, PageMapPage, SUPPLY_LIMIT, TableSupply};
use heliox_hal::translation::{DrainingPage, Invalidation};
use heliox_page_alloc::Domain;

use crate::backing::KernelMemory;

/// What the layers below know of a domain.
pub(super) struct Space<M: KernelMemory> {
    /// The page allocator's account.
    pub(super) account: Domain<Owner>,
    pub(super) map: PageMap<Nested>,
    pub(super) pool: Tables<M>,
    /// What was taken out of the page map and is not settled: when, and the tables of it.
    pub(super) removed: Option<Invalidation>,
    pub(super) draining: [Option<DrainingPage>; SUPPLY_LIMIT],
}

impl<M: KernelMemory> Space<M> {
    /// Keep a table that was taken out of the page map until it is settled. There is room: what was
    /// taken out before is settled, and a removal frees at most one table of each level.
    pub(super) fn keep(&mut self, table: DrainingPage) {
        if let Some(slot) = self.draining.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(table);
        }
    }
}

/// Pages of a domain that are, or are to become, page tables: those that are none now.
pub(super) struct Tables<M: KernelMemory> {
    pages: M::Slice<Option<PageMapPage>>,
    count: usize,
}

impl<M: KernelMemory> Tables<M> {
    /// No pages, and room for `limit`; `None` if there is no memory for it.
    pub(super) fn new(memory: &mut M, limit: usize) -> Option<Self> {
        Some(Self { pages: memory.slice(limit, || None)?, count: 0 })
    }

    /// The pages themselves.
    pub(super) fn into_pages(mut self) -> impl Iterator<Item = PageMapPage> {
        core::iter::from_fn(move || self.take())
    }

    /// How many pages.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = &PageMapPage> {
        self.pages.iter().take(self.count).flatten()
    }

    /// Add a page; it comes back if there is no room.
    pub(super) fn put(&mut self, page: PageMapPage) -> Result<(), PageMapPage> {
        match self.pages.get_mut(self.count) {
            Some(slot) => *slot = Some(page),
            None => return Err(page),
        }
        self.count += 1;
        Ok(())
    }

    /// Take a page out.
    pub(super) fn take(&mut self) -> Option<PageMapPage> {
        let top = self.count.checked_sub(1)?;
        let page = self.pages.get_mut(top)?.take();
        self.count = top;
        page
    }

    /// As many pages as an operation can need.
    pub(super) fn supply(&mut self) -> TableSupply {
        let mut supply = TableSupply::EMPTY;
        while supply.count() < SUPPLY_LIMIT
            && let Some(page) = self.take()
        {
            // There is room.
            let _ = supply.add(page);
        }
        supply
    }

    /// What an operation did not need.
    pub(super) fn put_rest(&mut self, mut supply: TableSupply) {
        while let Some(page) = supply.take() {
            // They came from here.
            let _ = self.put(page);
        }
    }
}
