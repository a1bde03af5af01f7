//! Where the kernel's own memory is to be: the *environment*, one range of frames.
//!
//! In it come, in this order, page tables, two pages for each block of 512 frames in which there
//! is memory (entries of the window, and page records), and the heap for kernel objects, which
//! is the range's end. Whoever builds the environment checks the plan and takes it apart; a plan
//! that is wrong makes that fail, not the memory-safety of what is built.

use heliox_types::{FrameRange, PAGE_BYTES, PageSize};

use crate::information::{BootError, BootInformation};
use crate::memory_map::{MemoryMap, Preference};

/// Frames that one table of level 1 translates, and that one page of records describes.
pub const BLOCK_FRAMES: u64 = 512;

/// The first megabyte is not handed out: firmware still uses parts of it, and processors start
/// there.
pub const LOW_MEMORY: FrameRange = frames(0, 0x10_0000);

/// Programs that are linked at fixed physical addresses live between 14 MiB and 64 MiB; the
/// kernel keeps out.
pub const FIXED_PROGRAMS: FrameRange = frames(0xe0_0000, 0x400_0000);

/// The memory of text mode and legacy graphics.
pub const VIDEO_MEMORY: FrameRange = frames(0xa_0000, 0xc_0000);

/// The heap for kernel objects is this part of usable memory unless the command line says how
/// large it is to be, but at least [`SMALLEST_HEAP`].
const HEAP_PART: u64 = 32;
const SMALLEST_HEAP: u64 = 512 << 10;

/// The frames between two addresses that are multiples of the page size.
const fn frames(start: u64, end: u64) -> FrameRange {
    match FrameRange::new(start / PAGE_BYTES, end / PAGE_BYTES) {
        Some(range) => range,
        None => FrameRange::EMPTY,
    }
}

/// A plan of the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvironmentPlan {
    /// The whole environment: usable frames.
    pub range: FrameRange,
    /// How many of them, at the end, are the heap.
    pub heap_frames: u64,
    /// All frames with numbers below this one have a record.
    pub managed_frames: u64,
}

impl EnvironmentPlan {
    /// A plan for a machine with this memory map and, if the command line named one, heap size in
    /// bytes. The heap gets what the records of blocks need on top of that.
    ///
    /// # Errors
    /// [`BootError::NoUsableMemory`], [`BootError::NoRoom`].
    pub fn new(map: &MemoryMap, heap: Option<u64>) -> Result<Self, BootError> {
        let highest = map.highest_usable().ok_or(BootError::NoUsableMemory)?;
        let managed_frames = highest.number() + 1;
        let usable = map.usable_frames() * PAGE_BYTES;
        let heap = heap.unwrap_or((usable / HEAP_PART).max(SMALLEST_HEAP)).min(usable);
        // Records of blocks have 16 bytes, and there are a few for each block.
        let heap_frames = (heap + managed_frames / 16 + PAGE_BYTES).div_ceil(PAGE_BYTES);
        let metadata = metadata_frames(map, managed_frames, heap_frames);
        let count = metadata + heap_frames;
        // High, so that low memory stays free for devices; on a 2 MiB boundary if there is one.
        let place = |size| map.find_free(count, size, &[FIXED_PROGRAMS], Preference::Highest);
        let range = place(PageSize::Size2MiB).or_else(|| place(PageSize::Size4KiB));
        let bytes = count * PAGE_BYTES;
        let range = range.ok_or(BootError::NoRoom { bytes, usable })?;
        Ok(Self { range, heap_frames, managed_frames })
    }
}

/// Pages for what describes memory, and for all tables: as many as there can be need for.
fn metadata_frames(map: &MemoryMap, managed_frames: u64, heap_frames: u64) -> u64 {
    let blocks = managed_frames.div_ceil(BLOCK_FRAMES);
    let populated: u64 = map
        .areas()
        .iter()
        .filter(|area| map.has_memory(area.frames))
        // A block that two areas share counts twice.
        .map(|area| area.frames.end().div_ceil(BLOCK_FRAMES) - area.frames.start() / BLOCK_FRAMES)
        .sum();
    let gigabytes = blocks.div_ceil(BLOCK_FRAMES);
    // The window, its entries and the records are three trees of tables, by frame number.
    let trees = 3 * (gigabytes + gigabytes.div_ceil(BLOCK_FRAMES) + 1);
    // The heap takes large pages but at its ends.
    let heap = heap_frames.div_ceil(PageSize::Size1GiB.frames()) + 1 + 3;
    // A page of zeros, and a table that shows it everywhere.
    let shared = 2;
    2 * populated.min(blocks) + trees + heap + shared
}

/// What memory is to be used for besides the environment, for whoever keeps records of it.
#[derive(Debug)]
pub struct MemoryRanges {
    /// Free for clients; filled up with empty ranges.
    pub free: [FrameRange; MemoryMap::<128>::CAPACITY],
    /// The boot modules'; filled up with empty ranges.
    pub modules: [FrameRange; BootInformation::MODULES],
    /// Device memory that clients may have: video memory, and the frame buffer. Empty if there is
    /// none, or the loader calls it memory.
    pub devices: [FrameRange; 2],
}

impl MemoryRanges {
    /// No ranges.
    pub const EMPTY: Self = Self {
        free: [FrameRange::EMPTY; MemoryMap::<128>::CAPACITY],
        modules: [FrameRange::EMPTY; BootInformation::MODULES],
        devices: [FrameRange::EMPTY; 2],
    };

    /// Takes the ranges from what the loader said and the boot has reserved since. No two overlap.
    pub fn fill(&mut self, information: &BootInformation) {
        let map = information.memory_map();
        for (place, range) in self.free.iter_mut().zip(map.usable()) {
            *place = range;
        }
        for (place, range) in self.modules.iter_mut().zip(information.module_frames()) {
            *place = range;
        }
        let buffer = information.frame_buffer().map(|buffer| buffer.range.frames());
        let buffer = buffer.filter(|frames| !frames.overlaps(VIDEO_MEMORY));
        let devices = [VIDEO_MEMORY, buffer.unwrap_or(FrameRange::EMPTY)];
        self.devices =
            devices.map(|frames| if map.has_memory(frames) { FrameRange::EMPTY } else { frames });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Diagnostics;
    use crate::memory_map::{Limits, MemoryKind};

    /// A map with these ranges of usable bytes.
    fn map(usable: &[(u64, u64)]) -> MemoryMap {
        let (mut map, mut diagnostics) = (MemoryMap::empty(), Diagnostics::empty());
        {
            let mut builder = map.rebuild(Limits::new(46, u64::MAX), &mut diagnostics);
            for (start, bytes) in usable {
                builder.add(*start, *bytes, MemoryKind::Usable);
            }
        }
        map
    }

    #[test]
    fn the_environment_is_high_usable_and_large_enough() {
        for megabytes in [16_u64, 100, 512, 3 << 10, 64 << 10] {
            let map = map(&[(0x10_0000, (megabytes - 1) << 20)]);
            let plan = EnvironmentPlan::new(&map, None).unwrap();
            assert!(map.is_usable(plan.range));
            assert!(!plan.range.overlaps(FIXED_PROGRAMS) || megabytes < 64);
            assert_eq!(plan.managed_frames, megabytes << 8);
            assert!(plan.heap_frames * PAGE_BYTES >= (megabytes << 20) / 33);
            // Two pages of metadata for each block, and little more.
            let metadata = plan.range.count() - plan.heap_frames;
            assert!((megabytes..megabytes + 20 + megabytes / 64).contains(&metadata));
        }
    }

    #[test]
    fn holes_cost_next_to_nothing() {
        let plan = |usable| EnvironmentPlan::new(&map(usable), Some(1 << 20)).unwrap();
        let one = plan(&[(0, 1 << 30)]);
        let apart = plan(&[(0, 1 << 29), (1 << 36, 1 << 29)]);
        let metadata = |plan: EnvironmentPlan| plan.range.count() - plan.heap_frames;
        assert!(metadata(apart) < metadata(one) + 3 * 70);
    }

    #[test]
    fn a_heap_that_does_not_fit_is_refused_with_both_sizes() {
        let map = map(&[(0x10_0000, 31 << 20)]);
        let Err(BootError::NoRoom { bytes, usable }) = EnvironmentPlan::new(&map, Some(1 << 40))
        else {
            panic!("it fits")
        };
        assert_eq!(usable, 31 << 20);
        assert!(bytes > usable);
        let nothing = EnvironmentPlan::new(&MemoryMap::empty(), None);
        assert_eq!(nothing, Err(BootError::NoUsableMemory));
    }
}
