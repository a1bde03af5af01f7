//! One test for each function of the provided interface, named after it: what it does when nothing
//! is wrong. What goes wrong is in `undesired_events`; all of it together in `oracle`.

mod common;

use common::{FIRMWARE, FIRST_DOMAIN, HYPERVISOR, TestPages, frame};
use heliox_page_alloc::{
    Cpu, CpuCache, Domain, Event, MAX_ORDER, Machine, MemoryFlags, Node, NodeFlag, NodeRange,
    Offlined, Order, PageAllocator, Zone,
};
use heliox_types::{FrameRange, PhysicalAddress};

type Allocator = PageAllocator<'static, TestPages>;

const PAGES: u64 = 4096;
const LAST_DMA: u64 = 1023;
const POOL: u64 = 16;
const LIMIT: u64 = 32;
/// The `xen` zone, without the page that it gives up at each end.
const XEN: std::ops::Range<u64> = 2049..3071;

fn address(page: u64) -> PhysicalAddress {
    PhysicalAddress::new(page * 4096).unwrap()
}

fn order(number: u32) -> Order {
    Order::new(number).unwrap()
}

/// An allocator of which nothing is initialised; CPU 0 is of node 0, CPU 1 of node 1, which has
/// the upper half of the `dom` zone's upper part.
fn new() -> Allocator {
    let nodes: &'static [NodeRange] = Box::leak(Box::new([NodeRange {
        frames: FrameRange::new(3584, PAGES).unwrap(),
        node: Node::new(1).unwrap(),
    }]));
    let machine = Machine {
        max_page: PAGES,
        max_dma_page: LAST_DMA,
        dma_emergency_pages: POOL,
        scrub_limit: LIMIT,
        nodes,
    };
    let metadata = vec![0; Allocator::metadata_words(PAGES)].leak();
    let caches = vec![CpuCache::new(Node::ZERO), CpuCache::new(Node::new(1).unwrap())].leak();
    PageAllocator::new(machine, TestPages::new(PAGES), metadata, caches).unwrap()
}

/// An allocator with all memory free and in no zone, but for page 0 on, which holds the records.
fn booting() -> (Allocator, u64) {
    let mut allocator = new();
    let usable = allocator.init_boot_allocator(frame(0)).unwrap().number();
    allocator.init_boot_pages(address(0), address(PAGES)).unwrap();
    (allocator, usable)
}

/// An allocator with all memory in its zones, and the number of pages of the `dma` zone.
fn running() -> (Allocator, u64) {
    let (mut allocator, usable) = booting();
    allocator.alloc_boot_pages_at(XEN.end - XEN.start + 2, frame(XEN.start - 1)).unwrap();
    allocator.init_xenheap_pages(address(XEN.start - 1), address(XEN.end + 1)).unwrap();
    allocator.end_boot_allocator().unwrap();
    (allocator, LAST_DMA + 1 - usable)
}

fn domain(number: u32) -> Domain<u32> {
    Domain::new(FIRST_DOMAIN + number, 1000)
}

#[test]
fn init_boot_allocator() {
    let mut allocator = new();
    let usable = allocator.init_boot_allocator(frame(10)).unwrap();
    let records = (Allocator::metadata_words(PAGES) as u64 * 8).div_ceil(4096);
    assert_eq!(usable, frame(10 + records));
    assert_eq!(allocator.allocated_in_map(frame(10)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(PAGES - 1)), Ok(true));
    // The records' own pages do not become free.
    let freed = allocator.init_boot_pages(address(0), address(PAGES));
    assert_eq!(freed, Ok(PAGES - records));
    assert_eq!(allocator.allocated_in_map(frame(10)), Ok(true));
    assert_eq!(allocator.allocated_in_map(usable), Ok(false));
}

#[test]
fn allocated_in_map() {
    let (mut allocator, usable) = booting();
    assert_eq!(allocator.allocated_in_map(frame(usable)), Ok(false));
    allocator.map_alloc(frame(usable), 1).unwrap();
    assert_eq!(allocator.allocated_in_map(frame(usable)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(usable + 1)), Ok(false));
}

#[test]
fn map_alloc() {
    let (mut allocator, _) = booting();
    allocator.map_alloc(frame(1000), 77).unwrap();
    for page in 990..1100 {
        let inside = (1000..1077).contains(&page);
        assert_eq!(allocator.allocated_in_map(frame(page)), Ok(inside));
    }
}

#[test]
fn map_free() {
    let (mut allocator, _) = booting();
    allocator.map_alloc(frame(1000), 77).unwrap();
    allocator.map_free(frame(1010), 5).unwrap();
    for page in 1000..1077 {
        let free = (1010..1015).contains(&page);
        assert_eq!(allocator.allocated_in_map(frame(page)), Ok(!free));
    }
}

#[test]
fn init_boot_pages() {
    let mut allocator = new();
    let usable = allocator.init_boot_allocator(frame(0)).unwrap().number();
    allocator.offline_page(frame(100)).unwrap();
    // Rounded inwards; bad pages stay allocated.
    let start = PhysicalAddress::new(address(usable).get() + 1).unwrap();
    let freed = allocator.init_boot_pages(start, address(200));
    assert_eq!(freed, Ok(200 - usable - 1 - 1));
    assert_eq!(allocator.allocated_in_map(frame(usable)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(100)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(199)), Ok(false));
    assert_eq!(allocator.bad_pages(), 1);
}

#[test]
fn alloc_boot_pages_at() {
    let (mut allocator, _) = booting();
    assert_eq!(allocator.alloc_boot_pages_at(3, frame(500)), Ok(frame(500)));
    assert_eq!(allocator.allocated_in_map(frame(502)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(503)), Ok(false));
}

#[test]
fn alloc_boot_pages() {
    let (mut allocator, usable) = booting();
    // Lowest first, and aligned.
    assert_eq!(allocator.alloc_boot_pages(1, 1), Ok(frame(usable)));
    assert_eq!(allocator.alloc_boot_pages(3, 512), Ok(frame(512)));
    assert_eq!(allocator.alloc_boot_pages(3, 512), Ok(frame(1024)));
    assert_eq!(allocator.alloc_boot_pages(1, 1), Ok(frame(usable + 1)));
}

#[test]
fn end_boot_allocator() {
    let (mut allocator, usable) = booting();
    let held = allocator.alloc_boot_pages(100, 1).unwrap().number();
    assert_eq!(allocator.end_boot_allocator(), Ok(PAGES - usable - 100));
    let zone = |page: u64| allocator.attributes(frame(page)).unwrap().zone;
    assert_eq!(zone(held), None);
    assert_eq!(zone(held + 100), Some(Zone::Dma));
    assert_eq!(zone(LAST_DMA), Some(Zone::Dma));
    assert_eq!(zone(LAST_DMA + 1), Some(Zone::Dom));
    assert_eq!(allocator.allocated_in_map(frame(held)), Ok(true));
    assert_eq!(allocator.allocated_in_map(frame(held + 100)), Ok(false));
    // What boot code held can be given to the zone around it later.
    allocator.init_domheap_pages(address(held), address(held + 100)).unwrap();
    let dma = allocator.dump_heap().unwrap().zone(Zone::Dma);
    assert_eq!(dma.free, LAST_DMA + 1 - usable);
}

#[test]
fn init_heap_pages() {
    let mut allocator = new();
    allocator.init_boot_allocator(frame(0)).unwrap();
    allocator.init_heap_pages(Zone::Dom, frame(2000), 100).unwrap();
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(100));
    let page = allocator.attributes(frame(2099)).unwrap();
    assert_eq!((page.zone, page.allocated), (Some(Zone::Dom), false));
}

#[test]
fn alloc_heap_pages() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(5)).unwrap();
    assert_eq!(block.frames().start() % 32, 0);
    for page in block.frames() {
        let page = allocator.attributes(page).unwrap();
        assert!(page.allocated && !page.domain_assigned);
        assert_eq!(page.zone, Some(Zone::Dom));
    }
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
}

#[test]
fn alloc_heap_pages_of_every_order() {
    // 2 GiB: two of the largest blocks.
    const MANY: u64 = 2 << MAX_ORDER;
    let machine = Machine {
        max_page: MANY + 1024,
        max_dma_page: 0,
        dma_emergency_pages: 0,
        scrub_limit: 1,
        nodes: &[],
    };
    let metadata = vec![0; Allocator::metadata_words(MANY + 1024)].leak();
    let caches = vec![CpuCache::new(Node::ZERO)].leak();
    let mut allocator =
        PageAllocator::new(machine, TestPages::new(MANY + 1024), metadata, caches).unwrap();
    allocator.init_boot_allocator(frame(0)).unwrap();
    allocator.init_heap_pages(Zone::Dom, frame(1024), MANY).unwrap();
    let whole = allocator.dump_heap().unwrap();
    for number in (0..=MAX_ORDER).chain((0..=MAX_ORDER).rev()) {
        let first = allocator.alloc_heap_pages(Zone::Dom, order(number)).unwrap();
        let free = allocator.avail_heap_pages(None).unwrap();
        assert_eq!(free, MANY - (1 << number));
        assert_eq!(first.frames().count(), 1 << number);
        assert_eq!(first.frames().start() % (1 << number), 0);
        allocator.free_heap_pages(Zone::Dom, first).unwrap();
        // Merged again.
        assert_eq!(allocator.dump_heap().unwrap(), whole);
    }
}

#[test]
fn free_heap_pages() {
    let (mut allocator, _) = running();
    let before = allocator.dump_heap().unwrap();
    let one = allocator.alloc_heap_pages(Zone::Dom, order(0)).unwrap();
    let other = allocator.alloc_heap_pages(Zone::Dom, order(3)).unwrap();
    allocator.free_heap_pages(Zone::Dom, one).unwrap();
    allocator.free_heap_pages(Zone::Dom, other).unwrap();
    assert_eq!(allocator.dump_heap().unwrap(), before);
}

#[test]
fn heap_block_at() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages(Zone::Dma, order(2)).unwrap();
    let (first, size) = block.into_frame();
    let block = allocator.heap_block_at(Zone::Dma, first, size).unwrap();
    allocator.free_heap_pages(Zone::Dma, block).unwrap();
}

#[test]
fn split_heap_block() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(4)).unwrap();
    let all = block.frames();
    let (low, high) = allocator.split_heap_block(Zone::Dom, block).unwrap();
    assert_eq!(low.frames().start(), all.start());
    assert_eq!(high.frames().end(), all.end());
    assert_eq!(low.order(), order(3));
    allocator.free_heap_pages(Zone::Dom, low).unwrap();
    assert_eq!(allocator.allocated_in_map(high.first()), Ok(true));
    allocator.free_heap_pages(Zone::Dom, high).unwrap();
}

#[test]
fn avail_heap_pages() {
    let (mut allocator, dma) = running();
    let xen = XEN.end - XEN.start;
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Xen)), Ok(xen));
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dma)), Ok(dma));
    let dom = PAGES - 1024 - xen - 2;
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(dom));
    assert_eq!(allocator.avail_heap_pages(None), Ok(xen + dma + dom));
    let one = Node::new(1).unwrap();
    assert_eq!(allocator.avail_heap_pages_on(Zone::Dom, one), Ok(512));
    // What a cache holds counts as free.
    let page = allocator.alloc_heap_pages_on(Cpu(1), Zone::Dom, order(0));
    assert_eq!(allocator.avail_heap_pages_on(Zone::Dom, one), Ok(511));
    assert!(allocator.dump_heap().unwrap().zone_on(Zone::Dom, one).cached > 0);
    allocator.free_heap_pages_on(Cpu(1), Zone::Dom, page.unwrap()).unwrap();
    assert_eq!(allocator.avail_heap_pages_on(Zone::Dom, one), Ok(512));
}

#[test]
fn scrub_heap_pages() {
    let (mut allocator, dma) = running();
    let all = allocator.avail_heap_pages(None).unwrap();
    let (mut dots, mut cleared) = (0, 0);
    loop {
        let step = allocator.scrub_heap_pages(100, |_| dots += 1).unwrap();
        assert!(step.cleared <= 100);
        cleared += step.cleared;
        if step.finished {
            break;
        }
    }
    assert_eq!(cleared, all);
    assert!(dots >= all / 64);
    assert_eq!(allocator.pages().cleared, all);
    // A second pass has nothing to do; memory for a domain is not cleared again.
    while !allocator.scrub_heap_pages(100, |_| ()).unwrap().finished {}
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(9), flags);
    assert!(block.unwrap().frames().start() > dma);
    assert_eq!(allocator.pages().cleared, all);
}

#[test]
fn dump_heap() {
    let (mut allocator, dma) = running();
    let mut guest = domain(0);
    let flags = MemoryFlags { dma: true, ..MemoryFlags::default() };
    let kept = allocator.alloc_domheap_pages(&mut guest, order(1), flags).unwrap();
    let dying = allocator.alloc_domheap_pages(&mut guest, order(2), flags).unwrap();
    allocator.claim_pages(&mut guest, 20).unwrap();
    assert_eq!(allocator.dump_heap().unwrap().claimed, 20);
    allocator.begin_dying(&mut guest).unwrap();
    allocator.free_domheap_pages(&mut guest, dying).unwrap();
    allocator.offline_page(frame(LAST_DMA)).unwrap();
    allocator.offline_page(kept.first()).unwrap();
    let figures = allocator.dump_heap().unwrap();
    let zone = figures.zone(Zone::Dma);
    assert_eq!(zone.pages, dma);
    assert_eq!(zone.free, dma - 2 - 4 - 1);
    assert_eq!((zone.allocated, zone.failing), (2, 1));
    assert_eq!((zone.scrub_pending, zone.bad), (4, 1));
    let in_blocks: u64 =
        (0..).zip(zone.free_blocks).map(|(order, count)| u64::from(count) << order).sum();
    assert_eq!(in_blocks + zone.cached, zone.free);
    let table = figures.to_string();
    assert!(table.contains("zone node      pages       free"));
    assert_eq!(table.lines().filter(|line| line.starts_with("dma")).count(), 2);
    println!("{table}");
}

#[test]
fn offline_page() {
    let (mut allocator, _) = running();
    assert_eq!(allocator.offline_page(frame(1500)), Ok(Offlined::Removed));
    assert_eq!(allocator.allocated_in_map(frame(1500)), Ok(true));
    let block = allocator.alloc_heap_pages(Zone::Dom, order(3)).unwrap();
    let bad = frame(block.frames().start() + 3);
    assert_eq!(allocator.offline_page(bad), Ok(Offlined::InUse));
    let free = allocator.avail_heap_pages(Some(Zone::Dom)).unwrap();
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(free + 7));
    // Neither is handed out again.
    while let Ok(block) = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, order(0)) {
        assert!(block.first() != bad && block.first() != frame(1500));
        let _kept = block.into_frame();
    }
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(0));
}

#[test]
fn offline_page_in_a_cache() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, order(0)).unwrap();
    let page = block.first();
    allocator.free_heap_pages_on(Cpu(0), Zone::Dom, block).unwrap();
    assert!(allocator.attributes(page).unwrap().cached);
    assert_eq!(allocator.offline_page(page), Ok(Offlined::Removed));
    assert!(!allocator.attributes(page).unwrap().cached);
    let next = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, order(0)).unwrap();
    assert_ne!(next.first(), page);
    let _kept = next.into_frame();
}

#[test]
fn drain_caches() {
    let (mut allocator, _) = running();
    let before = allocator.dump_heap().unwrap();
    let block = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, order(0)).unwrap();
    allocator.free_heap_pages_on(Cpu(0), Zone::Dom, block).unwrap();
    assert!(allocator.dump_heap().unwrap().zone(Zone::Dom).cached > 0);
    allocator.drain_caches().unwrap();
    assert_eq!(allocator.dump_heap().unwrap(), before);
}

#[test]
fn large_blocks_in_a_cache() {
    let (mut allocator, _) = running();
    let before = allocator.dump_heap().unwrap();
    for zone in [Zone::Dma, Zone::Dom] {
        let large = Order::TWO_MIB;
        let block = allocator.alloc_heap_pages_on(Cpu(0), zone, large).unwrap();
        let page = block.first();
        let forged = allocator.heap_block_at(zone, page, large).unwrap();
        allocator.free_heap_pages_on(Cpu(0), zone, block).unwrap();
        // It counts as free, and a second free is detected.
        assert!(allocator.attributes(page).unwrap().cached);
        assert!(!allocator.attributes(page).unwrap().allocated);
        let figures = allocator.dump_heap().unwrap().zone(zone);
        assert_eq!(figures.free, before.zone(zone).free);
        assert!(figures.cached >= large.pages() && figures.cached % large.pages() == 0);
        let refused = allocator.free_heap_pages_on(Cpu(0), zone, forged);
        let event = Event::PagesNotAllocated { frame: page.number() };
        assert_eq!(refused.map_err(|refused| refused.event), Err(event));
    }
    allocator.drain_caches().unwrap();
    assert_eq!(allocator.dump_heap().unwrap(), before);
    // What a cache holds makes no request fail: single pages come out of its large blocks.
    let block = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, Order::TWO_MIB).unwrap();
    allocator.free_heap_pages_on(Cpu(0), Zone::Dom, block).unwrap();
    let free = allocator.avail_heap_pages(Some(Zone::Dom)).unwrap();
    for _ in 0..free {
        let _kept =
            allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, Order::ZERO).unwrap().into_frame();
    }
}

#[test]
fn a_bad_page_of_a_large_block_in_a_cache() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages_on(Cpu(0), Zone::Dom, Order::TWO_MIB).unwrap();
    let bad = frame(block.frames().start() + 7);
    allocator.free_heap_pages_on(Cpu(0), Zone::Dom, block).unwrap();
    let free = allocator.avail_heap_pages(Some(Zone::Dom)).unwrap();
    assert_eq!(allocator.offline_page(bad), Ok(Offlined::Removed));
    assert!(!allocator.attributes(bad).unwrap().cached);
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(free - 1));
}

#[test]
fn init_xenheap_pages() {
    let mut allocator = new();
    allocator.init_boot_allocator(frame(0)).unwrap();
    let ragged = PhysicalAddress::new(address(2000).get() + 5).unwrap();
    allocator.init_xenheap_pages(ragged, address(2100)).unwrap();
    // Whole pages, less the first and the last.
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Xen)), Ok(97));
    let zone = |page: u64| allocator.attributes(frame(page)).unwrap().zone;
    assert_eq!(zone(2001), None);
    assert_eq!(zone(2002), Some(Zone::Xen));
    assert_eq!(zone(2098), Some(Zone::Xen));
    assert_eq!(zone(2099), None);
}

#[test]
fn alloc_xenheap_pages() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_xenheap_pages(order(3)).unwrap();
    assert!(XEN.contains(&block.first().number()));
    let single = allocator.alloc_xenheap_pages_on(Cpu(0), order(0)).unwrap();
    assert!(XEN.contains(&single.first().number()));
    allocator.free_xenheap_pages(block).unwrap();
    allocator.free_xenheap_pages_on(Cpu(0), single).unwrap();
}

#[test]
fn free_xenheap_pages() {
    let (mut allocator, _) = running();
    let before = allocator.dump_heap().unwrap();
    let block = allocator.alloc_xenheap_pages(order(6)).unwrap();
    allocator.free_xenheap_pages(block).unwrap();
    assert_eq!(allocator.dump_heap().unwrap(), before);
}

#[test]
fn xenheap_block_at() {
    let (mut allocator, _) = running();
    let (page, size) = allocator.alloc_xenheap_pages(order(1)).unwrap().into_frame();
    let block = allocator.xenheap_block_at(page, size).unwrap();
    allocator.free_xenheap_pages(block).unwrap();
}

#[test]
fn init_domheap_pages() {
    let mut allocator = new();
    allocator.init_boot_allocator(frame(0)).unwrap();
    allocator.init_domheap_pages(address(1000), address(1100)).unwrap();
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dma)), Ok(24));
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dom)), Ok(76));
}

#[test]
fn assign_pages() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let block = allocator.alloc_heap_pages(Zone::Dom, order(2)).unwrap();
    for page in block.frames() {
        allocator.pages_mut().pages[page.number() as usize].content = HYPERVISOR;
    }
    let flags = MemoryFlags::default();
    let block = allocator.assign_pages(&mut guest, block, flags).unwrap();
    assert_eq!(guest.total_pages(), 4);
    for page in block.frames() {
        let attributes = allocator.attributes(page).unwrap();
        assert_eq!(attributes.owner, Some(guest.id()));
        assert_eq!((attributes.ref_count, attributes.domain_assigned), (1, true));
        assert_eq!(allocator.pages().pages[page.number() as usize].content, 0);
    }
    allocator.free_domheap_pages(&mut guest, block).unwrap();
}

#[test]
fn alloc_domheap_pages() {
    let (mut allocator, dma) = running();
    let mut guest = Domain::new(FIRST_DOMAIN, PAGES);
    // From `dom` first, then from `dma`, down to the pool.
    let mut taken = 0;
    loop {
        let flags = MemoryFlags::default();
        let Ok(block) = allocator.alloc_domheap_pages(&mut guest, order(0), flags) else {
            break;
        };
        let zone = allocator.attributes(block.first()).unwrap().zone;
        let dom = allocator.avail_heap_pages(Some(Zone::Dom)).unwrap();
        assert!(zone == Some(Zone::Dom) || dom == 0);
        taken += 1;
        let _kept = block.into_frame();
    }
    assert_eq!(guest.total_pages(), taken);
    assert_eq!(allocator.avail_heap_pages(Some(Zone::Dma)), Ok(POOL));
    assert_eq!(allocator.avail_domheap_pages(), Ok(0));
    assert_eq!(taken, PAGES - 1024 - (XEN.end - XEN.start) - 2 + dma - POOL);
    // The pool is for those who need it.
    let flags = MemoryFlags { dma: true, ..MemoryFlags::default() };
    let block = allocator.alloc_domheap_pages(&mut guest, order(0), flags).unwrap();
    assert_eq!(allocator.avail_dma_emergency_pages(), Ok(POOL - 1));
    let _kept = block.into_frame();
}

#[test]
fn alloc_domheap_pages_on() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let one = Node::new(1).unwrap();
    let node = |allocator: &Allocator, page| allocator.attributes(page).unwrap().node;
    let near = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages_on(Cpu(1), &mut guest, order(3), near).unwrap();
    assert_eq!(node(&allocator, block.first()), one);
    allocator.free_domheap_pages_on(Cpu(1), &mut guest, block).unwrap();
    let exactly = MemoryFlags { node: NodeFlag::Exactly(one), ..near };
    let block = allocator.alloc_domheap_pages_on(Cpu(0), &mut guest, order(0), exactly).unwrap();
    assert_eq!(node(&allocator, block.first()), one);
    allocator.free_domheap_pages_on(Cpu(0), &mut guest, block).unwrap();
}

#[test]
fn alloc_domheap_pages_unassigned() {
    let (mut allocator, _) = running();
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages_unassigned(Cpu(0), order(1), flags).unwrap();
    let attributes = allocator.attributes(block.first()).unwrap();
    assert_eq!((attributes.zone, attributes.owner), (Some(Zone::Dom), None));
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
}

#[test]
fn avail_domheap_pages() {
    let (allocator, dma) = running();
    let dom = allocator.avail_heap_pages(Some(Zone::Dom)).unwrap();
    assert_eq!(allocator.avail_domheap_pages(), Ok(dom + dma - POOL));
}

#[test]
fn avail_dma_emergency_pages() {
    let (allocator, _) = running();
    assert_eq!(allocator.avail_dma_emergency_pages(), Ok(POOL));
}

#[test]
fn free_domheap_pages() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(2), flags).unwrap();
    let first = block.first();
    allocator.pages_mut().pages[first.number() as usize].content = guest.id();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
    assert_eq!(guest.total_pages(), 0);
    let attributes = allocator.attributes(first).unwrap();
    assert!(!attributes.allocated && !attributes.zeroized && !attributes.scrub_pending);
    // The same domain gets its own data back without paying for a scrub.
    let cleared = allocator.pages().cleared;
    let block = allocator.alloc_domheap_pages(&mut guest, order(2), flags).unwrap();
    assert_eq!(block.first(), first);
    assert_eq!(allocator.pages().cleared, cleared);
    assert_eq!(allocator.pages().pages[first.number() as usize].content, guest.id());
    allocator.free_domheap_pages(&mut guest, block).unwrap();
    // Another one gets zeros.
    let mut other = domain(1);
    let block = allocator.alloc_domheap_pages(&mut other, order(2), flags).unwrap();
    assert_eq!(block.first(), first);
    assert_eq!(allocator.pages().cleared, cleared + 4);
    assert_eq!(allocator.pages().pages[first.number() as usize].content, 0);
    let _kept = block.into_frame();
}

#[test]
fn domheap_block_at() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let block = allocator.alloc_domheap_pages(&mut guest, order(3), MemoryFlags::default());
    let (page, size) = block.unwrap().into_frame();
    let block = allocator.domheap_block_at(page, size).unwrap();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
}

#[test]
fn split_domheap_block() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(3), flags).unwrap();
    let (low, high) = allocator.split_domheap_block(block).unwrap();
    assert_eq!(low.frames().end(), high.frames().start());
    allocator.free_domheap_pages(&mut guest, high).unwrap();
    assert_eq!(guest.total_pages(), 4);
    allocator.free_domheap_pages(&mut guest, low).unwrap();
}

#[test]
fn get_page_and_put_page() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(0), flags).unwrap();
    allocator.get_page(block.first()).unwrap();
    assert_eq!(allocator.attributes(block.first()).unwrap().ref_count, 2);
    let block = allocator.free_domheap_pages(&mut guest, block).unwrap_err().block;
    allocator.put_page(block.first()).unwrap();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
}

#[test]
fn claim_pages() {
    let (mut allocator, _) = running();
    let (mut built, mut other) = (domain(0), Domain::new(FIRST_DOMAIN + 1, PAGES));
    let flags = MemoryFlags::default();
    allocator.claim_pages(&mut built, 100).unwrap();
    // Others take all they can; the build does not fail half way.
    while let Ok(block) = allocator.alloc_domheap_pages(&mut other, order(0), flags) {
        let _kept = block.into_frame();
    }
    assert_eq!(allocator.avail_domheap_pages(), Ok(100));
    for left in (0..100).rev() {
        let block = allocator.alloc_domheap_pages(&mut built, order(0), flags).unwrap();
        assert_eq!(built.claimed(), left);
        let _kept = block.into_frame();
    }
}

#[test]
fn begin_dying() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    allocator.claim_pages(&mut guest, 50).unwrap();
    allocator.begin_dying(&mut guest).unwrap();
    assert!(guest.is_dying());
    assert_eq!(guest.claimed(), 0);
}

#[test]
fn page_scrub_softirq() {
    let (mut allocator, _) = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    // More than the limit of one allocation, so prepared in steps.
    while let Err(event) =
        allocator.alloc_domheap_pages(&mut guest, order(8), flags).map(|block| block.into_frame())
    {
        let heliox_page_alloc::Event::TooMuchToScrub { frame: page, .. } = event else {
            panic!("{event:?}");
        };
        let step = allocator.scrub_block_at(frame(page), order(8), 10).unwrap();
        assert_eq!(step.cleared, 10);
    }
    let page = (0..PAGES)
        .find(|page| allocator.attributes(frame(*page)).unwrap().owner.is_some())
        .unwrap();
    let block = allocator.domheap_block_at(frame(page), order(8)).unwrap();
    allocator.begin_dying(&mut guest).unwrap();
    let free = allocator.avail_heap_pages(None).unwrap();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
    assert_eq!(guest.total_pages(), 0);
    assert_eq!(allocator.avail_scrub_pages(), Ok(256));
    assert_eq!(allocator.avail_heap_pages(None), Ok(free));
    let attributes = allocator.attributes(frame(page)).unwrap();
    assert!(attributes.scrub_pending && attributes.allocated);
    // Bounded steps.
    let mut left = 256;
    while left > 0 {
        let step = allocator.page_scrub_softirq(7).unwrap();
        assert!((1..=7).contains(&step.cleared));
        left -= step.cleared;
        assert_eq!(step.finished, left == 0);
        assert_eq!(allocator.avail_scrub_pages(), Ok(left));
    }
    let attributes = allocator.attributes(frame(page)).unwrap();
    assert!(!attributes.scrub_pending && !attributes.allocated && attributes.zeroized);
    assert_eq!(allocator.avail_heap_pages(None), Ok(free + 256));
}

#[test]
fn avail_scrub_pages() {
    let (mut allocator, _) = running();
    assert_eq!(allocator.avail_scrub_pages(), Ok(0));
    let mut guest = domain(0);
    let block = allocator.alloc_domheap_pages(&mut guest, order(2), MemoryFlags::default());
    allocator.begin_dying(&mut guest).unwrap();
    allocator.free_domheap_pages(&mut guest, block.unwrap()).unwrap();
    assert_eq!(allocator.avail_scrub_pages(), Ok(4));
}

#[test]
fn scrub_block_at() {
    let (mut allocator, _) = running();
    let step = allocator.scrub_block_at(frame(1600), order(5), 20).unwrap();
    assert_eq!((step.cleared, step.finished), (20, false));
    let step = allocator.scrub_block_at(frame(1600), order(5), 20).unwrap();
    assert_eq!((step.cleared, step.finished), (12, true));
    assert!(allocator.attributes(frame(1631)).unwrap().zeroized);
    assert!(!allocator.attributes(frame(1632)).unwrap().zeroized);
}

#[test]
fn mfn_to_page_and_page_to_mfn() {
    let allocator = new();
    for page in 0..PAGES {
        let record = allocator.mfn_to_page(frame(page)).unwrap();
        assert_eq!(allocator.page_to_mfn(record), frame(page));
    }
}

#[test]
fn attributes() {
    let (allocator, _) = running();
    let page = allocator.attributes(frame(PAGES - 1)).unwrap();
    assert_eq!(page.zone, Some(Zone::Dom));
    assert_eq!(page.node, Node::new(1).unwrap());
    assert!(!page.allocated && !page.bad && !page.zeroized && !page.cached);
}

#[test]
fn region() {
    let (mut allocator, _) = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(2)).unwrap();
    assert_eq!(allocator.region(block.frames()), block.frames());
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
}

#[test]
fn metadata_words() {
    for pages in [1 << 12, 1 << 16, 1 << 20, 1 << 24, (1 << 24) + 12_345, 1 << 32] {
        let bytes = Allocator::metadata_words(pages) as u64 * 8;
        assert!(bytes <= 16 * pages, "{bytes} bytes for {pages} pages");
        assert!(bytes <= 6 * pages, "{bytes} bytes for {pages} pages");
    }
}

/// Boot with 64 GiB: nothing is cleared, and of the records hardly anything is written.
#[test]
fn sixty_four_gibibytes_boot_without_clearing() {
    const MANY: u64 = 64 << 18;
    let machine = Machine {
        max_page: MANY,
        max_dma_page: (4 << 18) - 1,
        dma_emergency_pages: 0,
        scrub_limit: 512,
        nodes: &[],
    };
    let mut metadata = vec![0; Allocator::metadata_words(MANY)];
    let mut caches = [CpuCache::new(Node::ZERO)];
    let mut guest = domain(0);
    {
        let pages = TestPages::new(MANY);
        let mut allocator = PageAllocator::new(machine, pages, &mut metadata, &mut caches).unwrap();
        allocator.init_boot_allocator(frame(1 << 18)).unwrap();
        allocator.init_boot_pages(address(0), address(160)).unwrap();
        allocator.init_boot_pages(address(256), address(3 << 18)).unwrap();
        allocator.init_boot_pages(address(4 << 18), address(MANY)).unwrap();
        allocator.end_boot_allocator().unwrap();
        assert_eq!(allocator.pages().cleared, 0);
        // A first page for a domain clears that page alone.
        let flags = MemoryFlags::default();
        let block = allocator.alloc_domheap_pages(&mut guest, order(0), flags).unwrap();
        let page = allocator.pages().pages[block.first().number() as usize];
        assert_eq!((page.owner, page.content), (guest.id(), 0));
        assert_eq!(allocator.pages().cleared, 1);
        assert_eq!(allocator.pages().pages[MANY as usize - 1].content, FIRMWARE);
        let _kept = block.into_frame();
    }
    let written = metadata.iter().filter(|word| **word != 0).count();
    assert!(written < 200, "{written} words written");
}
