//! The memory that there is, and whom it was given to.

use heliox_l4::ThreadId;
use heliox_l4::abi::kip::{MemoryDescriptor, MemoryType};

/// Log2 of the size of a page.
pub const PAGE_BITS: u32 = 12;

/// What a piece of memory is, for sigma0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's or sigma0's own: for nobody.
    Kept,
    /// Memory like any other: also for those who want any.
    Ordinary,
    /// Of a device, the boot loader or the architecture: for who asks for it by address.
    Special,
    /// For everybody who asks for it by address.
    Shared,
}

/// Pages `first` to `last`, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first page.
    pub first: u64,
    /// The last page.
    pub last: u64,
    /// What it is.
    pub kind: Kind,
    /// Whom it was given to; nilthread: to nobody.
    pub owner: ThreadId,
}

/// Why memory is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none of that size and kind that nobody has.
    NoneLeft,
    /// This page is not there, is kept, or is somebody else's.
    Page(u64),
    /// There is no room to note another owner.
    NoRoom,
}

/// All memory, in as many extents as there is room for.
#[derive(Debug)]
pub struct Pool<'a> {
    extents: &'a mut [Extent],
    count: usize,
}

impl Extent {
    /// A free place for an extent.
    pub const NONE: Self = Self { first: 0, last: 0, kind: Kind::Kept, owner: ThreadId::NIL };
}

impl<'a> Pool<'a> {
    /// No memory, with room for extents.
    #[must_use]
    pub const fn new(extents: &'a mut [Extent]) -> Self {
        Self { extents, count: 0 }
    }

    /// The extents, in rising order.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        self.extents.get(..self.count).unwrap_or(&[])
    }

    /// Adds what a descriptor says; it overrides what earlier ones said.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn describe(&mut self, descriptor: MemoryDescriptor) -> Result<(), Refused> {
        if descriptor.is_virtual || descriptor.low > descriptor.high {
            return Ok(());
        }
        let kind = match descriptor.memory_type {
            MemoryType::Undefined => None,
            MemoryType::Conventional => Some(Kind::Ordinary),
            MemoryType::Reserved => Some(Kind::Kept),
            MemoryType::Shared => Some(Kind::Shared),
            MemoryType::Dedicated | MemoryType::BootLoader | MemoryType::Architecture => {
                Some(Kind::Special)
            }
        };
        let (low, high) = (descriptor.low, descriptor.high);
        match kind {
            // Only whole pages are memory to give away; what is kept keeps every page it touches.
            Some(Kind::Ordinary) => {
                let first = low.div_ceil(1 << PAGE_BITS);
                match (high.saturating_add(1) >> PAGE_BITS).checked_sub(1) {
                    Some(last) if first <= last => self.set(first, last, kind, ThreadId::NIL),
                    _ => Ok(()),
                }
            }
            _ => self.set(low >> PAGE_BITS, high >> PAGE_BITS, kind, ThreadId::NIL),
        }
    }

    /// Keeps the bytes from `low` to before `end`.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn keep(&mut self, low: u64, end: u64) -> Result<(), Refused> {
        match end.checked_sub(1) {
            Some(high) if low <= high => {
                self.set(low >> PAGE_BITS, high >> PAGE_BITS, Some(Kind::Kept), ThreadId::NIL)
            }
            _ => Ok(()),
        }
    }

    /// Index of the first extent that does not lie wholly before `page`.
    fn find(&self, page: u64) -> usize {
        self.extents().partition_point(|extent| extent.last < page)
    }

    /// Makes pages `first` to `last` one extent of a kind, or nothing. Changes nothing if there is
    /// no room.
    fn set(
        &mut self,
        first: u64,
        last: u64,
        kind: Option<Kind>,
        owner: ThreadId,
    ) -> Result<(), Refused> {
        let from = self.find(first);
        let to = from
            + self
                .extents()
                .get(from..)
                .unwrap_or(&[])
                .partition_point(|extent| extent.first <= last);
        // What replaces the extents `from..to`: at most three, merged with like neighbours.
        let mut pieces = [None; 5];
        let mut used: usize = 0;
        let mut add = |piece: Option<Extent>| {
            let Some(piece) = piece.filter(|piece| piece.first <= piece.last) else { return };
            if let Some(Some(before)) = pieces.get_mut(used.wrapping_sub(1))
                && Self::can_merge(before, &piece)
            {
                before.last = piece.last;
                return;
            }
            pieces[used] = Some(piece);
            used += 1;
        };
        let all = self.extents();
        let before = from.checked_sub(1).and_then(|index| all.get(index)).copied();
        let after = all.get(to).copied();
        let merges_before = before.is_some();
        add(before);
        let overlapped = all.get(from..to).unwrap_or(&[]);
        add(overlapped.first().and_then(|extent| {
            Some(Extent { last: first.checked_sub(1)?, ..*extent }).filter(|_| extent.first < first)
        }));
        add(kind.map(|kind| Extent { first, last, kind, owner }));
        add(overlapped.last().and_then(|extent| {
            Some(Extent { first: last.checked_add(1)?, ..*extent }).filter(|_| extent.last > last)
        }));
        add(after);
        let start = if merges_before { from - 1 } else { from };
        let end = if after.is_some() { to + 1 } else { to };
        let count = self.count - (end - start) + used;
        if count > self.extents.len() {
            return Err(Refused::NoRoom);
        }
        self.extents.copy_within(end..self.count, start + used);
        for (slot, piece) in self.extents.iter_mut().skip(start).zip(pieces.into_iter().flatten()) {
            *slot = piece;
        }
        self.count = count;
        Ok(())
    }

    fn can_merge(before: &Extent, after: &Extent) -> bool {
        before.last.checked_add(1) == Some(after.first)
            && before.kind == after.kind
            && before.owner == after.owner
    }

    /// Gives `1 << bits` bytes at `base`, both at least a page, to `who`.
    ///
    /// # Errors
    ///
    /// Part of it cannot be given to it.
    pub fn give(&mut self, base: u64, bits: u32, who: ThreadId) -> Result<(), Refused> {
        let first = base >> PAGE_BITS;
        let pages = 1_u64.checked_shl(bits.saturating_sub(PAGE_BITS)).unwrap_or(u64::MAX);
        let last = first.checked_add(pages - 1).ok_or(Refused::Page(first))?;
        let mut next = first;
        let (mut given, mut all_given) = (false, true);
        for extent in self.extents().get(self.find(first)..).unwrap_or(&[]) {
            if extent.first > next {
                break;
            }
            match extent.kind {
                Kind::Kept => break,
                Kind::Shared => all_given = false,
                Kind::Ordinary | Kind::Special if extent.owner == who => given = true,
                Kind::Ordinary | Kind::Special if extent.owner.is_nil() => {
                    (given, all_given) = (true, false);
                }
                _ => break,
            }
            if extent.last >= last {
                return if given && !all_given { self.note(first, last, who) } else { Ok(()) };
            }
            next = extent.last + 1;
        }
        Err(Refused::Page(next))
    }

    /// Notes `who` as the owner of all pages from `first` to `last` that have none and can have
    /// one. Changes nothing if there is no room.
    fn note(&mut self, first: u64, last: u64, who: ThreadId) -> Result<(), Refused> {
        // Of the extents in the range only the outer two are split.
        if self.count + 2 > self.extents.len() {
            return Err(Refused::NoRoom);
        }
        let mut page = first;
        loop {
            let Some(extent) = self.extents().get(self.find(page)).copied() else { return Ok(()) };
            let (from, to) = (extent.first.max(first), extent.last.min(last));
            if from > last {
                return Ok(());
            }
            if extent.owner.is_nil() && matches!(extent.kind, Kind::Ordinary | Kind::Special) {
                self.set(from, to, Some(extent.kind), who)?;
            }
            match to.checked_add(1) {
                Some(next) if next <= last => page = next,
                _ => return Ok(()),
            }
        }
    }

    /// Gives any `1 << bits` bytes of ordinary memory that nobody has to `who`; their address. The
    /// lowest that will do, but none of the first MiB while there is other.
    ///
    /// # Errors
    ///
    /// There are none.
    pub fn give_any(&mut self, bits: u32, who: ThreadId) -> Result<u64, Refused> {
        const LOW: u64 = 0x100;
        let pages = 1_u64.checked_shl(bits.saturating_sub(PAGE_BITS)).unwrap_or(u64::MAX);
        let place = |least: u64| {
            self.extents().iter().find_map(|extent| {
                if extent.kind != Kind::Ordinary || !extent.owner.is_nil() {
                    return None;
                }
                let first = extent.first.max(least).checked_next_multiple_of(pages)?;
                let last = first.checked_add(pages - 1)?;
                (last <= extent.last).then_some(first)
            })
        };
        let first = place(LOW).or_else(|| place(0)).ok_or(Refused::NoneLeft)?;
        self.note(first, first + (pages - 1), who)?;
        Ok(first << PAGE_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadId = ThreadId(0x32_0000_0001);
    const B: ThreadId = ThreadId(0x33_0000_0001);

    fn descriptor(memory_type: MemoryType, low: u64, high: u64) -> MemoryDescriptor {
        MemoryDescriptor { memory_type, subtype: 0, is_virtual: false, low, high }
    }

    fn room(extents: usize) -> &'static mut [Extent] {
        vec![Extent::NONE; extents].leak()
    }

    /// 16 MiB: devices below 1 MiB, the kernel from 2 to 4 MiB, a module at 8 MiB.
    fn pool() -> Pool<'static> {
        let mut pool = Pool::new(room(64));
        for (kind, low, high) in [
            (MemoryType::Shared, 0, u64::MAX),
            (MemoryType::Conventional, 0, 0x9_ffff),
            (MemoryType::Conventional, 0x10_0000, 0xff_ffff),
            (MemoryType::Reserved, 0x20_0000, 0x3f_ffff),
            (MemoryType::BootLoader, 0x80_0000, 0x80_17ff),
        ] {
            pool.describe(descriptor(kind, low, high)).unwrap();
        }
        pool
    }

    fn audit(pool: &Pool<'_>) {
        for pair in pool.extents().windows(2) {
            assert!(pair[0].last < pair[1].first, "{pair:x?}");
            assert!(!Pool::can_merge(&pair[0], &pair[1]), "{pair:x?}");
        }
        assert!(pool.extents().iter().all(|extent| extent.first <= extent.last));
    }

    #[test]
    fn the_first_that_asks_gets_it_and_may_ask_again() {
        let mut pool = pool();
        assert_eq!(pool.give(0x40_0000, 12, A), Ok(()));
        assert_eq!(pool.give(0x40_0000, 12, A), Ok(()));
        assert_eq!(pool.give(0x40_0000, 12, B), Err(Refused::Page(0x400)));
        assert_eq!(pool.give(0x40_0000, 13, B), Err(Refused::Page(0x400)));
        assert_eq!(pool.give(0x40_0000, 14, A), Ok(()));
        assert_eq!(pool.give(0x40_2000, 12, B), Err(Refused::Page(0x402)));
        audit(&pool);
    }

    #[test]
    fn shared_memory_is_for_all_and_kept_memory_for_nobody() {
        let mut pool = pool();
        assert_eq!(pool.give(0xb_8000, 15, A), Ok(()));
        assert_eq!(pool.give(0xb_8000, 15, B), Ok(()));
        assert_eq!(pool.give(0x20_0000, 12, A), Err(Refused::Page(0x200)));
        assert_eq!(pool.give(0x1f_f000, 12, A), Ok(()));
        assert_eq!(pool.give(0, 30, A), Err(Refused::Page(0x200)));
        pool.keep(0xf0_0000, 0xf0_1001).unwrap();
        assert_eq!(pool.give(0xf0_1000, 12, A), Err(Refused::Page(0xf01)));
        audit(&pool);
    }

    #[test]
    fn boot_memory_is_given_by_address_only() {
        let mut pool = pool();
        // The module's second page is half the boot loader's.
        assert_eq!(pool.give(0x80_0000, 13, A), Ok(()));
        assert_eq!(pool.give(0x80_1000, 12, B), Err(Refused::Page(0x801)));
        let mut seen = 0;
        while let Ok(at) = pool.give_any(12, B) {
            assert!(at >> 12 != 0x800 && at >> 12 != 0x801);
            assert!(!(0x20_0000..0x40_0000).contains(&at) && !(0xa_0000..0x10_0000).contains(&at));
            seen += 1;
            if seen % 500 == 0 {
                audit(&pool);
            }
        }
        assert_eq!(seen, 0xa0 + 0xf00 - 0x200 - 2);
    }

    #[test]
    fn any_memory_is_aligned_and_new() {
        let mut pool = pool();
        let first = pool.give_any(21, A).unwrap();
        let second = pool.give_any(21, B).unwrap();
        assert_eq!((first, second), (0x40_0000, 0x60_0000));
        assert_eq!(pool.give_any(20, A), Ok(0x10_0000));
        assert_eq!(pool.give_any(24, A), Err(Refused::NoneLeft));
        assert_eq!(pool.give_any(63, A), Err(Refused::NoneLeft));
        assert_eq!(pool.give(second, 21, A), Err(Refused::Page(second >> 12)));
    }

    #[test]
    fn hostile_requests_are_refused() {
        let mut pool = pool();
        for bits in [0, 11, 12, 40, 63, 64, 100] {
            for base in [0x20_0000, 0x30_0000, u64::MAX, !0xfff, 1 << 63] {
                let _ = pool.give(base, bits, A);
                audit(&pool);
            }
        }
        assert_eq!(pool.give(0x20_0000, 12, A), Err(Refused::Page(0x200)));
    }

    #[test]
    fn without_room_nothing_changes() {
        let mut pool = Pool::new(room(6));
        pool.describe(descriptor(MemoryType::Conventional, 0, 0xf_ffff)).unwrap();
        for page in [1, 3] {
            pool.give(page << 12, 12, A).unwrap();
        }
        let before = pool.extents().to_vec();
        assert_eq!(pool.give(5 << 12, 12, A), Err(Refused::NoRoom));
        assert_eq!(pool.give_any(12, A), Err(Refused::NoRoom));
        assert_eq!(pool.extents(), before);
    }

    #[test]
    fn later_descriptors_override() {
        let mut pool = pool();
        pool.describe(descriptor(MemoryType::Reserved, 0x90_0400, 0x90_07ff)).unwrap();
        assert_eq!(pool.give(0x90_0000, 12, A), Err(Refused::Page(0x900)));
        pool.describe(descriptor(MemoryType::Undefined, 0x91_0000, 0x91_0fff)).unwrap();
        assert_eq!(pool.give(0x91_0000, 12, A), Err(Refused::Page(0x910)));
        let virtual_memory =
            MemoryDescriptor { is_virtual: true, ..descriptor(MemoryType::Reserved, 0, u64::MAX) };
        pool.describe(virtual_memory).unwrap();
        assert_eq!(pool.give(0x92_0000, 12, A), Ok(()));
        audit(&pool);
    }
}
