//! Ranges on the simulated machine.

use std::collections::BTreeMap;
use std::vec::Vec;

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::mapping::Removed;
use heliox_hal::memory::{Memory, Ownership, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapPage, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::simulated::{Access, AccessKind, FourByFour, Simulated, SimulatedMemory};
use heliox_types::cpu::CpuIndex;
use heliox_types::domain::{DomainId, Owner};
use heliox_types::error::{Error, Refused};
use heliox_types::flexpage::{Flexpage, VirtualRange};
use heliox_types::geometry::{FourLevel, Geometry};
use heliox_types::mapping::{Change, MappingInfo};
use heliox_types::rights::Rights;
use heliox_types::status::Status;
use heliox_types::{Frame, PAGE_BITS, USER_END, VirtualAddress};

use super::*;

const PAGE: u32 = 12;
const LARGE: u32 = 21;

fn cpu() -> CurrentCpu {
    CurrentCpu::simulated(CpuIndex::BOOT)
}

fn at(address: u64) -> VirtualAddress {
    VirtualAddress::new(address).unwrap()
}

fn range(start: u64, pages: u64) -> VirtualRange {
    VirtualRange::new(at(start), pages).unwrap()
}

/// A machine, pages for tables, and an address space.
struct Client<G: Geometry> {
    memory: SimulatedMemory<G>,
    supply: TableSupply,
    spare: Vec<PageMapPage>,
    /// Next frame to be used for tables.
    next: u64,
}

impl<G: Geometry> Client<G> {
    fn new(frames: u64, largest_leaf: u32) -> Self {
        let builder = Simulated::<G>::builder(frames).largest_leaf(largest_leaf);
        let machine = builder.build().unwrap();
        let (layout, next) = (machine.boot_layout(), machine.free_frames().start());
        let memory = Memory::simulated(machine, layout).unwrap();
        Self { memory, supply: TableSupply::EMPTY, spare: Vec::new(), next }
    }

    fn region(&self, number: u64, bits: u32) -> PhysicalRegion {
        let start = Frame::new(number).unwrap().address();
        let flexpage = Flexpage::physical(start, bits).unwrap();
        let mut regions = self.memory.initial_regions();
        regions.find_map(|region| region.derive(flexpage).ok()).unwrap()
    }

    fn table(&mut self) -> PageMapPage {
        if let Some(page) = self.spare.pop() {
            return page;
        }
        let region = self.region(self.next, PAGE);
        self.next += 1;
        self.memory.create_page_map_page(region).unwrap()
    }

    fn refill(&mut self) {
        loop {
            let page = self.table();
            if let Err(page) = self.supply.add(page) {
                return self.spare.push(page);
            }
        }
    }

    fn map(&mut self) -> PageMap {
        let page = self.table();
        self.memory.allocate_page_map(page).unwrap()
    }

    fn add(
        &mut self,
        map: &mut PageMap,
        to: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Result<(), Error> {
        let mut adding = Adding::new(at(to), region, rights, None)?;
        loop {
            match adding.step(&mut self.memory, map, &mut self.supply) {
                Ok(Progress::Done) => return Ok(()),
                Ok(Progress::More) => {}
                Err(Error::TablesNeeded { .. }) => self.refill(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the tables of a removal back.
    fn reclaim(&mut self, removed: Removed) -> (MappingInfo, usize) {
        let before = self.spare.len();
        for table in removed.tables {
            let table = self.memory.reclaim(table).unwrap();
            self.spare.push(table);
        }
        (removed.mapping, self.spare.len() - before)
    }

    fn remove(
        &mut self,
        map: &mut PageMap,
        range: VirtualRange,
    ) -> Result<(Vec<MappingInfo>, usize), Error> {
        let mut removing = Removing::new(range);
        let (mut infos, mut tables) = (Vec::new(), 0);
        loop {
            match removing.step(&mut self.memory, cpu(), map, &mut self.supply) {
                Ok(Step::Done) => return Ok((infos, tables)),
                Ok(Step::More(None)) => {}
                Ok(Step::More(Some(removed))) => {
                    let (info, count) = self.reclaim(removed);
                    infos.push(info);
                    tables += count;
                }
                Err(Error::TablesNeeded { .. }) => self.refill(),
                Err(error) => return Err(error),
            }
        }
    }

    fn change(
        &mut self,
        map: &mut PageMap,
        range: VirtualRange,
        change: Change,
    ) -> Result<Vec<MappingInfo>, Error> {
        let mut modifying = Modifying::new(range, change);
        let mut told = Vec::new();
        loop {
            match modifying.step(&mut self.memory, cpu(), map, &mut self.supply) {
                Ok(Step::Done) => return Ok(told),
                Ok(Step::More(changed)) => told.extend(changed.map(|changed| changed.mapping)),
                Err(Error::TablesNeeded { .. }) => self.refill(),
                Err(error) => return Err(error),
            }
        }
    }

    fn free(&mut self, map: PageMap) -> Result<Vec<MappingInfo>, Refused<Freeing>> {
        self.go_on_freeing(Freeing::new(map))
    }

    fn go_on_freeing(&mut self, freeing: Freeing) -> Result<Vec<MappingInfo>, Refused<Freeing>> {
        let mut infos = Vec::new();
        let mut freeing = freeing;
        loop {
            match freeing.step(&mut self.memory, cpu())? {
                FreeStep::More { rest, removed } => {
                    freeing = rest;
                    infos.extend(removed.map(|removed| self.reclaim(removed).0));
                }
                FreeStep::Done(root) => {
                    self.spare.push(root);
                    return Ok(infos);
                }
            }
        }
    }

    fn clean(&mut self) {
        assert_eq!(self.memory.machine_mut().take_violations(), []);
    }
}

#[test]
fn a_region_is_mapped_by_the_largest_pages_that_fit() {
    for (largest, sizes) in [(3, [(LARGE, 1), (PAGE, 3)]), (1, [(PAGE, 512), (PAGE, 3)])] {
        let mut client = Client::<FourLevel>::new(4096, largest);
        let mut map = client.map();
        // 4 MiB at a place that only suits 4 KiB: half of it begins at a multiple of 2 MiB there
        // but not in memory.
        client.add(&mut map, 0x20_0000, client.region(1024, LARGE), Rights::Read).unwrap();
        client.add(&mut map, 0x60_1000, client.region(2048, 14), Rights::ReadWrite).unwrap();
        let all = range(0, USER_END >> PAGE_BITS);
        let (infos, _) = client.remove(&mut map, all).unwrap();
        let count = |bits| infos.iter().filter(|info| info.bits == bits).count();
        match largest {
            1 => assert_eq!((count(LARGE), count(PAGE)), (0, 512 + 4), "{sizes:?}"),
            _ => assert_eq!((count(LARGE), count(PAGE)), (1, 4)),
        }
        client.clean();
    }
    // Neither the memory's nor the addresses' alignment alone is enough.
    let mut client = Client::<FourLevel>::new(4096, 3);
    let mut map = client.map();
    client.add(&mut map, 0x40_1000, client.region(2048, 22), Rights::Read).unwrap();
    let info = |client: &Client<FourLevel>, map: &PageMap, address| {
        client.memory.read_mapping(map, at(address)).unwrap()
    };
    assert!((0..1024).all(|page| info(&client, &map, 0x40_1000 + page * 4096).bits == PAGE));
    assert_eq!(info(&client, &map, 0x80_0000).frame.number(), 2048 + 1023);
    client.clean();
}

#[test]
fn a_region_of_mixed_owners_that_is_whole_again_is_mapped_by_small_pages() {
    let mut client = Client::<FourLevel>::new(4096, 3);
    let (whole, one) = (client.region(1024, LARGE), client.region(1030, PAGE));
    client.memory.release(cpu(), one, DomainId::ZERO).unwrap();
    let mut map = client.map();
    let nobody = Error::NotOwner { frame: one.first_frame(), owner: Some(Owner::Nobody) };
    let result = client.add(&mut map, 0x20_0000, whole, Rights::Read);
    assert_eq!(result, Err(nobody));
    client.remove(&mut map, range(0x20_0000, 512)).unwrap();
    client.memory.assign(one, DomainId::ZERO).unwrap();
    client.add(&mut map, 0x20_0000, whole, Rights::Read).unwrap();
    assert_eq!(client.memory.read_mapping(&map, at(0x20_0000)).unwrap().bits, PAGE);
    client.remove(&mut map, range(0x20_0000, 512)).unwrap();
    let mut parts = Parts::new(whole);
    let done = parts.step(|part| client.memory.assign(part, DomainId::ZERO));
    assert_eq!((done, parts.pages_done()), (Ok(Progress::Done), 512));
    client.add(&mut map, 0x20_0000, whole, Rights::Read).unwrap();
    assert_eq!(client.memory.read_mapping(&map, at(0x20_0000)).unwrap().bits, LARGE);
    client.clean();
}

#[test]
fn steps_are_bounded_and_go_on_where_they_stopped() {
    let mut client = Client::<FourLevel>::new(4096, 1);
    let mut map = client.map();
    let region = client.region(2048, 22);
    let mut adding = Adding::new(at(0x40_0000), region, Rights::Read, None).unwrap();
    let mut none = TableSupply::EMPTY;
    let needed = Error::TablesNeeded { needed: 3, supplied: 0 };
    assert_eq!(adding.step(&mut client.memory, &mut map, &mut none), Err(needed));
    assert_eq!(adding.pages_done(), 0);
    client.refill();
    loop {
        let before = adding.pages_done();
        match adding.step(&mut client.memory, &mut map, &mut client.supply) {
            Ok(Progress::Done) => break,
            Ok(Progress::More) => assert_eq!(adding.pages_done(), before + 1),
            // The second table.
            Err(error) => {
                assert_eq!(error, Error::TablesNeeded { needed: 1, supplied: 0 });
                assert_eq!(adding.pages_done(), 512);
                client.refill();
            }
        }
    }
    assert_eq!(adding.pages_done(), 1024);
    // There is nothing behind the end, however often one goes on.
    for _ in 0..3 {
        let step = adding.step(&mut client.memory, &mut map, &mut client.supply);
        assert_eq!(step, Ok(Progress::Done));
    }
    assert_eq!(client.memory.read_mapping(&map, at(0x80_0000)), Err(0x4000_0000));
    let (infos, tables) = client.remove(&mut map, range(0x40_0000, 1024)).unwrap();
    assert_eq!((infos.len(), tables), (1024, 4));
    client.clean();
}

#[test]
fn ranges_end_within_the_programs_part() {
    let mut client = Client::<FourLevel>::new(4096, 3);
    let mut map = client.map();
    let region = client.region(2048, 13);
    let misaligned = Error::Misaligned { start: 0x1001, bits: PAGE };
    assert_eq!(Adding::new(at(0x1001), region, Rights::Read, None).unwrap_err(), misaligned);
    // Past the last address of the half, and past the last of all.
    for start in [0x7fff_ffff_f000, u64::MAX - 4095] {
        let error = Adding::new(at(start), region, Rights::Read, None).unwrap_err();
        assert_eq!(error, Error::BadRange { start: at(start), pages: 2 });
    }
    // Past the programs' last page: the first page is mapped, and the value says so.
    let mut adding = Adding::new(at(USER_END - 4096), region, Rights::Read, None).unwrap();
    client.refill();
    let (memory, supply) = (&mut client.memory, &mut client.supply);
    assert_eq!(adding.step(memory, &mut map, supply), Ok(Progress::More));
    let not_user = Error::NotUser { start: at(USER_END), pages: 1 };
    assert_eq!(adding.step(memory, &mut map, supply), Err(not_user));
    assert_eq!(adding.pages_done(), 1);
    let (infos, _) = client.remove(&mut map, range(USER_END - 4096, 1)).unwrap();
    assert_eq!(infos.len(), 1);
    // The kernel's half.
    let kernel = range(0xffff_8000_0000_0000, 5);
    let not_user = Error::NotUser { start: kernel.start(), pages: 5 };
    assert_eq!(client.remove(&mut map, kernel), Err(not_user));
    let not_user = Error::NotUser { start: kernel.start(), pages: 1 };
    assert_eq!(client.change(&mut map, kernel, Change::ResetUsage), Err(not_user));
    client.clean();
}

#[test]
fn removal_is_optimistic_and_says_what_it_removed() {
    let mut client = Client::<FourLevel>::new(4096, 3);
    let mut map = client.map();
    for (address, number) in
        [(0x1000, 1024), (0x3000, 1025), (0x40_0000, 1026), (0x8000_0000, 1027)]
    {
        client.add(&mut map, address, client.region(number, PAGE), Rights::ReadExecute).unwrap();
    }
    client.add(&mut map, 0x4000_0000, client.region(1536, LARGE), Rights::ReadWrite).unwrap();
    // Everything that programs can have: holes, several tables, several sizes.
    let all = range(0, USER_END >> PAGE_BITS);
    let (infos, tables) = client.remove(&mut map, all).unwrap();
    let found: Vec<_> = infos
        .iter()
        .map(|info| (info.address.get(), info.frame.number(), info.bits, info.attributes.rights))
        .collect();
    assert_eq!(
        found,
        [
            (0x1000, 1024, PAGE, Rights::ReadExecute),
            (0x3000, 1025, PAGE, Rights::ReadExecute),
            (0x40_0000, 1026, PAGE, Rights::ReadExecute),
            (0x4000_0000, 1536, LARGE, Rights::ReadWrite),
            (0x8000_0000, 1027, PAGE, Rights::ReadExecute),
        ]
    );
    // Level 1: three. Level 2: one for each GiB. Level 3: one.
    assert_eq!(tables, 3 + 3 + 1);
    assert_eq!(client.remove(&mut map, all), Ok((Vec::new(), 0)));
    client.clean();
}

#[test]
fn a_hole_stops_a_change() {
    let mut client = Client::<FourLevel>::new(4096, 3);
    let mut map = client.map();
    client.add(&mut map, 0x4000, client.region(1028, 14), Rights::ReadWrite).unwrap();
    let change = Change::Rights(Rights::Read);
    let mut modifying = Modifying::new(range(0x4000, 5), change);
    for _ in 0..4 {
        let step = modifying.step(&mut client.memory, cpu(), &mut map, &mut client.supply);
        assert!(matches!(step, Ok(Step::More(Some(_)))));
    }
    for _ in 0..2 {
        let step = modifying.step(&mut client.memory, cpu(), &mut map, &mut client.supply);
        assert_eq!(step.unwrap_err(), Error::NotMapped { address: at(0x8000) });
        assert_eq!(modifying.rest(), Some(range(0x8000, 1)));
    }
    client.add(&mut map, 0x8000, client.region(1032, PAGE), Rights::ReadWrite).unwrap();
    let step = modifying.step(&mut client.memory, cpu(), &mut map, &mut client.supply);
    assert!(matches!(step, Ok(Step::More(Some(_)))));
    assert_eq!(modifying.rest(), None);
    client.clean();
}

#[test]
fn a_large_page_is_split_when_only_part_of_it_changes() {
    let mut client = Client::<FourLevel>::new(3 << 18, 3);
    let mut map = client.map();
    let huge = client.region(1 << 18, 30);
    client.add(&mut map, 0x4000_0000, huge, Rights::ReadWrite).unwrap();
    let held = client.memory.attach(&map).unwrap();
    client.memory.load(cpu(), &held);
    let access = |client: &mut Client<FourLevel>, address, kind| {
        client.memory.machine_mut().access(CpuIndex::BOOT, at(address), Access::user(kind)).is_ok()
    };
    assert!(access(&mut client, 0x4000_5000, AccessKind::Write));
    // One page is removed: a table of level 2, and one of level 1.
    let (infos, tables) = client.remove(&mut map, range(0x4000_5000, 1)).unwrap();
    assert_eq!((infos.len(), tables), (1, 0));
    assert_eq!((infos[0].frame.number(), infos[0].bits), ((1 << 18) + 5, PAGE));
    assert!(infos[0].accessed && infos[0].dirty);
    assert!(!access(&mut client, 0x4000_5000, AccessKind::Read));
    assert!(access(&mut client, 0x4000_6000, AccessKind::Write));
    assert_eq!(client.memory.read_mapping(&map, at(0x4020_0000)).unwrap().bits, LARGE);
    // From the middle of one large page to the middle of the next.
    let middle = range(0x4030_0000, 512);
    let told = client.change(&mut map, middle, Change::Rights(Rights::Read)).unwrap();
    assert_eq!(told.len(), 512);
    let writable: Vec<_> = [0x402f_f000, 0x4030_0000, 0x404f_f000, 0x4050_0000]
        .map(|address| access(&mut client, address, AccessKind::Write))
        .into();
    assert_eq!(writable, [true, false, false, true]);
    // The rest: 510 large ones, 511 small ones of the first and 512 of the two others.
    client.memory.load_reference(cpu());
    client.memory.detach(held);
    let infos = client.free(map).unwrap();
    assert_eq!(infos.len(), 509 + 511 + 1024);
    client.clean();
}

#[test]
fn freeing_a_page_map_gives_back_every_table() {
    let mut client = Client::<FourLevel>::new(4096, 3);
    let normal = |client: &Client<FourLevel>| {
        let pages = (0..4096).filter_map(Frame::new);
        pages.filter(|page| client.memory.state().page(*page).status() == Status::Normal).count()
    };
    let before = normal(&client);
    let mut map = client.map();
    for (number, address) in [(1024, 0x1000), (1025, 0x40_0000), (1026, 1 << 40)] {
        client.add(&mut map, address, client.region(number, PAGE), Rights::Read).unwrap();
    }
    let held = client.memory.attach(&map).unwrap();
    // Used: refused, and goes on when the use has ended. What was mapped is gone.
    let refused = client.free(map).unwrap_err();
    assert_eq!(refused.error, Error::PageMapUsed { uses: 1 });
    client.memory.detach(held);
    assert_eq!(client.go_on_freeing(refused.handle), Ok(Vec::new()));
    // The root; level 3: two; level 2: two; level 1: three.
    while let Some(page) = client.supply.take() {
        client.spare.push(page);
    }
    assert!(client.spare.len() >= 8);
    while let Some(page) = client.spare.pop() {
        assert!(client.memory.machine().is_clear(page.frame()));
        let _ = client.memory.release_page_map_page(cpu(), page);
    }
    assert_eq!(normal(&client), before);
    client.clean();
}

#[test]
fn memory_is_passed_on_in_parts() {
    let mut client = Client::<FourLevel>::new(1 << 13, 3);
    let region = client.region(2048, 23);
    let mut parts = Parts::new(region);
    let mut sizes = Vec::new();
    while parts
        .step(|part| {
            client.memory.release(cpu(), part, DomainId::ZERO)?;
            sizes.push(part.bits());
            Ok(())
        })
        .unwrap()
        == Progress::More
    {}
    assert_eq!((sizes, parts.pages_done()), (std::vec![LARGE; 4], 2048));
    assert_eq!(parts.step(|_| panic!("nothing is left")), Ok(Progress::Done));
    // In the middle a page is somebody else's.
    let one = client.region(2048 + 600, PAGE);
    client.memory.assign(one, DomainId::new(7).unwrap()).unwrap();
    let mut parts = Parts::new(region);
    let to = DomainId::new(8).unwrap();
    assert_eq!(parts.step(|part| client.memory.assign(part, to)), Ok(Progress::More));
    let owner = Some(Owner::Domain(DomainId::new(7).unwrap()));
    let error = Error::NotOwner { frame: one.first_frame(), owner };
    assert_eq!(parts.step(|part| client.memory.assign(part, to)), Err(error));
    assert_eq!(parts.pages_done(), 512);
    // Shares are of pages: large ones where one has all of it.
    let mut parts = Parts::new(region);
    let mut shares = Vec::new();
    let mut share = |client: &mut Client<FourLevel>, parts: &mut Parts| {
        parts.step(|part| {
            let share = client.memory.share(part, to, Owner::Hypervisor, Rights::Read)?;
            shares.push(share);
            Ok(())
        })
    };
    assert_eq!(share(&mut client, &mut parts), Ok(Progress::More));
    let nobody = share(&mut client, &mut parts).unwrap_err();
    assert!(matches!(nobody, Error::NotOwner { owner: Some(Owner::Nobody), .. }));
    assert_eq!(shares.iter().map(|share| share.region().bits()).collect::<Vec<_>>(), [LARGE]);
    client.clean();
}

// --- Against a model ---

/// A small generator of random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit
    }
}

/// Every page by itself, in a map: that is what ranges of any size must come to.
#[test]
fn ranges_are_what_their_pages_are() {
    let rounds = if cfg!(miri) { 60 } else { 3_000 };
    for largest in 1..=3 {
        let mut client = Client::<FourByFour>::new(128, largest);
        let mut random = Random(largest.into());
        let mut map = client.map();
        let mut model: BTreeMap<u64, (u64, Rights)> = BTreeMap::new();
        let end = FourByFour::USER_END >> PAGE_BITS;
        for _ in 0..rounds {
            let order = u32::try_from(random.below(6)).unwrap();
            let rights = Rights::ALL[usize::try_from(random.below(4)).unwrap()];
            let start = random.below(end);
            let pages = 1 + random.below(40);
            let within = pages.min(end - start);
            let some = range(start << PAGE_BITS, within);
            match random.below(4) {
                0 | 1 => {
                    let first = 96 + (random.below(32) >> order << order);
                    let region = client.region(first, order + PAGE_BITS);
                    // Aligned as the region is, or not.
                    let start = if random.below(2) == 0 { start >> order << order } else { start };
                    let result = client.add(&mut map, start << PAGE_BITS, region, rights);
                    let mut expected = Ok(());
                    for page in 0..region.pages() {
                        if start + page >= end || model.contains_key(&(start + page)) {
                            expected = Err(());
                            break;
                        }
                    }
                    assert_eq!(result.is_ok(), expected.is_ok(), "{result:?}");
                    // What was mapped before the refusal stays.
                    for page in 0..region.pages() {
                        let address = at((start + page) << PAGE_BITS);
                        let found = client.memory.read_mapping(&map, address);
                        if result.is_ok() || !model.contains_key(&(start + page)) {
                            if let Ok(info) = found {
                                assert_eq!(info.attributes.rights, rights);
                                model.insert(start + page, (first + page, rights));
                            } else {
                                assert!(result.is_err());
                                break;
                            }
                        } else {
                            break;
                        }
                    }
                }
                2 => {
                    let (infos, _) = client.remove(&mut map, some).unwrap();
                    let removed: u64 = infos.iter().map(|info| 1 << (info.bits - PAGE_BITS)).sum();
                    let expected = model.range(start..start + within).count();
                    assert_eq!(removed, expected as u64);
                    model.retain(|page, _| !(start..start + within).contains(page));
                }
                _ => {
                    let result = client.change(&mut map, some, Change::Rights(rights));
                    let hole = (start..start + within).find(|page| !model.contains_key(page));
                    let error =
                        hole.map(|page| Error::NotMapped { address: at(page << PAGE_BITS) });
                    assert_eq!(result.err(), error);
                    for page in start..hole.unwrap_or(start + within) {
                        model.get_mut(&page).unwrap().1 = rights;
                    }
                }
            }
            for page in 0..end {
                let found = client.memory.read_mapping(&map, at(page << PAGE_BITS)).ok();
                let found = found.map(|info| {
                    let distance = page - (info.address.get() >> PAGE_BITS);
                    (info.frame.number() + distance, info.attributes.rights)
                });
                assert_eq!(found, model.get(&page).copied(), "page {page:#x}");
            }
        }
        let infos = client.free(map).unwrap();
        let pages: u64 = infos.iter().map(|info| 1 << (info.bits - PAGE_BITS)).sum();
        assert_eq!(pages, model.len() as u64);
        client.clean();
    }
}
