//! Measuring what the kernel does (thesis, section 8.1.2).

use super::hal::Hal;

/// What has happened, or happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Ticks of the time-stamp counter (instructions, where the machine counts them).
    pub ticks: u64,
    /// Loads of another root of the page tables. An instruction counter counts each as one.
    pub root_loads: u64,
    /// Invalidations of single pages, and flushes of more.
    pub flushes: u64,
}

/// Adds up what happens between [`Measurement::start`] and [`Measurement::stop`], over many runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measurement {
    begun: Option<Events>,
    total: Events,
    runs: u64,
}

impl Measurement {
    /// Begins a run; one that had begun is forgotten.
    pub fn start(&mut self, hal: &Hal) {
        self.begun = Some(hal.events());
    }

    /// Ends the run that was begun.
    pub fn stop(&mut self, hal: &Hal) {
        let end = hal.events();
        if let Some(begun) = self.begun.take() {
            self.total.ticks += end.ticks.wrapping_sub(begun.ticks);
            self.total.root_loads += end.root_loads - begun.root_loads;
            self.total.flushes += end.flushes - begun.flushes;
            self.runs += 1;
        }
    }

    /// The sums of all runs since the last call, and how many there were. Begins anew.
    pub fn read(&mut self) -> (Events, u64) {
        let Self { total, runs, .. } = core::mem::take(self);
        (total, runs)
    }
}
