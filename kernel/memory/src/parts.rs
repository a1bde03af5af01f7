//! Doing something to a region part by part, where the abstraction layer takes only so much at
//! once: giving memory away, taking it back, sharing it.

use heliox_hal::region::PhysicalRegion;
use heliox_types::PAGE_BITS;
use heliox_types::error::Error;
use heliox_types::flexpage::Flexpage;
use heliox_types::status::Status;

use crate::Progress;

/// A region to which something is being done.
///
/// Invariant: `done` is at most the region's size, and what is left is cut into parts that each
/// begin at a multiple of their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    region: PhysicalRegion,
    done: u64,
}

impl Parts {
    /// All of `region`.
    #[must_use]
    pub const fn new(region: PhysicalRegion) -> Self {
        Self { region, done: 0 }
    }

    /// Number of pages of 4 KiB that were dealt with.
    #[must_use]
    pub const fn pages_done(&self) -> u64 {
        self.done >> PAGE_BITS
    }

    /// Has `operate` deal with the next part: the largest that it takes. It must have done nothing
    /// if it refuses, as every operation of the abstraction layer.
    ///
    /// # Errors
    ///
    /// What `operate` says about a part that it does not take although it is small enough.
    pub fn step(
        &mut self,
        mut operate: impl FnMut(PhysicalRegion) -> Result<(), Error>,
    ) -> Result<Progress, Error> {
        let Some(most) = ((1 << self.region.bits()) - self.done).checked_ilog2() else {
            return Ok(Progress::Done);
        };
        let start = self.region.first_frame().address();
        let start = start.checked_add(self.done).unwrap_or(start);
        let mut bits = start.get().trailing_zeros().min(most);
        loop {
            let part = self.region.derive(Flexpage::physical(start, bits)?)?;
            match operate(part) {
                Ok(()) => break,
                // Too much at once, or its pages differ.
                Err(
                    Error::TooLong { .. }
                    | Error::NotOnePage { .. }
                    | Error::NotOwner { owner: None, .. }
                    | Error::WrongStatus { status: Status::Mixed, .. },
                ) if bits > PAGE_BITS => bits -= 1,
                Err(error) => return Err(error),
            }
        }
        self.done += 1 << bits;
        Ok(if self.done >> self.region.bits() == 0 { Progress::More } else { Progress::Done })
    }
}
