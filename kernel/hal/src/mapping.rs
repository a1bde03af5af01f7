//! Mappings of programs' memory: adding, changing, splitting, removing, reading, one page of
//! whatever size at a time.
//!
//! Invariants: T1 (an entry of a table is absent, maps memory that the page map may have, or
//! points to a table that nothing else points to; a table below the root is never empty, and its
//! record counts its entries), P1, O1, and L1 for what is removed.

use crate::prelude::*;
pub use heliox_types::mapping::{Change, MappingInfo};

/// Mappings of programs' memory (thesis section 4.4.2).
pub trait UserMemory {
    /// Log2 of the size of the largest page that the machine has, of at most `1 << most` bytes.
    fn page_bits(&self, most: u32) -> u32;

    /// Maps `region`, which has the size of a page of the machine, at `to`. As many page-map pages
    /// as tables are missing are taken out of `supply`.
    ///
    /// Memory of an owner other than the page map's takes a `share`.
    ///
    /// # Errors
    ///
    /// [`Error::NotOnePage`], [`Error::Misaligned`], [`Error::NotUser`], [`Error::WrongStatus`],
    /// [`Error::NotOwner`], [`Error::TooManyReferences`], [`Error::OutsideShare`],
    /// [`Error::NotGrantee`], [`Error::BeyondShare`], [`Error::AlreadyMapped`],
    /// [`Error::TablesNeeded`].
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<(), Error>;

    /// Changes the mapping of the page, of whatever size, that `at` lies in.
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`], [`Error::Upgrade`].
    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        change: Change,
    ) -> Result<Changed, Error>;

    /// Removes the mapping of the page, of whatever size, that `at` lies in.
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`].
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
    ) -> Result<Removed, Error>;

    /// Maps what the large page that `at` lies in maps by pages of the next smaller size instead.
    /// That takes one page out of `supply`.
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`], [`Error::NotLarge`], [`Error::TablesNeeded`],
    /// [`Error::TooManyReferences`].
    fn split_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        supply: &mut TableSupply,
    ) -> Result<Invalidation, Error>;

    /// The mapping of the page that `at` lies in.
    ///
    /// # Errors
    ///
    /// If there is none, the next address at which there can be one; `u64::MAX` if `at` is not an
    /// address of programs.
    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u64>;

    /// The same in as many steps as there are levels.
    ///
    /// # Errors
    ///
    /// If there is none, log2 of the size of the block of addresses around `at` that the first
    /// absent entry is for; 64 if `at` is not an address of programs.
    fn find_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u32>;
}

/// A mapping that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "other processors may not obey the change yet"]
pub struct Changed {
    /// The mapping as it was.
    pub mapping: MappingInfo,
    /// When every processor obeys the change.
    pub invalidation: Invalidation,
}

/// A mapping that was removed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tables may have become free"]
pub struct Removed {
    /// The mapping as it was.
    pub mapping: MappingInfo,
    /// When every processor obeys the removal.
    pub invalidation: Invalidation,
    /// The tables that became empty.
    pub tables: FreedTables,
}

/// Page tables that a removal left empty.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the pages are lost unless they are reclaimed"]
pub struct FreedTables {
    frames: [Frame; SUPPLY_LIMIT],
    count: usize,
    since: Invalidation,
}

impl Iterator for FreedTables {
    type Item = DrainingPage;

    fn next(&mut self) -> Option<DrainingPage> {
        self.count = self.count.checked_sub(1)?;
        let frame = *self.frames.get(self.count)?;
        Some(DrainingPage { frame, since: self.since })
    }
}

/// An entry of a table of `level`, and what is there.
#[derive(Clone, Copy, Debug)]
struct Slot {
    at: PhysicalAddress,
    level: Level,
    entry: Entry,
}

/// Number of the part of the address space, as large as a level-1 table translates, that `at` lies in.
fn part<G: Geometry>(at: u64) -> u64 {
    at >> (PAGE_BITS + G::INDEX_BITS)
}

/// Deciding.
impl<M: Machine> Memory<M> {
    /// Walks from the root to the entry for `at` of a table of level `to`, or to the first before
    /// that does not point to a table.
    #[inline(always)]
    fn walk<K: RootKind>(&self, map: &PageMap<K>, at: u64, to: Level) -> Slot {
        if to == Level::FIRST && map.recent.0 == part::<M::Geometry>(at) {
            let slot = map.recent.1.word(to.index_at::<M::Geometry>(at));
            return Slot { at: slot, level: to, entry: self.machine.read_entry(slot) };
        }
        self.walk_from_root::<K>(map.root, at, to)
    }

    #[inline(never)]
    fn walk_from_root<K: RootKind>(&self, root: Frame, at: u64, to: Level) -> Slot {
        let (mut table, mut level) = (root.address(), Level::root::<M::Geometry>());
        loop {
            let slot = table.word(level.index_at::<M::Geometry>(at));
            let entry = self.machine.read_entry(slot);
            if level <= to || !K::is_table(entry) {
                return Slot { at: slot, level, entry };
            }
            (table, level) = (K::address(entry), level.lower());
        }
    }

    /// The leaf entry of the page that `at` lies in.
    fn leaf<K: RootKind>(&self, map: &PageMap<K>, at: VirtualAddress) -> Result<Slot, Error> {
        if at.get() >= K::limit::<M::Geometry>() {
            return Err(Error::NotUser { start: at, pages: 1 });
        }
        let slot = self.walk(map, at.get(), Level::FIRST);
        if K::is_present(slot.entry) { Ok(slot) } else { Err(Error::NotMapped { address: at }) }
    }

    /// Where a page of `level` is to be mapped, of which level that is, and what the entry is to say.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "all that is checked")]
    fn decide_add<K: RootKind>(
        &self,
        level: Level,
        map: &PageMap<K>,
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &TableSupply,
    ) -> Result<(Slot, Level, Entry), Error> {
        let (start, bits) = (to.get(), region.bits());
        let last = start | ((1 << bits) - 1);
        if start & ((1 << bits) - 1) != 0 {
            return refuse(Error::Misaligned { start, bits });
        }
        if last >= K::limit::<M::Geometry>() {
            return refuse(Error::NotUser { start: to, pages: region.pages() });
        }
        let owner = match share {
            None => map.owner,
            Some(share) => share.allows(region, map.owner, rights)?,
        };
        let frame = region.first_frame();
        let memory_type = match region.kind() {
            RegionKind::Ram => {
                self.state.check_reference(level, frame, owner)?;
                MemoryType::WriteBack
            }
            // Device memory never changes its status, so that mappings of it need no counting; all
            // of it is domain 0's.
            _ if owner != OwnerCode::of(DomainId::ZERO) => {
                let owner = Some(Owner::Domain(DomainId::ZERO));
                return refuse(Error::NotOwner { frame, owner });
            }
            kind => kind.memory_type(),
        };
        let slot = self.walk(map, start, level);
        if K::is_present(slot.entry) {
            return refuse(Error::AlreadyMapped { address: to });
        }
        if slot.level > level {
            check_supply(supply, (slot.level.number() - level.number()) as usize)?;
        }
        let attributes = Attributes { rights, memory_type, foreign: share.is_some() };
        Ok((slot, level, K::leaf(level, frame, attributes)))
    }

    #[inline(never)]
    fn decide_large<K: RootKind>(
        &self,
        map: &PageMap<K>,
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &TableSupply,
    ) -> Result<(Slot, Level, Entry), Error> {
        let level = region.level::<M::Geometry>(self.machine.largest_leaf())?;
        self.decide_add(level, map, to, region, rights, share, supply)
    }

    /// A mapping made through a share does not gain rights.
    fn decide_modify<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
        change: Change,
    ) -> Result<Slot, Error> {
        let slot = self.leaf(map, at)?;
        let Attributes { rights: held, foreign, .. } = K::attributes(slot.entry);
        match change {
            Change::Rights(asked) if foreign && !held.contains(asked) => {
                Err(Error::Upgrade { address: at, asked, held })
            }
            _ => Ok(slot),
        }
    }

    /// Everything that splitting takes must be there: a table, and room in the parts' counts.
    fn decide_split<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
        supply: &TableSupply,
    ) -> Result<Slot, Error> {
        let slot = self.leaf(map, at)?;
        let below = slot.level.below().ok_or(Error::NotLarge { address: at })?;
        check_supply(supply, 1)?;
        let mut parts = slot.level.parts::<M::Geometry>(K::frame(slot.entry));
        let is_full = |part: &Frame| self.state.record(below, *part).is_full();
        match parts.find(is_full) {
            Some(frame) => Err(Error::TooManyReferences { frame }),
            None => Ok(slot),
        }
    }
}

/// Applying.
impl<M: Machine> Memory<M> {
    /// Makes the tables that are missing from `level` up to below `end`, the lowest of which has
    /// `entry`, and returns the entry that points to the highest: they are linked in when they are
    /// complete.
    #[cold]
    fn extend<K: RootKind>(
        &mut self,
        at: u64,
        mut level: Level,
        end: Level,
        mut entry: Entry,
        supply: &mut TableSupply,
    ) -> Entry {
        while level < end
            && let Some(page) = supply.take()
        {
            // T3: it is clear.
            self.state.set_status(page.frame, Status::PageTable);
            let slot = page.frame.word(level.index_at::<M::Geometry>(at));
            self.machine.write_entry(slot, entry);
            self.state.add_count(Level::FIRST, page.frame);
            entry = K::table(page.frame);
            level = level.above::<M::Geometry>().unwrap_or(end);
        }
        entry
    }

    /// Takes a table out, which is empty, and those above it that become empty by that, from the
    /// lowest up: each is draining when nothing points to it any more (T1, T3).
    #[cold]
    fn unlink<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        at: u64,
        empty: Slot,
        since: Invalidation,
    ) -> FreedTables {
        map.recent = PageMap::<K>::NO_RECENT;
        let mut freed = FreedTables { frames: [Frame::ZERO; SUPPLY_LIMIT], count: 0, since };
        let (mut table, mut level) = (empty.at.frame(), empty.level);
        while table != map.root {
            level = level.above::<M::Geometry>().unwrap_or(level);
            let above = self.walk(map, at, level).at;
            self.machine.exchange_entry(above, Entry::ABSENT);
            self.state.set_status(table, Status::Draining);
            if let Some(slot) = freed.frames.get_mut(freed.count) {
                *slot = table;
                freed.count += 1;
            }
            table = above.frame();
            if self.state.take_count(Level::FIRST, table) > 0 {
                break;
            }
        }
        freed
    }
}

impl<M: Machine> UserMemory for Memory<M> {
    fn page_bits(&self, most: u32) -> u32 {
        let levels = Level::leaves::<M::Geometry>().rev();
        let mut levels = levels.skip_while(|level| *level > self.machine.largest_leaf());
        let bits = levels.find(|level| level.bits::<M::Geometry>() <= most);
        bits.map_or(PAGE_BITS, Level::bits::<M::Geometry>)
    }

    #[inline(always)]
    fn add_mapping<K: RootKind>(
        &mut self,
        map: &mut PageMap<K>,
        to: VirtualAddress,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
        supply: &mut TableSupply,
    ) -> Result<(), Error> {
        // The common size by itself: what depends on the level is a constant there.
        let (slot, level, entry) = match region.bits() {
            PAGE_BITS => self.decide_add(Level::FIRST, map, to, region, rights, share, supply)?,
            _ => self.decide_large(map, to, region, rights, share, supply)?,
        };
        if slot.level == Level::FIRST {
            map.recent = (part::<M::Geometry>(to.get()), slot.at.frame());
        }
        if region.kind() == RegionKind::Ram {
            self.state.add_count(level, region.first_frame());
        }
        let entry = match slot.level == level {
            true => entry,
            false => self.extend::<K>(to.get(), level, slot.level, entry, supply),
        };
        self.machine.write_entry(slot.at, entry);
        self.state.add_count(Level::FIRST, slot.at.frame());
        Ok(())
    }

    fn modify_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        change: Change,
    ) -> Result<Changed, Error> {
        let slot = self.decide_modify(map, at, change)?;
        let (is_loaded, invalidation) = self.state.owe(cpu.index(), Some(map.root));
        let (clear, set) = match change {
            Change::Rights(rights) => K::rights_bits(rights),
            Change::ResetUsage => (K::ACCESSED | K::DIRTY, 0),
        };
        let old = self.machine.change_entry(slot.at, clear, set);
        if is_loaded {
            self.machine.invalidate_page(cpu, at);
        }
        let mapping = MappingInfo::of::<M::Geometry, K>(at.get(), slot.level, old);
        Ok(Changed { mapping, invalidation })
    }

    #[inline]
    fn remove_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
    ) -> Result<Removed, Error> {
        let slot = self.leaf(map, at)?;
        let (is_loaded, since) = self.state.owe(cpu.index(), Some(map.root));
        let old = self.machine.exchange_entry(slot.at, Entry::ABSENT);
        let mapping = MappingInfo::of::<M::Geometry, K>(at.get(), slot.level, old);
        if mapping.attributes.memory_type == MemoryType::WriteBack {
            self.state.drop_reference(slot.level, mapping.frame, since);
        }
        let is_empty = self.state.take_count(Level::FIRST, slot.at.frame()) == 0;
        let tables = match is_empty {
            true => self.unlink(map, at.get(), slot, since),
            false => FreedTables { frames: [Frame::ZERO; SUPPLY_LIMIT], count: 0, since },
        };
        if is_loaded {
            match is_empty {
                // A table that is gone must be forgotten by the paging-structure caches too.
                true => self.machine.flush(cpu),
                false => self.machine.invalidate_page(cpu, at),
            }
        }
        Ok(Removed { mapping, invalidation: since, tables })
    }

    fn split_mapping<K: RootKind>(
        &mut self,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        at: VirtualAddress,
        supply: &mut TableSupply,
    ) -> Result<Invalidation, Error> {
        let Slot { at: whole, level, entry } = self.decide_split(map, at, supply)?;
        // There is one: `decide_split` has seen it.
        let Some(page) = supply.take() else { return Ok(Invalidation::COMPLETE) };
        let (is_loaded, since) = self.state.owe(cpu.index(), Some(map.root));
        self.state.set_status(page.frame, Status::PageTable);
        let (first, attributes) = (K::frame(entry), K::attributes(entry));
        let is_counted = attributes.memory_type == MemoryType::WriteBack;
        for (index, part) in level.parts::<M::Geometry>(first).enumerate() {
            let usage = entry.0 & (K::ACCESSED | K::DIRTY);
            let part_entry = Entry(K::leaf(level.lower(), part, attributes).0 | usage);
            self.machine.write_entry(page.frame.word(index), part_entry);
            self.state.add_count(Level::FIRST, page.frame);
            if is_counted {
                self.state.add_count(level.lower(), part);
            }
        }
        let old = self.machine.exchange_entry(whole, K::table(page.frame));
        if old != entry {
            // The processor marked the entry after it was read.
            for index in 0..M::Geometry::ENTRIES {
                let usage = old.0 & (K::ACCESSED | K::DIRTY);
                self.machine.change_entry(page.frame.word(index), 0, usage);
            }
        }
        if is_counted {
            self.state.drop_reference(level, first, since);
        }
        if is_loaded {
            self.machine.flush(cpu);
        }
        Ok(since)
    }

    fn read_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u64> {
        let slot = match self.leaf(map, at) {
            Ok(slot) => {
                return Ok(MappingInfo::of::<M::Geometry, K>(at.get(), slot.level, slot.entry));
            }
            Err(Error::NotMapped { .. }) => self.walk(map, at.get(), Level::FIRST),
            Err(_) => return Err(u64::MAX),
        };
        // Over the absent entries of this table.
        let (mut next, table) = (at.get(), slot.at.frame());
        for index in slot.at.word_index() + 1..=M::Geometry::ENTRIES {
            next = (next | (slot.level.bytes::<M::Geometry>() - 1)) + 1;
            if index < M::Geometry::ENTRIES
                && K::is_present(self.machine.read_entry(table.word(index)))
            {
                break;
            }
        }
        Err(next)
    }

    fn find_mapping<K: RootKind>(
        &self,
        map: &PageMap<K>,
        at: VirtualAddress,
    ) -> Result<MappingInfo, u32> {
        match self.leaf(map, at) {
            Ok(slot) => Ok(MappingInfo::of::<M::Geometry, K>(at.get(), slot.level, slot.entry)),
            Err(Error::NotMapped { .. }) => {
                Err(self.walk(map, at.get(), Level::FIRST).level.bits::<M::Geometry>())
            }
            Err(_) => Err(u64::BITS),
        }
    }
}
