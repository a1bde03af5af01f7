//! Blocks: linear handles for allocated memory.
//!
//! Hides that a block is known by its number. A handle is neither `Copy` nor `Clone` and freeing
//! consumes it, so that a second free does not compile. A handle can be taken apart into a number
//! (to be stored in a table of a domain's pages, say) and made again from one; then a second free
//! is detected at run time. Dropping a handle leaks its pages, no more.

use heliox_types::{Frame, FrameRange};

use crate::{Event, Order};

/// The pages of a block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    page: u32,
    order: Order,
}

impl Extent {
    pub(crate) const fn new(page: u64, order: Order) -> Self {
        // Pages are below MAX_PAGES.
        let page = page as u32;
        Self { page, order }
    }

    pub(crate) const fn page(&self) -> u64 {
        self.page as u64
    }

    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// The frames. Pages of a block are below `MAX_PAGES`, so the range always exists.
    pub(crate) const fn frames(&self) -> FrameRange {
        match FrameRange::new(self.page(), self.page() + self.order.pages()) {
            Some(range) => range,
            None => FrameRange::EMPTY,
        }
    }
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "dropping a block leaks its pages; free it, or keep its frame"]
        #[derive(Debug, PartialEq, Eq)]
        pub struct $name(pub(crate) Extent);

        impl $name {
            /// The block's frames.
            #[must_use]
            pub const fn frames(&self) -> FrameRange {
                self.0.frames()
            }

            /// The first frame.
            #[must_use]
            pub const fn first(&self) -> Frame {
                match self.0.frames().first() {
                    Some(frame) => frame,
                    // Not reached: a block has at least one page.
                    None => Frame::containing(heliox_types::PhysicalAddress::ZERO),
                }
            }

            /// The order.
            #[must_use]
            pub const fn order(&self) -> Order {
                self.0.order()
            }

            /// Keep the pages by number. They stay allocated.
            #[must_use = "the pages stay allocated"]
            pub const fn into_frame(self) -> (Frame, Order) {
                (self.first(), self.order())
            }
        }
    };
}

block! {
    /// A block of any zone that belongs to no domain.
    ///
    /// It is freed once:
    ///
    /// ```
    /// # use heliox_page_alloc::*;
    /// fn free<P: Pages>(allocator: &mut PageAllocator<P>, block: HeapBlock) {
    ///     let _ = allocator.free_heap_pages(Zone::Dom, block);
    /// }
    /// ```
    ///
    /// A second free does not compile:
    ///
    /// ```compile_fail,E0382
    /// # use heliox_page_alloc::*;
    /// fn free_twice<P: Pages>(allocator: &mut PageAllocator<P>, block: HeapBlock) {
    ///     let _ = allocator.free_heap_pages(Zone::Dom, block);
    ///     let _ = allocator.free_heap_pages(Zone::Dom, block);
    /// }
    /// ```
    HeapBlock
}

block! {
    /// A block of the hypervisor's own heap.
    ///
    /// It cannot be freed twice, nor to another heap:
    ///
    /// ```compile_fail,E0382
    /// # use heliox_page_alloc::*;
    /// fn free_twice<P: Pages>(allocator: &mut PageAllocator<P>, block: XenBlock) {
    ///     let _ = allocator.free_xenheap_pages(block);
    ///     let _ = allocator.free_xenheap_pages(block);
    /// }
    /// ```
    ///
    /// ```compile_fail,E0308
    /// # use heliox_page_alloc::*;
    /// fn free_elsewhere<P: Pages>(allocator: &mut PageAllocator<P>, block: XenBlock) {
    ///     let _ = allocator.free_heap_pages(Zone::Dom, block);
    /// }
    /// ```
    XenBlock
}

block! {
    /// A block that is assigned to a domain.
    ///
    /// A second free does not compile, nor does a copy:
    ///
    /// ```compile_fail,E0382
    /// # use heliox_page_alloc::*;
    /// fn free_twice<P: Pages>(
    ///     allocator: &mut PageAllocator<P>,
    ///     domain: &mut Domain<P::Owner>,
    ///     block: DomainBlock,
    /// ) {
    ///     let _ = allocator.free_domheap_pages(domain, block);
    ///     let _ = allocator.free_domheap_pages(domain, block);
    /// }
    /// ```
    ///
    /// ```compile_fail,E0599
    /// # use heliox_page_alloc::*;
    /// fn copy(block: &DomainBlock) -> DomainBlock {
    ///     DomainBlock::clone(block)
    /// }
    /// ```
    DomainBlock
}

/// A request to take a block that was turned down: the block goes back to its holder.
#[must_use = "the block is still allocated"]
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<B> {
    /// Why.
    pub event: Event,
    /// The block, still allocated.
    pub block: B,
}

impl<B> Refused<B> {
    pub(crate) const fn new(event: Event, block: B) -> Self {
        Self { event, block }
    }
}
