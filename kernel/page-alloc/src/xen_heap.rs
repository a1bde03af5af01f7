//! Xen heap: the hypervisor's own memory.
//!
//! The secret: it is the `xen` zone of the run-time allocator, without owners, quotas or
//! clearing, since its pages never leave the hypervisor; and it gives up its first and last page,
//! so that whatever lies next to it, no block could merge across its ends.

use heliox_types::{Frame, PhysicalAddress};

use crate::boot_time::whole_pages;
use crate::{Cpu, Event, Order, PageAllocator, Pages, Refused, XenBlock, Zone};

impl<P: Pages> PageAllocator<'_, P> {
    /// Give the whole pages between the byte addresses `start` and `end` to the `xen` zone, as
    /// free pages, but for the first and the last: these stay allocated for ever, so that the zone
    /// touches no other.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::EmptyRange`] if nothing is left;
    /// [`Event::NotLegalAddress`]; and what [`Self::init_heap_pages`] says.
    pub fn init_xenheap_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Result<(), Event> {
        self.check_initialised()?;
        let (first, last) = whole_pages(start, end)?;
        self.check_legal_range(first, last)?;
        match Frame::new(first + 1) {
            Some(page) if last - first > 2 => {
                self.init_heap_pages(Zone::Xen, page, last - first - 2)
            }
            _ => Err(Event::EmptyRange { start: start.get(), end: end.get() }),
        }
    }

    /// Allocate a block of 2^order pages of the hypervisor's own memory. Nothing is known of its
    /// contents.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NoSuitableBlock`].
    pub fn alloc_xenheap_pages(&mut self, order: Order) -> Result<XenBlock, Event> {
        self.alloc_heap_pages(Zone::Xen, order).map(|block| XenBlock(block.0))
    }

    /// As [`Self::alloc_xenheap_pages`], near `cpu`, and through its cache if that holds such
    /// blocks.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn alloc_xenheap_pages_on(&mut self, cpu: Cpu, order: Order) -> Result<XenBlock, Event> {
        self.alloc_heap_pages_on(cpu, Zone::Xen, order).map(|block| XenBlock(block.0))
    }

    /// Free a block of the hypervisor's own memory.
    ///
    /// # Errors
    /// With the block, if the handle was made from a number twice: what
    /// [`Self::xenheap_block_at`] would say.
    pub fn free_xenheap_pages(&mut self, block: XenBlock) -> Result<(), Refused<XenBlock>> {
        self.free_heap_pages(Zone::Xen, crate::HeapBlock(block.0))
            .map_err(|refused| Refused::new(refused.event, XenBlock(refused.block.0)))
    }

    /// As [`Self::free_xenheap_pages`], but through the cache of `cpu` if that holds such
    /// blocks.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn free_xenheap_pages_on(
        &mut self,
        cpu: Cpu,
        block: XenBlock,
    ) -> Result<(), Refused<XenBlock>> {
        self.free_heap_pages_on(cpu, Zone::Xen, crate::HeapBlock(block.0))
            .map_err(|refused| Refused::new(refused.event, XenBlock(refused.block.0)))
    }

    /// The handle of a block of the `xen` zone that was kept by number.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::NotLegalAddress`]; [`Event::BadZone`];
    /// [`Event::PagesNotAllocated`] if one of its pages is free; [`Event::NoAddress`] if no block
    /// of this order starts at `page`.
    pub fn xenheap_block_at(&self, page: Frame, order: Order) -> Result<XenBlock, Event> {
        self.heap_block_at(Zone::Xen, page, order).map(|block| XenBlock(block.0))
    }
}
