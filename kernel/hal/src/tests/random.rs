//! Long random runs: a client that knows what it holds, and often does the wrong thing.
//!
//! After every few steps everything is recounted ([`crate::audit`]). A run counts how often each
//! operation succeeded and each reason of refusal occurred, and fails if one did not often
//! enough, so that the run cannot become blind.

use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::format;
use std::println;
use std::string::String;
use std::vec::Vec;

use heliox_types::cpu::CpuIndex;
use heliox_types::domain::{DomainId, Owner, OwnerCode};
use heliox_types::error::Error;
use heliox_types::flexpage::{Flexpage, Physical, Virtual, VirtualRange};
use heliox_types::geometry::{Geometry, Level};
use heliox_types::mapping::{Attributes, IoKind, IoRange, MappingInfo, RegionKind};
use heliox_types::rights::{MemoryType, Rights};
use heliox_types::status::Status;
use heliox_types::{Frame, FrameRange, PAGE_BITS, PhysicalAddress, VirtualAddress};

use crate::audit::{self, Handles};
use crate::cpu::CurrentCpu;
use crate::entry::{Host, RootKind};
use crate::kernel_mapping::{KernelMapping, Offset};
use crate::mapping::Change;
use crate::memory::{KernelMemory, Memory, Ownership, Paging, PhysicalMemory, UserMemory};
use crate::page::Record;
use crate::page_map::{PageMap, PageMapPage, PageMapUse, SUPPLY_LIMIT, TableSupply};
use crate::region::PhysicalRegion;
use crate::share::Share;
use crate::simulated::{
    Access, AccessKind, Caching, FourByFour, NarrowTwoByFour, Simulated, SimulatedMemory,
    Strictness, ThreeByFour, TwoByFour,
};
use crate::state::Layout;
use crate::translation::DrainingPage;

/// A small generator of random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let limit = from.len() as u64;
        (limit > 0).then(|| &from[usize::try_from(self.below(limit)).unwrap()])
    }

    /// Takes an element out.
    fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        let limit = from.len() as u64;
        (limit > 0).then(|| from.swap_remove(usize::try_from(self.below(limit)).unwrap()))
    }

    fn rights(&mut self) -> Rights {
        *self.pick(&Rights::ALL).unwrap()
    }
}

/// How often what happened.
#[derive(Default)]
struct Table {
    successes: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<String, u64>,
}

impl Table {
    fn success(&mut self, name: &'static str) {
        *self.successes.entry(name).or_default() += 1;
    }

    fn refusal(&mut self, error: Error) {
        let name = format!("{error:?}");
        let name = name.split([' ', '(']).next().unwrap_or("").to_owned();
        *self.refusals.entry(name).or_default() += 1;
    }
}

/// A client kernel and all that it holds.
struct Client<G: Geometry> {
    memory: SimulatedMemory<G>,
    random: Random,
    table: Table,
    ram: Vec<PhysicalRegion>,
    io: Vec<PhysicalRegion>,
    maps: Vec<PageMap>,
    uses: Vec<PageMapUse>,
    pages: Vec<PageMapPage>,
    draining: Vec<DrainingPage>,
    shares: Vec<Share>,
    kernel: Vec<KernelMapping>,
    /// Who owns each frame, according to what was done.
    owners: BTreeMap<Frame, Owner>,
}

fn range(start: u64, end: u64) -> FrameRange {
    FrameRange::new(start, end).unwrap()
}

/// Frames of the machine that is booted again and again.
const SMALL: u64 = 40;

/// A machine with `frames` frames of RAM, four of I/O behind it, and frames that are another
/// device's and have no window.
fn machine<G: Geometry>(frames: u64, cpus: usize, largest_leaf: u32) -> (Simulated<G>, Layout) {
    let io = range(frames, frames + 4);
    let machine = Simulated::<G>::builder(frames)
        .processors(cpus)
        .largest_leaf(largest_leaf)
        .io(io, MemoryType::Uncacheable)
        .caching(Caching { speculative: false, private_window: false })
        .strictness(Strictness::PanicUnlessStale)
        .build()
        .unwrap();
    let free = machine.free_frames();
    let layout = Layout {
        environment: std::vec![machine.environment()],
        free: std::vec![range(free.start(), free.end() - 2)],
        modules: std::vec![range(free.end() - 2, free.end())],
        io: std::vec![
            IoRange { frames: io, kind: IoKind::VideoMemory },
            IoRange { frames: range(1 << 20, (1 << 20) + 1), kind: IoKind::FrameBuffer },
        ],
    };
    (machine, layout)
}

impl<G: Geometry> Client<G> {
    fn new(machine: Simulated<G>, layout: Layout, seed: u64) -> Self {
        let memory = Memory::simulated(machine, layout).unwrap();
        let (ram, io): (Vec<_>, Vec<_>) =
            memory.initial_regions().partition(|region| region.kind() == RegionKind::Ram);
        let zero = Owner::Domain(DomainId::ZERO);
        let frames = ram.iter().flat_map(|region| {
            let first = region.first_frame();
            (0..region.pages()).map(move |page| first.checked_add(page).unwrap())
        });
        let owners = frames.map(|frame| (frame, zero)).collect();
        Self {
            memory,
            random: Random(seed * 2 + 1),
            table: Table::default(),
            ram,
            io,
            maps: Vec::new(),
            uses: Vec::new(),
            pages: Vec::new(),
            draining: Vec::new(),
            shares: Vec::new(),
            kernel: Vec::new(),
            owners,
        }
    }

    fn audit(&self) {
        let handles = Handles {
            nested: Vec::new(),
            page_maps: self.maps.iter().collect(),
            uses: self.uses.iter().collect(),
            pages: self.pages.iter().collect(),
            draining: self.draining.iter().collect(),
            shares: self.shares.iter().collect(),
            kernel_mappings: self.kernel.iter().collect(),
        };
        if let Err((invariant, found)) = audit::check(&self.memory, &handles) {
            panic!("{invariant}: {found}");
        }
        for (frame, owner) in &self.owners {
            assert_eq!(self.memory.state().owner(*frame), *owner, "owner of {frame}");
        }
    }

    /// Notes a result; a refusal must have changed nothing.
    fn note<T>(
        &mut self,
        name: &'static str,
        before: &Option<SimulatedMemory<G>>,
        result: Result<T, Error>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.table.success(name);
                Some(value)
            }
            Err(error) => {
                if let Some(before) = before {
                    assert_eq!(before.state(), self.memory.state(), "{name}: {error:?}");
                    let ram = self.memory.machine().ram();
                    for frame in ram {
                        for index in 0..G::ENTRIES {
                            assert_eq!(
                                before.machine().peek(frame, index) & !Host::ACCESSED,
                                self.memory.machine().peek(frame, index) & !Host::ACCESSED,
                                "{name}: {error:?}: {frame}"
                            );
                        }
                    }
                }
                self.table.refusal(error);
                None
            }
        }
    }

    /// Now and then, a copy to compare with.
    fn snapshot(&mut self) -> Option<SimulatedMemory<G>> {
        self.random.once_in(16).then(|| self.memory.clone())
    }

    fn cpu(&mut self) -> CurrentCpu {
        let cpus = self.memory.machine().processors() as u64;
        let index = usize::try_from(self.random.below(cpus)).unwrap();
        CurrentCpu::simulated(CpuIndex::new(index).unwrap())
    }

    fn domain(&mut self) -> DomainId {
        DomainId::new(u16::try_from(self.random.below(3)).unwrap()).unwrap()
    }

    /// Log2 of a number of pages, small ones more often.
    fn order(&mut self) -> u32 {
        if self.random.once_in(8) {
            return 3;
        }
        let most = u64::from(G::INDEX_BITS * (G::LEAF_LEVELS - 1)) + 2;
        if self.random.once_in(3) {
            return 0;
        }
        let (one, other) = (self.random.below(most), self.random.below(most));
        let order = if self.random.once_in(4) { one.max(other) } else { one.min(other) };
        u32::try_from(order).unwrap()
    }

    /// The same, and seldom one that is not of a page.
    fn page_order(&mut self) -> u32 {
        if self.random.once_in(32) {
            return self.order();
        }
        let level = self.random.below(u64::from(G::LEAF_LEVELS) + 1);
        let level = u32::try_from(level).unwrap().saturating_sub(1);
        G::INDEX_BITS * level
    }

    fn physical_flexpage(&mut self, order: u32) -> Flexpage<Physical> {
        let frames = self.memory.machine().ram().count() + 8;
        let frame = self.random.below(frames) >> order << order;
        let address = PhysicalAddress::new(frame << PAGE_BITS).unwrap();
        Flexpage::physical(address, order + PAGE_BITS).unwrap()
    }

    /// Some region of RAM, or seldom of I/O, of the given size; tries for some time to find one.
    fn region(&mut self, order: u32) -> Option<PhysicalRegion> {
        if self.random.once_in(16) {
            let region = *self.random.pick(&self.io)?;
            let flexpage =
                Flexpage::physical(region.first_frame().address(), order + PAGE_BITS).ok()?;
            return region.derive(flexpage).ok();
        }
        for _ in 0..8 {
            let flexpage = self.physical_flexpage(order);
            for region in self.ram.clone() {
                match region.derive(flexpage) {
                    Ok(region) => {
                        if self.random.once_in(8) {
                            self.table.success("derive");
                        }
                        return Some(region);
                    }
                    Err(error) if self.random.once_in(64) => self.table.refusal(error),
                    Err(_) => {}
                }
            }
        }
        None
    }

    /// The same, mostly from the lower half: elsewhere large pages stay whole.
    fn region_to_change(&mut self, order: u32) -> Option<PhysicalRegion> {
        let half = self.memory.machine().ram().count() / 2;
        for _ in 0..8 {
            let region = self.region(order)?;
            if region.first_frame().number() < half || self.random.once_in(32) {
                return Some(region);
            }
        }
        None
    }

    /// A region of which all pages are normal memory of `owner`, and mostly can be mapped as one if
    /// they have the size for it; tries for some time to find one.
    fn region_of(&mut self, order: u32, owner: Owner) -> Option<PhysicalRegion> {
        for _ in 0..24 {
            let Some(region) = self.region(order) else {
                continue;
            };
            let first = region.first_frame();
            let fits = (0..region.pages()).all(|page| {
                let frame = first.checked_add(page).unwrap();
                self.memory.state().page(frame).status() == Status::Normal
                    && self.owners.get(&frame) == Some(&owner)
            });
            let level = Level::leaves::<G>().find(|level| level.frame_bits::<G>() == order);
            let is_one = level.is_none_or(|level| {
                let owner = OwnerCode::new(owner);
                self.memory.state().check_reference(level, first, owner).is_ok()
            });
            if fits && (is_one || self.random.once_in(8)) || region.kind() != RegionKind::Ram {
                return Some(region);
            }
        }
        None
    }

    fn user_address(&mut self) -> VirtualAddress {
        let end = if self.random.once_in(32) { G::USER_END * 2 } else { G::USER_END };
        // Often near the start, so that things meet.
        let end = if self.random.once_in(4) { end } else { end / 8 };
        VirtualAddress::new(self.random.below(end)).unwrap()
    }

    fn virtual_flexpage(&mut self, order: u32) -> Flexpage<Virtual> {
        let bits = order + PAGE_BITS;
        let address = self.user_address().get() >> bits << bits;
        Flexpage::<Virtual>::new(VirtualAddress::new(address).unwrap(), bits).unwrap()
    }

    fn supply(&mut self) -> TableSupply {
        let mut supply = TableSupply::default();
        let count = if self.random.once_in(4) { 0 } else { SUPPLY_LIMIT };
        for _ in 0..count {
            if let Some(page) = self.pages.pop() {
                supply.add(page).unwrap();
            }
        }
        supply
    }

    fn put_back(&mut self, mut supply: TableSupply) {
        while let Some(page) = supply.take() {
            self.pages.push(page);
        }
    }

    fn set_owner(&mut self, region: PhysicalRegion, owner: Owner) {
        for page in 0..region.pages() {
            let frame = region.first_frame().checked_add(page).unwrap();
            self.owners.insert(frame, owner);
        }
    }

    // --- Steps ---

    fn step(&mut self) {
        // The processor enters the kernel, and pays what it owes.
        let cpu = self.cpu();
        self.memory.machine_mut().set_current(cpu);
        self.memory.enter(cpu);
        self.table.success("enter");
        match self.random.below(100) {
            0..=8 => self.create_page(),
            9 => self.release_page(cpu),
            10..=11 => self.allocate_map(),
            12..=16 => self.free_map(cpu),
            17..=20 => self.attach(),
            21..=22 => self.detach(),
            23..=26 => self.load(cpu),
            27..=30 => self.reclaim(),
            31..=49 => self.add_mapping(),
            50..=57 => self.modify_mapping(cpu),
            58..=61 => self.split_mapping(cpu),
            62..=68 => self.remove_mapping(cpu),
            69..=71 => self.read_mapping(),
            72..=74 => self.add_kernel_mapping(cpu),
            75..=77 => self.remove_kernel_mapping(cpu),
            78..=82 => self.use_kernel_mapping(),
            83..=84 => self.assign(),
            85..=86 => self.release(cpu),
            87..=90 => self.share(),
            91..=93 => self.end_share(),
            94..=96 => self.saturated(cpu),
            97..=98 => self.construct(),
            _ => self.boot_again(),
        }
        self.run_programs();
    }

    fn create_page(&mut self) {
        if self.pages.len() > 6 {
            return;
        }
        if self.maps.is_empty() && !self.pages.is_empty() {
            return self.allocate_map();
        }
        let order = if self.random.once_in(8) { self.order() } else { 0 };
        let Some(region) = self.region_to_change(order) else {
            return;
        };
        let before = self.snapshot();
        let result = self.memory.create_page_map_page(region);
        if let Some(page) = self.note("create_page_map_page", &before, result) {
            self.pages.push(page);
        }
    }

    fn release_page(&mut self, cpu: CurrentCpu) {
        while let Some(page) = self.random.take(&mut self.pages) {
            let region = self.memory.release_page_map_page(cpu, page);
            assert_eq!(region.pages(), 1);
            self.table.success("release_page_map_page");
            if self.pages.len() < 7 {
                break;
            }
        }
    }

    fn allocate_map(&mut self) {
        if self.maps.len() >= 3 {
            return;
        }
        let Some(page) = self.random.take(&mut self.pages) else {
            return;
        };
        let before = self.snapshot();
        match self.memory.allocate_page_map(page) {
            Ok(map) => {
                self.table.success("allocate_page_map");
                self.maps.push(map);
            }
            Err(refused) => {
                self.note::<()>("allocate_page_map", &before, Err(refused.error));
                self.pages.push(refused.handle);
            }
        }
    }

    fn free_map(&mut self, cpu: CurrentCpu) {
        if self.maps.len() < 3 && !self.random.once_in(4) {
            return;
        }
        let Some(mut map) = self.random.take(&mut self.maps) else {
            return;
        };
        let root = map.root();
        if self.random.once_in(2) {
            for held in std::mem::take(&mut self.uses) {
                if held.root() == root {
                    self.memory.detach(held);
                } else {
                    self.uses.push(held);
                }
            }
        }
        // All of it is removed first, or some, or nothing.
        let often = 1 + self.random.below(64);
        let mut next = 0;
        while !self.random.once_in(often) {
            let at = VirtualAddress::new(next).unwrap();
            match self.memory.read_mapping(&map, at) {
                Ok(info) => {
                    let removed = self.memory.remove_mapping(cpu, &mut map, at).unwrap();
                    self.draining.extend(removed.tables);
                    next = info.address.get() + (1 << info.bits);
                }
                Err(u64::MAX) => break,
                Err(hole) => next = hole,
            }
        }
        let before = self.snapshot();
        match self.memory.free_page_map(cpu, map) {
            Ok(page) => {
                self.table.success("free_page_map");
                self.pages.push(page);
            }
            Err(refused) => {
                self.note::<()>("free_page_map", &before, Err(refused.error));
                self.maps.push(refused.handle);
            }
        }
    }

    fn attach(&mut self) {
        if self.uses.len() >= 6 {
            return;
        }
        if let Some(map) = self.random.pick(&self.maps) {
            let held = self.memory.attach(map).unwrap();
            self.uses.push(held);
            self.table.success("attach");
        }
    }

    fn detach(&mut self) {
        // Not the one that is loaded, at times, so that page maps stay in use.
        if let Some(held) = self.random.take(&mut self.uses) {
            self.memory.detach(held);
            self.table.success("detach");
        }
    }

    fn load(&mut self, cpu: CurrentCpu) {
        if self.random.once_in(6) {
            self.memory.load_reference(cpu);
            self.table.success("load_reference");
        } else if let Some(held) = self.random.pick(&self.uses) {
            self.memory.load(cpu, held);
            self.table.success("load");
        }
    }

    fn reclaim(&mut self) {
        let Some(page) = self.random.take(&mut self.draining) else {
            return;
        };
        let before = self.snapshot();
        match self.memory.reclaim(page) {
            Ok(page) => {
                self.table.success("reclaim");
                self.pages.push(page);
            }
            Err(refused) => {
                assert!(self.memory.owing_cpus().next().is_some());
                self.note::<()>("reclaim", &before, Err(refused.error));
                self.draining.push(refused.handle);
            }
        }
    }

    fn add_mapping(&mut self) {
        let Some(mut map) = self.random.take(&mut self.maps) else {
            return;
        };
        let mut supply = self.supply();
        let rights = self.random.rights();
        if let Some((region, share)) = self.what_to_map(&map) {
            let order = region.bits() - PAGE_BITS;
            let to = match self.random.below(64) {
                0 => self.user_address(),
                _ => self.virtual_flexpage(order).start(),
            };
            let share = share.map(|index| &self.shares[index]);
            let before = self.random.once_in(16).then(|| self.memory.clone());
            let name = match (share.is_some(), region.kind(), order) {
                (true, _, _) => "add_mapping, shared",
                (_, RegionKind::Io(_), _) => "add_mapping, device",
                (_, _, 0) => "add_mapping, one page",
                _ => "add_mapping, large",
            };
            let result = self.memory.add_mapping(&mut map, to, region, rights, share, &mut supply);
            if self.note(name, &before, result).is_some() {
                let info = self.memory.read_mapping(&map, to).unwrap();
                let memory_type = region.kind().memory_type();
                let foreign = name == "add_mapping, shared";
                assert_eq!(info.attributes, Attributes { rights, memory_type, foreign });
                assert_eq!((info.address, info.frame), (to, region.first_frame()));
                assert_eq!(info.bits, region.bits());
            }
        }
        self.maps.push(map);
        self.put_back(supply);
    }

    /// A region for a page map, and a share if it is to be used.
    fn what_to_map(&mut self, map: &PageMap) -> Option<(PhysicalRegion, Option<usize>)> {
        let wanted: Vec<usize> = (0..self.shares.len())
            .filter(|index| self.shares[*index].grantee() == map.owner())
            .collect();
        if !wanted.is_empty() && self.random.once_in(2) || self.random.once_in(16) {
            let any = self.random.once_in(6) && !self.shares.is_empty();
            let index = if any {
                usize::try_from(self.random.below(self.shares.len() as u64)).unwrap()
            } else {
                *self.random.pick(&wanted)?
            };
            let shared = self.shares[index].region();
            let region = match self.random.below(8) {
                0 => {
                    let order = self.page_order();
                    self.region(order)?
                }
                1 | 2 => {
                    let flexpage = Flexpage::physical(shared.first_frame().address(), PAGE_BITS);
                    shared.derive(flexpage.unwrap()).unwrap()
                }
                _ => shared,
            };
            return Some((region, Some(index)));
        }
        let order = self.page_order();
        let region = if self.random.once_in(16) {
            self.region(order)?
        } else {
            self.region_of(order, map.owner())?
        };
        // Frames without memory are for kernel mappings that are refused.
        (region.first_frame().number() < 1 << 20).then_some((region, None))
    }

    /// An address, often where something is mapped: something that `is_wanted`, where there is.
    fn mapped_address(
        &mut self,
        map: &PageMap,
        is_wanted: impl Fn(&MappingInfo) -> bool,
    ) -> VirtualAddress {
        let start = self.user_address();
        if self.random.once_in(8) {
            return start;
        }
        let any = self.random.once_in(6);
        let mut next = if any { start.get() } else { 0 };
        for _ in 0..40 {
            match self.memory.read_mapping(map, VirtualAddress::new(next).unwrap()) {
                Ok(info) if any || is_wanted(&info) && !self.random.once_in(4) => {
                    let offset = self.random.below(1 << info.bits);
                    return info.address.checked_add(offset).unwrap();
                }
                Ok(info) => next = info.address.get() + (1 << info.bits),
                Err(u64::MAX) => break,
                Err(hole) => next = hole,
            }
        }
        start
    }

    fn modify_mapping(&mut self, cpu: CurrentCpu) {
        let Some(mut map) = self.random.take(&mut self.maps) else {
            return;
        };
        let at = self.mapped_address(&map, |info| {
            info.attributes.foreign && info.attributes.rights != Rights::ReadWriteExecute
        });
        let change = if self.random.once_in(3) {
            Change::ResetUsage
        } else {
            let all = self.random.once_in(2);
            let rights = self.random.rights();
            Change::Rights(if all { Rights::ReadWriteExecute } else { rights })
        };
        self.cache_everything();
        let before = self.snapshot();
        let expected = self.memory.read_mapping(&map, at).ok();
        let result = self.memory.modify_mapping(cpu, &mut map, at, change);
        if let Some(changed) = self.note("modify_mapping", &before, result) {
            let old = changed.mapping;
            assert_eq!(Some(old), expected);
            let new = self.memory.read_mapping(&map, at).unwrap();
            let rights = match change {
                Change::Rights(rights) => rights,
                Change::ResetUsage => old.attributes.rights,
            };
            let attributes = Attributes { rights, ..old.attributes };
            let (accessed, dirty) = match change {
                Change::Rights(_) => (old.accessed, old.dirty),
                Change::ResetUsage => (false, false),
            };
            assert_eq!(new, MappingInfo { attributes, accessed, dirty, ..old });
            self.use_stale(at);
        }
        self.maps.push(map);
    }

    fn split_mapping(&mut self, cpu: CurrentCpu) {
        let Some(mut map) = self.random.take(&mut self.maps) else {
            return;
        };
        let mut supply = self.supply();
        let at = self.mapped_address(&map, |info| info.bits > PAGE_BITS);
        self.cache_everything();
        let before = self.snapshot();
        let old = self.memory.read_mapping(&map, at).ok();
        let result = self.memory.split_mapping(cpu, &mut map, at, &mut supply);
        if self.note("split_mapping", &before, result).is_some() {
            let old = old.unwrap();
            let (level, bits) = (old.level.lower(), old.bits - G::INDEX_BITS);
            for part in 0..G::ENTRIES as u64 {
                let address = old.address.checked_add(part << bits).unwrap();
                let frame = old.frame.checked_add(part << (bits - PAGE_BITS)).unwrap();
                let expected = MappingInfo { address, bits, level, frame, ..old };
                assert_eq!(self.memory.read_mapping(&map, address), Ok(expected));
            }
            self.use_stale(at);
        }
        self.maps.push(map);
        self.put_back(supply);
    }

    fn remove_mapping(&mut self, cpu: CurrentCpu) {
        let Some(mut map) = self.random.take(&mut self.maps) else {
            return;
        };
        // One, or a few.
        loop {
            let at = self.mapped_address(&map, |_| true);
            self.cache_everything();
            let before = self.snapshot();
            let expected = self.memory.read_mapping(&map, at);
            let result = self.memory.remove_mapping(cpu, &mut map, at);
            let name = match expected {
                Ok(info) if info.bits > PAGE_BITS => "remove_mapping, large",
                _ => "remove_mapping, one page",
            };
            if let Some(removed) = self.note(name, &before, result) {
                assert_eq!(Ok(removed.mapping), expected);
                assert!(self.memory.read_mapping(&map, at).is_err());
                self.draining.extend(removed.tables);
                self.use_stale(at);
            }
            if self.random.once_in(4) {
                self.reclaim();
            }
            if self.random.once_in(2) {
                break;
            }
        }
        self.maps.push(map);
    }

    fn read_mapping(&mut self) {
        let address = self.user_address();
        let Some(map) = self.random.pick(&self.maps) else {
            return;
        };
        let machine = self.memory.machine();
        let found = self.memory.read_mapping(map, address);
        let expected = if address.get() < G::USER_END {
            machine.translation(map.root(), address)
        } else {
            None
        };
        match (found, expected) {
            (Ok(found), Some(expected)) => {
                let page = address.get() >> PAGE_BITS;
                let first = found.address.get() >> PAGE_BITS;
                assert_eq!(
                    found.frame.checked_add(page - first),
                    expected.frame.checked_add(page - expected.page)
                );
                assert_eq!(found.attributes.rights, expected.allowed.rights());
                assert!(expected.allowed.user);
                self.table.success("read_mapping");
            }
            (Err(hole), None) => {
                // Nothing up to there, and then perhaps something.
                let mut next = address.page_start().get();
                while next < hole.min(G::USER_END) {
                    let at = VirtualAddress::new(next).unwrap();
                    assert_eq!(machine.translation(map.root(), at), None);
                    next += 1 << PAGE_BITS;
                }
                assert_eq!(hole == u64::MAX, address.get() >= G::USER_END);
                self.table.success("read_mapping, nothing");
            }
            other => panic!("{address}: {other:?}"),
        }
    }

    fn add_kernel_mapping(&mut self, cpu: CurrentCpu) {
        let order = self.order();
        let region = match self.random.below(12) {
            0..=1 => self.region(order),
            2 => self.io.last().copied(),
            _ => self.region_of(order, Owner::Domain(DomainId::ZERO)),
        };
        let Some(region) = region else { return };
        let (rights, visible) = (self.random.rights(), self.random.once_in(2));
        let before = self.snapshot();
        let shares = self.shares.iter().filter(|share| share.grantee() == Owner::Hypervisor);
        let shares: Vec<_> = shares.collect();
        if !self.random.once_in(3)
            && let Some(share) = self.random.pick(&shares)
        {
            let result =
                self.memory.add_kernel_mapping(cpu, share.region(), rights, visible, Some(share));
            if let Some(mapping) = self.note("add_kernel_mapping, shared", &before, result) {
                self.kernel.push(mapping);
            }
            return;
        }
        if self.kernel.len() > 4 {
            return;
        }
        let result = self.memory.add_kernel_mapping(cpu, region, rights, visible, None);
        if let Some(mapping) = self.note("add_kernel_mapping", &before, result) {
            self.kernel.push(mapping);
        }
    }

    fn remove_kernel_mapping(&mut self, cpu: CurrentCpu) {
        if let Some(mapping) = self.random.take(&mut self.kernel) {
            let region = mapping.region();
            let (back, _) = self.memory.remove_kernel_mapping(cpu, mapping);
            assert_eq!(back, region);
            self.table.success("remove_kernel_mapping");
        }
    }

    fn use_kernel_mapping(&mut self) {
        let (Some(mapping), Some(other)) =
            (self.random.pick(&self.kernel), self.random.pick(&self.kernel))
        else {
            return;
        };
        let kind = self.random.below(6);
        let size = mapping.size() as u64;
        let size = if self.random.once_in(4) { size * 2 } else { size };
        let offset = usize::try_from(self.random.below(size + 64)).unwrap();
        let count = usize::try_from(self.random.below(64)).unwrap();
        let value = self.random.next();
        let memory = &mut self.memory;
        let (name, result) = match kind {
            0 => {
                let word = mapping.word_at(Offset::new(offset % 512).unwrap());
                let result = memory.write_word(word, value);
                if result.is_ok() {
                    assert_eq!(memory.read_word(word), value);
                    self.table.success("read_word, by offset");
                }
                ("write_word, by offset", result)
            }
            1 => {
                let result = mapping.word(offset / 8).and_then(|word| {
                    memory.write_word(word, value)?;
                    assert_eq!(memory.read_word(word), value);
                    self.table.success("read_word");
                    Ok(())
                });
                ("write_word", result)
            }
            2 => {
                let bytes = std::vec![7_u8; count];
                let result = memory.write_bytes(mapping, offset, &bytes).and_then(|()| {
                    let mut back = std::vec![0; count];
                    memory.read_bytes(mapping, offset, &mut back)?;
                    assert_eq!(back, bytes);
                    self.table.success("read_bytes");
                    Ok(())
                });
                ("write_bytes", result)
            }
            3 => ("copy", memory.copy((mapping, offset), (other, offset / 2), count)),
            4 => ("fill", memory.fill(mapping, offset, count, 9)),
            _ => ("clear", memory.clear(mapping)),
        };
        self.note(name, &None, result);
    }

    fn assign(&mut self) {
        let order = self.order();
        let region = if self.random.once_in(8) {
            self.region(order)
        } else {
            self.region_of(order, Owner::Nobody)
        };
        let Some(region) = region else { return };
        let domain = self.domain();
        let before = self.snapshot();
        let result = self.memory.assign(region, domain);
        if self.note("assign", &before, result).is_some() {
            self.set_owner(region, Owner::Domain(domain));
        }
    }

    fn release(&mut self, cpu: CurrentCpu) {
        let order = self.order();
        let Some(region) = self.region_to_change(order) else {
            return;
        };
        let from = match self.memory.owner(region) {
            Owner::Domain(domain) if !self.random.once_in(16) => domain,
            _ => self.domain(),
        };
        let before = self.snapshot();
        let result = self.memory.release(cpu, region, from);
        if self.note("release", &before, result).is_some() {
            self.set_owner(region, Owner::Nobody);
        }
    }

    fn share(&mut self) {
        if self.shares.len() >= 6 {
            return;
        }
        let order = self.page_order();
        let domain = self.domain();
        let region = if self.random.once_in(4) {
            self.region(order)
        } else {
            self.region_of(order, Owner::Domain(domain))
        };
        let Some(region) = region else { return };
        let owner = match self.memory.owner(region) {
            Owner::Domain(domain) if !self.random.once_in(16) => domain,
            _ => self.domain(),
        };
        let grantee = match self.random.below(8) {
            0 => Owner::Nobody,
            1..=3 => Owner::Hypervisor,
            _ => match self.random.pick(&self.maps) {
                Some(map) => map.owner(),
                None => Owner::Domain(self.domain()),
            },
        };
        let rights = self.random.rights();
        let before = self.snapshot();
        let result = self.memory.share(region, owner, grantee, rights);
        if let Some(share) = self.note("share", &before, result) {
            self.shares.push(share);
        }
    }

    fn end_share(&mut self) {
        if let Some(share) = self.random.take(&mut self.shares) {
            self.memory.end_share(share);
            self.table.success("end_share");
        }
    }

    /// Counts that are full, which no test has the time to reach.
    fn saturated(&mut self, cpu: CurrentCpu) {
        if let Some(map) = self.random.pick(&self.maps)
            && self.random.once_in(4)
        {
            let (root, full) = (map.root(), Record::COUNT_LIMIT);
            let uses = self.memory.state.pretend_count(Level::FIRST, root, full);
            let error = self.memory.attach(map).unwrap_err();
            self.memory.state.pretend_count(Level::FIRST, root, uses);
            assert_eq!(error, Error::TooManyUses);
            self.table.refusal(error);
            return;
        }
        let order = self.page_order();
        let Some(region) = self.region(order).filter(|region| region.kind() == RegionKind::Ram)
        else {
            return;
        };
        let largest = self.memory.page_bits(u32::MAX);
        let mut levels = Level::leaves::<G>();
        let Some(level) = levels.find(|level| level.bits::<G>() == region.bits()) else {
            return;
        };
        let first = region.first_frame();
        let record = self.memory.state.record(level, first);
        let Some(Owner::Domain(owner)) = record.owner().owner() else {
            return;
        };
        if record.status() != Status::Normal || region.bits() > largest {
            return;
        }
        let count = self.memory.state.pretend_count(level, first, Record::COUNT_LIMIT);
        let result = if order == 0 && owner == DomainId::ZERO && self.random.once_in(2) {
            self.memory.add_kernel_mapping(cpu, region, Rights::Read, false, None).map(|_| ())
        } else {
            self.memory.share(region, owner, Owner::Hypervisor, Rights::Read).map(|_| ())
        };
        self.memory.state.pretend_count(level, first, count);
        assert_eq!(result, Err(Error::TooManyReferences { frame: first }));
        self.table.refusal(result.unwrap_err());
    }

    fn construct(&mut self) {
        let bits = u32::try_from(self.random.below(64)).unwrap();
        let number = self.random.next() << self.random.below(40) & ((1 << 47) - 1);
        let start = VirtualAddress::new(number).unwrap();
        match Flexpage::<Virtual>::new(start, bits) {
            Ok(flexpage) => {
                assert_eq!(flexpage.start(), start);
                self.table.success("Flexpage::new");
            }
            Err(error) => self.table.refusal(error),
        }
        let pages = self.random.next() >> self.random.below(64);
        match VirtualRange::new(start, pages) {
            Ok(range) => {
                assert_eq!(range.pages(), pages);
                self.table.success("VirtualRange::new");
            }
            Err(error) => self.table.refusal(error),
        }
        let flexpage = self.physical_flexpage(0);
        if let Some(region) = self.random.pick(&self.ram)
            && let Err(error) = region.derive(flexpage)
        {
            self.table.refusal(error);
        }
    }

    /// Boots with memory that is laid out wrongly.
    fn boot_again(&mut self) {
        if G::LEVELS == 2 {
            return;
        }
        let (machine, mut layout) = machine::<G>(SMALL, 1, 1);
        let error = match self.random.below(5) {
            0 => {
                // Two ranges overlap.
                layout.modules.push(range(3, 5));
                Memory::simulated(machine, layout).unwrap_err()
            }
            1 => {
                // One is not within memory.
                layout.modules.push(range(SMALL + 1, SMALL + 2));
                layout.io.clear();
                Memory::simulated(machine, layout).unwrap_err()
            }
            kind => {
                // Too few records, of pages or of larger units, or of processors.
                let full = Memory::simulated(machine.clone(), layout.clone()).unwrap();
                let (mut units, mut cpus) = (full.state.units, full.state.cpus);
                let wrong = if G::LEAF_LEVELS > 1 && kind == 3 { 1 } else { 0 };
                if kind == 2 {
                    cpus.clear();
                } else {
                    units[wrong].pop();
                }
                match Memory::new(machine, units, cpus, layout) {
                    Err(error) => error,
                    // One page less is another range that is not within memory.
                    Ok(_) => panic!("too few records"),
                }
            }
        };
        self.table.refusal(error);
    }

    /// Now and then all processors cache all that they find.
    fn cache_everything(&mut self) {
        if self.random.once_in(4) {
            for cpu in 0..self.memory.machine().processors() {
                self.memory.machine_mut().prefetch(CpuIndex::new(cpu).unwrap());
            }
        }
    }

    /// A program on some processor goes on using an address.
    fn use_stale(&mut self, address: VirtualAddress) {
        let cpu = self.cpu().index();
        let kinds = AccessKind::ALL;
        let access = Access::user(*self.random.pick(&kinds).unwrap());
        // A fault is as good.
        let _ = self.memory.machine_mut().access(cpu, address, access);
    }

    /// Programs run on all processors, and these cache what they find.
    fn run_programs(&mut self) {
        for _ in 0..self.random.below(4) {
            let cpu = self.cpu().index();
            let address = if self.random.once_in(8)
                && let Some(mapping) = self.random.pick(&self.kernel)
            {
                mapping.address()
            } else {
                self.user_address()
            };
            let kinds = AccessKind::ALL;
            let kind = *self.random.pick(&kinds).unwrap();
            // A fault is as good.
            let _ = self.memory.machine_mut().access(cpu, address, Access::user(kind));
        }
        if self.random.once_in(16) {
            let cpu = self.cpu().index();
            self.memory.machine_mut().prefetch(cpu);
        }
        for violation in self.memory.machine_mut().take_violations() {
            let frame = violation.stale_use_of().unwrap();
            assert!(audit::may_be_stale(&self.memory, frame), "{violation}");
            self.table.success("stale use while draining");
        }
    }
}

/// A machine of 12 frames, without I/O.
fn tiny<G: Geometry>() -> (Simulated<G>, Layout) {
    let machine = Simulated::<G>::builder(12)
        .processors(2)
        .strictness(Strictness::PanicUnlessStale)
        .build()
        .unwrap();
    let layout = machine.boot_layout();
    (machine, layout)
}

fn run<G: Geometry>(total: &mut Table, it: (Simulated<G>, Layout), steps: u64, seed: u64) {
    let (machine, layout) = it;
    let mut client = Client::<G>::new(machine, layout, seed);
    for step in 0..steps {
        client.step();
        if step % 8 == 0 {
            client.audit();
        }
    }
    client.audit();
    for (name, count) in client.table.successes {
        *total.successes.entry(name).or_default() += count;
    }
    for (name, count) in client.table.refusals {
        *total.refusals.entry(name).or_default() += count;
    }
}

/// Every reason of refusal. (The enum does not list its variants; a new one belongs here.)
const REASONS: [&str; 31] = [
    "AlreadyMapped",
    "BadLayout",
    "BadRange",
    "BadSize",
    "BadStorage",
    "BeyondShare",
    "Draining",
    "InUse",
    "Misaligned",
    "NoWindow",
    "NotEmpty",
    "NotGrantee",
    "NotLarge",
    "NotMapped",
    "NotOnePage",
    "NotOwner",
    "NotRam",
    "NotUser",
    "OutOfBounds",
    "OutsideRegion",
    "OutsideShare",
    "PageMapLoaded",
    "PageMapUsed",
    "ReadOnly",
    "TablesNeeded",
    "TooLong",
    "TooManyReferences",
    "TooManyUses",
    "Upgrade",
    "WindowTaken",
    "WrongStatus",
];

/// Every operation, the larger ones by kind.
const OPERATIONS: [&str; 40] = [
    "Flexpage::new",
    "VirtualRange::new",
    "add_kernel_mapping",
    "add_kernel_mapping, shared",
    "add_mapping, device",
    "add_mapping, large",
    "add_mapping, one page",
    "add_mapping, shared",
    "allocate_page_map",
    "assign",
    "attach",
    "clear",
    "copy",
    "create_page_map_page",
    "derive",
    "detach",
    "end_share",
    "enter",
    "fill",
    "free_page_map",
    "load",
    "load_reference",
    "modify_mapping",
    "read_bytes",
    "read_mapping",
    "read_mapping, nothing",
    "read_word",
    "read_word, by offset",
    "reclaim",
    "release",
    "release_page_map_page",
    "remove_kernel_mapping",
    "remove_mapping, large",
    "remove_mapping, one page",
    "share",
    "split_mapping",
    "stale use while draining",
    "write_bytes",
    "write_word",
    "write_word, by offset",
];

#[test]
fn random_runs_keep_all_invariants() {
    let steps: u64 = std::env::var("HELIOX_RANDOM_STEPS")
        .ok()
        .and_then(|steps| steps.parse().ok())
        .unwrap_or(1_000_000);
    let mut table = Table::default();
    for seed in 1..=4 {
        run::<FourByFour>(&mut table, machine(112, 3, 3), steps / 16, seed);
        run::<FourByFour>(&mut table, machine(112, 2, 1), steps / 16, seed);
        run::<ThreeByFour>(&mut table, machine(26, 1, 2), steps / 16, seed);
        run::<FourByFour>(&mut table, machine(100, 3, 2), steps / 16, seed);
        run::<TwoByFour>(&mut table, tiny(), steps / 128, seed);
        run::<NarrowTwoByFour>(&mut table, tiny(), steps / 128, seed);
    }
    let mut out = String::new();
    for (name, count) in &table.successes {
        out += &format!("{count:>9}  {name}\n");
    }
    for (name, count) in &table.refusals {
        out += &format!("{count:>9}  refused: {name}\n");
    }
    println!("{out}");
    // Short runs cannot tell.
    let least = steps / 1000;
    if least < 1000 {
        return;
    }
    for name in REASONS {
        let count = table.refusals.get(name).copied().unwrap_or(0);
        assert!(count >= least, "refused as {name} only {count} times");
    }
    for name in OPERATIONS {
        let count = table.successes.get(name).copied().unwrap_or(0);
        assert!(count >= least, "{name} succeeded only {count} times");
    }
}
