//! Giving memory to a domain, taking it back, and sharing it with another.
//!
//! Invariant O2: memory of nobody is clear and not referenced. Memory passes from one domain
//! to another only by way of nobody, and so is cleared on the way.

use heliox_types::PAGE_BITS;

use crate::cpu::CurrentCpu;
use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, WindowEntry};
use crate::memory::Memory;
use crate::page::Units;
use crate::region::PhysicalRegion;
use crate::rights::Rights;
use crate::share::Share;
use crate::state::Storage;

/// Giving memory to domains, and sharing it between them.
pub trait Ownership {
    /// Gives memory of nobody to a domain.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::TooLong`], [`Error::WrongStatus`], [`Error::NotAllNormal`],
    /// [`Error::NotOwner`].
    fn assign(&mut self, region: PhysicalRegion, to: DomainId) -> Result<(), Error>;

    /// Takes memory from a domain and clears it; it is nobody's afterwards. At most as many
    /// pages at once as a table has entries.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::TooLong`], [`Error::WrongStatus`], [`Error::NotOwner`],
    /// [`Error::InUse`], [`Error::Draining`].
    fn release(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<(), Error>;

    /// Lets `grantee` map memory of `owner`, with at most `rights`.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::TooLong`], [`Error::WrongStatus`], [`Error::NotAllNormal`],
    /// [`Error::NotOwner`], [`Error::NotGrantee`] for nobody, [`Error::TooManyReferences`].
    fn share(
        &mut self,
        region: PhysicalRegion,
        owner: DomainId,
        grantee: Owner,
        rights: Rights,
    ) -> Result<Share, Error>;

    /// Ends a share. Mappings made through it stay until they are removed.
    fn end_share(&mut self, share: Share);
}

/// The largest units that a region consists of.
fn units<G: Geometry>(region: PhysicalRegion) -> Units {
    let order = region.bits() - PAGE_BITS;
    Units::of::<G>(region.first_frame(), order, Level::at(G::LEAF_LEVELS))
}

/// The same, if there are at most as many as a table has entries: more would take too long.
fn few_units<G: Geometry>(region: PhysicalRegion) -> Result<Units, Error> {
    let units = units::<G>(region.ram()?);
    let limit = G::ENTRIES as u64;
    if units.count <= limit {
        return Ok(units);
    }
    Err(Error::TooLong { pages: region.pages(), limit: limit << units.level.frame_bits::<G>() })
}

impl<M: Machine, S: Storage> Memory<'_, M, S> {
    fn decide_assign(&self, region: PhysicalRegion) -> Result<Units, Error> {
        let units = few_units::<M::Geometry>(region)?;
        // O2: it is not referenced and no processor translates to it, or it would be somebody's.
        self.state.check_references(units, OwnerCode::NOBODY)?;
        Ok(units)
    }

    fn decide_release(&self, region: PhysicalRegion, from: DomainId) -> Result<Units, Error> {
        let (first, count) = (region.ram()?.first_frame(), region.pages());
        let limit = M::Geometry::ENTRIES as u64;
        if count > limit {
            let pages = count;
            return Err(Error::TooLong { pages, limit });
        }
        let level = Level::FIRST;
        let pages = Units { level, first, count };
        for frame in pages.frames::<M::Geometry>() {
            self.state.check_free(frame)?;
            let from = OwnerCode::new(Owner::Domain(from));
            self.state.check_owner(level, frame, from)?;
        }
        Ok(pages)
    }

    fn decide_share(
        &self,
        region: PhysicalRegion,
        owner: OwnerCode,
        grantee: Owner,
    ) -> Result<Units, Error> {
        let units = few_units::<M::Geometry>(region)?;
        if grantee == Owner::Nobody {
            return Err(Error::NotGrantee { grantee });
        }
        self.state.check_references(units, owner)?;
        Ok(units)
    }
}

impl<M: Machine, S: Storage> Ownership for Memory<'_, M, S> {
    fn assign(&mut self, region: PhysicalRegion, to: DomainId) -> Result<(), Error> {
        let units = self.decide_assign(region)?;
        let to = OwnerCode::new(Owner::Domain(to));
        for frame in units.frames::<M::Geometry>() {
            self.state.set_owner(units.level, frame, to);
        }
        Ok(())
    }

    fn release(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<(), Error> {
        let pages = self.decide_release(region, from)?;
        let whole = units::<M::Geometry>(region);
        for frame in pages.frames::<M::Geometry>() {
            // W1: a page that is free is not open.
            self.machine.open_window(frame, WindowEntry::PRIVATE);
            self.machine.clear_frame(frame);
            self.machine.close_window(frame);
            let address = self.machine.window_address(frame);
            self.machine.invalidate_page(cpu, address);
            if whole.level > Level::FIRST {
                // While the block above has an owner, this does not count.
                self.state.forget_owner(frame);
            }
        }
        for frame in whole.frames::<M::Geometry>() {
            self.state.set_owner(whole.level, frame, OwnerCode::NOBODY);
        }
        Ok(())
    }

    fn share(
        &mut self,
        region: PhysicalRegion,
        owner: DomainId,
        grantee: Owner,
        rights: Rights,
    ) -> Result<Share, Error> {
        let owner = OwnerCode::new(Owner::Domain(owner));
        let units = self.decide_share(region, owner, grantee)?;
        for frame in units.frames::<M::Geometry>() {
            self.state.add_reference(units.level, frame);
        }
        Ok(Share { region, owner, grantee, rights })
    }

    fn end_share(&mut self, share: Share) {
        let units = units::<M::Geometry>(share.region);
        for frame in units.frames::<M::Geometry>() {
            self.state.drop_reference(units.level, frame, None);
        }
    }
}
