//! Shares: a domain's consent that memory of its own is mapped by another.
//!
//! Invariant: as long as a [`Share`] exists its memory is referenced, and so changes neither
//! its owner nor its status (P3). Ending a share takes no mapping away: whoever ends it to
//! get the memory back removes those first, or the memory stays referenced.

use crate::domain::{Owner, OwnerCode};
use crate::error::Error;
use crate::region::PhysicalRegion;
use crate::rights::Rights;

/// Memory of one domain that another may map.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory stays pinned unless the share is ended"]
pub struct Share {
    pub(crate) region: PhysicalRegion,
    pub(crate) owner: OwnerCode,
    pub(crate) grantee: Owner,
    pub(crate) rights: Rights,
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
            return Err(Error::BeyondShare { asked: rights, granted: self.rights });
        }
        Ok(self.owner)
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for Share {
    fn duplicate(&self) -> Self {
        Self { region: self.region, owner: self.owner, grantee: self.grantee, rights: self.rights }
    }
}
