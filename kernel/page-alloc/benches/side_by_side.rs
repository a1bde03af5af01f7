//! The allocator and the frame allocator of the crate `buddy_system_allocator`, side by side.
//!
//! In one process, over the same frame numbers, with the same random choices, run by run in turn;
//! each figure is the median of the runs, in nanoseconds per operation. Three ways through this
//! allocator are measured: `heap` (the run-time allocator, which is what the crate compares to),
//! `cache` (the same through a CPU's cache) and `domain` (allocation for a domain with quota,
//! owner and references recorded, through the cache; pages return to their last owner, so nothing
//! is cleared; the layer below is a `Vec` of owners).
//!
//! - random put: of a full heap, a random half is given back in random order; what is left is
//!   the half-full heap that the rest begins with;
//! - bulk get: all free blocks are taken; bulk put: they are given back as they came;
//! - repeat: once through the blocks held, in random order, each is given back and one is taken;
//! - fragmentation: random pages are given back and pages taken, then free 2 MiB blocks counted.

use std::hint::black_box;
use std::time::Instant;

use buddy_system_allocator::FrameAllocator;
use heliox_page_alloc::{
    Cpu, CpuCache, Domain, DomainBlock, HeapBlock, Machine, MemoryFlags, Node, Order,
    PageAllocator, Pages, Zone,
};
use heliox_types::{Frame, FrameRange};

/// Runs for single pages, and for 2 MiB blocks, of which there are few.
const RUNS: [usize; 2] = [5, 15];
/// Operations of which the slowest is looked for.
const REPEATS: usize = 1_000_000;

/// Xorshift64*: cheap, and the same for all.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (((self.next() >> 32) * limit as u64) >> 32) as usize
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for place in (1..values.len()).rev() {
            values.swap(place, self.below(place + 1));
        }
    }
}

/// The least layer below: an owner for each page.
struct Owners(Vec<u16>);

impl Pages for Owners {
    type Owner = u16;
    type Region = FrameRange;
    const HYPERVISOR: u16 = 0;

    fn owner(&self, frame: Frame) -> u16 {
        self.0[frame.number() as usize]
    }

    fn set_owner(&mut self, frames: FrameRange, owner: u16) -> Result<(), Frame> {
        self.0[frames.start() as usize..frames.end() as usize].fill(owner);
        Ok(())
    }

    fn clear(&mut self, _: Frame) -> Result<(), Frame> {
        unreachable!("pages return to their last owner")
    }

    fn region(&self, frames: FrameRange) -> FrameRange {
        frames
    }
}

/// What is measured. A block is what its holder keeps: a number, or a handle.
trait Allocator {
    type Block;

    fn get(&mut self, order: u32) -> Option<Self::Block>;
    fn put(&mut self, block: Self::Block, order: u32);
    fn free_2mib(&mut self) -> u64;
}

impl Allocator for FrameAllocator {
    type Block = u32;

    fn get(&mut self, order: u32) -> Option<u32> {
        self.alloc(1 << order).map(|page| page as u32)
    }

    fn put(&mut self, page: u32, order: u32) {
        self.dealloc(page as usize, 1 << order);
    }

    /// The crate does not tell; so take as many as there are and give them back.
    fn free_2mib(&mut self) -> u64 {
        let taken: Vec<usize> = std::iter::from_fn(|| self.alloc(512)).collect();
        for page in &taken {
            self.dealloc(*page, 512);
        }
        taken.len() as u64
    }
}

type Heliox = PageAllocator<'static, Owners>;

/// The run-time allocator.
struct Heap(Heliox);

/// The run-time allocator through a CPU's cache.
struct Cache(Heliox);

/// The domain heap, through a CPU's cache.
struct DomainHeap(Heliox, Domain<u16>);

fn order(number: u32) -> Order {
    Order::new(number).unwrap()
}

fn free_2mib(allocator: &mut Heliox, zone: Zone) -> u64 {
    allocator.drain_caches().unwrap();
    let blocks = allocator.dump_heap().unwrap().zone(zone).free_blocks;
    (9..).zip(&blocks[9..]).map(|(order, count)| u64::from(*count) << (order - 9)).sum()
}

impl Allocator for Heap {
    type Block = HeapBlock;

    fn get(&mut self, number: u32) -> Option<HeapBlock> {
        self.0.alloc_heap_pages(Zone::Xen, order(number)).ok()
    }

    fn put(&mut self, block: HeapBlock, _: u32) {
        self.0.free_heap_pages(Zone::Xen, block).unwrap();
    }

    fn free_2mib(&mut self) -> u64 {
        free_2mib(&mut self.0, Zone::Xen)
    }
}

impl Allocator for Cache {
    type Block = HeapBlock;

    fn get(&mut self, number: u32) -> Option<HeapBlock> {
        self.0.alloc_heap_pages_on(Cpu(0), Zone::Xen, order(number)).ok()
    }

    fn put(&mut self, block: HeapBlock, _: u32) {
        self.0.free_heap_pages_on(Cpu(0), Zone::Xen, block).unwrap();
    }

    fn free_2mib(&mut self) -> u64 {
        free_2mib(&mut self.0, Zone::Xen)
    }
}

impl Allocator for DomainHeap {
    type Block = DomainBlock;

    fn get(&mut self, number: u32) -> Option<DomainBlock> {
        self.0.alloc_domheap_pages(&mut self.1, order(number), MemoryFlags::default()).ok()
    }

    fn put(&mut self, block: DomainBlock, _: u32) {
        self.0.free_domheap_pages(&mut self.1, block).unwrap();
    }

    fn free_2mib(&mut self) -> u64 {
        free_2mib(&mut self.0, Zone::Dom)
    }
}

/// An allocator with all `pages` frames, but for as many as Heliox's records would take, free in
/// `zone`.
fn heliox(pages: u64, zone: Zone) -> Heliox {
    let machine = Machine {
        max_page: pages,
        max_dma_page: 0,
        dma_emergency_pages: 0,
        scrub_limit: 512,
        nodes: &[],
    };
    let metadata = vec![0; Heliox::metadata_words(pages)].leak();
    let caches = vec![CpuCache::new(Node::ZERO)].leak();
    let mut allocator =
        PageAllocator::new(machine, Owners(vec![1; pages as usize]), metadata, caches).unwrap();
    let usable = usable(pages);
    allocator.init_boot_allocator(Frame::new(usable).unwrap()).unwrap();
    allocator.init_heap_pages(zone, Frame::new(0).unwrap(), usable).unwrap();
    allocator
}

/// Pages that are left when Heliox's records are stored in the last ones.
fn usable(pages: u64) -> u64 {
    pages - 1 - (Heliox::metadata_words(pages) as u64 * 8).div_ceil(4096)
}

fn frame_allocator(pages: u64) -> FrameAllocator {
    let mut allocator = FrameAllocator::new();
    allocator.add_frame(0, usable(pages) as usize);
    allocator
}

fn domain_heap(pages: u64) -> DomainHeap {
    DomainHeap(heliox(pages, Zone::Dom), Domain::new(1, u64::MAX))
}

/// Something to be done with each kind of allocator.
trait Test {
    type Result;

    fn run<A: Allocator>(&self, allocator: A) -> Self::Result;

    fn run_on(&self, kind: usize, pages: u64) -> Self::Result {
        match kind {
            0 => self.run(frame_allocator(pages)),
            1 => self.run(Heap(heliox(pages, Zone::Xen))),
            2 => self.run(Cache(heliox(pages, Zone::Xen))),
            _ => self.run(domain_heap(pages)),
        }
    }
}

const KINDS: [&str; 4] = ["crate", "heap", "cache", "domain"];
const TESTS: [&str; 4] = ["bulk get", "bulk put", "random put", "repeat"];

/// Take all blocks and give a random half back, in random order: the blocks kept, and the
/// nanoseconds per block given back.
fn fill_half<A: Allocator>(
    allocator: &mut A,
    order: u32,
    random: &mut Random,
) -> (Vec<A::Block>, f64) {
    let mut held: Vec<A::Block> = std::iter::from_fn(|| allocator.get(order)).collect();
    random.shuffle(&mut held);
    let given = held.split_off(held.len() / 2);
    let nanoseconds = time(given.len(), || {
        for block in given {
            allocator.put(block, order);
        }
    });
    (held, nanoseconds)
}

/// Nanoseconds per operation of the four tests.
struct Speed {
    order: u32,
    seed: u64,
}

impl Test for Speed {
    type Result = [f64; 4];

    fn run<A: Allocator>(&self, mut allocator: A) -> [f64; 4] {
        let order = self.order;
        let mut random = Random(self.seed);
        let (held, random_put) = fill_half(&mut allocator, order, &mut random);
        let mut taken = Vec::with_capacity(held.len() + 1);
        let bulk_get = time(held.len(), || {
            while let Some(block) = allocator.get(order) {
                taken.push(block);
            }
        });
        assert!(taken.len().abs_diff(held.len()) <= 1);
        let bulk_put = time(taken.len(), || {
            for block in taken {
                allocator.put(block, order);
            }
        });
        // Once through the blocks, which are in random order, in place: no new memory.
        let (count, mut kept) = (held.len(), Vec::new());
        let repeat = time(count, || {
            kept = held
                .into_iter()
                .map(|block| {
                    allocator.put(block, order);
                    allocator.get(order).unwrap()
                })
                .collect();
        });
        black_box(kept.len());
        [bulk_get, bulk_put, random_put, repeat]
    }
}

fn time(operations: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / operations as f64
}

/// Free 2 MiB blocks after so many random frees and allocations of single pages.
struct Fragmentation {
    /// Whether the half that is taken to begin with is a random one, or the lower one.
    random_fill: bool,
    operations: usize,
}

impl Test for Fragmentation {
    type Result = u64;

    fn run<A: Allocator>(&self, mut allocator: A) -> u64 {
        let mut random = Random(7);
        let mut held: Vec<A::Block>;
        if self.random_fill {
            (held, _) = fill_half(&mut allocator, 0, &mut random);
        } else {
            held = std::iter::from_fn(|| allocator.get(0)).collect();
            for block in held.split_off(held.len() / 2) {
                allocator.put(block, 0);
            }
        }
        for _ in 0..self.operations {
            let block = held.swap_remove(random.below(held.len()));
            allocator.put(block, 0);
            held.push(allocator.get(0).unwrap());
        }
        allocator.free_2mib()
    }
}

/// The slowest of many single operations on a half-full heap, in nanoseconds: of all, and of all
/// but one in a thousand.
struct Worst;

impl Test for Worst {
    type Result = (u64, u64);

    fn run<A: Allocator>(&self, mut allocator: A) -> (u64, u64) {
        let mut random = Random(3);
        let (mut held, _) = fill_half(&mut allocator, 0, &mut random);
        let mut times = Vec::with_capacity(2 * REPEATS);
        for _ in 0..REPEATS {
            let block = held.swap_remove(random.below(held.len()));
            let start = Instant::now();
            allocator.put(block, 0);
            times.push(start.elapsed().as_nanos() as u64);
            let start = Instant::now();
            let block = allocator.get(0).unwrap();
            times.push(start.elapsed().as_nanos() as u64);
            held.push(block);
        }
        times.sort_unstable();
        (times[times.len() - 1], times[times.len() - times.len() / 1000])
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of the tests for each of `setups`, a kind and a number of pages, whose runs take turns.
fn medians(setups: &[(usize, u64)], order: u32) -> Vec<[f64; 4]> {
    let mut runs = vec![Vec::new(); setups.len()];
    for run in 0..RUNS[usize::from(order != 0)] {
        for (place, (kind, pages)) in setups.iter().enumerate() {
            let seed = run as u64 + 1;
            runs[place].push(Speed { order, seed }.run_on(*kind, *pages));
        }
    }
    runs.iter()
        .map(|runs| [0, 1, 2, 3].map(|test| median(runs.iter().map(|run| run[test]).collect())))
        .collect()
}

const GIB: u64 = 1 << 18;

fn main() {
    // Names of parts, to run only those; all otherwise.
    let named: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts: [(&str, fn()); 3] =
        [("speed", speed), ("sizes", sizes), ("fragmentation", fragmentation)];
    for (name, part) in parts {
        if named.is_empty() || named.iter().any(|other| other == name) {
            part();
        }
    }
}

fn speed() {
    println!("nanoseconds per operation, medians; 4 GiB of frames");
    println!(
        "order  test          crate     heap    cache   domain   crate/heap crate/cache crate/domain"
    );
    for order in [0, 9] {
        let results = medians(&[0, 1, 2, 3].map(|kind| (kind, 4 * GIB)), order);
        for (test, name) in TESTS.iter().enumerate() {
            let ns: Vec<f64> = results.iter().map(|result| result[test]).collect();
            println!(
                "{order:>5}  {name:<10} {:8.1} {:8.1} {:8.1} {:8.1}   {:>9.1}x {:>10.1}x {:>11.1}x",
                ns[0],
                ns[1],
                ns[2],
                ns[3],
                ns[0] / ns[1],
                ns[0] / ns[2],
                ns[0] / ns[3],
            );
        }
    }
}

fn sizes() {
    println!("\nthe same from 1 GiB to 64 GiB of frames");
    println!("order  kind    test          1 GiB    4 GiB   16 GiB   64 GiB   64 GiB/1 GiB");
    for (order, kind) in [0, 9].into_iter().flat_map(|order| (0..4).map(move |kind| (order, kind)))
    {
        let sizes = medians(&[1, 4, 16, 64].map(|gib| (kind, gib * GIB)), order);
        for (test, name) in TESTS.iter().enumerate() {
            println!(
                "{order:>5}  {:<7} {name:<10} {:8.1} {:8.1} {:8.1} {:8.1}   {:>8.2}x",
                KINDS[kind],
                sizes[0][test],
                sizes[1][test],
                sizes[2][test],
                sizes[3][test],
                sizes[3][test] / sizes[0][test],
            );
        }
    }
}

fn fragmentation() {
    println!("\n4 GiB, half full; free 2 MiB blocks after random frees and allocations of pages,");
    println!("by which half was full at first and how many million there were; slowest operation,");
    println!("and slowest but one in a thousand, in nanoseconds");
    println!("kind    lower, 1   random, 1   random, 8   slowest   1 in 1000");
    for (kind, name) in KINDS.iter().enumerate() {
        let [lower, random, long] = [(false, 1), (true, 1), (true, 8)].map(|(fill, millions)| {
            Fragmentation { random_fill: fill, operations: millions * 1_000_000 }
                .run_on(kind, 4 * GIB)
        });
        let (slowest, most) = Worst.run_on(kind, 4 * GIB);
        println!("{name:<7} {lower:>8} {random:>11} {long:>11} {slowest:>9} {most:>11}");
    }
}
