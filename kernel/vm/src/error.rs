//! Everything that can be wrong with a request.

use core::fmt;

use crate::access::{Action, Denied};
use crate::backing::Refused;
use crate::guest::{DomainId, GuestFrame, Order};

/// Why an operation was not carried out. It then changed nothing, unless it says otherwise.
///
/// Numbers that a guest gave are told as it gave them, since some of them name nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such domain.
    NoSuchDomain {
        /// Its number, as given.
        domain: u16,
    },
    /// A domain has this number already.
    DomainExists {
        /// The number.
        domain: DomainId,
    },
    /// A domain cannot be made with these options: its target and extra memory have to fit into
    /// its maximum and its frame numbers, and its grant table has to have a frame.
    BadOptions,
    /// The access rules do not allow it.
    Denied {
        /// What was to be done.
        action: Action,
        /// To which domain.
        domain: DomainId,
        /// Why not.
        why: Denied,
    },
    /// An extent is larger than the caller may ask for.
    OrderTooLarge {
        /// Its order.
        order: u32,
        /// The largest order.
        most: u32,
    },
    /// An extent does not start at a multiple of its size.
    Misaligned {
        /// Where it starts.
        guest: u64,
        /// Its order.
        order: u32,
    },
    /// Guest frames lie at or behind the end of the domain's frame numbers.
    OutsideMap {
        /// The frame, or the extent's first.
        guest: u64,
        /// The end.
        limit: u64,
    },
    /// Something is already at a guest frame.
    Occupied {
        /// The first such frame.
        guest: GuestFrame,
    },
    /// Nothing is at a guest frame.
    NotPopulated {
        /// The first such frame.
        guest: GuestFrame,
    },
    /// A guest frame is not one that gets memory when it is used.
    NotOnDemand {
        /// The frame.
        guest: GuestFrame,
    },
    /// A guest frame shows a page of the domain's grant table.
    GrantTablePage {
        /// The first such frame.
        guest: GuestFrame,
    },
    /// A guest frame shows memory of another domain.
    ForeignPage {
        /// The first such frame.
        guest: GuestFrame,
    },
    /// A page is used by a domain that it was granted to.
    InUse {
        /// The first such frame.
        guest: GuestFrame,
    },
    /// The domain would own more than the hypervisor lets it.
    QuotaExceeded {
        /// Pages that it has of the kind in question.
        pages: u64,
        /// Pages more that were asked for.
        request: u64,
        /// The most that it may have.
        quota: u64,
    },
    /// The domain would have, or be promised, more memory than its static maximum.
    MaximumExceeded {
        /// Pages that it has or is promised.
        pages: u64,
        /// Pages more that were asked for.
        request: u64,
        /// Its maximum.
        maximum: u64,
    },
    /// A target is more than the static maximum.
    TargetAboveMaximum {
        /// The target in pages.
        target: u64,
        /// The maximum.
        maximum: u64,
    },
    /// A target is less than what the domain has and is owed. It has to balloon down first.
    TargetBelowOwed {
        /// The target in pages.
        target: u64,
        /// What it has, with what is set aside for the frames that it was promised.
        owed: u64,
    },
    /// The machine has no free block of this size for the domain. What was done up to then stays
    /// done where an operation says so.
    OutOfMemory {
        /// The block's order.
        order: u32,
    },
    /// The domain's paging pool is used up.
    OutOfTables,
    /// The kernel has no memory for its own records of the domain.
    OutOfKernelMemory,
    /// The domain used memory that it was promised and that there is none for. It was stopped.
    Exhausted {
        /// The frame that it used.
        guest: GuestFrame,
    },
    /// The domain's grants are in use, by others or by itself.
    GrantsInUse {
        /// How many uses.
        uses: u64,
    },
    /// A domain cannot use its own grants.
    OwnGrant,
    /// There is no such entry in the grant table.
    BadReference {
        /// The number of the entry.
        reference: u32,
        /// How many there are.
        entries: u32,
    },
    /// The entry grants nothing, or not to this domain, or not access.
    NotGranted {
        /// The number of the entry.
        reference: u32,
    },
    /// The entry grants reading only.
    ReadOnly {
        /// The number of the entry.
        reference: u32,
    },
    /// The entry grants a part of a page, which cannot be mapped.
    PartOnly {
        /// The number of the entry.
        reference: u32,
    },
    /// What the entry names is not a page that its domain can grant.
    BadGrantedPage {
        /// The frame that it names.
        guest: u64,
    },
    /// A grant is used as often as can be counted.
    TooManyUses {
        /// The number of the entry.
        reference: u32,
    },
    /// The granting domain changed the entry while it was looked at, again and again.
    Contended {
        /// The number of the entry.
        reference: u32,
    },
    /// The domain has as many grants of others mapped as it may.
    NoHandles {
        /// How many.
        limit: u32,
    },
    /// No mapping has this handle.
    BadHandle {
        /// The handle.
        handle: u32,
    },
    /// The mapping with this handle is elsewhere.
    WrongPlace {
        /// The handle.
        handle: u32,
        /// The frame where it was said to be.
        guest: u64,
    },
    /// A part of a page is not within the page, or not within what is granted of it.
    BadPart {
        /// Where it starts, in bytes.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
    /// A grant table cannot have so many frames.
    TableTooLarge {
        /// How many frames were asked for.
        frames: u32,
        /// The most that the domain may have.
        most: u32,
    },
    /// There is no such frame of the grant table, or of its status.
    NoTableFrame {
        /// The number of the frame.
        index: u32,
        /// How many there are.
        frames: u32,
    },
    /// The frame of the grant table is at a guest frame already.
    AlreadyPlaced {
        /// Which.
        guest: GuestFrame,
    },
    /// There is no such version of the grant table.
    BadVersion {
        /// The version.
        version: u32,
    },
    /// The layer below contradicts this one: one of the two is wrong. Nothing more is known.
    Inconsistent,
}

impl Error {
    /// What the layer below refused, for a block of `order`.
    pub(crate) const fn refused(refused: Refused, order: Order) -> Self {
        match refused {
            Refused::NoMemory => Self::OutOfMemory { order: order.number() },
            Refused::NoTables => Self::OutOfTables,
            Refused::NoKernelMemory => Self::OutOfKernelMemory,
            Refused::TooManyReferences | Refused::Inconsistent => Self::Inconsistent,
        }
    }

    /// The status that Xen's interface has for this error in operations on grants: `GNTST_*` of
    /// `public/grant_table.h`.
    #[must_use]
    pub const fn grant_status(&self) -> i16 {
        match self {
            Self::NoSuchDomain { .. } | Self::OwnGrant => -2,
            Self::BadReference { .. } => -3,
            Self::BadHandle { .. } => -4,
            Self::WrongPlace { .. } | Self::Occupied { .. } | Self::OutsideMap { .. } => -5,
            Self::NoHandles { .. } | Self::OutOfTables => -7,
            Self::Denied { .. } | Self::NotGranted { .. } | Self::ReadOnly { .. } => -8,
            Self::BadGrantedPage { .. } | Self::NotPopulated { .. } => -9,
            Self::GrantTablePage { .. } | Self::ForeignPage { .. } => -9,
            Self::BadPart { .. } => -10,
            Self::Contended { .. } => -12,
            Self::OutOfMemory { .. } | Self::OutOfKernelMemory => -13,
            _ => -1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl core::error::Error for Error {}
