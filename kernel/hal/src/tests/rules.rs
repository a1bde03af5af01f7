//! Each rule by itself, on a machine with the page tables of x86-64.

use std::vec::Vec;

use heliox_types::{Frame, FrameRange, PhysicalAddress, USER_END, VirtualAddress};

use crate::audit::SimulatedMemory;
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::domain::{DomainId, Owner};
use crate::entry::{Entry, Host};
use crate::error::Error;
use crate::flexpage::{Flexpage, Virtual, VirtualRange};
use crate::geometry::FourLevel;
use crate::kernel_mapping::Offset;
use crate::machine::Machine;
use crate::mapping::{Change, MappingInfo, Request};
use crate::memory::{KernelMemory, Memory, Ownership, Paging, PhysicalMemory, UserMemory};
use crate::page::{PageRecord, Status};
use crate::page_map::{FreeStep, PageMap, TableSupply};
use crate::region::{IoKind, IoRange, PhysicalRegion, RegionKind};
use crate::rights::{MemoryType, Rights};
use crate::simulated::{Access, AccessKind, Simulated};
use crate::state::{Layout, Vectors};
use crate::translation::DrainingPage;

const PAGE: u32 = 12;
const LARGE: u32 = 21;
const HUGE: u32 = 30;

/// The memory and a place for what tests need often.
struct Client {
    memory: SimulatedMemory<'static, FourLevel>,
    supply: TableSupply,
    /// Next frame to be used for tables.
    next: u64,
}

fn leak<T>(values: Vec<T>) -> &'static [T] {
    values.leak()
}

fn cpu(number: usize) -> CurrentCpu {
    CurrentCpu::simulated(CpuIndex::new(number).unwrap())
}

fn domain(number: u16) -> DomainId {
    DomainId::new(number).unwrap()
}

fn at(address: u64) -> VirtualAddress {
    VirtualAddress::new(address).unwrap()
}

fn flexpage(address: u64, bits: u32) -> Flexpage<Virtual> {
    Flexpage::<Virtual>::new(at(address), bits).unwrap()
}

fn frame(number: u64) -> Frame {
    Frame::new(number).unwrap()
}

fn user(kind: AccessKind) -> Access {
    Access::user(kind)
}

impl Client {
    /// A machine with 2 processors and `frames` frames of RAM; I/O memory of 16 frames behind it.
    fn with(frames: u64, largest_leaf: u32) -> Self {
        let io = FrameRange::new(frames, frames + 16).unwrap();
        let machine = Simulated::<FourLevel>::builder(frames)
            .processors(2)
            .largest_leaf(largest_leaf)
            .io(io, MemoryType::WriteCombining)
            .build()
            .unwrap();
        let free = machine.free_frames();
        let module = FrameRange::new(free.end() - 3, free.end()).unwrap();
        let layout = Layout {
            environment: leak(std::vec![machine.environment()]),
            free: leak(std::vec![free.without(module).0]),
            modules: leak(std::vec![module]),
            io: leak(std::vec![IoRange { frames: io, kind: IoKind::FrameBuffer }]),
        };
        let storage = Vectors::new::<FourLevel>(usize::try_from(frames).unwrap(), 2);
        let memory = Memory::simulated(machine, storage, layout).unwrap();
        let mut client = Self { memory, supply: TableSupply::EMPTY, next: free.start() };
        client.refill();
        client
    }

    fn new() -> Self {
        Self::with(4096, 3)
    }

    /// The region of the `1 << bits` bytes from frame `number` on.
    fn region(&self, number: u64, bits: u32) -> PhysicalRegion {
        let flexpage = Flexpage::physical(frame(number).address(), bits).unwrap();
        let mut regions = self.memory.initial_regions();
        regions.find_map(|region| region.derive(flexpage).ok()).unwrap()
    }

    fn io_region(&self) -> PhysicalRegion {
        let mut regions = self.memory.initial_regions();
        regions.find(|region| region.kind() != RegionKind::Ram).unwrap()
    }

    fn refill(&mut self) {
        while self.supply.count() < 4 {
            let region = self.region(self.next, PAGE);
            self.next += 1;
            let page = self.memory.create_page_map_page(region).unwrap();
            self.supply.add(page).unwrap();
        }
    }

    fn map(&mut self) -> PageMap {
        let page = self.supply.take().unwrap();
        self.refill();
        self.memory.allocate_page_map(page).unwrap()
    }

    /// A page map of another domain.
    fn map_of(&mut self, owner: u16) -> PageMap {
        let region = self.region(self.next, PAGE);
        self.next += 1;
        self.memory.release(cpu(0), region, domain(0)).unwrap();
        self.memory.assign(region, domain(owner)).unwrap();
        let page = self.memory.create_page_map_page(region).unwrap();
        self.memory.allocate_page_map(page).unwrap()
    }

    fn add(
        &mut self,
        map: &mut PageMap,
        address: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Result<(), Error> {
        let to = flexpage(address, region.bits());
        let added = self.memory.add_mapping(map, to, region, rights, None, &mut self.supply)?;
        assert_eq!(added.done, region.pages());
        self.refill();
        Ok(())
    }

    /// Removes everything in a range, in steps, and returns what was there and the freed tables.
    fn remove(
        &mut self,
        map: &mut PageMap,
        range: VirtualRange,
    ) -> (Vec<MappingInfo>, Vec<DrainingPage>) {
        let (mut infos, mut tables) = (Vec::new(), Vec::new());
        let mut rest = Some(range);
        while let Some(range) = rest {
            let removed = self
                .memory
                .remove_mapping(cpu(0), map, range, &mut self.supply, |info| infos.push(info))
                .unwrap();
            tables.extend(removed.tables);
            rest = removed.rest;
            self.refill();
        }
        (infos, tables)
    }

    fn load(&mut self, number: usize, map: &PageMap) {
        let held = self.memory.attach(map).unwrap();
        self.memory.load(cpu(number), &held);
        self.memory.detach(held);
    }

    fn access(&mut self, number: usize, address: u64, kind: AccessKind) -> bool {
        let cpu = CpuIndex::new(number).unwrap();
        let machine = self.memory.machine_mut();
        machine.access(cpu, at(address), user(kind)).is_ok()
    }

    fn status(&self, number: u64) -> Status {
        self.memory.state().status(frame(number))
    }

    fn clean(&mut self) {
        assert_eq!(self.memory.machine_mut().take_violations(), []);
    }
}

// --- Regions ---

#[test]
fn initial_regions_are_all_free_memory_and_nothing_else() {
    let client = Client::new();
    let environment = client.memory.machine().environment();
    let mut covered = 0;
    for region in client.memory.initial_regions() {
        let range = FrameRange::from_count(region.first_frame(), region.pages()).unwrap();
        assert!(!range.overlaps(environment));
        covered += region.pages();
    }
    assert_eq!(covered, 4096 - environment.count() - 3 + 16);
    let module: u64 = client.memory.module_regions(0).unwrap().map(PhysicalRegion::pages).sum();
    assert_eq!(module, 3);
    assert!(client.memory.module_regions(1).is_none());
    for region in client.memory.module_regions(0).unwrap() {
        assert!(!client.memory.initial_regions().any(|initial| initial.contains(region)));
    }
}

#[test]
fn no_region_with_one_page_of_the_environment_can_be_made() {
    let client = Client::new();
    let environment = client.memory.machine().environment();
    // The 2 MiB at frame 0 are the environment's at the beginning and free behind it.
    assert!(environment.count() < 512);
    let flexpage = Flexpage::physical(PhysicalAddress::ZERO, LARGE).unwrap();
    for region in client.memory.initial_regions() {
        assert!(matches!(region.derive(flexpage), Err(Error::OutsideRegion { .. })));
    }
}

// --- Where ---

#[test]
fn only_addresses_of_programs_are_mapped() {
    let mut client = Client::new();
    let mut map = client.map();
    let region = client.region(1024, PAGE);
    for address in [USER_END, 0xffff_8000_0000_0000, 0xffff_ffff_ffff_f000] {
        let result = client.add(&mut map, address, region, Rights::Read);
        let start = at(address);
        assert_eq!(result, Err(Error::NotUser { start, pages: 1 }));
        let mut supply = TableSupply::EMPTY;
        let range = VirtualRange::new(start, 1).unwrap();
        let removed = client.memory.remove_mapping(cpu(0), &mut map, range, &mut supply, |_| {});
        assert_eq!(removed.unwrap_err(), Error::NotUser { start, pages: 1 });
        let change = Change::Rights(Rights::Read);
        let modified =
            client.memory.modify_mapping(cpu(0), &mut map, range, change, &mut supply, |_| {});
        assert_eq!(modified.unwrap_err(), Error::NotUser { start, pages: 1 });
        assert_eq!(client.memory.read_mapping(&map, start), None);
    }
    // A large page whose last page is not the programs'.
    let region = client.region(1024, LARGE);
    let last = (USER_END >> LARGE) << LARGE;
    let result = client.add(&mut map, last, region, Rights::Read);
    assert_eq!(result, Err(Error::NotUser { start: at(last), pages: 512 }));
    client.add(&mut map, USER_END - 4096, client.region(1024, PAGE), Rights::Read).unwrap();
    client.clean();
}

#[test]
fn sizes_must_agree() {
    let mut client = Client::new();
    let mut map = client.map();
    let region = client.region(1024, LARGE);
    let result = client.memory.add_mapping(
        &mut map,
        flexpage(0, PAGE),
        region,
        Rights::Read,
        None,
        &mut client.supply,
    );
    let error = Error::SizesDiffer { virtual_bits: PAGE, physical_bits: LARGE };
    assert_eq!(result.unwrap_err(), error);
}

// --- Mapping over a mapping ---

#[test]
fn nothing_is_mapped_over_a_mapping() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_1000, client.region(1024, PAGE), Rights::Read).unwrap();
    let over = |client: &mut Client, map: &mut PageMap, address, region, first| {
        let result = client.add(map, address, region, Rights::ReadWrite);
        assert_eq!(result, Err(Error::AlreadyMapped { address: at(first) }));
    };
    // The same page with more rights, another page, 2 MiB over 4 KiB.
    let (same, other) = (client.region(1024, PAGE), client.region(1025, PAGE));
    over(&mut client, &mut map, 0x20_1000, same, 0x20_1000);
    over(&mut client, &mut map, 0x20_1000, other, 0x20_1000);
    let large = client.region(1536, LARGE);
    let second = client.region(1024, LARGE);
    over(&mut client, &mut map, 0x20_0000, second, 0x20_0000);
    // Four pages, the second of which is mapped.
    let four = client.region(1028, 14);
    over(&mut client, &mut map, 0x20_0000, four, 0x20_1000);
    // 4 KiB over 2 MiB.
    client.add(&mut map, 0x40_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    over(&mut client, &mut map, 0x40_3000, other, 0x40_3000);
    over(&mut client, &mut map, 0x40_0000, large, 0x40_0000);
    assert_eq!(
        client.memory.read_mapping(&map, at(0x20_1000)).unwrap().attributes.rights,
        Rights::Read
    );
    client.clean();
}

// --- Status ---

#[test]
fn memory_of_page_maps_is_not_mapped() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0, client.region(1024, PAGE), Rights::Read).unwrap();
    let page = client.memory.create_page_map_page(client.region(1030, PAGE)).unwrap();
    let private = client.memory.create_machine_page(client.region(1031, PAGE)).unwrap();
    let table = (0..2048).find(|number| client.status(*number) == Status::PageTable).unwrap();
    let cases = [
        (map.root().number(), Status::PageMapRoot),
        (table, Status::PageTable),
        (page.frame().number(), Status::PageMapPage),
        (private.frame().number(), Status::Machine),
    ];
    for (number, status) in cases {
        let error = Error::WrongStatus { frame: frame(number), status };
        let region = client.region(number, PAGE);
        assert_eq!(client.add(&mut map, 0x5000, region, Rights::Read), Err(error));
        let result = client.memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, None);
        assert_eq!(result.unwrap_err(), error);
        assert_eq!(client.memory.create_page_map_page(region).unwrap_err(), error);
        let result = client.memory.release(cpu(0), region, domain(0));
        assert_eq!(result, Err(error));
        let result = client.memory.share(region, domain(0), Owner::Hypervisor, Rights::Read);
        assert_eq!(result.unwrap_err(), error);
    }
    // Nor as part of a large page.
    let error = Error::NotAllNormal { frame: frame(1024) };
    let large = client.region(1024, LARGE);
    assert_eq!(client.add(&mut map, 0x20_0000, large, Rights::Read), Err(error));
    let region = client.memory.release_page_map_page(cpu(0), page);
    assert_eq!(region, client.region(1030, PAGE));
    assert_eq!(client.memory.release_machine_page(cpu(0), private).first_frame(), frame(1031));
    client.add(&mut map, 0x20_0000, large, Rights::Read).unwrap();
    client.clean();
}

#[test]
fn what_is_mapped_does_not_become_a_table() {
    let mut client = Client::new();
    let mut map = client.map();
    let page = client.region(1030, PAGE);
    let error = |number| Err(Error::InUse { frame: frame(number) });
    client.add(&mut map, 0x3000, page, Rights::Read).unwrap();
    assert_eq!(client.memory.create_page_map_page(page), error(1030));
    client.remove(&mut map, flexpage(0x3000, PAGE).into());
    // A page of a large page.
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    assert_eq!(client.memory.create_page_map_page(page), error(1030));
    assert_eq!(
        client.memory.release(cpu(0), page, domain(0)),
        Err(Error::InUse { frame: frame(1030) })
    );
    client.remove(&mut map, flexpage(0x20_0000, LARGE).into());
    // A page that the kernel has mapped, and one that is shared.
    let mapping =
        client.memory.add_kernel_mapping(cpu(0), page, Rights::Read, false, None).unwrap();
    assert_eq!(client.memory.create_page_map_page(page), error(1030));
    let _ = client.memory.remove_kernel_mapping(cpu(0), mapping);
    let share =
        client.memory.share(page, domain(0), Owner::Domain(domain(1)), Rights::Read).unwrap();
    assert_eq!(client.memory.create_page_map_page(page), error(1030));
    client.memory.end_share(share);
    assert!(client.memory.create_page_map_page(page).is_ok());
    client.clean();
}

#[test]
fn a_page_is_cleared_before_it_becomes_a_table() {
    let mut client = Client::new();
    client.memory.machine_mut().poke(frame(1030), 3, 0x1234_5007);
    let page = client.memory.create_page_map_page(client.region(1030, PAGE)).unwrap();
    assert!(client.memory.machine().is_clear(page.frame()));
}

#[test]
fn more_than_a_page_is_no_page_map_page() {
    let mut client = Client::new();
    let large = client.region(1024, LARGE);
    let result = client.memory.create_page_map_page(large);
    assert_eq!(result.unwrap_err(), Error::NotOnePage { bits: LARGE });
    let io = client.io_region();
    let result = client.memory.create_page_map_page(io);
    assert_eq!(result.unwrap_err(), Error::NotRam { frame: io.first_frame() });
}

// --- Tables ---

#[test]
fn tables_are_taken_only_when_needed_and_given_back_when_empty() {
    let mut client = Client::new();
    let mut map = client.map();
    let (page, next) = (client.region(1024, PAGE), client.region(1025, PAGE));
    let mut none = TableSupply::EMPTY;
    let memory = &mut client.memory;
    let error = memory
        .add_mapping(&mut map, flexpage(0x1000, PAGE), page, Rights::Read, None, &mut none)
        .unwrap_err();
    assert_eq!(error, Error::TablesNeeded { needed: 3, supplied: 0 });
    let supply = &mut client.supply;
    let added = memory
        .add_mapping(&mut map, flexpage(0x1000, PAGE), page, Rights::Read, None, supply)
        .unwrap();
    assert_eq!((added.tables, supply.count()), (3, 1));
    let added = memory
        .add_mapping(&mut map, flexpage(0x2000, PAGE), next, Rights::Read, None, supply)
        .unwrap();
    assert_eq!((added.tables, supply.count()), (0, 1));
    client.refill();
    let (_, tables) = client.remove(&mut map, flexpage(0x1000, PAGE).into());
    assert_eq!(tables.len(), 0);
    let (infos, tables) = client.remove(&mut map, flexpage(0x2000, PAGE).into());
    assert_eq!((infos.len(), tables.len()), (1, 3));
    for table in tables {
        let page = client.memory.reclaim(table).unwrap();
        assert!(client.memory.machine().is_clear(page.frame()));
    }
    client.clean();
}

#[test]
fn removal_is_optimistic_and_says_what_it_removed() {
    let mut client = Client::new();
    let mut map = client.map();
    for (address, number) in
        [(0x1000, 1024), (0x3000, 1025), (0x40_0000, 1026), (0x8000_0000, 1027)]
    {
        client.add(&mut map, address, client.region(number, PAGE), Rights::ReadExecute).unwrap();
    }
    client.add(&mut map, 0x4000_0000, client.region(1536, LARGE), Rights::ReadWrite).unwrap();
    // Everything that programs can have: holes, several tables, several sizes.
    let all = VirtualRange::new(at(0), USER_END >> 12).unwrap();
    let (infos, tables) = client.remove(&mut map, all);
    let found: Vec<_> = infos
        .iter()
        .map(|info| {
            (info.address.get(), info.frame.number(), info.level.number(), info.attributes.rights)
        })
        .collect();
    assert_eq!(
        found,
        [
            (0x1000, 1024, 1, Rights::ReadExecute),
            (0x3000, 1025, 1, Rights::ReadExecute),
            (0x40_0000, 1026, 1, Rights::ReadExecute),
            (0x4000_0000, 1536, 2, Rights::ReadWrite),
            (0x8000_0000, 1027, 1, Rights::ReadExecute),
        ]
    );
    // Level 1: three. Level 2: one for each GiB. Level 3: one.
    assert_eq!(tables.len(), 3 + 3 + 1);
    let (infos, tables) = client.remove(&mut map, all);
    assert_eq!((infos.len(), tables.len()), (0, 0));
    client.clean();
}

#[test]
fn ranges_are_refused_as_a_whole_if_there_is_a_hole_to_modify() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x4000, client.region(1028, 14), Rights::ReadWrite).unwrap();
    let range = VirtualRange::new(at(0x4000), 5).unwrap();
    let change = Change::Rights(Rights::Read);
    let mut supply = TableSupply::EMPTY;
    let result = client.memory.modify_mapping(cpu(0), &mut map, range, change, &mut supply, |_| {});
    assert_eq!(result.unwrap_err(), Error::NotMapped { address: at(0x8000) });
    let rights = |client: &Client, map: &PageMap, address| {
        client.memory.read_mapping(map, at(address)).map(|info| info.attributes.rights)
    };
    assert_eq!(rights(&client, &map, 0x4000), Some(Rights::ReadWrite));
    let range = flexpage(0x4000, 14);
    let modified =
        client.memory.modify_mapping(cpu(0), &mut map, range, change, &mut supply, |_| {}).unwrap();
    assert_eq!((modified.mappings, modified.rest), (4, None));
    assert_eq!(rights(&client, &map, 0x7000), Some(Rights::Read));
    client.clean();
}

// --- Large pages ---

#[test]
fn sizes_of_pages_are_chosen_by_size_and_machine() {
    for (largest, level) in [(3, 2), (2, 2), (1, 1)] {
        let mut client = Client::with(2048, largest);
        let mut map = client.map();
        client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
        let info = client.memory.read_mapping(&map, at(0x20_3456)).unwrap();
        assert_eq!(info.level.number(), level, "largest {largest}");
        let first = if level == 2 { 1024 } else { 1027 };
        assert_eq!(info.frame.number(), first);
        client.load(0, &map);
        assert!(client.access(0, 0x3f_f000, AccessKind::Read));
        client.clean();
    }
}

fn request(region: PhysicalRegion, done: u64) -> Request<'static> {
    Request { to: flexpage(0x40_0000, 22), region, rights: Rights::Read, share: None, done }
}

#[test]
fn a_range_of_several_tables_is_mapped_in_steps() {
    let mut client = Client::with(4096, 1);
    let mut map = client.map();
    let region = client.region(2048, 22);
    let mut done = 0;
    let mut steps = 0;
    while done < region.pages() {
        let added = client
            .memory
            .resume_mapping(&mut map, &request(region, done), &mut client.supply)
            .unwrap();
        done = added.done;
        steps += 1;
        client.refill();
    }
    assert_eq!(steps, 2);
    for done in [1024, 1 << 40, u64::MAX] {
        let result =
            client.memory.resume_mapping(&mut map, &request(region, done), &mut client.supply);
        assert_eq!(result.unwrap_err(), Error::BadResume { done });
    }
    let (infos, tables) = client.remove(&mut map, flexpage(0x40_0000, 22).into());
    assert_eq!((infos.len(), tables.len()), (1024, 4));
    client.clean();
}

#[test]
fn a_large_page_is_split_when_only_part_of_it_changes() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::ReadWrite).unwrap();
    client.load(0, &map);
    assert!(client.access(0, 0x20_5000, AccessKind::Write));
    // Without a table nothing happens.
    let mut none = TableSupply::EMPTY;
    let page = flexpage(0x20_5000, PAGE);
    let result = client.memory.remove_mapping(cpu(0), &mut map, page, &mut none, |_| {});
    assert_eq!(result.unwrap_err(), Error::TablesNeeded { needed: 1, supplied: 0 });
    let (infos, tables) = client.remove(&mut map, page.into());
    assert_eq!((infos.len(), tables.len()), (1, 0));
    let [info] = infos[..] else { panic!() };
    assert_eq!((info.frame.number(), info.level.number()), (1029, 1));
    // What was accessed and written is so in every part.
    assert!(info.accessed && info.dirty);
    assert!(client.memory.read_mapping(&map, at(0x20_6000)).unwrap().dirty);
    assert!(!client.access(0, 0x20_5000, AccessKind::Read));
    assert!(client.access(0, 0x20_6000, AccessKind::Write));
    // The page that is free now can be a table, its neighbours cannot.
    assert!(client.memory.create_page_map_page(client.region(1029, PAGE)).is_ok());
    let result = client.memory.create_page_map_page(client.region(1030, PAGE));
    assert_eq!(result.unwrap_err(), Error::InUse { frame: frame(1030) });
    let change = Change::Rights(Rights::Read);
    let range = flexpage(0x20_8000, 15);
    let modified = client
        .memory
        .modify_mapping(cpu(0), &mut map, range, change, &mut client.supply, |_| {})
        .unwrap();
    assert_eq!(modified.mappings, 8);
    assert!(!client.access(0, 0x20_8000, AccessKind::Write));
    assert!(client.access(0, 0x20_7000, AccessKind::Write));
    client.clean();
}

#[test]
fn a_gigabyte_costs_what_a_page_costs() {
    let mut client = Client::with(3 << 18, 3);
    let mut map = client.map();
    let (huge, large) = (client.region(1 << 18, HUGE), client.region(2 << 18, LARGE));
    let page = client.region((2 << 18) + 512, PAGE);
    client.add(&mut map, 0x4000_0000, huge, Rights::ReadWrite).unwrap();
    client.remove(&mut map, flexpage(0x4000_0000, HUGE).into());
    // Something else, so that the tables stay.
    client.add(&mut map, 0x1000, page, Rights::Read).unwrap();
    client.add(&mut map, 0x20_0000, large, Rights::Read).unwrap();
    let mut costs = Vec::new();
    for (address, region) in [
        (0x2000, client.region((2 << 18) + 513, PAGE)),
        (0x40_0000, client.region((2 << 18) + 1024, LARGE)),
        (0x4000_0000, huge),
    ] {
        let to = flexpage(address, region.bits());
        client.memory.machine_mut().reset_counts();
        let memory = &mut client.memory;
        memory
            .add_mapping(&mut map, to, region, Rights::Read, None, &mut client.supply)
            .map(|added| assert_eq!(added.tables, 0))
            .unwrap();
        let adding = memory.machine().counts();
        memory.machine_mut().reset_counts();
        let removed =
            memory.remove_mapping(cpu(0), &mut map, to, &mut client.supply, |_| {}).unwrap();
        assert_eq!((removed.mappings, removed.rest), (1, None));
        let removing = memory.machine().counts();
        costs.push((
            (adding.table_reads, adding.table_writes),
            (removing.table_reads, removing.table_writes),
        ));
    }
    // One read for each level down to the entry, and one write. (The second operation on a page
    // finds its table without a walk.)
    assert_eq!(costs, [((4, 1), (1, 1)), ((3, 1), (3, 1)), ((2, 1), (2, 1))]);
    // Giving it away costs one record, taking it back is done in small parts.
    let result = client.memory.release(cpu(0), huge, domain(0));
    assert_eq!(result, Err(Error::TooLong { pages: 1 << 18, limit: 512 }));
    client.clean();
}

#[test]
fn a_large_page_that_is_mapped_as_often_as_can_be_counted_is_not_split() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    let level = crate::geometry::Level::FIRST;
    let full = PageRecord::COUNT_LIMIT;
    client.memory.state_mut().pretend_count(level, frame(1100), full);
    let page = flexpage(0x20_5000, PAGE);
    let result = client.memory.remove_mapping(cpu(0), &mut map, page, &mut client.supply, |_| {});
    let error = Error::TooManyReferences { frame: frame(1100) };
    assert_eq!(result.unwrap_err(), error);
    assert_eq!(client.memory.read_mapping(&map, at(0x20_5000)).unwrap().level.number(), 2);
}

// --- Owners and shares ---

#[test]
fn memory_of_others_is_mapped_only_through_a_share() {
    let mut client = Client::new();
    let mut map = client.map_of(1);
    let region = client.region(1024, 14);
    let not_owner = Error::NotOwner { frame: frame(1024), owner: Some(Owner::Domain(domain(0))) };
    assert_eq!(client.add(&mut map, 0x4000, region, Rights::Read), Err(not_owner));
    let result = client.memory.share(region, domain(2), Owner::Domain(domain(1)), Rights::Read);
    assert_eq!(result.unwrap_err(), not_owner);
    let grantee = Owner::Domain(domain(1));
    let share = client.memory.share(region, domain(0), grantee, Rights::ReadWrite).unwrap();
    let shared = |client: &mut Client,
                  map: &mut PageMap,
                  address,
                  region: PhysicalRegion,
                  rights| {
        let to = flexpage(address, region.bits());
        let result =
            client.memory.add_mapping(map, to, region, rights, Some(&share), &mut client.supply);
        client.refill();
        result.map(|_| ())
    };
    let result = shared(&mut client, &mut map, 0x4000, region, Rights::ReadExecute);
    let (asked, granted) = (Rights::ReadExecute, Rights::ReadWrite);
    assert_eq!(result, Err(Error::BeyondShare { asked, granted }));
    let outside = client.region(1028, PAGE);
    let result = shared(&mut client, &mut map, 0x4000, outside, Rights::Read);
    assert_eq!(result, Err(Error::OutsideShare { frame: frame(1028) }));
    let mut other = client.map_of(2);
    let result = shared(&mut client, &mut other, 0x4000, region, Rights::Read);
    assert_eq!(result, Err(Error::NotGrantee { grantee }));
    shared(&mut client, &mut map, 0x4000, region, Rights::Read).unwrap();

    // The rights of such a mapping do not grow, also not within what the share allowed.
    let change = Change::Rights(Rights::ReadWrite);
    let range = flexpage(0x4000, 14);
    let result =
        client.memory.modify_mapping(cpu(0), &mut map, range, change, &mut client.supply, |_| {});
    let error =
        Error::Upgrade { address: at(0x4000), asked: Rights::ReadWrite, held: Rights::Read };
    assert_eq!(result.unwrap_err(), error);

    // As long as the share or a mapping exists the memory keeps its owner.
    let in_use = Err(Error::InUse { frame: frame(1024) });
    assert_eq!(client.memory.release(cpu(0), region, domain(0)), in_use);
    client.memory.end_share(share);
    assert_eq!(client.memory.release(cpu(0), region, domain(0)), in_use);
    client.remove(&mut map, range.into());
    client.memory.release(cpu(0), region, domain(0)).unwrap();
    client.clean();
}

#[test]
fn memory_is_cleared_on_its_way_to_another_owner() {
    let mut client = Client::new();
    let region = client.region(1024, LARGE);
    client.memory.machine_mut().poke(frame(1024), 0, 7);
    client.memory.machine_mut().poke(frame(1535), 511, 7);
    let nobody = Error::NotOwner { frame: frame(1024), owner: Some(Owner::Domain(domain(0))) };
    assert_eq!(client.memory.assign(region, domain(1)), Err(nobody));
    client.memory.release(cpu(0), region, domain(0)).unwrap();
    assert!(client.memory.machine().is_clear(frame(1024)));
    assert!(client.memory.machine().is_clear(frame(1535)));
    assert_eq!(client.memory.owner(region), Owner::Nobody);
    let mut map = client.map();
    let mine = client.add(&mut map, 0x20_0000, region, Rights::Read);
    let owner = Some(Owner::Nobody);
    assert_eq!(mine, Err(Error::NotOwner { frame: frame(1024), owner }));
    client.memory.assign(region, domain(1)).unwrap();
    let mut map = client.map_of(1);
    client.add(&mut map, 0x20_0000, region, Rights::Read).unwrap();
    // Page by page too, since the block has one owner, and the pages' records say nothing.
    client.remove(&mut map, flexpage(0x20_0000, LARGE).into());
    client.add(&mut map, 0x1000, client.region(1025, PAGE), Rights::Read).unwrap();
    client.clean();
}

#[test]
fn a_block_has_an_owner_again_when_all_its_parts_have_the_same() {
    let mut client = Client::new();
    let whole = client.region(1024, LARGE);
    let one = client.region(1030, PAGE);
    client.memory.release(cpu(0), one, domain(0)).unwrap();
    client.memory.assign(one, domain(1)).unwrap();
    let mut map = client.map();
    let mixed = Error::NotOwner { frame: frame(1024), owner: None };
    assert_eq!(client.add(&mut map, 0x20_0000, whole, Rights::Read), Err(mixed));
    client.memory.release(cpu(0), one, domain(1)).unwrap();
    client.memory.assign(one, domain(0)).unwrap();
    client.add(&mut map, 0x20_0000, whole, Rights::Read).unwrap();
}

// --- Page maps ---

#[test]
fn freeing_a_page_map_gives_back_every_table() {
    let mut client = Client::new();
    let before: usize = (0..2048).filter(|n| client.status(*n) == Status::Normal).count();
    let mut map = client.map();
    for (number, address) in [(1024, 0x1000), (1025, 0x40_0000), (1026, 1 << 40)] {
        client.add(&mut map, address, client.region(number, PAGE), Rights::Read).unwrap();
    }
    client.load(0, &map);
    assert!(client.access(0, 0x1000, AccessKind::Read));
    // The one that this processor translates with can be freed.
    let mut dying = client.memory.free_page_map(cpu(0), map).unwrap();
    assert_eq!(client.memory.machine().root(CpuIndex::BOOT), frame(0));
    let mut pages = Vec::new();
    loop {
        match client.memory.free_step(dying) {
            FreeStep::More { mut tables, rest } => {
                pages.extend(std::iter::from_fn(|| tables.take()));
                dying = rest;
            }
            FreeStep::Done(page) => {
                pages.push(page);
                break;
            }
        }
    }
    // The root; level 3: two; level 2: two; level 1: three.
    assert_eq!(pages.len(), 8);
    for page in pages {
        assert!(client.memory.machine().is_clear(page.frame()));
        let _ = client.memory.release_page_map_page(cpu(0), page);
    }
    while let Some(page) = client.supply.take() {
        let _ = client.memory.release_page_map_page(cpu(0), page);
    }
    let after = (0..2048).filter(|n| client.status(*n) == Status::Normal).count();
    assert_eq!(after, before + 4);
    client.clean();
}

#[test]
fn a_page_map_in_use_is_not_freed() {
    let mut client = Client::new();
    let map = client.map();
    let held = client.memory.attach(&map).unwrap();
    let refused = client.memory.free_page_map(cpu(0), map).unwrap_err();
    assert_eq!(refused.error, Error::PageMapUsed { uses: 1 });
    client.memory.load(cpu(1), &held);
    client.memory.detach(held);
    let refused = client.memory.free_page_map(cpu(0), refused.handle).unwrap_err();
    let other = CpuIndex::new(1).unwrap();
    assert_eq!(refused.error, Error::PageMapLoaded { cpu: other });
    client.memory.load_reference(cpu(1));
    assert!(client.memory.free_page_map(cpu(0), refused.handle).is_ok());
}

#[test]
fn a_page_map_carries_the_kernel_half() {
    let mut client = Client::new();
    let map = client.map();
    let machine = client.memory.machine();
    let reference = machine.reference_root();
    assert!((0..256).all(|index| machine.peek(map.root(), index) == 0));
    for index in 256..512 {
        let entry = machine.peek(map.root(), index);
        assert_eq!(entry & !Host::ACCESSED, machine.peek(reference, index) & !Host::ACCESSED);
    }
}

// --- Several processors ---

#[test]
fn what_another_processor_may_use_is_draining() {
    let mut client = Client::new();
    let mut map = client.map();
    let page = client.region(1024, PAGE);
    client.add(&mut map, 0x1000, page, Rights::ReadWrite).unwrap();
    client.load(1, &map);
    assert!(client.access(1, 0x1000, AccessKind::Write));
    let mut tables = Vec::new();
    let memory = &mut client.memory;
    let removed = memory
        .remove_mapping(cpu(0), &mut map, flexpage(0x1000, PAGE), &mut client.supply, |info| {
            assert!(info.dirty);
        })
        .unwrap();
    let invalidation = removed.invalidation();
    tables.extend(removed.tables);
    assert!(!memory.is_complete(invalidation));
    let other = CpuIndex::new(1).unwrap();
    assert!(memory.owing_cpus().eq([other]));
    // Neither the page nor the tables can be anything else.
    let draining = Error::Draining { frame: frame(1024) };
    assert_eq!(memory.create_page_map_page(page).unwrap_err(), draining);
    assert_eq!(memory.release(cpu(0), page, domain(0)), Err(draining));
    let table = tables.pop().unwrap();
    let refused = memory.reclaim(table).unwrap_err();
    assert_eq!(refused.error, Error::Draining { frame: refused.handle.frame() });
    // But the page can be mapped again by its owner, also there.
    let supply = &mut client.supply;
    let _ = memory
        .add_mapping(&mut map, flexpage(0x1000, PAGE), page, Rights::Read, None, supply)
        .unwrap();
    client.refill();
    let (_, more) = client.remove(&mut map, flexpage(0x1000, PAGE).into());
    // When the other processor has entered the kernel, all is done.
    client.memory.enter(cpu(1));
    assert!(client.memory.is_complete(invalidation));
    assert!(!client.access(1, 0x1000, AccessKind::Read));
    assert!(client.memory.reclaim(refused.handle).is_ok());
    for table in more {
        assert!(client.memory.reclaim(table).is_ok());
    }
    assert!(client.memory.create_page_map_page(page).is_ok());
    client.clean();
}

#[test]
fn with_the_page_map_loaded_nowhere_else_nothing_is_owed() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x1000, client.region(1024, PAGE), Rights::Read).unwrap();
    client.load(0, &map);
    assert!(client.access(0, 0x1000, AccessKind::Read));
    client.memory.machine_mut().reset_counts();
    client.add(&mut map, 0x2000, client.region(1025, PAGE), Rights::Read).unwrap();
    client.remove(&mut map, flexpage(0x1000, PAGE).into());
    let counts = client.memory.machine().counts();
    assert_eq!((counts.invalidations, counts.flushes), (1, 0));
    assert!(!client.access(0, 0x1000, AccessKind::Read));
    assert_eq!(client.memory.owing_cpus().count(), 0);
    let (_, tables) = client.remove(&mut map, flexpage(0x2000, PAGE).into());
    assert_eq!(client.memory.machine().counts().flushes, 1);
    for table in tables {
        assert!(client.memory.reclaim(table).is_ok());
    }
    client.clean();
}

#[test]
fn marks_are_told_and_reset() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x1000, client.region(1024, PAGE), Rights::ReadWrite).unwrap();
    client.load(0, &map);
    let info =
        |client: &Client, map: &PageMap| client.memory.read_mapping(map, at(0x1000)).unwrap();
    assert!(!info(&client, &map).accessed);
    assert!(client.access(0, 0x1000, AccessKind::Write));
    assert!(info(&client, &map).accessed && info(&client, &map).dirty);
    let mut told = Vec::new();
    let page = flexpage(0x1000, PAGE);
    let modified = client
        .memory
        .modify_mapping(cpu(0), &mut map, page, Change::ResetUsage, &mut client.supply, |info| {
            told.push((info.accessed, info.dirty));
        })
        .unwrap();
    assert_eq!((modified.mappings, told), (1, std::vec![(true, true)]));
    assert!(!info(&client, &map).accessed && !info(&client, &map).dirty);
    // The processor has forgotten that they were set.
    assert!(client.access(0, 0x1000, AccessKind::Write));
    assert!(info(&client, &map).dirty);
    client.clean();
}

// --- Kernel mappings ---

#[test]
fn a_kernel_mapping_reads_and_writes_what_it_maps_and_nothing_else() {
    let mut client = Client::new();
    let region = client.region(1028, 13);
    let rights = Rights::ReadWrite;
    let memory = &mut client.memory;
    let mapping = memory.add_kernel_mapping(cpu(0), region, rights, false, None).unwrap();
    assert_eq!((mapping.size(), mapping.region(), mapping.rights()), (8192, region, rights));
    memory.write_word_at(&mapping, Offset::MAX, 5).unwrap();
    assert_eq!(memory.machine().peek(frame(1028), 511), 5);
    let word = mapping.word(1023).unwrap();
    memory.write_word(word, 6).unwrap();
    assert_eq!((memory.read_word(word), memory.machine().peek(frame(1029), 511)), (6, 6));
    let bounds = |offset, count| Error::OutOfBounds { offset, count, size: 8192 };
    assert_eq!(mapping.word(1024), Err(bounds(8192, 8)));
    assert_eq!(mapping.word(usize::MAX), Err(bounds(usize::MAX, 8)));
    assert_eq!(mapping.word(1 << 61), Err(bounds(usize::MAX, 8)));
    let mut bytes = [0; 16];
    assert_eq!(memory.read_bytes(&mapping, 8177, &mut bytes), Err(bounds(8177, 16)));
    assert_eq!(memory.read_bytes(&mapping, usize::MAX, &mut bytes), Err(bounds(usize::MAX, 16)));
    memory.write_bytes(&mapping, 4090, b"across the pages").unwrap();
    memory.read_bytes(&mapping, 4090, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across the pages");
    memory.copy((&mapping, 4090), (&mapping, 100), 16).unwrap();
    memory.read_bytes(&mapping, 100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"across the pages");
    assert_eq!(memory.copy((&mapping, 0), (&mapping, 8000), 193), Err(bounds(8000, 193)));
    assert_eq!(memory.copy((&mapping, 8000), (&mapping, 0), 193), Err(bounds(8000, 193)));
    assert_eq!(memory.fill(&mapping, 8192, 1, 0), Err(bounds(8192, 1)));
    memory.fill(&mapping, 0, 8192, 0xff).unwrap();
    memory.clear(&mapping).unwrap();
    assert!(memory.machine().is_clear(frame(1028)) && memory.machine().is_clear(frame(1029)));
    let taken = memory.add_kernel_mapping(cpu(0), region, rights, false, None).unwrap_err();
    assert_eq!(taken, Error::WindowTaken { frame: frame(1028) });
    let (back, invalidation) = memory.remove_kernel_mapping(cpu(0), mapping);
    assert_eq!(back, region);
    assert!(memory.is_complete(invalidation));
    client.clean();
}

#[test]
fn a_kernel_mapping_obeys_its_rights() {
    let mut client = Client::new();
    let region = client.region(1028, PAGE);
    let memory = &mut client.memory;
    let mapping = memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, None).unwrap();
    assert_eq!(memory.write_word_at(&mapping, Offset::MIN, 1), Err(Error::ReadOnly));
    assert_eq!(memory.write_word(mapping.word(0).unwrap(), 1), Err(Error::ReadOnly));
    assert_eq!(memory.write_bytes(&mapping, 0, &[1]), Err(Error::ReadOnly));
    assert_eq!(memory.copy((&mapping, 0), (&mapping, 8), 8), Err(Error::ReadOnly));
    assert_eq!(memory.fill(&mapping, 0, 8, 1), Err(Error::ReadOnly));
    assert_eq!(memory.clear(&mapping), Err(Error::ReadOnly));
    assert_eq!(memory.read_word_at(&mapping, Offset::MIN), 0);
    client.clean();
}

#[test]
fn programs_use_a_kernel_mapping_only_if_it_is_for_them_and_as_long_as_it_exists() {
    let mut client = Client::new();
    let (hidden, visible) = (client.region(1028, PAGE), client.region(1030, PAGE));
    let memory = &mut client.memory;
    let hidden = memory.add_kernel_mapping(cpu(0), hidden, Rights::ReadWrite, false, None).unwrap();
    let visible = memory.add_kernel_mapping(cpu(0), visible, Rights::Read, true, None).unwrap();
    let address = visible.address().get();
    for number in [0, 1] {
        client.memory.enter(cpu(number));
        assert!(!client.access(number, hidden.address().get(), AccessKind::Read));
        assert!(client.access(number, address, AccessKind::Read));
        assert!(!client.access(number, address, AccessKind::Write));
    }
    let (region, invalidation) = client.memory.remove_kernel_mapping(cpu(0), visible);
    assert!(!client.access(0, address, AccessKind::Read));
    // The other processor has not heard of it yet.
    assert!(!client.memory.is_complete(invalidation));
    let draining = Error::Draining { frame: frame(1030) };
    assert_eq!(client.memory.create_page_map_page(region).unwrap_err(), draining);
    let again = client.memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, None);
    assert_eq!(again.unwrap_err(), draining);
    client.memory.enter(cpu(1));
    assert!(client.memory.is_complete(invalidation));
    assert!(!client.access(1, address, AccessKind::Read));
    assert!(client.memory.create_page_map_page(region).is_ok());
    client.clean();
}

#[test]
fn the_kernel_maps_memory_of_domains_only_with_their_consent() {
    let mut client = Client::new();
    let region = client.region(1028, PAGE);
    client.memory.release(cpu(0), region, domain(0)).unwrap();
    client.memory.assign(region, domain(1)).unwrap();
    let memory = &mut client.memory;
    let result = memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, None);
    let owner = Some(Owner::Domain(domain(1)));
    assert_eq!(result.unwrap_err(), Error::NotOwner { frame: frame(1028), owner });
    let share = memory.share(region, domain(1), Owner::Hypervisor, Rights::Read).unwrap();
    let mapping =
        memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, Some(&share)).unwrap();
    memory.end_share(share);
    let in_use = Err(Error::InUse { frame: frame(1028) });
    assert_eq!(memory.release(cpu(0), region, domain(1)), in_use);
    let _ = memory.remove_kernel_mapping(cpu(0), mapping);
    memory.release(cpu(0), region, domain(1)).unwrap();
    client.clean();
}

#[test]
fn a_kernel_mapping_is_bounded() {
    let mut client = Client::with(4096, 3);
    let region = client.region(2048, 22);
    let memory = &mut client.memory;
    let result = memory.add_kernel_mapping(cpu(0), region, Rights::Read, false, None);
    assert_eq!(result.unwrap_err(), Error::TooLong { pages: 1024, limit: 512 });
}

// --- Device memory ---

#[test]
fn device_memory_has_its_type_and_belongs_to_domain_0() {
    let mut client = Client::new();
    let io = client.io_region();
    assert_eq!(io.kind(), RegionKind::Io(IoKind::FrameBuffer));
    let mut map = client.map();
    client.add(&mut map, 0x10_0000, io, Rights::ReadWrite).unwrap();
    let info = client.memory.read_mapping(&map, at(0x10_0000)).unwrap();
    assert_eq!(info.attributes.memory_type, MemoryType::WriteCombining);
    client.load(0, &map);
    assert!(client.access(0, 0x10_0000, AccessKind::Write));
    let (infos, _) = client.remove(&mut map, flexpage(0x10_0000, io.bits()).into());
    assert_eq!(infos.len(), 16);
    assert!(!client.access(0, 0x10_0000, AccessKind::Write));
    let mut other = client.map_of(1);
    let error = Error::NotOwner { frame: io.first_frame(), owner: Some(Owner::Domain(domain(0))) };
    assert_eq!(client.add(&mut other, 0x10_0000, io, Rights::Read), Err(error));
    let memory = &mut client.memory;
    let not_ram = Error::NotRam { frame: io.first_frame() };
    assert_eq!(memory.release(cpu(0), io, domain(0)), Err(not_ram));
    assert_eq!(memory.assign(io, domain(0)), Err(not_ram));
    let result = memory.share(io, domain(0), Owner::Hypervisor, Rights::Read);
    assert_eq!(result.unwrap_err(), not_ram);
    let mapping = memory.add_kernel_mapping(cpu(0), io, Rights::ReadWrite, false, None).unwrap();
    memory.write_word_at(&mapping, Offset::MIN, 3).unwrap();
    let _ = memory.remove_kernel_mapping(cpu(0), mapping);
    client.clean();
}

// --- Records ---

#[test]
fn records_are_small() {
    let frames = 1 << 18;
    let blocks = crate::state::block_records::<FourLevel>(frames);
    assert_eq!(blocks, 512 + 1);
    let bytes = frames * size_of::<PageRecord>() + blocks * size_of::<crate::page::BlockRecord>();
    assert!(bytes < frames * 16);
    assert_eq!(size_of::<Entry>(), 8);
}

#[test]
fn a_last_block_that_is_only_partly_memory_is_never_mapped_as_one() {
    // Two whole ones, and six pages.
    let mut client = Client::with(1030, 3);
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(512, LARGE), Rights::Read).unwrap();
    client.remove(&mut map, flexpage(0x20_0000, LARGE).into());
    let flexpage = Flexpage::physical(frame(1024).address(), LARGE).unwrap();
    let found = client.memory.initial_regions().any(|region| region.derive(flexpage).is_ok());
    assert!(!found);
    client.clean();
}
