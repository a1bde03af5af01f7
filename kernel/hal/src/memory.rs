//! The memory of the machine, as clients see it: one trait per kind of effect, so that a
//! function's signature says what it may do, and [`Memory`], which has them all.
//!
//! Every operation decides first, by reading only, and then carries out what was decided, which
//! cannot fail. A refused operation changed nothing.

use heliox_address::{FrameRange, VirtualAddress};

use crate::cpu::{CpuIndex, CurrentCpu};
use crate::domain::{DomainId, Owner};
use crate::entry::{Host, RootKind};
use crate::error::{Error, Refused};
use crate::flexpage::{Flexpage, Virtual, VirtualRange};
use crate::kernel_mapping::{self, AddKernel, KernelMapping, KernelWord, MachinePage, Offset};
use crate::machine::Machine;
use crate::mapping::{
    self, Add, Added, Change, Entries, MappingInfo, Modified, Modify, Remove, Removed, Request,
    Target,
};
use crate::ownership::{Assign, Release};
use crate::page::Status;
use crate::page_map::{
    self, Allocate, CreatePage, DyingPageMap, Free, FreeStep, PageMap, PageMapPage, PageMapUse,
    TableSupply,
};
use crate::region::{PhysicalRegion, Regions};
use crate::rights::Rights;
use crate::share::{self, MakeShare, Share};
use crate::state::{Layout, State, Storage};
use crate::translation::{DrainingPage, Invalidation};

/// Finding memory.
pub trait PhysicalMemory {
    /// The free memory after the boot and the I/O regions, in largest regions; no module's.
    fn initial_regions(&self) -> Regions<'_>;

    /// The memory of boot module `number`, in largest regions, or `None` if there is none.
    fn module_regions(&self, number: usize) -> Option<Regions<'_>>;

    /// What the page at the start of `region` is.
    fn status(&self, region: PhysicalRegion) -> Status;

    /// Who owns the page at the start of `region`.
    fn owner(&self, region: PhysicalRegion) -> Owner;
}

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

/// Mappings of programs' memory (thesis section 4.4.2).
pub trait UserMemory {
    /// Maps `region` at `to`, with the largest pages that the machine has. As many page-map
    /// pages as tables are missing are taken out of `supply`.
    ///
    /// Memory of an owner other than the page map's takes a `share`.
    ///
    /// A range that needs more than one table's worth of entries is mapped in steps: see
    /// [`Added::done`].
    ///
    /// # Errors
    ///
    /// [`Error::SizesDiffer`], [`Error::NotUser`], [`Error::WrongStatus`],
    /// [`Error::NotAllNormal`], [`Error::NotOwner`], [`Error::TooManyReferences`],
    /// [`Error::OutsideShare`], [`Error::NotGrantee`], [`Error::BeyondShare`],
    /// [`Error::AlreadyMapped`], [`Error::TablesNeeded`].
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error>;

    /// Goes on with a mapping of which `done` pages are mapped already.
    ///
    /// # Errors
    ///
    /// As [`UserMemory::add_mapping`], and [`Error::BadResume`].
    #[expect(
        clippy::too_many_arguments,
        reason = "those of `add_mapping` and one more"
    )]
    fn resume_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
        done: u64,
    ) -> Result<Added, Error>;

    /// Changes mappings of `range`, all of which must be mapped. Each mapping is told to `each`
    /// as it was before.
    ///
    /// A page that is only partly in the range is split first; a step that does so changes
    /// nothing else. The pages of one table are changed or refused together; see
    /// [`Modified::rest`].
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`], [`Error::Upgrade`], [`Error::TablesNeeded`] and
    /// [`Error::TooManyReferences`] when a page must be split.
    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        change: Change,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Modified, Error>;

    /// Removes whatever is mapped in `range`; holes do no harm. Each mapping is told to `each`
    /// as it was.
    ///
    /// A page that is only partly in the range is split first; a step that does so removes
    /// nothing else. See [`Removed::rest`].
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`]; [`Error::TablesNeeded`] and [`Error::TooManyReferences`] when a page
    /// must be split.
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Removed, Error>;

    /// The mapping of the page that `address` lies in, if there is one.
    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        address: VirtualAddress,
    ) -> Option<MappingInfo>;
}

/// Memory that the kernel reads and writes (thesis section 4.4.3).
pub trait KernelMemory {
    /// Maps `region` for the kernel in every address space, and for programs too if
    /// `user_visible`. At most as many pages as a table has entries.
    ///
    /// Memory that is not domain 0's takes a `share` with the hypervisor.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`], [`Error::NoWindow`], [`Error::WrongStatus`], [`Error::NotOwner`],
    /// [`Error::TooManyReferences`], [`Error::Draining`], [`Error::WindowTaken`],
    /// [`Error::OutsideShare`], [`Error::NotGrantee`], [`Error::BeyondShare`].
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error>;

    /// Removes a kernel mapping and returns the memory that it mapped.
    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation);

    /// Reads a word of a mapping's first page.
    fn read_word_at(&self, mapping: &KernelMapping, offset: Offset) -> u64;

    /// Writes a word of a mapping's first page.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn write_word_at(
        &mut self,
        mapping: &KernelMapping,
        offset: Offset,
        value: u64,
    ) -> Result<(), Error>;

    /// Reads a word.
    fn read_word(&self, word: KernelWord<'_>) -> u64;

    /// Writes a word.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error>;

    /// Reads bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error>;

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error>;

    /// Copies `count` bytes from one place to another, each a mapping and an offset in bytes.
    /// Where they overlap, what arrives is unspecified.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error>;

    /// Writes `count` times the byte `value` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn fill(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        count: usize,
        value: u8,
    ) -> Result<(), Error>;

    /// Writes zero to all of a mapping.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn clear(&mut self, mapping: &KernelMapping) -> Result<(), Error>;
}

/// The state of all memory, and the machine that has it.
///
/// There is one on a machine. Handles are valid for the one that they came from.
#[derive(Clone, Debug)]
pub struct Memory<'layout, M: Machine, S: Storage> {
    pub(crate) machine: M,
    state: State<M::Geometry, S>,
    free: &'layout [FrameRange],
    modules: &'layout [FrameRange],
    io: &'layout [crate::region::IoRange],
}

impl<'layout, M: Machine, S: Storage> Memory<'layout, M, S> {
    /// Takes over the machine after the boot.
    ///
    /// The caller vouches that `layout` is the truth: no frame in `free`, `modules` or `io`
    /// serves the kernel (R1); and that every processor of the storage's records translates with
    /// the reference root.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    #[cfg_attr(
        not(any(test, feature = "simulated", target_os = "none")),
        expect(dead_code, reason = "called by the start code of a machine")
    )]
    pub(crate) fn new(machine: M, storage: S, layout: Layout<'layout>) -> Result<Self, Error> {
        let state = State::new(
            storage,
            &layout,
            machine.largest_leaf(),
            machine.reference_root(),
        )?;
        Ok(Self {
            machine,
            state,
            free: layout.free,
            modules: layout.modules,
            io: layout.io,
        })
    }

    /// Takes over a simulated machine.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    #[cfg(any(test, feature = "simulated"))]
    pub fn simulated(machine: M, storage: S, layout: Layout<'layout>) -> Result<Self, Error> {
        Self::new(machine, storage, layout)
    }

    /// The simulated machine.
    #[cfg(any(test, feature = "simulated"))]
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// The simulated machine, for what programs and devices do to it.
    #[cfg(any(test, feature = "simulated"))]
    pub const fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The state, for tests that pretend.
    #[cfg(test)]
    pub(crate) const fn state_mut(&mut self) -> &mut State<M::Geometry, S> {
        &mut self.state
    }

    /// The state that the checks decide on.
    #[must_use]
    pub const fn state(&self) -> &State<M::Geometry, S> {
        &self.state
    }

    /// Takes a free page for a private structure of this layer, clear and open.
    ///
    /// # Errors
    ///
    /// As [`Paging::create_page_map_page`].
    pub fn create_machine_page(&mut self, region: PhysicalRegion) -> Result<MachinePage, Error> {
        let plan = CreatePage::decide(&self.state, region, Status::Machine)?;
        Ok(MachinePage::new(
            plan.apply(&mut self.state, &mut self.machine),
        ))
    }

    /// Clears a private page of this layer and gives it back. The processor does not use it any
    /// more, or the handle would be part of what it uses.
    pub fn release_machine_page(&mut self, cpu: CurrentCpu, page: MachinePage) -> PhysicalRegion {
        self.machine.clear_frame(page.frame());
        page_map::release_page(&mut self.state, &mut self.machine, cpu, page.frame())
    }
}

impl<M: Machine, S: Storage> PhysicalMemory for Memory<'_, M, S> {
    fn initial_regions(&self) -> Regions<'_> {
        Regions::new(self.free, self.io)
    }

    fn module_regions(&self, number: usize) -> Option<Regions<'_>> {
        let module = self.modules.get(number)?;
        Some(Regions::new(core::slice::from_ref(module), &[]))
    }

    fn status(&self, region: PhysicalRegion) -> Status {
        self.state.status(region.first_frame())
    }

    fn owner(&self, region: PhysicalRegion) -> Owner {
        self.state.owner(region.first_frame())
    }
}

impl<M: Machine, S: Storage> Ownership for Memory<'_, M, S> {
    fn assign(&mut self, region: PhysicalRegion, to: DomainId) -> Result<(), Error> {
        Assign::decide(&self.state, region, to)?.apply(&mut self.state);
        Ok(())
    }

    fn release(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<(), Error> {
        let plan = Release::decide(&self.state, region, from)?;
        plan.apply(&mut self.state, &mut self.machine, cpu);
        Ok(())
    }

    fn share(
        &mut self,
        region: PhysicalRegion,
        owner: DomainId,
        grantee: Owner,
        rights: Rights,
    ) -> Result<Share, Error> {
        let plan = MakeShare::decide(&self.state, region, owner, grantee, rights)?;
        Ok(plan.apply(&mut self.state))
    }

    fn end_share(&mut self, share: Share) {
        share::end(&mut self.state, share);
    }
}

impl<M: Machine, S: Storage> Paging for Memory<'_, M, S> {
    fn create_page_map_page(&mut self, region: PhysicalRegion) -> Result<PageMapPage, Error> {
        let plan = CreatePage::decide(&self.state, region, Status::PageMapPage)?;
        Ok(PageMapPage::new(
            plan.apply(&mut self.state, &mut self.machine),
        ))
    }

    fn release_page_map_page(&mut self, cpu: CurrentCpu, page: PageMapPage) -> PhysicalRegion {
        page_map::release_page(&mut self.state, &mut self.machine, cpu, page.frame())
    }

    fn allocate_page_map<K: RootKind>(
        &mut self,
        page: PageMapPage,
    ) -> Result<PageMap<K>, Refused<PageMapPage>> {
        match Allocate::decide(&self.state, &page) {
            Ok(plan) => Ok(plan.apply(&mut self.state, &mut self.machine)),
            Err(error) => Err(Refused {
                handle: page,
                error,
            }),
        }
    }

    fn free_page_map<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: PageMap<K>,
    ) -> Result<DyingPageMap<K>, Refused<PageMap<K>>> {
        match Free::decide(&self.state, cpu, &map) {
            Ok(plan) => Ok(plan.apply(&mut self.state, &mut self.machine, cpu)),
            Err(error) => Err(Refused { handle: map, error }),
        }
    }

    fn free_step<K: RootKind>(&mut self, dying: DyingPageMap<K>) -> FreeStep<K> {
        page_map::free_step(&mut self.state, &mut self.machine, dying)
    }

    fn attach<K: RootKind>(&mut self, map: &PageMap<K>) -> Result<PageMapUse<K>, Error> {
        page_map::attach(&mut self.state, map)
    }

    fn detach<K: RootKind>(&mut self, held: PageMapUse<K>) {
        page_map::detach(&mut self.state, held);
    }

    #[inline]
    fn load(&mut self, cpu: CurrentCpu, map: &PageMapUse<Host>) {
        self.state.load(&mut self.machine, cpu, map.root());
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
            return Err(Refused {
                handle: page,
                error: Error::Draining { frame },
            });
        }
        // T3: it is clear since its last entry went.
        self.state.set_status(frame, Status::PageMapPage);
        Ok(PageMapPage::new(frame))
    }
}

impl<M: Machine, S: Storage> Memory<'_, M, S> {
    /// Removes mappings of whatever size.
    #[inline(never)]
    fn remove_range<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: VirtualRange,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Removed, Error> {
        let target = Target::new::<K, M::Geometry>(map, range)?;
        let (state, machine) = (&mut self.state, &mut self.machine);
        let plan = Remove::decide::<K, M, S>(state, machine, target, supply)?;
        Ok(plan.apply::<K, M, S>(state, machine, cpu, map, target, supply, each))
    }
}

impl<M: Machine, S: Storage> UserMemory for Memory<'_, M, S> {
    #[inline]
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error> {
        let (state, machine) = (&mut self.state, &mut self.machine);
        if share.is_none()
            && let Some(plan) = Add::decide_page::<K, M, S>(state, machine, map, to, region, rights)
        {
            return Ok(plan.apply_page::<K, M, S>(state, machine, map));
        }
        self.resume_mapping(map, to, region, rights, share, supply, 0)
    }

    #[inline(never)]
    fn resume_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
        done: u64,
    ) -> Result<Added, Error> {
        let request = Request {
            to,
            region,
            rights,
            share,
            done,
        };
        Add::carry_out::<K, M, S>(&mut self.state, &mut self.machine, map, &request, supply)
    }

    #[inline]
    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        change: Change,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Modified, Error> {
        let target = Target::new::<K, M::Geometry>(map, range.into())?;
        let (state, machine) = (&mut self.state, &mut self.machine);
        let plan = Modify::decide::<K, M, S>(state, machine, target, change, supply)?;
        Ok(plan.apply::<K, M, S>(state, machine, cpu, target, supply, each))
    }

    #[inline]
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Removed, Error> {
        let range = range.into();
        let (state, machine) = (&mut self.state, &mut self.machine);
        if let Some(plan) = Entries::decide_page::<K, M>(machine, map, range) {
            return Ok(plan.apply::<K, M, S>(state, machine, cpu, map, None, each));
        }
        self.remove_range(cpu, map, range, supply, each)
    }

    #[inline]
    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        address: VirtualAddress,
    ) -> Option<MappingInfo> {
        mapping::read::<K, M>(&self.machine, map, address)
    }
}

impl<M: Machine, S: Storage> KernelMemory for Memory<'_, M, S> {
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error> {
        let plan = AddKernel::decide(
            &self.state,
            &self.machine,
            region,
            rights,
            user_visible,
            share,
        )?;
        Ok(plan.apply(&mut self.state, &mut self.machine, cpu))
    }

    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation) {
        kernel_mapping::remove(&mut self.state, &mut self.machine, cpu, mapping)
    }

    #[inline]
    fn read_word_at(&self, mapping: &KernelMapping, offset: Offset) -> u64 {
        kernel_mapping::read_word_at(&self.machine, mapping, offset)
    }

    #[inline]
    fn write_word_at(
        &mut self,
        mapping: &KernelMapping,
        offset: Offset,
        value: u64,
    ) -> Result<(), Error> {
        kernel_mapping::write_word_at(&mut self.machine, mapping, offset, value)
    }

    #[inline]
    fn read_word(&self, word: KernelWord<'_>) -> u64 {
        kernel_mapping::read_word(&self.machine, word)
    }

    #[inline]
    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error> {
        kernel_mapping::write_word(&mut self.machine, word, value)
    }

    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        kernel_mapping::read_bytes(&self.machine, mapping, offset, bytes)
    }

    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        kernel_mapping::write_bytes(&mut self.machine, mapping, offset, bytes)
    }

    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error> {
        kernel_mapping::copy(&mut self.machine, from, to, count)
    }

    fn fill(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        count: usize,
        value: u8,
    ) -> Result<(), Error> {
        kernel_mapping::fill(&mut self.machine, mapping, offset, count, value)
    }

    fn clear(&mut self, mapping: &KernelMapping) -> Result<(), Error> {
        kernel_mapping::clear(&mut self.machine, mapping)
    }
}
