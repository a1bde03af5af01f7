//! Measuring the rates of the time-stamp counter and of the timer, once at boot.
//!
//! Hides the 8254 that they are measured against, in a window of half a millisecond (under
//! instruction counting a window of ten would be ten million instructions, `hazards` 17).

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
// The counters are those of the bare machine.
#![cfg(target_os = "none")]

use heliox_hal::Hal;
use heliox_hal::execution::Execution;
use heliox_hal::port::{NotInRange, Ports};
use heliox_types::Clock;

/// Input rate of the 8254 in hertz.
const REFERENCE_HERTZ: u64 = 1_193_182;
/// Ticks of the 8254 in the window: 499.5 microseconds.
const REFERENCE_TICKS: u16 = 596;
/// Polls of the 8254 before it counts as absent.
const LARGEST_POLLS: u32 = 1_000_000;
/// A rate below that is not one of a clock, but of a device that is not there.
const SMALLEST_HERTZ: u64 = 1_000_000;
/// The rate that is assumed of counters that cannot be measured.
const ASSUMED_HERTZ: u64 = 1_000_000_000;

/// Ports and words of the 8254 (datasheet, control word format) and of its gate.
const CHANNEL: u16 = 0x42;
const COMMAND: u16 = 0x43;
const GATE: u16 = 0x61;
/// Channel 2, both bytes, mode 0: the output rises at the end of the count.
const COUNT_ONCE: u8 = 0xb0;
const GATE_ON: u8 = 1 << 0;
const SPEAKER_ON: u8 = 1 << 1;
const OUTPUT: u8 = 1 << 5;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Rate of the time-stamp counter in hertz.
    pub counter_hertz: u64,
    /// Rate of the timer in hertz.
    pub timer_hertz: u64,
    /// Whether they were measured, rather than assumed.
    pub measured: bool,
    /// What the measurement took, in ticks of the time-stamp counter.
    pub ticks: u64,
}

/// Measures the rates and sets the machine's clock: it shows 0 for the kernel's first moment.
pub fn start(hal: &mut Hal) -> Rates {
    let before = hal.events().ticks;
    // A refused port would be as a device that is not there.
    let rates = measure(hal).unwrap_or(None);
    hal.set_timer(0);
    let ticks = hal.events().ticks.wrapping_sub(before);
    let (counter_hertz, timer_hertz) = rates.unwrap_or((ASSUMED_HERTZ, ASSUMED_HERTZ));
    hal.clock = Clock::new(hal.report.start, counter_hertz, timer_hertz);
    Rates { counter_hertz, timer_hertz, measured: rates.is_some(), ticks }
}

/// Rates of the time-stamp counter and of the timer in hertz; `None` if there is no 8254.
fn measure(hal: &mut Hal) -> Result<Option<(u64, u64)>, NotInRange> {
    let [channel, gate] = hal.reference_timer();
    let gate_off = hal.in8(gate, GATE)? & !(GATE_ON | SPEAKER_ON);
    hal.out8(gate, GATE, gate_off)?;
    hal.out8(channel, COMMAND, COUNT_ONCE)?;
    for byte in REFERENCE_TICKS.to_le_bytes() {
        hal.out8(channel, CHANNEL, byte)?;
    }
    hal.set_timer(u32::MAX);
    hal.out8(gate, GATE, gate_off | GATE_ON)?;
    let (counter_before, timer_before) = (hal.events().ticks, hal.timer_count());
    let mut ended = false;
    for _ in 0..LARGEST_POLLS {
        ended = hal.in8(gate, GATE)? & OUTPUT != 0;
        if ended {
            break;
        }
    }
    let counter = hal.events().ticks.wrapping_sub(counter_before);
    let timer = timer_before.wrapping_sub(hal.timer_count());
    hal.out8(gate, GATE, gate_off)?;
    let hertz = |ticks: u64| ticks.saturating_mul(REFERENCE_HERTZ) / u64::from(REFERENCE_TICKS);
    let rates = (hertz(counter), hertz(u64::from(timer)));
    let good = ended && rates.0 >= SMALLEST_HERTZ && rates.1 >= SMALLEST_HERTZ;
    Ok(good.then_some(rates))
}
