//! Pages of a domain that are set aside: mapped nowhere, waiting to be used.
//!
//! Hides where they are remembered: in themselves. The blocks of each size (a page, a table's
//! worth, a table's worth of those) are a stack, in which each block's first word is the next
//! block's number. So a pool of any size takes no memory and each of its operations a few steps.
//! A block is cut by taking its parts one after the other: the rest is remembered as a range.
//!
//! Invariants: all of a pool's pages are the domain's, and are zero but for the first word of
//! each block in a stack; that word is zero again when the block leaves the pool.

use heliox_types::Frame;

use crate::access::purpose::SettingAside;
use crate::access::{Opens, Permit};
use crate::backing::Backing;
use crate::guest::Order;

/// Sizes of blocks: zero, one and two tables' order.
const LEVELS: usize = 3;

/// The size of a block, as a number of levels of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Page,
    Table,
    Region,
}

impl Level {
    pub(crate) const ALL: [Self; LEVELS] = [Self::Page, Self::Table, Self::Region];

    /// The order of a block.
    pub(crate) const fn order<B: Backing>(self) -> Order {
        match Order::new(B::LEVEL_BITS * self as u32) {
            Some(order) => order,
            // Not reached: two levels are at most 18 bits.
            None => Order::MAX,
        }
    }

    pub(crate) const fn pages<B: Backing>(self) -> u64 {
        self.order::<B>().pages()
    }

    /// The largest level whose blocks are not larger than `order`.
    pub(crate) const fn within<B: Backing>(order: Order) -> Self {
        match order.number() / B::LEVEL_BITS {
            0 => Self::Page,
            1 => Self::Table,
            _ => Self::Region,
        }
    }
}

/// Blocks of one size.
#[derive(Clone, Copy, Debug, Default)]
struct Stack {
    top: Option<Frame>,
    blocks: u64,
}

/// What is left of a block that is being cut.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    next: Option<Frame>,
    parts: u64,
}

/// Pages that are set aside.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pages: u64,
    stacks: [Stack; LEVELS],
    /// Parts of each size that are left of a block of the next larger size.
    rests: [Rest; LEVELS],
}

impl Pool {
    /// How many pages.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Set a block aside. It is zero, and mapped nowhere.
    pub(crate) fn put<B: Backing, A: Opens<SettingAside>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        level: Level,
        frame: Frame,
    ) {
        let Some(stack) = self.stacks.get_mut(level as usize) else { return };
        // Zero is the end of the stack.
        let next = stack.top.map_or(0, |next| next.number() + 1);
        if next != 0 {
            backing.store(&permit.window(frame), 0, next);
        }
        stack.top = Some(frame);
        stack.blocks += 1;
        self.pages += level.pages::<B>();
    }

    /// Set a block of any order aside, as parts of the largest size that divides it.
    pub(crate) fn put_block<B: Backing, A: Opens<SettingAside>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        frame: Frame,
        order: Order,
    ) {
        let level = Level::within::<B>(order);
        for part in 0..order.pages() >> level.order::<B>().number() {
            if let Some(frame) = frame.checked_add(part * level.pages::<B>()) {
                self.put(backing, permit, level, frame);
            }
        }
    }

    /// Take a block, cutting a larger one if there is none of this size; `None` if there is no
    /// larger one either.
    pub(crate) fn take<B: Backing, A: Opens<SettingAside>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        level: Level,
    ) -> Option<Frame> {
        // The smallest size at or above `level` of which there is something.
        let found = Level::ALL.into_iter().find(|other| *other >= level && self.has(*other))?;
        let frame = self.take_whole(backing, permit, found)?;
        for cut in Level::ALL.into_iter().rev().filter(|other| level <= *other && *other < found) {
            // All parts but the first, which is cut further or handed out.
            let parts = 1 << B::LEVEL_BITS;
            let next = frame.checked_add(cut.pages::<B>());
            if let Some(rest) = self.rests.get_mut(cut as usize) {
                *rest = Rest { next, parts: parts - 1 };
            }
            self.pages += (parts - 1) * cut.pages::<B>();
        }
        Some(frame)
    }

    fn has(&self, level: Level) -> bool {
        let of = level as usize;
        self.stacks.get(of).is_some_and(|stack| stack.blocks > 0)
            || self.rests.get(of).is_some_and(|rest| rest.parts > 0)
    }

    /// Take a block that is there as such.
    fn take_whole<B: Backing, A: Opens<SettingAside>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        level: Level,
    ) -> Option<Frame> {
        let rest = self.rests.get_mut(level as usize)?;
        if rest.parts > 0 {
            let frame = rest.next?;
            rest.parts -= 1;
            rest.next = frame.checked_add(level.pages::<B>());
            self.pages -= level.pages::<B>();
            return Some(frame);
        }
        let stack = self.stacks.get_mut(level as usize)?;
        let frame = stack.top?;
        stack.blocks -= 1;
        stack.top = None;
        if stack.blocks > 0 {
            let window = permit.window(frame);
            let next = backing.load(&window, 0);
            backing.store(&window, 0, 0);
            stack.top = next.checked_sub(1).and_then(Frame::new);
        }
        self.pages -= level.pages::<B>();
        Some(frame)
    }

    /// The largest size of which there is a block, of at most `pages` pages.
    pub(crate) fn largest<B: Backing>(&self, pages: u64) -> Level {
        let fits = |level: &Level| level.pages::<B>() <= pages && self.has(*level);
        Level::ALL.into_iter().rev().find(fits).unwrap_or(Level::Page)
    }
}
