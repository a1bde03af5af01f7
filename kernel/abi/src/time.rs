//! Times: periods, points, and the clock that they are measured by.
//!
//! The clock counts microseconds since the boot.

/// Microseconds since the boot.
pub type Clock = u64;

/// Bit that tells a point in time from a period.
const POINT: u16 = 1 << 15;
/// Bit of a point that repeats bit `exponent` + 10 of the clock at that moment.
const CARRY: u16 = 1 << 10;
const MANTISSA: u16 = 0x3ff;
/// The longest exponent of a point.
const MAX_POINT_EXPONENT: u32 = 15;

/// A period or a point in time, in 16 bits.
///
/// A period has a mantissa in bits 0 to 9 and an exponent in bits 10 to 14. A point has bit 15 set, an exponent
/// in bits 11 to 14, and in bit 10 a copy of a clock bit, which tells which of two
/// neighbouring spans of 2^(exponent + 10) microseconds is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Time(pub u16);

impl Time {
    /// No limit.
    pub const NEVER: Self = Self(0);
    /// No time at all.
    pub const ZERO: Self = Self(1 << 10);

    /// Whether it is a point in time.
    pub const fn is_point(self) -> bool {
        self.0 & POINT != 0
    }

    /// Length of a period in microseconds, `None` for one without end. A point has no length:
    /// this answers for its bits as a period's and is not to be asked.
    pub const fn period(self) -> Option<u64> {
        if self.0 == Self::NEVER.0 {
            return None;
        }
        Some(((self.0 & MANTISSA) as u64) << (self.0 >> 10 & 0x1f))
    }

    /// Whether it is the period without end.
    pub const fn is_never(self) -> bool {
        self.0 == Self::NEVER.0
    }

    /// Whether it is a period of length zero, whatever its exponent.
    pub const fn is_zero(self) -> bool {
        !self.is_point() && !self.is_never() && self.0 & MANTISSA == 0
    }

    /// The moment that is meant, seen at `now`: for a period counted from `now`, and for a point
    /// the moment itself, or `now` if it has passed. `None`: never.
    pub const fn deadline(self, now: Clock) -> Option<Clock> {
        if !self.is_point() {
            return match self.period() {
                Some(period) => Some(now.saturating_add(period)),
                None => None,
            };
        }
        let exponent = (self.0 >> 11 & 0xf) as u32;
        let mut span = now >> (exponent + 10);
        if span & 1 != (self.0 & CARRY != 0) as u64 {
            span += 1;
        }
        let target = (span << (exponent + 10)) | ((self.0 & MANTISSA) as u64) << exponent;
        // Farther ahead than a mantissa counts is behind, one cycle on.
        let ahead = target.wrapping_sub(now);
        if ahead < 1 << (exponent + 10) { Some(target) } else { Some(now) }
    }

    /// The shortest period that is at least `microseconds` long, or the longest that there is.
    pub const fn from_period(microseconds: u64) -> Self {
        if microseconds == 0 {
            return Self::ZERO;
        }
        let mut exponent = 0;
        while exponent <= 31 {
            let mantissa = microseconds.div_ceil(1 << exponent);
            if mantissa <= MANTISSA as u64 {
                return Self((exponent as u16) << 10 | mantissa as u16);
            }
            exponent += 1;
        }
        Self(31 << 10 | MANTISSA)
    }

    /// A period as [`Time::from_period`] encodes it, never for `None`.
    pub const fn from_length(length: Option<u64>) -> Self {
        match length {
            Some(length) => Self::from_period(length),
            None => Self::NEVER,
        }
    }

    /// The point `at`, to be used at `now`: rounded down to what its distance allows. Points more
    /// than about 33 seconds ahead cannot be said, and give [`Time::NEVER`].
    pub const fn point(at: Clock, now: Clock) -> Self {
        let ahead = at.saturating_sub(now);
        let mut exponent = 0;
        while ahead >> exponent > MANTISSA as u64 {
            exponent += 1;
            if exponent > MAX_POINT_EXPONENT {
                return Self::NEVER;
            }
        }
        let mantissa = (at >> exponent) as u16 & MANTISSA;
        let carry = if at >> (exponent + 10) & 1 != 0 { CARRY } else { 0 };
        Self(POINT | (exponent as u16) << 11 | carry | mantissa)
    }
}

/// The two timeouts of an IPC: receive in bits 0 to 15, send in bits 16 to 31; the upper half is
/// ignored. The word of transfer timeouts has the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Timeouts(pub u64);

impl Timeouts {
    /// Neither ends.
    pub const NEVER: Self = Self(0);

    /// A word of two timeouts.
    pub const fn new(send: Time, receive: Time) -> Self {
        Self((send.0 as u64) << 16 | receive.0 as u64)
    }

    /// How long to wait for a sender.
    pub const fn receive(self) -> Time {
        Time(self.0 as u16)
    }

    /// How long to wait for the receiver.
    pub const fn send(self) -> Time {
        Time((self.0 >> 16) as u16)
    }

    /// Whether neither ends.
    pub const fn are_never(self) -> bool {
        self.0 as u32 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn special_periods() {
        assert_eq!(Time::NEVER.period(), None);
        assert_eq!(Time::ZERO.period(), Some(0));
        assert!(Time(5 << 10).is_zero() && !Time::NEVER.is_zero());
        assert_eq!(Time::from_period(0), Time::ZERO);
        assert_eq!(Time::from_period(1023), Time(1023));
        assert_eq!(Time::from_period(1024).period(), Some(1024));
        assert_eq!(Time::from_period(u64::MAX).period(), Some(0x3ff << 31));
    }

    #[test]
    fn a_point_that_has_passed_is_now() {
        let now = 1_000_000;
        let point = Time::point(now + 500, now);
        assert_eq!(point.deadline(now), Some(now + 500));
        assert_eq!(point.deadline(now + 500), Some(now + 500));
        assert_eq!(point.deadline(now + 501), Some(now + 501));
    }

    #[test]
    fn a_point_may_be_a_little_more_than_the_largest_mantissa_ahead() {
        // A multiple of the unit, 512, seen from within a unit.
        let (now, ahead) = (6_301_852_142_379, 523_989);
        assert_eq!(Time::point(now + ahead, now).deadline(now), Some(now + ahead));
    }

    proptest! {
        #[test]
        fn periods_round_up_by_less_than_a_unit(length in 0u64..1 << 40) {
            let period = Time::from_period(length);
            prop_assert!(!period.is_point());
            let actual = period.period().unwrap();
            prop_assert!(actual >= length && actual - length <= length >> 9);
        }

        #[test]
        fn points_are_found_again(now in 0u64..1 << 50, ahead in 0u64..0x3ff << 15) {
            let point = Time::point(now + ahead, now);
            let exponent = u32::from(point.0 >> 11 & 0xf);
            let target = point.deadline(now).unwrap();
            let wanted = (now + ahead) >> exponent << exponent;
            // Rounding down can only reach below now when the distance is below the unit.
            prop_assert_eq!(target, wanted.max(now));
        }

        #[test]
        fn every_time_has_a_deadline_that_has_not_passed(word: u16, now in 0u64..1 << 60) {
            if let Some(deadline) = Time(word).deadline(now) {
                prop_assert!(deadline >= now);
            } else {
                prop_assert!(Time(word).is_never());
            }
        }
    }
}
