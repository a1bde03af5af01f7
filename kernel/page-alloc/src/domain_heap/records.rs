//! What is recorded of each page that a domain has, or had when it died: 32 bits per page.
//!
//! The owner is not among it: it is the layer's below. All bits zero means that no domain has the
//! page. Exactly the pages of assigned blocks are recorded as assigned, and exactly those of
//! blocks that wait to be cleared as pending; the first page of each block is its head and names
//! the block's order.

use crate::Order;

/// Bits 30 and 31: what the page is.
const ASSIGNED: u32 = 1 << 30;
const PENDING: u32 = 2 << 30;
const KIND: u32 = 3 << 30;
/// Bit 29: the page is the first of its block.
const HEAD: u32 = 1 << 29;
/// Bits 24 to 28: the block's order, at its head.
const ORDER_SHIFT: u32 = 24;
const ORDER: u32 = 0x1f << ORDER_SHIFT;
/// Bit 23: the page does not count towards the domain's quota.
const UNCOUNTED: u32 = 1 << 23;
/// Bits 0 to 15: references, with the owner's own.
const REFERENCES: u32 = 0xffff;

/// What is recorded of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record(u32);

impl Record {
    /// Of a page that no domain has.
    pub(crate) const NONE: Self = Self(0);
    /// Of a page, not the first of its block, that waits to be cleared.
    pub(crate) const PENDING: Self = Self(PENDING);

    /// Of a page, not the first of its block, that was just assigned.
    pub(crate) const fn assigned(counted: bool) -> Self {
        Self(ASSIGNED | if counted { 0 } else { UNCOUNTED } | 1)
    }

    /// The same, but of the first page of a block of `order`.
    pub(crate) const fn with_head(self, order: Order) -> Self {
        Self(self.0 & !ORDER | HEAD | order.number() << ORDER_SHIFT)
    }

    /// Whether anything is recorded.
    #[inline]
    pub(crate) const fn is_known(self) -> bool {
        self.0 != 0
    }

    #[inline]
    pub(crate) const fn is_assigned(self) -> bool {
        self.0 & KIND == ASSIGNED
    }

    pub(crate) const fn is_pending(self) -> bool {
        self.0 & KIND == PENDING
    }

    pub(crate) const fn is_counted(self) -> bool {
        self.0 & UNCOUNTED == 0
    }

    /// The order of the block that starts here, if one does.
    #[inline]
    pub(crate) fn head(self) -> Option<Order> {
        if self.0 & HEAD == 0 {
            return None;
        }
        Order::new((self.0 & ORDER) >> ORDER_SHIFT).ok()
    }

    #[inline]
    pub(crate) const fn references(self) -> u32 {
        self.0 & REFERENCES
    }

    /// One reference more, or `None` if no more can be counted.
    pub(crate) const fn more(self) -> Option<Self> {
        if self.references() == REFERENCES { None } else { Some(Self(self.0 + 1)) }
    }

    /// One reference less, or `None` if only the owner's is left.
    pub(crate) const fn less(self) -> Option<Self> {
        if self.references() <= 1 { None } else { Some(Self(self.0 - 1)) }
    }
}

/// The records of all pages, two to a word.
pub(crate) struct Records<'m> {
    words: &'m mut [u64],
}

impl<'m> Records<'m> {
    /// Words for the records of `max_page` pages.
    pub(crate) const fn words(max_page: u64) -> usize {
        max_page.div_ceil(2) as usize
    }

    /// The records in `words`, all zero: no domain has a page.
    pub(crate) const fn new(words: &'m mut [u64]) -> Self {
        Self { words }
    }

    /// What is recorded of `page`; nothing if there is no such page.
    #[inline]
    pub(crate) fn get(&self, page: u64) -> Record {
        let word = self.words.get((page >> 1) as usize).copied().unwrap_or(0);
        Record((word >> shift(page)) as u32)
    }

    /// Record `record` of `page`.
    #[inline]
    pub(crate) fn set(&mut self, page: u64, record: Record) {
        if let Some(word) = self.words.get_mut((page >> 1) as usize) {
            *word &= !(u64::from(u32::MAX) << shift(page));
            *word |= u64::from(record.0) << shift(page);
        }
    }

    /// Record `record` of the pages of a block, with its first page as head.
    #[inline]
    pub(crate) fn set_block(&mut self, page: u64, order: Order, record: Record) {
        self.set_pages(page, order, record);
        self.set(page, record.with_head(order));
    }

    /// Record `record` of the pages of a block, none of them a head.
    #[inline]
    pub(crate) fn set_pages(&mut self, page: u64, order: Order, record: Record) {
        if order == Order::ZERO {
            return self.set(page, record);
        }
        let words = page as usize >> 1..(page + order.pages()) as usize >> 1;
        let both = u64::from(record.0) << 32 | u64::from(record.0);
        self.words.get_mut(words).unwrap_or_default().fill(both);
    }
}

/// Where the record of `page` lies in its word.
#[inline]
const fn shift(page: u64) -> u32 {
    if page & 1 == 0 { 0 } else { 32 }
}
