//! Populating on demand: memory for a guest frame at the moment when it is used.
//!
//! Hides where the memory comes from: from what is set aside for the domain, from what it reserved,
//! and at last from its own pages that have zeros only, of which a bounded number is looked at. A
//! page of zeros is the same to the guest whether it is there or promised.

use heliox_types::Frame;

use crate::access::purpose::SearchingZeros;
use crate::access::{FindsPages, Permit, Phase};
use crate::backing::{Backing, KernelMemory, Translation};
use crate::balloon::give_back;
use crate::domain::Domain;
use crate::error::Error;
use crate::guest::{Extent, GuestFrame, Order};
use crate::kinds::Kind;
use crate::pool::Level;

/// From where a block was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Cache,
    Reserve,
}

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    /// Put memory at `guest`, which was promised some: a table's worth at once if all of that was
    /// promised and a block of that size is set aside. The order of what was put there.
    pub(crate) fn populate_promised<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        guest: GuestFrame,
    ) -> Result<Order, Error> {
        let (kind, same) = self.kinds.get(guest);
        if kind != Kind::OnDemand {
            return Err(Error::NotOnDemand { guest });
        }
        let most = if same >= Level::Table.order::<B>() { Level::Table } else { Level::Page };
        let mut found = self.take_set_aside(backing, permit, most);
        if found.is_none() && self.reclaim_zeros(backing, permit) {
            found = self.take_set_aside(backing, permit, most);
        }
        let Some((frame, level, source)) = found else {
            return Err(Error::Exhausted { guest });
        };
        let order = level.order::<B>();
        let extent = Extent::around(guest, order);
        if let Err(refused) = backing.map(self.id, extent, frame) {
            match source {
                Source::Cache => self.cache.put(backing, permit, level, frame),
                Source::Reserve => self.reserve.put(backing, permit, level, frame),
            }
            return Err(Error::refused(refused, order));
        }
        self.kinds.set(extent, Kind::Ordinary);
        self.on_demand -= extent.pages();
        self.populated += extent.pages();
        Ok(order)
    }

    /// A block of at most `most` that is set aside or reserved.
    fn take_set_aside<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        most: Level,
    ) -> Option<(Frame, Level, Source)> {
        for (pool, source) in
            [(&mut self.cache, Source::Cache), (&mut self.reserve, Source::Reserve)]
        {
            for level in [most, Level::Page] {
                if let Some(frame) = pool.take(backing, permit, level) {
                    return Some((frame, level, source));
                }
            }
        }
        None
    }

    /// Look for pages with zeros only, take the first block of them that is found out of the page
    /// map and set it aside. Goes on where the last search ended, and looks at no more pages than
    /// the domain's options say. Whether something was found.
    fn reclaim_zeros<A: FindsPages>(&mut self, backing: &mut B, permit: &Permit<A>) -> bool {
        let table = Level::Table.order::<B>();
        let (mut budget, mut way) = (self.search, self.frames);
        while budget > 0 && way > 0 {
            let Some(guest) = GuestFrame::new(self.search_next) else { return false };
            let (kind, same) = self.kinds.get(guest);
            // What to look at, or what to pass over.
            let (extent, frame) = match (kind, backing.translate(self.id, guest)) {
                (Kind::Ordinary, Translation::Memory { frame, order }) => {
                    let block = Extent::around(guest, table);
                    let whole = order >= table && block.start() == guest && budget >= block.pages();
                    (if whole { block } else { Extent::page(guest) }, Some(frame))
                }
                (Kind::Ordinary, Translation::Nothing { order }) => {
                    (Extent::around(guest, same.min(order)), None)
                }
                _ => (Extent::around(guest, same), None),
            };
            let end = extent.end().min(self.frames);
            way = way.saturating_sub(end - self.search_next);
            self.search_next = if end == self.frames { 0 } else { end };
            let Some(frame) = frame else {
                budget -= 1;
                continue;
            };
            budget = budget.saturating_sub(extent.pages());
            if self.reclaim_from(backing, permit, extent, frame) {
                return true;
            }
        }
        false
    }

    /// Set the whole of `extent` aside if it is zero and nobody uses it, or else its first page for
    /// which that is so.
    fn reclaim_from<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        extent: Extent,
        frame: Frame,
    ) -> bool {
        let mut first = None;
        let mut all = true;
        for page in 0..extent.pages() {
            let Some(frame) = frame.checked_add(page) else { return false };
            let zero = !backing.is_shared(frame, Order::PAGE)
                && backing.is_zero(&permit.window::<SearchingZeros>(frame));
            all &= zero;
            if zero && first.is_none() {
                first = GuestFrame::new(extent.start().number() + page);
            }
        }
        match first {
            Some(_) if all => self.reclaim(backing, permit, extent),
            Some(guest) => self.reclaim(backing, permit, Extent::page(guest)),
            None => false,
        }
    }

    /// Take `extent` out of the page map and look again: until then its guest could write to it.
    fn reclaim<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        extent: Extent,
    ) -> bool {
        // A larger mapping has to be split, for which there may be no table: no harm is done.
        let Ok(frame) = backing.unmap(self.id, extent) else { return false };
        backing.settle(self.id);
        let is_zero = (0..extent.pages()).all(|page| {
            let frame = frame.checked_add(page);
            frame.is_some_and(|frame| backing.is_zero(&permit.window::<SearchingZeros>(frame)))
        });
        if is_zero {
            self.kinds.set(extent, Kind::OnDemand);
            self.on_demand += extent.pages();
            self.populated -= extent.pages();
            self.cache.put_block(backing, permit, frame, extent.order());
        } else if backing.map(self.id, extent, frame).is_err() {
            // Not reached: the tables that it needs are there, or were freed just now. Rather than
            // lose a page with something in it, stop the domain.
            self.phase = Phase::Crashed;
            self.populated -= extent.pages();
            let _ = give_back(backing, permit, frame, extent.order());
        }
        is_zero
    }
}
