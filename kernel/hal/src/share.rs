//! Shares: a domain's consent that memory of its own is mapped by another.
//!
//! Invariant: as long as a [`Share`] exists its memory is referenced, and so changes neither
//! its owner nor its status (P3). Ending a share takes no mapping away: whoever ends it to
//! get the memory back removes those first, or the memory stays referenced.

use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::page::Units;
use crate::region::PhysicalRegion;
use crate::rights::Rights;
use crate::state::{State, Storage};

/// Memory of one domain that another may map.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory stays pinned unless the share is ended"]
pub struct Share {
    region: PhysicalRegion,
    owner: OwnerCode,
    grantee: Owner,
    rights: Rights,
}

impl Share {
    /// The memory.
    #[must_use]
    pub const fn region(&self) -> PhysicalRegion {
        self.region
    }

    /// Who may map it: a domain, or the hypervisor for kernel mappings.
    #[must_use]
    pub const fn grantee(&self) -> Owner {
        self.grantee
    }

    /// The most that a mapping may allow.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Who must own the pages of `region`, for `grantee` to map it with `rights`.
    pub(crate) fn allows(
        &self,
        region: PhysicalRegion,
        grantee: OwnerCode,
        rights: Rights,
    ) -> Result<OwnerCode, Error> {
        if !self.region.contains(region) {
            let frame = region.first_frame();
            return Err(Error::OutsideShare { frame });
        }
        if OwnerCode::new(self.grantee) != grantee {
            let grantee = self.grantee;
            return Err(Error::NotGrantee { grantee });
        }
        if !self.rights.contains(rights) {
            return Err(Error::BeyondShare {
                asked: rights,
                granted: self.rights,
            });
        }
        Ok(self.owner)
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for Share {
    fn duplicate(&self) -> Self {
        Self {
            region: self.region,
            owner: self.owner,
            grantee: self.grantee,
            rights: self.rights,
        }
    }
}

/// Makes a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MakeShare {
    region: PhysicalRegion,
    units: Units,
    owner: OwnerCode,
    grantee: Owner,
    rights: Rights,
}

impl MakeShare {
    pub(crate) fn decide<G: Geometry, S: Storage>(
        state: &State<G, S>,
        region: PhysicalRegion,
        owner: DomainId,
        grantee: Owner,
        rights: Rights,
    ) -> Result<Self, Error> {
        let region = region.ram()?;
        if grantee == Owner::Nobody {
            return Err(Error::NotGrantee { grantee });
        }
        let owner = OwnerCode::new(Owner::Domain(owner));
        let units = region_units::<G>(region)?;
        state.check_references(units, owner)?;
        Ok(Self {
            region,
            units,
            owner,
            grantee,
            rights,
        })
    }

    pub(crate) fn apply<G: Geometry, S: Storage>(self, state: &mut State<G, S>) -> Share {
        for frame in self.units.frames::<G>() {
            state.add_reference(self.units.level, frame);
        }
        Share {
            region: self.region,
            owner: self.owner,
            grantee: self.grantee,
            rights: self.rights,
        }
    }
}

/// Ends a share.
pub(crate) fn end<G: Geometry, S: Storage>(state: &mut State<G, S>, share: Share) {
    // Not an error: it was allowed when the share was made.
    let Ok(units) = region_units::<G>(share.region) else {
        return;
    };
    for frame in units.frames::<G>() {
        state.drop_reference(units.level, frame, None);
    }
}

/// The largest units that a region consists of, if there are at most as many as a table has
/// entries: longer operations would take too long.
pub(crate) fn region_units<G: Geometry>(region: PhysicalRegion) -> Result<Units, Error> {
    let largest = Level::new::<G>(G::LEAF_LEVELS).unwrap_or(Level::FIRST);
    let bits = region.pages().ilog2();
    let units = Units::of::<G>(region.first_frame(), bits, largest);
    let limit = G::ENTRIES as u64;
    if units.count > limit {
        return Err(Error::TooLong {
            pages: region.pages(),
            limit: limit << units.level.frame_bits::<G>(),
        });
    }
    Ok(units)
}
