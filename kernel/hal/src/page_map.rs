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

use heliox_types::Frame;

use crate::cpu::{CpuIndex, CurrentCpu};
use crate::domain::{Owner, OwnerCode};
use crate::entry::{Entry, Host, RootKind};
use crate::error::{Error, Refused};
use crate::geometry::{Geometry, Level, MAX_LEVELS};
use crate::machine::{Machine, WindowEntry};
use crate::mapping::{self, Plan};
use crate::memory::Memory;
use crate::page::{PageRecord, Status};
use crate::region::PhysicalRegion;
use crate::state::Storage;
use crate::translation::{DrainingPage, Invalidation};

/// Address spaces (thesis section 4.4.1).
pub trait Paging {
    /// Turns a free page into one that page maps can be made of, and clears it.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::NotOnePage`], [`Error::WrongStatus`], [`Error::InUse`],
    /// [`Error::Draining`].
    fn create_page_map_page(&mut self, region: PhysicalRegion) -> Result<PageMapPage, Error>;

    /// Turns a page-map page that is in no page map into a free page, which is clear.
    fn release_page_map_page(&mut self, cpu: CurrentCpu, page: PageMapPage) -> PhysicalRegion;

    /// Makes an empty page map, which belongs to the owner of the page.
    ///
    /// # Errors
    ///
    /// [`Error::NotOwner`] if the page is nobody's.
    fn allocate_page_map<K: RootKind>(
        &mut self,
        page: PageMapPage,
    ) -> Result<PageMap<K>, Refused<PageMapPage>>;

    /// Takes a page map out of use, so that it can be freed by [`Paging::free_step`]. If this
    /// processor translates with it, it goes over to the reference root.
    ///
    /// # Errors
    ///
    /// [`Error::PageMapUsed`], [`Error::PageMapLoaded`].
    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<DyingPageMap<K>, Refused<PageMap<K>>>;

    /// Frees one table's worth of a page map.
    fn free_step<K: RootKind>(&mut self, dying: DyingPageMap<K>) -> FreeStep<K>;

    /// Makes a context use a page map.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyUses`].
    fn attach<K: RootKind>(&mut self, map: &PageMap<K>) -> Result<PageMapUse<K>, Error>;

    /// Ends a context's use.
    fn detach<K: RootKind>(&mut self, held: PageMapUse<K>);

    /// Makes this processor translate with the page map of a context.
    fn load(&mut self, cpu: CurrentCpu, map: &PageMapUse<Host>);

    /// Makes this processor translate with the reference root, which maps nothing of programs'.
    fn load_reference(&mut self, cpu: CurrentCpu);

    /// Drops what this processor must no longer have cached. To be called at each entry into
    /// the kernel.
    fn enter(&mut self, cpu: CurrentCpu);

    /// Whether every processor has dropped what was removed.
    fn is_complete(&self, invalidation: Invalidation) -> bool;

    /// The processors that must enter the kernel before all invalidations are complete.
    fn owing_cpus(&self) -> impl Iterator<Item = CpuIndex>;

    /// Gives a freed table back as a page-map page.
    ///
    /// # Errors
    ///
    /// [`Error::Draining`] as long as a processor may still walk through it.
    fn reclaim(&mut self, page: DrainingPage) -> Result<PageMapPage, Refused<DrainingPage>>;
}

/// A page that was supplied for page maps: clear, and not usable for anything else.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is used or released"]
pub struct PageMapPage {
    frame: Frame,
}

impl PageMapPage {
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
    pub const EMPTY: Self = Self { pages: [const { None }; SUPPLY_LIMIT], count: 0 };

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
    const NONE: Self = Self { part: u64::MAX, table: Frame::ZERO };
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
        if self.recent.part == Self::part::<G>(address) { Some(self.recent.table) } else { None }
    }

    /// Notes the level-1 table that translates `address` (T4).
    #[inline(always)]
    pub(crate) const fn set_recent_table<G: Geometry>(&mut self, address: u64, table: Frame) {
        self.recent = Recent { part: Self::part::<G>(address), table };
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
        Self { root: self.root, kind: PhantomData }
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
        Self { root: self.root, next: self.next, kind: PhantomData }
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

/// The frame and its private page of this layer: an I/O permission map, a save area, a control
/// block of a virtual processor.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is released"]
pub struct MachinePage {
    frame: Frame,
}

impl MachinePage {
    /// Which page it is.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for MachinePage {
    fn duplicate(&self) -> Self {
        Self { frame: self.frame }
    }
}

impl<M: Machine, S: Storage> Memory<'_, M, S> {
    /// Takes a free page for a private structure of this layer, clear and open.
    ///
    /// # Errors
    ///
    /// As [`Paging::create_page_map_page`].
    pub fn create_machine_page(&mut self, region: PhysicalRegion) -> Result<MachinePage, Error> {
        let frame = self.decide_create(region)?;
        self.apply_create(frame, Status::Machine);
        Ok(MachinePage { frame })
    }

    /// Clears a private page of this layer and gives it back. The processor does not use it any
    /// more, or the handle would be part of what it uses.
    pub fn release_machine_page(&mut self, cpu: CurrentCpu, page: MachinePage) -> PhysicalRegion {
        self.machine.clear_frame(page.frame);
        self.release_page(cpu, page.frame)
    }

    /// Whether the page of `region` can become private to this layer; which it is.
    fn decide_create(&self, region: PhysicalRegion) -> Result<Frame, Error> {
        let region = region.ram()?;
        if region.pages() != 1 {
            let bits = region.bits();
            return Err(Error::NotOnePage { bits });
        }
        self.state.check_free(region.first_frame())?;
        Ok(region.first_frame())
    }

    fn apply_create(&mut self, frame: Frame, status: Status) {
        // W1: a page that is free is not open.
        self.machine.open_window(frame, WindowEntry::PRIVATE);
        self.machine.clear_frame(frame);
        self.state.set_status(frame, status);
    }

    /// Gives a page back that is private to this layer and clear. W1, P3: only this layer's own
    /// translations of it exist, in the window, which always lead to the same frame.
    fn release_page(&mut self, cpu: CurrentCpu, frame: Frame) -> PhysicalRegion {
        self.machine.close_window(frame);
        let address = self.machine.window_address(frame);
        self.machine.invalidate_page(cpu, address);
        self.state.set_status(frame, Status::Normal);
        PhysicalRegion::page(frame)
    }

    /// Whether a page map can go out of use.
    fn decide_free<K>(&self, cpu: CurrentCpu, map: &PageMap<K>) -> Result<(), Error> {
        let uses = self.state.count(map.root);
        if uses > 0 {
            return Err(Error::PageMapUsed { uses });
        }
        match self.state.loaded_elsewhere(cpu.index(), map.root) {
            Some(cpu) => Err(Error::PageMapLoaded { cpu }),
            None => Ok(()),
        }
    }
}

impl<M: Machine, S: Storage> Paging for Memory<'_, M, S> {
    fn create_page_map_page(&mut self, region: PhysicalRegion) -> Result<PageMapPage, Error> {
        let frame = self.decide_create(region)?;
        self.apply_create(frame, Status::PageMapPage);
        Ok(PageMapPage { frame })
    }

    fn release_page_map_page(&mut self, cpu: CurrentCpu, page: PageMapPage) -> PhysicalRegion {
        self.release_page(cpu, page.frame)
    }

    fn allocate_page_map<K: RootKind>(
        &mut self,
        page: PageMapPage,
    ) -> Result<PageMap<K>, Refused<PageMapPage>> {
        let root = page.frame;
        let owner = self.state.owner(root);
        if !matches!(owner, Owner::Domain(_)) {
            return Err(Refused {
                handle: page,
                error: Error::NotOwner { frame: root, owner: Some(owner) },
            });
        }
        self.state.set_status(root, Status::PageMapRoot);
        if K::HAS_KERNEL_HALF {
            // T2: the reference root's entries never change, so that a copy stays right.
            let reference = self.machine.reference_root();
            for index in M::Geometry::USER_ENTRIES..M::Geometry::ENTRIES {
                let entry = self.machine.read_entry(reference, index);
                self.machine.write_entry(root, index, entry);
            }
        }
        Ok(PageMap { root, owner: OwnerCode::new(owner), recent: Recent::NONE, kind: PhantomData })
    }

    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<DyingPageMap<K>, Refused<PageMap<K>>> {
        if let Err(error) = self.decide_free(cpu, &map) {
            return Err(Refused { handle: map, error });
        }
        if self.state.is_loaded_on(cpu.index(), map.root) {
            self.load_reference(cpu);
        }
        // L1: no processor translates with the root any more, and each that did has dropped what
        // it had cached when it loaded another.
        Ok(DyingPageMap { root: map.root, next: 0, kind: PhantomData })
    }

    fn free_step<K: RootKind>(&mut self, dying: DyingPageMap<K>) -> FreeStep<K> {
        let end = mapping::limit::<K, M::Geometry>();
        let root = dying.root;
        if dying.next < end {
            let mut tables = TableSupply::EMPTY;
            let bounds = (dying.next, end);
            // All of the programs' part is in the range, so that nothing must be split.
            let next = match self.decide_remove::<K>(root, bounds, &tables) {
                Ok(Plan::Nothing(next)) => next,
                Ok(Plan::Entries(run)) => {
                    self.clear_run::<K>(
                        root,
                        run,
                        None,
                        |_, _| {},
                        |memory, table| {
                            // T3: its last entry is gone, and it was open all the time.
                            memory.state.set_status(table, Status::PageMapPage);
                            // There is room: at most one table of each level becomes empty.
                            let _ = tables.add(PageMapPage { frame: table });
                        },
                    );
                    run.end::<M::Geometry>()
                }
                Ok(Plan::Split(_)) | Err(_) => end,
            };
            let rest = DyingPageMap { next, ..dying };
            return FreeStep::More { tables, rest };
        }
        if K::HAS_KERNEL_HALF {
            for index in M::Geometry::USER_ENTRIES..M::Geometry::ENTRIES {
                self.machine.exchange_entry(root, index, Entry::ABSENT);
            }
        }
        self.state.set_status(root, Status::PageMapPage);
        FreeStep::Done(PageMapPage { frame: root })
    }

    fn attach<K: RootKind>(&mut self, map: &PageMap<K>) -> Result<PageMapUse<K>, Error> {
        if self.state.count(map.root) == PageRecord::COUNT_LIMIT {
            return Err(Error::TooManyUses);
        }
        self.state.add_count(map.root, 1);
        Ok(PageMapUse { root: map.root, kind: PhantomData })
    }

    fn detach<K: RootKind>(&mut self, held: PageMapUse<K>) {
        self.state.take_count(held.root, 1);
    }

    #[inline]
    fn load(&mut self, cpu: CurrentCpu, map: &PageMapUse<Host>) {
        self.state.load(&mut self.machine, cpu, map.root);
    }

    fn load_reference(&mut self, cpu: CurrentCpu) {
        let root = self.machine.reference_root();
        self.state.load(&mut self.machine, cpu, root);
    }

    #[inline]
    fn enter(&mut self, cpu: CurrentCpu) {
        self.state.settle(&mut self.machine, cpu);
    }

    fn is_complete(&self, invalidation: Invalidation) -> bool {
        self.state.is_complete(invalidation)
    }

    fn owing_cpus(&self) -> impl Iterator<Item = CpuIndex> {
        self.state.owing_cpus()
    }

    fn reclaim(&mut self, page: DrainingPage) -> Result<PageMapPage, Refused<DrainingPage>> {
        let frame = page.frame();
        if !self.state.is_complete(page.invalidation()) {
            return Err(Refused { handle: page, error: Error::Draining { frame } });
        }
        // T3: it is clear since its last entry went.
        self.state.set_status(frame, Status::PageMapPage);
        Ok(PageMapPage { frame })
    }
}
