//! The end of a domain: freeing what it had, step by step.
//!
//! Hides in which order that goes: its uses of others' grants end first, then its page map is
//! emptied, block by block, then what is set aside is freed, and at last its grant table, when
//! nobody uses any entry of it. Pages that others still use are passed over; each is freed by
//! whoever ends its last use.
//!
//! Invariant: a page that is passed over is at no guest frame of its domain any more, and counts as
//! populated until it is freed.

use heliox_types::Frame;

use crate::access::action::{EndGranted, TearDown};
use crate::access::{Permit, Phase, Subject};
use crate::backing::{Backing, KernelMemory, Rights, Translation};
use crate::balloon::give_back;
use crate::domain::Domain;
use crate::error::Error;
use crate::guest::{DomainId, Extent, GuestFrame, Order};
use crate::kinds::Kind;
use crate::pool::Level;

/// End a use of a grant. If its domain is dying and the page was only waiting for this, it is
/// freed.
pub(crate) fn end_use<B: Backing, M: KernelMemory>(
    backing: &mut B,
    granter: &mut Domain<B, M>,
    user: DomainId,
    reference: u32,
    rights: Rights,
) -> Result<(), Error> {
    let permit = granter.permit::<EndGranted>(Subject::Domain(user))?;
    let Some((guest, frame)) = granter.grants.unpin(backing, &permit, reference, rights)? else {
        return Ok(());
    };
    let (next, end) = granter.teardown.block;
    let waits = granter.phase == Phase::Dying
        && !(next..end).contains(&frame.number())
        && !backing.is_shared(frame, Order::PAGE)
        && matches!(backing.translate(granter.id, guest), Translation::Nothing { .. });
    if waits {
        granter.populated -= 1;
        give_back(backing, &permit, frame, Order::PAGE)?;
    }
    Ok(())
}

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    /// Free some of a dying domain's memory; false if only pages that others use, and the grant
    /// table, are left.
    pub(crate) fn free_some(
        &mut self,
        backing: &mut B,
        permit: &Permit<TearDown>,
    ) -> Result<bool, Error> {
        let (next, end) = self.teardown.block;
        if next < end {
            self.free_part(backing, permit, next, end)?;
            return Ok(true);
        }
        if self.teardown.guest < self.frames {
            self.empty_frame(backing)?;
            return Ok(true);
        }
        for pool in [&mut self.cache, &mut self.reserve] {
            let level = pool.largest::<B>(Level::Table.pages::<B>());
            if let Some(frame) = pool.take(backing, permit, level) {
                give_back(backing, permit, frame, level.order::<B>())?;
                return Ok(true);
            }
        }
        self.forget_table_places();
        Ok(false)
    }

    /// Free the largest part at the beginning of what is left of a block that nobody uses; or pass
    /// over a page that somebody does.
    fn free_part(
        &mut self,
        backing: &mut B,
        permit: &Permit<TearDown>,
        next: u64,
        end: u64,
    ) -> Result<(), Error> {
        let frame = Frame::new(next).ok_or(Error::Inconsistent)?;
        // What is freed is cleared: no more of it in one step than a table's worth.
        for level in [Level::Table, Level::Page] {
            let order = level.order::<B>();
            let is_block = next & (order.pages() - 1) == 0 && next + order.pages() <= end;
            if is_block && !backing.is_shared(frame, order) {
                self.teardown.block = (next + order.pages(), end);
                self.populated -= order.pages();
                return give_back(backing, permit, frame, order);
            }
        }
        self.teardown.block = (next + 1, end);
        Ok(())
    }

    /// Take what is at the next guest frame of a dying domain out of its page map.
    fn empty_frame(&mut self, backing: &mut B) -> Result<(), Error> {
        let guest = GuestFrame::new(self.teardown.guest).ok_or(Error::Inconsistent)?;
        let (kind, same) = self.kinds.get(guest);
        let extent = match (kind, backing.translate(self.id, guest)) {
            (Kind::OnDemand, _) => {
                let extent = Extent::around(guest, same);
                self.kinds.set(extent, Kind::Ordinary);
                self.on_demand -= extent.pages();
                extent
            }
            (Kind::Ordinary, Translation::Nothing { order }) => {
                Extent::around(guest, same.min(order))
            }
            (Kind::Ordinary | Kind::GrantTable, Translation::Memory { frame, order }) => {
                let extent = Extent::around(guest, order);
                let result = backing.unmap(self.id, extent);
                result.map_err(|refused| Error::refused(refused, order))?;
                backing.settle(self.id);
                if kind == Kind::GrantTable {
                    self.kinds.set(extent, Kind::Ordinary);
                } else {
                    self.teardown.block = (frame.number(), frame.number() + extent.pages());
                }
                extent
            }
            // Mappings of others' pages were ended before.
            _ => return Err(Error::Inconsistent),
        };
        self.teardown.guest = extent.end();
        Ok(())
    }
}
