//! Page maps: trees of tables that translate an address space, and the pages they are made of.
//!
//! The handles are moved, never copied: a [`PageMap`] exists exactly as long as its root has
//! the status of a root (H1), a [`PageMapPage`] exactly as long as its page is supplied for page
//! maps and in none. What the thesis checks at each use cannot be written here.
//!
//! Invariants: T2 (a root's kernel half is the reference root's), T3 (a page-map page is clear
//! and open), L2 (a processor translates with a root or the reference root). A page map that maps
//! something, that a context uses, or that another processor translates with, is not freed.

use core::marker::PhantomData;

use crate::prelude::*;
pub use heliox_types::few::SUPPLY_LIMIT;

/// Address spaces (thesis section 4.4.1).
pub trait Paging {
    /// Turns a free page into one that page maps can be made of, and clears it.
    ///
    /// # Errors
    ///
    /// [`Error::NotRam`], [`Error::TooLong`], [`Error::WrongStatus`], [`Error::InUse`],
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

    /// Frees a page map that maps nothing; what is left is its root. If this processor translates
    /// with it, it goes over to the reference root.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`], [`Error::PageMapUsed`], [`Error::PageMapLoaded`].
    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<PageMapPage, Refused<PageMap<K>>>;

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
    pub(crate) frame: Frame,
}

impl PageMapPage {
    /// Which page it is.
    pub const fn frame(&self) -> Frame {
        self.frame
    }
}

/// A few page-map pages for an operation that may need tables. What it does not need stays.
pub type TableSupply = Few<PageMapPage>;

/// Whether `needed` pages can be taken out.
pub(crate) fn check_supply(supply: &TableSupply, needed: usize) -> Result<(), Error> {
    let supplied = supply.count();
    if needed <= supplied { Ok(()) } else { Err(Error::TablesNeeded { needed, supplied }) }
}

/// An address space: the mappings below one root.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page map is lost unless it is freed"]
pub struct PageMap<K = Host> {
    pub(crate) root: Frame,
    /// The owner of the root page, which does not change while it is a root.
    pub(crate) owner: OwnerCode,
    /// The number of a part of the address space, and the level-1 table that translates it: that
    /// which was used last (T4).
    pub(crate) recent: (u64, Frame),
    pub(crate) kind: PhantomData<fn() -> K>,
}

impl<K> PageMap<K> {
    /// No part has this number.
    pub(crate) const NO_RECENT: (u64, Frame) = (u64::MAX, Frame::ZERO);

    /// The root's frame.
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// Whose memory can be mapped without a share.
    pub fn owner(&self) -> Owner {
        self.owner.owner().unwrap_or(Owner::Hypervisor)
    }
}

/// A context's use of a page map. The page map cannot be freed as long as it exists.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page map can never be freed unless the use is ended"]
pub struct PageMapUse<K = Host> {
    pub(crate) root: Frame,
    pub(crate) kind: PhantomData<fn() -> K>,
}

impl<K> PageMapUse<K> {
    /// The root's frame.
    pub const fn root(&self) -> Frame {
        self.root
    }
}

impl<M: Machine> Memory<M> {
    /// Whether a page map can go out of use.
    fn decide_free<K: RootKind>(&self, cpu: CpuIndex, root: Frame) -> Result<(), Error> {
        let count = self.state.page(root).count();
        if count > 0 {
            // Entries and uses.
            let entries =
                (0..K::entries::<M::Geometry>()).map(|at| self.machine.read_entry(root.word(at)));
            let entries = entries.filter(|entry| K::is_present(*entry)).count() as u32;
            return Err(match entries {
                0 => Error::PageMapUsed { uses: count },
                _ => Error::NotEmpty { entries },
            });
        }
        let elsewhere = self.state.loaded_elsewhere(cpu, root);
        elsewhere.map_or(Ok(()), |cpu| Err(Error::PageMapLoaded { cpu }))
    }
}

impl<M: Machine> Paging for Memory<M> {
    fn create_page_map_page(&mut self, region: PhysicalRegion) -> Result<PageMapPage, Error> {
        let frame = region.ram(1)?.first_frame();
        self.state.check_free(frame)?;
        // W1: a page that is free is not open.
        self.machine.open_window(frame, WindowEntry::PRIVATE);
        self.machine.fill_bytes(frame.address(), PAGE_BYTES as usize, 0);
        self.state.set_status(frame, Status::PageMapPage);
        Ok(PageMapPage { frame })
    }

    fn release_page_map_page(&mut self, cpu: CurrentCpu, page: PageMapPage) -> PhysicalRegion {
        // W1, W2: only translations of it in the window exist, which lead to the same frame always.
        self.machine.close_window(cpu, page.frame);
        self.state.set_status(page.frame, Status::Normal);
        PhysicalRegion::page(page.frame)
    }

    fn allocate_page_map<K: RootKind>(
        &mut self,
        page: PageMapPage,
    ) -> Result<PageMap<K>, Refused<PageMapPage>> {
        let (root, owner) = (page.frame, self.state.owner(page.frame));
        if !matches!(owner, Owner::Domain(_)) {
            let error = Error::NotOwner { frame: root, owner: Some(owner) };
            return Err(Refused { handle: page, error });
        }
        self.state.set_status(root, Status::PageMapRoot);
        // T2: the reference root's entries never change, so that a copy stays right.
        for index in K::entries::<M::Geometry>()..M::Geometry::ENTRIES {
            let entry = self.machine.read_entry(self.machine.reference_root().word(index));
            self.machine.write_entry(root.word(index), entry);
        }
        Ok(PageMap {
            root,
            owner: OwnerCode::new(owner),
            recent: PageMap::<K>::NO_RECENT,
            kind: PhantomData,
        })
    }

    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<PageMapPage, Refused<PageMap<K>>> {
        if let Err(error) = self.decide_free::<K>(cpu.index(), map.root) {
            return Err(Refused { handle: map, error });
        }
        let reference = self.machine.reference_root();
        if self.state.cpu(cpu.index()).is_some_and(|record| record.loaded == map.root) {
            self.load_root(cpu, reference);
        }
        // L1: no processor translates with the root any more, and each that did has dropped what
        // it had cached when it loaded another. T3: the programs' part is empty.
        for index in K::entries::<M::Geometry>()..M::Geometry::ENTRIES {
            self.machine.exchange_entry(map.root.word(index), Entry::ABSENT);
        }
        self.state.set_status(map.root, Status::PageMapPage);
        Ok(PageMapPage { frame: map.root })
    }

    fn attach<K: RootKind>(&mut self, map: &PageMap<K>) -> Result<PageMapUse<K>, Error> {
        // Room for all entries is kept free.
        let limit = Record::COUNT_LIMIT - M::Geometry::ENTRIES as u32;
        if self.state.page(map.root).count() >= limit {
            return Err(Error::TooManyUses);
        }
        self.state.add_count(Level::FIRST, map.root);
        Ok(PageMapUse { root: map.root, kind: PhantomData })
    }

    fn detach<K: RootKind>(&mut self, held: PageMapUse<K>) {
        self.state.take_count(Level::FIRST, held.root);
    }

    fn load(&mut self, cpu: CurrentCpu, map: &PageMapUse<Host>) {
        self.load_root(cpu, map.root);
    }

    fn load_reference(&mut self, cpu: CurrentCpu) {
        self.load_root(cpu, self.machine.reference_root());
    }

    fn enter(&mut self, cpu: CurrentCpu) {
        // No debt without an event: with one processor this is all.
        if self.state.epoch > 0
            && let Some(record) = self.state.cpu(cpu.index())
            && record.owes != NEVER
        {
            record.owes = NEVER;
            self.machine.flush_all(cpu);
        }
    }

    fn is_complete(&self, invalidation: Invalidation) -> bool {
        self.state.oldest_debt() > invalidation.0
    }

    fn owing_cpus(&self) -> impl Iterator<Item = CpuIndex> {
        let owing = self.state.cpus.iter().enumerate().filter(|(_, cpu)| cpu.owes != NEVER);
        owing.filter_map(|(number, _)| CpuIndex::new(number))
    }

    fn reclaim(&mut self, page: DrainingPage) -> Result<PageMapPage, Refused<DrainingPage>> {
        let frame = page.frame;
        if !self.is_complete(page.since) {
            return Err(Refused { handle: page, error: Error::Draining { frame } });
        }
        // T3: it is clear since its last entry went.
        self.state.set_status(frame, Status::PageMapPage);
        Ok(PageMapPage { frame })
    }
}
