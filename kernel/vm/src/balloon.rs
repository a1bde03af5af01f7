//! Giving memory to a domain and taking it back: reservations, extents, targets.
//!
//! Hides how a domain's account changes with its memory. The operations are those of Xen's memory
//! interface for guests whose frame numbers are their own: an operation on a list of extents does
//! one after the other and says how many it did.

use heliox_types::Frame;

use crate::access::action::{Balloon, Populate, PopulateOnDemand, SetTarget};
use crate::access::purpose::{Clearing, SettingAside};
use crate::access::{Opens, Permit};
use crate::backing::{Backing, KernelMemory, Refused, Translation};
use crate::domain::Domain;
use crate::domains::Progress;
use crate::error::Error;
use crate::guest::{Extent, GuestFrame, Order};
use crate::kinds::Kind;
use crate::pool::Level;

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    /// Put pages at the frames of `extent`: those that were reserved, or else new ones.
    pub(crate) fn populate(
        &mut self,
        backing: &mut B,
        permit: &Permit<Populate>,
        extent: Extent,
    ) -> Result<(), Error> {
        self.check_vacant(backing, extent)?;
        self.check_maximum(extent.pages())?;
        let order = extent.order();
        let level = Level::within::<B>(order);
        let is_level = level.order::<B>() == order;
        let reserved = if is_level { self.reserve.take(backing, permit, level) } else { None };
        let frame = match reserved {
            Some(frame) => frame,
            None => {
                self.check_quota(extent.pages())?;
                backing.take(self.id, order).map_err(|refused| Error::refused(refused, order))?
            }
        };
        if let Err(refused) = backing.map(self.id, extent, frame) {
            match reserved {
                Some(frame) => self.reserve.put(backing, permit, level, frame),
                None => give_back(backing, permit, frame, order)?,
            }
            return Err(Error::refused(refused, order));
        }
        self.populated += extent.pages();
        Ok(())
    }

    /// Promise memory to the frames of `extent`.
    pub(crate) fn populate_on_demand(
        &mut self,
        backing: &mut B,
        _: &Permit<PopulateOnDemand>,
        extent: Extent,
    ) -> Result<(), Error> {
        self.check_vacant(backing, extent)?;
        self.check_maximum(extent.pages())?;
        // With promises, what is there and set aside is within the target.
        let (target, owed) = (self.target, self.memory_pages());
        if owed > target {
            return Err(Error::TargetBelowOwed { target, owed });
        }
        self.kinds.set(extent, Kind::OnDemand);
        self.on_demand += extent.pages();
        Ok(())
    }

    /// Reserve pages that get their places later.
    pub(crate) fn increase(
        &mut self,
        backing: &mut B,
        permit: &Permit<Populate>,
        order: Order,
    ) -> Result<(), Error> {
        self.check_quota(order.pages())?;
        let frame =
            backing.take(self.id, order).map_err(|refused| Error::refused(refused, order))?;
        self.reserve.put_block(backing, permit, frame, order);
        Ok(())
    }

    /// Take the frames of `extent` from the domain. Pages go to the cache while less is set aside
    /// than was promised, and are freed otherwise.
    pub(crate) fn decrease(
        &mut self,
        backing: &mut B,
        permit: &Permit<Balloon>,
        extent: Extent,
    ) -> Result<(), Error> {
        let mut next = Some(extent.start());
        while let Some(guest) = next.filter(|guest| extent.contains(*guest)) {
            let piece = match self.own_page(backing, guest)? {
                None => self.promised_piece(guest, extent),
                Some((frame, order)) => {
                    let piece = piece(guest, order, extent);
                    if backing.is_shared(frame, piece.order()) {
                        return Err(self.first_in_use(backing, piece, frame));
                    }
                    piece
                }
            };
            next = GuestFrame::new(piece.end());
        }
        // Nothing is in the way. A mapping that is larger than the extent has to be split, which
        // can fail; then the extent is a single piece of it, and nothing has changed.
        let mut next = Some(extent.start());
        while let Some(guest) = next.filter(|guest| extent.contains(*guest)) {
            let piece = match backing.translate(self.id, guest) {
                Translation::Nothing { .. } => {
                    let piece = self.promised_piece(guest, extent);
                    self.kinds.set(piece, Kind::Ordinary);
                    self.on_demand -= piece.pages();
                    piece
                }
                Translation::Memory { order, .. } => {
                    let piece = piece(guest, order, extent);
                    let order = piece.order();
                    let frame = backing
                        .unmap(self.id, piece)
                        .map_err(|refused| Error::refused(refused, order))?;
                    backing.settle(self.id);
                    self.populated -= piece.pages();
                    self.set_aside_or_free(backing, permit, frame, order)?;
                    piece
                }
            };
            next = GuestFrame::new(piece.end());
        }
        self.trim_cache(backing, permit)
    }

    /// The largest block around `guest` within `extent` that was promised memory.
    fn promised_piece(&self, guest: GuestFrame, extent: Extent) -> Extent {
        piece(guest, self.kinds.get(guest).1, extent)
    }

    /// Which of the pages of a piece, of which one is, is in use.
    fn first_in_use(&self, backing: &mut B, piece: Extent, frame: Frame) -> Error {
        let start = piece.start().number();
        let is_shared = |backing: &mut B, page: u64| {
            frame.checked_add(page).is_some_and(|frame| backing.is_shared(frame, Order::PAGE))
        };
        (0..piece.pages())
            .find(|page| is_shared(backing, *page))
            .and_then(|page| GuestFrame::new(start + page))
            .map_or(Error::Inconsistent, |guest| Error::InUse { guest })
    }

    /// A block that the domain gave back, mapped nowhere any more.
    fn set_aside_or_free(
        &mut self,
        backing: &mut B,
        permit: &Permit<Balloon>,
        frame: Frame,
        order: Order,
    ) -> Result<(), Error> {
        let missing = self.on_demand.saturating_sub(self.cache.pages());
        let kept = order.pages().min(missing);
        for page in 0..kept {
            if let Some(frame) = frame.checked_add(page) {
                backing.clear(&permit.window::<Clearing>(frame));
            }
        }
        // The first `kept` pages, and then the rest, in the largest aligned blocks.
        let mut page = 0;
        while page < order.pages() {
            let end = if page < kept { kept } else { order.pages() };
            let block = largest_block(page, end, order);
            let frame = frame.checked_add(page).ok_or(Error::Inconsistent)?;
            if page < kept {
                self.cache.put_block(backing, permit, frame, block);
            } else {
                give_back(backing, permit, frame, block)?;
            }
            page += block.pages();
        }
        Ok(())
    }

    /// Free what the cache has beyond what is owed.
    pub(crate) fn trim_cache<A: Opens<SettingAside>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
    ) -> Result<(), Error> {
        while self.cache.pages() > self.on_demand {
            let level = self.cache.largest::<B>(self.cache.pages() - self.on_demand);
            let Some(frame) = self.cache.take(backing, permit, level) else {
                return Err(Error::Inconsistent);
            };
            give_back(backing, permit, frame, level.order::<B>())?;
        }
        Ok(())
    }

    /// Change the target, and set aside what it gives to frames that were promised memory, in at
    /// most `budget` blocks.
    pub(crate) fn set_target(
        &mut self,
        backing: &mut B,
        permit: &Permit<SetTarget>,
        target: u64,
        budget: u64,
    ) -> Result<Progress, Error> {
        if target > self.maximum {
            return Err(Error::TargetAboveMaximum { target, maximum: self.maximum });
        }
        let owed = self.memory_pages();
        if self.on_demand > 0 && target < owed {
            return Err(Error::TargetBelowOwed { target, owed });
        }
        self.target = target;
        for _ in 0..budget {
            let room = target.saturating_sub(self.memory_pages());
            let missing = self.on_demand.saturating_sub(self.cache.pages()).min(room);
            if missing == 0 {
                return Ok(Progress::Done);
            }
            let sizes = Level::ALL.into_iter().rev().filter(|level| level.pages::<B>() <= missing);
            let mut found = Err(Refused::NoMemory);
            for level in sizes {
                found = backing.take(self.id, level.order::<B>()).map(|frame| (frame, level));
                if found != Err(Refused::NoMemory) {
                    break;
                }
            }
            let (frame, level) = found.map_err(|refused| Error::refused(refused, Order::PAGE))?;
            self.cache.put(backing, permit, level, frame);
        }
        let room = target.saturating_sub(self.memory_pages());
        let done = self.on_demand.saturating_sub(self.cache.pages()).min(room) == 0;
        Ok(if done { Progress::Done } else { Progress::More })
    }
}

/// The largest aligned block from `guest` on that lies within `extent` and within a block of
/// `order` around `guest`.
fn piece(guest: GuestFrame, order: Order, extent: Extent) -> Extent {
    if order >= extent.order() {
        // It begins at the extent's start: all of it is within the block.
        return extent;
    }
    Extent::around(guest, order)
}

/// The largest aligned block that starts at page `page` of a block of `order` and ends at or before
/// `end`, which is behind `page`.
const fn largest_block(page: u64, end: u64, order: Order) -> Order {
    let size = (end - page).ilog2();
    let alignment = page.trailing_zeros();
    let bits = if size < alignment { size } else { alignment };
    match Order::new(bits) {
        Some(found) if found.number() <= order.number() => found,
        _ => order,
    }
}

/// Free a block of the domain that the permit is for.
pub(crate) fn give_back<B: Backing, A>(
    backing: &mut B,
    permit: &Permit<A>,
    frame: Frame,
    order: Order,
) -> Result<(), Error> {
    let result = backing.give_back(permit.domain(), frame, order);
    result.map_err(|refused| Error::refused(refused, order))
}
