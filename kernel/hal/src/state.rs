//! The state that the checks decide on: plain data.
//!
//! On the kernel the large arrays are slices of the environment's memory that the boot supplies;
//! on hosts they are vectors, so that a model checker can copy, compare and hash states.

use core::marker::PhantomData;

use crate::prelude::*;

/// Many of something.
#[cfg(target_os = "none")]
pub type Records<T> = &'static mut [T];
/// Many of something.
#[cfg(not(target_os = "none"))]
pub type Records<T> = std::vec::Vec<T>;

/// The records of all processors (U1: there is one).
#[cfg(target_os = "none")]
pub type CpuRecords = [CpuRecord; 1];
/// The records of all processors.
#[cfg(not(target_os = "none"))]
pub type CpuRecords = std::vec::Vec<CpuRecord>;

/// What the boot found in memory. The ranges are disjoint; frames in none of them, up to
/// the number of page records, are not installed.
#[cfg_attr(not(target_os = "none"), derive(Clone))]
#[derive(Debug)]
pub struct Layout {
    /// Needed for the kernel to run.
    pub environment: Records<FrameRange>,
    /// Free for clients.
    pub free: Records<FrameRange>,
    /// The boot modules' memory, one range per module.
    pub modules: Records<FrameRange>,
    /// Device memory that clients may have; may lie past the page records.
    pub io: Records<IoRange>,
}

/// All that the checks remember.
#[cfg_attr(not(target_os = "none"), derive(Clone))]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct State<G> {
    /// The records of units by their level - 1: of each page from frame 0 on, then of each larger
    /// unit, of which the last may lie only partly within memory.
    pub(crate) units: [Records<Record>; MAX_LEAF_LEVELS],
    pub(crate) cpus: CpuRecords,
    /// Number of the last event that made a processor owe a flush.
    pub(crate) epoch: u64,
    geometry: PhantomData<G>,
}

impl<G: Geometry> State<G> {
    /// The number of records of units of `level` for `frames` frames.
    pub const fn unit_count(level: Level, frames: usize) -> usize {
        if level.number() <= G::LEAF_LEVELS {
            frames.div_ceil(1 << level.frame_bits::<G>())
        } else {
            0
        }
    }

    /// The state after the boot: free memory and the modules' belong to domain 0.
    ///
    /// The records of pages in no range must be [`Record::NOT_INSTALLED`]; they are not written,
    /// and may lie in memory that cannot be. All other records are overwritten.
    pub(crate) fn new(
        units: [Records<Record>; MAX_LEAF_LEVELS],
        cpus: CpuRecords,
        layout: &Layout,
        reference_root: Frame,
    ) -> Result<Self, Error> {
        let () = G::VALID;
        let mut state = Self { units, cpus, epoch: 0, geometry: PhantomData };
        let [pages, larger @ ..] = &mut state.units;
        let memory = FrameRange::new(0, pages.len() as u64).unwrap_or(FrameRange::EMPTY);
        for (records, level) in larger.iter_mut().zip(Level::leaves::<G>().skip(1)) {
            let (needed, supplied) = (Self::unit_count(level, pages.len()), records.len());
            if needed != supplied {
                return Err(Error::BadStorage { needed, supplied });
            }
            records.fill(Record::not_installed(level.frames::<G>()));
        }
        let supplied = state.cpus.len();
        if supplied == 0 || supplied > MAX_CPUS {
            return Err(Error::BadStorage { needed: supplied.clamp(1, MAX_CPUS), supplied });
        }
        state.cpus.fill(CpuRecord::new(reference_root));

        let environment = layout.environment.iter().map(|range| (*range, Status::Environment));
        let normal = layout.free.iter().chain(layout.modules.iter());
        let io = layout.io.iter().map(|io| (io.frames, Status::Io));
        let all = environment.chain(normal.map(|range| (*range, Status::Normal))).chain(io);
        for (number, (range, status)) in all.clone().enumerate() {
            let overlaps = all.clone().take(number).any(|(other, _)| other.overlaps(range));
            // Device memory can lie past the records.
            let recorded = range.intersection(memory);
            if overlaps || (recorded != range && status != Status::Io && !range.is_empty()) {
                return Err(Error::BadLayout { range });
            }
            state.install(recorded, status);
        }
        Ok(state)
    }

    /// Makes the records of `range`, none of which were made before.
    fn install(&mut self, range: FrameRange, status: Status) {
        let owner = match status {
            Status::Environment => OwnerCode::HYPERVISOR,
            _ => OwnerCode::of(DomainId::ZERO),
        };
        if let [pages, ..] = &mut self.units
            && let Some(pages) = pages.get_mut(range.start() as usize..range.end() as usize)
        {
            // In eights: this is what takes time at boot.
            let record = Record::new(status, owner);
            let mut eights = pages.chunks_exact_mut(8);
            for eight in &mut eights {
                eight.copy_from_slice(&[record; 8]);
            }
            eights.into_remainder().fill(record);
        }
        for level in Level::leaves::<G>().skip(1) {
            let bits = level.frame_bits::<G>();
            for block in range.start() >> bits..range.end().div_ceil(1 << bits) {
                let block = FrameRange::new(block << bits, (block + 1) << bits);
                let part = block.map_or(FrameRange::EMPTY, |block| block.intersection(range));
                let (Some(frame), count) = (part.first(), part.count()) else { continue };
                let whole = count == level.frames::<G>();
                self.change(level, frame, |block| {
                    block.set_owner(if whole { owner } else { OwnerCode::MIXED });
                    if status == Status::Normal {
                        block.count_normal(count);
                    }
                });
            }
        }
    }
}
