//! Time: from counts of the hardware to microseconds and back.
//!
//! No operation divides by a number that was measured: rates are turned into factors once.

/// The rates of a machine's two counters: the time-stamp counter, which only counts, and the
/// timer, which interrupts when it has counted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The time-stamp counter at time 0.
    start: u64,
    /// Microseconds per tick of the time-stamp counter, times 2^32.
    microseconds_per_tick: u64,
    /// Counts of the timer per microsecond, times 2^32.
    counts_per_microsecond: u64,
}

impl Clock {
    /// A clock that shows 0 when the time-stamp counter shows `start`; the rates in hertz of the
    /// time-stamp counter and of the timer. A rate below 1 counts as 1.
    #[must_use]
    pub const fn new(start: u64, counter_hertz: u64, timer_hertz: u64) -> Self {
        let counter_hertz = if counter_hertz == 0 { 1 } else { counter_hertz };
        let timer_hertz = if timer_hertz < 1 << 32 { timer_hertz } else { (1 << 32) - 1 };
        Self {
            start,
            microseconds_per_tick: (1_000_000 << 32) / counter_hertz,
            counts_per_microsecond: (timer_hertz << 32) / 1_000_000,
        }
    }

    /// Microseconds from time 0 until the time-stamp counter showed `counter`.
    #[must_use]
    pub const fn microseconds(&self, counter: u64) -> u64 {
        let ticks = counter.wrapping_sub(self.start) as u128;
        ((ticks * self.microseconds_per_tick as u128) >> 32) as u64
    }

    /// What the timer must count down from, for `microseconds` to pass: at least 1, and for a
    /// time that is too long the largest count, which is less.
    #[must_use]
    pub const fn timer_counts(&self, microseconds: u64) -> u32 {
        let counts = (microseconds as u128 * self.counts_per_microsecond as u128) >> 32;
        match counts {
            0 => 1,
            counts if counts > u32::MAX as u128 => u32::MAX,
            counts => counts as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigahertz_is_a_thousand_ticks_a_microsecond() {
        let clock = Clock::new(500, 1_000_000_000, 1_000_000_000);
        assert_eq!(clock.microseconds(500), 0);
        let later = clock.microseconds(500 + 3_600_000_000_000);
        assert!((3_599_999_000..=3_600_000_000).contains(&later), "{later}");
        assert!((999..=1000).contains(&clock.timer_counts(1)));
        assert_eq!(clock.timer_counts(0), 1);
        assert_eq!(clock.timer_counts(u64::MAX), u32::MAX);
    }

    #[test]
    fn no_rate_makes_a_clock_panic() {
        for rate in [0, 1, 999_999, u64::MAX] {
            let clock = Clock::new(u64::MAX, rate, rate);
            let _ = (clock.microseconds(0), clock.microseconds(u64::MAX));
            assert!(clock.timer_counts(u64::MAX) >= 1);
        }
    }
}
