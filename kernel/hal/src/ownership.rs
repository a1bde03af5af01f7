//! Giving memory to a domain and taking it back.
//!
//! Invariant O2: memory of nobody is clear and not referenced. Memory passes from one domain
//! to another only by way of nobody, and so is cleared on the way.

use heliox_address::PAGE_BITS;

use crate::cpu::CurrentCpu;
use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, WindowEntry};
use crate::page::Units;
use crate::region::PhysicalRegion;
use crate::share::region_units;
use crate::state::{State, Storage};

/// Gives clear memory to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assign {
    units: Units,
    to: OwnerCode,
}

impl Assign {
    pub(crate) fn decide<G: Geometry, S: Storage>(
        state: &State<G, S>,
        region: PhysicalRegion,
        to: DomainId,
    ) -> Result<Self, Error> {
        let units = region_units::<G>(region.ram()?)?;
        // O2: it is not referenced and no processor translates to it, or it would be somebody's.
        state.check_references(units, OwnerCode::NOBODY)?;
        Ok(Self {
            units,
            to: OwnerCode::new(Owner::Domain(to)),
        })
    }

    pub(crate) fn apply<G: Geometry, S: Storage>(self, state: &mut State<G, S>) {
        for frame in self.units.frames::<G>() {
            state.set_owner(self.units.level, frame, self.to);
        }
    }
}

/// Takes memory from a domain and clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pages: Units,
    whole: Units,
}

impl Release {
    pub(crate) fn decide<G: Geometry, S: Storage>(
        state: &State<G, S>,
        region: PhysicalRegion,
        from: DomainId,
    ) -> Result<Self, Error> {
        let region = region.ram()?;
        let limit = G::ENTRIES as u64;
        if region.pages() > limit {
            let pages = region.pages();
            return Err(Error::TooLong { pages, limit });
        }
        let first = region.first_frame();
        let pages = Units {
            level: Level::FIRST,
            first,
            count: region.pages(),
        };
        let from = OwnerCode::new(Owner::Domain(from));
        for frame in pages.frames::<G>() {
            state.check_free(frame)?;
            state.check_owner(Level::FIRST, frame, from)?;
        }
        let largest = Level::new::<G>(G::LEAF_LEVELS).unwrap_or(Level::FIRST);
        let whole = Units::of::<G>(first, region.bits() - PAGE_BITS, largest);
        Ok(Self { pages, whole })
    }

    pub(crate) fn apply<M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
    ) {
        for frame in self.pages.frames::<M::Geometry>() {
            // W1: a page that is free is not open.
            machine.open_window(frame, WindowEntry::PRIVATE);
            machine.clear_frame(frame);
            machine.close_window(frame);
            machine.invalidate_page(cpu, machine.window_address(frame));
        }
        if self.whole.level > Level::FIRST {
            // What the pages say while the block is still mixed or another's does not count.
            self.pages
                .frames::<M::Geometry>()
                .for_each(|frame| state.forget_owner(frame));
        }
        for frame in self.whole.frames::<M::Geometry>() {
            state.set_owner(self.whole.level, frame, OwnerCode::NOBODY);
        }
    }
}
