//! The simulated machine with the page allocator, and guests' processors: what domains stand on in
//! tests and benchmarks.
//!
//! Page tables, records of pages and everything that is checked are the abstraction layer's, the free
//! memory is the allocator's. Here is what a test needs around them: guests' processors, which keep
//! translations until they are told; what other processors do at awkward moments; a log of windows;
//! and checks that panic where the hypervisor breaks a rule of the interface.
//!
//! `BITS` is log2 of the entries of a table, `WORDS` the words of a page that are used: 9 and 512 as
//! on x86-64, or less, so that small machines have large pages, too.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;

use heliox_hal::audit::{self, Duplicate};
use heliox_hal::cpu::{CpuIndex, CurrentCpu};
use heliox_hal::domain::{DomainId as HalDomainId, Owner as HalOwner};
use heliox_hal::entry::{Entry, Nested, RootKind};
use heliox_hal::geometry::Geometry;
use heliox_hal::memory::{Ownership, Paging, PhysicalMemory};
use heliox_hal::page::Status;
use heliox_hal::share::Share as Token;
use heliox_hal::simulated::{Caching, Simulated, SimulatedMemory, Strictness};
use heliox_hal::translation::Invalidation;
use heliox_memory::{Parts, Progress};
use heliox_page_alloc::{CpuCache, Node, Order as BlockOrder, PageAllocator};
use heliox_types::{Frame, PAGE_BITS, PAGE_BYTES, PhysicalAddress};
use heliox_vm::access::{Purpose, Window};
use heliox_vm::backing::{Refused, Rights, Translation};
use heliox_vm::machine::{MachineBacking, MachinePages, Platform, Share};
use heliox_vm::{Backing, DomainId, Extent, GuestFrame, KernelMemory, Order, Progress as Removal};

/// Levels of page tables.
const LEVELS: u32 = 4;
/// The abstraction layer's number of domain 0.
const FIRST: u16 = 100;
/// Domains on a machine.
const DOMAINS: u16 = 8;
const PROCESSORS: usize = 2;

/// Page tables with this many bits of index in each of four levels. The host's own half is most of
/// the address space, so that the window has room for as many frames as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tables<const BITS: u32>;

impl<const BITS: u32> Geometry for Tables<BITS> {
    const LEVELS: u32 = LEVELS;
    const INDEX_BITS: u32 = BITS;
    const LEAF_LEVELS: u32 = 3;
    const USER_ENTRIES: usize = 1;
    const USER_END: u64 = (1 << (PAGE_BITS + 3 * BITS)) - PAGE_BYTES;
}

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Nobody,
    Domain(DomainId),
    /// A domain's paging pool: a table, or to become one.
    Tables(DomainId),
}

/// Accesses, by what was accessed. Clearing is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accesses {
    /// Entries of page tables.
    pub(crate) tables: u64,
    /// Records of pages.
    pub(crate) status: u64,
    /// Cache lines of such records.
    pub(crate) lines: u64,
    /// Words of domains' pages.
    pub(crate) memory: u64,
    /// Entries of the window through which those are seen.
    pub(crate) window: u64,
}

impl Accesses {
    fn zip(self, other: Self, each: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            tables: each(self.tables, other.tables),
            status: each(self.status, other.status),
            lines: each(self.lines, other.lines),
            memory: each(self.memory, other.memory),
            window: each(self.window, other.window),
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.tables + self.status + self.memory + self.window
    }

    /// The same, with records that lie together counted as what a processor fetches at once.
    pub(crate) fn total_lines(self) -> u64 {
        self.tables + self.lines + self.memory + self.window
    }
}

/// A translation that a processor keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    frame: u64,
    writable: bool,
}

/// Something that another processor does at an awkward moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Race {
    /// Just before a domain's translations are flushed, it writes a word by one that it kept.
    BeforeSettling { guest: u64, word: u64, value: u64 },
    /// After a word of a grant table was read, it changes (to `value`, which is then counted up in
    /// the bits of the frame's number), `times` times.
    AfterReading { frame: u64, word: u64, value: u64, step: u64, times: u32 },
}

fn cpu() -> CurrentCpu {
    CurrentCpu::simulated(CpuIndex::BOOT)
}

/// The simulated machine, and the processors on which guests run.
#[derive(Debug)]
pub(crate) struct Host<const BITS: u32, const WORDS: usize> {
    memory: SimulatedMemory<Tables<BITS>>,
    /// By root and guest frame.
    processors: Vec<HashMap<(u64, u64), Cached>>,
    race: Option<Race>,
}

impl<const BITS: u32, const WORDS: usize> Platform for Host<BITS, WORDS> {
    const LEVEL_BITS: u32 = BITS;
    // Of the large machine all that can be: guest-physical addresses are the positive ones.
    const GUEST_BITS: u32 = if BITS < 9 { PAGE_BITS + LEVELS * BITS } else { 47 };
    const PAGE_WORDS: u64 = WORDS as u64;
    const MOST_USES: u32 = if WORDS < 512 { 3 } else { 1 << 16 };

    type Memory = SimulatedMemory<Tables<BITS>>;

    fn memory(&self) -> &Self::Memory {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut Self::Memory {
        &mut self.memory
    }

    fn cpu(&self) -> CurrentCpu {
        cpu()
    }

    fn settle(&mut self, root: Frame, removed: Invalidation) {
        if let Some(Race::BeforeSettling { guest, word, value }) = self.race {
            self.race = None;
            self.touch(1, root, guest, word, Some(value));
        }
        for processor in 0..PROCESSORS {
            let mut kept = std::mem::take(&mut self.processors[processor]);
            kept.retain(|(of, guest), cached| {
                let now = self.mapped(root, *guest);
                *of != root.number()
                    || now.is_some_and(|(frame, writable, _)| Cached { frame, writable } == *cached)
            });
            self.processors[processor] = kept;
        }
        while !self.memory.is_complete(removed) {
            let owing: Vec<_> = self.memory.owing_cpus().collect();
            owing.into_iter().for_each(|cpu| self.memory.enter(CurrentCpu::simulated(cpu)));
        }
    }
}

impl<const BITS: u32, const WORDS: usize> Host<BITS, WORDS> {
    fn peek(&self, frame: u64, word: u64) -> u64 {
        self.memory.machine().peek(Frame::new(frame).unwrap(), word as usize)
    }

    fn poke(&mut self, frame: u64, word: u64, value: u64) {
        self.memory.machine_mut().poke(Frame::new(frame).unwrap(), word as usize, value);
    }

    /// The entries on the way to what a page map has at a guest frame, each with its place.
    fn walk(&self, root: Frame, guest: u64) -> impl Iterator<Item = (u32, u64, u64, Entry)> {
        let mut table = Some(root.number());
        (0..LEVELS).rev().map_while(move |level| {
            let index = guest >> (BITS * level) & ((1 << BITS) - 1);
            let at = table?;
            let entry = Entry(self.peek(at, index));
            let is_table = level > 0 && Nested::is_table(entry);
            table = is_table.then(|| Nested::frame(entry).number());
            Nested::is_present(entry).then_some((level, at, index, entry))
        })
    }

    /// What a page map has at a guest frame: the frame, whether it can be written, whether it is
    /// another's.
    fn mapped(&self, root: Frame, guest: u64) -> Option<(u64, bool, bool)> {
        let (level, _, _, entry) = self.walk(root, guest).last()?;
        if level > 0 && Nested::is_table(entry) {
            return None;
        }
        let offset = guest & ((1 << (BITS * level)) - 1);
        let attributes = Nested::attributes(entry);
        let frame = Nested::frame(entry).number() + offset;
        Some((frame, attributes.rights.allows_write(), attributes.foreign))
    }

    /// A processor reads a word, or writes one; by a translation that it kept, if it has one.
    fn touch(
        &mut self,
        processor: usize,
        root: Frame,
        guest: u64,
        word: u64,
        value: Option<u64>,
    ) -> Option<u64> {
        let key = (root.number(), guest);
        let cached = match self.processors[processor].get(&key) {
            Some(cached) => *cached,
            None => {
                let (frame, writable, _) = self.mapped(root, guest)?;
                // It marks what it finds.
                let way: Vec<_> = self.walk(root, guest).collect();
                for (_, table, index, entry) in way {
                    self.poke(table, index, entry.0 | Nested::ACCESSED);
                }
                let cached = Cached { frame, writable };
                self.processors[processor].insert(key, cached);
                cached
            }
        };
        match value {
            Some(value) if cached.writable => self.poke(cached.frame, word, value),
            Some(_) => return None,
            None => {}
        }
        Some(self.peek(cached.frame, word))
    }
}

type Below<const BITS: u32, const WORDS: usize> = MachineBacking<'static, Host<BITS, WORDS>, Heap>;

pub(crate) struct Machine<const BITS: u32, const WORDS: usize> {
    backing: Below<BITS, WORDS>,
    frames: Range<u64>,
    /// Copies of the tokens of all shares that exist, for the audit.
    shares: Vec<Token>,
    seen: Option<Vec<(Purpose, DomainId, u64)>>,
    taken: Vec<(u32, u64)>,
    /// Accesses for clearing pages that stay their domain's, and by tests themselves.
    excluded: Accesses,
}

impl<const BITS: u32, const WORDS: usize> Machine<BITS, WORDS> {
    /// A machine with so many frames for domains.
    pub(crate) fn new(frames: u64) -> Self {
        let words = |total| PageAllocator::<MachinePages<Host<BITS, WORDS>>>::metadata_words(total);
        // The allocator's records are in memory of the host, but have their place.
        let records = |total| (words(total) as u64 * 8).div_ceil(PAGE_BYTES);
        let build = |total| {
            let builder = Simulated::<Tables<BITS>>::builder(total).kernel_frames(records(total));
            let caching = Caching { speculative: false, private_window: false };
            builder.caching(caching).strictness(Strictness::Panic).processors(PROCESSORS).build()
        };
        // The environment grows with the machine.
        let mut total = frames + 2;
        let machine = loop {
            match build(total) {
                Ok(machine) if machine.free_frames().count() >= frames => break machine,
                Ok(machine) => total += frames - machine.free_frames().count(),
                Err(_) if total < 2 * frames + 100 => total += 1,
                Err(error) => panic!("{frames} frames: {error}"),
            }
        };
        let mut layout = machine.boot_layout();
        let free = machine.free_frames();
        let free = heliox_types::FrameRange::new(free.end() - frames, free.end()).unwrap();
        layout.free = vec![free];
        let mut memory = SimulatedMemory::simulated(machine, layout).unwrap();
        if BITS == 9 || frames.is_multiple_of(2) {
            // Memory that was cleared since the boot. If not, it is when it is given away.
            let regions: Vec<_> = memory.initial_regions().collect();
            for mut parts in regions.into_iter().map(Parts::new) {
                let mut release = |part| memory.release(cpu(), part, HalDomainId::ZERO);
                while parts.step(&mut release) == Ok(Progress::More) {}
            }
        }
        let processors = vec![HashMap::new(); PROCESSORS];
        let pages = MachinePages::new(Host { memory, processors, race: None });
        let machine = heliox_page_alloc::Machine {
            max_page: total,
            max_dma_page: 0,
            dma_emergency_pages: 0,
            scrub_limit: 1 << BITS,
            nodes: &[],
        };
        let order = BlockOrder::new(BITS).unwrap();
        let cache = CpuCache::with_large_order(Node::ZERO, order);
        let records = Box::leak(vec![0; words(total)].into());
        let mut allocator =
            PageAllocator::new(machine, pages, records, Box::leak(Box::new([cache]))).unwrap();
        allocator.init_boot_allocator(Frame::ZERO).unwrap();
        let [start, end] = [free.start(), free.end()]
            .map(|frame| PhysicalAddress::new(frame << PAGE_BITS).unwrap());
        allocator.init_domheap_pages(start, end).unwrap();
        let heap = Heap(Rc::new(Cell::new(u64::MAX)));
        let first = HalDomainId::new(FIRST).unwrap();
        let backing = MachineBacking::new(allocator, heap, first, DOMAINS, total).unwrap();
        let frames = free.start()..free.end();
        let (shares, taken, excluded) = (Vec::new(), Vec::new(), Accesses::default());
        Self { backing, frames, shares, seen: None, taken, excluded }
    }

    fn host(&self) -> &Host<BITS, WORDS> {
        self.backing.platform()
    }

    // What tests look at.

    /// How many frames there are for domains.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.end - self.frames.start
    }

    /// Those frames.
    pub(crate) fn all(&self) -> Range<u64> {
        self.frames.clone()
    }

    pub(crate) fn owner(&self, frame: u64) -> Owner {
        let state = self.host().memory.state();
        let frame = Frame::new(frame).unwrap();
        let domain = match state.owner(frame) {
            // What the boot left.
            HalOwner::Nobody | HalOwner::Domain(HalDomainId::ZERO) => return Owner::Nobody,
            HalOwner::Domain(domain) => DomainId::new(domain.number() - FIRST).unwrap(),
            HalOwner::Hypervisor => panic!("{frame} is the hypervisor's"),
        };
        match state.page(frame).status() {
            Status::Normal => Owner::Domain(domain),
            Status::PageMapPage | Status::PageTable | Status::PageMapRoot => Owner::Tables(domain),
            other => panic!("{frame} of domain {domain} is {other:?}"),
        }
    }

    /// Pages with this owner, counted one by one.
    pub(crate) fn count(&self, owner: Owner) -> u64 {
        self.all().filter(|frame| self.owner(*frame) == owner).count() as u64
    }

    /// Stretches of free memory.
    pub(crate) fn free(&self) -> BTreeMap<u64, u64> {
        let mut free: BTreeMap<u64, u64> = BTreeMap::new();
        let mut start = None;
        for frame in self.all() {
            if self.owner(frame) == Owner::Nobody {
                *free.entry(*start.get_or_insert(frame)).or_default() += 1;
            } else {
                start = None;
            }
        }
        free
    }

    pub(crate) fn claims(&self) -> BTreeMap<DomainId, u64> {
        let domains = (0..DOMAINS).filter_map(DomainId::new);
        let domains = domains.filter(|domain| self.backing.page_map(*domain).is_some());
        domains.map(|domain| (domain, self.backing.claimed(domain))).collect()
    }

    /// All shares that exist.
    pub(crate) fn live_shares(&self) -> u64 {
        self.shares.len() as u64
    }

    /// Whether a share of a domain's frame exists.
    pub(crate) fn is_used(&self, frame: u64) -> bool {
        self.backing.allocator().references(Frame::new(frame).unwrap()).unwrap() > 1
    }

    /// Pages of a paging pool that are not tables now.
    pub(crate) fn spare_tables(&self, domain: DomainId) -> u64 {
        self.backing.spare_tables(domain).count() as u64
    }

    /// Number of accesses since they were last asked for.
    pub(crate) fn take_accesses(&mut self) -> Accesses {
        let counted = self.accesses();
        self.backing.platform_mut().memory.machine_mut().reset_counts();
        let excluded = std::mem::take(&mut self.excluded);
        counted.zip(excluded, |all, excluded| all - excluded)
    }

    fn accesses(&self) -> Accesses {
        let counts = self.host().memory.machine().counts();
        let words = counts.memory_reads + counts.memory_writes;
        Accesses {
            tables: counts.table_reads + counts.table_writes,
            status: counts.status_accesses,
            lines: counts.status_lines,
            memory: words - counts.pages_cleared * PAGE_BYTES / 8,
            // A page is opened and closed for it.
            window: counts.window_changes.saturating_sub(2 * counts.pages_cleared),
        }
    }

    /// The pages that were looked into since this was last asked; from the first time on.
    pub(crate) fn take_seen(&mut self) -> Vec<(Purpose, DomainId, u64)> {
        self.seen.replace(Vec::new()).unwrap_or_default()
    }

    /// The blocks that domains were given since this was last asked: order and first frame.
    pub(crate) fn take_taken(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.taken)
    }

    pub(crate) fn set_race(&mut self, race: Option<Race>) {
        self.backing.platform_mut().race = race;
    }

    pub(crate) fn race(&self) -> Option<Race> {
        self.host().race
    }

    pub(crate) fn word(&self, frame: u64, word: u64) -> u64 {
        self.host().peek(frame, word)
    }

    pub(crate) fn page(&self, frame: u64) -> [u64; WORDS] {
        if self.host().memory.machine().is_clear(Frame::new(frame).unwrap()) {
            return [0; WORDS];
        }
        std::array::from_fn(|word| self.word(frame, word as u64))
    }

    /// What a domain's page map has at a guest frame: the frame, whether it can be written, whether
    /// it is another's.
    pub(crate) fn mapped(&self, domain: DomainId, guest: u64) -> Option<(u64, bool, bool)> {
        self.host().mapped(self.backing.page_map(domain)?.root(), guest)
    }

    /// A processor of a domain reads a word, or writes one; by a translation that it kept, if it
    /// has one. `None` if its page map has nothing there, or nothing to be written.
    pub(crate) fn touch(
        &mut self,
        processor: usize,
        domain: DomainId,
        guest: u64,
        word: u64,
        value: Option<u64>,
    ) -> Option<u64> {
        let root = self.backing.page_map(domain)?.root();
        self.backing.platform_mut().touch(processor, root, guest, word, value)
    }

    /// Check what the layers below say of each other: the allocator's free memory is what the
    /// abstraction layer takes for free, and the invariants of both.
    pub(crate) fn check_below(&self) {
        let (allocator, memory) = (self.backing.allocator(), &self.host().memory);
        assert_eq!(self.backing.contradictions(), 0);
        assert_eq!(allocator.avail_domheap_pages(), Ok(self.count(Owner::Nobody)));
        for frame in self.all() {
            let attributes = allocator.attributes(Frame::new(frame).unwrap()).unwrap();
            let is_free = self.owner(frame) == Owner::Nobody;
            assert_eq!(attributes.allocated, !is_free, "{frame:#x}");
        }
        assert_eq!(memory.machine().violations(), []);
    }

    /// Check all invariants of the abstraction layer, with all handles that there are.
    pub(crate) fn audit(&self) {
        let domains = || (0..DOMAINS).filter_map(DomainId::new);
        let handles = audit::Handles {
            nested: domains().filter_map(|domain| self.backing.page_map(domain)).collect(),
            pages: domains().flat_map(|domain| self.backing.spare_tables(domain)).collect(),
            shares: self.shares.iter().collect(),
            ..audit::Handles::default()
        };
        assert_eq!(audit::check(&self.host().memory, &handles), Ok(()));
    }

    // The model's view of free memory.

    /// Where the lowest free block of `order` is.
    pub(crate) fn lowest_free(free: &BTreeMap<u64, u64>, order: u32) -> Option<u64> {
        let size = 1 << order;
        free.iter().find_map(|(start, length)| {
            let block = start.next_multiple_of(size);
            (block + size <= start + length).then_some(block)
        })
    }

    /// Take `count` frames from `start` on out of the free ones.
    pub(crate) fn take_free(free: &mut BTreeMap<u64, u64>, start: u64, count: u64) {
        let (run, length) =
            free.range(..=start).next_back().map(|(run, length)| (*run, *length)).unwrap();
        assert!(start + count <= run + length, "{start:#x} is not free");
        free.remove(&run);
        if run < start {
            free.insert(run, start - run);
        }
        if start + count < run + length {
            free.insert(start + count, run + length - start - count);
        }
    }

    // What the interface promises.

    /// No processor reaches these frames, by a page map of `domain` or of anybody.
    fn check_unreached(&self, frames: &Range<u64>, domain: Option<DomainId>, what: &str) {
        let root = domain.map(|domain| self.backing.page_map(domain).unwrap().root().number());
        let kept = self.host().processors.iter().flatten();
        let kept = kept.filter(|((of, _), _)| root.is_none_or(|root| root == *of));
        let stale = kept.filter(|(_, cached)| frames.contains(&cached.frame)).count();
        assert_eq!(stale, 0, "{what} {frames:?} while a processor reaches it");
    }

    /// Do not count what was done since `before`.
    fn exclude(&mut self, before: Accesses) {
        let done = self.accesses().zip(before, |after, before| after - before);
        self.excluded = self.excluded.zip(done, |all, done| all + done);
    }

    fn look(&mut self, window: &Window) {
        let before = self.accesses();
        let frame = window.frame().number();
        let owner = Owner::Domain(window.owner());
        assert_eq!(self.owner(frame), owner, "a window onto another's page: {window:?}");
        if let Some(seen) = &mut self.seen {
            seen.push((window.purpose(), window.owner(), frame));
        }
        self.exclude(before);
    }
}

impl<const BITS: u32, const WORDS: usize> Backing for Machine<BITS, WORDS> {
    const LEVEL_BITS: u32 = Below::<BITS, WORDS>::LEVEL_BITS;
    const PAGE_WORDS: u64 = Below::<BITS, WORDS>::PAGE_WORDS;
    const MOST_USES: u32 = Below::<BITS, WORDS>::MOST_USES;
    const MOST_FRAMES: u64 = Below::<BITS, WORDS>::MOST_FRAMES;

    type Share = Share;

    fn add_domain(&mut self, domain: DomainId, tables: u64) -> Result<(), Refused> {
        self.backing.add_domain(domain, tables)
    }

    fn remove_domain(&mut self, domain: DomainId) -> Result<Removal, Refused> {
        let root = self.backing.page_map(domain).unwrap().root().number();
        let mut kept = self.host().processors.iter().flatten();
        assert!(kept.all(|((of, _), _)| *of != root), "domain {domain} is in a TLB");
        self.backing.remove_domain(domain)
    }

    fn claim(&mut self, domain: DomainId, pages: u64) -> Result<(), Refused> {
        self.backing.claim(domain, pages)
    }

    fn claimed(&self, domain: DomainId) -> u64 {
        self.backing.claimed(domain)
    }

    fn take(&mut self, domain: DomainId, order: Order) -> Result<Frame, Refused> {
        let frame = self.backing.take(domain, order)?;
        self.taken.push((order.number(), frame.number()));
        Ok(frame)
    }

    fn give_back(&mut self, domain: DomainId, frame: Frame, order: Order) -> Result<(), Refused> {
        let frames = frame.number()..frame.number() + order.pages();
        self.check_unreached(&frames, None, "freed");
        self.backing.give_back(domain, frame, order)
    }

    fn map(&mut self, domain: DomainId, to: Extent, frame: Frame) -> Result<(), Refused> {
        self.backing.map(domain, to, frame)
    }

    fn unmap(&mut self, domain: DomainId, from: Extent) -> Result<Frame, Refused> {
        self.backing.unmap(domain, from)
    }

    fn settle(&mut self, domain: DomainId) {
        self.backing.settle(domain);
    }

    fn translate(&mut self, domain: DomainId, guest: GuestFrame) -> Translation {
        self.backing.translate(domain, guest)
    }

    fn is_shared(&mut self, frame: Frame, order: Order) -> bool {
        self.backing.is_shared(frame, order)
    }

    fn share(
        &mut self,
        owner: DomainId,
        frame: Frame,
        grantee: DomainId,
        rights: Rights,
    ) -> Result<Share, Refused> {
        let share = self.backing.share(owner, frame, grantee, rights)?;
        self.shares.push(share.token().duplicate());
        Ok(share)
    }

    fn end_share(&mut self, share: Share) {
        let (frame, grantee) = (share.frame().number(), share.grantee());
        let place = self.shares.iter().position(|token| token == share.token());
        drop(self.shares.swap_remove(place.unwrap()));
        self.backing.end_share(share);
        // Another share for the same grantee can be the reason.
        if self.backing.page_map(grantee).is_some() && !self.is_used(frame) {
            self.check_unreached(&(frame..frame + 1), Some(grantee), "a use ended of");
        }
    }

    fn map_share(&mut self, share: &Share, to: GuestFrame) -> Result<(), Refused> {
        self.backing.map_share(share, to)
    }

    fn unmap_share(&mut self, share: &Share, from: GuestFrame) -> Result<(), Refused> {
        self.backing.unmap_share(share, from)
    }

    fn load(&mut self, window: &Window, word: u64) -> u64 {
        self.look(window);
        let found = self.backing.load(window, word);
        let of = window.frame().number();
        let host = self.backing.platform_mut();
        if let Some(Race::AfterReading { frame, word: at, value, step, times }) = host.race
            && window.purpose() == Purpose::GrantTable
            && (frame, at) == (of, word)
        {
            host.poke(frame, word, value);
            let (value, left) = (value.wrapping_add(step), times - 1);
            let next = Race::AfterReading { frame, word, value, step, times: left };
            host.race = (left > 0).then_some(next);
        }
        found
    }

    fn store(&mut self, window: &Window, word: u64, value: u64) {
        self.look(window);
        self.backing.store(window, word, value);
    }

    fn update(&mut self, window: &Window, word: u64, clear: u64, set: u64) {
        self.look(window);
        self.backing.update(window, word, clear, set);
    }

    fn read(&mut self, window: &Window, offset: u64, bytes: &mut [u8]) {
        self.look(window);
        self.backing.read(window, offset, bytes);
    }

    fn is_zero(&mut self, window: &Window) -> bool {
        self.look(window);
        self.backing.is_zero(window)
    }

    fn clear(&mut self, window: &Window) {
        self.look(window);
        let before = self.accesses();
        self.backing.clear(window);
        self.exclude(before);
    }

    fn copy(&mut self, from: &Window, from_offset: u64, to: &Window, to_offset: u64, bytes: u64) {
        self.look(from);
        self.look(to);
        self.backing.copy(from, from_offset, to, to_offset, bytes);
    }
}

/// Kernel memory, of which there can be too little: how many slices can still be had.
#[derive(Clone, Debug)]
pub(crate) struct Heap(pub(crate) Rc<Cell<u64>>);

impl KernelMemory for Heap {
    type Slice<T> = Vec<T>;

    fn slice<T>(&mut self, count: usize, make: impl FnMut() -> T) -> Option<Vec<T>> {
        self.0.set(self.0.get().checked_sub(1)?);
        Some(std::iter::repeat_with(make).take(count).collect())
    }
}
