//! Mappings of programs' memory: adding, changing, removing, reading.
//!
//! Every operation walks the tables once, looks at one table's worth of entries at most, and
//! tells what is left of the range, so that the time of each step is bounded by the geometry. A
//! step is refused as a whole or done as a whole.
//!
//! Invariants: T1 (an entry of a table is absent, maps memory that the page map may have, or
//! points to a table that nothing else points to; a table below the root is never empty, and its
//! record counts its entries), P1, O1, and L1 for what is removed.

use heliox_address::{Frame, PAGE_BITS, VirtualAddress};

use crate::cpu::CurrentCpu;
use crate::domain::OwnerCode;
use crate::entry::{Attributes, Entry, RootKind};
use crate::error::Error;
use crate::flexpage::{Flexpage, Virtual, VirtualRange};
use crate::geometry::{Geometry, Level, MAX_LEVELS};
use crate::machine::Machine;
use crate::page::{Status, Units};
use crate::page_map::{PageMap, PageMapPage, TableSupply, root_level};
use crate::region::{PhysicalRegion, RegionKind};
use crate::rights::{MemoryType, Rights};
use crate::share::Share;
use crate::state::{State, Storage};
use crate::translation::{DrainingPage, Invalidation, Stamp};

/// With more pages than this to invalidate, everything is flushed instead.
const INVALIDATE_LIMIT: u32 = 16;

/// First address that is not the programs' below a root of kind `K`.
#[inline]
pub(crate) const fn limit<K: RootKind, G: Geometry>() -> u64 {
    if K::HAS_KERNEL_HALF {
        G::USER_END
    } else {
        (G::ENTRIES as u64) << root_level::<G>().bits::<G>()
    }
}

/// What a page-table entry says about a page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingInfo {
    /// First address of the page; it has the size of `level`.
    pub address: VirtualAddress,
    /// The level of the entry: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub level: Level,
    /// The first frame that is mapped.
    pub frame: Frame,
    /// What programs may do with it.
    pub rights: Rights,
    /// How accesses are cached.
    pub memory_type: MemoryType,
    /// Whether it was mapped through a share.
    pub foreign: bool,
    /// Whether it was accessed.
    pub accessed: bool,
    /// Whether it was written.
    pub dirty: bool,
}

impl MappingInfo {
    #[inline]
    fn new<K: RootKind>(address: u64, level: Level, entry: Entry) -> Self {
        let attributes = K::attributes(entry);
        Self {
            address: VirtualAddress::sign_extended(address),
            level,
            frame: K::leaf_frame(entry, level),
            rights: attributes.rights,
            memory_type: attributes.memory_type,
            foreign: attributes.foreign,
            accessed: K::is_accessed(entry),
            dirty: K::is_dirty(entry),
        }
    }
}

/// The next address behind the one that an entry of `level` translates.
#[inline]
const fn behind<G: Geometry>(level: Level, address: u64) -> u64 {
    (address | (level.bytes::<G>() - 1)) + 1
}

// --- Adding ---

/// What adding a mapping did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the mapping may not be complete"]
pub struct Added {
    /// Number of page-map pages that became tables.
    pub tables: usize,
    /// Number of pages of 4 KiB mapped so far, including earlier steps. The whole range is
    /// mapped when this is its size; otherwise `resume_mapping` goes on.
    pub done: u64,
}

/// What is to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'share> {
    pub(crate) to: Flexpage<Virtual>,
    pub(crate) region: PhysicalRegion,
    pub(crate) rights: Rights,
    pub(crate) share: Option<&'share Share>,
    /// Pages that earlier steps did.
    pub(crate) done: u64,
}

/// Adds one table's worth of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Add {
    /// The table that exists: that of the units' level, or one further up.
    table: Frame,
    /// Tables to be made between that and the entries.
    missing: usize,
    /// Address of the first unit.
    address: u64,
    units: Units,
    attributes: Attributes,
    /// Pages done afterwards.
    done: u64,
}

impl Add {
    /// The common case by itself, so that it costs little: one page of RAM, whose own record
    /// names the page map's owner, and whose tables exist. Whatever is not that, or not allowed,
    /// is for [`Add::decide`], which would decide the same here.
    #[inline(always)]
    pub(crate) fn decide_page<K: RootKind, M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        machine: &M,
        map: &PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Option<Self> {
        let address = to.start_number();
        let first = region.first_frame();
        let is_common = region.bits() == PAGE_BITS
            && to.bits() == PAGE_BITS
            && address < limit::<K, M::Geometry>()
            && region.kind() == RegionKind::Ram
            && state.is_plainly_owned(first, map.owner_code());
        if !is_common {
            return None;
        }
        let table = level_one_table::<K, M>(machine, map, address)?;
        let entry = machine.read_entry(table, Level::FIRST.index_at::<M::Geometry>(address));
        if K::is_present(entry) {
            return None;
        }
        Some(Self {
            table,
            missing: 0,
            address,
            units: Units {
                level: Level::FIRST,
                first,
                count: 1,
            },
            attributes: Attributes {
                rights,
                memory_type: MemoryType::WriteBack,
                foreign: false,
            },
            done: 1,
        })
    }

    /// Adds a mapping of any size, as far as one table goes.
    #[inline]
    pub(crate) fn carry_out<K: RootKind, M: Machine, S: Storage>(
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        map: &PageMap<K>,
        request: &Request<'_>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error> {
        let Request { to, region, .. } = *request;
        if to.bits() != region.bits() {
            return Err(Error::SizesDiffer {
                virtual_bits: to.bits(),
                physical_bits: region.bits(),
            });
        }
        let units = Units::of::<M::Geometry>(
            region.first_frame(),
            region.bits() - PAGE_BITS,
            state.largest_leaf,
        );
        // Instances of their own for the usual levels and for one unit: shifts, and loops over
        // levels and units, then cost next to nothing.
        match (units.level.number(), units.count) {
            (2, 1) => Self::add_units::<K, M, S, 2, 1>(state, machine, map, request, supply, units),
            (3, 1) => Self::add_units::<K, M, S, 3, 1>(state, machine, map, request, supply, units),
            (1, _) => Self::add_units::<K, M, S, 1, 0>(state, machine, map, request, supply, units),
            (2, _) => Self::add_units::<K, M, S, 2, 0>(state, machine, map, request, supply, units),
            _ => Self::add_units::<K, M, S, 0, 0>(state, machine, map, request, supply, units),
        }
    }

    /// Adds `units`, whose level and number are `LEVEL` and `COUNT` if these are not 0.
    #[inline(never)]
    fn add_units<K: RootKind, M: Machine, S: Storage, const LEVEL: u32, const COUNT: u64>(
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        map: &PageMap<K>,
        request: &Request<'_>,
        supply: &mut TableSupply,
        mut units: Units,
    ) -> Result<Added, Error> {
        if LEVEL > 0 {
            units.level = Level::at(LEVEL);
        }
        if COUNT > 0 {
            units.count = COUNT;
        }
        let plan = Self::decide::<K, M, S>(state, machine, map, request, supply, units)?;
        Ok(plan.apply::<K, M, S>(state, machine, supply))
    }

    /// Decides on the part of the region's `units` that is to be done now.
    #[inline(always)]
    pub(crate) fn decide<K: RootKind, M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        machine: &M,
        map: &PageMap<K>,
        request: &Request<'_>,
        supply: &TableSupply,
        units: Units,
    ) -> Result<Self, Error> {
        let Request {
            to, region, done, ..
        } = *request;
        let (start, _) = VirtualRange::from(to).below(limit::<K, M::Geometry>())?;
        let level = units.level;
        let unit_bits = level.frame_bits::<M::Geometry>();
        let units_done = done >> unit_bits;
        if units_done >= units.count || units_done << unit_bits != done {
            return Err(Error::BadResume { done });
        }
        let Some(first) = units.first.checked_add(done) else {
            return Err(Error::BadResume { done });
        };
        let address = start + (done << PAGE_BITS);
        let index = level.index_at::<M::Geometry>(address);
        let room = (M::Geometry::ENTRIES - index) as u64;
        let count = (units.count - units_done).min(room);
        let units = Units {
            level,
            first,
            count,
        };

        let (owner, foreign) = match request.share {
            None => (map.owner_code(), false),
            Some(share) => {
                let owner = share.allows(region, map.owner_code(), request.rights)?;
                (owner, true)
            }
        };
        match region.kind() {
            RegionKind::Ram => state.check_references(units, owner)?,
            // Device memory never changes its status, so that mappings need no counting; all of
            // it is domain 0's.
            RegionKind::Io(_) => check_io_owner(region, owner)?,
        }

        let mut table = map.root();
        let mut above = root_level::<M::Geometry>();
        let mut missing = 0;
        while above > level {
            let entry = machine.read_entry(table, above.index_at::<M::Geometry>(address));
            if !K::is_present(entry) {
                missing = (above.number() - level.number()) as usize;
                break;
            }
            if K::is_leaf(entry, above) {
                let address = VirtualAddress::sign_extended(address);
                return Err(Error::AlreadyMapped { address });
            }
            table = K::table_frame(entry);
            let Some(below) = above.below() else { break };
            above = below;
        }
        if missing == 0 {
            for unit in 0..count as usize {
                if K::is_present(machine.read_entry(table, index + unit)) {
                    let address = address + ((unit as u64) << level.bits::<M::Geometry>());
                    let address = VirtualAddress::sign_extended(address);
                    return Err(Error::AlreadyMapped { address });
                }
            }
        } else {
            supply.check(missing)?;
        }
        Ok(Self {
            table,
            missing,
            address,
            units,
            attributes: Attributes {
                rights: request.rights,
                memory_type: region.kind().memory_type(),
                foreign,
            },
            done: done + (count << unit_bits),
        })
    }

    /// Carries out what [`Add::decide_page`] decided.
    #[inline(always)]
    pub(crate) fn apply_page<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        map: &mut PageMap<K>,
    ) -> Added {
        map.set_recent_table::<M::Geometry>(self.address, self.table);
        let Units { level, first, .. } = self.units;
        let index = level.index_at::<M::Geometry>(self.address);
        machine.write_entry(self.table, index, K::leaf(level, first, self.attributes));
        state.add_reference(level, first);
        state.add_count(self.table, 1);
        Added {
            tables: self.missing,
            done: self.done,
        }
    }

    /// Carries out what [`Add::decide`] decided.
    #[inline(always)]
    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        supply: &mut TableSupply,
    ) -> Added {
        if self.missing == 0 {
            self.fill::<K, M, S>(state, machine, self.table);
        } else {
            self.extend::<K, M, S>(state, machine, supply);
        }
        Added {
            tables: self.missing,
            done: self.done,
        }
    }

    /// Writes the entries into `table`, and counts them and what they map.
    #[inline(always)]
    fn fill<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        table: Frame,
    ) {
        let level = self.units.level;
        let first = level.index_at::<M::Geometry>(self.address);
        for (index, frame) in (first..).zip(self.units.frames::<M::Geometry>()) {
            machine.write_entry(table, index, K::leaf(level, frame, self.attributes));
            if self.attributes.memory_type == MemoryType::WriteBack {
                state.add_reference(level, frame);
            }
        }
        if level != root_level::<M::Geometry>() {
            #[expect(clippy::cast_possible_truncation, reason = "at most a table's entries")]
            state.add_count(table, self.units.count as u32);
        }
    }

    /// Makes the missing tables from the lowest up, and links them in when they are complete.
    #[cold]
    fn extend<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        supply: &mut TableSupply,
    ) {
        let mut level = self.units.level;
        let mut lower: Option<Frame> = None;
        for _ in 0..self.missing {
            // There are enough: `decide` has seen them.
            let Some(page) = supply.take() else { return };
            // T3: the page is clear.
            let table = page.frame();
            state.set_status(table, Status::PageTable);
            match lower {
                None => self.fill::<K, M, S>(state, machine, table),
                Some(lower) => {
                    let index = level.index_at::<M::Geometry>(self.address);
                    machine.write_entry(table, index, K::table(lower));
                    state.add_count(table, 1);
                }
            }
            lower = Some(table);
            let Some(above) = level.above::<M::Geometry>() else {
                return;
            };
            level = above;
        }
        if let Some(lower) = lower {
            let index = level.index_at::<M::Geometry>(self.address);
            machine.write_entry(self.table, index, K::table(lower));
            if level != root_level::<M::Geometry>() {
                state.add_count(self.table, 1);
            }
        }
    }
}

fn check_io_owner(region: PhysicalRegion, owner: OwnerCode) -> Result<(), Error> {
    use crate::domain::{DomainId, Owner};
    let all = Owner::Domain(DomainId::ZERO);
    if owner == OwnerCode::new(all) {
        Ok(())
    } else {
        Err(Error::NotOwner {
            frame: region.first_frame(),
            owner: Some(all),
        })
    }
}

// --- Finding what is mapped ---

/// The level-1 table that translates `address`, if there is one.
#[inline(always)]
fn level_one_table<K: RootKind, M: Machine>(
    machine: &M,
    map: &PageMap<K>,
    address: u64,
) -> Option<Frame> {
    match map.recent_table::<M::Geometry>(address) {
        None => walk_to_level_one::<K, M>(machine, map.root(), address),
        recent => recent,
    }
}

fn walk_to_level_one<K: RootKind, M: Machine>(
    machine: &M,
    root: Frame,
    address: u64,
) -> Option<Frame> {
    let mut table = root;
    let mut number = M::Geometry::LEVELS;
    while number > Level::FIRST.number() {
        let level = Level::at(number);
        let entry = machine.read_entry(table, level.index_at::<M::Geometry>(address));
        // Above the levels of leaves there are only tables.
        let is_table = if number > M::Geometry::LEAF_LEVELS {
            K::is_present(entry)
        } else {
            K::is_table(entry, level)
        };
        if !is_table {
            return None;
        }
        table = K::table_frame(entry);
        number -= 1;
    }
    Some(table)
}

/// A present leaf entry and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    table: Frame,
    level: Level,
    /// The first address within the range that was looked through that the entry translates.
    address: u64,
    entry: Entry,
}

/// The first leaf entry in a range, or how far there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Leaf(Leaf),
    /// Nothing is mapped below this address.
    NothingBelow(u64),
}

/// Looks for the first leaf entry from `start` on. Reads at most one table of each level, and so
/// may end before `end` without having found one.
fn find<K: RootKind, M: Machine>(machine: &M, root: Frame, start: u64, end: u64) -> Found {
    let mut table = root;
    let mut level = root_level::<M::Geometry>();
    let mut address = start;
    loop {
        let mut index = level.index_at::<M::Geometry>(address);
        let mut entry = machine.read_entry(table, index);
        while !K::is_present(entry) {
            address = behind::<M::Geometry>(level, address);
            index += 1;
            if address >= end || index == M::Geometry::ENTRIES {
                return Found::NothingBelow(address);
            }
            entry = machine.read_entry(table, index);
        }
        let below = level.below();
        match below {
            Some(below) if !K::is_leaf(entry, level) => {
                table = K::table_frame(entry);
                level = below;
            }
            _ => {
                return Found::Leaf(Leaf {
                    table,
                    level,
                    address,
                    entry,
                });
            }
        }
    }
}

impl Leaf {
    /// First address that the entry translates.
    #[inline]
    const fn base<G: Geometry>(&self) -> u64 {
        self.address & !(self.level.bytes::<G>() - 1)
    }

    /// Whether the entry translates nothing outside of the range.
    #[inline]
    const fn is_within<G: Geometry>(&self, start: u64, end: u64) -> bool {
        // The address is past the base only if the range begins inside the page.
        let base = self.base::<G>();
        base >= start && base + self.level.bytes::<G>() <= end
    }
}

/// Reads the mapping of the page that `address` lies in.
#[inline]
pub(crate) fn read<K: RootKind, M: Machine>(
    machine: &M,
    map: &PageMap<K>,
    address: VirtualAddress,
) -> Option<MappingInfo> {
    let start = address.page_start().get();
    if start >= limit::<K, M::Geometry>() {
        return None;
    }
    match find::<K, M>(machine, map.root(), start, start + 1) {
        Found::Leaf(leaf) => Some(MappingInfo::new::<K>(
            leaf.base::<M::Geometry>(),
            leaf.level,
            leaf.entry,
        )),
        Found::NothingBelow(_) => None,
    }
}

// --- Removing and changing ---

/// Entries next to each other in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    table: Frame,
    level: Level,
    /// Address of the first entry.
    address: u64,
    /// Number of entries.
    count: usize,
    /// Number of those that are present.
    present: u32,
}

impl Run {
    /// The entries from `leaf` on that are wholly within the range: with `holes`, leaves and
    /// absent entries; without, leaves.
    fn from<K: RootKind, M: Machine>(machine: &M, leaf: Leaf, end: u64, holes: bool) -> Self {
        let Leaf { table, level, .. } = leaf;
        let address = leaf.base::<M::Geometry>();
        let first = level.index_at::<M::Geometry>(address);
        let mut run = Self {
            table,
            level,
            address,
            count: 1,
            present: 1,
        };
        let mut next = behind::<M::Geometry>(level, address);
        while next < end && first + run.count < M::Geometry::ENTRIES {
            let entry = machine.read_entry(table, first + run.count);
            if K::is_present(entry) {
                let stops = !K::is_leaf(entry, level) || end - next < level.bytes::<M::Geometry>();
                if stops {
                    break;
                }
                run.present += 1;
            } else if !holes {
                break;
            }
            run.count += 1;
            next = behind::<M::Geometry>(level, next);
        }
        run
    }

    /// First address behind the entries.
    #[inline]
    const fn end<G: Geometry>(&self) -> u64 {
        self.address + ((self.count as u64) << self.level.bits::<G>())
    }

    /// Empties the entries, and unlinks the table and those above it that become empty. For
    /// each mapping that was there `each` is told, and for each table `freed`.
    #[inline(always)]
    fn clear<K: RootKind, M: Machine, S: Storage>(
        &self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        root: Frame,
        stamp: Option<Stamp>,
        mut each: impl FnMut(&mut M, MappingInfo),
        freed: impl FnMut(&mut State<M::Geometry, S>, Frame),
    ) {
        let first = self.level.index_at::<M::Geometry>(self.address);
        let mut address = self.address;
        for index in first..first + self.count {
            let entry = machine.exchange_entry(self.table, index, Entry::ABSENT);
            // Without holes none needs looking at: only marks can have changed since.
            if self.count == self.present as usize || K::is_present(entry) {
                let info = MappingInfo::new::<K>(address, self.level, entry);
                if info.memory_type == MemoryType::WriteBack {
                    state.drop_reference(self.level, info.frame, stamp);
                }
                each(machine, info);
            }
            address = behind::<M::Geometry>(self.level, address);
        }
        if self.level != root_level::<M::Geometry>()
            && state.take_count(self.table, self.present) == 0
        {
            self.unlink::<K, M, S>(state, machine, root, freed);
        }
    }

    /// Takes the table out, which is empty, and those above it that become empty by that.
    #[cold]
    fn unlink<K: RootKind, M: Machine, S: Storage>(
        &self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        root: Frame,
        mut freed: impl FnMut(&mut State<M::Geometry, S>, Frame),
    ) {
        // The lowest table on the way to the entries that keeps another entry, and what is below.
        let mut keeps = (root, root_level::<M::Geometry>());
        let mut gone = [Frame::ZERO; MAX_LEVELS];
        let mut count = 0;
        let (mut table, mut level) = keeps;
        while level > self.level {
            let entry = machine.read_entry(table, level.index_at::<M::Geometry>(self.address));
            let Some(below) = level.below() else { return };
            if table != root && state.count(table) > 1 {
                keeps = (table, level);
                count = 0;
            }
            table = K::table_frame(entry);
            level = below;
            if let Some(slot) = gone.get_mut(count) {
                *slot = table;
                count += 1;
            }
        }
        let (table, level) = keeps;
        let index = level.index_at::<M::Geometry>(self.address);
        machine.exchange_entry(table, index, Entry::ABSENT);
        if table != root {
            state.take_count(table, 1);
        }
        // T3: what is taken out is left without any entry, from the top down, and each table only
        // after nothing points to it.
        let mut level = level;
        for frame in gone.into_iter().take(count) {
            let Some(below) = level.below() else { return };
            level = below;
            if level > self.level {
                let index = level.index_at::<M::Geometry>(self.address);
                machine.exchange_entry(frame, index, Entry::ABSENT);
            }
            freed(state, frame);
        }
    }
}

/// Replaces a leaf entry by a table of smaller ones that map the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    table: Frame,
    level: Level,
    /// Where the range goes on after the split.
    next: u64,
    /// First address of the page.
    address: u64,
    entry: Entry,
}

impl Split {
    #[inline]
    fn decide<K: RootKind, M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        leaf: Leaf,
        supply: &TableSupply,
    ) -> Result<Self, Error> {
        supply.check(1)?;
        let below = leaf.level.below().unwrap_or(Level::FIRST);
        if K::attributes(leaf.entry).memory_type == MemoryType::WriteBack {
            let units = Units {
                level: below,
                first: K::leaf_frame(leaf.entry, leaf.level),
                count: M::Geometry::ENTRIES as u64,
            };
            state.check_room(units)?;
        }
        Ok(Self {
            table: leaf.table,
            level: leaf.level,
            next: leaf.address,
            address: leaf.base::<M::Geometry>(),
            entry: leaf.entry,
        })
    }

    #[cold]
    fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
        root: Frame,
        supply: &mut TableSupply,
    ) -> Invalidation {
        // There is one: `decide` has seen it.
        let Some(page) = supply.take() else {
            return Invalidation::COMPLETE;
        };
        let Some(below) = self.level.below() else {
            return Invalidation::COMPLETE;
        };
        let (is_loaded, stamp) = state.owe_for_root(cpu.index(), root);
        let new = page.frame();
        state.set_status(new, Status::PageTable);
        for index in 0..M::Geometry::ENTRIES {
            let part = K::split::<M::Geometry>(self.entry, self.level, index);
            machine.write_entry(new, index, part);
        }
        let index = self.level.index_at::<M::Geometry>(self.address);
        let old = machine.exchange_entry(self.table, index, K::table(new));
        if old != self.entry {
            // The processor marked the entry after it was read.
            for index in 0..M::Geometry::ENTRIES {
                let part = K::split::<M::Geometry>(self.entry, self.level, index);
                exchange_marked::<K, M>(machine, new, index, K::with_usage_of(part, old));
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
        state.add_count(new, M::Geometry::ENTRIES as u32);
        if K::attributes(self.entry).memory_type == MemoryType::WriteBack {
            let frame = K::leaf_frame(self.entry, self.level);
            // The parts first, so that the block is in use throughout.
            let parts = Units {
                level: below,
                first: frame,
                count: M::Geometry::ENTRIES as u64,
            };
            for part in parts.frames::<M::Geometry>() {
                state.add_reference(below, part);
            }
            state.drop_reference(self.level, frame, stamp);
        }
        if is_loaded {
            machine.flush(cpu);
            state.note_flush(cpu.index(), false);
        }
        Invalidation::since(stamp)
    }
}

/// Replaces a present entry and keeps the marks that the processor makes meanwhile (`hazards`
/// 7). Returns what was there before.
#[inline]
fn exchange_marked<K: RootKind, M: Machine>(
    machine: &mut M,
    table: Frame,
    index: usize,
    mut new: Entry,
) -> Entry {
    let first = machine.exchange_entry(table, index, new);
    let mut old = first;
    // There are two marks, and each can be missed once.
    for _ in 0..2 {
        let marked = K::with_usage_of(new, old);
        if marked == new {
            break;
        }
        new = marked;
        old = machine.exchange_entry(table, index, new);
    }
    first
}

/// Page tables that a removal left empty.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the pages are lost unless they are reclaimed"]
pub struct FreedTables {
    /// Numbers of frames; those of pages with records fit.
    frames: [u32; MAX_LEVELS - 1],
    count: u32,
    since: Invalidation,
}

impl FreedTables {
    #[inline(always)]
    const fn new(since: Invalidation) -> Self {
        Self {
            frames: [0; MAX_LEVELS - 1],
            count: 0,
            since,
        }
    }

    fn add(&mut self, frame: Frame) {
        // T1: a table has a record, and so its number fits.
        if let Some(slot) = self.frames.get_mut(self.count as usize)
            && let Ok(number) = u32::try_from(frame.number())
        {
            *slot = number;
            self.count += 1;
        }
    }

    /// Number of pages that are still to be taken out.
    #[must_use]
    #[inline]
    pub const fn left(&self) -> usize {
        self.count as usize
    }
}

impl Iterator for FreedTables {
    type Item = DrainingPage;

    #[inline]
    fn next(&mut self) -> Option<DrainingPage> {
        let last = self.count.checked_sub(1)?;
        self.count = last;
        let number = self.frames.get(last as usize).copied()?;
        Some(DrainingPage::new(Frame::new(number.into())?, self.since))
    }
}

/// What a step of removing mappings did.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tables were freed, and the range may not be done"]
pub struct Removed {
    /// Number of mappings, whatever their size.
    pub mappings: u32,
    /// Tables that became empty.
    pub tables: FreedTables,
    /// What is left to be done of the range.
    pub rest: Option<VirtualRange>,
}

impl Removed {
    /// When no processor can use what was removed.
    #[inline]
    pub const fn invalidation(&self) -> Invalidation {
        self.tables.since
    }
}

/// What a step of changing mappings did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the range may not be done"]
pub struct Modified {
    /// Number of mappings, whatever their size.
    pub mappings: u32,
    /// What is left to be done of the range.
    pub rest: Option<VirtualRange>,
    /// When every processor obeys the change.
    pub invalidation: Invalidation,
}

/// A change of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// These rights instead of what they were.
    Rights(Rights),
    /// Neither accessed nor dirty any more.
    ResetUsage,
}

/// Where mappings are to be removed or changed: below a root, from an address to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    root: Frame,
    start: u64,
    end: u64,
}

impl Target {
    /// The part of a page map's address space that `range` names.
    #[inline(always)]
    pub(crate) fn new<K: RootKind, G: Geometry>(
        map: &PageMap<K>,
        range: VirtualRange,
    ) -> Result<Self, Error> {
        let (start, end) = range.below(limit::<K, G>())?;
        let root = map.root();
        Ok(Self { root, start, end })
    }
}

/// One step of removing the mappings of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remove {
    /// Nothing is mapped below this address.
    Nothing(u64),
    /// These entries.
    Entries(Entries),
    /// First a larger page must be split that is only partly in the range.
    Split(SplitFirst),
}

/// Entries to be removed or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entries(Run);

/// A page to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitFirst(Split);

impl Entries {
    /// The common case by itself, so that it costs little: the range is one page, which is mapped
    /// as such. Whatever is not that is for [`Remove::decide`], which would decide the same here.
    #[inline(always)]
    pub(crate) fn decide_page<K: RootKind, M: Machine>(
        machine: &M,
        map: &PageMap<K>,
        range: VirtualRange,
    ) -> Option<Self> {
        let address = range.start_number();
        if range.pages() != 1 || address >= limit::<K, M::Geometry>() {
            return None;
        }
        let table = level_one_table::<K, M>(machine, map, address)?;
        let entry = machine.read_entry(table, Level::FIRST.index_at::<M::Geometry>(address));
        K::is_present(entry).then_some(Self(Run {
            table,
            level: Level::FIRST,
            address,
            count: 1,
            present: 1,
        }))
    }

    /// Removes the entries, of a range that goes on until `end` if there may be more of it.
    #[inline(always)]
    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        end: Option<u64>,
        mut each: impl FnMut(MappingInfo),
    ) -> Removed {
        let Self(run) = self;
        let root = map.root();
        let (is_loaded, stamp) = state.owe_for_root(cpu.index(), root);
        let one_by_one = is_loaded && run.present <= INVALIDATE_LIMIT;
        let mut tables = FreedTables::new(Invalidation::since(stamp));
        run.clear::<K, M, S>(
            state,
            machine,
            root,
            stamp,
            |machine, info| {
                if one_by_one {
                    machine.invalidate_page(cpu, info.address);
                }
                each(info);
            },
            |state, table| {
                state.set_status(table, Status::Draining);
                tables.add(table);
            },
        );
        if tables.left() > 0 {
            map.forget_recent_table();
        }
        // A table that is gone must be forgotten by the paging-structure caches too.
        if is_loaded && (!one_by_one || tables.left() > 0) {
            machine.flush(cpu);
            state.note_flush(cpu.index(), false);
        }
        Removed {
            mappings: run.present,
            tables,
            rest: end.and_then(|end| VirtualRange::rest(run.end::<M::Geometry>(), end)),
        }
    }
}

impl Remove {
    #[inline(never)]
    pub(crate) fn decide<K: RootKind, M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        machine: &M,
        target: Target,
        supply: &TableSupply,
    ) -> Result<Self, Error> {
        let Target { root, start, end } = target;
        match find::<K, M>(machine, root, start, end) {
            Found::NothingBelow(next) => Ok(Self::Nothing(next)),
            Found::Leaf(leaf) if leaf.is_within::<M::Geometry>(start, end) => Ok(Self::Entries(
                Entries(Run::from::<K, M>(machine, leaf, end, true)),
            )),
            Found::Leaf(leaf) => Ok(Self::Split(SplitFirst(Split::decide::<K, M, S>(
                state, leaf, supply,
            )?))),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what there is, where, and what for"
    )]
    #[inline(never)]
    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        target: Target,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Removed {
        let nothing = |next, since| Removed {
            mappings: 0,
            tables: FreedTables::new(since),
            rest: VirtualRange::rest(next, target.end),
        };
        match self {
            Self::Nothing(next) => nothing(next, Invalidation::COMPLETE),
            Self::Entries(entries) => {
                entries.apply::<K, M, S>(state, machine, cpu, map, Some(target.end), each)
            }
            Self::Split(SplitFirst(split)) => {
                let since = split.apply::<K, M, S>(state, machine, cpu, target.root, supply);
                nothing(split.next, since)
            }
        }
    }
}

/// One step of changing the mappings of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Modify {
    /// These entries are changed so.
    Entries(Entries, Change),
    /// First a larger page must be split that is only partly in the range.
    Split(SplitFirst),
}

impl Modify {
    pub(crate) fn decide<K: RootKind, M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        machine: &M,
        target: Target,
        change: Change,
        supply: &TableSupply,
    ) -> Result<Self, Error> {
        let Target { root, start, end } = target;
        let not_mapped = |address| Error::NotMapped {
            address: VirtualAddress::sign_extended(address),
        };
        let leaf = match find::<K, M>(machine, root, start, end) {
            Found::Leaf(leaf) if leaf.address == start => leaf,
            _ => return Err(not_mapped(start)),
        };
        if !leaf.is_within::<M::Geometry>(start, end) {
            check_change::<K>(leaf.base::<M::Geometry>(), leaf.entry, change)?;
            return Ok(Self::Split(SplitFirst(Split::decide::<K, M, S>(
                state, leaf, supply,
            )?)));
        }
        let run = Run::from::<K, M>(machine, leaf, end, false);
        let first = run.level.index_at::<M::Geometry>(run.address);
        let mut address = run.address;
        for index in first..first + run.count {
            check_change::<K>(address, machine.read_entry(run.table, index), change)?;
            address = behind::<M::Geometry>(run.level, address);
        }
        // The run ends before the range and the table do only at a table, at a page that must be
        // split, or at a hole; a hole is refused now, while nothing is changed.
        if address < end
            && first + run.count < M::Geometry::ENTRIES
            && !K::is_present(machine.read_entry(run.table, first + run.count))
        {
            return Err(not_mapped(address));
        }
        Ok(Self::Entries(Entries(run), change))
    }

    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
        target: Target,
        supply: &mut TableSupply,
        mut each: impl FnMut(MappingInfo),
    ) -> Modified {
        let Target { root, end, .. } = target;
        let (run, change) = match self {
            Self::Entries(Entries(run), change) => (run, change),
            Self::Split(SplitFirst(split)) => {
                let next = split.next;
                let invalidation = split.apply::<K, M, S>(state, machine, cpu, root, supply);
                return Modified {
                    mappings: 0,
                    rest: VirtualRange::rest(next, end),
                    invalidation,
                };
            }
        };
        let (is_loaded, stamp) = state.owe_for_root(cpu.index(), root);
        let one_by_one = is_loaded && run.present <= INVALIDATE_LIMIT;
        let first = run.level.index_at::<M::Geometry>(run.address);
        let mut address = run.address;
        for index in first..first + run.count {
            let entry = machine.read_entry(run.table, index);
            let old = match change {
                Change::Rights(rights) => {
                    let new = K::with_rights(entry, rights);
                    exchange_marked::<K, M>(machine, run.table, index, new)
                }
                // Marks made until now are told, and marks made from now on stay.
                Change::ResetUsage => {
                    machine.exchange_entry(run.table, index, K::without_usage(entry))
                }
            };
            if one_by_one {
                machine.invalidate_page(cpu, VirtualAddress::sign_extended(address));
            }
            each(MappingInfo::new::<K>(address, run.level, old));
            address = behind::<M::Geometry>(run.level, address);
        }
        if is_loaded && !one_by_one {
            machine.flush(cpu);
            state.note_flush(cpu.index(), false);
        }
        Modified {
            mappings: run.present,
            rest: VirtualRange::rest(address, end),
            invalidation: Invalidation::since(stamp),
        }
    }
}

/// A mapping made through a share does not gain rights.
#[inline]
fn check_change<K: RootKind>(address: u64, entry: Entry, change: Change) -> Result<(), Error> {
    let held = K::attributes(entry);
    match change {
        Change::Rights(asked) if held.foreign && !held.rights.contains(asked) => {
            Err(Error::Upgrade {
                address: VirtualAddress::sign_extended(address),
                asked,
                held: held.rights,
            })
        }
        _ => Ok(()),
    }
}

// --- Freeing a page map ---

/// Removes entries of a page map that no processor translates with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    Nothing(u64),
    Entries(Entries),
}

impl Clear {
    pub(crate) fn decide<K: RootKind, M: Machine>(
        machine: &M,
        root: Frame,
        start: u64,
        end: u64,
    ) -> Self {
        match find::<K, M>(machine, root, start, end) {
            Found::NothingBelow(next) => Self::Nothing(next),
            // All that programs can have is in the range, so that nothing sticks out of it.
            Found::Leaf(leaf) => {
                Self::Entries(Entries(Run::from::<K, M>(machine, leaf, end, true)))
            }
        }
    }

    /// Returns the address below which nothing is left.
    pub(crate) fn apply<K: RootKind, M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        root: Frame,
        tables: &mut TableSupply,
    ) -> u64 {
        match self {
            Self::Nothing(next) => next,
            Self::Entries(Entries(run)) => {
                run.clear::<K, M, S>(
                    state,
                    machine,
                    root,
                    None,
                    |_, _| {},
                    |state, table| {
                        // T3: the last entry is gone, and the page was open all the time.
                        state.set_status(table, Status::PageMapPage);
                        // There are no more than the supply has room for: one of each level.
                        let _ = tables.add(PageMapPage::new(table));
                    },
                );
                run.end::<M::Geometry>()
            }
        }
    }
}
