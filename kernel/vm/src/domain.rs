//! A domain: what it may have, what it has, and what its guest frames are.
//!
//! Hides the record of a domain, and the rules of its account. The account:
//!
//! - *populated* pages are at guest frames; *on demand* counts guest frames that were promised
//!   memory and have none yet; the *cache* has pages that are set aside for those; the *reserve*
//!   has pages that the domain asked for and did not place yet; *table* pages make up its grant
//!   table;
//! - what the domain owns is the sum of populated, cache, reserve and table pages, and no other
//!   page has it as owner;
//! - populated + cache + reserve never grows beyond the target (libxl's policy) or the static
//!   maximum (xenops' policy), table pages never beyond the extra pages, populated + on demand
//!   never beyond the static maximum; and the cache never has more than is owed, the frames on
//!   demand.

use crate::access::{Acts, Permit, Phase, Standing, Subject, decide};
use crate::backing::{Backing, KernelMemory, Translation};
use crate::breakdown::{Block, Plan, Policy, Shape};
use crate::error::Error;
use crate::grant::handles::Handles;
use crate::grant::table::GrantTable;
use crate::guest::{DomainId, Extent, GuestFrame, Order};
use crate::kinds::{Kind, Kinds};
use crate::pool::{Level, Pool};
use crate::seal::Measuring;
use crate::units::Pages;

/// What the hypervisor's limit on what a domain owns follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Limit {
    /// The target: libxl's policy. A domain that is populated on demand owns exactly its target.
    #[default]
    Target,
    /// The static maximum: xenops' policy. A guest can grow past its target until somebody lowers
    /// the limit.
    Maximum,
}

/// A SHA-256 digest of what a domain was when it was sealed.
pub type Measurement = [u8; 32];

/// How a domain is to be made. All sizes are in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many guest frames it can name: one past the largest number.
    pub frames: u64,
    /// Its static maximum.
    pub maximum: u64,
    /// Its target at first.
    pub target: u64,
    /// What it may own beside its memory: its grant table.
    pub extra: u64,
    /// What the hypervisor's limit follows.
    pub limit: Limit,
    /// Its paging pool.
    pub tables: u64,
    /// The most frames that its grant table may have.
    pub grant_frames: u32,
    /// The most grants of others that it may have mapped.
    pub handles: u32,
    /// The most pages that are looked at for zeros when it uses memory that there is none for.
    pub search: u64,
}

impl Options {
    /// The options that follow from a breakdown, with Xen's usual limits for the rest: a grant
    /// table of 64 frames, 1024 mappings. `frames` has room for the static maximum and 256 MiB of
    /// places for devices and grants.
    #[must_use]
    pub fn of(policy: &Policy, shape: &Shape, plan: &Plan) -> Self {
        let pages = |amount| Pages::from_used(amount).count();
        let block = |block| pages(plan.picture().block(block).size());
        let maximum = pages(shape.static_max()) + block(Block::Shim);
        Self {
            frames: maximum + (256 << 8),
            maximum,
            target: pages(shape.target()) + block(Block::Shim),
            extra: block(Block::ExtraInternal),
            limit: match policy {
                Policy::Libxl(_) => Limit::Target,
                Policy::Xenops { .. } => Limit::Maximum,
            },
            tables: block(Block::Shadow),
            grant_frames: 64,
            handles: 1024,
            search: 1024,
        }
    }
}

/// What can be seen of a domain's account, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whether it runs.
    pub phase: Phase,
    /// Pages at guest frames.
    pub populated: u64,
    /// Guest frames that get memory when they are used.
    pub on_demand: u64,
    /// Pages set aside for those.
    pub cache: u64,
    /// Pages that it asked for and did not place.
    pub reserve: u64,
    /// Pages of its grant table.
    pub table: u64,
    /// Its target.
    pub target: u64,
    /// Its static maximum.
    pub maximum: u64,
    /// The most that it may own.
    pub quota: u64,
    /// Uses of its grants by others.
    pub granted_uses: u64,
    /// Grants of others that it has mapped.
    pub handles: u64,
    /// What was measured when it was sealed.
    pub measurement: Option<Measurement>,
}

impl Summary {
    /// What it owns: Xen's current reservation.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.populated + self.cache + self.reserve + self.table
    }
}

/// The record of a domain.
pub(crate) struct Domain<B: Backing, M: KernelMemory> {
    pub(crate) id: DomainId,
    pub(crate) builder: Option<DomainId>,
    pub(crate) phase: Phase,
    pub(crate) frames: u64,
    pub(crate) maximum: u64,
    pub(crate) target: u64,
    pub(crate) extra: u64,
    pub(crate) limit: Limit,
    pub(crate) populated: u64,
    pub(crate) on_demand: u64,
    pub(crate) cache: Pool,
    pub(crate) reserve: Pool,
    pub(crate) kinds: Kinds<M::Slice<u64>>,
    /// The most pages that a search for zeros looks at, and where the next begins.
    pub(crate) search: u64,
    pub(crate) search_next: u64,
    pub(crate) measuring: Option<Measuring>,
    pub(crate) measurement: Option<Measurement>,
    pub(crate) grants: GrantTable<B, M>,
    pub(crate) handles: Handles<M>,
    pub(crate) teardown: Teardown,
}

/// How far the memory of a dying domain is freed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Teardown {
    /// The next handle to close.
    pub(crate) handle: u32,
    /// The next guest frame to empty.
    pub(crate) guest: u64,
    /// What is left of a block that is given back in parts: frame numbers from the first to the
    /// second.
    pub(crate) block: (u64, u64),
}

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    pub(crate) fn new(
        memory: &mut M,
        builder: DomainId,
        id: DomainId,
        options: &Options,
    ) -> Result<Self, Error> {
        let Options { frames, maximum, target, extra, .. } = *options;
        let fits = target <= maximum && maximum <= frames && frames <= B::MOST_FRAMES;
        if !fits || frames == 0 || extra > maximum || options.grant_frames == 0 {
            return Err(Error::BadOptions);
        }
        let kinds = Kinds::new(memory, B::LEVEL_BITS, frames).ok_or(Error::OutOfKernelMemory)?;
        Ok(Self {
            id,
            builder: Some(builder),
            phase: Phase::Running,
            frames,
            maximum,
            target,
            extra,
            limit: options.limit,
            populated: 0,
            on_demand: 0,
            cache: Pool::default(),
            reserve: Pool::default(),
            kinds,
            search: options.search,
            search_next: 0,
            measuring: None,
            measurement: None,
            grants: GrantTable::new(memory, options.grant_frames)?,
            handles: Handles::new(memory, options.handles)?,
            teardown: Teardown::default(),
        })
    }

    /// What the access rules go by.
    pub(crate) const fn standing(&self) -> Standing {
        Standing {
            domain: self.id,
            builder: self.builder,
            phase: self.phase,
            is_sealed: self.measurement.is_some(),
        }
    }

    /// The permission for an action, if the rules give it.
    pub(crate) fn permit<A: Acts>(&self, subject: Subject) -> Result<Permit<A>, Error> {
        let action = A::ACTION;
        let domain = self.id;
        decide(subject, &self.standing()).map_err(|why| Error::Denied { action, domain, why })
    }

    /// A guest's extent, of at most `most`.
    pub(crate) const fn extent(
        &self,
        start: u64,
        order: u32,
        most: Level,
    ) -> Result<Extent, Error> {
        Extent::new(start, order, most.order::<B>(), self.frames)
    }

    /// A guest's frame.
    pub(crate) fn frame(&self, guest: u64) -> Result<GuestFrame, Error> {
        self.extent(guest, 0, Level::Page).map(Extent::start)
    }

    /// Pages that count towards the target.
    pub(crate) const fn memory_pages(&self) -> u64 {
        self.populated + self.cache.pages() + self.reserve.pages()
    }

    /// The most pages of memory that it may have.
    pub(crate) const fn memory_quota(&self) -> u64 {
        match self.limit {
            Limit::Target => self.target,
            Limit::Maximum => self.maximum,
        }
    }

    /// Check that `request` pages of memory more are within the quota.
    pub(crate) const fn check_quota(&self, request: u64) -> Result<(), Error> {
        within(self.memory_pages(), request, self.memory_quota())
    }

    /// Check that `request` pages more may be at guest frames or promised to be.
    pub(crate) const fn check_maximum(&self, request: u64) -> Result<(), Error> {
        let (pages, maximum) = (self.populated + self.on_demand, self.maximum);
        match within(pages, request, maximum) {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::MaximumExceeded { pages, request, maximum }),
        }
    }

    /// Check that one page more of the grant table is within the quota.
    pub(crate) const fn check_extra(&self, request: u64) -> Result<(), Error> {
        within(self.grants.pages(), request, self.extra)
    }

    /// What is at a guest frame, for somebody who needs a page of the domain's own there: its
    /// frame, and the order of its mapping. `None` if it gets one when it is used.
    pub(crate) fn own_page(
        &self,
        backing: &mut B,
        guest: GuestFrame,
    ) -> Result<Option<(heliox_types::Frame, Order)>, Error> {
        match self.kinds.get(guest).0 {
            Kind::OnDemand => Ok(None),
            Kind::GrantTable => Err(Error::GrantTablePage { guest }),
            Kind::Foreign => Err(Error::ForeignPage { guest }),
            Kind::Ordinary => match backing.translate(self.id, guest) {
                Translation::Nothing { .. } => Err(Error::NotPopulated { guest }),
                Translation::Memory { frame, order } => Ok(Some((frame, order))),
            },
        }
    }

    /// Check that nothing is at the frames of an extent, nor promised to be. It takes at most as
    /// many steps as the extent has tables' worth of frames and a table has entries: where a block
    /// is not empty as a whole, what is in it is found within a table's worth.
    pub(crate) fn check_vacant(&self, backing: &mut B, extent: Extent) -> Result<(), Error> {
        let mut next = Some(extent.start());
        while let Some(guest) = next.filter(|guest| extent.contains(*guest)) {
            let (kind, same) = self.kinds.get(guest);
            let Translation::Nothing { order: empty } = backing.translate(self.id, guest) else {
                return Err(Error::Occupied { guest });
            };
            if kind != Kind::Ordinary {
                return Err(Error::Occupied { guest });
            }
            next = GuestFrame::new(Extent::around(guest, same.min(empty)).end());
        }
        Ok(())
    }

    /// What can be seen of it.
    pub(crate) fn summary(&self) -> Summary {
        Summary {
            phase: self.phase,
            populated: self.populated,
            on_demand: self.on_demand,
            cache: self.cache.pages(),
            reserve: self.reserve.pages(),
            table: self.grants.pages(),
            target: self.target,
            maximum: self.maximum,
            quota: self.memory_quota() + self.extra,
            granted_uses: self.grants.uses(),
            handles: self.handles.used(),
            measurement: self.measurement,
        }
    }
}

/// Check that `request` more than `pages` are at most `quota`.
const fn within(pages: u64, request: u64, quota: u64) -> Result<(), Error> {
    match pages.checked_add(request) {
        Some(sum) if sum <= quota => Ok(()),
        _ => Err(Error::QuotaExceeded { pages, request, quota }),
    }
}
