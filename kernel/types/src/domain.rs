//! Who memory belongs to.
//!
//! Invariant: memory that belongs to nobody is cleared, and no mapping of it exists.

use core::fmt;

/// A protection domain, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(u16);

impl DomainId {
    /// Domain 0: sigma0, the root task and everything that descends from them. It owns all free
    /// memory after the boot.
    pub const ZERO: Self = Self(0);

    /// One past the largest number of a domain.
    pub const LIMIT: u16 = 0xff00;

    /// Domain `number`, or `None` if it is not below [`DomainId::LIMIT`].
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::LIMIT { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomainId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// Who a page belongs to, or whom memory is shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A domain.
    Domain(DomainId),
    /// The hypervisor.
    Hypervisor,
    /// Nobody: the page is clear.
    Nobody,
}

/// An [`Owner`] in 16 bits; one value more says that the parts of a larger page may have different
/// owners. Zero is the hypervisor, so that a record of zeros is one of a page that does not exist;
/// domain number *n* is *n* + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerCode(u16);

impl OwnerCode {
    /// The hypervisor.
    pub const HYPERVISOR: Self = Self(0);
    /// Nobody.
    pub const NOBODY: Self = Self(0xfffe);
    /// Perhaps several owners.
    pub const MIXED: Self = Self(0xfffd);

    /// The code of `owner`.
    #[must_use]
    pub const fn new(owner: Owner) -> Self {
        match owner {
            // Not past DomainId::LIMIT.
            Owner::Domain(domain) => Self(domain.0 + 1),
            Owner::Hypervisor => Self::HYPERVISOR,
            Owner::Nobody => Self::NOBODY,
        }
    }

    /// The code of a domain.
    #[must_use]
    pub const fn of(domain: DomainId) -> Self {
        Self::new(Owner::Domain(domain))
    }

    /// The code that is this number. Numbers that no owner has are those of several owners.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The code as a number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The owner, or `None` if there may be several.
    #[must_use]
    pub const fn owner(self) -> Option<Owner> {
        match self {
            Self::HYPERVISOR => Some(Owner::Hypervisor),
            Self::NOBODY => Some(Owner::Nobody),
            Self(code) => match DomainId::new(code - 1) {
                Some(domain) => Some(Owner::Domain(domain)),
                None => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_owners() {
        for owner in [
            Owner::Hypervisor,
            Owner::Nobody,
            Owner::Domain(DomainId::ZERO),
            Owner::Domain(DomainId::new(DomainId::LIMIT - 1).unwrap()),
        ] {
            let code = OwnerCode::new(owner);
            assert_eq!(code.owner(), Some(owner));
            assert_eq!(OwnerCode::from_bits(code.bits()), code);
        }
        assert_eq!(OwnerCode::from_bits(u16::MAX).owner(), None);
        assert_eq!(OwnerCode::MIXED.owner(), None);
        assert_eq!(DomainId::new(DomainId::LIMIT), None);
    }
}
