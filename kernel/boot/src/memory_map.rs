//! Which physical memory there is, and which of it the kernel may use.
//!
//! The kernel's memory-safety rests on this map: a page that it calls usable and that is not
//! plain memory, or that something else uses, breaks every promise. The map hides how entries of
//! a boot loader, in any order, overlapping and unaligned, become areas with these invariants:
//!
//! - areas are sorted, disjoint, not empty, and consist of whole 4 KiB frames;
//! - neighbours that touch have different kinds;
//! - a frame is usable only if no entry gave any of its bytes another kind: usable entries are
//!   rounded inwards, all others outwards, and where entries overlap the less usable kind wins;
//! - running out of room never makes a frame more usable: usable areas are given up first, and if
//!   there is none, areas of other kinds grow together.
//!
//! The map is built in two steps, and the types keep them apart. [`MemoryMap::rebuild`] empties
//! it and gives a [`MemoryMapBuilder`], the only way to add entries. After that the map only
//! changes by [`MemoryMap::reserve`], which takes usable memory away, never adds any.

use core::fmt;

use heliox_types::{Frame, FrameRange, PAGE_BITS, PAGE_BYTES, PHYSICAL_BITS, PageSize};

use crate::{Diagnostic, Diagnostics};

/// What an area of physical memory is, from the most to the least usable kind.
///
/// What is in no area is not memory: nothing, or registers of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryKind {
    /// Memory that nobody uses.
    Usable,
    /// Memory that was usable and that boot has put to a use: the kernel, modules, structures of
    /// the boot loader.
    InUse,
    /// Memory with ACPI tables; would be usable once they have been read.
    AcpiReclaimable,
    /// Memory that belongs to the firmware (ACPI non-volatile storage).
    AcpiNonVolatile,
    /// Firmware, registers of devices, or memory that the firmware keeps for itself.
    Reserved,
    /// Memory that does not work.
    Defective,
}

impl MemoryKind {
    /// Whether this is [`MemoryKind::Usable`].
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Usable)
    }

    /// The kind that a number of the E820 interface stands for, which PVH and Multiboot2 use too
    /// (ACPI specification 6.5, table 15.374). Numbers without a meaning are reserved.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNonVolatile,
            5 => Self::Defective,
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Usable => "usable",
            Self::InUse => "in use",
            Self::AcpiReclaimable => "ACPI tables",
            Self::AcpiNonVolatile => "ACPI non-volatile",
            Self::Reserved => "reserved",
            Self::Defective => "defective",
        })
    }
}

/// Consecutive frames of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The frames; never empty in a [`MemoryMap`].
    pub frames: FrameRange,
    /// What they are.
    pub kind: MemoryKind,
}

impl Area {
    const EMPTY: Self = Self { frames: FrameRange::EMPTY, kind: MemoryKind::Reserved };
}

impl fmt::Display for Area {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.frames, self.kind)
    }
}

/// How far physical memory can reach on this machine and in this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number one past the last frame that the processor can address.
    addressable: u64,
    /// Number one past the last frame that may be usable; at most `addressable`.
    manageable: u64,
}

impl Limits {
    /// Limits of a processor with `physical_address_bits` bits of physical address (CPUID leaf
    /// 0x80000008, EAX bits 7 to 0), for a kernel that can manage frames with numbers below
    /// `manageable_frames`.
    ///
    /// More than 52 bits are taken as 52.
    #[must_use]
    pub const fn new(physical_address_bits: u32, manageable_frames: u64) -> Self {
        let bits = if physical_address_bits > PHYSICAL_BITS {
            PHYSICAL_BITS
        } else {
            physical_address_bits
        };
        let addressable = (1 << bits) >> PAGE_BITS;
        Self {
            addressable,
            manageable: if manageable_frames < addressable {
                manageable_frames
            } else {
                addressable
            },
        }
    }

    /// Number one past the last frame that an area of `kind` may have.
    const fn end(self, kind: MemoryKind) -> u64 {
        if kind.is_usable() { self.manageable } else { self.addressable }
    }
}

/// Where [`MemoryMap::find_free`] begins to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// At the lowest frame.
    Lowest,
    /// At the highest frame.
    Highest,
}

/// The areas of physical memory; see the module's description for the invariants.
///
/// Holds at most `SLOTS - 2` areas: two slots are needed while an area is cut in three. `SLOTS`
/// is at least 4.
#[derive(Clone, Debug)]
pub struct MemoryMap<const SLOTS: usize = 128> {
    areas: [Area; SLOTS],
    /// At most `Self::CAPACITY` except within `put`.
    count: usize,
}

impl<const SLOTS: usize> MemoryMap<SLOTS> {
    /// How many areas the map can hold.
    pub const CAPACITY: usize = {
        assert!(SLOTS >= 4, "a memory map needs four slots");
        SLOTS - 2
    };

    /// The map without areas.
    #[must_use]
    pub const fn empty() -> Self {
        Self { areas: [Area::EMPTY; SLOTS], count: 0 }
    }

    /// Empties the map and gives the builder that fills it again.
    ///
    /// What is refused or changed is recorded in `diagnostics`.
    pub const fn rebuild<'a>(
        &'a mut self,
        limits: Limits,
        diagnostics: &'a mut Diagnostics,
    ) -> MemoryMapBuilder<'a, SLOTS> {
        self.clear();
        MemoryMapBuilder { map: self, limits, diagnostics }
    }

    /// Removes all areas.
    pub(crate) const fn clear(&mut self) {
        self.count = 0;
    }

    /// The areas, in rising order.
    #[must_use]
    pub fn areas(&self) -> &[Area] {
        self.areas.get(..self.count).unwrap_or(&[])
    }

    /// The usable areas, in rising order.
    pub fn usable(&self) -> impl DoubleEndedIterator<Item = FrameRange> + '_ {
        self.areas().iter().filter(|area| area.kind.is_usable()).map(|area| area.frames)
    }

    /// Number of usable frames.
    #[must_use]
    pub fn usable_frames(&self) -> u64 {
        // Areas are disjoint, so the sum is at most `Frame::LIMIT`.
        self.usable().map(FrameRange::count).sum()
    }

    /// The usable frame with the highest number.
    #[must_use]
    pub fn highest_usable(&self) -> Option<Frame> {
        let last = self.usable().next_back()?;
        Frame::new(last.end().checked_sub(1)?)
    }

    /// The kind of `frame`; `None` if it is in no area.
    #[must_use]
    pub fn kind_of(&self, frame: Frame) -> Option<MemoryKind> {
        self.areas()
            .get(self.first_ending_after(frame.number()))
            .filter(|area| area.frames.contains(frame))
            .map(|area| area.kind)
    }

    /// Whether every frame of `frames` is usable (true for an empty range).
    #[must_use]
    pub fn is_usable(&self, frames: FrameRange) -> bool {
        // Usable areas do not touch each other, so the frames must be in one.
        let area = self.areas().get(self.first_ending_after(frames.start()));
        let good = |area: &Area| area.kind.is_usable() && area.frames.contains_range(frames);
        area.is_some_and(good) || frames.is_empty()
    }

    /// Whether there can be registers of a device at `frame`.
    #[must_use]
    pub fn may_be_device(&self, frame: Frame) -> bool {
        matches!(self.kind_of(frame), None | Some(MemoryKind::Reserved))
    }

    /// Whether some frame of `frames` is memory, free or in use.
    #[must_use]
    pub fn has_memory(&self, frames: FrameRange) -> bool {
        let memory = |kind| matches!(kind, MemoryKind::Usable | MemoryKind::InUse);
        let first = self.first_ending_after(frames.start());
        let areas = self.areas().iter().skip(first);
        areas.take_while(|area| area.frames.start() < frames.end()).any(|area| memory(area.kind))
    }

    /// The areas that have frames in `frames`, in rising order, whole.
    pub fn overlapping(&self, frames: FrameRange) -> impl Iterator<Item = Area> + '_ {
        self.areas().iter().copied().filter(move |area| area.frames.overlaps(frames))
    }

    /// Marks what is usable in `frames` as [`MemoryKind::InUse`]. Everything else stays what it
    /// is.
    ///
    /// If the map has no room for another area, usable memory is given up, which is recorded in
    /// `diagnostics`.
    pub fn reserve(&mut self, frames: FrameRange, diagnostics: &mut Diagnostics) {
        self.overlay(frames, diagnostics, |_, old, _| match old {
            Some(MemoryKind::Usable) => Some(MemoryKind::InUse),
            _ => old,
        });
    }

    /// A range of `count` usable frames that begins at a multiple of `alignment` and has no frame
    /// in common with any range of `forbidden`: the lowest or the highest there is.
    ///
    /// `None` if there is no such range, and for a `count` of 0. Does not reserve it.
    #[must_use]
    pub fn find_free(
        &self,
        count: u64,
        alignment: PageSize,
        forbidden: &[FrameRange],
        preference: Preference,
    ) -> Option<FrameRange> {
        if count == 0 {
            return None;
        }
        match preference {
            Preference::Lowest => self
                .usable()
                .find_map(|area| lowest_fit(area, count, alignment.frames(), forbidden)),
            Preference::Highest => self
                .usable()
                .rev()
                .find_map(|area| highest_fit(area, count, alignment.frames(), forbidden)),
        }
    }

    /// Index of the first area that ends after frame number `frame`.
    fn first_ending_after(&self, frame: u64) -> usize {
        self.areas().partition_point(|area| area.frames.end() <= frame)
    }

    /// Gives each frame of `range` the kind that `change` makes of its present one (`None`: in
    /// no area), keeping the invariants. `change` is told the frames of each part.
    fn overlay(
        &mut self,
        range: FrameRange,
        diagnostics: &mut Diagnostics,
        mut change: impl FnMut(FrameRange, Option<MemoryKind>, &mut Diagnostics) -> Option<MemoryKind>,
    ) {
        // Each turn handles the part of one area or one gap and ends where that ends. `shed`
        // removes boundaries and adds none, so there are at most 2 * SLOTS turns.
        let mut cursor = range.start();
        while cursor < range.end() {
            let index = self.first_ending_after(cursor);
            let (end, old) = match self.areas().get(index) {
                Some(area) if area.frames.start() <= cursor => (area.frames.end(), Some(*area)),
                Some(area) => (area.frames.start(), None),
                None => (range.end(), None),
            };
            let Some(frames) = FrameRange::new(cursor, end.min(range.end())) else {
                return;
            };
            let old_kind = old.map(|area| area.kind);
            if let Some(kind) = change(frames, old_kind, diagnostics)
                && old_kind != Some(kind)
            {
                self.put(index, old, Area { frames, kind });
                self.shed(diagnostics);
            }
            cursor = frames.end();
        }
    }

    /// Puts `new` into the map, which lies wholly in `old`, the area at `index`, or in the gap
    /// before the area at `index` if `old` is `None`. There must be two free slots.
    fn put(&mut self, index: usize, old: Option<Area>, new: Area) {
        if let Some(old) = old
            && let Some(slot) = self.areas.get_mut(index)
        {
            let (before, behind) = old.frames.without(new.frames);
            // Empty parts vanish in `compact`.
            *slot = Area { frames: behind, kind: old.kind };
            self.insert(index, new);
            self.insert(index, Area { frames: before, kind: old.kind });
        } else {
            self.insert(index, new);
        }
        self.compact();
    }

    /// Inserts `area` at `index`, moving the areas from there on up.
    fn insert(&mut self, index: usize, area: Area) {
        if let Some(tail @ [_, ..]) = self.areas.get_mut(index..=self.count) {
            tail.rotate_right(1);
            if let Some(slot) = tail.first_mut() {
                *slot = area;
            }
            self.count += 1;
        }
    }

    /// Removes empty areas and joins neighbours of one kind that touch.
    fn compact(&mut self) {
        let mut kept: usize = 0;
        for index in 0..self.count {
            let Some(&area) = self.areas.get(index) else {
                break;
            };
            if area.frames.is_empty() {
                continue;
            }
            if let Some(previous) = kept.checked_sub(1).and_then(|last| self.areas.get_mut(last))
                && previous.kind == area.kind
                && previous.frames.end() == area.frames.start()
                && let Some(joint) = FrameRange::new(previous.frames.start(), area.frames.end())
            {
                previous.frames = joint;
            } else if let Some(slot) = self.areas.get_mut(kept) {
                *slot = area;
                kept += 1;
            }
        }
        self.count = kept;
    }

    /// Brings the number of areas down to the capacity without making any frame more usable: the
    /// smallest usable areas go first; if there is none, the two areas with the smallest gap
    /// between them are joined.
    fn shed(&mut self, diagnostics: &mut Diagnostics) {
        while self.count > Self::CAPACITY {
            let smallest_usable = self
                .areas
                .iter_mut()
                .take(self.count)
                .filter(|area| area.kind.is_usable())
                .min_by_key(|area| area.frames.count());
            if let Some(area) = smallest_usable {
                diagnostics.record(Diagnostic::UsableAreaDropped { frames: area.frames });
                *area = Area::EMPTY;
            } else {
                self.join_nearest(diagnostics);
            }
            self.compact();
        }
    }

    /// Joins the two areas with the smallest gap between them under the less usable kind. Only
    /// called when no area is usable.
    fn join_nearest(&mut self, diagnostics: &mut Diagnostics) {
        let gap = |pair: &[Area]| match pair {
            [left, right] => right.frames.start().saturating_sub(left.frames.end()),
            _ => u64::MAX,
        };
        let nearest = (0..self.count.saturating_sub(1))
            .min_by_key(|&index| self.areas.get(index..index + 2).map_or(u64::MAX, gap));
        let pair = nearest.and_then(|index| self.areas.get_mut(index..index + 2));
        if let Some([left, right]) = pair
            && let Some(frames) = FrameRange::new(left.frames.start(), right.frames.end())
        {
            let kind = left.kind.max(right.kind);
            diagnostics.record(Diagnostic::AreasJoined { frames, kind });
            *left = Area { frames, kind };
            *right = Area::EMPTY;
        }
    }
}

impl<const SLOTS: usize> Default for MemoryMap<SLOTS> {
    fn default() -> Self {
        Self::empty()
    }
}

/// Fills a [`MemoryMap`] with the entries of a boot loader.
#[derive(Debug)]
pub struct MemoryMapBuilder<'a, const SLOTS: usize = 128> {
    map: &'a mut MemoryMap<SLOTS>,
    limits: Limits,
    diagnostics: &'a mut Diagnostics,
}

impl<const SLOTS: usize> MemoryMapBuilder<'_, SLOTS> {
    /// Adds the `length` bytes from physical address `start` on as memory of `kind`. Entries may
    /// come in any order, overlap, wrap and be unaligned; see the module's description.
    pub fn add(&mut self, start: u64, length: u64, kind: MemoryKind) {
        if length == 0 {
            self.diagnostics.record(Diagnostic::EmptyEntry { start, kind });
            return;
        }
        let limit = self.limits.end(kind) << PAGE_BITS;
        let end = match start.checked_add(length) {
            Some(end) => end,
            None => {
                self.diagnostics.record(Diagnostic::WrappingEntry { start, length, kind });
                if kind.is_usable() {
                    return;
                }
                u64::MAX
            }
        };
        if start >= limit {
            self.diagnostics.record(Diagnostic::EntryPastEnd { start, length, kind, end: limit });
            return;
        }
        if end > limit {
            self.diagnostics.record(Diagnostic::EntryClipped { start, length, kind, end: limit });
        }
        let end = end.min(limit);
        let (first, last) = if kind.is_usable() {
            (start.div_ceil(PAGE_BYTES), end / PAGE_BYTES)
        } else {
            (start / PAGE_BYTES, end.div_ceil(PAGE_BYTES))
        };
        // A usable entry may have no whole page: then `first` is `last`, or one more.
        let Some(frames) = FrameRange::new(first, last.max(first)) else {
            return;
        };
        if !start.is_multiple_of(PAGE_BYTES) || !end.is_multiple_of(PAGE_BYTES) {
            self.diagnostics.record(Diagnostic::EntryRounded { start, length, kind, frames });
        }
        self.map.overlay(frames, self.diagnostics, |frames, old, diagnostics| match old {
            Some(old) if old != kind => {
                let (taken, ignored) = (old.max(kind), old.min(kind));
                diagnostics.record(Diagnostic::EntriesOverlap { frames, taken, ignored });
                Some(taken)
            }
            _ => Some(kind),
        });
    }
}

/// The lowest `count` frames of `area` that begin at a multiple of `alignment` and miss
/// `forbidden`.
fn lowest_fit(
    area: FrameRange,
    count: u64,
    alignment: u64,
    forbidden: &[FrameRange],
) -> Option<FrameRange> {
    let mut start = area.start().checked_next_multiple_of(alignment)?;
    // Each turn goes past one forbidden range for good, so one turn more than there are suffices.
    for _ in 0..=forbidden.len() {
        let candidate = FrameRange::new(start, start.checked_add(count)?)?;
        if !area.contains_range(candidate) {
            return None;
        }
        match forbidden.iter().find(|range| range.overlaps(candidate)) {
            None => return Some(candidate),
            Some(obstacle) => start = obstacle.end().checked_next_multiple_of(alignment)?,
        }
    }
    None
}

/// The highest `count` frames of `area` that begin at a multiple of `alignment` and miss
/// `forbidden`.
fn highest_fit(
    area: FrameRange,
    count: u64,
    alignment: u64,
    forbidden: &[FrameRange],
) -> Option<FrameRange> {
    let align_down = |frame: u64| frame - frame.checked_rem(alignment).unwrap_or(0);
    let mut start = align_down(area.end().checked_sub(count)?);
    for _ in 0..=forbidden.len() {
        let candidate = FrameRange::new(start, start.checked_add(count)?)?;
        if !area.contains_range(candidate) {
            return None;
        }
        match forbidden.iter().find(|range| range.overlaps(candidate)) {
            None => return Some(candidate),
            Some(obstacle) => start = align_down(obstacle.start().checked_sub(count)?),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use MemoryKind::*;

    const PAGES: u64 = 48;
    const LIMITS: Limits = Limits::new(52, u64::MAX);

    /// An entry as a boot loader gives it.
    #[derive(Clone, Copy, Debug)]
    struct Entry {
        start: u64,
        length: u64,
        kind: MemoryKind,
    }

    const fn entry(start: u64, length: u64, kind: MemoryKind) -> Entry {
        Entry { start, length, kind }
    }

    fn build<const SLOTS: usize>(
        entries: &[Entry],
        limits: Limits,
    ) -> (MemoryMap<SLOTS>, Diagnostics) {
        let mut map = MemoryMap::empty();
        let mut diagnostics = Diagnostics::empty();
        let mut builder = map.rebuild(limits, &mut diagnostics);
        for entry in entries {
            builder.add(entry.start, entry.length, entry.kind);
        }
        (map, diagnostics)
    }

    fn areas(entries: &[Entry]) -> Vec<(u64, u64, MemoryKind)> {
        let (map, _) = build::<128>(entries, LIMITS);
        map.areas().iter().map(|area| (area.frames.start(), area.frames.end(), area.kind)).collect()
    }

    fn assert_invariants<const SLOTS: usize>(map: &MemoryMap<SLOTS>) {
        assert!(map.areas().len() <= MemoryMap::<SLOTS>::CAPACITY);
        assert!(map.areas().iter().all(|area| !area.frames.is_empty()));
        for pair in map.areas().windows(2) {
            assert!(pair[0].frames.end() <= pair[1].frames.start());
            assert!(pair[0].frames.end() < pair[1].frames.start() || pair[0].kind != pair[1].kind);
        }
    }

    /// What each page of the first `PAGES` must be: by looking at every entry for every page.
    fn oracle(entries: &[Entry], manageable: u64) -> Vec<Option<MemoryKind>> {
        (0..PAGES)
            .map(|page| {
                let (first, end) = (u128::from(page) << 12, u128::from(page + 1) << 12);
                let mut kind = None;
                for entry in entries {
                    let start = u128::from(entry.start);
                    let last = start + u128::from(entry.length);
                    let applies = match entry.kind {
                        Usable => {
                            start <= first && end <= last && last < 1 << 64 && page < manageable
                        }
                        _ => entry.length != 0 && start < end && first < last,
                    };
                    if applies {
                        kind = kind.max(Some(entry.kind));
                    }
                }
                kind
            })
            .collect()
    }

    fn kinds<const SLOTS: usize>(map: &MemoryMap<SLOTS>) -> Vec<Option<MemoryKind>> {
        (0..PAGES).map(|page| map.kind_of(Frame::new(page).unwrap())).collect()
    }

    #[test]
    fn a_usual_map_of_a_machine() {
        let entries = [
            entry(0, 0x9fc00, Usable),
            entry(0x9fc00, 0x400, Reserved),
            entry(0xf0000, 0x10000, Reserved),
            entry(0x100000, 0x7ee0000, Usable),
            entry(0x7fe0000, 0x20000, Reserved),
            entry(0xfffc0000, 0x40000, Reserved),
        ];
        let (map, diagnostics) = build::<128>(&entries, LIMITS);
        assert_eq!(
            areas(&entries),
            [
                (0, 0x9f, Usable),
                (0x9f, 0xa0, Reserved),
                (0xf0, 0x100, Reserved),
                (0x100, 0x7fe0, Usable),
                (0x7fe0, 0x8000, Reserved),
                (0xfffc0, 0x100000, Reserved),
            ]
        );
        assert_eq!(diagnostics.as_slice().len(), 2);
        assert_eq!(
            diagnostics.as_slice()[0].to_string(),
            "memory map: rounded the entry of 0x9fc00 bytes (usable) at 0x0 to 0x0..0x9f000"
        );
        assert_eq!(map.usable_frames(), 0x9f + 0x7ee0);
        assert_eq!(map.highest_usable(), Frame::new(0x7fdf));
    }

    #[test]
    fn usable_is_rounded_inwards_and_the_rest_outwards() {
        assert_eq!(areas(&[entry(0x800, 0x2000, Usable)]), [(1, 2, Usable)]);
        assert_eq!(areas(&[entry(0x800, 0x2000, Reserved)]), [(0, 3, Reserved)]);
        assert_eq!(areas(&[entry(0x800, 0x400, Usable)]), []);
        assert_eq!(areas(&[entry(0xfff, 2, Defective)]), [(0, 2, Defective)]);
    }

    #[test]
    fn the_less_usable_kind_wins() {
        let entries = [entry(0, 0x5000, Usable), entry(0x2000, 0x1000, Reserved)];
        let expected = [(0, 2, Usable), (2, 3, Reserved), (3, 5, Usable)];
        assert_eq!(areas(&entries), expected);
        assert_eq!(areas(&[entries[1], entries[0]]), expected);
        let (_, diagnostics) = build::<128>(&entries, LIMITS);
        assert_eq!(
            diagnostics.as_slice(),
            [Diagnostic::EntriesOverlap {
                frames: FrameRange::new(2, 3).unwrap(),
                taken: Reserved,
                ignored: Usable,
            }]
        );
    }

    #[test]
    fn neighbours_of_one_kind_are_merged() {
        assert_eq!(
            areas(&[
                entry(0x2000, 0x1000, Usable),
                entry(0, 0x1000, Usable),
                entry(0x1000, 0x1000, Usable),
                entry(0x3000, 0x1000, Reserved),
            ]),
            [(0, 3, Usable), (3, 4, Reserved)]
        );
    }

    #[test]
    fn empty_entries_are_dropped() {
        let (map, diagnostics) = build::<128>(&[entry(0x1000, 0, Reserved)], LIMITS);
        assert!(map.areas().is_empty());
        assert_eq!(
            diagnostics.as_slice(),
            [Diagnostic::EmptyEntry { start: 0x1000, kind: Reserved }]
        );
    }

    #[test]
    fn a_wrapping_entry_is_refused_if_usable_and_reaches_the_end_if_not() {
        assert_eq!(areas(&[entry(0x1000, u64::MAX, Usable)]), []);
        assert_eq!(areas(&[entry(0x1000, u64::MAX, Reserved)]), [(1, Frame::LIMIT, Reserved)]);
    }

    #[test]
    fn memory_past_the_limits_is_clipped_or_refused() {
        let limits = Limits::new(36, 0x8000);
        let entries = [
            entry(0x7000 << 12, 0x2000 << 12, Usable),
            entry(0x9000 << 12, 0x1000, Usable),
            entry(0xa000 << 12, 0x1000, Reserved),
            entry((1 << 36) - 0x1000, 0x2000, Reserved),
            entry(1 << 36, 0x1000, Reserved),
        ];
        let (map, diagnostics) = build::<128>(&entries, limits);
        let range = |start, end, kind| Area { frames: FrameRange::new(start, end).unwrap(), kind };
        assert_eq!(
            map.areas(),
            [
                range(0x7000, 0x8000, Usable),
                range(0xa000, 0xa001, Reserved),
                range(0xff_ffff, 0x100_0000, Reserved)
            ]
        );
        assert_eq!(diagnostics.as_slice().len(), 4);
    }

    #[test]
    fn strange_limits_are_made_sense_of() {
        assert_eq!(Limits::new(u32::MAX, u64::MAX), Limits::new(52, Frame::LIMIT));
        assert_eq!(Limits::new(0, 5).end(Usable), 0);
    }

    #[test]
    fn a_full_map_gives_up_usable_memory_first() {
        // Four areas fit.
        let mut entries = Vec::new();
        for index in 0..4 {
            entries.push(entry(index * 0x4000, 0x1000 + index * 0x1000, Usable));
        }
        entries.push(entry(0x20000, 0x1000, Reserved));
        let (map, diagnostics) = build::<6>(&entries, LIMITS);
        assert_eq!(kinds(&map)[0], None, "the smallest is given up");
        assert_eq!(kinds(&map)[0x20], Some(Reserved));
        assert_eq!(
            diagnostics.as_slice(),
            [Diagnostic::UsableAreaDropped { frames: FrameRange::new(0, 1).unwrap() }]
        );
    }

    #[test]
    fn a_reserved_area_for_which_there_was_no_room_does_not_become_usable_later() {
        let mut entries: Vec<Entry> =
            (0..8).map(|index| entry(index * 0x4000, 0x1000, Reserved)).collect();
        entries.push(entry(0, PAGES << 12, Usable));
        let (map, diagnostics) = build::<6>(&entries, LIMITS);
        for index in 0..8 {
            assert_eq!(kinds(&map)[index * 4], Some(Reserved));
        }
        assert!(diagnostics.as_slice().iter().any(|diagnostic| matches!(
            diagnostic,
            Diagnostic::AreasJoined { kind: Reserved, .. }
        )));
    }

    #[test]
    fn rebuilding_begins_with_an_empty_map() {
        let (mut map, mut diagnostics) = build::<128>(&[entry(0, 0x1000, Usable)], LIMITS);
        map.rebuild(LIMITS, &mut diagnostics).add(0x5000, 0x1000, Reserved);
        assert_eq!(map.usable_frames(), 0);
    }

    #[test]
    fn reserving_changes_only_usable_memory() {
        let (mut map, mut diagnostics) =
            build::<128>(&[entry(0, 0x3000, Usable), entry(0x5000, 0x1000, Reserved)], LIMITS);
        map.reserve(FrameRange::new(1, 8).unwrap(), &mut diagnostics);
        assert_eq!(
            kinds(&map)[..8],
            [Some(Usable), Some(InUse), Some(InUse), None, None, Some(Reserved), None, None]
        );
        assert!(map.is_usable(FrameRange::new(0, 1).unwrap()));
        assert!(!map.is_usable(FrameRange::new(0, 2).unwrap()));
        assert!(diagnostics.as_slice().is_empty());
    }

    #[test]
    fn the_environment_is_found_outside_forbidden_memory() {
        let (map, _) = build::<128>(&[entry(0x100000, 0xff00000, Usable)], LIMITS);
        let forbidden = [FrameRange::new(0xe00, 0x4000).unwrap()];
        let find = |count, alignment, preference| {
            map.find_free(count, alignment, &forbidden, preference)
                .map(|range| (range.start(), range.end()))
        };
        use PageSize::*;
        use Preference::*;
        assert_eq!(find(0xd00, Size4KiB, Lowest), Some((0x100, 0xe00)));
        assert_eq!(find(0xd01, Size4KiB, Lowest), Some((0x4000, 0x4d01)));
        assert_eq!(find(0x200, Size2MiB, Lowest), Some((0x200, 0x400)));
        assert_eq!(find(1, Size2MiB, Highest), Some((0xfe00, 0xfe01)));
        assert_eq!(find(0xc001, Size4KiB, Highest), None);
        assert_eq!(find(0xc000, Size4KiB, Highest), Some((0x4000, 0x10000)));
        assert_eq!(find(0, Size4KiB, Lowest), None);
        assert_eq!(find(u64::MAX, Size4KiB, Lowest), None);
        assert_eq!(find(u64::MAX, Size4KiB, Highest), None);
    }

    fn kind() -> impl Strategy<Value = MemoryKind> {
        prop_oneof![
            4 => Just(Usable),
            2 => Just(Reserved),
            1 => Just(AcpiReclaimable),
            1 => Just(AcpiNonVolatile),
            1 => Just(Defective),
        ]
    }

    /// Entries among the first `PAGES` pages, mostly aligned, with some wild ones.
    fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
        let near = (0..PAGES * 8, 0..PAGES * 4, kind())
            .prop_map(|(start, length, kind)| entry(start * 512, length * 512, kind));
        let aligned = (0..PAGES, 0..12u64, kind())
            .prop_map(|(start, length, kind)| entry(start << 12, length << 12, kind));
        let wild = (any::<u64>(), any::<u64>(), kind())
            .prop_map(|(start, length, kind)| entry(start, length, kind));
        let long = (0..PAGES << 12, any::<u64>(), kind())
            .prop_map(|(start, length, kind)| entry(start, length, kind));
        prop::collection::vec(prop_oneof![4 => aligned, 2 => near, 1 => wild, 1 => long], 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_map_is_what_a_look_at_every_page_says(
            entries in entries(24),
            manageable in prop_oneof![Just(u64::MAX), 0..PAGES],
        ) {
            let (map, _) = build::<128>(&entries, Limits::new(52, manageable));
            assert_invariants(&map);
            prop_assert_eq!(kinds(&map), oracle(&entries, manageable));
        }

        #[test]
        fn the_order_of_entries_does_not_matter(
            (entries, shuffled) in entries(24)
                .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle())),
        ) {
            prop_assert_eq!(areas(&entries), areas(&shuffled));
        }

        #[test]
        fn a_map_without_room_never_makes_a_page_more_usable(entries in entries(40)) {
            let (map, _) = build::<6>(&entries, LIMITS);
            assert_invariants(&map);
            for (found, expected) in kinds(&map).into_iter().zip(oracle(&entries, u64::MAX)) {
                match (found, expected) {
                    (None, None | Some(Usable)) => {}
                    (Some(found), Some(expected)) => prop_assert!(found >= expected),
                    // A gap between two areas that were joined.
                    (Some(found), None) => prop_assert!(found != Usable),
                    (None, Some(_)) => prop_assert!(false, "an unusable page was lost"),
                }
            }
        }

        #[test]
        fn reserving_takes_exactly_the_usable_pages_of_the_range(
            entries in entries(24),
            start in 0..PAGES,
            count in 0..PAGES,
        ) {
            let (mut map, mut diagnostics) = build::<128>(&entries, LIMITS);
            let mut expected = kinds(&map);
            for page in expected.iter_mut().skip(start as usize).take(count as usize) {
                if *page == Some(Usable) {
                    *page = Some(InUse);
                }
            }
            map.reserve(FrameRange::new(start, start + count).unwrap(), &mut diagnostics);
            assert_invariants(&map);
            prop_assert_eq!(kinds(&map), expected);
        }

        #[test]
        fn reserving_without_room_leaves_nothing_of_the_range_usable(
            entries in entries(40),
            ranges in prop::collection::vec((0..PAGES, 0..8u64), 0..10),
        ) {
            let (mut map, mut diagnostics) = build::<5>(&entries, LIMITS);
            let mut before = kinds(&map);
            for (start, count) in ranges {
                map.reserve(FrameRange::new(start, start + count).unwrap(), &mut diagnostics);
                assert_invariants(&map);
                let after = kinds(&map);
                for page in 0..PAGES {
                    let reserved = start <= page && page < start + count;
                    let usable = after[page as usize] == Some(Usable);
                    prop_assert!(!usable || (!reserved && before[page as usize] == Some(Usable)));
                }
                before = after;
            }
        }

        #[test]
        fn what_is_found_is_the_first_that_fits(
            entries in entries(16),
            count in 0..12u64,
            forbidden in prop::collection::vec((0..PAGES, 0..8u64), 0..4),
        ) {
            let entries: Vec<Entry> =
                entries.into_iter().filter(|entry| entry.start < PAGES << 12).collect();
            let (map, _) = build::<128>(&entries, Limits::new(52, PAGES));
            let forbidden: Vec<FrameRange> = forbidden
                .into_iter()
                .map(|(start, count)| FrameRange::new(start, start + count).unwrap())
                .collect();
            let kinds = kinds(&map);
            let fits = |&start: &u64| {
                count != 0 && start + count <= PAGES && (start..start + count).all(|page| {
                    let frame = Frame::new(page).unwrap();
                    kinds[page as usize] == Some(Usable)
                        && !forbidden.iter().any(|range| range.contains(frame))
                })
            };
            let lowest = map.find_free(count, PageSize::Size4KiB, &forbidden, Preference::Lowest);
            prop_assert_eq!(lowest.map(FrameRange::start), (0..PAGES).find(fits));
            let highest = map.find_free(count, PageSize::Size4KiB, &forbidden, Preference::Highest);
            prop_assert_eq!(highest.map(FrameRange::start), (0..PAGES).rev().find(fits));
        }
    }
}
