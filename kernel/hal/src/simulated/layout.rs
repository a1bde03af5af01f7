//! What never changes of a simulated machine: which memory there is, where the window lies and
//! which tables were built at boot.
//!
//! Frame 0 is the reference root. The tables below the window follow it, then frames that stand
//! for the kernel's own data; together they are the environment. The kernel's code and data are
//! not mapped: the simulated kernel runs on the host.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::vec::Vec;
use std::{error, fmt};

use heliox_types::{Frame, FrameRange, PAGE_BITS, VirtualAddress};

use super::memory::Memory;
use super::violation::Strictness;
use super::{Simulated, State};
use crate::entry::{Host, RootKind};
use heliox_types::cpu::MAX_CPUS;
use heliox_types::geometry::{Geometry, Level};
use heliox_types::mapping::{IoKind, IoRange};
use heliox_types::rights::MemoryType;

/// The number of a page of 4 KiB, counted within the geometry's address space.
pub(super) type PageNumber = u64;

/// The root whose kernel half every root carries.
pub(super) const REFERENCE_ROOT: Frame = Frame::ZERO;

/// Bits of an address that the processor translates; above, addresses are sign-extended.
const CANONICAL_BITS: u32 = 48;

/// Frames that lie together.
#[derive(Clone, Debug)]
struct Bank {
    range: FrameRange,
    memory_type: MemoryType,
    /// Number of frames in the banks before.
    first_slot: usize,
}

/// What the supervisor is kept from, by control register bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// CR4.SMEP: no fetching of instructions from pages that programs can use.
    pub execution_prevention: bool,
    /// CR4.SMAP: no access to data in pages that programs can use.
    pub access_prevention: bool,
    /// CR0.WP: no writing to pages that cannot be written.
    pub write_protection: bool,
}

impl Protection {
    /// All of them.
    pub const ALL: Self =
        Self { execution_prevention: true, access_prevention: true, write_protection: true };
}

/// What the processors' caches take up, beyond what was used and may still be stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caching {
    /// Every processor caches, before every change of memory, all that it could find in the
    /// tables: the worst that speculation can do. For tiny machines.
    pub speculative: bool,
    /// Entries of the window that programs cannot use, and tables of the kernel's half, are
    /// cached too. They never differ from later ones (see [`crate::machine`]), so without them a
    /// machine has far fewer states.
    pub private_window: bool,
}

/// Why there is no such machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The environment alone needs more frames than there are.
    TooFewFrames {
        /// Number of frames.
        frames: u64,
    },
    /// The kernel's half has no room for the window.
    WindowTooLarge {
        /// Number of pages of the kernel's half.
        room: u64,
    },
    /// Two ranges of memory overlap.
    Overlap {
        /// One of them.
        range: FrameRange,
    },
    /// No number of processors.
    Processors {
        /// The number.
        count: usize,
    },
    /// The geometry has no leaf entries of this level.
    LargestLeaf {
        /// The level's number.
        level: u32,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewFrames { frames } => {
                write!(formatter, "{frames} frames are too few for the environment")
            }
            Self::WindowTooLarge { room } => {
                write!(formatter, "the window does not fit in {room} pages")
            }
            Self::Overlap { range } => write!(formatter, "{range:?} overlaps other memory"),
            Self::Processors { count } => write!(formatter, "{count} processors"),
            Self::LargestLeaf { level } => write!(formatter, "no leaf entries of level {level}"),
        }
    }
}

impl error::Error for LayoutError {}

/// Lays out a simulated machine as the boot code lays out a real one.
#[derive(Clone, Debug)]
pub struct Builder<G: Geometry> {
    frames: u64,
    kernel_frames: u64,
    io: Vec<(FrameRange, MemoryType)>,
    processors: usize,
    largest_leaf: u32,
    ticks_per_step: u64,
    protection: Protection,
    caching: Caching,
    strictness: Strictness,
    geometry: PhantomData<G>,
}

impl<G: Geometry> Builder<G> {
    /// A machine with `frames` frames of RAM from frame 0 on, one processor and no I/O memory.
    #[must_use]
    pub const fn new(frames: u64) -> Self {
        Self {
            frames,
            kernel_frames: 0,
            io: Vec::new(),
            processors: 1,
            largest_leaf: G::LEAF_LEVELS,
            ticks_per_step: 1,
            protection: Protection::ALL,
            caching: Caching { speculative: false, private_window: true },
            strictness: Strictness::Collect,
            geometry: PhantomData,
        }
    }

    /// Number of further frames of the environment, for what a kernel would keep there.
    #[must_use]
    pub const fn kernel_frames(mut self, frames: u64) -> Self {
        self.kernel_frames = frames;
        self
    }

    /// Adds I/O memory, which the window has tables for.
    #[must_use]
    pub fn io(mut self, range: FrameRange, memory_type: MemoryType) -> Self {
        self.io.push((range, memory_type));
        self
    }

    /// Number of processors.
    #[must_use]
    pub const fn processors(mut self, count: usize) -> Self {
        self.processors = count;
        self
    }

    /// The highest level of leaf entries that the machine supports.
    #[must_use]
    pub const fn largest_leaf(mut self, level: u32) -> Self {
        self.largest_leaf = level;
        self
    }

    /// How much time passes with each step of a program.
    #[must_use]
    pub const fn ticks_per_step(mut self, ticks: u64) -> Self {
        self.ticks_per_step = ticks;
        self
    }

    /// What the supervisor is kept from.
    #[must_use]
    pub const fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// What processors cache.
    #[must_use]
    pub const fn caching(mut self, caching: Caching) -> Self {
        self.caching = caching;
        self
    }

    /// What happens when there is something to report.
    #[must_use]
    pub const fn strictness(mut self, strictness: Strictness) -> Self {
        self.strictness = strictness;
        self
    }

    /// The machine, with the reference root loaded on every processor and every frame closed.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn build(self) -> Result<Simulated<G>, LayoutError> {
        let () = G::VALID;
        if self.processors == 0 || self.processors > MAX_CPUS {
            return Err(LayoutError::Processors { count: self.processors });
        }
        let largest_leaf = Level::new::<G>(self.largest_leaf)
            .filter(|level| level.number() <= G::LEAF_LEVELS)
            .ok_or(LayoutError::LargestLeaf { level: self.largest_leaf })?;
        let banks = self.banks()?;
        let (environment, window) = self.environment(&banks)?;
        let tables: Vec<_> = window_tables::<G>(&banks, window).into_iter().collect();
        let layout = Layout {
            banks,
            environment,
            window,
            boot_tables: 1 + tables.len() as u64,
            window_leaves: Vec::new(),
            largest_leaf,
            ticks_per_step: self.ticks_per_step,
            protection: self.protection,
            caching: self.caching,
            strictness: self.strictness,
            geometry: PhantomData,
        };
        let memory = Memory::new(layout.slots());
        Ok(layout.boot(memory, &tables, self.processors))
    }

    fn banks(&self) -> Result<Vec<Bank>, LayoutError> {
        let too_few = LayoutError::TooFewFrames { frames: self.frames };
        let ram = FrameRange::new(0, self.frames).ok_or(too_few)?;
        let mut banks = Vec::new();
        let mut slots = 0;
        let ram = std::iter::once((ram, MemoryType::WriteBack));
        for (range, memory_type) in ram.chain(self.io.iter().copied()) {
            if banks.iter().any(|bank: &Bank| bank.range.overlaps(range)) {
                return Err(LayoutError::Overlap { range });
            }
            banks.push(Bank { range, memory_type, first_slot: slots });
            slots += usize::try_from(range.count()).map_err(|_| too_few)?;
        }
        Ok(banks)
    }

    /// The environment, and the frames that the window covers: all of them, or, where the
    /// kernel's half is too small for that, all but the environment, which is then as large as it
    /// has to be for the rest to fit.
    fn environment(&self, banks: &[Bank]) -> Result<(FrameRange, FrameRange), LayoutError> {
        let room = ((G::ENTRIES - G::USER_ENTRIES) as u64) << (G::INDEX_BITS * (G::LEVELS - 1));
        let end = banks.iter().map(|bank| bank.range.end()).max().unwrap_or(0);
        let mut fits = false;
        // The size of the environment depends on the number of tables below the window, which
        // depends on where the window begins, which may depend on the size of the environment.
        for environment in 1..=self.frames {
            let start = if end <= room { 0 } else { environment };
            let Some(window) = FrameRange::new(start, end).filter(|range| range.count() <= room)
            else {
                continue;
            };
            fits = true;
            let tables = window_tables::<G>(banks, window).len() as u64;
            if 1 + tables + self.kernel_frames <= environment {
                let environment = FrameRange::new(0, environment);
                return Ok((environment.unwrap_or(FrameRange::EMPTY), window));
            }
        }
        Err(if fits {
            LayoutError::TooFewFrames { frames: self.frames }
        } else {
            LayoutError::WindowTooLarge { room }
        })
    }
}

/// First page of the kernel's half.
pub(super) const fn kernel_half<G: Geometry>() -> PageNumber {
    (G::USER_ENTRIES as u64) << (G::INDEX_BITS * (G::LEVELS - 1))
}

/// The tables that the window needs, as level and first page, from level 1 up.
fn window_tables<G: Geometry>(banks: &[Bank], window: FrameRange) -> BTreeSet<(Level, PageNumber)> {
    let mut tables = BTreeSet::new();
    for bank in banks {
        let covered = bank.range.intersection(window);
        if covered.is_empty() {
            continue;
        }
        for level in (1..G::LEVELS).filter_map(Level::new::<G>) {
            let pages = level.frames::<G>() << G::INDEX_BITS;
            let first = kernel_half::<G>() + (covered.start() - window.start());
            let last = kernel_half::<G>() + (covered.end() - 1 - window.start());
            let numbers = first / pages..=last / pages;
            tables.extend(numbers.map(|number| (level, number * pages)));
        }
    }
    tables
}

/// What never changes of a machine.
#[derive(Debug)]
pub(super) struct Layout<G> {
    banks: Vec<Bank>,
    pub(super) environment: FrameRange,
    /// The frames that the window covers. It has tables for those of them that exist.
    window: FrameRange,
    /// Number of frames from 0 on that hold tables built at boot.
    boot_tables: u64,
    /// The window's tables of level 1, in order of addresses; `None` where no memory is.
    window_leaves: Vec<Option<Frame>>,
    pub(super) largest_leaf: Level,
    pub(super) ticks_per_step: u64,
    pub(super) protection: Protection,
    pub(super) caching: Caching,
    pub(super) strictness: Strictness,
    geometry: PhantomData<G>,
}

impl<G: Geometry> Layout<G> {
    /// Physical addresses have at most this many bits; higher ones in an entry are reserved.
    const PHYSICAL_BITS: u32 = 46;

    fn boot(
        mut self,
        mut memory: Memory,
        tables: &[(Level, PageNumber)],
        processors: usize,
    ) -> Simulated<G> {
        // Tables lie behind the root in the order of `tables`.
        let frame_of = |level: Level, page: PageNumber| {
            tables
                .binary_search(&(level, page))
                .ok()
                .and_then(|position| Frame::new(1 + position as u64))
        };
        for &(level, page) in tables {
            let Some(frame) = frame_of(level, page) else {
                continue;
            };
            let above = (level.number() + 1 < G::LEVELS)
                .then(|| Level::new::<G>(level.number() + 1))
                .flatten();
            let (parent, above) = match above {
                Some(above) => {
                    let pages = above.frames::<G>() << G::INDEX_BITS;
                    (frame_of(above, page & !(pages - 1)), above)
                }
                None => (Some(REFERENCE_ROOT), Level::root::<G>()),
            };
            if let Some(slot) = parent.and_then(|parent| self.slot(parent)) {
                // Marked already, so that walks never write to the environment.
                let entry = Host::table(frame).0 | Host::ACCESSED;
                memory.set_word(slot, index::<G>(above, page), entry);
            }
        }
        let first = kernel_half::<G>();
        let pages = (self.window.count()).next_multiple_of(G::ENTRIES as u64);
        self.window_leaves = (first..first + pages)
            .step_by(G::ENTRIES)
            .map(|page| frame_of(Level::FIRST, page))
            .collect();
        Simulated::new(Arc::new(self), State::new(memory, processors))
    }

    /// Number of frames that exist.
    fn slots(&self) -> usize {
        self.banks
            .last()
            .map_or(0, |bank| bank.first_slot + usize::try_from(bank.range.count()).unwrap_or(0))
    }

    fn bank(&self, frame: Frame) -> Option<&Bank> {
        self.banks.iter().find(|bank| bank.range.contains(frame))
    }

    /// The number of a frame among those that exist.
    pub(super) fn slot(&self, frame: Frame) -> Option<usize> {
        let bank = self.bank(frame)?;
        let distance = usize::try_from(frame.number() - bank.range.start()).ok()?;
        Some(bank.first_slot + distance)
    }

    /// The one memory type of a frame that exists.
    pub(super) fn memory_type(&self, frame: Frame) -> Option<MemoryType> {
        self.bank(frame).map(|bank| bank.memory_type)
    }

    /// The I/O memory that clients may have: a frame buffer if it is write-combining.
    pub(super) fn io(&self) -> impl Iterator<Item = IoRange> {
        self.banks.iter().skip(1).filter_map(|bank| {
            let kind = match bank.memory_type {
                MemoryType::WriteBack => return None,
                MemoryType::Uncacheable => IoKind::VideoMemory,
                MemoryType::WriteCombining => IoKind::FrameBuffer,
            };
            Some(IoRange { frames: bank.range, kind })
        })
    }

    /// All RAM.
    pub(super) fn ram(&self) -> FrameRange {
        self.banks.first().map_or(FrameRange::EMPTY, |bank| bank.range)
    }

    /// Whether the frame holds a table that was built at boot.
    pub(super) fn is_boot_table(&self, frame: Frame) -> bool {
        frame.number() < self.boot_tables
    }

    /// The page of the window in which a frame can appear, if the window has tables for it.
    pub(super) fn window_page(&self, frame: Frame) -> Option<PageNumber> {
        if !self.window.contains(frame) || self.slot(frame).is_none() {
            return None;
        }
        Some(kernel_half::<G>() + (frame.number() - self.window.start()))
    }

    /// The table and index of the window's entry for a frame.
    pub(super) fn window_entry(&self, frame: Frame) -> Option<(Frame, usize)> {
        let page = self.window_page(frame)?;
        let table = usize::try_from(page - kernel_half::<G>()).ok()? >> G::INDEX_BITS;
        let table = (*self.window_leaves.get(table)?)?;
        Some((table, index::<G>(Level::FIRST, page)))
    }

    /// Whether a leaf entry of `level` has bits set that the processor wants to be zero.
    pub(super) fn has_reserved_bits(&self, entry: u64, level: Level, leaf: bool) -> bool {
        let too_high = Host::ADDRESS & !((1 << Self::PHYSICAL_BITS) - 1);
        // Of a large page also bit 12, the third bit of its PAT index, which the kernel never
        // sets.
        let unaligned = if leaf { (level.bytes::<G>() - 1) & Host::ADDRESS } else { 0 };
        (leaf && level > self.largest_leaf) || entry & (too_high | unaligned) != 0
    }
}

/// Index of the entry for a page in a table of `level`.
pub(super) const fn index<G: Geometry>(level: Level, page: PageNumber) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 9 bits")]
    {
        (page >> (G::INDEX_BITS * (level.number() - 1))) as usize & (G::ENTRIES - 1)
    }
}

/// The page that an address lies in, or `None` if the address is not canonical.
pub(super) const fn page_of<G: Geometry>(address: VirtualAddress) -> Option<PageNumber> {
    let bits = PAGE_BITS + G::INDEX_BITS * G::LEVELS;
    if bits < CANONICAL_BITS && address.get() >> bits != 0 {
        return None;
    }
    Some((address.get() & ((1 << bits) - 1)) >> PAGE_BITS)
}

/// The first address of a page.
pub(super) fn address_of<G: Geometry>(page: PageNumber) -> VirtualAddress {
    let bits = PAGE_BITS + G::INDEX_BITS * G::LEVELS;
    let address = page << PAGE_BITS;
    let unused = 64 - bits.max(CANONICAL_BITS);
    #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "sign extension")]
    let extended = ((address << unused) as i64 >> unused) as u64;
    VirtualAddress::new(extended).unwrap_or(VirtualAddress::ZERO)
}
