//! The state that the checks decide on: plain data.
//!
//! On the kernel the large arrays are slices of the environment's memory that the boot
//! supplies; on hosts they are vectors, so that a model checker can copy, compare and hash
//! states.

use core::marker::PhantomData;

use heliox_types::{Frame, FrameRange};

use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::page::{BlockRecord, PageRecord, Status};
use crate::region::IoRange;
use crate::translation::{CpuRecord, Translations};

/// Where the records are stored.
pub trait Storage {
    /// One record per page, from frame 0 on.
    fn pages(&self) -> &[PageRecord];
    /// The same, to be changed.
    fn pages_mut(&mut self) -> &mut [PageRecord];
    /// One record per block; those of lower levels first.
    fn blocks(&self) -> &[BlockRecord];
    /// The same, to be changed.
    fn blocks_mut(&mut self) -> &mut [BlockRecord];
    /// One record per processor.
    fn cpus(&self) -> &[CpuRecord];
    /// The same, to be changed.
    fn cpus_mut(&mut self) -> &mut [CpuRecord];
}

/// Records in slices.
#[derive(Debug)]
pub struct Slices<'memory> {
    /// One record per page.
    pub pages: &'memory mut [PageRecord],
    /// One record per block.
    pub blocks: &'memory mut [BlockRecord],
    /// One record per processor: of the only one.
    pub cpus: [CpuRecord; 1],
}

/// Records in vectors.
#[cfg(any(test, feature = "simulated"))]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vectors {
    pages: std::vec::Vec<PageRecord>,
    blocks: std::vec::Vec<BlockRecord>,
    cpus: std::vec::Vec<CpuRecord>,
}

#[cfg(any(test, feature = "simulated"))]
impl Vectors {
    /// Number of page records.
    #[must_use]
    pub const fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// The processors' records.
    #[must_use]
    pub fn cpu_records(&self) -> &[CpuRecord] {
        &self.cpus
    }

    /// Vectors of the right sizes for `frames` frames and `cpus` processors.
    #[must_use]
    pub fn new<G: Geometry>(frames: usize, cpus: usize) -> Self {
        Self {
            pages: std::vec![PageRecord::NOT_INSTALLED; frames],
            blocks: std::vec![BlockRecord::NOT_INSTALLED; block_records::<G>(frames)],
            cpus: std::vec![CpuRecord::default(); cpus],
        }
    }
}

macro_rules! implement_storage {
    ($type:ty) => {
        impl Storage for $type {
            #[inline]
            fn pages(&self) -> &[PageRecord] {
                &self.pages
            }
            #[inline]
            fn pages_mut(&mut self) -> &mut [PageRecord] {
                &mut self.pages
            }
            #[inline]
            fn blocks(&self) -> &[BlockRecord] {
                &self.blocks
            }
            #[inline]
            fn blocks_mut(&mut self) -> &mut [BlockRecord] {
                &mut self.blocks
            }
            #[inline]
            fn cpus(&self) -> &[CpuRecord] {
                &self.cpus
            }
            #[inline]
            fn cpus_mut(&mut self) -> &mut [CpuRecord] {
                &mut self.cpus
            }
        }
    };
}

implement_storage!(Slices<'_>);
#[cfg(any(test, feature = "simulated"))]
implement_storage!(Vectors);

/// Number of block records for memory of `frames` frames.
#[must_use]
pub const fn block_records<G: Geometry>(frames: usize) -> usize {
    let mut records = 0;
    let mut level = 2;
    while level <= G::LEAF_LEVELS {
        records += frames.div_ceil(1 << (G::INDEX_BITS * (level - 1)));
        level += 1;
    }
    records
}

/// What the boot found in memory. The ranges are disjoint; frames in none of them, up to
/// the number of page records, are not installed.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'ranges> {
    /// Needed for the kernel to run.
    pub environment: &'ranges [FrameRange],
    /// Free for clients.
    pub free: &'ranges [FrameRange],
    /// The boot modules' memory, one range per module.
    pub modules: &'ranges [FrameRange],
    /// Device memory that clients may have; may lie past the page records.
    pub io: &'ranges [IoRange],
}

/// All that the checks remember.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State<G, S> {
    pub(crate) storage: S,
    pub(crate) translations: Translations,
    pub(crate) largest_leaf: Level,
    geometry: PhantomData<G>,
}

impl<G: Geometry, S: Storage> State<G, S> {
    /// The state after the boot: free memory and the modules' belong to domain 0.
    ///
    /// The page records of frames in no range must be [`PageRecord::NOT_INSTALLED`]; they are not
    /// written, and may lie in memory that cannot be. All other records are overwritten.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    pub(crate) fn new(
        storage: S,
        layout: &Layout<'_>,
        largest_leaf: Level,
        reference_root: Frame,
    ) -> Result<Self, Error> {
        let () = G::VALID;
        let frames = storage.pages().len();
        let needed = block_records::<G>(frames);
        let supplied = storage.blocks().len();
        // Frames with records have numbers of 32 bits: 16 TiB.
        if supplied != needed || u32::try_from(frames).is_err() {
            return Err(Error::BadStorage { needed, supplied });
        }
        let supplied = storage.cpus().len();
        if supplied == 0 || supplied > crate::cpu::MAX_CPUS {
            let needed = supplied.clamp(1, crate::cpu::MAX_CPUS);
            return Err(Error::BadStorage { needed, supplied });
        }
        let mut state = Self {
            storage,
            translations: Translations::NEW,
            largest_leaf: largest_leaf.min(Level::new::<G>(G::LEAF_LEVELS).unwrap_or(Level::FIRST)),
            geometry: PhantomData,
        };
        state.storage.cpus_mut().fill(CpuRecord::new(reference_root));
        let memory = FrameRange::new(0, frames as u64).unwrap_or(FrameRange::EMPTY);
        let client = OwnerCode::new(Owner::Domain(DomainId::ZERO));
        let environment = layout.environment.iter();
        let environment =
            environment.map(|range| (*range, Status::Environment, OwnerCode::HYPERVISOR));
        let normal = layout.free.iter().chain(layout.modules);
        let normal = normal.map(|range| (*range, Status::Normal, client));
        // Device memory can lie past the records.
        let io = layout.io.iter().map(|io| io.frames);
        let io = io.map(|range| (range, Status::Io, client));
        let all = environment.chain(normal).chain(io);
        for (number, (range, ..)) in all.clone().enumerate() {
            if all.clone().take(number).any(|(other, ..)| other.overlaps(range)) {
                return Err(Error::BadLayout { range });
            }
        }
        let recorded = all.filter_map(move |(range, status, owner)| {
            let range = match status {
                Status::Io => range.intersection(memory),
                _ => range,
            };
            (!range.is_empty()).then_some((range, status, owner))
        });
        for (range, status, owner) in recorded.clone() {
            if !state.install(range, status, owner) {
                return Err(Error::BadLayout { range });
            }
        }
        state.sum_up(recorded);
        Ok(state)
    }

    /// The records.
    #[must_use]
    pub const fn storage(&self) -> &S {
        &self.storage
    }
}
