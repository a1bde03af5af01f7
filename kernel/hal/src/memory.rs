//! The memory of the machine, as clients see it: one trait per kind of effect, so that a
//! function's signature says what it may do, and [`Memory`], which has them all.
//!
//! Every operation decides first, by reading only, and then carries out what was decided, which
//! cannot fail. A refused operation changed nothing.

pub use crate::kernel_mapping::KernelMemory;
pub use crate::mapping::UserMemory;
pub use crate::page_map::Paging;
use crate::prelude::*;
pub use crate::share::Ownership;

/// Finding memory.
pub trait PhysicalMemory {
    /// The free memory after the boot and the I/O regions, in largest regions; no module's.
    fn initial_regions(&self) -> impl Iterator<Item = PhysicalRegion> + Clone;

    /// The memory of boot module `number`, in largest regions, or `None` if there is none.
    fn module_regions(&self, number: usize) -> Option<impl Iterator<Item = PhysicalRegion>>;

    /// What the page at the start of `region` is.
    fn status(&self, region: PhysicalRegion) -> Status;

    /// Who owns the page at the start of `region`.
    fn owner(&self, region: PhysicalRegion) -> Owner;

    /// Who owns all pages of `region`, if it is as large as a page of some size and its record says
    /// so; that is at least when they changed hands as one.
    fn owner_of_all(&self, region: PhysicalRegion) -> Option<Owner>;
}

/// The state of all memory, and the machine that has it.
///
/// There is one on a machine. Handles are valid for the one that they came from.
#[cfg_attr(not(target_os = "none"), derive(Clone))]
#[derive(Debug)]
pub struct Memory<M: Machine> {
    pub(crate) machine: M,
    pub(crate) state: State<M::Geometry>,
    layout: Layout,
}

impl<M: Machine> Memory<M> {
    /// Takes over the machine after the boot: `units` are the records of pages and of larger units,
    /// `cpus` those of the processors (see [`State`]).
    ///
    /// The caller vouches that `layout` is the truth: no frame in `free`, `modules` or `io`
    /// serves the kernel (R1); and that every processor translates with the reference root.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    pub(crate) fn new(
        machine: M,
        units: [Records<Record>; MAX_LEAF_LEVELS],
        cpus: CpuRecords,
        layout: Layout,
    ) -> Result<Self, Error> {
        let state = State::new(units, cpus, &layout, machine.reference_root())?;
        Ok(Self { machine, state, layout })
    }

    /// The state that the checks decide on.
    pub const fn state(&self) -> &State<M::Geometry> {
        &self.state
    }
}

impl<M: Machine> PhysicalMemory for Memory<M> {
    fn initial_regions(&self) -> impl Iterator<Item = PhysicalRegion> + Clone {
        let ram = self.layout.free.iter().map(|frames| (*frames, RegionKind::Ram));
        let io = self.layout.io.iter().map(|io| (io.frames, RegionKind::Io(io.kind)));
        ram.chain(io).flat_map(|(frames, kind)| PhysicalRegion::cover(frames, kind))
    }

    fn module_regions(&self, number: usize) -> Option<impl Iterator<Item = PhysicalRegion>> {
        let frames = *self.layout.modules.get(number)?;
        Some(PhysicalRegion::cover(frames, RegionKind::Ram))
    }

    fn status(&self, region: PhysicalRegion) -> Status {
        self.state.page(region.first_frame()).status()
    }

    fn owner(&self, region: PhysicalRegion) -> Owner {
        self.state.owner(region.first_frame())
    }

    fn owner_of_all(&self, region: PhysicalRegion) -> Option<Owner> {
        let level = Level::leaves::<M::Geometry>()
            .find(|level| level.bits::<M::Geometry>() == region.bits())?;
        self.state.record(level, region.first_frame()).owner().owner()
    }
}
