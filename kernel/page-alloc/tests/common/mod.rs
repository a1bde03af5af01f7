//! What the tests share: a layer below that keeps its records in a `Vec`, and random numbers.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "included by several test binaries")]

pub mod model;

use heliox_page_alloc::Pages;
use heliox_types::{Frame, FrameRange};

/// The owner of pages that belong to no domain; also what the hypervisor leaves in a page.
pub const HYPERVISOR: u32 = 1;
/// What the firmware left in memory.
pub const FIRMWARE: u32 = 2;
/// The first domain's id. None is ever reused.
pub const FIRST_DOMAIN: u32 = 10;

/// A page of the test's memory.
#[derive(Clone, Copy, Debug)]
pub struct TestPage {
    pub owner: u32,
    /// Whose data it contains: 0 for zeros.
    pub content: u32,
    /// It cannot change its owner now.
    pub pinned: bool,
    /// It cannot be cleared now.
    pub stuck: bool,
}

/// Memory, and the record of its owners.
pub struct TestPages {
    pub pages: Vec<TestPage>,
    /// Pages cleared so far.
    pub cleared: u64,
}

impl TestPages {
    pub fn new(count: u64) -> Self {
        let page = TestPage { owner: HYPERVISOR, content: FIRMWARE, pinned: false, stuck: false };
        Self { pages: vec![page; count as usize], cleared: 0 }
    }
}

impl Pages for TestPages {
    type Owner = u32;
    type Region = FrameRange;
    const HYPERVISOR: u32 = HYPERVISOR;

    fn owner(&self, frame: Frame) -> u32 {
        self.pages[frame.number() as usize].owner
    }

    fn set_owner(&mut self, frames: FrameRange, owner: u32) -> Result<(), Frame> {
        let pinned = frames.iter().find(|frame| self.pages[frame.number() as usize].pinned);
        if let Some(frame) = pinned {
            return Err(frame);
        }
        for frame in frames {
            self.pages[frame.number() as usize].owner = owner;
        }
        Ok(())
    }

    fn clear(&mut self, frame: Frame) -> Result<(), Frame> {
        let page = &mut self.pages[frame.number() as usize];
        if page.stuck {
            return Err(frame);
        }
        page.content = 0;
        self.cleared += 1;
        Ok(())
    }

    fn region(&self, frames: FrameRange) -> FrameRange {
        frames
    }
}

/// Pseudo-random numbers (xorshift64*), the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `values`.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> Option<T> {
        if values.is_empty() {
            None
        } else {
            Some(values[self.below(values.len() as u64) as usize])
        }
    }
}

pub fn frame(page: u64) -> Frame {
    Frame::new(page).unwrap()
}
