//! One test for each undesired event, named after it: it is detected, reported, and changes
//! nothing that can be seen.

mod common;

use common::{FIRST_DOMAIN, HYPERVISOR, TestPages, frame};
use heliox_page_alloc::{
    Cpu, CpuCache, Domain, Event, MAX_SECTIONS, Machine, MemoryFlags, Node, NodeFlag, NodeRange,
    Order, PageAllocator, PageAttributes, SetupError, Zone,
};
use heliox_types::{FrameRange, PhysicalAddress};

type Allocator = PageAllocator<'static, TestPages>;

const PAGES: u64 = 1024;
const ZERO: Order = Order::ZERO;

fn address(page: u64) -> PhysicalAddress {
    PhysicalAddress::new(page * 4096).unwrap()
}

fn order(number: u32) -> Order {
    Order::new(number).unwrap()
}

fn new() -> Allocator {
    let machine = Machine {
        max_page: PAGES,
        max_dma_page: 255,
        dma_emergency_pages: 8,
        scrub_limit: 16,
        nodes: &[],
    };
    let metadata = vec![0; Allocator::metadata_words(PAGES)].leak();
    let caches = vec![CpuCache::new(Node::ZERO)].leak();
    PageAllocator::new(machine, TestPages::new(PAGES), metadata, caches).unwrap()
}

/// All memory free and in no zone.
fn booting() -> Allocator {
    let mut allocator = new();
    allocator.init_boot_allocator(frame(0)).unwrap();
    allocator.init_boot_pages(address(0), address(PAGES)).unwrap();
    allocator
}

/// All memory in zones: `xen` is 513 to 575.
fn running() -> Allocator {
    let mut allocator = booting();
    allocator.alloc_boot_pages_at(65, frame(512)).unwrap();
    allocator.init_xenheap_pages(address(512), address(577)).unwrap();
    allocator.end_boot_allocator().unwrap();
    allocator
}

fn domain(number: u32) -> Domain<u32> {
    Domain::new(FIRST_DOMAIN + number, 300)
}

/// Everything that can be seen.
fn snapshot(allocator: &Allocator) -> (Vec<Option<PageAttributes<u32>>>, String) {
    let pages = (0..PAGES)
        .map(|page| {
            let mut page = allocator.attributes(frame(page)).ok()?;
            // Whether a free page is in a cache is nobody's business.
            page.cached = false;
            Some(page)
        })
        .collect();
    let figures = allocator.dump_heap().map(|figures| figures.claimed);
    (pages, format!("{figures:?}"))
}

/// Check that `action` reports `event` and changes nothing.
#[track_caller]
fn refuses<T>(
    allocator: &mut Allocator,
    event: Event,
    action: impl FnOnce(&mut Allocator) -> Result<T, Event>,
) {
    let before = snapshot(allocator);
    assert_eq!(action(allocator).err(), Some(event));
    assert_eq!(snapshot(allocator), before);
    assert!(!event.to_string().is_empty());
}

#[test]
fn already_initialised() {
    let mut allocator = booting();
    refuses(&mut allocator, Event::AlreadyInitialised, |allocator| {
        allocator.init_boot_allocator(frame(0))
    });
}

#[test]
fn not_initialised() {
    let mut allocator = new();
    let event = Event::NotInitialised;
    let flags = MemoryFlags::default();
    let (mut guest, page) = (domain(0), frame(1));
    let (start, end) = (address(1), address(9));
    refuses(&mut allocator, event, |a| a.allocated_in_map(page));
    refuses(&mut allocator, event, |a| a.map_alloc(page, 1));
    refuses(&mut allocator, event, |a| a.map_free(page, 1));
    refuses(&mut allocator, event, |a| a.init_boot_pages(start, end));
    refuses(&mut allocator, event, |a| a.alloc_boot_pages_at(1, page));
    refuses(&mut allocator, event, |a| a.alloc_boot_pages(1, 1));
    refuses(&mut allocator, event, |a| a.end_boot_allocator());
    refuses(&mut allocator, event, |a| a.init_heap_pages(Zone::Dom, page, 1));
    refuses(&mut allocator, event, |a| a.alloc_heap_pages(Zone::Dom, ZERO));
    refuses(&mut allocator, event, |a| a.heap_block_at(Zone::Dom, page, ZERO));
    refuses(&mut allocator, event, |a| a.avail_heap_pages(None));
    refuses(&mut allocator, event, |a| a.avail_heap_pages_on(Zone::Dom, Node::ZERO));
    refuses(&mut allocator, event, |a| a.scrub_heap_pages(1, |_| ()));
    refuses(&mut allocator, event, |a| a.dump_heap());
    refuses(&mut allocator, event, |a| a.offline_page(page));
    refuses(&mut allocator, event, |a| a.drain_caches());
    refuses(&mut allocator, event, |a| a.init_xenheap_pages(start, end));
    refuses(&mut allocator, event, |a| a.alloc_xenheap_pages(ZERO));
    refuses(&mut allocator, event, |a| a.xenheap_block_at(page, ZERO));
    refuses(&mut allocator, event, |a| a.init_domheap_pages(start, end));
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut guest, ZERO, flags));
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages_unassigned(Cpu(0), ZERO, flags));
    refuses(&mut allocator, event, |a| a.avail_domheap_pages());
    refuses(&mut allocator, event, |a| a.avail_dma_emergency_pages());
    refuses(&mut allocator, event, |a| a.domheap_block_at(page, ZERO));
    refuses(&mut allocator, event, |a| a.get_page(page));
    refuses(&mut allocator, event, |a| a.put_page(page));
    refuses(&mut allocator, event, |a| a.claim_pages(&mut guest, 1));
    refuses(&mut allocator, event, |a| a.begin_dying(&mut guest));
    refuses(&mut allocator, event, |a| a.page_scrub_softirq(1));
    refuses(&mut allocator, event, |a| a.avail_scrub_pages());
    refuses(&mut allocator, event, |a| a.scrub_block_at(page, ZERO, 1));
    refuses(&mut allocator, event, |a| a.attributes(page));
}

#[test]
fn boot_ended() {
    let mut allocator = running();
    let event = Event::BootEnded;
    refuses(&mut allocator, event, |a| a.map_alloc(frame(9), 1));
    refuses(&mut allocator, event, |a| a.map_free(frame(9), 1));
    refuses(&mut allocator, event, |a| a.init_boot_pages(address(1), address(2)));
    refuses(&mut allocator, event, |a| a.alloc_boot_pages_at(1, frame(9)));
    refuses(&mut allocator, event, |a| a.alloc_boot_pages(1, 1));
    refuses(&mut allocator, event, |a| a.end_boot_allocator());
}

#[test]
fn not_legal_address() {
    let mut allocator = booting();
    let event = Event::NotLegalAddress { frame: PAGES };
    refuses(&mut allocator, event, |a| a.allocated_in_map(frame(PAGES)));
    refuses(&mut allocator, event, |a| a.map_alloc(frame(PAGES - 1), 2));
    refuses(&mut allocator, event, |a| a.init_boot_pages(address(PAGES), address(PAGES + 1)));
    refuses(&mut allocator, event, |a| a.heap_block_at(Zone::Dom, frame(PAGES), ZERO));
    refuses(&mut allocator, event, |a| a.mfn_to_page(frame(PAGES)));
    refuses(&mut new(), event, |a| a.init_boot_allocator(frame(PAGES - 2)));
}

#[test]
fn pages_already_allocated() {
    let mut allocator = booting();
    allocator.map_alloc(frame(104), 1).unwrap();
    let event = Event::PagesAlreadyAllocated { frame: 104 };
    refuses(&mut allocator, event, |a| a.map_alloc(frame(100), 10));
}

#[test]
fn pages_not_allocated() {
    let mut allocator = booting();
    allocator.map_alloc(frame(100), 4).unwrap();
    let event = Event::PagesNotAllocated { frame: 104 };
    refuses(&mut allocator, event, |a| a.map_free(frame(100), 10));
    refuses(&mut allocator, event, |a| a.init_heap_pages(Zone::Dom, frame(100), 10));

    // Double frees through a second handle, made from a number.
    let mut allocator = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(1)).unwrap();
    let page = block.first();
    let again = allocator.heap_block_at(Zone::Dom, page, order(1)).unwrap();
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
    let event = Event::PagesNotAllocated { frame: page.number() };
    refuses(&mut allocator, event, |a| {
        a.free_heap_pages(Zone::Dom, again).map_err(|refused| refused.event)
    });

    let block = allocator.alloc_xenheap_pages(ZERO).unwrap();
    let page = block.first();
    let again = allocator.xenheap_block_at(page, ZERO).unwrap();
    allocator.free_xenheap_pages(block).unwrap();
    let event = Event::PagesNotAllocated { frame: page.number() };
    refuses(&mut allocator, event, |a| {
        a.free_xenheap_pages(again).map_err(|refused| refused.event)
    });

    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, ZERO, flags).unwrap();
    let page = block.first();
    let again = allocator.domheap_block_at(page, ZERO).unwrap();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
    let event = Event::PagesNotAllocated { frame: page.number() };
    refuses(&mut allocator, event, |a| {
        a.free_domheap_pages(&mut guest, again).map_err(|refused| refused.event)
    });
}

#[test]
fn request_too_large() {
    assert_eq!(Order::new(19), Err(Event::RequestTooLarge { request: 19 }));
    let mut allocator = booting();
    let event = Event::RequestTooLarge { request: u64::MAX };
    refuses(&mut allocator, event, |a| a.map_alloc(frame(1), u64::MAX));
    let event = Event::RequestTooLarge { request: 3 };
    refuses(&mut allocator, event, |a| a.alloc_boot_pages(1, 3));
    let mut allocator = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, ZERO).unwrap();
    let event = Event::RequestTooLarge { request: 0 };
    refuses(&mut allocator, event, |a| {
        a.split_heap_block(Zone::Dom, block).map_err(|refused| refused.event)
    });
}

#[test]
fn bad_zone() {
    let mut allocator = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, ZERO).unwrap();
    let page = block.first().number();
    let event = Event::BadZone { frame: page, actual: Some(Zone::Dom) };
    refuses(&mut allocator, event, |a| {
        a.free_heap_pages(Zone::Xen, block).map_err(|refused| refused.event)
    });
    let event = Event::BadZone { frame: 513, actual: Some(Zone::Xen) };
    refuses(&mut allocator, event, |a| a.init_heap_pages(Zone::Dom, frame(513), 1));
    refuses(&mut allocator, event, |a| a.domheap_block_at(frame(513), ZERO));
    // The page between the zones stays between them.
    refuses(&mut allocator, event, |a| a.init_heap_pages(Zone::Dom, frame(512), 1));
    let event = Event::BadZone { frame: 512, actual: None };
    refuses(&mut allocator, event, |a| a.heap_block_at(Zone::Xen, frame(512), ZERO));
}

#[test]
fn unknown_zone() {
    assert_eq!(Zone::try_from(3), Err(Event::UnknownZone { number: 3 }));
    assert_eq!(Zone::try_from(2), Ok(Zone::Dma));
}

#[test]
fn unknown_node() {
    assert_eq!(Node::new(8), Err(Event::UnknownNode { number: 8 }));
    let mut allocator = running();
    let node = Node::new(7).unwrap();
    let event = Event::UnknownNode { number: 7 };
    let flags = MemoryFlags { node: NodeFlag::Prefer(node), ..MemoryFlags::default() };
    refuses(&mut allocator, event, |a| a.avail_heap_pages_on(Zone::Dom, node));
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut domain(0), ZERO, flags));
}

#[test]
fn unknown_cpu() {
    let mut allocator = running();
    let event = Event::UnknownCpu { number: 1 };
    refuses(&mut allocator, event, |a| a.alloc_heap_pages_on(Cpu(1), Zone::Dom, ZERO));
    let block = allocator.alloc_heap_pages(Zone::Dom, ZERO).unwrap();
    refuses(&mut allocator, event, |a| {
        a.free_heap_pages_on(Cpu(1), Zone::Dom, block).map_err(|refused| refused.event)
    });
}

#[test]
fn no_suitable_block() {
    let mut allocator = booting();
    let event = Event::NoSuitableBlock { request: PAGES };
    refuses(&mut allocator, event, |a| a.alloc_boot_pages(PAGES, 1));
    let mut allocator = running();
    let event = Event::NoSuitableBlock { request: 10 };
    refuses(&mut allocator, event, |a| a.alloc_heap_pages(Zone::Dom, order(10)));
    let mut rich = Domain::new(FIRST_DOMAIN, PAGES);
    let flags =
        MemoryFlags { node: NodeFlag::Exactly(Node::ZERO), dma: true, ..MemoryFlags::default() };
    let event = Event::NoSuitableBlock { request: 8 };
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut rich, order(8), flags));
}

#[test]
fn empty_range() {
    let mut allocator = booting();
    let event = Event::EmptyRange { start: 9, end: 9 };
    refuses(&mut allocator, event, |a| a.map_free(frame(9), 0));
    let (start, end) = (address(9), address(8));
    let event = Event::EmptyRange { start: start.get(), end: end.get() };
    refuses(&mut allocator, event, |a| a.init_boot_pages(start, end));
    refuses(&mut allocator, event, |a| a.init_xenheap_pages(start, end));
    refuses(&mut allocator, event, |a| a.init_domheap_pages(start, end));
}

#[test]
fn domain_dying() {
    let mut allocator = running();
    let mut guest = domain(0);
    allocator.begin_dying(&mut guest).unwrap();
    let flags = MemoryFlags::default();
    let event = Event::DomainDying;
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut guest, ZERO, flags));
    refuses(&mut allocator, event, |a| a.claim_pages(&mut guest, 1));
    let block = allocator.alloc_heap_pages(Zone::Dom, ZERO).unwrap();
    refuses(&mut allocator, event, |a| {
        a.assign_pages(&mut guest, block, flags).map_err(|refused| refused.event)
    });
}

#[test]
fn quota_exceeded() {
    let mut allocator = running();
    let mut guest = Domain::new(FIRST_DOMAIN, 10);
    let flags = MemoryFlags::default();
    let first = allocator.alloc_domheap_pages(&mut guest, order(3), flags).unwrap();
    let event = Event::QuotaExceeded { total_pages: 8, request: 4, max_pages: 10 };
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut guest, order(2), flags));
    refuses(&mut allocator, event, |a| a.claim_pages(&mut guest, 4));
    assert_eq!(guest.total_pages(), 8);
    let uncounted = MemoryFlags { no_refcount: true, ..flags };
    let more = allocator.alloc_domheap_pages(&mut guest, order(2), uncounted).unwrap();
    assert_eq!(guest.total_pages(), 8);
    allocator.free_domheap_pages(&mut guest, more).unwrap();
    allocator.free_domheap_pages(&mut guest, first).unwrap();
    assert_eq!(guest.total_pages(), 0);
}

#[test]
fn not_owner() {
    let mut allocator = running();
    let (mut one, mut other) = (domain(0), domain(1));
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut one, ZERO, flags).unwrap();
    let event = Event::NotOwner { frame: block.first().number() };
    refuses(&mut allocator, event, |a| a.heap_block_at(Zone::Dom, block.first(), ZERO));
    refuses(&mut allocator, event, |a| {
        a.free_domheap_pages(&mut other, block).map_err(|refused| refused.event)
    });
}

#[test]
fn not_assigned() {
    let mut allocator = running();
    let block = allocator.alloc_heap_pages(Zone::Dom, ZERO).unwrap();
    let page = block.first();
    let event = Event::NotAssigned { frame: page.number() };
    refuses(&mut allocator, event, |a| a.domheap_block_at(page, ZERO));
    refuses(&mut allocator, event, |a| a.get_page(page));
    refuses(&mut allocator, event, |a| a.put_page(page));
}

#[test]
fn no_address() {
    let mut allocator = running();
    let block = allocator.alloc_xenheap_pages(order(2)).unwrap();
    let inside = block.frames().start() + 1;
    let event = Event::NoAddress { frame: inside };
    refuses(&mut allocator, event, |a| a.xenheap_block_at(frame(inside), ZERO));
    let event = Event::NoAddress { frame: block.frames().start() };
    refuses(&mut allocator, event, |a| a.xenheap_block_at(block.first(), order(1)));
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(2), flags).unwrap();
    let inside = block.frames().start() + 2;
    let event = Event::NoAddress { frame: inside };
    refuses(&mut allocator, event, |a| a.domheap_block_at(frame(inside), order(1)));
}

#[test]
fn bad_page() {
    let mut allocator = booting();
    allocator.offline_page(frame(100)).unwrap();
    let event = Event::BadPage { frame: 100 };
    refuses(&mut allocator, event, |a| a.offline_page(frame(100)));
    refuses(&mut allocator, event, |a| a.map_free(frame(100), 1));
}

#[test]
fn holds_map() {
    let mut allocator = booting();
    let event = Event::HoldsMap { frame: 0 };
    refuses(&mut allocator, event, |a| a.map_free(frame(0), 1));
    refuses(&mut allocator, event, |a| a.init_heap_pages(Zone::Dma, frame(0), 1));
}

#[test]
fn scrub_pending() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, ZERO, flags).unwrap();
    let page = block.first();
    let again = allocator.domheap_block_at(page, ZERO).unwrap();
    allocator.begin_dying(&mut guest).unwrap();
    allocator.free_domheap_pages(&mut guest, block).unwrap();
    let event = Event::ScrubPending { frame: page.number() };
    refuses(&mut allocator, event, |a| {
        a.free_domheap_pages(&mut guest, again).map_err(|refused| refused.event)
    });
    refuses(&mut allocator, event, |a| a.heap_block_at(Zone::Dom, page, ZERO));
}

#[test]
fn still_referenced() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, order(1), flags).unwrap();
    let second = block.frames().start() + 1;
    allocator.get_page(frame(second)).unwrap();
    let event = Event::StillReferenced { frame: second, references: 2 };
    refuses(&mut allocator, event, |a| {
        a.free_domheap_pages(&mut guest, block).map_err(|refused| refused.event)
    });
    assert_eq!(guest.total_pages(), 2);
}

#[test]
fn too_many_references() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, ZERO, flags).unwrap();
    let page = block.first();
    for _ in 1..common::model::MOST_REFERENCES {
        allocator.get_page(page).unwrap();
    }
    let event = Event::TooManyReferences { frame: page.number() };
    refuses(&mut allocator, event, |a| a.get_page(page));
    let _kept = block.into_frame();
}

#[test]
fn last_reference() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_domheap_pages(&mut guest, ZERO, flags).unwrap();
    let event = Event::LastReference { frame: block.first().number() };
    refuses(&mut allocator, event, |a| a.put_page(block.first()));
    let _kept = block.into_frame();
}

#[test]
fn reserved_by_claims() {
    let mut allocator = running();
    let available = allocator.avail_domheap_pages().unwrap();
    let (mut built, mut other) = (Domain::new(FIRST_DOMAIN, PAGES), domain(1));
    allocator.claim_pages(&mut built, available).unwrap();
    let flags = MemoryFlags::default();
    let event = Event::ReservedByClaims { available, claimed: available };
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut other, ZERO, flags));
    refuses(&mut allocator, event, |a| a.claim_pages(&mut other, 1));
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages_unassigned(Cpu(0), ZERO, flags));
}

#[test]
fn too_much_to_scrub() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(5)).unwrap();
    let page = block.first().number();
    let event = Event::TooMuchToScrub { frame: page, pages: 32 };
    refuses(&mut allocator, event, |a| {
        a.assign_pages(&mut guest, block, flags).map_err(|refused| refused.event)
    });
    let block = allocator.heap_block_at(Zone::Dom, frame(page), order(5)).unwrap();
    allocator.free_heap_pages(Zone::Dom, block).unwrap();
    refuses(&mut allocator, event, |a| a.alloc_domheap_pages(&mut guest, order(5), flags));
    assert_eq!(allocator.pages().cleared, 0);
}

#[test]
fn refused() {
    let mut allocator = running();
    let mut guest = domain(0);
    let flags = MemoryFlags::default();
    let block = allocator.alloc_heap_pages(Zone::Dom, order(1)).unwrap();
    let page = block.first().number();
    allocator.pages_mut().pages[page as usize + 1].pinned = true;
    let event = Event::Refused { frame: page + 1 };
    refuses(&mut allocator, event, |a| {
        a.assign_pages(&mut guest, block, flags).map_err(|refused| refused.event)
    });
    assert_eq!(guest.total_pages(), 0);
    let owner = allocator.pages().pages[page as usize].owner;
    assert_eq!(owner, HYPERVISOR);
    allocator.pages_mut().pages[page as usize + 1].stuck = true;
    let block = allocator.heap_block_at(Zone::Dom, frame(page), order(1)).unwrap();
    refuses(&mut allocator, event, |a| {
        a.assign_pages(&mut guest, block, flags).map_err(|refused| refused.event)
    });
}

#[test]
fn too_many_sections() {
    let mut allocator = new();
    allocator.init_boot_allocator(frame(0)).unwrap();
    for section in 0..MAX_SECTIONS as u64 {
        let page = frame(100 + 2 * section);
        allocator.init_heap_pages(Zone::Dom, page, 1).unwrap();
    }
    refuses(&mut allocator, Event::TooManySections, |a| {
        a.init_heap_pages(Zone::Dom, frame(1000), 1)
    });
}

#[test]
fn a_machine_that_cannot_be() {
    let range = |start, end, node| NodeRange {
        frames: FrameRange::new(start, end).unwrap(),
        node: Node::new(node).unwrap(),
    };
    let make = |max_page, nodes: &[NodeRange], words: usize, cpus: usize| {
        let machine =
            Machine { max_page, max_dma_page: 0, dma_emergency_pages: 0, scrub_limit: 1, nodes };
        let mut metadata = vec![0; words];
        let mut caches: Vec<_> = (0..cpus).map(|_| CpuCache::new(Node::ZERO)).collect();
        PageAllocator::new(machine, TestPages::new(1), &mut metadata, &mut caches).err()
    };
    let needed = Allocator::metadata_words(PAGES);
    assert_eq!(make(PAGES, &[], needed, 1), None);
    assert_eq!(make(0, &[], 0, 1), Some(SetupError::Pages(0)));
    let many = (1 << 32) + 1;
    assert_eq!(make(many, &[], 0, 1), Some(SetupError::Pages(many)));
    let given = needed - 1;
    let small = SetupError::MetadataTooSmall { needed, given };
    assert_eq!(make(PAGES, &[], given, 1), Some(small));
    let (one, other) = (range(0, 10, 0), range(9, 20, 1));
    let overlap = SetupError::NodesOverlap(one, other);
    assert_eq!(make(PAGES, &[one, other], needed, 1), Some(overlap));
    assert_eq!(make(PAGES, &[], needed, 0), Some(SetupError::NoCpu));
}
