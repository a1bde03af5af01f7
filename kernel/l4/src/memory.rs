//! Memory of address spaces: mapping, granting, revoking (thesis, section 7.3).
//!
//! What the tables say and what the mapping database says agree: each mapping of memory that programs
//! made is a node, and each node a mapping (the kernel interface page, UTCBs, and what sigma0
//! has by itself are no nodes). Rights never grow along a chain: a mapping has at most those of the
//! one that it was derived from.
//!
//! Sigma0 has all memory that the kernel holds regions for, each page at its physical address, whether
//! it has touched it or not; its mappings descend from the root of the database.
//!
//! All operations work on *units*, pages of the machine's sizes, and go through a range in bounded
//! steps: they answer how far they came.

use heliox_abi::Flexpage;
use heliox_hal::flexpage::Flexpage as Range;
use heliox_hal::memory::Paging;
use heliox_hal::memory::UserMemory;
use heliox_hal::page_map::{PageMapPage, SUPPLY_LIMIT};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_types::mapping::{Change, MappingInfo};
use heliox_types::{PAGE_BITS, PhysicalAddress, USER_END, VirtualAddress};

use crate::database::{Mapping, NodeId};
use crate::kernel::{Kernel, Machine, Surroundings};
use crate::planted::{Fault, is_planted};
use crate::space::SIGMA0;

/// Log2 of the sizes of pages, smallest first.
pub(crate) const PAGE_SIZES: &[u8] = &[12, 21, 30];

/// What is noted about a mapping of memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryNote {
    /// The authority over the memory.
    pub(crate) region: Option<PhysicalRegion>,
    /// The rights, as in a flexpage.
    pub(crate) rights: u8,
    /// How it was used, and those that were derived from it and are gone, as far as the tables do not
    /// say it any more: as rights.
    pub(crate) used: u8,
    /// The last revocation that dealt with it.
    pub(crate) mark: u32,
}

/// Units that a step deals with, at most.
const STEP: u32 = 64;

/// The rights of a flexpage, as the machine has them; `None` for none at all.
pub(crate) fn rights_of(bits: u64) -> Option<Rights> {
    match (bits & Flexpage::WRITE != 0, bits & Flexpage::EXECUTE != 0) {
        (true, true) => Some(Rights::ReadWriteExecute),
        (true, false) => Some(Rights::ReadWrite),
        (false, true) => Some(Rights::ReadExecute),
        (false, false) if bits & Flexpage::READ != 0 => Some(Rights::Read),
        _ => None,
    }
}

/// The rights as a flexpage has them.
pub(crate) fn bits_of(rights: Rights) -> u64 {
    let write = if rights.allows_write() { Flexpage::WRITE } else { 0 };
    let execute = if rights.allows_execute() { Flexpage::EXECUTE } else { 0 };
    Flexpage::READ | write | execute
}

/// A unit of a space's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// The node; the root for sigma0's own memory.
    pub(crate) node: NodeId,
    /// First address in the space.
    pub(crate) address: u64,
    /// Physical address.
    pub(crate) object: u64,
    /// Log2 of the size.
    pub(crate) bits: u8,
    /// Rights, as in a flexpage.
    pub(crate) rights: u64,
    pub(crate) region: PhysicalRegion,
}

/// What is at an address of a space.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// This unit.
    Unit(Unit),
    /// Nothing that belongs to programs, up to this address.
    Hole(u64),
}

/// A range of addresses in a space, a power of two long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) base: u64,
    pub(crate) bits: u32,
}

impl Span {
    /// All of an address space.
    pub(crate) const COMPLETE: Self = Self { base: 0, bits: 48 };

    pub(crate) fn end(self) -> u64 {
        self.base.saturating_add(1 << self.bits.min(63)).min(USER_END)
    }
}

/// How an operation on a range ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it is done.
    Done,
    /// So many bytes are done, from its beginning on.
    Until(u64),
    /// The kernel has no memory left; the rest is not done.
    NoMemory,
}

/// Log2 of the size of a mapping.
pub(crate) fn bits_of_level(info: &MappingInfo) -> u8 {
    // Levels are 1 to 3.
    (PAGE_BITS + 9 * (info.level.number() - 1)) as u8
}

pub(crate) fn used_bits(info: &MappingInfo) -> u8 {
    let mut used = 0;
    if info.accessed {
        used |= Flexpage::READ;
        if info.attributes.rights.allows_execute() {
            used |= Flexpage::EXECUTE;
        }
    }
    if info.dirty {
        used |= Flexpage::WRITE;
    }
    // Three bits.
    used as u8
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// What is at `address` of a space, in constant time.
    pub(crate) fn place(&mut self, space: u32, address: u64) -> Place {
        if space == SIGMA0 {
            return self.sigma0_place(address);
        }
        let Some(tables) = &self.spaces.at(space).tables else { return Place::Hole(USER_END) };
        let start = VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO);
        match self.machine.memory().find_mapping(tables, start) {
            Ok(info) => self.unit_of(space, &info),
            Err(bits) if bits < 64 => Place::Hole(((address >> bits) + 1) << bits),
            Err(_) => Place::Hole(USER_END),
        }
    }

    /// What is at `address` of a space; a hole is as large as the tables easily tell.
    pub(crate) fn place_or_next(&mut self, space: u32, address: u64) -> Place {
        if space == SIGMA0 {
            return self.sigma0_place(address);
        }
        let Some(tables) = &self.spaces.at(space).tables else { return Place::Hole(USER_END) };
        let start = VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO);
        match self.machine.memory().read_mapping(tables, start) {
            Ok(info) => self.unit_of(space, &info),
            Err(hole) => Place::Hole(hole),
        }
    }

    /// A mapping in the tables of a space, with its node.
    fn unit_of(&self, space: u32, info: &MappingInfo) -> Place {
        let (base, bits) = (info.address.get(), bits_of_level(info));
        let node = self.mappings.find_sized(space, base, bits);
        let region = node.and_then(|node| self.mappings.get(node)?.payload.region);
        match (node, region) {
            (Some(node), Some(region)) => Place::Unit(Unit {
                node,
                address: base,
                object: info.frame.address().get(),
                bits,
                rights: bits_of(info.attributes.rights),
                region,
            }),
            _ => Place::Hole(base + (1 << bits)),
        }
    }

    /// Whether nothing is mapped in the `1 << bits` bytes around `address`.
    fn is_empty(&mut self, space: u32, address: u64, bits: u8) -> bool {
        let Some(tables) = &self.spaces.at(space).tables else { return true };
        let Some(start) = VirtualAddress::new(address) else { return true };
        let found = self.machine.memory().find_mapping(tables, start);
        found.is_err_and(|hole| hole >= u32::from(bits))
    }

    /// The memory at a physical address, as sigma0 has it: in the largest unit that is all its.
    pub(crate) fn sigma0_place(&mut self, address: u64) -> Place {
        let after = self.regions.partition_point(|region| first_address(region) <= address);
        let region = after.checked_sub(1).and_then(|index| self.regions.get(index)).copied();
        if let Some(region) = region
            && address - first_address(&region) < 1 << region.bits()
        {
            // The size of a page: at most 30.
            let bits = self.machine.memory_view().page_bits(region.bits()) as u8;
            let object = address >> bits << bits;
            let unit = Unit {
                node: NodeId::ROOT,
                address: object,
                object,
                bits,
                rights: Flexpage::ALL,
                region,
            };
            return Place::Unit(unit);
        }
        Place::Hole(self.regions.get(after).map_or(USER_END, first_address))
    }

    /// Fills the supply of pages for tables, as far as there are pages.
    pub(crate) fn fill_supply(&mut self) {
        while self.supply.count() < SUPPLY_LIMIT {
            let Some(region) = self.surroundings.take_page() else { return };
            match self.machine.memory().create_page_map_page(region) {
                Ok(page) => self.keep_table(page),
                Err(_) => return self.surroundings.give_back(region),
            }
        }
    }

    /// Keeps a page for tables, or gives it back if there are enough.
    pub(crate) fn keep_table(&mut self, page: PageMapPage) {
        if let Err(page) = self.supply.add(page) {
            let cpu = self.machine.cpu();
            let region = self.machine.memory().release_page_map_page(cpu, page);
            self.surroundings.give_back(region);
        }
    }

    /// Maps `region`, a page of some size, at `address` of a space. Notes nothing in the database.
    pub(crate) fn add_to_tables(
        &mut self,
        space: u32,
        address: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> bool {
        self.fill_supply();
        let Some(tables) = &mut self.spaces.at_mut(space).tables else { return false };
        let to = VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO);
        let memory = self.machine.memory();
        memory.add_mapping(tables, to, region, rights, None, &mut self.supply).is_ok()
    }

    /// Removes the page at `address` of a space, whatever its size. Notes nothing in the database.
    pub(crate) fn remove_from_tables(&mut self, space: u32, address: u64) -> Option<MappingInfo> {
        let cpu = self.machine.cpu();
        let tables = self.spaces.at_mut(space).tables.as_mut()?;
        let at = VirtualAddress::new(address)?;
        let removed = self.machine.memory().remove_mapping(cpu, tables, at).ok()?;
        for table in removed.tables {
            // With one processor nothing drains.
            if let Ok(page) = self.machine.memory().reclaim(table) {
                self.keep_table(page);
            }
        }
        Some(removed.mapping)
    }

    /// Changes the page at `address` of a space; how it was used until then.
    pub(crate) fn change_in_tables(&mut self, space: u32, address: u64, change: Change) -> u8 {
        let cpu = self.machine.cpu();
        let Some(tables) = &mut self.spaces.at_mut(space).tables else { return 0 };
        let Some(at) = VirtualAddress::new(address) else { return 0 };
        let changed = self.machine.memory().modify_mapping(cpu, tables, at, change);
        changed.map_or(0, |changed| used_bits(&changed.mapping))
    }

    // --- Mapping ---

    /// Maps part of a unit, `1 << bits` bytes at `from`, at `to` of another space, with `rights` as far as
    /// the unit has them; with `grant` the unit's space loses it.
    ///
    /// Answers `false` if the kernel has no memory left.
    fn map_part(
        &mut self,
        unit: Unit,
        (from_space, from): (u32, u64),
        (to_space, to): (u32, u64),
        bits: u8,
        rights: u64,
        grant: bool,
    ) -> bool {
        let object = unit.object + (from - unit.address);
        let held = if is_planted(Fault::RightsNotMasked) { Flexpage::ALL } else { unit.rights };
        let rights = rights & held;
        let Some(asked) = rights_of(rights) else { return true };
        if to >= USER_END || self.spaces.at(to_space).is_kept_free(to, u32::from(bits)) {
            return true;
        }
        if to_space == SIGMA0 {
            // It has all memory already.
            return true;
        }
        let is_empty = self.is_empty(to_space, to, bits);
        // The same memory at the same place from the same mapping: only rights are added.
        if !is_empty
            && let Some(node) = self.mappings.find_sized(to_space, to, bits)
            && let Some(found) = self.mappings.get(node)
            && found.object == object
            && self.mappings.parent(node) == Some(unit.node)
            && let Place::Unit(present) = self.place(to_space, to)
        {
            if let Some(all) = rights_of(present.rights | bits_of(asked))
                && bits_of(all) != present.rights
            {
                let used = self.change_in_tables(to_space, to, Change::Rights(all));
                self.note(node, |note| {
                    note.used |= used;
                    note.rights = bits_of(all) as u8;
                });
            }
            return true;
        }
        if !is_empty {
            self.clear_span(to_space, Span { base: to, bits: u32::from(bits) });
            // What was there may have been what the unit was derived from.
            match self.place(from_space, from) {
                Place::Unit(now) if now.node == unit.node && now.object == unit.object => {}
                _ => return true,
            }
        }
        let Some(region) = part_of(unit.region, object, bits) else { return true };
        let all = grant && unit.bits == bits && unit.node != NodeId::ROOT;
        if !all && self.mappings.free_nodes() == 0 {
            return false;
        }
        if !self.add_to_tables(to_space, to, region, asked) {
            return false;
        }
        if all {
            let used = match is_planted(Fault::GrantKeepsSource) {
                true => 0,
                false => {
                    let removed = self.remove_from_tables(from_space, from);
                    removed.map_or(0, |info| used_bits(&info))
                }
            };
            self.mappings.relocate(unit.node, to_space, to);
            self.spaces.at_mut(from_space).mappings -= 1;
            self.spaces.at_mut(to_space).mappings += 1;
            self.note(unit.node, |note| {
                note.used |= used;
                note.rights = bits_of(asked) as u8;
            });
            self.restrict_all_derived(unit.node, Flexpage::ALL & !bits_of(asked));
            return true;
        }
        let note =
            MemoryNote { region: Some(region), rights: bits_of(asked) as u8, ..Default::default() };
        let mapping = Mapping { space: to_space, address: to, object, bits, payload: note };
        if self.mappings.insert(unit.node, mapping).is_err() {
            let _ = self.remove_from_tables(to_space, to);
            return false;
        }
        self.spaces.at_mut(to_space).mappings += 1;
        true
    }

    /// Maps or grants what a space has in `from` to the place that begins at `to` in another, with
    /// `rights` as far as the mappings have them. `done` bytes of it are done already.
    pub(crate) fn map_span(
        &mut self,
        (from_space, from): (u32, Span),
        (to_space, to): (u32, u64),
        rights: u64,
        grant: bool,
        done: u64,
    ) -> Progress {
        let mut at = from.base.saturating_add(done);
        for _ in 0..STEP {
            if at >= from.end() {
                return Progress::Done;
            }
            let unit = match self.place_or_next(from_space, at) {
                Place::Hole(next) => {
                    at = next;
                    continue;
                }
                Place::Unit(unit) => unit,
            };
            let target = to.wrapping_add(at - from.base);
            let Some(bits) = largest_size(&[at, target], from.end() - at, unit.bits) else {
                return Progress::Done;
            };
            if grant && bits < unit.bits && unit.node != NodeId::ROOT && self.split_tree(unit.node)
            {
                // Again, with the piece.
                continue;
            }
            let done =
                self.map_part(unit, (from_space, at), (to_space, target), bits, rights, grant);
            if !done {
                return Progress::NoMemory;
            }
            at += 1 << bits;
        }
        if at >= from.end() { Progress::Done } else { Progress::Until(at - from.base) }
    }

    /// Maps a page that sigma0 touched, at its physical address.
    pub(crate) fn map_to_sigma0(&mut self, address: u64) -> bool {
        let Place::Unit(unit) = self.sigma0_place(address) else { return false };
        let spaces = self.spaces.at(SIGMA0);
        // Around its areas, in the smallest pages.
        let bits = if unit.bits > 21 { 21 } else { unit.bits };
        let bits = if spaces.is_kept_free(address, u32::from(bits)) { 12 } else { bits };
        let base = address >> bits << bits;
        if spaces.is_kept_free(base, u32::from(bits)) {
            return false;
        }
        let Some(region) = part_of(unit.region, base, bits) else { return false };
        self.add_to_tables(SIGMA0, base, region, Rights::ReadWriteExecute)
    }

    /// The memory of the page that `address` of a space lies in, with its rights, if the space has it.
    pub(crate) fn page_of(&mut self, space: u32, address: u64) -> Option<(PhysicalRegion, u64)> {
        let Place::Unit(unit) = self.place(space, address) else { return None };
        let page = unit.object + ((address - unit.address) >> 12 << 12);
        Some((part_of(unit.region, page, 12)?, unit.rights))
    }
}

/// The first physical address of a region.
fn first_address(region: &PhysicalRegion) -> u64 {
    region.first_frame().address().get()
}

/// The part of a region of `1 << bits` bytes at `object`.
pub(crate) fn part_of(region: PhysicalRegion, object: u64, bits: u8) -> Option<PhysicalRegion> {
    let start = PhysicalAddress::new(object)?;
    region.derive(Range::physical(start, u32::from(bits)).ok()?).ok()
}

/// The largest page size that all addresses are multiples of, not above `most` and not above
/// `room` bytes.
pub(crate) fn largest_size(addresses: &[u64], room: u64, most: u8) -> Option<u8> {
    let fits = |bits: u8| {
        bits <= most
            && 1 << bits <= room
            && addresses.iter().all(|address| address.trailing_zeros() >= u32::from(bits))
    };
    PAGE_SIZES.iter().copied().rev().find(|&bits| fits(bits))
}
