//! The allocator against the model: random sequences of all operations, wrong ones included.
//!
//! Each episode makes a new small machine (some hundred pages, up to three nodes and CPUs) and
//! runs some hundred operations on the allocator and the model. After *every* operation (but in
//! the bursts `scatter`, `flood` and `exhaust_references` not after each of theirs), every
//! attribute of every page, every sum, and every free block of the two are compared, so that the
//! invariants hold at each step: free blocks and attributes agree; a page has at most one holder;
//! pages of a zone add up; buddies are merged as far as possible (but for pages in CPUs' caches);
//! zones are not mixed; no page reaches an owner with another's data in it.
//!
//! `HELIOX_ORACLE_SEED` and `HELIOX_ORACLE_OPERATIONS` choose other sequences.

mod common;

use std::collections::BTreeMap;

use common::model::{DomainRecord, Model, Phase};
use common::{FIRST_DOMAIN, HYPERVISOR, Random, TestPages, frame};
use heliox_page_alloc::{
    Cpu, CpuCache, Domain, DomainBlock, Event, HeapBlock, Machine, MemoryFlags, Node, NodeFlag,
    NodeRange, Offlined, Order, PageAllocator, Refused, Zone,
};
use heliox_types::{FrameRange, PhysicalAddress};

const OPERATIONS: u64 = 1_000_000;
/// Operations on one machine.
const EPISODE: u64 = 700;
/// How often each operation must succeed, and each event occur, in a run of [`OPERATIONS`].
const AT_LEAST: u64 = 1000;
const DOMAINS: usize = 4;

/// How often each operation succeeded, and each event occurred.
#[derive(Default)]
struct Counts {
    successes: BTreeMap<&'static str, u64>,
    events: BTreeMap<String, u64>,
}

impl Counts {
    fn note<T>(&mut self, operation: &'static str, result: &Result<T, Event>) {
        let successes = self.successes.entry(operation).or_default();
        match result {
            Ok(_) => *successes += 1,
            Err(event) => {
                let name = format!("{event:?}");
                let name = name.split([' ', '{']).next().unwrap_or_default();
                *self.events.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
}

/// All operations, by name.
const ALL_OPERATIONS: &[&str] = &[
    "init_boot_allocator",
    "allocated_in_map",
    "map_alloc",
    "map_free",
    "init_boot_pages",
    "alloc_boot_pages_at",
    "alloc_boot_pages",
    "end_boot_allocator",
    "init_heap_pages",
    "free_heap_pages",
    "free_heap_pages_on",
    "alloc_heap_pages",
    "alloc_heap_pages_on",
    "heap_block_at",
    "split_heap_block",
    "avail_heap_pages",
    "avail_heap_pages_on",
    "scrub_heap_pages",
    "dump_heap",
    "offline_page",
    "drain_caches",
    "init_xenheap_pages",
    "alloc_xenheap_pages",
    "alloc_xenheap_pages_on",
    "free_xenheap_pages",
    "free_xenheap_pages_on",
    "xenheap_block_at",
    "init_domheap_pages",
    "assign_pages",
    "alloc_domheap_pages",
    "alloc_domheap_pages_on",
    "alloc_domheap_pages_unassigned",
    "avail_domheap_pages",
    "avail_dma_emergency_pages",
    "free_domheap_pages",
    "free_domheap_pages_on",
    "domheap_block_at",
    "split_domheap_block",
    "get_page",
    "put_page",
    "claim_pages",
    "begin_dying",
    "page_scrub_softirq",
    "avail_scrub_pages",
    "scrub_block_at",
    "mfn_to_page",
    "attributes",
];

/// All events. A missing one fails the run.
const ALL_EVENTS: &[&str] = &[
    "AlreadyInitialised",
    "NotInitialised",
    "BootEnded",
    "NotLegalAddress",
    "PagesAlreadyAllocated",
    "PagesNotAllocated",
    "RequestTooLarge",
    "BadZone",
    "UnknownZone",
    "UnknownNode",
    "UnknownCpu",
    "NoSuitableBlock",
    "EmptyRange",
    "DomainDying",
    "QuotaExceeded",
    "NotOwner",
    "NotAssigned",
    "NoAddress",
    "BadPage",
    "HoldsMap",
    "ScrubPending",
    "StillReferenced",
    "TooManyReferences",
    "LastReference",
    "ReservedByClaims",
    "TooMuchToScrub",
    "Refused",
    "TooManySections",
];

/// A machine, the allocator and the model.
struct Run<'m> {
    allocator: PageAllocator<'m, TestPages>,
    model: Model<'m>,
    domains: Vec<Domain<u32>>,
    next_id: u32,
    max_page: u64,
    cpus: u64,
}

#[test]
fn a_million_random_operations_agree_with_the_model() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("HELIOX_ORACLE_SEED").unwrap_or(1);
    let operations = number("HELIOX_ORACLE_OPERATIONS").unwrap_or(OPERATIONS);
    let mut counts = Counts::default();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut done = 0;
    while done < operations {
        done += episode(&mut random, &mut counts);
    }
    println!("seed {seed}: {done} operations");
    println!("{:<34} {:>10}", "operation", "succeeded");
    for name in ALL_OPERATIONS {
        let count = counts.successes.get(name).copied().unwrap_or(0);
        println!("{name:<34} {count:>10}");
    }
    println!("{:<34} {:>10}", "event", "occurred");
    for name in ALL_EVENTS {
        println!("{name:<34} {:>10}", counts.events.get(*name).copied().unwrap_or(0));
    }
    for name in counts.successes.keys() {
        assert!(ALL_OPERATIONS.contains(name), "{name} is not listed");
    }
    for name in counts.events.keys() {
        assert!(ALL_EVENTS.contains(&name.as_str()), "{name} is not listed");
    }
    if operations >= OPERATIONS {
        for name in ALL_OPERATIONS {
            let count = counts.successes.get(name).copied().unwrap_or(0);
            assert!(count >= AT_LEAST, "{name} succeeded only {count} times");
        }
        for name in ALL_EVENTS {
            let count = counts.events.get(*name).copied().unwrap_or(0);
            assert!(count >= AT_LEAST, "{name} occurred only {count} times");
        }
    }
}

/// A random machine, and random operations on it; how many.
fn episode(random: &mut Random, counts: &mut Counts) -> u64 {
    let max_page = 96 + random.below(192);
    let mut nodes = Vec::new();
    let mut start = random.below(40);
    for _ in 0..random.below(4) {
        let end = start + 1 + random.below(150);
        nodes.push(NodeRange {
            frames: FrameRange::new(start, end).unwrap(),
            node: Node::new(random.below(3) as u32).unwrap(),
        });
        start = end + random.below(2) * random.below(60);
    }
    let machine = Machine {
        max_page,
        max_dma_page: random.below(max_page + 20),
        dma_emergency_pages: random.below(40),
        scrub_limit: 1 << random.below(6),
        nodes: &nodes,
    };
    let words = PageAllocator::<TestPages>::metadata_words(max_page);
    let mut metadata = vec![0; words];
    let mut caches: Vec<CpuCache> = (0..1 + random.below(3))
        .map(|_| {
            let node = Node::new(random.below(3) as u32).unwrap();
            // There are no blocks of 2 MiB.
            CpuCache::with_large_order(node, Order::new(random.below(5) as u32).unwrap())
        })
        .collect();
    let cpus: Vec<Node> = caches.iter().map(CpuCache::node).collect();
    let own = (words as u64 * 8).div_ceil(4096);
    let model = Model::new(machine, cpus.clone(), own);
    let allocator =
        PageAllocator::new(machine, TestPages::new(max_page), &mut metadata, &mut caches).unwrap();
    let mut run = Run {
        allocator,
        model,
        domains: Vec::new(),
        next_id: FIRST_DOMAIN,
        max_page,
        cpus: cpus.len() as u64,
    };
    for _ in 0..DOMAINS {
        run.new_domain(random, None);
    }

    // Nothing works before initialisation.
    let before = 8;
    for _ in 0..before {
        run.operation(random, counts);
        run.compare_all();
    }
    while run.model.phase == Phase::Uninitialised {
        run.init_boot_allocator(random, counts);
        run.compare_all();
    }
    // Most memory becomes free before the heaps exist.
    let boot = 20 + random.below(80);
    for step in 0..boot {
        if step % 8 == 0 {
            run.init_boot_pages(random, counts);
        } else if step % 2 == 0 {
            run.boot_operation(random, counts);
        } else {
            run.operation(random, counts);
        }
        run.compare_all();
    }
    if random.once_in(10) {
        run.scatter(random, counts);
    }
    run.end_boot_allocator(counts);
    run.compare_all();
    for _ in 0..EPISODE - before - boot {
        if run.model.phase == Phase::Boot && random.once_in(8) {
            run.end_boot_allocator(counts);
        } else {
            run.operation(random, counts);
        }
        run.compare_all();
    }
    EPISODE
}

impl Run<'_> {
    fn new_domain(&mut self, random: &mut Random, place: Option<usize>) {
        let id = self.next_id;
        self.next_id += 1;
        let max_pages = random.below(self.max_page);
        let record = DomainRecord { id, dying: false, max_pages, total_pages: 0, claimed: 0 };
        match place {
            Some(place) => {
                self.domains[place] = Domain::new(id, max_pages);
                self.model.domains[place] = record;
            }
            None => {
                self.domains.push(Domain::new(id, max_pages));
                self.model.domains.push(record);
            }
        }
    }

    // Random arguments, now and then wrong.

    fn page(&self, random: &mut Random) -> u64 {
        if random.once_in(40) {
            self.max_page + random.below(20)
        } else {
            random.below(self.max_page)
        }
    }

    fn order(&self, random: &mut Random, counts: &mut Counts) -> Option<Order> {
        let number = match random.below(40) {
            0 => random.below(24),
            1..6 => random.below(6),
            _ => random.below(4) * random.below(2),
        };
        let order = Order::new(number as u32);
        if number > 18 {
            assert_eq!(order, Err(Event::RequestTooLarge { request: number }));
            counts.note("alloc_heap_pages", &order);
        }
        order.ok()
    }

    fn zone(&self, random: &mut Random, counts: &mut Counts) -> Option<Zone> {
        let number = if random.once_in(20) { 3 } else { random.below(3) } as u32;
        let zone = Zone::try_from(number);
        if number == 3 {
            assert_eq!(zone, Err(Event::UnknownZone { number }));
            counts.note("alloc_heap_pages", &zone);
        }
        zone.ok()
    }

    fn cpu(&self, random: &mut Random) -> usize {
        if random.once_in(50) { self.cpus as usize } else { random.below(self.cpus) as usize }
    }

    fn domain(&self, random: &mut Random) -> usize {
        random.below(DOMAINS as u64) as usize
    }

    fn flags(&self, random: &mut Random) -> MemoryFlags {
        let node = Node::new(random.below(4) as u32).unwrap();
        MemoryFlags {
            no_refcount: random.once_in(8),
            dma: random.once_in(6),
            node: match random.below(10) {
                0 => NodeFlag::Prefer(node),
                1 => NodeFlag::Exactly(node),
                _ => NodeFlag::Near,
            },
        }
    }

    fn addresses(&self, random: &mut Random) -> (PhysicalAddress, PhysicalAddress) {
        let start = self.page(random);
        let end = match random.below(12) {
            0 => random.below(start + 1),
            1..8 => start + random.below(16),
            _ => (start + random.below(self.max_page)).min(self.max_page + random.below(2)),
        };
        let ragged = |page: u64, random: &mut Random| {
            let offset = if random.once_in(2) { 0 } else { random.below(4096) };
            PhysicalAddress::new(page * 4096 + offset).unwrap()
        };
        (ragged(start, random), ragged(end, random))
    }

    /// A held block, or anything.
    fn held(&self, random: &mut Random, counts: &mut Counts, xen: bool) -> Option<(u64, Order)> {
        if random.once_in(8) {
            return Some((self.page(random), self.order(random, counts)?));
        }
        let wrong = random.once_in(12);
        let blocks: Vec<(u64, Order)> = self
            .model
            .held
            .iter()
            .map(|(page, order)| (*page, *order))
            .filter(|(page, _)| !xen || self.model.page(*page).zone == Some(Zone::Xen))
            .collect();
        let (page, order) = random.pick(&blocks)?;
        // Now and then part of a block.
        let part = order.half().filter(|_| wrong);
        Some((page, part.unwrap_or(order)))
    }

    /// A domain's block and the domain, or anything.
    fn assigned(&self, random: &mut Random, counts: &mut Counts) -> Option<(u64, Order, usize)> {
        let any = self.domain(random);
        if random.once_in(8) {
            return Some((self.page(random), self.order(random, counts)?, any));
        }
        let blocks: Vec<(u64, Order)> =
            self.model.assigned.iter().map(|(page, order)| (*page, *order)).collect();
        let (page, order) = random.pick(&blocks)?;
        let owner = self.model.page(page).owner;
        let own = (0..DOMAINS).find(|place| Some(self.model.domains[*place].id) == owner);
        let domain = if random.once_in(10) { any } else { own? };
        let part = order.half().filter(|_| random.once_in(12));
        Some((page, part.unwrap_or(order), domain))
    }

    fn operation(&mut self, random: &mut Random, counts: &mut Counts) {
        match random.below(64) {
            0 => self.boot_operation(random, counts),
            1 => self.init_heap_pages(random, counts),
            2 => self.init_xenheap_pages(random, counts),
            3 => self.init_domheap_pages(random, counts),
            4 => self.init_boot_allocator(random, counts),
            5..9 => self.alloc_heap(random, counts),
            9..12 => self.alloc_xenheap(random, counts),
            12..16 => self.free_heap(random, counts),
            16..18 => self.free_xenheap(random, counts),
            18 => self.split_heap(random, counts),
            19 => self.split_domheap(random, counts),
            20..23 => self.assign_pages(random, counts),
            23..36 => self.alloc_domheap(random, counts),
            36..39 => self.alloc_unassigned(random, counts),
            39..45 => self.free_domheap(random, counts),
            45..47 => self.references(random, counts),
            47..49 => self.claim_pages(random, counts),
            49 => self.dying(random, counts),
            50..53 => self.page_scrub_softirq(random, counts),
            53 => self.scrub_block_at(random, counts),
            54 => self.scrub_heap_pages(random, counts),
            55 => self.offline_page(random, counts),
            56 => self.drain_caches(random, counts),
            57..59 => self.hardware(random),
            59 if random.once_in(4) => self.flood(random, counts),
            59 => self.change_quota(random),
            60 => self.exhaust_references(random, counts),
            _ => self.questions(random, counts),
        }
    }

    // Page map and boot-time allocator.

    fn boot_operation(&mut self, random: &mut Random, counts: &mut Counts) {
        let of_interest: Vec<u64> = (0..self.max_page)
            .filter(|page| {
                let record = self.model.page(*page);
                !record.allocated && record.zone.is_none()
            })
            .collect();
        let page = match random.pick(&of_interest) {
            Some(page) if random.once_in(2) => page,
            _ if random.once_in(3) => {
                self.model.pages.iter().position(|page| page.own).unwrap_or(0) as u64
            }
            _ => self.page(random),
        };
        let count = match random.below(20) {
            0 => u64::MAX - random.below(10),
            1 => 0,
            2..6 => random.below(20),
            _ => 1 + random.below(3),
        };
        match random.below(9) {
            0..2 => {
                let actual = self.allocator.map_alloc(frame(page), count);
                assert_eq!(actual, self.model.map_alloc(page, count));
                counts.note("map_alloc", &actual);
            }
            2..4 => {
                let actual = self.allocator.map_free(frame(page), count);
                assert_eq!(actual, self.model.map_free(page, count));
                counts.note("map_free", &actual);
            }
            4..6 => {
                let actual = self.allocator.alloc_boot_pages_at(count, frame(page));
                assert_eq!(
                    actual.map(|frame| frame.number()),
                    self.model.alloc_boot_pages_at(count, page)
                );
                counts.note("alloc_boot_pages_at", &actual);
            }
            6..8 => {
                let align = if random.once_in(8) { 3 } else { 1 << random.below(6) };
                let actual = self.allocator.alloc_boot_pages(count, align);
                assert_eq!(
                    actual.map(|frame| frame.number()),
                    self.model.alloc_boot_pages(count, align)
                );
                counts.note("alloc_boot_pages", &actual);
            }
            _ => self.init_boot_pages(random, counts),
        }
    }

    fn init_boot_allocator(&mut self, random: &mut Random, counts: &mut Counts) {
        let first = self.page(random);
        let actual = self.allocator.init_boot_allocator(frame(first));
        assert_eq!(actual.map(|frame| frame.number()), self.model.init_boot_allocator(first));
        counts.note("init_boot_allocator", &actual);
    }

    fn init_boot_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let (start, end) = self.addresses(random);
        let actual = self.allocator.init_boot_pages(start, end);
        assert_eq!(actual, self.model.init_boot_pages(start, end));
        counts.note("init_boot_pages", &actual);
    }

    fn end_boot_allocator(&mut self, counts: &mut Counts) {
        let actual = self.allocator.end_boot_allocator();
        assert_eq!(actual, self.model.end_boot_allocator());
        counts.note("end_boot_allocator", &actual);
    }

    /// Give memory to a zone in many separate stretches.
    fn scatter(&mut self, random: &mut Random, counts: &mut Counts) {
        let zone = random.pick(&Zone::ALL).unwrap();
        for page in (0..self.max_page).step_by(2 + random.below(2) as usize) {
            let actual = self.allocator.init_heap_pages(zone, frame(page), 1);
            assert_eq!(actual, self.model.init_heap_pages(zone, page, 1));
            counts.note("init_heap_pages", &actual);
        }
    }

    // Run-time allocator and Xen heap.

    fn init_heap_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some(zone) = self.zone(random, counts) else {
            return;
        };
        let page = self.page(random);
        let count = if random.once_in(20) { u64::MAX - random.below(10) } else { random.below(20) };
        let actual = self.allocator.init_heap_pages(zone, frame(page), count);
        assert_eq!(actual, self.model.init_heap_pages(zone, page, count));
        counts.note("init_heap_pages", &actual);
    }

    fn init_xenheap_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let (start, end) = self.addresses(random);
        let actual = self.allocator.init_xenheap_pages(start, end);
        assert_eq!(actual, self.model.init_xenheap_pages(start, end));
        counts.note("init_xenheap_pages", &actual);
    }

    fn init_domheap_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let (start, end) = self.addresses(random);
        let actual = self.allocator.init_domheap_pages(start, end);
        assert_eq!(actual, self.model.init_domheap_pages(start, end));
        counts.note("init_domheap_pages", &actual);
    }

    fn alloc_heap(&mut self, random: &mut Random, counts: &mut Counts) {
        let (Some(zone), Some(order)) = (self.zone(random, counts), self.order(random, counts))
        else {
            return;
        };
        if random.once_in(2) {
            let actual = self.allocator.alloc_heap_pages(zone, order);
            let expected = self.model.ready().map(|()| Node::ZERO);
            let result = self.held_block(expected, actual, zone, order);
            counts.note("alloc_heap_pages", &result);
        } else {
            let cpu = self.cpu(random);
            let actual = self.allocator.alloc_heap_pages_on(Cpu(cpu), zone, order);
            let expected = self.model.ready().and_then(|()| self.model.cpu(cpu));
            let result = self.held_block(expected, actual, zone, order);
            counts.note("alloc_heap_pages_on", &result);
        }
    }

    fn alloc_xenheap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some(order) = self.order(random, counts) else {
            return;
        };
        // The types differ, the blocks do not.
        let forge = |allocator: &PageAllocator<'_, TestPages>, page, order| {
            allocator.heap_block_at(Zone::Xen, page, order).unwrap()
        };
        if random.once_in(2) {
            let actual = self.allocator.alloc_xenheap_pages(order);
            let actual = actual.map(|block| {
                let (page, order) = block.into_frame();
                forge(&self.allocator, page, order)
            });
            let expected = self.model.ready().map(|()| Node::ZERO);
            let result = self.held_block(expected, actual, Zone::Xen, order);
            counts.note("alloc_xenheap_pages", &result);
        } else {
            let cpu = self.cpu(random);
            let actual = self.allocator.alloc_xenheap_pages_on(Cpu(cpu), order);
            let actual = actual.map(|block| {
                let (page, order) = block.into_frame();
                forge(&self.allocator, page, order)
            });
            let expected = self.model.ready().and_then(|()| self.model.cpu(cpu));
            let result = self.held_block(expected, actual, Zone::Xen, order);
            counts.note("alloc_xenheap_pages_on", &result);
        }
    }

    /// Check the answer to a request for a block of `zone` that belongs to no domain, and follow
    /// it.
    fn held_block(
        &mut self,
        expected: Result<Node, Event>,
        actual: Result<HeapBlock, Event>,
        zone: Zone,
        order: Order,
    ) -> Result<u64, Event> {
        let any = |_| true;
        let expected = expected.and_then(|_| {
            if self.model.suitable(zone, order, any) {
                Ok(())
            } else {
                Err(Event::NoSuitableBlock { request: u64::from(order.number()) })
            }
        });
        match (expected, actual) {
            (Err(expected), actual) => {
                assert_eq!(actual.as_ref().err(), Some(&expected));
                Err(expected)
            }
            (Ok(()), Err(event)) => {
                self.check_refusal(event, zone, order);
                Err(event)
            }
            (Ok(()), Ok(block)) => Ok(self.take_held(block, zone, order, any)),
        }
    }

    /// A block that belongs to no domain was handed out: check that it may be.
    fn take_held(
        &mut self,
        block: HeapBlock,
        zone: Zone,
        order: Order,
        nodes: impl Fn(Node) -> bool,
    ) -> u64 {
        let (first, given) = block.into_frame();
        let start = first.number();
        assert_eq!(given, order);
        assert!(self.model.is_suitable(zone, start, order, nodes), "{start}");
        self.model.hold(start, order);
        for page in start..start + order.pages() {
            let page = &mut self.allocator.pages_mut().pages[page as usize];
            if zone != Zone::Xen {
                assert_eq!(page.owner, HYPERVISOR);
            }
            page.content = HYPERVISOR;
        }
        start
    }

    /// Take many single pages and free them on one CPU, so that its cache overflows.
    fn flood(&mut self, random: &mut Random, counts: &mut Counts) {
        let (zone, cpu) = (random.pick(&Zone::ALL).unwrap(), self.cpu(random));
        let mut pages = Vec::new();
        for _ in 0..CpuCache::CAPACITY + 40 {
            let actual = self.allocator.alloc_heap_pages(zone, Order::ZERO);
            let expected = self.model.ready().map(|()| Node::ZERO);
            let result = self.held_block(expected, actual, zone, Order::ZERO);
            counts.note("alloc_heap_pages", &result);
            let Ok(page) = result else {
                break;
            };
            pages.push(page);
        }
        while !pages.is_empty() {
            let page = pages.swap_remove(random.below(pages.len() as u64) as usize);
            let block = self.allocator.heap_block_at(zone, frame(page), Order::ZERO).unwrap();
            let actual = self
                .allocator
                .free_heap_pages_on(Cpu(cpu), zone, block)
                .map_err(|refused| refused.event);
            assert_eq!(actual, self.model.cpu(cpu).map(|_| ()));
            counts.note("free_heap_pages_on", &actual);
            if actual.is_ok() {
                self.model.release(page, Order::ZERO);
            }
            if pages.len().is_multiple_of(16) {
                self.compare_all();
            }
        }
    }

    /// The layer below refused: check that it had reason to, and note what was cleared.
    fn check_refusal(&mut self, event: Event, zone: Zone, order: Order) {
        let Event::Refused { frame } = event else {
            panic!("{event:?}");
        };
        let page = self.allocator.pages().pages[frame as usize];
        assert!(page.pinned || page.stuck);
        let start = frame & !(order.pages() - 1);
        assert!(self.model.is_suitable(zone, start, order, |_| true));
        self.follow_clearing(|_, page| !page.allocated);
    }

    /// Note which pages were cleared, all of which must satisfy `may`; how many.
    fn follow_clearing(&mut self, may: impl Fn(u64, &common::model::PageRecord) -> bool) -> u64 {
        let mut count = 0;
        for page in 0..self.max_page {
            let attributes = self.allocator.attributes(frame(page)).unwrap();
            if attributes.zeroized && !self.model.page(page).zeroized {
                assert!(may(page, self.model.page(page)), "page {page} was cleared");
                self.model.pages[page as usize].zeroized = true;
                count += 1;
            }
        }
        count
    }

    fn free_heap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order)) = self.held(random, counts, false) else {
            return;
        };
        let zone = match self.model.pages.get(page as usize).and_then(|page| page.zone) {
            Some(zone) if !random.once_in(10) => zone,
            _ => random.pick(&Zone::ALL).unwrap(),
        };
        let expected = self.model.check_held(zone, page, order);
        let actual = self.allocator.heap_block_at(zone, frame(page), order);
        assert_eq!(actual.as_ref().err().copied(), expected.err());
        counts.note("heap_block_at", &actual);
        let Ok(block) = actual else {
            return;
        };
        // A second handle for the same block.
        let second = self.allocator.heap_block_at(zone, frame(page), order);
        let (wrong, cpu) = (random.pick(&Zone::ALL).unwrap(), self.cpu(random));
        let block = if wrong == zone {
            block
        } else {
            let refused = self.allocator.free_heap_pages(wrong, block).unwrap_err();
            let expected = self.model.check_held(wrong, page, order).unwrap_err();
            assert_eq!(refused.event, expected);
            counts.note::<()>("free_heap_pages", &Err(refused.event));
            refused.block
        };
        let name;
        let (expected, actual) = if random.once_in(2) {
            name = "free_heap_pages";
            (Ok(()), self.allocator.free_heap_pages(zone, block))
        } else {
            name = "free_heap_pages_on";
            let expected = self.model.cpu(cpu).map(|_| ());
            (expected, self.allocator.free_heap_pages_on(Cpu(cpu), zone, block))
        };
        let actual = actual.map_err(|refused| refused.event);
        assert_eq!(actual, expected);
        counts.note(name, &actual);
        if actual.is_ok() {
            self.model.release(page, order);
            // The second handle frees nothing.
            let refused = self.allocator.free_heap_pages(zone, second.unwrap());
            let event = refused.unwrap_err().event;
            assert_eq!(Err(event), self.model.check_held(zone, page, order));
            counts.note::<()>("free_heap_pages", &Err(event));
        }
    }

    fn free_xenheap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order)) = self.held(random, counts, true) else {
            return;
        };
        let expected = self.model.check_held(Zone::Xen, page, order);
        let actual = self.allocator.xenheap_block_at(frame(page), order);
        assert_eq!(actual.as_ref().err().copied(), expected.err());
        counts.note("xenheap_block_at", &actual);
        let Ok(block) = actual else {
            return;
        };
        let second = self.allocator.xenheap_block_at(frame(page), order).unwrap();
        let cpu = self.cpu(random);
        let name;
        let (expected, actual) = if random.once_in(2) {
            name = "free_xenheap_pages";
            (Ok(()), self.allocator.free_xenheap_pages(block))
        } else {
            name = "free_xenheap_pages_on";
            let expected = self.model.cpu(cpu).map(|_| ());
            (expected, self.allocator.free_xenheap_pages_on(Cpu(cpu), block))
        };
        let actual = actual.map_err(|refused| refused.event);
        assert_eq!(actual, expected);
        counts.note(name, &actual);
        if actual.is_ok() {
            self.model.release(page, order);
            let event = self.allocator.free_xenheap_pages(second).unwrap_err().event;
            assert_eq!(Err(event), self.model.check_held(Zone::Xen, page, order));
        }
    }

    fn split_heap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order)) = self.held(random, counts, false) else {
            return;
        };
        let Some(zone) = self.model.pages.get(page as usize).and_then(|page| page.zone) else {
            return;
        };
        let Ok(block) = self.allocator.heap_block_at(zone, frame(page), order) else {
            return;
        };
        let actual = self.allocator.split_heap_block(zone, block);
        let actual = actual
            .map(|(first, second)| (first.into_frame(), second.into_frame()))
            .map_err(|refused| refused.event);
        counts.note("split_heap_block", &actual);
        let Some(half) = order.half() else {
            assert_eq!(actual, Err(Event::RequestTooLarge { request: 0 }));
            return;
        };
        let second = page + half.pages();
        assert_eq!(actual, Ok(((frame(page), half), (frame(second), half))));
        self.model.held.insert(page, half);
        self.model.held.insert(second, half);
    }

    fn offline_page(&mut self, random: &mut Random, counts: &mut Counts) {
        let page = self.page(random);
        // Rarely of a good page, so that some memory is left.
        let bad: Vec<u64> = (0..self.max_page).filter(|page| self.model.page(*page).bad).collect();
        let page = match random.pick(&bad) {
            Some(bad) if random.once_in(4) => bad,
            _ => page,
        };
        let actual = self.allocator.offline_page(frame(page));
        let expected = self.model.offline_page(page);
        assert_eq!(actual.map(|offlined| offlined == Offlined::Removed), expected);
        counts.note("offline_page", &actual);
        let bad = self.model.pages.iter().filter(|page| page.bad).count();
        assert_eq!(self.allocator.bad_pages(), bad as u64);
    }

    fn drain_caches(&mut self, _: &mut Random, counts: &mut Counts) {
        let actual = self.allocator.drain_caches();
        assert_eq!(actual, self.model.ready());
        counts.note("drain_caches", &actual);
        if actual.is_ok() {
            let figures = self.allocator.dump_heap().unwrap();
            assert!(Zone::ALL.iter().all(|zone| figures.zone(*zone).cached == 0));
        }
    }

    // Domain heap.

    fn alloc_domheap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some(order) = self.order(random, counts) else {
            return;
        };
        let (place, flags) = (self.domain(random), self.flags(random));
        let record = self.model.domains[place];
        let boot_cpu = random.once_in(3);
        let cpu = if boot_cpu { 0 } else { self.cpu(random) };
        let expected = self.expect_domheap(cpu, Some(&record), order, flags);
        let before = self.allocator.pages().pages.clone();
        let cleared = self.allocator.pages().cleared;
        // Nodes come into it only if blocks of the preferred one are not in some CPU's cache.
        let near = expected.ok().filter(|_| random.once_in(8)).filter(|(zone, near, _)| {
            let page = (0..self.max_page).step_by(order.pages() as usize).find(|page| {
                self.model.is_suitable(*zone, *page, order, |node| node == *near)
                    && (*page..*page + order.pages())
                        .all(|page| !self.allocator.attributes(frame(page)).unwrap().cached)
            });
            page.is_some()
        });
        let domain = &mut self.domains[place];
        let (name, actual) = if boot_cpu {
            let actual = self.allocator.alloc_domheap_pages(domain, order, flags);
            ("alloc_domheap_pages", actual)
        } else {
            let actual = self.allocator.alloc_domheap_pages_on(Cpu(cpu), domain, order, flags);
            ("alloc_domheap_pages_on", actual)
        };
        counts.note(name, &actual);
        let cleared = self.allocator.pages().cleared - cleared;
        let (zone, node, exact) = match expected {
            Ok(expected) => expected,
            Err(event) => {
                assert_eq!(actual.err(), Some(event));
                assert_eq!(cleared, 0);
                return;
            }
        };
        let foreign = |model: &Model<'_>, page: u64| {
            (page..page + order.pages())
                .filter(|page| {
                    !model.page(*page).zeroized && before[*page as usize].owner != record.id
                })
                .count() as u64
        };
        let limit = self.model.machine.scrub_limit;
        let nodes = |other| !exact || other == node;
        match actual {
            Ok(block) => {
                let (first, given) = block.into_frame();
                let page = first.number();
                assert_eq!(given, order);
                assert!(self.model.is_suitable(zone, page, order, nodes), "{page}");
                if let Some((_, near, _)) = near {
                    assert_eq!(self.model.node_of(page), near);
                }
                // Others' data are gone, and nothing was cleared in vain.
                assert_eq!(cleared, foreign(&self.model, page));
                assert!(cleared <= limit);
                self.model.assign(place, page, order, flags);
                self.write_as(random, record.id, page, order);
            }
            Err(Event::TooMuchToScrub { frame, pages }) => {
                assert!(self.model.is_suitable(zone, frame, order, nodes));
                assert_eq!(pages, foreign(&self.model, frame));
                assert!(pages > limit);
                assert_eq!(cleared, 0);
            }
            Err(event) => self.check_refusal(event, zone, order),
        }
    }

    /// What must be said to a request for a domain (or none): the zone, the node to prefer, and
    /// whether no other will do.
    fn expect_domheap(
        &self,
        cpu: usize,
        domain: Option<&DomainRecord>,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<(Zone, Node, bool), Event> {
        self.model.ready()?;
        let near = self.model.cpu(cpu)?;
        let (node, exact) = self.model.preferred(near, flags)?;
        let mut own_claim = 0;
        if let Some(domain) = domain {
            Model::may_get(domain, order, flags)?;
            if !flags.no_refcount {
                own_claim = domain.claimed;
            }
        }
        self.model.claims_allow(own_claim, order, flags)?;
        let zone = self.model.domain_zone(node, exact, order, flags.dma)?;
        Ok((zone, node, exact))
    }

    /// A domain got a block: nobody else's data may be in it. It writes to some of it.
    fn write_as(&mut self, random: &mut Random, id: u32, page: u64, order: Order) {
        for page in page..page + order.pages() {
            let page = &mut self.allocator.pages_mut().pages[page as usize];
            assert_eq!(page.owner, id);
            assert!(page.content == 0 || page.content == id, "{page:?}");
            if !random.once_in(3) {
                page.content = id;
            }
        }
    }

    fn alloc_unassigned(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some(order) = self.order(random, counts) else {
            return;
        };
        let (cpu, flags) = (self.cpu(random), self.flags(random));
        let expected = self.expect_domheap(cpu, None, order, flags);
        let actual = self.allocator.alloc_domheap_pages_unassigned(Cpu(cpu), order, flags);
        counts.note("alloc_domheap_pages_unassigned", &actual);
        match (expected, actual) {
            (Err(expected), actual) => assert_eq!(actual.err(), Some(expected)),
            (Ok((zone, ..)), Err(event)) => self.check_refusal(event, zone, order),
            (Ok((zone, node, exact)), Ok(block)) => {
                let _ = self.take_held(block, zone, order, |other| !exact || other == node);
            }
        }
    }

    fn assign_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order)) = self.held(random, counts, false) else {
            return;
        };
        let Some(zone) = self.model.pages.get(page as usize).and_then(|page| page.zone) else {
            return;
        };
        let Ok(block) = self.allocator.heap_block_at(zone, frame(page), order) else {
            return;
        };
        let second = self.allocator.heap_block_at(zone, frame(page), order).unwrap();
        let (place, flags) = (self.domain(random), self.flags(random));
        let expected = self.expect_assign(place, page, order, flags);
        let domain = &mut self.domains[place];
        let actual = self.allocator.assign_pages(domain, block, flags);
        let actual = actual.map_err(|refused| refused.event);
        counts.note("assign_pages", &actual);
        assert_eq!(actual.as_ref().err().copied(), expected.err());
        if actual.is_ok() {
            self.model.assign(place, page, order, flags);
            let id = self.model.domains[place].id;
            self.write_as(random, id, page, order);
            // The second handle assigns nothing.
            let domain = &mut self.domains[place];
            let Refused { event, .. } =
                self.allocator.assign_pages(domain, second, flags).unwrap_err();
            assert_eq!(event, Event::NotOwner { frame: page });
            counts.note::<()>("assign_pages", &Err(event));
        }
    }

    fn expect_assign(
        &self,
        place: usize,
        page: u64,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<(), Event> {
        self.model.ready()?;
        let zone = self.model.domain_zone_of(page, order)?;
        self.model.check_held(zone, page, order)?;
        Model::may_get(&self.model.domains[place], order, flags)?;
        if order.pages() > self.model.machine.scrub_limit {
            return Err(Event::TooMuchToScrub { frame: page, pages: order.pages() });
        }
        let pages = &self.allocator.pages().pages;
        let all = page..page + order.pages();
        let stuck = all.clone().find(|page| pages[*page as usize].stuck);
        let pinned = all.clone().find(|page| pages[*page as usize].pinned);
        match stuck.or(pinned) {
            Some(frame) => Err(Event::Refused { frame }),
            None => Ok(()),
        }
    }

    fn free_domheap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order, place)) = self.assigned(random, counts) else {
            return;
        };
        let expected = self.model.check_assigned(page, order);
        let actual = self.allocator.domheap_block_at(frame(page), order);
        assert_eq!(actual.as_ref().err().copied(), expected.err());
        counts.note("domheap_block_at", &actual);
        let Ok(block) = actual else {
            return;
        };
        let second = self.allocator.domheap_block_at(frame(page), order).unwrap();
        let cpu = self.cpu(random);
        let domain = &mut self.domains[place];
        let boot_cpu = random.once_in(2);
        let (name, actual) = if boot_cpu {
            let actual = self.allocator.free_domheap_pages(domain, block);
            ("free_domheap_pages", actual)
        } else {
            let actual = self.allocator.free_domheap_pages_on(Cpu(cpu), domain, block);
            ("free_domheap_pages_on", actual)
        };
        let expected = if boot_cpu { Ok(Node::ZERO) } else { self.model.cpu(cpu) };
        let expected = expected.and_then(|_| self.model.free_domheap_pages(place, page, order));
        let actual = actual.map_err(|refused| refused.event);
        assert_eq!(actual, expected);
        counts.note(name, &actual);
        if actual.is_ok() {
            let domain = &mut self.domains[place];
            let refused = self.allocator.free_domheap_pages(domain, second);
            let event = refused.unwrap_err().event;
            assert_eq!(Err(event), self.model.check_assigned(page, order));
            counts.note::<DomainBlock>("free_domheap_pages", &Err(event));
        }
        self.bury(random);
    }

    /// New domains take the place of dead ones.
    fn bury(&mut self, random: &mut Random) {
        for place in 0..DOMAINS {
            let record = self.model.domains[place];
            let has_pages = self.model.pages.iter().any(|page| page.owner == Some(record.id));
            if record.dying && !has_pages && random.once_in(4) {
                self.new_domain(random, Some(place));
            }
        }
    }

    fn split_domheap(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, order, _)) = self.assigned(random, counts) else {
            return;
        };
        let Ok(block) = self.allocator.domheap_block_at(frame(page), order) else {
            return;
        };
        let actual = self.allocator.split_domheap_block(block);
        let actual = actual
            .map(|(first, second)| (first.into_frame(), second.into_frame()))
            .map_err(|refused| refused.event);
        counts.note("split_domheap_block", &actual);
        let Some(half) = order.half() else {
            assert_eq!(actual, Err(Event::RequestTooLarge { request: 0 }));
            return;
        };
        let second = page + half.pages();
        assert_eq!(actual, Ok(((frame(page), half), (frame(second), half))));
        self.model.assigned.insert(page, half);
        self.model.assigned.insert(second, half);
    }

    fn references(&mut self, random: &mut Random, counts: &mut Counts) {
        let page = match self.assigned(random, counts) {
            Some((page, order, _)) if order.number() < 8 => page + random.below(order.pages()),
            _ => self.page(random),
        };
        if random.once_in(3) {
            let actual = self.allocator.get_page(frame(page));
            assert_eq!(actual, self.model.count_reference(page, true));
            counts.note("get_page", &actual);
        } else {
            let actual = self.allocator.put_page(frame(page));
            assert_eq!(actual, self.model.count_reference(page, false));
            counts.note("put_page", &actual);
        }
    }

    /// Take references to a page until there are no more, then drop most of them.
    fn exhaust_references(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some((page, ..)) = self.assigned(random, counts) else {
            return;
        };
        if !random.once_in(6) || self.allocator.attributes(frame(page)).is_err() {
            return;
        }
        loop {
            let actual = self.allocator.get_page(frame(page));
            assert_eq!(actual, self.model.count_reference(page, true));
            if actual.is_err() {
                counts.note("get_page", &actual);
                break;
            }
        }
        let most = random.once_in(8);
        while most && self.allocator.put_page(frame(page)).is_ok() {
            self.model.count_reference(page, false).unwrap();
        }
        if !most && self.model.page(page).ref_count > 1 {
            // Few enough that others can drop them.
            for _ in 0..self.model.page(page).ref_count - 2 {
                self.allocator.put_page(frame(page)).unwrap();
                self.model.count_reference(page, false).unwrap();
            }
        }
    }

    fn claim_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let place = self.domain(random);
        let pages = match random.below(10) {
            0 => u64::MAX - random.below(3),
            1..3 => 0,
            3 => random.below(self.max_page),
            _ => random.below(20),
        };
        let domain = &mut self.domains[place];
        let actual = self.allocator.claim_pages(domain, pages);
        assert_eq!(actual, self.model.claim_pages(place, pages));
        counts.note("claim_pages", &actual);
    }

    fn dying(&mut self, random: &mut Random, counts: &mut Counts) {
        if random.once_in(2) {
            return self.bury(random);
        }
        let place = self.domain(random);
        let domain = &mut self.domains[place];
        let actual = self.allocator.begin_dying(domain);
        assert_eq!(actual, self.model.begin_dying(place));
        counts.note("begin_dying", &actual);
    }

    fn change_quota(&mut self, random: &mut Random) {
        let place = self.domain(random);
        let pages = random.below(self.max_page);
        self.domains[place].set_max_pages(pages);
        self.model.domains[place].max_pages = pages;
    }

    // Scrubbing.

    fn page_scrub_softirq(&mut self, random: &mut Random, counts: &mut Counts) {
        let budget = random.below(20);
        let actual = self.allocator.page_scrub_softirq(budget);
        counts.note("page_scrub_softirq", &actual);
        assert_eq!(actual.err(), self.model.ready().err());
        let Ok(step) = actual else {
            return;
        };
        let cleared = self.follow_clearing(|_, page| page.scrub_pending);
        for page in 0..self.max_page {
            let record = &mut self.model.pages[page as usize];
            let pending = self.allocator.attributes(frame(page)).unwrap().scrub_pending;
            if record.scrub_pending && !pending {
                assert!(record.zeroized);
                record.scrub_pending = false;
                record.allocated = record.bad;
            }
        }
        assert_eq!(step.cleared, cleared);
        assert!(step.cleared + step.refused <= budget);
        assert_eq!(step.finished, self.model.pending() == 0);
        // It stops early only when there is nothing left to do.
        assert!(step.finished || step.cleared + step.refused == budget);
    }

    fn scrub_block_at(&mut self, random: &mut Random, counts: &mut Counts) {
        let Some(order) = self.order(random, counts) else {
            return;
        };
        let (page, budget) = (self.page(random), random.below(20));
        let start = page & !(order.pages() - 1);
        let end = start + order.pages();
        let actual = self.allocator.scrub_block_at(frame(page), order, budget);
        counts.note("scrub_block_at", &actual);
        let expected = self.model.ready().and_then(|()| {
            if end <= self.max_page {
                Ok(())
            } else {
                Err(Event::NotLegalAddress { frame: start.max(self.max_page) })
            }
        });
        assert_eq!(actual.err(), expected.err());
        let Ok(step) = actual else {
            return;
        };
        let cleared = self.follow_clearing(|page, record| {
            (start..end).contains(&page) && !record.allocated && record.zone.is_some()
        });
        assert_eq!(step.cleared, cleared);
        assert!(step.cleared + step.refused <= budget);
        if step.finished {
            let left = (start..end).filter(|page| {
                let record = self.model.page(*page);
                !record.allocated && record.zone.is_some() && !record.zeroized
            });
            assert_eq!(step.refused, left.count() as u64);
        }
    }

    fn scrub_heap_pages(&mut self, random: &mut Random, counts: &mut Counts) {
        let budget = random.below(40);
        let mut reported = 0;
        let actual = self.allocator.scrub_heap_pages(budget, |progress| {
            assert!(progress.page <= progress.max_page);
            assert!(progress.cleared > reported);
            reported = progress.cleared;
        });
        counts.note("scrub_heap_pages", &actual);
        assert_eq!(actual.err(), self.model.ready().err());
        let Ok(step) = actual else {
            return;
        };
        let cleared = self.follow_clearing(|_, page| !page.allocated && page.zone.is_some());
        assert_eq!(step.cleared, cleared);
        assert!(reported <= cleared && step.cleared + step.refused <= budget);
        if step.finished {
            assert_eq!(reported, cleared);
            for (number, page) in self.model.pages.iter_mut().enumerate() {
                assert!(!page.free_in_pass || page.zeroized, "page {number}");
                let able = !self.allocator.pages().pages[number].stuck;
                page.free_in_pass = able && !page.allocated && page.zone.is_some();
            }
        }
    }

    /// The layer below: translations come and go, pages cannot be cleared for a while.
    fn hardware(&mut self, random: &mut Random) {
        for _ in 0..2 {
            let number = random.below(self.max_page);
            let page = &mut self.allocator.pages_mut().pages[number as usize];
            match random.below(8) {
                0 => page.pinned = true,
                1 => {
                    page.stuck = true;
                    self.model.pages[number as usize].free_in_pass = false;
                }
                _ => {
                    for page in &mut self.allocator.pages_mut().pages {
                        page.pinned &= !random.once_in(4);
                        page.stuck &= !random.once_in(4);
                    }
                }
            }
        }
    }

    // Questions that change nothing. Answers that hold for all pages are compared elsewhere.

    fn questions(&mut self, random: &mut Random, counts: &mut Counts) {
        let page = self.page(random);
        let ready = self.model.ready();
        let legal = ready.and_then(|()| self.model.legal(page));

        let actual = self.allocator.allocated_in_map(frame(page));
        let expected = legal.map(|()| self.model.page(page).allocated);
        assert_eq!(actual, expected);
        counts.note("allocated_in_map", &actual);

        let actual = self.allocator.mfn_to_page(frame(page));
        assert_eq!(actual.err(), self.model.legal(page).err());
        counts.note("mfn_to_page", &actual);
        if let Ok(number) = actual {
            assert_eq!(self.allocator.page_to_mfn(number), frame(page));
        }

        let actual = self.allocator.attributes(frame(page));
        assert_eq!(actual.err(), legal.err());
        counts.note("attributes", &actual);

        for zone in Zone::ALL {
            let actual = self.allocator.avail_heap_pages(Some(zone));
            assert_eq!(actual, ready.map(|()| self.model.free_of(zone)));
            counts.note("avail_heap_pages", &actual);
        }
        let actual = self.allocator.avail_heap_pages(None);
        assert_eq!(actual, ready.map(|()| self.model.free(|_, _| true)));

        let Some(zone) = self.zone(random, counts) else {
            return;
        };
        let node = Node::new(random.below(5) as u32).unwrap();
        let actual = self.allocator.avail_heap_pages_on(zone, node);
        let expected = ready
            .and_then(|()| self.model.node(node))
            .map(|()| self.model.free(|other, near| other == zone && near == node));
        assert_eq!(actual, expected);
        counts.note("avail_heap_pages_on", &actual);

        let number = 8 + random.below(10) as u32;
        assert_eq!(Node::new(number), Err(Event::UnknownNode { number }));

        let actual = self.allocator.avail_domheap_pages();
        assert_eq!(actual, ready.map(|()| self.model.available()));
        counts.note("avail_domheap_pages", &actual);

        let actual = self.allocator.avail_dma_emergency_pages();
        let pool = self.model.machine.dma_emergency_pages;
        let expected = ready.map(|()| self.model.free_of(Zone::Dma).min(pool));
        assert_eq!(actual, expected);
        counts.note("avail_dma_emergency_pages", &actual);

        let actual = self.allocator.avail_scrub_pages();
        assert_eq!(actual, ready.map(|()| self.model.pending()));
        counts.note("avail_scrub_pages", &actual);

        let actual = self.allocator.dump_heap();
        assert_eq!(actual.as_ref().err().copied(), ready.err());
        counts.note("dump_heap", &actual);
    }

    /// Compare everything that can be seen.
    fn compare_all(&self) {
        if self.model.phase == Phase::Uninitialised {
            let page = self.allocator.attributes(frame(0));
            assert_eq!(page.err(), Some(Event::NotInitialised));
            return;
        }
        let mut cached = vec![false; self.max_page as usize];
        let mut free = [0; 3];
        for (number, record) in self.model.pages.iter().enumerate() {
            let actual = self.allocator.attributes(frame(number as u64)).unwrap();
            let page = &self.allocator.pages().pages[number];
            assert_eq!(actual.allocated, record.allocated, "page {number}");
            assert_eq!(actual.bad, record.bad, "page {number}");
            assert_eq!(actual.zeroized, record.zeroized, "page {number}");
            assert_eq!(actual.zone, record.zone, "page {number}");
            assert_eq!(actual.owner, record.owner, "page {number}");
            assert_eq!(actual.ref_count, record.ref_count, "page {number}");
            assert_eq!(actual.domain_assigned, record.owner.is_some(), "page {number}");
            assert_eq!(actual.scrub_pending, record.scrub_pending, "page {number}");
            assert!(!actual.zeroized || page.content == 0, "page {number}");
            assert!(!actual.cached || !record.allocated, "page {number}");
            cached[number] = actual.cached;
            if let (false, Some(zone)) = (record.allocated, record.zone) {
                free[zone as usize] += 1;
            }
        }
        for domain in 0..DOMAINS {
            let (actual, record) = (&self.domains[domain], &self.model.domains[domain]);
            assert_eq!(actual.id(), record.id);
            assert_eq!(actual.is_dying(), record.dying);
            assert_eq!(actual.total_pages(), record.total_pages);
            assert_eq!(actual.max_pages(), record.max_pages);
            assert_eq!(actual.claimed(), record.claimed);
        }
        let figures = self.allocator.dump_heap().unwrap();
        assert_eq!(figures.claimed, self.model.claims());
        for zone in Zone::ALL {
            assert_eq!(self.allocator.avail_heap_pages(Some(zone)), Ok(free[zone as usize]));
        }
        let mut expected = BTreeMap::new();
        for stretch in &self.model.stretches {
            let entry = expected
                .entry((stretch.zone, stretch.node))
                .or_insert_with(heliox_page_alloc::ZoneFigures::default);
            for page in stretch.start..stretch.end {
                let record = self.model.page(page);
                let holder = self.is_held(page) || record.owner.is_some();
                if record.zone.is_none() {
                    continue;
                }
                entry.pages += 1;
                entry.free += u64::from(!record.allocated);
                entry.cached += u64::from(cached[page as usize]);
                entry.scrub_pending += u64::from(record.scrub_pending);
                entry.allocated += u64::from(holder);
                let retired = record.bad && !holder && !record.scrub_pending;
                entry.bad += u64::from(retired);
                entry.failing += u64::from(record.bad && !retired);
            }
            // Merged as far as possible, and nothing else.
            for (_, order) in self.model.merged(stretch, &cached) {
                entry.free_blocks[order.number() as usize] += 1;
            }
        }
        for zone in Zone::ALL {
            for node in 0..3 {
                let node = Node::new(node).unwrap();
                let expected = expected.get(&(zone, node)).copied().unwrap_or_default();
                assert_eq!(figures.zone_on(zone, node), expected, "{zone} {node:?}");
            }
        }
    }

    /// Whether `page` is in a block that belongs to no domain.
    fn is_held(&self, page: u64) -> bool {
        self.model
            .held
            .range(..=page)
            .next_back()
            .is_some_and(|(first, order)| page < first + order.pages())
    }
}
