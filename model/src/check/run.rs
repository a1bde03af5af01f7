//! The checks on the HAL as it is, in whatever shape a machine has.

use heliox_types::geometry::Geometry;

use crate::action::Action;
use crate::hal::Checks;
use crate::hal::geometry::{WithGeometry, with_geometry};
use crate::machine::BadSizes;

use super::exhaustive::{Exhaustive, explore};
use super::random_run::Random;
use super::report::{Progress, Report};

struct Visit<'run> {
    search: &'run Exhaustive,
    progress: &'run (dyn Fn(Progress) + Sync),
}

impl WithGeometry for Visit<'_> {
    type Result = Result<Report, BadSizes>;

    fn run<G: Geometry + Send + Sync>(self) -> Self::Result {
        let start = Checks::<G>::boot(&self.search.machine, true)?;
        Ok(explore(self.search, start, self.progress))
    }
}

/// Visits all states of the HAL.
///
/// # Errors
///
/// [`BadSizes`] if there is no simulated machine of these sizes.
pub fn exhaustive(
    search: &Exhaustive,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, BadSizes> {
    if search.machine.frames() as usize > crate::facts::MAX_FRAMES {
        return Err(BadSizes("a search has at most 64 frames"));
    }
    with_geometry(&search.machine, Visit { search, progress })?
}

struct Walk<'run> {
    run: &'run Random,
    progress: &'run (dyn Fn(Progress) + Sync),
    log: &'run mut dyn FnMut(&Action, bool),
}

impl WithGeometry for Walk<'_> {
    type Result = Result<Report, BadSizes>;

    fn run<G: Geometry + Send + Sync>(self) -> Self::Result {
        let start = Checks::<G>::boot(&self.run.machine, self.run.compare_every == 1)?;
        Ok(self.run.run(start, self.progress, self.log))
    }
}

/// A random run on the HAL.
///
/// # Errors
///
/// [`BadSizes`] if there is no simulated machine of these sizes.
pub fn random(
    run: &Random,
    progress: &(dyn Fn(Progress) + Sync),
    log: &mut dyn FnMut(&Action, bool),
) -> Result<Report, BadSizes> {
    with_geometry(&run.machine, Walk { run, progress, log })?
}
