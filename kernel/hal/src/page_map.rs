//! Page maps: trees of tables that translate an address space, and the pages they are made of.
//!
//! The handles are moved, never copied: a [`PageMap`] exists exactly as long as its root has
//! the status of a root (H1), a [`PageMapPage`] exactly as long as its page is supplied for page
//! maps and in none. What the thesis checks at each use cannot be written here.
//!
//! Invariants: T2 (a root's kernel half is the reference root's), T3 (a page-map page is clear
//! and open), L2 (a processor translates with a root or the reference root). A page map that
//! a context uses, or another processor translates with, is not freed.

use core::marker::PhantomData;

use heliox_address::Frame;

use crate::cpu::CurrentCpu;
use crate::domain::{Owner, OwnerCode};
use crate::entry::{Entry, Host, RootKind};
use crate::error::Error;
use crate::geometry::{Geometry, Level, MAX_LEVELS};
use crate::machine::{Machine, WindowEntry};
use crate::mapping;
use crate::page::{PageRecord, Status};
use crate::region::PhysicalRegion;
use crate::state::{State, Storage};

/// A page that was supplied for page maps: clear, and not usable for anything else.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is used or released"]
pub struct PageMapPage {
    frame: Frame,
}

impl PageMapPage {
    /// T3: the caller has made the page clear, open, and of status `PageMapPage`.
    pub(crate) const fn new(frame: Frame) -> Self {
        Self { frame }
    }

    /// Which page it is.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for PageMapPage {
    fn duplicate(&self) -> Self {
        Self { frame: self.frame }
    }
}

/// Number of pages that a [`TableSupply`] holds: a mapping needs at most one table of each
/// level below the root.
pub const SUPPLY_LIMIT: usize = MAX_LEVELS - 1;

/// A few page-map pages for an operation that may need tables. What it does not need stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableSupply {
    pages: [Option<PageMapPage>; SUPPLY_LIMIT],
    count: usize,
}

impl TableSupply {
    /// No pages.
    pub const EMPTY: Self = Self {
        pages: [const { None }; SUPPLY_LIMIT],
        count: 0,
    };

    /// Number of pages.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Adds a page.
    ///
    /// # Errors
    ///
    /// The page, if [`SUPPLY_LIMIT`] pages are there already.
    pub fn add(&mut self, page: PageMapPage) -> Result<(), PageMapPage> {
        match self.pages.get_mut(self.count) {
            Some(slot) => {
                *slot = Some(page);
                self.count += 1;
                Ok(())
            }
            None => Err(page),
        }
    }

    /// Takes a page out, if there is one.
    pub fn take(&mut self) -> Option<PageMapPage> {
        let last = self.count.checked_sub(1)?;
        self.count = last;
        self.pages.get_mut(last)?.take()
    }

    /// Whether `needed` pages can be taken out.
    #[inline]
    pub(crate) const fn check(&self, needed: usize) -> Result<(), Error> {
        if needed <= self.count {
            Ok(())
        } else {
            let supplied = self.count;
            Err(Error::TablesNeeded { needed, supplied })
        }
    }
}

/// An address space: the mappings below one root.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page map is lost unless it is freed"]
pub struct PageMap<K = Host> {
    root: Frame,
    /// The owner of the root page, which does not change while it is a root.
    owner: OwnerCode,
    recent: Recent,
    kind: PhantomData<fn() -> K>,
}

/// The level-1 table that was used last, so that what happens to a page next to it needs no walk.
///
/// Invariant T4: it is the level-1 table of this page map for that part of the address space.
/// Whoever takes tables out of the page map forgets it; only who holds the page map exclusively
/// can do either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recent {
    /// The addresses' bits above those that the table translates; no address has [`Recent::NONE`].
    part: u64,
    table: Frame,
}

impl Recent {
    const NONE: Self = Self {
        part: u64::MAX,
        table: Frame::ZERO,
    };
}

impl<K> PageMap<K> {
    /// The root's frame.
    #[must_use]
    #[inline]
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// Whose memory can be mapped without a share.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner.owner().unwrap_or(Owner::Hypervisor)
    }

    #[inline]
    pub(crate) const fn owner_code(&self) -> OwnerCode {
        self.owner
    }

    /// Number of the part of the address space that a level-1 table translates.
    #[inline(always)]
    const fn part<G: Geometry>(address: u64) -> u64 {
        address >> (Level::FIRST.bits::<G>() + G::INDEX_BITS)
    }

    /// The level-1 table that translates `address`, if it is the one that was used last.
    #[inline(always)]
    pub(crate) const fn recent_table<G: Geometry>(&self, address: u64) -> Option<Frame> {
        if self.recent.part == Self::part::<G>(address) {
            Some(self.recent.table)
        } else {
            None
        }
    }

    /// Notes the level-1 table that translates `address` (T4).
    #[inline(always)]
    pub(crate) const fn set_recent_table<G: Geometry>(&mut self, address: u64, table: Frame) {
        self.recent = Recent {
            part: Self::part::<G>(address),
            table,
        };
    }

    /// Forgets the table that was used last, since tables were taken out (T4).
    #[inline]
    pub(crate) const fn forget_recent_table(&mut self) {
        self.recent = Recent::NONE;
    }
}

#[cfg(any(test, feature = "simulated"))]
impl<K> crate::audit::Duplicate for PageMap<K> {
    fn duplicate(&self) -> Self {
        Self {
            root: self.root,
            owner: self.owner,
            // What is remembered changes no result, only the way to it.
            recent: Recent::NONE,
            kind: PhantomData,
        }
    }
}

/// A context's use of a page map. The page map cannot be freed as long as it exists.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page map can never be freed unless the use is ended"]
pub struct PageMapUse<K = Host> {
    root: Frame,
    kind: PhantomData<fn() -> K>,
}

impl<K> PageMapUse<K> {
    /// The root's frame.
    #[must_use]
    #[inline]
    pub const fn root(&self) -> Frame {
        self.root
    }
}

#[cfg(any(test, feature = "simulated"))]
impl<K> crate::audit::Duplicate for PageMapUse<K> {
    fn duplicate(&self) -> Self {
        Self {
            root: self.root,
            kind: PhantomData,
        }
    }
}

/// A page map that is being freed, table by table.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the tables are lost unless freeing goes on"]
pub struct DyingPageMap<K = Host> {
    root: Frame,
    /// Everything below this address is gone.
    next: u64,
    kind: PhantomData<fn() -> K>,
}

impl<K> DyingPageMap<K> {
    /// The root's frame.
    #[must_use]
    pub const fn root(&self) -> Frame {
        self.root
    }
}

#[cfg(any(test, feature = "simulated"))]
impl<K> crate::audit::Duplicate for DyingPageMap<K> {
    fn duplicate(&self) -> Self {
        Self {
            root: self.root,
            next: self.next,
            kind: PhantomData,
        }
    }
}

/// What a step of freeing a page map gave.
#[derive(Debug, PartialEq, Eq)]
pub enum FreeStep<K = Host> {
    /// Some mappings are gone, and these tables with them; there is more.
    More {
        /// Freed tables, possibly none.
        tables: TableSupply,
        /// What is left.
        rest: DyingPageMap<K>,
    },
    /// All is gone; this was the root.
    Done(PageMapPage),
}

// --- Page-map pages ---

/// Turns a free page into a page-map page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CreatePage {
    frame: Frame,
    status: Status,
}

impl CreatePage {
    pub(crate) fn decide<G: Geometry, S: Storage>(
        state: &State<G, S>,
        region: PhysicalRegion,
        status: Status,
    ) -> Result<Self, Error> {
        let region = region.ram()?;
        if region.pages() != 1 {
            let bits = region.bits();
            return Err(Error::NotOnePage { bits });
        }
        let frame = region.first_frame();
        state.check_free(frame)?;
        Ok(Self { frame, status })
    }

    pub(crate) fn apply<M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
    ) -> Frame {
        // W1: a page that is free is not open.
        machine.open_window(self.frame, WindowEntry::PRIVATE);
        machine.clear_frame(self.frame);
        state.set_status(self.frame, self.status);
        self.frame
    }
}

/// Gives a page back that is private to this layer and clear. W1, P3: only this layer's own
/// translations of it exist, in the window, which always lead to the same frame.
pub(crate) fn release_page<M: Machine, S: Storage>(
    state: &mut State<M::Geometry, S>,
    machine: &mut M,
    cpu: CurrentCpu,
    frame: Frame,
) -> PhysicalRegion {
    machine.close_window(frame);
    machine.invalidate_page(cpu, machine.window_address(frame));
    state.set_status(frame, Status::Normal);
    PhysicalRegion::page(frame)
}

// --- Page maps ---

/// Makes a page-map page the root of an empty page map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocate {
    root: Frame,
    owner: OwnerCode,
}

impl Allocate {
    pub(crate) fn decide<G: Geometry, S: Storage>(
        state: &State<G, S>,
        page: &PageMapPage,
    ) -> Result<Self, Error> {
        let root = page.frame;
        let owner = state.owner(root);
        match owner {
            Owner::Domain(_) => Ok(Self {
                root,
                owner: OwnerCode::new(owner),
            }),
            Owner::Hypervisor | Owner::Nobody => Err(Error::NotOwner {
                frame: root,
                owner: Some(owner),
            }),
        }
    }

    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
    ) -> PageMap<K> {
        state.set_status(self.root, Status::PageMapRoot);
        if K::HAS_KERNEL_HALF {
            // T2: the reference root's entries never change, so that a copy stays right.
            let reference = machine.reference_root();
            for index in M::Geometry::USER_ENTRIES..M::Geometry::ENTRIES {
                let entry = machine.read_entry(reference, index);
                machine.write_entry(self.root, index, entry);
            }
        }
        PageMap {
            root: self.root,
            owner: self.owner,
            recent: Recent::NONE,
            kind: PhantomData,
        }
    }
}

/// Adds a use.
pub(crate) fn attach<K, G: Geometry, S: Storage>(
    state: &mut State<G, S>,
    map: &PageMap<K>,
) -> Result<PageMapUse<K>, Error> {
    if uses(state, map.root) == PageRecord::COUNT_LIMIT {
        return Err(Error::TooManyUses);
    }
    state.add_count(map.root, 1);
    Ok(PageMapUse {
        root: map.root,
        kind: PhantomData,
    })
}

/// Ends a use.
pub(crate) fn detach<K, G: Geometry, S: Storage>(state: &mut State<G, S>, held: PageMapUse<K>) {
    state.take_count(held.root, 1);
}

fn uses<G: Geometry, S: Storage>(state: &State<G, S>, root: Frame) -> u32 {
    state.page(root).map_or(0, PageRecord::count)
}

/// Takes a page map out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Free {
    root: Frame,
}

impl Free {
    pub(crate) fn decide<K, G: Geometry, S: Storage>(
        state: &State<G, S>,
        cpu: CurrentCpu,
        map: &PageMap<K>,
    ) -> Result<Self, Error> {
        let uses = uses(state, map.root);
        if uses > 0 {
            return Err(Error::PageMapUsed { uses });
        }
        if let Some(cpu) = state.loaded_elsewhere(cpu.index(), map.root) {
            return Err(Error::PageMapLoaded { cpu });
        }
        Ok(Self { root: map.root })
    }

    pub(crate) fn apply<K, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
    ) -> DyingPageMap<K> {
        if state.is_loaded_on(cpu.index(), self.root) {
            let reference = machine.reference_root();
            state.load(machine, cpu, reference);
        }
        // L1: no processor translates with the root any more, and each that did has dropped what
        // it had cached when it loaded another.
        DyingPageMap {
            root: self.root,
            next: 0,
            kind: PhantomData,
        }
    }
}

/// Frees what hangs from one table, or finally the root.
pub(crate) fn free_step<K: RootKind, M: Machine, S: Storage>(
    state: &mut State<M::Geometry, S>,
    machine: &mut M,
    dying: DyingPageMap<K>,
) -> FreeStep<K> {
    let end = mapping::limit::<K, M::Geometry>();
    let mut tables = TableSupply::EMPTY;
    if dying.next < end {
        let next = mapping::Clear::decide::<K, M>(machine, dying.root, dying.next, end)
            .apply::<K, M, S>(state, machine, dying.root, &mut tables);
        return FreeStep::More {
            tables,
            rest: DyingPageMap { next, ..dying },
        };
    }
    if K::HAS_KERNEL_HALF {
        for index in M::Geometry::USER_ENTRIES..M::Geometry::ENTRIES {
            machine.exchange_entry(dying.root, index, Entry::ABSENT);
        }
    }
    state.set_status(dying.root, Status::PageMapPage);
    FreeStep::Done(PageMapPage::new(dying.root))
}

/// The level of root tables.
pub(crate) const fn root_level<G: Geometry>() -> Level {
    Level::root::<G>()
}
