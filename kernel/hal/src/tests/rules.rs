//! Each rule by itself, on a machine with the page tables of x86-64.

use std::vec::Vec;

use heliox_types::cpu::CpuIndex;
use heliox_types::domain::{DomainId, Owner};
use heliox_types::error::Error;
use heliox_types::flexpage::Flexpage;
use heliox_types::geometry::{FourLevel, Level};
use heliox_types::rights::{MemoryType, Rights};
use heliox_types::{Frame, FrameRange, PhysicalAddress, USER_END, VirtualAddress};

use crate::audit::{Handles, check};
use crate::cpu::CurrentCpu;
use crate::entry::{Entry, Host, Nested, RootKind};
use crate::kernel_mapping::Offset;
use crate::machine::Machine;
use crate::mapping::{Change, MappingInfo};
use crate::memory::{KernelMemory, Memory, Ownership, Paging, PhysicalMemory, UserMemory};
use crate::page::{Record, Status};
use crate::page_map::{PageMap, PageMapPage, TableSupply};
use crate::region::{IoKind, PhysicalRegion, RegionKind};
use crate::simulated::{Access, AccessKind, Simulated, SimulatedMemory};
use crate::state::State;
use crate::translation::DrainingPage;

const PAGE: u32 = 12;
const LARGE: u32 = 21;
const HUGE: u32 = 30;

/// The memory and a place for what tests need often.
struct Client {
    memory: SimulatedMemory<FourLevel>,
    supply: TableSupply,
    /// Next frame to be used for tables.
    next: u64,
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
        let mut layout = machine.boot_layout();
        layout.free = std::vec![free.without(module).0];
        layout.modules = std::vec![module];
        let memory = Memory::simulated(machine, layout).unwrap();
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
        while self.supply.count() < 3 {
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

    /// Maps a region by the largest pages that there are.
    fn add(
        &mut self,
        map: &mut PageMap,
        address: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Result<(), Error> {
        let bits = self.memory.page_bits(region.bits());
        for part in 0..1 << (region.bits() - bits) {
            let offset = part << bits;
            let start = region.first_frame().address().checked_add(offset).unwrap();
            let part = region.derive(Flexpage::physical(start, bits).unwrap()).unwrap();
            let to = at(address + offset);
            self.memory.add_mapping(map, to, part, rights, None, &mut self.supply)?;
            self.refill();
        }
        Ok(())
    }

    /// Removes everything in the `1 << bits` bytes from `address` on, and returns what was there
    /// and the freed tables.
    fn remove(
        &mut self,
        map: &mut PageMap,
        address: u64,
        bits: u32,
    ) -> (Vec<MappingInfo>, Vec<DrainingPage>) {
        let (mut infos, mut tables) = (Vec::new(), Vec::new());
        let (mut next, end) = (address, address + (1 << bits));
        while next < end {
            match self.memory.read_mapping(map, at(next)) {
                Ok(info) => {
                    let removed = self.memory.remove_mapping(cpu(0), map, at(next)).unwrap();
                    assert_eq!(removed.mapping, info);
                    infos.push(info);
                    tables.extend(removed.tables);
                    next = info.address.get() + info.level.bytes::<FourLevel>();
                }
                Err(hole) => {
                    assert!(hole > next);
                    next = hole;
                }
            }
        }
        (infos, tables)
    }

    fn change(&mut self, map: &mut PageMap, address: u64, change: Change) -> Result<(), Error> {
        self.memory.modify_mapping(cpu(0), map, at(address), change).map(|_| ())
    }

    fn rights(&self, map: &PageMap, address: u64) -> Option<Rights> {
        self.memory.read_mapping(map, at(address)).ok().map(|info| info.attributes.rights)
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
        self.memory.state().page(frame(number)).status()
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
        let start = at(address);
        let not_user = Error::NotUser { start, pages: 1 };
        assert_eq!(client.add(&mut map, address, region, Rights::Read), Err(not_user));
        let removed = client.memory.remove_mapping(cpu(0), &mut map, start);
        assert_eq!(removed.unwrap_err(), not_user);
        let change = Change::Rights(Rights::Read);
        assert_eq!(client.change(&mut map, address, change), Err(not_user));
        let split = client.memory.split_mapping(cpu(0), &mut map, start, &mut client.supply);
        assert_eq!(split, Err(not_user));
        assert_eq!(client.memory.read_mapping(&map, start), Err(u64::MAX));
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
fn a_mapping_is_of_one_page_at_a_multiple_of_its_size() {
    let mut client = Client::with(1 << 12, 2);
    let mut map = client.map();
    let supply = &mut client.supply;
    // Sizes that no page has, and one that this machine lacks.
    for bits in [13, 20, 22] {
        let flexpage = Flexpage::physical(PhysicalAddress::new(4 << 20).unwrap(), bits).unwrap();
        let mut regions = client.memory.initial_regions();
        let region = regions.find_map(|region| region.derive(flexpage).ok()).unwrap();
        drop(regions);
        let result = client.memory.add_mapping(&mut map, at(0), region, Rights::Read, None, supply);
        assert_eq!(result, Err(Error::NotOnePage { bits }));
    }
    for (address, bits) in
        [(0x20_1000, LARGE), (0x1fff_ffff_f000, LARGE), (0x1800, PAGE), (1, PAGE)]
    {
        let region = client.region(1024, bits);
        let supply = &mut client.supply;
        let to = at(address);
        let result = client.memory.add_mapping(&mut map, to, region, Rights::Read, None, supply);
        assert_eq!(result, Err(Error::Misaligned { start: address, bits }));
    }
    let mut client = Client::with(3 << 18, 2);
    let mut map = client.map();
    let huge = client.region(1 << 18, HUGE);
    let supply = &mut client.supply;
    let result = client.memory.add_mapping(&mut map, at(0), huge, Rights::Read, None, supply);
    assert_eq!(result, Err(Error::NotOnePage { bits: HUGE }));
    assert_eq!(
        [63, 30, 29, 21, 20, 12, 0].map(|most| client.memory.page_bits(most)),
        [21, 21, 21, 21, 12, 12, 12]
    );
    client.clean();
}

// --- Mapping over a mapping ---

#[test]
fn nothing_is_mapped_over_a_mapping() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_1000, client.region(1024, PAGE), Rights::Read).unwrap();
    let over = |client: &mut Client, map: &mut PageMap, address, region| {
        let result = client.add(map, address, region, Rights::ReadWrite);
        assert_eq!(result, Err(Error::AlreadyMapped { address: at(address) }));
    };
    // The same page with more rights, another page, 2 MiB over 4 KiB.
    let (same, other) = (client.region(1024, PAGE), client.region(1025, PAGE));
    over(&mut client, &mut map, 0x20_1000, same);
    over(&mut client, &mut map, 0x20_1000, other);
    let large = client.region(1536, LARGE);
    let second = client.region(1024, LARGE);
    over(&mut client, &mut map, 0x20_0000, second);
    // 4 KiB over 2 MiB.
    client.add(&mut map, 0x40_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    over(&mut client, &mut map, 0x40_3000, other);
    over(&mut client, &mut map, 0x40_0000, large);
    assert_eq!(client.rights(&map, 0x20_1000), Some(Rights::Read));
    client.clean();
}

// --- Status ---

#[test]
fn memory_of_page_maps_is_not_mapped() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0, client.region(1024, PAGE), Rights::Read).unwrap();
    let page = client.memory.create_page_map_page(client.region(1030, PAGE)).unwrap();
    let table = (0..2048).find(|number| client.status(*number) == Status::PageTable).unwrap();
    let cases = [
        (map.root().number(), Status::PageMapRoot),
        (table, Status::PageTable),
        (page.frame().number(), Status::PageMapPage),
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
    let error = Error::WrongStatus { frame: frame(1024), status: Status::Mixed };
    let large = client.region(1024, LARGE);
    assert_eq!(client.add(&mut map, 0x20_0000, large, Rights::Read), Err(error));
    let region = client.memory.release_page_map_page(cpu(0), page);
    assert_eq!(region, client.region(1030, PAGE));
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
    client.remove(&mut map, 0x3000, PAGE);
    // A page of a large page.
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    assert_eq!(client.memory.create_page_map_page(page), error(1030));
    assert_eq!(
        client.memory.release(cpu(0), page, domain(0)),
        Err(Error::InUse { frame: frame(1030) })
    );
    client.remove(&mut map, 0x20_0000, LARGE);
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
    assert_eq!(result.unwrap_err(), Error::TooLong { pages: 512, limit: 1 });
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
    let (memory, supply) = (&mut client.memory, &mut client.supply);
    let result = memory.add_mapping(&mut map, at(0x1000), page, Rights::Read, None, &mut none);
    assert_eq!(result, Err(Error::TablesNeeded { needed: 3, supplied: 0 }));
    memory.add_mapping(&mut map, at(0x1000), page, Rights::Read, None, supply).unwrap();
    assert_eq!(supply.count(), 0);
    memory.add_mapping(&mut map, at(0x2000), next, Rights::Read, None, supply).unwrap();
    // One table of level 1 more, then one of level 2 and one of level 1.
    let result = memory.add_mapping(&mut map, at(0x20_0000), page, Rights::Read, None, supply);
    assert_eq!(result, Err(Error::TablesNeeded { needed: 1, supplied: 0 }));
    let result = memory.add_mapping(&mut map, at(0x4000_0000), page, Rights::Read, None, supply);
    assert_eq!(result, Err(Error::TablesNeeded { needed: 2, supplied: 0 }));
    client.refill();
    let (_, tables) = client.remove(&mut map, 0x1000, PAGE);
    assert_eq!(tables.len(), 0);
    let (infos, tables) = client.remove(&mut map, 0x2000, PAGE);
    assert_eq!((infos.len(), tables.len()), (1, 3));
    for table in tables {
        let page = client.memory.reclaim(table).unwrap();
        assert!(client.memory.machine().is_clear(page.frame()));
    }
    client.clean();
}

#[test]
fn removal_takes_the_page_that_the_address_lies_in_and_says_what_it_was() {
    let mut client = Client::new();
    let mut map = client.map();
    for (address, number) in
        [(0x1000, 1024), (0x3000, 1025), (0x40_0000, 1026), (0x8000_0000, 1027)]
    {
        client.add(&mut map, address, client.region(number, PAGE), Rights::ReadExecute).unwrap();
    }
    client.add(&mut map, 0x4000_0000, client.region(1536, LARGE), Rights::ReadWrite).unwrap();
    for hole in [0, 0x2000, 0x4020_0000, 1 << 40] {
        let result = client.memory.remove_mapping(cpu(0), &mut map, at(hole));
        assert_eq!(result.unwrap_err(), Error::NotMapped { address: at(hole) });
    }
    let mut found = Vec::new();
    let mut tables = 0;
    // Addresses within the pages, too.
    for address in [0x1fff, 0x3000, 0x40_0800, 0x401f_ffff, 0x8000_0000] {
        let removed = client.memory.remove_mapping(cpu(0), &mut map, at(address)).unwrap();
        let info = removed.mapping;
        let (level, rights) = (info.level.number(), info.attributes.rights);
        found.push((info.address.get(), info.frame.number(), level, rights));
        tables += removed.tables.count();
    }
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
    assert_eq!(tables, 3 + 3 + 1);
    client.clean();
}

#[test]
fn a_hole_ends_where_something_can_be() {
    let mut client = Client::new();
    let mut map = client.map();
    let hole = |client: &Client, map: &PageMap, address| {
        client.memory.read_mapping(map, at(address)).unwrap_err()
    };
    // Nothing at all: the whole of the programs' part.
    assert_eq!(hole(&client, &map, 0x1234), 1 << 47);
    client.add(&mut map, 0x5000, client.region(1024, PAGE), Rights::Read).unwrap();
    client.add(&mut map, 0x40_0000, client.region(1536, LARGE), Rights::Read).unwrap();
    // Up to the page, over the rest of the table, over entries of the table above.
    assert_eq!(hole(&client, &map, 0x1234), 0x5000);
    assert_eq!(hole(&client, &map, 0x6000), 0x20_0000);
    assert_eq!(hole(&client, &map, 0x20_1000), 0x40_0000);
    assert_eq!(hole(&client, &map, 0x60_0000), 0x4000_0000);
    assert_eq!(hole(&client, &map, 0x4000_0000), 1 << 39);
    assert_eq!(hole(&client, &map, USER_END - 1), 1 << 47);
    assert_eq!(client.memory.read_mapping(&map, at(0x5123)).unwrap().address, at(0x5000));
    // And which entry it is that is absent.
    let absent = |address| client.memory.find_mapping(&map, at(address)).unwrap_err();
    assert_eq!([0x1234, 0x20_1000, 0x4000_0000, 1 << 39].map(absent), [PAGE, LARGE, HUGE, 39]);
    assert_eq!(client.memory.find_mapping(&map, at(USER_END)), Err(64));
    assert_eq!(client.memory.find_mapping(&map, at(0x5123)).unwrap().address, at(0x5000));
    client.clean();
}

#[test]
fn a_nested_page_map_obeys_the_same_rules_and_has_no_kernel_half() {
    let mut client = Client::new();
    let page = client.supply.take().unwrap();
    client.refill();
    let mut map: PageMap<Nested> = client.memory.allocate_page_map(page).unwrap();
    let machine = client.memory.machine();
    assert!((0..512).all(|index| machine.peek(map.root(), index) == 0));
    // A guest's addresses end with the positive ones.
    let last = at((1 << 47) - 0x1000);
    let (own, other) = (client.region(1024, PAGE), client.region(1025, PAGE));
    let (memory, supply) = (&mut client.memory, &mut client.supply);
    memory.add_mapping(&mut map, last, own, Rights::ReadWriteExecute, None, supply).unwrap();
    let info = memory.find_mapping(&map, last).unwrap();
    assert_eq!((info.frame, info.attributes.rights), (frame(1024), Rights::ReadWriteExecute));
    memory.release(cpu(0), other, domain(0)).unwrap();
    memory.assign(other, domain(5)).unwrap();
    let add = |memory: &mut SimulatedMemory<FourLevel>, map: &mut _, share, supply: &mut _| {
        memory.add_mapping(map, at(0), other, Rights::Read, share, supply)
    };
    let refused = Error::NotOwner { frame: frame(1025), owner: Some(Owner::Domain(domain(5))) };
    assert_eq!(add(memory, &mut map, None, supply), Err(refused));
    let share = memory.share(other, domain(5), Owner::Domain(domain(0)), Rights::Read).unwrap();
    client.refill();
    let (memory, supply) = (&mut client.memory, &mut client.supply);
    add(memory, &mut map, Some(&share), supply).unwrap();
    assert!(memory.find_mapping(&map, at(0)).unwrap().attributes.foreign);
    let pages: Vec<_> = std::iter::from_fn(|| supply.take()).collect();
    let (nested, shares, pages) = (Vec::from([&map]), Vec::from([&share]), pages.iter().collect());
    let handles = Handles { nested, shares, pages, ..Handles::default() };
    assert_eq!(check(memory, &handles), Ok(()));
    for address in [last, at(0)] {
        let removed = memory.remove_mapping(cpu(0), &mut map, address).unwrap();
        assert!(memory.is_complete(removed.invalidation));
        assert_eq!(removed.tables.count(), 3);
    }
    memory.end_share(share);
    let root = memory.free_page_map(cpu(0), map).unwrap();
    let _ = memory.release_page_map_page(cpu(0), root);
    client.clean();
}

#[test]
fn rights_are_changed_page_by_page() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x4000, client.region(1028, 14), Rights::ReadWrite).unwrap();
    client.load(0, &map);
    assert!(client.access(0, 0x5000, AccessKind::Write));
    let change = Change::Rights(Rights::Read);
    assert_eq!(
        client.change(&mut map, 0x8000, change),
        Err(Error::NotMapped { address: at(0x8000) })
    );
    let changed = client.memory.modify_mapping(cpu(0), &mut map, at(0x5123), change).unwrap();
    assert_eq!((changed.mapping.address, changed.mapping.dirty), (at(0x5000), true));
    assert_eq!(changed.mapping.attributes.rights, Rights::ReadWrite);
    let rights = [0x4000, 0x5000, 0x6000].map(|address| client.rights(&map, address));
    assert_eq!(rights, [Rights::ReadWrite, Rights::Read, Rights::ReadWrite].map(Some));
    assert!(!client.access(0, 0x5000, AccessKind::Write));
    client.change(&mut map, 0x5000, Change::Rights(Rights::ReadWriteExecute)).unwrap();
    assert!(client.access(0, 0x5000, AccessKind::Write));
    assert!(client.access(0, 0x5000, AccessKind::Execute));
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

#[test]
fn a_large_page_is_split_into_pages_that_map_the_same() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::ReadWrite).unwrap();
    client.load(0, &map);
    assert!(client.access(0, 0x20_5000, AccessKind::Write));
    let page = at(0x20_5000);
    // Without a table nothing happens.
    let mut none = TableSupply::EMPTY;
    let result = client.memory.split_mapping(cpu(0), &mut map, page, &mut none);
    assert_eq!(result, Err(Error::TablesNeeded { needed: 1, supplied: 0 }));
    let split = client.memory.split_mapping(cpu(0), &mut map, page, &mut client.supply).unwrap();
    assert!(client.memory.is_complete(split));
    let again = client.memory.split_mapping(cpu(0), &mut map, page, &mut client.supply);
    assert_eq!(again, Err(Error::NotLarge { address: page }));
    let hole = client.memory.split_mapping(cpu(0), &mut map, at(0), &mut client.supply);
    assert_eq!(hole, Err(Error::NotMapped { address: at(0) }));
    client.refill();
    for address in [0x20_0000, 0x20_5000, 0x3f_f000] {
        let info = client.memory.read_mapping(&map, at(address)).unwrap();
        let frame = 1024 + ((address - 0x20_0000) >> 12);
        assert_eq!((info.frame.number(), info.level.number()), (frame, 1));
        // What was accessed and written is so in every part.
        assert!(info.accessed && info.dirty);
        assert_eq!(info.attributes.rights, Rights::ReadWrite);
    }
    let (infos, tables) = client.remove(&mut map, 0x20_5000, PAGE);
    assert_eq!((infos.len(), tables.len()), (1, 0));
    assert!(!client.access(0, 0x20_5000, AccessKind::Read));
    assert!(client.access(0, 0x20_6000, AccessKind::Write));
    // The page that is free now can be a table, its neighbours cannot.
    assert!(client.memory.create_page_map_page(client.region(1029, PAGE)).is_ok());
    let result = client.memory.create_page_map_page(client.region(1030, PAGE));
    assert_eq!(result.unwrap_err(), Error::InUse { frame: frame(1030) });
    client.change(&mut map, 0x20_8000, Change::Rights(Rights::Read)).unwrap();
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
    client.remove(&mut map, 0x4000_0000, HUGE);
    // Something else, so that the tables stay.
    client.add(&mut map, 0x1000, page, Rights::Read).unwrap();
    client.add(&mut map, 0x20_0000, large, Rights::Read).unwrap();
    let mut costs = Vec::new();
    for (address, region) in [
        (0x2000, client.region((2 << 18) + 513, PAGE)),
        (0x40_0000, client.region((2 << 18) + 1024, LARGE)),
        (0x4000_0000, huge),
    ] {
        client.memory.machine_mut().reset_counts();
        let (memory, supply) = (&mut client.memory, &mut client.supply);
        memory.add_mapping(&mut map, at(address), region, Rights::Read, None, supply).unwrap();
        let adding = memory.machine().counts();
        memory.machine_mut().reset_counts();
        let removed = memory.remove_mapping(cpu(0), &mut map, at(address)).unwrap();
        assert_eq!((removed.mapping.frame, removed.tables.count()), (region.first_frame(), 0));
        let removing = memory.machine().counts();
        costs.push((
            (adding.table_reads, adding.table_writes),
            (removing.table_reads, removing.table_writes),
        ));
    }
    // One read for each level down to the entry, and one write. (The second operation on a page
    // finds its table without a walk.)
    assert_eq!(costs, [((4, 1), (1, 1)), ((3, 1), (3, 1)), ((2, 1), (2, 1))]);
    // So does sharing it; giving it away is done in small parts.
    let grantee = Owner::Domain(domain(1));
    let share = client.memory.share(huge, domain(0), grantee, Rights::Read).unwrap();
    client.memory.end_share(share);
    let too_long = Err(Error::TooLong { pages: 1 << 18, limit: 512 });
    assert_eq!(client.memory.release(cpu(0), huge, domain(0)), too_long);
    assert_eq!(client.memory.assign(huge, domain(0)), too_long);
    client.clean();
}

#[test]
fn a_large_page_that_is_mapped_as_often_as_can_be_counted_is_not_split() {
    let mut client = Client::new();
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
    client.memory.state.pretend_count(Level::FIRST, frame(1100), Record::COUNT_LIMIT);
    let page = at(0x20_5000);
    let result = client.memory.split_mapping(cpu(0), &mut map, page, &mut client.supply);
    assert_eq!(result, Err(Error::TooManyReferences { frame: frame(1100) }));
    assert_eq!(client.memory.read_mapping(&map, at(0x20_5000)).unwrap().level.number(), 2);
}

// --- Owners and shares ---

#[test]
fn memory_of_others_is_mapped_only_through_a_share() {
    let mut client = Client::new();
    let mut map = client.map_of(1);
    let region = client.region(1024, LARGE);
    let not_owner = Error::NotOwner { frame: frame(1024), owner: Some(Owner::Domain(domain(0))) };
    assert_eq!(client.add(&mut map, 0x20_0000, region, Rights::Read), Err(not_owner));
    let result = client.memory.share(region, domain(2), Owner::Domain(domain(1)), Rights::Read);
    assert_eq!(result.unwrap_err(), not_owner);
    let several = client.region(1024, 14);
    let result = client.memory.share(several, domain(0), Owner::Hypervisor, Rights::Read);
    assert_eq!(result.unwrap_err(), Error::NotOnePage { bits: 14 });
    let grantee = Owner::Domain(domain(1));
    let share = client.memory.share(region, domain(0), grantee, Rights::ReadWrite).unwrap();
    assert_eq!((share.region(), share.grantee()), (region, grantee));
    let shared =
        |client: &mut Client, map: &mut PageMap, address, region: PhysicalRegion, rights| {
            let (share, supply) = (Some(&share), &mut client.supply);
            let result = client.memory.add_mapping(map, at(address), region, rights, share, supply);
            client.refill();
            result
        };
    let result = shared(&mut client, &mut map, 0x20_0000, region, Rights::ReadExecute);
    let (asked, granted) = (Rights::ReadExecute, Rights::ReadWrite);
    assert_eq!(result, Err(Error::BeyondShare { asked, granted }));
    let outside = client.region(1536, PAGE);
    let result = shared(&mut client, &mut map, 0x4000, outside, Rights::Read);
    assert_eq!(result, Err(Error::OutsideShare { frame: frame(1536) }));
    let mut other = client.map_of(2);
    let result = shared(&mut client, &mut other, 0x20_0000, region, Rights::Read);
    assert_eq!(result, Err(Error::NotGrantee { grantee }));
    shared(&mut client, &mut map, 0x20_0000, region, Rights::Read).unwrap();
    // A part of what is shared.
    let part = client.region(1030, PAGE);
    shared(&mut client, &mut map, 0x4000, part, Rights::ReadWrite).unwrap();

    // As long as the share or a mapping exists the memory keeps its owner.
    let in_use = Err(Error::InUse { frame: frame(1024) });
    assert_eq!(client.memory.release(cpu(0), region, domain(0)), in_use);
    client.memory.end_share(share);
    assert_eq!(client.memory.release(cpu(0), region, domain(0)), in_use);
    client.remove(&mut map, 0x20_0000, LARGE);
    let in_use = Err(Error::InUse { frame: frame(1030) });
    assert_eq!(client.memory.release(cpu(0), region, domain(0)), in_use);
    client.remove(&mut map, 0x4000, PAGE);
    client.memory.release(cpu(0), region, domain(0)).unwrap();
    client.clean();
}

#[test]
fn what_was_mapped_through_a_share_does_not_gain_rights() {
    let mut client = Client::new();
    let mut map = client.map_of(1);
    let region = client.region(1024, LARGE);
    let grantee = Owner::Domain(domain(1));
    let share = client.memory.share(region, domain(0), grantee, Rights::ReadWrite).unwrap();
    let (to, supply) = (at(0x20_0000), &mut client.supply);
    client.memory.add_mapping(&mut map, to, region, Rights::Read, Some(&share), supply).unwrap();
    client.refill();
    let upgrade = |client: &mut Client, map: &mut PageMap, held, asked| {
        let result = client.change(map, 0x20_1000, Change::Rights(asked));
        assert_eq!(result, Err(Error::Upgrade { address: at(0x20_1000), asked, held }));
    };
    // Not even within what the share allowed; and if asked again and again.
    for _ in 0..3 {
        upgrade(&mut client, &mut map, Rights::Read, Rights::ReadWrite);
        upgrade(&mut client, &mut map, Rights::Read, Rights::ReadExecute);
    }
    // Nor part of it, after it was split.
    let split = client.memory.split_mapping(cpu(0), &mut map, to, &mut client.supply);
    assert!(split.is_ok());
    upgrade(&mut client, &mut map, Rights::Read, Rights::ReadWrite);
    // Nor by way of less.
    client.remove(&mut map, 0x20_0000, LARGE);
    let (share_again, supply) = (Some(&share), &mut client.supply);
    let rights = Rights::ReadWrite;
    client.memory.add_mapping(&mut map, to, region, rights, share_again, supply).unwrap();
    client.change(&mut map, 0x20_1000, Change::Rights(Rights::Read)).unwrap();
    upgrade(&mut client, &mut map, Rights::Read, Rights::ReadWrite);
    // It keeps no rights from others meanwhile: the owner goes on.
    client.refill();
    let mut owners = client.map();
    client.add(&mut owners, 0x20_0000, region, Rights::Read).unwrap();
    client.change(&mut owners, 0x20_0000, Change::Rights(Rights::ReadWriteExecute)).unwrap();
    client.memory.end_share(share);
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
    client.remove(&mut map, 0x20_0000, LARGE);
    client.add(&mut map, 0x1000, client.region(1025, PAGE), Rights::Read).unwrap();
    client.clean();
}

#[test]
fn a_large_page_has_an_owner_again_when_all_of_it_is_given_at_once() {
    let mut client = Client::with(3 << 18, 3);
    let (huge, large) = (client.region(1 << 18, HUGE), client.region(1 << 18, LARGE));
    let one = client.region((1 << 18) + 6, PAGE);
    let mut map = client.map();
    client.memory.release(cpu(0), one, domain(0)).unwrap();
    client.memory.assign(one, domain(1)).unwrap();
    let mixed = Err(Error::NotOwner { frame: frame(1 << 18), owner: None });
    assert_eq!(client.add(&mut map, 0x20_0000, large, Rights::Read), mixed);
    assert_eq!(client.add(&mut map, 0x4000_0000, huge, Rights::Read), mixed);
    client.memory.release(cpu(0), one, domain(1)).unwrap();
    client.memory.assign(one, domain(0)).unwrap();
    // All pages have the same owner, but nobody has looked.
    assert_eq!(client.add(&mut map, 0x20_0000, large, Rights::Read), mixed);
    client.memory.assign(large, domain(0)).unwrap();
    client.add(&mut map, 0x20_0000, large, Rights::Read).unwrap();
    client.add(&mut map, 0x4000_0000, huge, Rights::Read).unwrap();
    client.clean();
}

#[test]
fn memory_is_given_only_if_it_is_nobodys_or_the_receivers() {
    let mut client = Client::new();
    let (large, one) = (client.region(1024, LARGE), client.region(1030, PAGE));
    client.memory.release(cpu(0), large, domain(0)).unwrap();
    client.memory.assign(one, domain(1)).unwrap();
    let error = Error::NotOwner { frame: frame(1030), owner: Some(Owner::Domain(domain(1))) };
    assert_eq!(client.memory.assign(large, domain(2)), Err(error));
    assert_eq!(client.memory.owner(client.region(1024, PAGE)), Owner::Nobody);
    let error = Error::NotOwner { frame: frame(1024), owner: Some(Owner::Nobody) };
    assert_eq!(client.memory.release(cpu(0), large, domain(1)), Err(error));
    client.memory.assign(large, domain(1)).unwrap();
    assert_eq!(client.memory.owner(client.region(1535, PAGE)), Owner::Domain(domain(1)));
    // A page of nobody that serves page maps is not given away.
    client.memory.release(cpu(0), large, domain(1)).unwrap();
    let page = client.memory.create_page_map_page(one).unwrap();
    let error = Error::WrongStatus { frame: frame(1030), status: Status::PageMapPage };
    assert_eq!(client.memory.assign(large, domain(1)), Err(error));
    let refused = client.memory.allocate_page_map::<Host>(page).unwrap_err();
    let owner = Some(Owner::Nobody);
    assert_eq!(refused.error, Error::NotOwner { frame: frame(1030), owner });
    client.clean();
}

// --- Page maps ---

#[test]
fn a_page_map_is_freed_when_it_is_empty_and_everything_comes_back() {
    let mut client = Client::new();
    let normal =
        |client: &Client| (0..2048).filter(|n| client.status(*n) == Status::Normal).count();
    let before = normal(&client);
    let mut map = client.map();
    for (number, address) in [(1024, 0x1000), (1025, 0x40_0000), (1026, 1 << 40)] {
        client.add(&mut map, address, client.region(number, PAGE), Rights::Read).unwrap();
    }
    client.load(0, &map);
    assert!(client.access(0, 0x1000, AccessKind::Read));
    let refused = client.memory.free_page_map(cpu(0), map).unwrap_err();
    assert_eq!(refused.error, Error::NotEmpty { entries: 2 });
    assert_eq!(client.memory.machine().root(CpuIndex::BOOT), refused.handle.root());
    let mut map = refused.handle;
    let (infos, tables) = client.remove(&mut map, 0, 46);
    assert_eq!(infos.len(), 3);
    let mut pages: Vec<PageMapPage> = Vec::new();
    pages.extend(tables.into_iter().map(|table| client.memory.reclaim(table).unwrap()));
    // The one that this processor translates with can be freed.
    pages.push(client.memory.free_page_map(cpu(0), map).unwrap());
    assert_eq!(client.memory.machine().root(CpuIndex::BOOT), frame(0));
    // The root; level 3: two; level 2: two; level 1: three.
    assert_eq!(pages.len(), 8);
    for page in pages {
        assert!(client.memory.machine().is_clear(page.frame()));
        let _ = client.memory.release_page_map_page(cpu(0), page);
    }
    while let Some(page) = client.supply.take() {
        let _ = client.memory.release_page_map_page(cpu(0), page);
    }
    assert_eq!(normal(&client), before + 3);
    client.clean();
}

#[test]
fn a_page_map_in_use_is_not_freed() {
    let mut client = Client::new();
    let mut map = client.map();
    let held = client.memory.attach(&map).unwrap();
    let refused = client.memory.free_page_map(cpu(0), map).unwrap_err();
    assert_eq!(refused.error, Error::PageMapUsed { uses: 1 });
    map = refused.handle;
    // Entries and uses are told apart.
    client.add(&mut map, 0x1000, client.region(1024, PAGE), Rights::Read).unwrap();
    let refused = client.memory.free_page_map(cpu(0), map).unwrap_err();
    assert_eq!(refused.error, Error::NotEmpty { entries: 1 });
    map = refused.handle;
    client.remove(&mut map, 0x1000, PAGE);
    client.memory.load(cpu(1), &held);
    client.memory.detach(held);
    let refused = client.memory.free_page_map(cpu(0), map).unwrap_err();
    let other = CpuIndex::new(1).unwrap();
    assert_eq!(refused.error, Error::PageMapLoaded { cpu: other });
    client.memory.load_reference(cpu(1));
    assert!(client.memory.free_page_map(cpu(0), refused.handle).is_ok());
    client.clean();
}

#[test]
fn a_page_map_has_room_for_its_entries_however_often_it_is_used() {
    let mut client = Client::new();
    let mut map = client.map();
    let most = Record::COUNT_LIMIT - 512;
    client.memory.state.pretend_count(Level::FIRST, map.root(), most - 1);
    let held = client.memory.attach(&map).unwrap();
    assert_eq!(client.memory.attach(&map).unwrap_err(), Error::TooManyUses);
    for entry in 0..256 {
        let region = client.region(1024 + entry, PAGE);
        client.add(&mut map, entry << 39, region, Rights::Read).unwrap();
    }
    assert_eq!(client.memory.state.page(map.root()).count(), most + 256);
    client.memory.detach(held);
    client.clean();
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
    let memory = &mut client.memory;
    let removed = memory.remove_mapping(cpu(0), &mut map, at(0x1000)).unwrap();
    assert!(removed.mapping.dirty);
    let invalidation = removed.invalidation;
    let mut tables: Vec<_> = removed.tables.collect();
    assert_eq!(tables.len(), 3);
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
    memory.add_mapping(&mut map, at(0x1000), page, Rights::Read, None, supply).unwrap();
    client.refill();
    let (_, more) = client.remove(&mut map, 0x1000, PAGE);
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
    client.remove(&mut map, 0x1000, PAGE);
    let counts = client.memory.machine().counts();
    assert_eq!((counts.invalidations, counts.flushes), (1, 0));
    assert!(!client.access(0, 0x1000, AccessKind::Read));
    assert_eq!(client.memory.owing_cpus().count(), 0);
    let (_, tables) = client.remove(&mut map, 0x2000, PAGE);
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
    let change = Change::ResetUsage;
    let told = client.memory.modify_mapping(cpu(0), &mut map, at(0x1000), change).unwrap().mapping;
    assert!(told.accessed && told.dirty);
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
    assert_eq!((mapping.size(), mapping.region()), (8192, region));
    memory.write_word(mapping.word_at(Offset::MAX), 5).unwrap();
    assert_eq!(Offset::new(512), None);
    assert_eq!(memory.machine().peek(frame(1028), 511), 5);
    let word = mapping.word(1023).unwrap();
    memory.write_word(word, 6).unwrap();
    assert_eq!((memory.read_word(word), memory.machine().peek(frame(1029), 511)), (6, 6));
    assert_eq!((memory.change_word(word, 2, 9), memory.read_word(word)), (Ok(6), 13));
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
    assert_eq!(memory.write_word(mapping.word_at(Offset::MIN), 1), Err(Error::ReadOnly));
    assert_eq!(memory.write_word(mapping.word(0).unwrap(), 1), Err(Error::ReadOnly));
    assert_eq!(memory.change_word(mapping.word(0).unwrap(), 0, 1), Err(Error::ReadOnly));
    assert_eq!(memory.write_bytes(&mapping, 0, &[1]), Err(Error::ReadOnly));
    assert_eq!(memory.copy((&mapping, 0), (&mapping, 8), 8), Err(Error::ReadOnly));
    assert_eq!(memory.fill(&mapping, 0, 8, 1), Err(Error::ReadOnly));
    assert_eq!(memory.clear(&mapping), Err(Error::ReadOnly));
    assert_eq!(memory.read_word(mapping.word_at(Offset::MIN)), 0);
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
    let (infos, _) = client.remove(&mut map, 0x10_0000, io.bits());
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
    memory.write_word(mapping.word_at(Offset::MIN), 3).unwrap();
    let _ = memory.remove_kernel_mapping(cpu(0), mapping);
    client.clean();
}

// --- Records ---

#[test]
fn records_are_small() {
    let frames = 1 << 18;
    let counts =
        Level::leaves::<FourLevel>().map(|level| State::<FourLevel>::unit_count(level, frames));
    let records: usize = counts.clone().sum();
    assert!(counts.eq([frames, 512, 1]));
    assert!(records * size_of::<Record>() < frames * 9);
    assert_eq!(size_of::<Entry>(), 8);
}

#[test]
fn a_last_block_that_is_only_partly_memory_is_never_mapped_as_one() {
    // Two whole ones, and six pages.
    let mut client = Client::with(1030, 3);
    let mut map = client.map();
    client.add(&mut map, 0x20_0000, client.region(512, LARGE), Rights::Read).unwrap();
    client.remove(&mut map, 0x20_0000, LARGE);
    let flexpage = Flexpage::physical(frame(1024).address(), LARGE).unwrap();
    let found = client.memory.initial_regions().any(|region| region.derive(flexpage).is_ok());
    assert!(!found);
    client.clean();
}
