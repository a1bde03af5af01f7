//! The memory of the machine, as clients see it: one trait per kind of effect, so that a
//! function's signature says what it may do, and [`Memory`], which has them all.
//!
//! Every operation decides first, by reading only, and then carries out what was decided, which
//! cannot fail. A refused operation changed nothing.

pub use crate::kernel_mapping::KernelMemory;
pub use crate::mapping::UserMemory;
pub use crate::ownership::Ownership;
pub use crate::page_map::Paging;

use crate::domain::Owner;
use crate::error::Error;
use crate::machine::Machine;
use crate::page::Status;
use crate::region::{PhysicalRegion, Regions};
use crate::state::{Layout, State, Storage};

/// Finding memory.
pub trait PhysicalMemory {
    /// The free memory after the boot and the I/O regions, in largest regions; no module's.
    fn initial_regions(&self) -> Regions<'_>;

    /// The memory of boot module `number`, in largest regions, or `None` if there is none.
    fn module_regions(&self, number: usize) -> Option<Regions<'_>>;

    /// What the page at the start of `region` is.
    fn status(&self, region: PhysicalRegion) -> Status;

    /// Who owns the page at the start of `region`.
    fn owner(&self, region: PhysicalRegion) -> Owner;
}

/// The state of all memory, and the machine that has it.
///
/// There is one on a machine. Handles are valid for the one that they came from.
#[derive(Clone, Debug)]
pub struct Memory<'layout, M: Machine, S: Storage> {
    pub(crate) machine: M,
    pub(crate) state: State<M::Geometry, S>,
    layout: Layout<'layout>,
}

impl<'layout, M: Machine, S: Storage> Memory<'layout, M, S> {
    /// Takes over the machine after the boot.
    ///
    /// The caller vouches that `layout` is the truth: no frame in `free`, `modules` or `io`
    /// serves the kernel (R1); and that every processor of the storage's records translates with
    /// the reference root.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    #[cfg_attr(
        not(any(test, feature = "simulated", target_os = "none")),
        expect(dead_code, reason = "called by the start code of a machine")
    )]
    pub(crate) fn new(machine: M, storage: S, layout: Layout<'layout>) -> Result<Self, Error> {
        let (leaf, root) = (machine.largest_leaf(), machine.reference_root());
        let state = State::new(storage, &layout, leaf, root)?;
        Ok(Self { machine, state, layout })
    }

    /// Takes over a simulated machine.
    ///
    /// # Errors
    ///
    /// [`Error::BadStorage`], [`Error::BadLayout`].
    #[cfg(any(test, feature = "simulated"))]
    pub fn simulated(machine: M, storage: S, layout: Layout<'layout>) -> Result<Self, Error> {
        Self::new(machine, storage, layout)
    }

    /// The simulated machine.
    #[cfg(any(test, feature = "simulated"))]
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// The simulated machine, for what programs and devices do to it.
    #[cfg(any(test, feature = "simulated"))]
    pub const fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The state, for tests that pretend.
    #[cfg(test)]
    pub(crate) const fn state_mut(&mut self) -> &mut State<M::Geometry, S> {
        &mut self.state
    }

    /// The state that the checks decide on.
    #[must_use]
    pub const fn state(&self) -> &State<M::Geometry, S> {
        &self.state
    }
}

impl<M: Machine, S: Storage> PhysicalMemory for Memory<'_, M, S> {
    fn initial_regions(&self) -> Regions<'_> {
        Regions::new(self.layout.free, self.layout.io)
    }

    fn module_regions(&self, number: usize) -> Option<Regions<'_>> {
        let module = self.layout.modules.get(number)?;
        Some(Regions::new(core::slice::from_ref(module), &[]))
    }

    fn status(&self, region: PhysicalRegion) -> Status {
        self.state.status(region.first_frame())
    }

    fn owner(&self, region: PhysicalRegion) -> Owner {
        self.state.owner(region.first_frame())
    }
}
