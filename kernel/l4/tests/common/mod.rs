//! A kernel on the simulated machine, and random programs that know what there is.

use std::fmt;

use heliox_abi::kip::{MemoryDescriptor, MemoryType};
use heliox_hal::execution::{Execution, Heap};
use heliox_hal::geometry::FourLevel;
use heliox_hal::memory::{Memory, PhysicalMemory};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::simulated::{Caching, Simulated, SimulatedHal};
use heliox_hal::state::Layout;
use heliox_l4_kernel::{
    Beginning, DatabaseParts, Deadline, EMPTY_BUCKET, Kernel, Node, Objects, Server, Space,
    Surroundings, Thread, Transfer, UtcbPage,
};
use heliox_types::flexpage::Flexpage;
use heliox_types::{FrameRange, PhysicalAddress, VirtualAddress};

/// Where sigma0's and root's programs are said to be.
pub(crate) const SIGMA0_ENTRY: u64 = 0x10_0000;
pub(crate) const ROOT_ENTRY: u64 = 0x20_0000;

/// Pages for the kernel's own use.
pub(crate) struct Support {
    free: Vec<PhysicalRegion>,
    pub(crate) lines: Vec<String>,
    pub(crate) printed: Vec<u8>,
}

impl Support {
    /// Pages that are not in use.
    pub(crate) fn free_pages(&self) -> usize {
        self.free.len()
    }
}

impl Surroundings for Support {
    fn take_page(&mut self) -> Option<PhysicalRegion> {
        self.free.pop()
    }

    fn give_back(&mut self, page: PhysicalRegion) {
        self.free.push(page);
    }

    fn log(&mut self, line: fmt::Arguments<'_>) {
        if self.lines.len() < 1000 {
            self.lines.push(line.to_string());
        }
    }

    fn print(&mut self, bytes: &[u8]) {
        if self.printed.len() < 100_000 {
            self.printed.extend_from_slice(bytes);
        }
    }

    fn read_character(&mut self) -> Option<u8> {
        None
    }
}

/// How large a machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) frames: u64,
    pub(crate) pool: u64,
    pub(crate) threads: usize,
    pub(crate) spaces: usize,
    pub(crate) utcb_pages: usize,
    pub(crate) mappings: usize,
    pub(crate) heap_pages: u64,
}

impl Size {
    pub(crate) const SMALL: Self = Self {
        frames: 4096,
        pool: 56,
        threads: 128,
        spaces: 10,
        utcb_pages: 14,
        mappings: 4096,
        heap_pages: 256,
    };
}

fn derive(region: PhysicalRegion, start: u64, bits: u32) -> PhysicalRegion {
    let start = PhysicalAddress::new(start).expect("it is an address");
    let part = Flexpage::physical(start, bits).expect("it is aligned");
    region.derive(part).expect("it is within")
}

pub(crate) type TestKernel = Kernel<'static, SimulatedHal, Support>;

fn slice<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    let mut items = Vec::with_capacity(count);
    items.resize_with(count, make);
    items.leak()
}

/// A kernel that has started sigma0 and root, which have not run yet.
pub(crate) fn kernel(size: Size) -> TestKernel {
    let machine = Simulated::<FourLevel>::builder(size.frames)
        .caching(Caching { speculative: false, private_window: false })
        .build()
        .expect("the machine can be laid out");
    let layout = Layout {
        environment: vec![machine.environment()],
        free: vec![machine.free_frames()],
        modules: vec![],
        io: vec![],
    };
    let memory = Memory::simulated(machine, layout).expect("the layout is right");
    let mut hal = SimulatedHal::new(memory, size.heap_pages);
    let heap = hal.heap_frames();
    hal.grow_heap(heap).expect("nothing of the heap was taken");
    let all: Vec<PhysicalRegion> = hal.memory_view().initial_regions().collect();
    // The kernel's pages are the last ones.
    let mut pool = Vec::new();
    let mut regions = Vec::new();
    let end = all.iter().map(|region| region.first_frame().number() + region.pages()).max();
    let first = end.expect("there is memory") - size.pool;
    for region in all {
        let (start, end) = (region.frames().start(), region.frames().end());
        let part = |from: u64, to: u64| FrameRange::new(from, to).unwrap_or(FrameRange::EMPTY);
        for frame in part(start.max(first), end) {
            pool.push(derive(region, frame.address().get(), 12));
        }
        for (frame, bits) in part(start, end.min(first)).blocks() {
            regions.push(derive(region, frame.address().get(), bits + 12));
        }
    }
    regions.sort_by_key(|region| region.first_frame().number());
    let memory = [MemoryDescriptor {
        memory_type: MemoryType::Conventional,
        subtype: 0,
        is_virtual: false,
        low: 0,
        high: (size.frames << 12) - 1,
    }];
    let server = |entry| Server {
        entry: VirtualAddress::new(entry).expect("it is canonical"),
        low: entry,
        high: entry + 0x1000,
    };
    let beginning = Beginning {
        sigma0: server(SIGMA0_ENTRY),
        root: server(ROOT_ENTRY),
        memory: &memory,
        boot_information: 0,
        kilohertz: (1_000_000, 1_000_000),
        gigabyte_pages: true,
        key: 0x9e37_79b9_7f4a_7c15,
        light_path: true,
    };
    let objects = Objects {
        threads: slice(size.threads, Thread::free),
        deadlines: slice(size.threads, Deadline::default),
        checks: slice(size.threads, || 0),
        spaces: slice(size.spaces, Space::free),
        utcb_pages: slice(size.utcb_pages, UtcbPage::free),
        transfers: slice(size.threads / 2 + 1, Transfer::default),
        mappings: DatabaseParts {
            nodes: slice(size.mappings, Node::unused),
            by_place: slice(size.mappings.next_power_of_two(), || EMPTY_BUCKET),
            by_object: slice(size.mappings.next_power_of_two(), || EMPTY_BUCKET),
        },
        port_mappings: DatabaseParts {
            nodes: slice(1024, Node::unused),
            by_place: slice(1024, || EMPTY_BUCKET),
            by_object: slice(1024, || EMPTY_BUCKET),
        },
    };
    let support = Support { free: pool, lines: Vec::new(), printed: Vec::new() };
    Kernel::start(hal, support, objects, regions.leak(), &beginning).expect("the kernel starts")
}
