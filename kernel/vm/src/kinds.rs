//! What each guest frame of a domain is for, where the page map does not say it.
//!
//! Hides how that is kept: two bits for each frame, and two for each whole table's worth of frames
//! (2 MiB) and each table's worth of those (1 GiB), which say that all of it is of one kind or
//! that it is mixed. So looking up a frame takes three steps, and marking a block, or a frame in a
//! block that was of one kind, takes a number of steps that depends on the size of a table only.
//!
//! Invariant: a block is marked as ordinary or on demand exactly if all of its parts are. What a
//! level has below a block that is not mixed means nothing.

use core::ops::DerefMut;

use crate::backing::KernelMemory;
use crate::guest::{Extent, GuestFrame, Order};

/// What a guest frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Memory of the domain's own, or nothing: what the page map says.
    Ordinary,
    /// It gets memory when it is used; the page map has nothing.
    OnDemand,
    /// A page of the domain's grant table.
    GrantTable,
    /// A page of another domain, granted.
    Foreign,
}

impl Kind {
    const fn code(self) -> u64 {
        match self {
            Self::Ordinary => 0,
            Self::OnDemand => 1,
            Self::GrantTable => 2,
            Self::Foreign => 3,
        }
    }

    const fn of(code: u64) -> Self {
        match code & 3 {
            0 => Self::Ordinary,
            1 => Self::OnDemand,
            2 => Self::GrantTable,
            _ => Self::Foreign,
        }
    }
}

/// Of a block: ordinary or on demand, which is all that whole blocks are marked as; or mixed.
const MIXED: u64 = 3;
/// Two-bit codes in a word.
const CODES: u64 = 32;

/// Two-bit codes in words, all zero at first.
struct Codes<S> {
    words: S,
}

impl<S: DerefMut<Target = [u64]>> Codes<S> {
    fn get(&self, index: u64) -> u64 {
        let word = self.words.get((index / CODES) as usize).copied().unwrap_or(0);
        word >> (index % CODES * 2) & 3
    }

    /// Apply `change` to each word that has codes of `start` to `start + count - 1`, with a mask of
    /// those codes' bits; stop when it answers false. Whether it never did.
    fn each_word(
        &mut self,
        start: u64,
        count: u64,
        mut change: impl FnMut(&mut u64, u64) -> bool,
    ) -> bool {
        let end = start + count;
        let mut next = start;
        while next < end {
            let (index, first) = (next / CODES, next % CODES);
            let last = (end - index * CODES).min(CODES);
            let mask = (u64::MAX >> (64 - (last - first) * 2)) << (first * 2);
            if let Some(word) = self.words.get_mut(index as usize)
                && !change(word, mask)
            {
                return false;
            }
            next = (index + 1) * CODES;
        }
        true
    }

    fn fill(&mut self, start: u64, count: u64, code: u64) {
        self.each_word(start, count, |word, mask| {
            *word = *word & !mask | repeated(code) & mask;
            true
        });
    }

    fn all(&mut self, start: u64, count: u64, code: u64) -> bool {
        self.each_word(start, count, |word, mask| (*word ^ repeated(code)) & mask == 0)
    }
}

/// A word in which all codes are `code`.
const fn repeated(code: u64) -> u64 {
    code * 0x5555_5555_5555_5555
}

/// The kinds of all guest frames of a domain.
pub(crate) struct Kinds<S> {
    /// Entries of a table, as log2.
    bits: u32,
    frames: Codes<S>,
    tables: Codes<S>,
    regions: Codes<S>,
}

impl<S: DerefMut<Target = [u64]>> Kinds<S> {
    /// For `limit` guest frames, all ordinary; `None` if there is no memory for it.
    pub(crate) fn new<M: KernelMemory<Slice<u64> = S>>(
        memory: &mut M,
        bits: u32,
        limit: u64,
    ) -> Option<Self> {
        let mut codes = |shift: u32| {
            // A whole block at the end, so that filling one never leaves the slice.
            let count = (limit.div_ceil(1 << (2 * bits)) << (2 * bits)) >> shift;
            let words = usize::try_from(count.div_ceil(CODES)).ok()?;
            Some(Codes { words: memory.slice(words, || 0_u64)? })
        };
        let (frames, tables, regions) = (codes(0)?, codes(bits)?, codes(2 * bits)?);
        Some(Self { bits, frames, tables, regions })
    }

    const fn order(&self, level: u32) -> Order {
        // Two levels are at most 18 bits on a real machine.
        match Order::new(self.bits * level) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// The kind of `guest`, and the order of the largest whole block around it that is all of that
    /// kind (of zero, one or two tables).
    pub(crate) fn get(&self, guest: GuestFrame) -> (Kind, Order) {
        let number = guest.number();
        match self.regions.get(number >> (2 * self.bits)) {
            MIXED => match self.tables.get(number >> self.bits) {
                MIXED => (Kind::of(self.frames.get(number)), Order::PAGE),
                code => (Kind::of(code), self.order(1)),
            },
            code => (Kind::of(code), self.order(2)),
        }
    }

    /// Mark a block of at most two tables' order as `kind`. A block of a table's order or more is
    /// marked as ordinary or on demand only; anything else comes page by page.
    pub(crate) fn set(&mut self, extent: Extent, kind: Kind) {
        let (start, order) = (extent.start().number(), extent.order().number());
        let (table, region) = (start >> self.bits, start >> (2 * self.bits));
        if order >= 2 * self.bits {
            return self.regions.fill(region, 1, kind.code());
        }
        let entries = 1 << self.bits;
        let code = self.regions.get(region);
        if code != MIXED {
            self.tables.fill(region << self.bits, entries, code);
            self.regions.fill(region, 1, MIXED);
        }
        if order >= self.bits {
            self.tables.fill(table, extent.pages() >> self.bits, kind.code());
        } else {
            let code = self.tables.get(table);
            if code != MIXED {
                self.frames.fill(table << self.bits, entries, code);
                self.tables.fill(table, 1, MIXED);
            }
            self.frames.fill(start, extent.pages(), kind.code());
            if kind.code() < Kind::GrantTable.code()
                && self.frames.all(table << self.bits, entries, kind.code())
            {
                self.tables.fill(table, 1, kind.code());
            }
        }
        if kind.code() < Kind::GrantTable.code()
            && self.tables.all(region << self.bits, entries, kind.code())
        {
            self.regions.fill(region, 1, kind.code());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Heap;

    impl KernelMemory for Heap {
        type Slice<T> = Vec<T>;

        fn slice<T>(&mut self, count: usize, make: impl FnMut() -> T) -> Option<Vec<T>> {
            Some(std::iter::repeat_with(make).take(count).collect())
        }
    }

    fn guest(number: u64) -> GuestFrame {
        GuestFrame::new(number).unwrap()
    }

    /// Against a plain array, in random order, with tables of 4 and of 512 entries.
    #[test]
    fn kinds_are_those_that_were_set() {
        for (bits, limit, steps) in [(2, 61, 20_000), (9, 300_000, 300), (1, 16, 5_000)] {
            let mut kinds = Kinds::new(&mut Heap, bits, limit).unwrap();
            let mut plain = std::vec![Kind::Ordinary; limit as usize];
            let mut random = 7_u64;
            let mut below = |limit: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) % limit
            };
            for _ in 0..steps {
                let order = below(u64::from(2 * bits + 1)) as u32;
                let start = below(limit) >> order << order;
                let Ok(extent) = Extent::new(start, order, Order::MAX, limit) else { continue };
                let kind = Kind::of(below(if order < bits { 4 } else { 2 }));
                kinds.set(extent, kind);
                plain[start as usize..extent.end() as usize].fill(kind);
                for probe in 0..limit.min(64) {
                    let probe = if limit < 64 { probe } else { below(limit) };
                    let (kind, order) = kinds.get(guest(probe));
                    let block = Extent::around(guest(probe), order);
                    let end = block.end().min(limit);
                    let block = &plain[block.start().number() as usize..end as usize];
                    assert!(block.iter().all(|known| *known == kind), "{probe} {kind:?} {order}");
                    // The next larger block is not of one kind.
                    let larger = Extent::around(guest(probe), Order::new(bits * 2).unwrap());
                    let larger = if order == Order::PAGE {
                        Extent::around(guest(probe), Order::new(bits).unwrap())
                    } else {
                        larger
                    };
                    if order.number() < 2 * bits && larger.end() <= limit {
                        let start = larger.start().number() as usize;
                        let block = &plain[start..larger.end() as usize];
                        let foreign = matches!(kind, Kind::GrantTable | Kind::Foreign);
                        assert!(foreign || block.iter().any(|known| *known != kind));
                    }
                }
            }
        }
    }
}
