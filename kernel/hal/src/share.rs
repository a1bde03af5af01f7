//! Giving memory to a domain, taking it back, and sharing it with another.
//!
//! Invariant O2: memory of nobody is clear and not referenced. Memory passes from one domain
//! to another only by way of nobody, and so is cleared on the way.
//!
//! As long as a [`Share`] exists its memory is referenced, and so changes neither its owner nor
//! its status (P3). Ending a share takes no mapping away: whoever ends it to get the memory back
//! removes those first, or the memory stays referenced.

use crate::prelude::*;

/// Giving memory to domains, and sharing it between them.
pub trait Ownership {
    /// Gives memory of nobody to a domain; pages that are the domain's already stay so. At most as
    /// many pages at once as a table has entries. If they are what an entry of level 2 maps, they
    /// can be mapped as one from then on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::TooLong`], [`Error::WrongStatus`], [`Error::NotOwner`].
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

    /// Lets `grantee` map memory of `owner`, one page of any size, with at most `rights`.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::NotOnePage`], [`Error::WrongStatus`], [`Error::NotOwner`],
    /// [`Error::NotGrantee`] for nobody, [`Error::TooManyReferences`].
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

/// Memory of one domain that another may map.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory stays pinned unless the share is ended"]
pub struct Share {
    pub(crate) region: PhysicalRegion,
    pub(crate) level: Level,
    pub(crate) owner: OwnerCode,
    pub(crate) grantee: Owner,
    pub(crate) rights: Rights,
}

impl Share {
    /// The memory.
    pub const fn region(&self) -> PhysicalRegion {
        self.region
    }

    /// Who may map it: a domain, or the hypervisor for kernel mappings.
    pub const fn grantee(&self) -> Owner {
        self.grantee
    }

    /// Who must own the pages of `region`, for `grantee` to map it with `rights`.
    pub(crate) fn allows(
        &self,
        region: PhysicalRegion,
        grantee: OwnerCode,
        rights: Rights,
    ) -> Result<OwnerCode, Error> {
        if !self.region.contains(region) {
            Err(Error::OutsideShare { frame: region.first_frame() })
        } else if OwnerCode::new(self.grantee) != grantee {
            Err(Error::NotGrantee { grantee: self.grantee })
        } else if !self.rights.contains(rights) {
            Err(Error::BeyondShare { asked: rights, granted: self.rights })
        } else {
            Ok(self.owner)
        }
    }
}

impl<M: Machine> Memory<M> {
    fn decide_assign(&self, region: PhysicalRegion, to: OwnerCode) -> Result<(), Error> {
        let (region, nobody) = (region.ram(M::Geometry::ENTRIES)?, OwnerCode::NOBODY);
        // P4: what the record of a larger unit says is so for all of its pages.
        if let Ok(level) = region.level::<M::Geometry>(self.machine.largest_leaf())
            && self.state.check_reference(level, region.first_frame(), nobody).is_ok()
        {
            return Ok(());
        }
        for frame in region.frames() {
            // O2: it is not referenced and no processor translates to it, or it would be somebody's.
            if self.state.page(frame).owner() != to {
                self.state.check_reference(Level::FIRST, frame, nobody)?;
            }
        }
        Ok(())
    }

    fn decide_share(
        &self,
        region: PhysicalRegion,
        owner: OwnerCode,
        grantee: Owner,
    ) -> Result<Level, Error> {
        let level = region.ram(usize::MAX)?.level::<M::Geometry>(self.machine.largest_leaf())?;
        if grantee == Owner::Nobody {
            return Err(Error::NotGrantee { grantee });
        }
        self.state.check_reference(level, region.first_frame(), owner)?;
        Ok(level)
    }
}

impl<M: Machine> Ownership for Memory<M> {
    fn assign(&mut self, region: PhysicalRegion, to: DomainId) -> Result<(), Error> {
        self.decide_assign(region, OwnerCode::of(to))?;
        self.state.set_owner(region, OwnerCode::of(to));
        Ok(())
    }

    fn release(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<(), Error> {
        // O2: nobody is given it before it is clear.
        self.state.take(region.ram(M::Geometry::ENTRIES)?, OwnerCode::of(from))?;
        for frame in region.frames() {
            // W1: a page that is free is not open.
            self.machine.open_window(frame, WindowEntry::PRIVATE);
            self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0);
            self.machine.close_window(cpu, frame);
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
        let owner = OwnerCode::of(owner);
        let level = self.decide_share(region, owner, grantee)?;
        self.state.add_count(level, region.first_frame());
        Ok(Share { region, level, owner, grantee, rights })
    }

    fn end_share(&mut self, share: Share) {
        self.state.take_count(share.level, share.region.first_frame());
    }
}
