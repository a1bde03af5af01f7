//! Domains on the machine: [`Backing`] on the hardware abstraction layer and the page allocator.
//!
//! Hides how the operations that domains need are made of those layers':
//!
//! - a domain's page map is a nested one, with the same rules as any other: memory of another owner
//!   takes one of the layer's `Share` tokens, which pins it;
//! - its paging pool are pages that the allocator gives it without counting them, and that have the
//!   status of pages for page maps, so that nothing else can be done with them;
//! - a window is a kernel mapping of one page, by a share with the hypervisor, and is gone when the
//!   operation is;
//! - a block that is given back is cleared at once, and so belongs to nobody while it is free;
//! - each share, and each mapping by one, is a reference that the allocator counts, so that what is
//!   used cannot be freed, and that there are fewer than the abstraction layer can count.
//!
//! Nothing that memory-safety rests on is decided here: every request is checked below. A request
//! that is refused although this crate takes it for possible is counted as a contradiction.

mod pages;
mod space;

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::domain::{DomainId as HalDomainId, Owner};
use heliox_hal::entry::Nested;
use heliox_hal::error::Error as HalError;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::mapping::MappingInfo;
use heliox_hal::memory::{KernelMemory as Windows, Ownership, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapPage, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights as HalRights;
use heliox_hal::share::Share as Token;
use heliox_hal::translation::Invalidation;
use heliox_page_alloc::{
    Cpu, Domain, DomainBlock, Event, MAX_ORDER, MemoryFlags, Order as BlockOrder, PageAllocator,
};
use heliox_types::{Frame, PAGE_BITS, VirtualAddress};

pub use pages::MachinePages;

use self::space::{Space, Tables};
use crate::access::Window;
use crate::backing::{Backing, KernelMemory, Refused, Rights, Translation};
use crate::domains::Progress;
use crate::error::Error;
use crate::guest::{DomainId, Extent, GuestFrame, Order};

/// What the kernel has of a machine: its memory, and the processors.
pub trait Platform {
    /// Log2 of the number of entries of a page table.
    const LEVEL_BITS: u32 = 9;
    /// Log2 of the size of a nested page map's address space in bytes.
    const GUEST_BITS: u32 = 47;
    /// Words of a page that are used: 512, or less on a machine for tests.
    const PAGE_WORDS: u64 = 512;
    /// The most uses of one grant entry with the same rights.
    const MOST_USES: u32 = 1 << 16;

    /// The abstraction layer.
    type Memory: Paging + UserMemory + Ownership + Windows + PhysicalMemory;

    /// The memory.
    fn memory(&self) -> &Self::Memory;

    /// The memory, to change it.
    fn memory_mut(&mut self) -> &mut Self::Memory;

    /// The processor that this code runs on.
    fn cpu(&self) -> CurrentCpu;

    /// Returns when no processor can use any more what was taken out of the page map with this
    /// root, nor walk through tables that were: guests' translations are dropped, and `removed` is
    /// complete.
    fn settle(&mut self, root: Frame, removed: Invalidation);
}

/// A domain's consent: the abstraction layer's token, and what it is for.
#[derive(Debug)]
pub struct Share {
    token: Token,
    grantee: DomainId,
    rights: Rights,
}

impl Share {
    /// The abstraction layer's token.
    pub const fn token(&self) -> &Token {
        &self.token
    }

    /// The page.
    pub const fn frame(&self) -> Frame {
        self.token.region().first_frame()
    }

    /// Who may map it.
    pub const fn grantee(&self) -> DomainId {
        self.grantee
    }
}

/// Machine and page allocator, for domains. `'m` is the lifetime of the allocator's records, `M`
/// where this module's own are.
pub struct MachineBacking<'m, P: Platform, M: KernelMemory> {
    allocator: PageAllocator<'m, MachinePages<P>>,
    memory: M,
    /// The abstraction layer's number of domain 0.
    first: u16,
    spaces: M::Slice<Option<Space<M>>>,
    /// Shares of pages of each block that an entry of the second level can map.
    shared: M::Slice<u32>,
    contradictions: u64,
}

/// A domain's space, and the allocator.
type Parts<'a, 'm, P, M> = (&'a mut Space<M>, &'a mut PageAllocator<'m, MachinePages<P>>);

/// A space that could not be made: why, and what there was of it.
struct Unmade<M: KernelMemory> {
    refused: Refused,
    account: Domain<Owner>,
    pool: Option<Tables<M>>,
}

/// Pages of a paging pool that are freed in one step.
const FREED_AT_ONCE: usize = 512;

/// The address of a guest frame.
fn address(guest: u64) -> Result<VirtualAddress, Refused> {
    VirtualAddress::new(guest << PAGE_BITS).ok_or(Refused::Inconsistent)
}

const fn rights_of(rights: Rights) -> HalRights {
    match rights {
        // Nobody runs what others lend.
        Rights::Read => HalRights::Read,
        Rights::Write => HalRights::ReadWrite,
    }
}

/// What the abstraction layer refused.
const fn refused(error: HalError) -> Refused {
    match error {
        HalError::TablesNeeded { .. } => Refused::NoTables,
        HalError::TooManyReferences { .. } => Refused::TooManyReferences,
        _ => Refused::Inconsistent,
    }
}

/// What the allocator refused.
const fn no_block(event: Event) -> Refused {
    match event {
        Event::NoSuitableBlock { .. }
        | Event::ReservedByClaims { .. }
        | Event::TooMuchToScrub { .. }
        | Event::Refused { .. } => Refused::NoMemory,
        Event::TooManyReferences { .. } => Refused::TooManyReferences,
        _ => Refused::Inconsistent,
    }
}

impl<'m, P: Platform, M: KernelMemory> MachineBacking<'m, P, M> {
    /// Domains with numbers below `limit` on the memory of `allocator`, whose machine has
    /// `max_page` pages. The abstraction layer knows them by the numbers from `first` on, which are
    /// nobody else's.
    ///
    /// # Errors
    /// [`Error::BadOptions`] if there are not so many numbers, [`Error::OutOfKernelMemory`].
    pub fn new(
        allocator: PageAllocator<'m, MachinePages<P>>,
        mut memory: M,
        first: HalDomainId,
        limit: u16,
        max_page: u64,
    ) -> Result<Self, Error> {
        let first = first.number();
        let last = first.checked_add(limit.saturating_sub(1)).and_then(HalDomainId::new);
        last.ok_or(Error::BadOptions)?;
        let blocks = usize::try_from((max_page >> P::LEVEL_BITS) + 1).unwrap_or(usize::MAX);
        let shared = memory.slice(blocks, || 0_u32).ok_or(Error::OutOfKernelMemory)?;
        let spaces = memory.slice(usize::from(limit), || None).ok_or(Error::OutOfKernelMemory)?;
        Ok(Self { allocator, memory, first, spaces, shared, contradictions: 0 })
    }

    /// The page allocator.
    pub const fn allocator(&self) -> &PageAllocator<'m, MachinePages<P>> {
        &self.allocator
    }

    /// The page allocator, to change what this layer does not decide.
    pub const fn allocator_mut(&mut self) -> &mut PageAllocator<'m, MachinePages<P>> {
        &mut self.allocator
    }

    /// What the memory is in.
    pub const fn platform(&self) -> &P {
        self.allocator.pages().platform()
    }

    /// What the memory is in, to change it.
    pub const fn platform_mut(&mut self) -> &mut P {
        self.allocator.pages_mut().platform_mut()
    }

    /// How often the layers below refused a window: never, unless there is an error in one of them
    /// or in this crate.
    pub const fn contradictions(&self) -> u64 {
        self.contradictions
    }

    /// The abstraction layer's number of a domain.
    pub fn hal_domain(&self, domain: DomainId) -> Option<HalDomainId> {
        HalDomainId::new(self.first.checked_add(domain.number())?)
    }

    /// A domain's page map.
    pub fn page_map(&self, domain: DomainId) -> Option<&PageMap<Nested>> {
        self.space(domain).ok().map(|space| &space.map)
    }

    /// Pages of a domain's paging pool that are not tables now.
    pub fn spare_tables(&self, domain: DomainId) -> impl Iterator<Item = &PageMapPage> {
        self.space(domain).into_iter().flat_map(|space| space.pool.pages())
    }

    fn space(&self, domain: DomainId) -> Result<&Space<M>, Refused> {
        let space = self.spaces.get(usize::from(domain.number())).and_then(Option::as_ref);
        space.ok_or(Refused::Inconsistent)
    }

    /// A domain's space, and the allocator.
    fn parts(&mut self, domain: DomainId) -> Result<Parts<'_, 'm, P, M>, Refused> {
        let space = self.spaces.get_mut(usize::from(domain.number())).and_then(Option::as_mut);
        Ok((space.ok_or(Refused::Inconsistent)?, &mut self.allocator))
    }

    /// The record of shares of the block around a frame.
    fn shares_around(&mut self, frame: Frame) -> Option<&mut u32> {
        self.shared.get_mut((frame.number() >> P::LEVEL_BITS) as usize)
    }

    /// Map a block into a page map, by pages that are as large as possible: all of it or nothing.
    fn insert(
        &mut self,
        domain: DomainId,
        to: Extent,
        frame: Frame,
        rights: HalRights,
        share: Option<&Token>,
    ) -> Result<(), Refused> {
        let (space, allocator) = self.parts(domain)?;
        let mut supply = space.pool.supply();
        let order = to.order();
        let bits = allocator.pages().platform().memory().page_bits(PAGE_BITS + order.number());
        let step = 1 << (bits - PAGE_BITS);
        let mut result = Ok(());
        let mut done = 0;
        while result.is_ok() && done < order.pages() {
            let page = frame
                .checked_add(done)
                .and_then(|frame| allocator.pages().block(frame, bits))
                .ok_or(Refused::Inconsistent);
            result = page.and_then(|page| {
                let at = address(to.start().number() + done)?;
                let memory = allocator.pages_mut().platform.memory_mut();
                memory
                    .add_mapping(&mut space.map, at, page, rights, share, &mut supply)
                    .map_err(refused)
            });
            done += step;
        }
        space.pool.put_rest(supply);
        if result.is_err() && done > step {
            // Not reached: where the first page of a block finds its tables, the others do.
            for page in (0..done - step).step_by(step as usize) {
                self.take_out(domain, to.start().number() + page)?;
            }
            self.settle(domain);
        }
        result
    }

    /// What is mapped at a guest frame.
    fn find(&self, domain: DomainId, guest: u64) -> Result<MappingInfo, Refused> {
        let found =
            self.platform().memory().find_mapping(&self.space(domain)?.map, address(guest)?);
        found.map_err(|_| Refused::Inconsistent)
    }

    /// Take one entry out of a page map.
    fn take_out(&mut self, domain: DomainId, guest: u64) -> Result<(), Refused> {
        let (space, allocator) = self.parts(domain)?;
        let platform = &mut allocator.pages_mut().platform;
        let cpu = platform.cpu();
        let removed = platform.memory_mut().remove_mapping(cpu, &mut space.map, address(guest)?);
        let removed = removed.map_err(refused)?;
        space.removed = Some(removed.invalidation);
        removed.tables.for_each(|table| space.keep(table));
        Ok(())
    }

    /// Cut the mapping around a guest frame until it is of at most `1 << bits` bytes.
    fn cut(&mut self, domain: DomainId, guest: u64, from: u32, bits: u32) -> Result<(), Refused> {
        let needed = (from.saturating_sub(bits) / P::LEVEL_BITS) as usize;
        let (space, allocator) = self.parts(domain)?;
        if needed == 0 {
            return Ok(());
        }
        if space.pool.count() < needed {
            return Err(Refused::NoTables);
        }
        let platform = &mut allocator.pages_mut().platform;
        let (cpu, at) = (platform.cpu(), address(guest)?);
        let mut supply: TableSupply = space.pool.supply();
        let mut result = Ok(());
        for _ in 0..needed {
            let memory = platform.memory_mut();
            match memory.split_mapping(cpu, &mut space.map, at, &mut supply) {
                Ok(invalidation) => space.removed = Some(invalidation),
                Err(error) => result = Err(refused(error)),
            }
        }
        space.pool.put_rest(supply);
        result
    }

    /// Take a block, or a part of one, out of a page map. The frame that was there.
    fn remove(&mut self, domain: DomainId, from: Extent, foreign: bool) -> Result<Frame, Refused> {
        if self.space(domain)?.removed.is_some() {
            self.settle(domain);
        }
        let (start, order) = (from.start().number(), from.order());
        let bits = self.platform().memory().page_bits(PAGE_BITS + order.number());
        let mapping = self.find(domain, start)?;
        if mapping.bits < bits || mapping.attributes.foreign != foreign {
            return Err(Refused::Inconsistent);
        }
        self.cut(domain, start, mapping.bits, bits)?;
        let first = frame_at(&mapping, start)?;
        let step = 1 << (bits - PAGE_BITS);
        let pages = (0..order.pages()).step_by(step as usize);
        for page in pages.clone() {
            let mapping = self.find(domain, start + page)?;
            let is_next = first.checked_add(page) == Some(mapping.frame) && mapping.bits == bits;
            if !is_next || mapping.attributes.foreign != foreign {
                return Err(Refused::Inconsistent);
            }
        }
        for page in pages {
            self.take_out(domain, start + page)?;
        }
        Ok(first)
    }

    /// A page for page tables.
    fn take_table(&mut self, account: &mut Domain<Owner>) -> Result<Frame, Refused> {
        let flags = MemoryFlags { no_refcount: true, ..MemoryFlags::default() };
        allocate(&mut self.allocator, account, Order::PAGE, flags)
    }

    /// Make the page map and the paging pool of a domain, of pages that the allocator gives it.
    fn make_space(
        &mut self,
        mut account: Domain<Owner>,
        tables: usize,
    ) -> Result<Space<M>, Unmade<M>> {
        let Some(mut pool) = Tables::new(&mut self.memory, tables.saturating_add(1)) else {
            return Err(Unmade { refused: Refused::NoKernelMemory, account, pool: None });
        };
        let refused = loop {
            if pool.count() > tables {
                let memory = self.allocator.pages_mut().platform.memory_mut();
                match pool.take().map(|root| memory.allocate_page_map(root)) {
                    Some(Ok(map)) => {
                        let draining = [const { None }; _];
                        return Ok(Space { account, map, pool, removed: None, draining });
                    }
                    Some(Err(refused)) => drop(pool.put(refused.handle)),
                    None => {}
                }
                break Refused::Inconsistent;
            }
            let frame = match self.take_table(&mut account) {
                Ok(frame) => frame,
                Err(refused) => break refused,
            };
            let page = self.allocator.pages().block(frame, PAGE_BITS);
            let memory = self.allocator.pages_mut().platform.memory_mut();
            let page = page.and_then(|page| memory.create_page_map_page(page).ok());
            if page.is_none_or(|page| pool.put(page).is_err()) {
                break Refused::Inconsistent;
            }
        };
        Err(Unmade { refused, account, pool: Some(pool) })
    }

    /// Let `use_it` have a kernel mapping of a page. `None`, which is counted, if that cannot be.
    fn look<T>(
        &mut self,
        window: &Window,
        rights: HalRights,
        use_it: impl FnOnce(&mut Self, &KernelMapping) -> Result<T, HalError>,
    ) -> Option<T> {
        let result = self.look_into(window, rights, use_it);
        if result.is_none() {
            self.contradictions += 1;
        }
        result
    }

    fn look_into<T>(
        &mut self,
        window: &Window,
        rights: HalRights,
        use_it: impl FnOnce(&mut Self, &KernelMapping) -> Result<T, HalError>,
    ) -> Option<T> {
        let owner = self.hal_domain(window.owner())?;
        let page = self.allocator.pages().block(window.frame(), PAGE_BITS)?;
        let cpu = self.platform().cpu();
        let memory = self.platform_mut().memory_mut();
        let share = memory.share(page, owner, Owner::Hypervisor, rights).ok()?;
        let mapping = memory.add_kernel_mapping(cpu, page, rights, false, Some(&share));
        let result = mapping.and_then(|mapping| {
            let result = use_it(self, &mapping);
            let memory = self.platform_mut().memory_mut();
            // Programs could not use it, so that nobody has to be told.
            let _ = memory.remove_kernel_mapping(cpu, mapping);
            result
        });
        self.platform_mut().memory_mut().end_share(share);
        result.ok()
    }

    fn windows(&mut self) -> &mut P::Memory {
        self.platform_mut().memory_mut()
    }
}

/// The frame at a guest frame, which lies in a mapping.
fn frame_at(mapping: &MappingInfo, guest: u64) -> Result<Frame, Refused> {
    let offset = guest - (mapping.address.get() >> PAGE_BITS);
    mapping.frame.checked_add(offset).ok_or(Refused::Inconsistent)
}

/// Clearing a block empties the allocator's caches, after which another block can come first; and
/// then that one is cleared.
const ATTEMPTS: u32 = 3;

/// Allocate a block, cleared.
fn allocate<P: Platform>(
    allocator: &mut PageAllocator<'_, MachinePages<P>>,
    account: &mut Domain<Owner>,
    order: Order,
    flags: MemoryFlags,
) -> Result<Frame, Refused> {
    let cpu = Cpu(allocator.pages().platform.cpu().index().get());
    let order = BlockOrder::new(order.number()).map_err(no_block)?;
    for _ in 0..ATTEMPTS {
        match allocator.alloc_domheap_pages_on(cpu, account, order, flags) {
            // Kept by number from here on: it is in the page map, or set aside.
            Ok(block) => return Ok(block.into_frame().0),
            // It has to be cleared for the domain in any case.
            Err(Event::TooMuchToScrub { frame, .. }) => {
                let frame = Frame::new(frame).ok_or(Refused::Inconsistent)?;
                allocator.scrub_block_at(frame, order, order.pages()).map_err(no_block)?;
            }
            Err(event) => return Err(no_block(event)),
        }
    }
    Err(Refused::NoMemory)
}

/// The block of `order` at `frame`, cut out of the one that the domain got.
fn cut_out<P: Platform>(
    allocator: &mut PageAllocator<'_, MachinePages<P>>,
    frame: Frame,
    order: BlockOrder,
) -> Result<DomainBlock, Refused> {
    for larger in order.number()..=MAX_ORDER {
        let larger = BlockOrder::new(larger).map_err(no_block)?;
        let head = Frame::new(frame.number() & !(larger.pages() - 1));
        let found = head.and_then(|head| allocator.domheap_block_at(head, larger).ok());
        let Some(mut block) = found else { continue };
        while block.order() > order {
            let halves = allocator.split_domheap_block(block);
            let (first, second) = halves.map_err(|refused| no_block(refused.event))?;
            let (part, rest) =
                if second.first() <= frame { (second, first) } else { (first, second) };
            // Still the domain's, by number.
            let _ = rest.into_frame();
            block = part;
        }
        return Ok(block);
    }
    Err(Refused::Inconsistent)
}

/// Free a block, cleared.
fn free<P: Platform>(
    allocator: &mut PageAllocator<'_, MachinePages<P>>,
    account: &mut Domain<Owner>,
    frame: Frame,
    order: Order,
) -> Result<(), Refused> {
    let region = allocator.pages().block(frame, PAGE_BITS + order.number());
    let region: PhysicalRegion = region.ok_or(Refused::Inconsistent)?;
    let cpu = Cpu(allocator.pages().platform.cpu().index().get());
    let order = BlockOrder::new(order.number()).map_err(no_block)?;
    let block = cut_out(allocator, frame, order)?;
    let freed = allocator.free_domheap_pages_on(cpu, account, block);
    freed.map_err(|refused| no_block(refused.event))?;
    allocator.pages_mut().release(region, account.id()).map_err(refused)
}

/// Give back a page that is in no page map.
fn free_table<P: Platform>(
    allocator: &mut PageAllocator<'_, MachinePages<P>>,
    account: &mut Domain<Owner>,
    page: PageMapPage,
) -> Result<(), Refused> {
    let platform = &mut allocator.pages_mut().platform;
    let cpu = platform.cpu();
    let region = platform.memory_mut().release_page_map_page(cpu, page);
    free(allocator, account, region.first_frame(), Order::PAGE)
}

impl<P: Platform, M: KernelMemory> Backing for MachineBacking<'_, P, M> {
    const LEVEL_BITS: u32 = P::LEVEL_BITS;
    const PAGE_WORDS: u64 = P::PAGE_WORDS;
    const MOST_USES: u32 = P::MOST_USES;
    const MOST_FRAMES: u64 = 1 << (P::GUEST_BITS - PAGE_BITS);

    type Share = Share;

    fn add_domain(&mut self, domain: DomainId, tables: u64) -> Result<(), Refused> {
        let number = usize::from(domain.number());
        let id = self.hal_domain(domain).ok_or(Refused::Inconsistent)?;
        if self.spaces.get(number).is_none_or(Option::is_some) {
            return Err(Refused::Inconsistent);
        }
        // Its quota is the business of those above.
        let mut account = Domain::new(Owner::Domain(id), u64::MAX);
        let needed = tables.checked_add(1).ok_or(Refused::NoMemory)?;
        // So that it is known before the first page is taken.
        self.allocator.claim_pages(&mut account, needed).map_err(no_block)?;
        self.allocator.claim_pages(&mut account, 0).map_err(no_block)?;
        let tables = usize::try_from(tables).map_err(|_| Refused::NoMemory)?;
        match self.make_space(account, tables) {
            Ok(space) => {
                if let Some(slot) = self.spaces.get_mut(number) {
                    *slot = Some(space);
                }
                Ok(())
            }
            Err(Unmade { refused, mut account, pool }) => {
                for page in pool.into_iter().flat_map(Tables::into_pages) {
                    free_table(&mut self.allocator, &mut account, page)?;
                }
                Err(refused)
            }
        }
    }

    fn remove_domain(&mut self, domain: DomainId) -> Result<Progress, Refused> {
        self.settle(domain);
        let (space, allocator) = self.parts(domain)?;
        if space.account.total_pages() > 0 {
            return Err(Refused::Inconsistent);
        }
        for _ in 0..FREED_AT_ONCE {
            let Some(page) = space.pool.take() else { break };
            free_table(allocator, &mut space.account, page)?;
        }
        if space.pool.count() > 0 {
            return Ok(Progress::More);
        }
        let slot = self.spaces.get_mut(usize::from(domain.number()));
        let Some(space) = slot.and_then(Option::take) else { return Err(Refused::Inconsistent) };
        let Space { mut account, map, .. } = space;
        let platform = &mut self.allocator.pages_mut().platform;
        let cpu = platform.cpu();
        // It is empty: what was mapped in it would still be the domain's, or shared.
        let freed = platform.memory_mut().free_page_map(cpu, map);
        let root = freed.map_err(|_| Refused::Inconsistent)?;
        free_table(&mut self.allocator, &mut account, root)?;
        self.allocator.claim_pages(&mut account, 0).map_err(no_block)?;
        Ok(Progress::Done)
    }

    fn claim(&mut self, domain: DomainId, pages: u64) -> Result<(), Refused> {
        let (space, allocator) = self.parts(domain)?;
        allocator.claim_pages(&mut space.account, pages).map_err(no_block)
    }

    fn claimed(&self, domain: DomainId) -> u64 {
        self.space(domain).map_or(0, |space| space.account.claimed())
    }

    fn take(&mut self, domain: DomainId, order: Order) -> Result<Frame, Refused> {
        let (space, allocator) = self.parts(domain)?;
        allocate(allocator, &mut space.account, order, MemoryFlags::default())
    }

    fn give_back(&mut self, domain: DomainId, frame: Frame, order: Order) -> Result<(), Refused> {
        let (space, allocator) = self.parts(domain)?;
        free(allocator, &mut space.account, frame, order)
    }

    fn map(&mut self, domain: DomainId, to: Extent, frame: Frame) -> Result<(), Refused> {
        self.insert(domain, to, frame, HalRights::ReadWriteExecute, None)
    }

    fn unmap(&mut self, domain: DomainId, from: Extent) -> Result<Frame, Refused> {
        self.remove(domain, from, false)
    }

    fn settle(&mut self, domain: DomainId) {
        let Ok((space, allocator)) = self.parts(domain) else { return };
        let Some(removed) = space.removed.take() else { return };
        let platform = &mut allocator.pages_mut().platform;
        platform.settle(space.map.root(), removed);
        for slot in &mut space.draining {
            let Some(table) = slot.take() else { continue };
            match platform.memory_mut().reclaim(table) {
                // It came from the pool.
                Ok(page) => drop(space.pool.put(page)),
                Err(refused) => {
                    // The platform does not do what it promises.
                    *slot = Some(refused.handle);
                    space.removed = Some(removed);
                }
            }
        }
    }

    fn translate(&mut self, domain: DomainId, guest: GuestFrame) -> Translation {
        let most = 2 * P::LEVEL_BITS;
        let nothing = |bits: u32| Translation::Nothing {
            order: Order::new(bits.saturating_sub(PAGE_BITS).min(most)).unwrap_or(Order::PAGE),
        };
        let (Ok(space), Ok(at)) = (self.space(domain), address(guest.number())) else {
            return nothing(u64::BITS);
        };
        match self.platform().memory().find_mapping(&space.map, at) {
            Err(bits) => nothing(bits),
            Ok(mapping) => {
                let order = Order::new(mapping.bits - PAGE_BITS);
                match (frame_at(&mapping, guest.number()), order) {
                    (Ok(frame), Some(order)) => Translation::Memory { frame, order },
                    // Not reached: such a mapping is of at most 1 GiB, of memory that there is.
                    _ => nothing(0),
                }
            }
        }
    }

    fn is_shared(&mut self, frame: Frame, order: Order) -> bool {
        let blocks = frame.number() >> P::LEVEL_BITS..;
        let count = (order.pages() >> P::LEVEL_BITS).max(1);
        let blocks = blocks.take(count as usize);
        if blocks.into_iter().all(|block| self.shared.get(block as usize) == Some(&0)) {
            return false;
        }
        order.number() >= P::LEVEL_BITS
            || (0..order.pages()).any(|page| {
                let frame = frame.checked_add(page);
                // The owner's own reference is one.
                frame.is_none_or(|frame| self.allocator.references(frame) != Ok(1))
            })
    }

    fn share(
        &mut self,
        owner: DomainId,
        frame: Frame,
        grantee: DomainId,
        rights: Rights,
    ) -> Result<Share, Refused> {
        let owner = self.hal_domain(owner).ok_or(Refused::Inconsistent)?;
        let to = self.hal_domain(grantee).ok_or(Refused::Inconsistent)?;
        if owner == to {
            return Err(Refused::Inconsistent);
        }
        let page = self.allocator.pages().block(frame, PAGE_BITS).ok_or(Refused::Inconsistent)?;
        self.allocator.get_page(frame).map_err(no_block)?;
        let memory = self.platform_mut().memory_mut();
        match memory.share(page, owner, Owner::Domain(to), rights_of(rights)) {
            Ok(token) => {
                if let Some(shares) = self.shares_around(frame) {
                    *shares += 1;
                }
                Ok(Share { token, grantee, rights })
            }
            Err(error) => {
                self.allocator.put_page(frame).map_err(no_block)?;
                Err(refused(error))
            }
        }
    }

    fn end_share(&mut self, share: Share) {
        let frame = share.frame();
        self.platform_mut().memory_mut().end_share(share.token);
        if let Some(shares) = self.shares_around(frame) {
            *shares -= 1;
        }
        if self.allocator.put_page(frame).is_err() {
            self.contradictions += 1;
        }
    }

    fn map_share(&mut self, share: &Share, to: GuestFrame) -> Result<(), Refused> {
        let (frame, rights) = (share.frame(), rights_of(share.rights));
        self.allocator.get_page(frame).map_err(no_block)?;
        let result =
            self.insert(share.grantee, Extent::page(to), frame, rights, Some(&share.token));
        if result.is_err() {
            self.allocator.put_page(frame).map_err(no_block)?;
        }
        result
    }

    fn unmap_share(&mut self, share: &Share, from: GuestFrame) -> Result<(), Refused> {
        let mapping = self.find(share.grantee, from.number())?;
        let frame = share.frame();
        if mapping.frame != frame || mapping.attributes.rights != rights_of(share.rights) {
            return Err(Refused::Inconsistent);
        }
        self.remove(share.grantee, Extent::page(from), true)?;
        self.allocator.put_page(frame).map_err(no_block)
    }

    fn load(&mut self, window: &Window, word: u64) -> u64 {
        let value = self.look(window, HalRights::Read, |this, page| {
            Ok(this.windows().read_word(page.word(word as usize)?))
        });
        value.unwrap_or(0)
    }

    fn store(&mut self, window: &Window, word: u64, value: u64) {
        self.look(window, HalRights::ReadWrite, |this, page| {
            this.windows().write_word(page.word(word as usize)?, value)
        });
    }

    fn update(&mut self, window: &Window, word: u64, clear: u64, set: u64) {
        self.look(window, HalRights::ReadWrite, |this, page| {
            this.windows().change_word(page.word(word as usize)?, clear, set)
        });
    }

    fn read(&mut self, window: &Window, offset: u64, bytes: &mut [u8]) {
        self.look(window, HalRights::Read, |this, page| {
            this.windows().read_bytes(page, offset as usize, bytes)
        });
    }

    fn is_zero(&mut self, window: &Window) -> bool {
        let found = self.look(window, HalRights::Read, |this, page| {
            for word in 0..P::PAGE_WORDS {
                if this.windows().read_word(page.word(word as usize)?) != 0 {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        found.unwrap_or(false)
    }

    fn clear(&mut self, window: &Window) {
        self.look(window, HalRights::ReadWrite, |this, page| this.windows().clear(page));
    }

    fn copy(&mut self, from: &Window, from_offset: u64, to: &Window, to_offset: u64, bytes: u64) {
        let (from_offset, to_offset) = (from_offset as usize, to_offset as usize);
        self.look(to, HalRights::ReadWrite, |this, target| {
            if from.frame() == to.frame() {
                // It is open already.
                let page = (target, from_offset);
                return this.windows().copy(page, (target, to_offset), bytes as usize);
            }
            this.look(from, HalRights::Read, |this, source| {
                let (from, to) = ((source, from_offset), (target, to_offset));
                this.windows().copy(from, to, bytes as usize)
            });
            Ok(())
        });
    }
}
