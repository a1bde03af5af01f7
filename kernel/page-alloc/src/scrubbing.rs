//! Page scrubbing: when pages are cleared.
//!
//! The secret: blocks freed by dying domains are remembered by their first page in a bitmap with
//! summaries, and by their order in the page's record. A block too large for one step is cut in
//! halves until a part fits, so that progress needs no record of its own. Steps go round memory,
//! so that a page that cannot be cleared now does not keep others waiting.

use heliox_types::Frame;

use crate::domain_heap::records::Record;
use crate::{Event, Order, PageAllocator, Pages, ScrubStep};

impl<P: Pages> PageAllocator<'_, P> {
    /// Clear pages that dying domains freed, at most `budget` of them, and make them free pages.
    /// For a softirq, or a CPU with nothing else to do.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn page_scrub_softirq(&mut self, budget: u64) -> Result<ScrubStep, Event> {
        self.check_initialised()?;
        let mut step = ScrubStep { cleared: 0, refused: 0, finished: false };
        while step.cleared + step.refused < budget {
            let next =
                self.map.first_pending(self.pending_cursor).or_else(|| self.map.first_pending(0));
            let Some(page) = next else {
                break;
            };
            let left = budget - step.cleared - step.refused;
            let order = self.cut_pending(page, left);
            self.scrub_pending(page, order, &mut step);
        }
        step.finished = self.pending == 0;
        Ok(step)
    }

    /// Number of pages that wait to be cleared.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn avail_scrub_pages(&self) -> Result<u64, Event> {
        self.check_initialised()?;
        Ok(self.pending)
    }

    /// Clear, of the block of 2^order pages that `page` lies in, pages that are free and not known
    /// to be zeroized, at most `budget` of them: to prepare an allocation that failed with
    /// [`Event::TooMuchToScrub`].
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`] if the block runs past `max_page`.
    pub fn scrub_block_at(
        &mut self,
        page: Frame,
        order: Order,
        budget: u64,
    ) -> Result<ScrubStep, Event> {
        self.check_initialised()?;
        let start = page.number() & !(order.pages() - 1);
        let end = start + order.pages();
        self.check_legal_range(start, end)?;
        // What caches hold is cleared, too.
        self.drain_caches()?;
        let mut step = ScrubStep { cleared: 0, refused: 0, finished: true };
        for word in (start & !63..end).step_by(64) {
            let mut dirty = self.map.free_among_64(word) & !self.map.zeroized_among_64(word);
            if end - start < 64 {
                dirty &= ((1 << (end - start)) - 1) << (start & 63);
            }
            for page in (0..64).filter(|bit| dirty >> bit & 1 != 0) {
                let page = word + page;
                // Free pages of the boot-time allocator are in no heap.
                if self.heap.section_of(page).is_none() {
                    continue;
                }
                if step.cleared + step.refused == budget {
                    step.finished = false;
                    return Ok(step);
                }
                match self.clear(page) {
                    Ok(()) => step.cleared += 1,
                    Err(_) => step.refused += 1,
                }
            }
        }
        Ok(step)
    }

    /// Make an assigned block of section `index` one that waits to be cleared.
    pub(crate) fn set_pending(&mut self, index: usize, page: u64, order: Order) {
        self.records.set_block(page, order, Record::PENDING);
        self.map.insert_pending(page);
        self.pending += order.pages();
        if let Some(section) = self.heap.section_mut(index) {
            section.pending += order.pages();
        }
    }

    /// Cut the block at `page`, which waits to be cleared, in halves until the first part has at
    /// most `most` pages (at least one); that part's order.
    fn cut_pending(&mut self, page: u64, most: u64) -> Order {
        let mut order = self.records.get(page).head().unwrap_or(Order::ZERO);
        while order.pages() > most {
            let Some(half) = order.half() else {
                break;
            };
            let second = page + half.pages();
            self.records.set(second, Record::PENDING.with_head(half));
            self.map.insert_pending(second);
            order = half;
        }
        self.records.set(page, Record::PENDING.with_head(order));
        order
    }

    /// Clear a block and make it free; or, if a page cannot be cleared now, pass the block over.
    fn scrub_pending(&mut self, page: u64, order: Order, step: &mut ScrubStep) {
        self.pending_cursor = page + order.pages();
        for page in page..page + order.pages() {
            if self.map.is_zeroized(page) {
                continue;
            }
            if self.clear(page).is_err() {
                step.refused += 1;
                return;
            }
            step.cleared += 1;
        }
        self.records.set_pages(page, order, Record::NONE);
        self.map.remove_pending(page);
        self.pending -= order.pages();
        if let Some(index) = self.heap.section_of(page) {
            if let Some(section) = self.heap.section_mut(index) {
                section.pending -= order.pages();
            }
            self.heap.give(&mut self.map, index, page, order);
        }
    }
}
