//! Tests of the checks on the simulated machine.
//!
//! Not under Miri: the checks and the simulated machine are safe code, and these machines are so
//! large that a single test takes it an hour.

mod random;
mod rules;

use heliox_types::Frame;
use heliox_types::geometry::{Geometry, Level};

use crate::state::State;

impl<G: Geometry> State<G> {
    /// For tests: makes a unit look as if it were referenced as often as `count`. Returns the
    /// count before.
    pub(crate) fn pretend_count(&mut self, level: Level, frame: Frame, count: u32) -> u32 {
        let before = self.record(level, frame).count();
        self.change(level, frame, |record| record.set_count(count));
        before
    }
}
