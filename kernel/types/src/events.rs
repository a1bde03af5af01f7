//! Measuring what the kernel does (thesis, section 8.1.2).

/// What has happened, or happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Ticks of the time-stamp counter (instructions, where the machine counts them).
    pub ticks: u64,
    /// Loads of another root of the page tables. An instruction counter counts each as one.
    pub root_loads: u64,
    /// Invalidations of single pages, and flushes of more.
    pub flushes: u64,
    /// Interrupts that nobody had asked for.
    pub unexpected: u64,
}

/// Adds up what happens between [`Measurement::start`] and [`Measurement::stop`], over many runs.
/// Both are told what has happened until then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measurement {
    begun: Option<Events>,
    total: Events,
    runs: u64,
}

impl Measurement {
    /// Begins a run; one that had begun is forgotten.
    pub const fn start(&mut self, now: Events) {
        self.begun = Some(now);
    }

    /// Ends the run that was begun.
    pub const fn stop(&mut self, now: Events) {
        if let Some(begun) = self.begun.take() {
            let Self { total, runs, .. } = self;
            total.ticks = total.ticks.wrapping_add(now.ticks.wrapping_sub(begun.ticks));
            total.root_loads += now.root_loads.saturating_sub(begun.root_loads);
            total.flushes += now.flushes.saturating_sub(begun.flushes);
            total.unexpected += now.unexpected.saturating_sub(begun.unexpected);
            *runs += 1;
        }
    }

    /// The sums of all runs since the last call, and how many there were. Begins anew.
    pub fn read(&mut self) -> (Events, u64) {
        let Self { total, runs, .. } = core::mem::take(self);
        (total, runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_added_up_and_read_once() {
        let mut measurement = Measurement::default();
        let at = |ticks| Events { ticks, root_loads: ticks / 10, ..Events::default() };
        measurement.stop(at(5));
        for (start, stop) in [(10, 30), (100, 140)] {
            measurement.start(at(start));
            measurement.stop(at(stop));
        }
        assert_eq!(
            measurement.read(),
            (Events { ticks: 60, root_loads: 6, ..Events::default() }, 2)
        );
        assert_eq!(measurement.read(), (Events::default(), 0));
    }
}
