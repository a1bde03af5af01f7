//! The machine and its memory as this kernel keeps them: the HAL, and the page allocator on it.
//!
//! Everything that takes memory comes here: pages for programs and their tables from the domain
//! heap, each program being a domain of its own; pages for kernel objects from the zone `xen`,
//! which is the HAL's heap. Who runs out of memory gets an error.

use core::fmt;

use heliox_hal::domain::{DomainId, Owner};
use heliox_hal::error::Error;
use heliox_hal::execution::{Execution, Heap};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::{KernelMemory, Ownership, Paging, PhysicalMemory};
use heliox_hal::page::Status;
use heliox_hal::page_map::{PageMap, PageMapPage, SUPPLY_LIMIT, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_hal::{Context, Hal};
use heliox_log::error;
use heliox_memory::{FreeStep, Freeing, Parts, Progress};
use heliox_page_alloc::{
    Cpu, CpuCache, Domain, Event, HeapFigures, Machine, MemoryFlags, Order, PageAllocator, Pages,
    SetupError,
};
use heliox_types::{Frame, FrameRange, HeapError, PAGE_BITS, PAGE_BYTES, PhysicalAddress};

/// Frames below 4 GiB, which devices with short addresses reach: the zone `dma`.
const LAST_DMA_FRAME: u64 = (4 << 30 >> PAGE_BITS) - 1;
/// This part of the zone `dma` is kept for requests that need that zone.
const EMERGENCY_PART: u64 = 128;
/// Pages that are cleared at once at most, for one allocation.
const SCRUB_LIMIT: u64 = 512;
/// Pages of dead domains that are cleared between two turns of programs.
const SCRUB_BUDGET: u64 = 64;

/// The HAL, as the layer below the page allocator.
pub(crate) struct HalPages {
    hal: Hal,
}

impl Pages for HalPages {
    type Owner = Owner;
    /// `None` for the environment's pages, over which there is no authority to give.
    type Region = Option<PhysicalRegion>;

    const HYPERVISOR: Owner = Owner::Hypervisor;

    fn owner(&self, frame: Frame) -> Owner {
        self.hal.memory_view().state().owner(frame)
    }

    fn set_owner(&mut self, frames: FrameRange, owner: Owner) -> Result<(), Frame> {
        let first = frames.first().ok_or(Frame::ZERO)?;
        let Owner::Domain(domain) = owner else {
            return Err(first);
        };
        // Which pages cannot become the domain's is known before any other changes hands.
        for frame in frames {
            if self.owner(frame) != owner && self.page(frame).is_none_or(|_| !self.is_idle(frame)) {
                return Err(frame);
            }
        }
        for frame in frames {
            if self.owner(frame) != owner {
                self.clear(frame)?;
            }
        }
        // As much at once as possible, so that it can be mapped by large pages.
        for (first, order) in frames.blocks() {
            let block = FrameRange::from_count(first, 1 << order);
            let region = block.and_then(|block| self.region(block)).ok_or(first)?;
            let mut parts = Parts::new(region);
            let mut assign = |part| self.hal.memory().assign(part, domain);
            while parts.step(&mut assign).map_err(|_| first)? == Progress::More {}
        }
        Ok(())
    }

    /// Takes the page from its owner, which clears it: the HAL lets memory pass from one domain to
    /// another in no other way.
    fn clear(&mut self, frame: Frame) -> Result<(), Frame> {
        let region = self.page(frame).ok_or(frame)?;
        let cpu = self.hal.cpu();
        match self.owner(frame) {
            Owner::Domain(owner) => {
                self.hal.memory().release(cpu, region, owner).map_err(|_| frame)
            }
            // Memory of nobody is clear.
            Owner::Nobody => Ok(()),
            Owner::Hypervisor => Err(frame),
        }
    }

    fn region(&self, frames: FrameRange) -> Option<PhysicalRegion> {
        let bits = PAGE_BITS + frames.count().checked_ilog2()?;
        let flexpage = Flexpage::physical(frames.first()?.address(), bits).ok()?;
        self.hal.memory_view().initial_regions().find_map(|region| region.derive(flexpage).ok())
    }
}

impl HalPages {
    fn page(&self, frame: Frame) -> Option<PhysicalRegion> {
        self.region(FrameRange::from_count(frame, 1)?)
    }

    /// Whether the page is memory that nothing refers to.
    fn is_idle(&self, frame: Frame) -> bool {
        let page = self.hal.memory_view().state().page(frame);
        page.status() == Status::Normal && page.count() == 0
    }
}

/// Why there is no memory.
#[derive(Debug)]
pub(crate) enum MemoryError {
    /// The page allocator says no.
    Allocator(Event),
    /// The HAL's checks say no.
    Checks(Error),
    /// The heap for kernel objects says no.
    Heap(HeapError),
    /// The page allocator cannot be set up.
    Setup(SetupError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocator(event) => event.fmt(formatter),
            Self::Checks(error) => error.fmt(formatter),
            Self::Heap(error) => error.fmt(formatter),
            Self::Setup(error) => error.fmt(formatter),
        }
    }
}

impl From<Event> for MemoryError {
    fn from(event: Event) -> Self {
        Self::Allocator(event)
    }
}

impl From<Error> for MemoryError {
    fn from(error: Error) -> Self {
        Self::Checks(error)
    }
}

impl From<HeapError> for MemoryError {
    fn from(error: HeapError) -> Self {
        Self::Heap(error)
    }
}

/// The machine and the page allocator.
pub(crate) struct System<'memory> {
    allocator: PageAllocator<'memory, HalPages>,
    /// Number of the last domain. Numbers are not used again, so that a page that still carries
    /// one never passes for a new domain's.
    last_domain: u16,
}

impl<'memory> System<'memory> {
    /// Hands all free memory to the page allocator. `caches`: one for each processor.
    pub(crate) fn new(mut hal: Hal, caches: &'memory mut [CpuCache]) -> Result<Self, MemoryError> {
        let information = hal.report.information;
        let max_page = hal.report.prepared.plan.managed_frames;
        let words = PageAllocator::<HalPages>::metadata_words(max_page) as u64;
        let heap = hal.heap_frames();
        let records =
            FrameRange::new(heap.start(), heap.start() + (words * 8).div_ceil(PAGE_BYTES))
                .filter(|records| heap.contains_range(*records))
                .ok_or(HeapError::NotFree(heap))?;
        let metadata = hal.heap_words(records)?;
        let objects = hal.heap_frames();
        let dma: u64 = information.memory_map().usable().map(dma_frames).sum();
        let machine = Machine {
            max_page,
            max_dma_page: LAST_DMA_FRAME,
            dma_emergency_pages: dma / EMERGENCY_PART,
            scrub_limit: SCRUB_LIMIT,
            nodes: &[],
        };
        let mut allocator = PageAllocator::new(machine, HalPages { hal }, metadata, caches)
            .map_err(MemoryError::Setup)?;
        if let Some(first) = records.first() {
            allocator.init_boot_allocator(first)?;
        }
        // First the zone in the middle of the others.
        let (start, end) = ends(objects);
        allocator.init_xenheap_pages(start, end)?;
        for area in information.memory_map().usable() {
            let (start, end) = ends(area);
            allocator.init_boot_pages(start, end)?;
        }
        allocator.end_boot_allocator()?;
        Ok(Self { allocator, last_domain: DomainId::ZERO.number() })
    }

    /// The machine.
    pub(crate) fn hal(&mut self) -> &mut Hal {
        &mut self.allocator.pages_mut().hal
    }

    /// Pages that can be allocated.
    pub(crate) fn available(&self) -> u64 {
        self.allocator.avail_domheap_pages().unwrap_or(0)
    }

    /// How memory is used.
    pub(crate) fn figures(&self) -> Result<HeapFigures, Event> {
        self.allocator.dump_heap()
    }

    /// A new domain, without memory; `None` if there have been too many.
    pub(crate) fn new_domain(&mut self) -> Option<Domain<Owner>> {
        let id = DomainId::new(self.last_domain.checked_add(1)?)?;
        self.last_domain = id.number();
        Some(Domain::new(Owner::Domain(id), u64::MAX))
    }

    /// Lets a domain die: what it frees from now on is cleared before anybody gets it.
    pub(crate) fn begin_dying(&mut self, domain: &mut Domain<Owner>) {
        if let Err(event) = self.allocator.begin_dying(domain) {
            error!("a domain does not die: {event}");
        }
    }

    /// Clears some of what domains freed that have died. Whether there was any.
    pub(crate) fn scrub(&mut self) -> bool {
        let step = self.allocator.page_scrub_softirq(SCRUB_BUDGET);
        step.is_ok_and(|step| step.cleared > 0)
    }

    /// A page for a domain, clear unless the domain itself had it before.
    pub(crate) fn take_page(
        &mut self,
        domain: &mut Domain<Owner>,
    ) -> Result<PhysicalRegion, MemoryError> {
        let flags = MemoryFlags::default();
        let block = self.allocator.alloc_domheap_pages(domain, Order::ZERO, flags)?;
        let region = self.allocator.region(block.frames());
        // Kept by number from here on: in the page map that the page is used in.
        let (frame, _) = block.into_frame();
        region.ok_or_else(|| {
            self.give_back(domain, frame);
            let frame = frame.number();
            MemoryError::Allocator(Event::Refused { frame })
        })
    }

    /// Gives back the page that begins at `frame`.
    pub(crate) fn give_back(&mut self, domain: &mut Domain<Owner>, frame: Frame) {
        let freed = self.allocator.domheap_block_at(frame, Order::ZERO).and_then(|block| {
            let freed = self.allocator.free_domheap_pages(domain, block);
            freed.map_err(|refused| refused.event)
        });
        if let Err(event) = freed {
            error!("page {frame} is lost: {event}");
        }
    }

    /// A page for page maps.
    pub(crate) fn take_table(
        &mut self,
        domain: &mut Domain<Owner>,
    ) -> Result<PageMapPage, MemoryError> {
        let region = self.take_page(domain)?;
        let page = self.hal().memory().create_page_map_page(region);
        page.map_err(|error| {
            self.give_back(domain, region.first_frame());
            error.into()
        })
    }

    /// Gives back a page that is in no page map any more.
    pub(crate) fn give_back_table(&mut self, domain: &mut Domain<Owner>, page: PageMapPage) {
        let cpu = self.hal().cpu();
        let region = self.hal().memory().release_page_map_page(cpu, page);
        self.give_back(domain, region.first_frame());
    }

    /// Fills `supply` with pages for tables.
    pub(crate) fn fill(
        &mut self,
        domain: &mut Domain<Owner>,
        supply: &mut TableSupply,
    ) -> Result<(), MemoryError> {
        while supply.count() < SUPPLY_LIMIT {
            let page = self.take_table(domain)?;
            if let Err(page) = supply.add(page) {
                self.give_back_table(domain, page);
            }
        }
        Ok(())
    }

    /// Lends `use_it` the memory of `region`, a domain's page, through a kernel mapping.
    pub(crate) fn with_page<T>(
        &mut self,
        domain: &Domain<Owner>,
        region: PhysicalRegion,
        use_it: impl FnOnce(&mut Hal, &KernelMapping) -> Result<T, MemoryError>,
    ) -> Result<T, MemoryError> {
        let Owner::Domain(owner) = domain.id() else {
            return Err(HeapError::NotFree(FrameRange::EMPTY).into());
        };
        let cpu = self.hal().cpu();
        let rights = Rights::ReadWrite;
        let memory = self.hal().memory();
        let share = memory.share(region, owner, Owner::Hypervisor, rights)?;
        let mapping = memory.add_kernel_mapping(cpu, region, rights, false, Some(&share));
        let result = mapping.map_err(MemoryError::from).and_then(|mapping| {
            let result = use_it(self.hal(), &mapping);
            let memory = self.hal().memory();
            let (_, invalidation) = memory.remove_kernel_mapping(cpu, mapping);
            debug_assert!(memory.is_complete(invalidation), "there is one processor");
            result
        });
        self.hal().memory().end_share(share);
        result
    }

    /// A context for a program.
    pub(crate) fn new_context(&mut self) -> Result<Context, MemoryError> {
        self.in_heap(Hal::new_context)
    }

    /// What `make` makes in the heap, which grows by pages of the zone `xen` if it has no room: by
    /// two at most.
    pub(crate) fn in_heap<T>(
        &mut self,
        make: impl Fn(&mut Hal) -> Result<T, HeapError>,
    ) -> Result<T, MemoryError> {
        for _ in 0..2 {
            match make(self.hal()) {
                Err(HeapError::NoSlot { .. }) => {}
                result => return Ok(result?),
            }
            let block = self.allocator.alloc_xenheap_pages_on(Cpu(0), Order::ZERO)?;
            let frames = block.frames();
            // The heap keeps it.
            let _ = block.into_frame();
            self.hal().grow_heap(frames)?;
        }
        Ok(make(self.hal())?)
    }

    /// Frees an address space that nothing uses any more, and its memory with it.
    pub(crate) fn free_page_map(&mut self, domain: &mut Domain<Owner>, map: PageMap) {
        let cpu = self.hal().cpu();
        let mut freeing = Freeing::new(map);
        loop {
            match freeing.step(self.hal().memory(), cpu) {
                Ok(FreeStep::More { rest, removed }) => {
                    freeing = rest;
                    let Some(removed) = removed else { continue };
                    self.give_back(domain, removed.mapping.frame);
                    for table in removed.tables {
                        // There is one processor, so nothing drains.
                        match self.hal().memory().reclaim(table) {
                            Ok(page) => self.give_back_table(domain, page),
                            Err(refused) => error!("a table is lost: {}", refused.error),
                        }
                    }
                }
                Ok(FreeStep::Done(root)) => return self.give_back_table(domain, root),
                Err(refused) => return error!("an address space is lost: {}", refused.error),
            }
        }
    }
}

/// The first and the last address of a range, the last exclusive.
fn ends(range: FrameRange) -> (PhysicalAddress, PhysicalAddress) {
    let address = |frame| PhysicalAddress::new(frame << PAGE_BITS).unwrap_or(PhysicalAddress::ZERO);
    (address(range.start()), address(range.end()))
}

/// How many frames of a range are in the zone `dma`.
fn dma_frames(range: FrameRange) -> u64 {
    let zone = FrameRange::new(0, LAST_DMA_FRAME + 1).unwrap_or(FrameRange::EMPTY);
    range.intersection(zone).count()
}
