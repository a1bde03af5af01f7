//! Mappings of programs' memory: adding, changing, removing, reading.
//!
//! Every operation walks the tables once, looks at one table's worth of entries at most, and
//! tells what is left of the range, so that the time of each step is bounded by the geometry. A
//! step is refused as a whole or done as a whole.
//!
//! Invariants: T1 (an entry of a table is absent, maps memory that the page map may have, or
//! points to a table that nothing else points to; a table below the root is never empty, and its
//! record counts its entries), P1, O1, and L1 for what is removed.

use heliox_types::{Frame, PAGE_BITS, VirtualAddress};

use crate::cpu::CurrentCpu;
use crate::domain::{DomainId, Owner, OwnerCode};
use crate::entry::{Attributes, Entry, RootKind};
use crate::error::Error;
use crate::flexpage::{Flexpage, Virtual, VirtualRange};
use crate::geometry::{Geometry, Level, MAX_LEVELS};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::page::{Status, Units};
use crate::page_map::{PageMap, TableSupply};
use crate::region::{PhysicalRegion, RegionKind};
use crate::rights::{MemoryType, Rights};
use crate::share::Share;
use crate::state::Storage;
use crate::translation::{DrainingPage, Invalidation, Stamp};

/// With more pages than this to invalidate, everything is flushed instead.
const INVALIDATE_LIMIT: u32 = 16;

/// First address that is not the programs' below a root of kind `K`.
#[inline]
pub(crate) const fn limit<K: RootKind, G: Geometry>() -> u64 {
    if K::HAS_KERNEL_HALF {
        G::USER_END
    } else {
        (G::ENTRIES as u64) << Level::root::<G>().bits::<G>()
    }
}

/// Mappings of programs' memory (thesis section 4.4.2).
pub trait UserMemory {
    /// Maps `region` at `to`, with the largest pages that the machine has. As many page-map
    /// pages as tables are missing are taken out of `supply`.
    ///
    /// Memory of an owner other than the page map's takes a `share`.
    ///
    /// A range that needs more than one table's worth of entries is mapped in steps: see
    /// [`Added::done`].
    ///
    /// # Errors
    ///
    /// [`Error::SizesDiffer`], [`Error::NotUser`], [`Error::WrongStatus`],
    /// [`Error::NotAllNormal`], [`Error::NotOwner`], [`Error::TooManyReferences`],
    /// [`Error::OutsideShare`], [`Error::NotGrantee`], [`Error::BeyondShare`],
    /// [`Error::AlreadyMapped`], [`Error::TablesNeeded`].
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error>;

    /// Goes on with a mapping of which `done` pages are mapped already.
    ///
    /// # Errors
    ///
    /// As [`UserMemory::add_mapping`], and [`Error::BadResume`].
    fn resume_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        request: &Request<'_>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error>;

    /// Changes mappings of `range`, all of which must be mapped. Each mapping is told to `each`
    /// as it was before.
    ///
    /// A page that is only partly in the range is split first; a step that does so changes
    /// nothing else. The pages of one table are changed or refused together; see [`Step::rest`].
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`], [`Error::Upgrade`], [`Error::TablesNeeded`] and
    /// [`Error::TooManyReferences`] when a page must be split.
    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        change: Change,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Step, Error>;

    /// Removes whatever is mapped in `range`; holes do no harm. Each mapping is told to `each`
    /// as it was.
    ///
    /// A page that is only partly in the range is split first; a step that does so removes
    /// nothing else. See [`Step::rest`].
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`]; [`Error::TablesNeeded`] and [`Error::TooManyReferences`] when a page
    /// must be split.
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Step, Error>;

    /// The mapping of the page that `address` lies in, if there is one.
    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        address: VirtualAddress,
    ) -> Option<MappingInfo>;
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
    /// What programs may do with it, how accesses are cached, and whether it was mapped through a
    /// share.
    pub attributes: Attributes,
    /// Whether it was accessed.
    pub accessed: bool,
    /// Whether it was written.
    pub dirty: bool,
}

impl MappingInfo {
    #[inline(always)]
    fn new<K: RootKind>(address: u64, level: Level, entry: Entry) -> Self {
        Self {
            address: VirtualAddress::sign_extended(address),
            level,
            frame: K::leaf_frame(entry, level),
            attributes: K::attributes(entry),
            accessed: K::is_accessed(entry),
            dirty: K::is_dirty(entry),
        }
    }
}

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
pub struct Request<'share> {
    /// Where.
    pub to: Flexpage<Virtual>,
    /// What.
    pub region: PhysicalRegion,
    /// What programs may do with it.
    pub rights: Rights,
    /// The owner's consent, if the page map is another's.
    pub share: Option<&'share Share>,
    /// Pages that earlier steps did.
    pub done: u64,
}

/// What a step of removing or changing mappings did.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tables may be free, and the range may not be done"]
pub struct Step {
    /// Number of mappings, whatever their size.
    pub mappings: u32,
    /// Tables that became empty.
    pub tables: FreedTables,
    /// What is left to be done of the range.
    pub rest: Option<VirtualRange>,
}

impl Step {
    /// When every processor obeys the change.
    #[inline]
    pub const fn invalidation(&self) -> Invalidation {
        self.tables.since
    }
}

/// A change of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// These rights instead of what they were.
    Rights(Rights),
    /// Neither accessed nor dirty any more.
    ResetUsage,
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
        let frames = [0; MAX_LEVELS - 1];
        let count = 0;
        Self { frames, count, since }
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
        self.count = self.count.checked_sub(1)?;
        let number = self.frames.get(self.count as usize).copied()?;
        Some(DrainingPage::new(Frame::new(number.into())?, self.since))
    }
}

/// A plan: one table's worth of a mapping is added.
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

/// A plan: entries next to each other in one table are removed or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
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
    /// First address behind the entries.
    #[inline(always)]
    pub(crate) const fn end<G: Geometry>(&self) -> u64 {
        self.address + ((self.count as u64) << self.level.bits::<G>())
    }
}

/// A present leaf entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    table: Frame,
    level: Level,
    /// The first address of the range that was looked through that the entry translates.
    next: u64,
    /// First address that the entry translates.
    base: u64,
    entry: Entry,
}

/// A plan: one step of removing or changing the mappings of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing is mapped below this address.
    Nothing(u64),
    /// These entries.
    Entries(Run),
    /// First a larger page must be split that is only partly in the range.
    Split(Leaf),
}

/// Deciding.
impl<M: Machine, S: Storage> Memory<'_, M, S> {
    /// The level-1 table that translates `address`, if there is one.
    #[inline(always)]
    fn level_one_table<K: RootKind>(&self, map: &PageMap<K>, address: u64) -> Option<Frame> {
        match map.recent_table::<M::Geometry>(address) {
            None => self.walk_to_level_one::<K>(map.root(), address),
            recent => recent,
        }
    }

    fn walk_to_level_one<K: RootKind>(&self, root: Frame, address: u64) -> Option<Frame> {
        let mut table = root;
        let mut number = M::Geometry::LEVELS;
        while number > Level::FIRST.number() {
            let level = Level::at(number);
            let index = level.index_at::<M::Geometry>(address);
            let entry = self.machine.read_entry(table, index);
            if !K::is_present(entry) || K::is_leaf(entry, level) {
                return None;
            }
            table = K::table_frame(entry);
            number -= 1;
        }
        Some(table)
    }

    /// The common case by itself, so that it costs little: one page of RAM, whose own record
    /// names the page map's owner, and whose tables exist. Whatever is not that, or not allowed,
    /// is for [`Memory::decide_add`], which would decide the same here.
    #[inline(always)]
    pub(crate) fn decide_add_page<K: RootKind>(
        &self,
        map: &PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Option<Add> {
        let (address, first) = (to.start_number(), region.first_frame());
        let is_common = region.bits() == PAGE_BITS
            && to.bits() == PAGE_BITS
            && address < limit::<K, M::Geometry>()
            && region.kind() == RegionKind::Ram
            && self.state.is_plainly_owned(first, map.owner_code());
        if !is_common {
            return None;
        }
        let table = self.level_one_table(map, address)?;
        let index = Level::FIRST.index_at::<M::Geometry>(address);
        if K::is_present(self.machine.read_entry(table, index)) {
            return None;
        }
        let attributes = Attributes { rights, memory_type: MemoryType::WriteBack, foreign: false };
        let units = Units { level: Level::FIRST, first, count: 1 };
        Some(Add { table, missing: 0, address, units, attributes, done: 1 })
    }

    /// Decides on as much of a request as goes into one table; `units` is all of its region.
    #[inline(always)]
    pub(crate) fn decide_add<K: RootKind>(
        &self,
        map: &PageMap<K>,
        request: &Request<'_>,
        supply: &TableSupply,
        units: Units,
    ) -> Result<Add, Error> {
        let Request { to, region, rights, share, done } = *request;
        let (start, _) = VirtualRange::from(to).below(limit::<K, M::Geometry>())?;
        let level = units.level;
        let unit_bits = level.frame_bits::<M::Geometry>();
        let units_done = done >> unit_bits;
        let (true, Some(first)) = (
            units_done < units.count && units_done << unit_bits == done,
            units.first.checked_add(done),
        ) else {
            return Err(Error::BadResume { done });
        };
        let address = start + (done << PAGE_BITS);
        let index = level.index_at::<M::Geometry>(address);
        let room = (M::Geometry::ENTRIES - index) as u64;
        let count = (units.count - units_done).min(room);
        let units = Units { level, first, count };

        let owner = match share {
            None => map.owner_code(),
            Some(share) => share.allows(region, map.owner_code(), rights)?,
        };
        match region.kind() {
            RegionKind::Ram => self.state.check_references(units, owner)?,
            // Device memory never changes its status, so that mappings need no counting; all of
            // it is domain 0's.
            RegionKind::Io(_) => {
                let all = Owner::Domain(DomainId::ZERO);
                if owner != OwnerCode::new(all) {
                    let frame = region.first_frame();
                    return Err(Error::NotOwner { frame, owner: Some(all) });
                }
            }
        }

        let already_mapped = |address| {
            let address = VirtualAddress::sign_extended(address);
            Err(Error::AlreadyMapped { address })
        };
        let mut table = map.root();
        let mut above = Level::root::<M::Geometry>();
        let mut missing = 0;
        while above > level {
            let index = above.index_at::<M::Geometry>(address);
            let entry = self.machine.read_entry(table, index);
            if !K::is_present(entry) {
                missing = (above.number() - level.number()) as usize;
                break;
            }
            if K::is_leaf(entry, above) {
                return already_mapped(address);
            }
            table = K::table_frame(entry);
            above = above.lower();
        }
        supply.check(missing)?;
        if missing == 0 {
            for unit in 0..count {
                if K::is_present(self.machine.read_entry(table, index + unit as usize)) {
                    return already_mapped(address + (unit << level.bits::<M::Geometry>()));
                }
            }
        }
        let memory_type = region.kind().memory_type();
        let attributes = Attributes { rights, memory_type, foreign: share.is_some() };
        let done = done + (count << unit_bits);
        Ok(Add { table, missing, address, units, attributes, done })
    }

    /// The first leaf entry from `start` on, or an address below which there is none. Reads at
    /// most one table of each level, and so may end before `end` without having found one.
    fn find<K: RootKind>(&self, root: Frame, start: u64, end: u64) -> Result<Leaf, u64> {
        let (mut table, mut level) = (root, Level::root::<M::Geometry>());
        let mut next = start;
        loop {
            let mut index = level.index_at::<M::Geometry>(next);
            let mut entry = self.machine.read_entry(table, index);
            while !K::is_present(entry) {
                next = (next | (level.bytes::<M::Geometry>() - 1)) + 1;
                index += 1;
                if next >= end || index == M::Geometry::ENTRIES {
                    return Err(next);
                }
                entry = self.machine.read_entry(table, index);
            }
            if K::is_leaf(entry, level) {
                let base = next & !(level.bytes::<M::Geometry>() - 1);
                return Ok(Leaf { table, level, next, base, entry });
            }
            table = K::table_frame(entry);
            level = level.lower();
        }
    }

    /// The entries from `leaf` on that are wholly within the range: leaves, and with `holes`
    /// absent entries.
    fn run<K: RootKind>(&self, leaf: Leaf, end: u64, holes: bool) -> Run {
        let Leaf { table, level, base: address, .. } = leaf;
        let first = level.index_at::<M::Geometry>(address);
        let mut run = Run { table, level, address, count: 1, present: 1 };
        while run.end::<M::Geometry>() < end && first + run.count < M::Geometry::ENTRIES {
            let entry = self.machine.read_entry(table, first + run.count);
            if K::is_present(entry) {
                let is_within = end - run.end::<M::Geometry>() >= level.bytes::<M::Geometry>();
                if !K::is_leaf(entry, level) || !is_within {
                    break;
                }
                run.present += 1;
            } else if !holes {
                break;
            }
            run.count += 1;
        }
        run
    }

    /// The common case of removing by itself, so that it costs little: the range is one page,
    /// which is mapped as such. Whatever is not that is for [`Memory::decide_remove`], which would
    /// decide the same here.
    #[inline(always)]
    pub(crate) fn decide_remove_page<K: RootKind>(
        &self,
        map: &PageMap<K>,
        range: VirtualRange,
    ) -> Option<Run> {
        let address = range.start_number();
        if range.pages() != 1 || address >= limit::<K, M::Geometry>() {
            return None;
        }
        let table = self.level_one_table(map, address)?;
        let index = Level::FIRST.index_at::<M::Geometry>(address);
        let run = Run { table, level: Level::FIRST, address, count: 1, present: 1 };
        K::is_present(self.machine.read_entry(table, index)).then_some(run)
    }

    /// Decides on a step of removing what is mapped from `start` to `end`.
    pub(crate) fn decide_remove<K: RootKind>(
        &self,
        root: Frame,
        (start, end): (u64, u64),
        supply: &TableSupply,
    ) -> Result<Plan, Error> {
        let leaf = match self.find::<K>(root, start, end) {
            Ok(leaf) => leaf,
            Err(next) => return Ok(Plan::Nothing(next)),
        };
        if self.must_split::<K>(leaf, (start, end), supply)? {
            return Ok(Plan::Split(leaf));
        }
        Ok(Plan::Entries(self.run::<K>(leaf, end, true)))
    }

    /// Decides on a step of changing what is mapped from `start` to `end`.
    fn decide_modify<K: RootKind>(
        &self,
        root: Frame,
        (start, end): (u64, u64),
        change: Change,
        supply: &TableSupply,
    ) -> Result<Plan, Error> {
        let not_mapped = |address| {
            let address = VirtualAddress::sign_extended(address);
            Err(Error::NotMapped { address })
        };
        let leaf = match self.find::<K>(root, start, end) {
            Ok(leaf) if leaf.next == start => leaf,
            _ => return not_mapped(start),
        };
        check_change::<K>(leaf.base, leaf.entry, change)?;
        if self.must_split::<K>(leaf, (start, end), supply)? {
            return Ok(Plan::Split(leaf));
        }
        let run = self.run::<K>(leaf, end, false);
        let first = run.level.index_at::<M::Geometry>(run.address);
        for index in 0..run.count {
            let entry = self.machine.read_entry(run.table, first + index);
            let address = run.address + ((index as u64) << run.level.bits::<M::Geometry>());
            check_change::<K>(address, entry, change)?;
        }
        // The run ends before the range and the table do only at a table, at a page that must be
        // split, or at a hole; a hole is refused now, while nothing is changed.
        let (next, index) = (run.end::<M::Geometry>(), first + run.count);
        if next < end
            && index < M::Geometry::ENTRIES
            && !K::is_present(self.machine.read_entry(run.table, index))
        {
            return not_mapped(next);
        }
        Ok(Plan::Entries(run))
    }

    /// Whether a page sticks out of the range; then everything for splitting it must be there.
    fn must_split<K: RootKind>(
        &self,
        leaf: Leaf,
        (start, end): (u64, u64),
        supply: &TableSupply,
    ) -> Result<bool, Error> {
        if leaf.base >= start && leaf.base + leaf.level.bytes::<M::Geometry>() <= end {
            return Ok(false);
        }
        supply.check(1)?;
        if K::attributes(leaf.entry).memory_type == MemoryType::WriteBack {
            let parts = self.parts_of::<K>(leaf);
            let mut frames = parts.frames::<M::Geometry>();
            frames.try_for_each(|part| self.state.check_room(parts.level, part))?;
        }
        Ok(true)
    }

    /// What the entries of the next lower level map when a page is split.
    fn parts_of<K: RootKind>(&self, leaf: Leaf) -> Units {
        let first = K::leaf_frame(leaf.entry, leaf.level);
        Units { level: leaf.level.lower(), first, count: M::Geometry::ENTRIES as u64 }
    }
}

/// A mapping made through a share does not gain rights.
fn check_change<K: RootKind>(address: u64, entry: Entry, change: Change) -> Result<(), Error> {
    let Attributes { rights: held, foreign, .. } = K::attributes(entry);
    match change {
        Change::Rights(asked) if foreign && !held.contains(asked) => {
            let address = VirtualAddress::sign_extended(address);
            Err(Error::Upgrade { address, asked, held })
        }
        _ => Ok(()),
    }
}

/// Applying.
impl<M: Machine, S: Storage> Memory<'_, M, S> {
    /// Adds what was decided for `units`, whose level and number are `LEVEL` and `COUNT` if these
    /// are not 0: shifts, and loops over levels and units, then cost next to nothing.
    #[inline(never)]
    fn add_units<K: RootKind, const LEVEL: u32, const COUNT: u64>(
        &mut self,
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
        let plan = self.decide_add(map, request, supply, units)?;
        if plan.missing == 0 {
            self.fill::<K>(plan, plan.table);
        } else {
            self.extend::<K>(plan, supply);
        }
        Ok(Added { tables: plan.missing, done: plan.done })
    }

    /// Writes the entries into `table`, and counts them and what they map.
    #[inline(always)]
    fn fill<K: RootKind>(&mut self, plan: Add, table: Frame) {
        let level = plan.units.level;
        let first = level.index_at::<M::Geometry>(plan.address);
        for (index, frame) in (first..).zip(plan.units.frames::<M::Geometry>()) {
            let entry = K::leaf(level, frame, plan.attributes);
            self.machine.write_entry(table, index, entry);
            if plan.attributes.memory_type == MemoryType::WriteBack {
                self.state.add_reference(level, frame);
            }
        }
        if level != Level::root::<M::Geometry>() {
            #[expect(clippy::cast_possible_truncation, reason = "at most a table's entries")]
            self.state.add_count(table, plan.units.count as u32);
        }
    }

    /// Makes the missing tables from the lowest up, and links them in when they are complete.
    #[cold]
    fn extend<K: RootKind>(&mut self, plan: Add, supply: &mut TableSupply) {
        let mut level = plan.units.level;
        let mut lower = None;
        for _ in 0..plan.missing {
            // There are enough: `decide_add` has seen them. T3: they are clear.
            let Some(page) = supply.take() else { return };
            self.state.set_status(page.frame(), Status::PageTable);
            self.link::<K>(plan, level, page.frame(), lower);
            lower = Some(page.frame());
            level = Level::at(level.number() + 1);
        }
        self.link::<K>(plan, level, plan.table, lower);
    }

    /// Makes a table of `level` point to the lower one, or, if it is the lowest, fills it.
    fn link<K: RootKind>(&mut self, plan: Add, level: Level, table: Frame, lower: Option<Frame>) {
        let Some(lower) = lower else {
            return self.fill::<K>(plan, table);
        };
        let index = level.index_at::<M::Geometry>(plan.address);
        self.machine.write_entry(table, index, K::table(lower));
        if level != Level::root::<M::Geometry>() {
            self.state.add_count(table, 1);
        }
    }

    /// Empties the entries, and unlinks the table and those above it that become empty. For
    /// each mapping that was there `each` is told, and for each table `freed`.
    #[inline(always)]
    pub(crate) fn clear_run<K: RootKind>(
        &mut self,
        root: Frame,
        run: Run,
        stamp: Option<Stamp>,
        mut each: impl FnMut(&mut M, MappingInfo),
        freed: impl FnMut(&mut Self, Frame),
    ) {
        let level = run.level;
        let first = level.index_at::<M::Geometry>(run.address);
        let mut address = run.address;
        for index in first..first + run.count {
            let entry = self.machine.exchange_entry(run.table, index, Entry::ABSENT);
            // Without holes none needs looking at: only marks can have changed since.
            if run.count == run.present as usize || K::is_present(entry) {
                let info = MappingInfo::new::<K>(address, level, entry);
                if info.attributes.memory_type == MemoryType::WriteBack {
                    self.state.drop_reference(level, info.frame, stamp);
                }
                each(&mut self.machine, info);
            }
            address += level.bytes::<M::Geometry>();
        }
        if level != Level::root::<M::Geometry>()
            && self.state.take_count(run.table, run.present) == 0
        {
            self.unlink::<K>(root, run, freed);
        }
    }

    /// Takes a table out, which is empty, and those above it that become empty by that.
    #[cold]
    fn unlink<K: RootKind>(
        &mut self,
        root: Frame,
        run: Run,
        mut freed: impl FnMut(&mut Self, Frame),
    ) {
        // The lowest table on the way to the entries that keeps another entry.
        let (mut keeps, mut keeps_level) = (root, Level::root::<M::Geometry>());
        let (mut table, mut level) = (keeps, keeps_level);
        while level > run.level {
            if table != root && self.state.count(table) > 1 {
                (keeps, keeps_level) = (table, level);
            }
            let index = level.index_at::<M::Geometry>(run.address);
            table = K::table_frame(self.machine.read_entry(table, index));
            level = level.lower();
        }
        if keeps != root {
            self.state.take_count(keeps, 1);
        }
        // From there down, each table after nothing points to it any more, and after its own
        // last entry is gone (T3).
        (table, level) = (keeps, keeps_level);
        while level > run.level {
            let index = level.index_at::<M::Geometry>(run.address);
            let entry = self.machine.exchange_entry(table, index, Entry::ABSENT);
            if table != keeps {
                freed(self, table);
            }
            (table, level) = (K::table_frame(entry), level.lower());
        }
        freed(self, table);
    }

    /// Removes entries of a range that goes on until `end`, if there may be more of it.
    #[inline(always)]
    fn remove_entries<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        run: Run,
        end: Option<u64>,
        mut each: impl FnMut(MappingInfo),
    ) -> Step {
        let root = map.root();
        let (is_loaded, stamp) = self.state.owe_for_root(cpu.index(), root);
        let one_by_one = is_loaded && run.present <= INVALIDATE_LIMIT;
        let mut tables = FreedTables::new(Invalidation::since(stamp));
        self.clear_run::<K>(
            root,
            run,
            stamp,
            |machine, info| {
                if one_by_one {
                    machine.invalidate_page(cpu, info.address);
                }
                each(info);
            },
            |memory, table| {
                memory.state.set_status(table, Status::Draining);
                tables.add(table);
            },
        );
        if tables.left() > 0 {
            map.forget_recent_table();
        }
        // A table that is gone must be forgotten by the paging-structure caches too.
        if is_loaded && (!one_by_one || tables.left() > 0) {
            self.flush(cpu);
        }
        let rest = end.and_then(|end| VirtualRange::rest(run.end::<M::Geometry>(), end));
        Step { mappings: run.present, tables, rest }
    }

    fn modify_entries<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        root: Frame,
        run: Run,
        change: Change,
        mut each: impl FnMut(MappingInfo),
    ) -> Invalidation {
        let (is_loaded, stamp) = self.state.owe_for_root(cpu.index(), root);
        let one_by_one = is_loaded && run.present <= INVALIDATE_LIMIT;
        let first = run.level.index_at::<M::Geometry>(run.address);
        let mut address = run.address;
        for index in first..first + run.count {
            let entry = self.machine.read_entry(run.table, index);
            let old = match change {
                Change::Rights(rights) => {
                    self.exchange_marked::<K>(run.table, index, K::with_rights(entry, rights))
                }
                // Marks made until now are told, and marks made from now on stay.
                Change::ResetUsage => {
                    self.machine.exchange_entry(run.table, index, K::without_usage(entry))
                }
            };
            let info = MappingInfo::new::<K>(address, run.level, old);
            if one_by_one {
                self.machine.invalidate_page(cpu, info.address);
            }
            each(info);
            address += run.level.bytes::<M::Geometry>();
        }
        if is_loaded && !one_by_one {
            self.flush(cpu);
        }
        Invalidation::since(stamp)
    }

    /// Replaces a leaf entry by a table of smaller ones that map the same.
    #[cold]
    fn split<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        root: Frame,
        leaf: Leaf,
        supply: &mut TableSupply,
    ) -> Invalidation {
        // There is one: `must_split` has seen it.
        let Some(page) = supply.take() else {
            return Invalidation::COMPLETE;
        };
        let table = page.frame();
        let (is_loaded, stamp) = self.state.owe_for_root(cpu.index(), root);
        self.state.set_status(table, Status::PageTable);
        let part = |index| K::split::<M::Geometry>(leaf.entry, leaf.level, index);
        for index in 0..M::Geometry::ENTRIES {
            self.machine.write_entry(table, index, part(index));
        }
        let index = leaf.level.index_at::<M::Geometry>(leaf.base);
        let old = self.machine.exchange_entry(leaf.table, index, K::table(table));
        if old != leaf.entry {
            // The processor marked the entry after it was read.
            for index in 0..M::Geometry::ENTRIES {
                self.exchange_marked::<K>(table, index, K::with_usage_of(part(index), old));
            }
        }
        let parts = self.parts_of::<K>(leaf);
        #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
        self.state.add_count(table, parts.count as u32);
        if K::attributes(leaf.entry).memory_type == MemoryType::WriteBack {
            for frame in parts.frames::<M::Geometry>() {
                self.state.add_reference(parts.level, frame);
            }
            self.state.drop_reference(leaf.level, parts.first, stamp);
        }
        if is_loaded {
            self.flush(cpu);
        }
        Invalidation::since(stamp)
    }

    /// Replaces a present entry and keeps the marks that the processor makes meanwhile (`hazards`
    /// 7). Returns what was there before.
    fn exchange_marked<K: RootKind>(&mut self, table: Frame, index: usize, new: Entry) -> Entry {
        let first = self.machine.exchange_entry(table, index, new);
        let (mut new, mut old) = (new, first);
        // There are two marks, and each can be missed once.
        for _ in 0..2 {
            let marked = K::with_usage_of(new, old);
            if marked == new {
                break;
            }
            new = marked;
            old = self.machine.exchange_entry(table, index, new);
        }
        first
    }

    /// Drops what this processor has cached of programs' translations.
    fn flush(&mut self, cpu: CurrentCpu) {
        self.machine.flush(cpu);
        self.state.note_flush(cpu.index(), false);
    }

    /// Removes mappings of whatever size.
    #[inline(never)]
    fn remove_range<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: VirtualRange,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Step, Error> {
        let bounds = range.below(limit::<K, M::Geometry>())?;
        Ok(match self.decide_remove::<K>(map.root(), bounds, supply)? {
            Plan::Nothing(next) => step(0, Invalidation::COMPLETE, next, bounds.1),
            Plan::Entries(run) => self.remove_entries(cpu, map, run, Some(bounds.1), each),
            Plan::Split(leaf) => {
                let since = self.split::<K>(cpu, map.root(), leaf, supply);
                step(0, since, leaf.next, bounds.1)
            }
        })
    }
}

/// A step after which `next` to `end` is left.
fn step(mappings: u32, since: Invalidation, next: u64, end: u64) -> Step {
    Step { mappings, tables: FreedTables::new(since), rest: VirtualRange::rest(next, end) }
}

impl<M: Machine, S: Storage> UserMemory for Memory<'_, M, S> {
    #[inline(always)]
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: Flexpage<Virtual>,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error> {
        if share.is_none()
            && let Some(plan) = self.decide_add_page(map, to, region, rights)
        {
            map.set_recent_table::<M::Geometry>(plan.address, plan.table);
            self.fill::<K>(plan, plan.table);
            return Ok(Added { tables: 0, done: 1 });
        }
        let request = Request { to, region, rights, share, done: 0 };
        self.resume_mapping(map, &request, supply)
    }

    fn resume_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        request: &Request<'_>,
        supply: &mut TableSupply,
    ) -> Result<Added, Error> {
        let (virtual_bits, physical_bits) = (request.to.bits(), request.region.bits());
        if virtual_bits != physical_bits {
            return Err(Error::SizesDiffer { virtual_bits, physical_bits });
        }
        let order = physical_bits - PAGE_BITS;
        let first = request.region.first_frame();
        let units = Units::of::<M::Geometry>(first, order, self.state.largest_leaf);
        match (units.level.number(), units.count) {
            (2, 1) => self.add_units::<K, 2, 1>(map, request, supply, units),
            (3, 1) => self.add_units::<K, 3, 1>(map, request, supply, units),
            (1, _) => self.add_units::<K, 1, 0>(map, request, supply, units),
            (2, _) => self.add_units::<K, 2, 0>(map, request, supply, units),
            _ => self.add_units::<K, 0, 0>(map, request, supply, units),
        }
    }

    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        change: Change,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Step, Error> {
        let bounds = range.into().below(limit::<K, M::Geometry>())?;
        let root = map.root();
        Ok(match self.decide_modify::<K>(root, bounds, change, supply)? {
            Plan::Nothing(next) => step(0, Invalidation::COMPLETE, next, bounds.1),
            Plan::Entries(run) => {
                let since = self.modify_entries::<K>(cpu, root, run, change, each);
                step(run.present, since, run.end::<M::Geometry>(), bounds.1)
            }
            Plan::Split(leaf) => {
                let since = self.split::<K>(cpu, root, leaf, supply);
                step(0, since, leaf.next, bounds.1)
            }
        })
    }

    #[inline(always)]
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        range: impl Into<VirtualRange>,
        supply: &mut TableSupply,
        each: impl FnMut(MappingInfo),
    ) -> Result<Step, Error> {
        let range = range.into();
        match self.decide_remove_page(map, range) {
            Some(run) => Ok(self.remove_entries(cpu, map, run, None, each)),
            None => self.remove_range(cpu, map, range, supply, each),
        }
    }

    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        address: VirtualAddress,
    ) -> Option<MappingInfo> {
        let start = address.page_start().get();
        if start >= limit::<K, M::Geometry>() {
            return None;
        }
        let leaf = self.find::<K>(map.root(), start, start + 1).ok()?;
        Some(MappingInfo::new::<K>(leaf.base, leaf.level, leaf.entry))
    }
}
