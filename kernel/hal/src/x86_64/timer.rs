//! Time: the clock and the timer interrupt.
//!
//! Hides the local APIC and the 8254 that it is measured against. The clock is the time-stamp
//! counter; the timer is the local APIC's, one-shot. Both rates are measured once, in a window of half a millisecond (under instruction counting a window of
//! ten would be ten million instructions, `hazards` 17).

use heliox_types::{Frame, PhysicalAddress};

use super::processor::{self, in8, msr, out8};
use super::slots::Slot;

/// Vector of the timer interrupt.
pub(super) const TIMER_VECTOR: u8 = 0x40;
/// Vector of an interrupt that the local APIC took back.
const SPURIOUS_VECTOR: u8 = 0xff;

/// Input rate of the 8254 in hertz.
const PIT_HERTZ: u64 = 1_193_182;
/// Ticks of the 8254 in the calibration window: 499.5 microseconds.
const PIT_TICKS: u64 = 596;
/// Polls of the 8254 before it counts as absent.
const LARGEST_POLLS: u32 = 1_000_000;

/// Registers of the local APIC, as byte offsets (AMD64 manual volume 2, section 16.3).
const IDENTITY: u64 = 0x20;
const END_OF_INTERRUPT: u64 = 0xb0;
const TASK_PRIORITY: u64 = 0x80;
const SPURIOUS: u64 = 0xf0;
const IN_SERVICE: u64 = 0x100;
const COMMAND: u64 = 0x300;
const LOCAL_TIMER: u64 = 0x320;
const LOCAL_PERFORMANCE: u64 = 0x340;
const LOCAL_INTERRUPT_0: u64 = 0x350;
const LOCAL_INTERRUPT_1: u64 = 0x360;
const LOCAL_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Bit of a local vector entry that keeps its interrupt away.
const MASKED: u32 = 1 << 16;
/// Delivery by the 8259s, which then name the vector.
const FROM_8259: u32 = 0b111 << 8;
/// Command: to this CPU itself.
const TO_ITSELF: u32 = 1 << 18;
/// Bits of a local vector entry that pass its input on as a non-maskable interrupt.
const NON_MASKABLE: u32 = 0b100 << 8;
/// Divide register: count every bus clock.
const DIVIDE_BY_1: u32 = 0b1011;

/// The clock and the timer of one CPU.
#[derive(Debug)]
pub struct Timer {
    /// Time-stamp counter at the kernel's first instruction.
    start: u64,
    /// Rate of the time-stamp counter in hertz.
    counter_hertz: u64,
    /// Microseconds per tick of the counter, times 2^32.
    microseconds_per_tick: u64,
    /// Rate of the APIC's timer in hertz.
    timer_hertz: u64,
    /// What the calibration took, in ticks of the counter.
    calibration_ticks: u64,
    /// Whether the rates were measured (otherwise they are assumed).
    measured: bool,
}

/// Why there is no timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerError {
    /// The processor has no local APIC.
    NoLocalApic,
    /// The local APIC's registers are at an address that cannot be mapped.
    BadAddress(u64),
}

impl core::fmt::Display for TimerError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoLocalApic => formatter.write_str("the processor has no local APIC"),
            Self::BadAddress(address) => {
                write!(formatter, "the local APIC's address {address:#x} is unusable")
            }
        }
    }
}

impl core::error::Error for TimerError {}

fn read(register: u64) -> u32 {
    // SAFETY: V2: the slot shows the APIC's page since `Timer::start`, and no `Timer` exists
    // before; the registers reach no memory.
    unsafe { ((Slot::LocalApic.address() + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as for `read`; the registers that send interrupts to other CPUs are not used.
    unsafe { ((Slot::LocalApic.address() + register) as *mut u32).write_volatile(value) }
}

impl Timer {
    /// Sets up the local APIC and measures the clock's rate.
    ///
    /// `start`: the time-stamp counter when the kernel began. `no_execute`: that bit of a
    /// page-table entry, if the processor has it.
    ///
    /// # Errors
    /// If the processor has no usable local APIC.
    pub(super) fn start(start: u64, no_execute: u64) -> Result<Self, TimerError> {
        if processor::cpuid(1, 0).edx & 1 << 9 == 0 {
            return Err(TimerError::NoLocalApic);
        }
        // SAFETY: the processor has a local APIC, and so the register. Leaving x2APIC mode, if
        // the loader was in it, goes by way of switching the APIC off (section 16.9).
        let base = unsafe {
            let base = processor::read_msr(msr::APIC_BASE);
            if base & 1 << 10 != 0 {
                processor::write_msr(msr::APIC_BASE, base & !(3 << 10));
            }
            let base = base & !(1 << 10) | 1 << 11;
            processor::write_msr(msr::APIC_BASE, base);
            base & 0x000f_ffff_ffff_f000
        };
        let frame: Frame = PhysicalAddress::new(base).ok_or(TimerError::BadAddress(base))?.frame();
        // SAFETY: the frame holds the APIC's registers, which `read` and `write` use as such.
        unsafe { Slot::LocalApic.show(frame, true, no_execute) }

        write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
        for entry in [LOCAL_TIMER, LOCAL_PERFORMANCE, LOCAL_INTERRUPT_0, LOCAL_ERROR] {
            write(entry, MASKED);
        }
        write(LOCAL_INTERRUPT_1, NON_MASKABLE);
        write(TASK_PRIORITY, 0);
        write(DIVIDE, DIVIDE_BY_1);

        let before = processor::time_stamp();
        let rates = measure_rates();
        let calibration_ticks = processor::time_stamp() - before;
        let (counter_hertz, timer_hertz) = rates.unwrap_or((1_000_000_000, 1_000_000_000));
        write(LOCAL_TIMER, u32::from(TIMER_VECTOR));
        Ok(Self {
            start,
            counter_hertz,
            microseconds_per_tick: (1_000_000 << 32) / counter_hertz,
            timer_hertz,
            calibration_ticks,
            measured: rates.is_some(),
        })
    }

    /// Microseconds since the kernel's first instruction.
    #[must_use]
    pub fn now(&self) -> u64 {
        let ticks = processor::time_stamp().wrapping_sub(self.start);
        ((u128::from(ticks) * u128::from(self.microseconds_per_tick)) >> 32) as u64
    }

    /// Ticks of the time-stamp counter since the kernel's first instruction. Where the machine
    /// counts instructions (`heliox boot --icount`), one tick is one instruction.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.ticks_until(processor::time_stamp())
    }

    /// Ticks from the kernel's first instruction until the counter showed `counter`.
    pub(super) fn ticks_until(&self, counter: u64) -> u64 {
        counter.wrapping_sub(self.start)
    }

    /// Ticks that measuring the rates took.
    #[must_use]
    pub fn calibration_ticks(&self) -> u64 {
        self.calibration_ticks
    }

    /// Rates of the time-stamp counter and of the timer in hertz, and whether they were measured
    /// rather than assumed.
    #[must_use]
    pub fn rates(&self) -> (u64, u64, bool) {
        (self.counter_hertz, self.timer_hertz, self.measured)
    }

    /// Asks for a timer interrupt at `deadline`, in microseconds on the scale of [`Timer::now`].
    /// One that has passed gives an interrupt at once; one too far for the hardware gives an
    /// interrupt early. `None` asks for no interrupt.
    pub fn set_deadline(&mut self, deadline: Option<u64>) {
        let count = deadline.map_or(0, |deadline| {
            let wait = u128::from(deadline.saturating_sub(self.now()));
            let count = wait * u128::from(self.timer_hertz) / 1_000_000;
            u32::try_from(count).unwrap_or(u32::MAX).max(1)
        });
        write(INITIAL_COUNT, count);
    }
}

/// Tells the local APIC that the interrupt `vector` has been dealt with, if it is in service
/// (an interrupt of the 8259s, a spurious one or an INT instruction is not).
pub(super) fn end_of_interrupt(vector: u8) {
    let word = IN_SERVICE + u64::from(vector / 32) * 0x10;
    if read(word) & 1 << (vector % 32) != 0 {
        write(END_OF_INTERRUPT, 0);
    }
}

/// The number by which interrupts are sent to this CPU.
pub(super) fn local_apic_identity() -> u8 {
    (read(IDENTITY) >> 24) as u8
}

/// Lets the interrupts of the 8259s through to this CPU.
pub(super) fn accept_8259() {
    write(LOCAL_INTERRUPT_0, FROM_8259);
}

/// Makes this CPU interrupt itself with `vector`, as soon as it takes interrupts.
pub(super) fn interrupt_itself(vector: u8) {
    write(COMMAND, TO_ITSELF | u32::from(vector));
}

/// Rates of the time-stamp counter and the APIC's timer in hertz, measured against channel 2 of
/// the 8254; `None` if there is no such device.
fn measure_rates() -> Option<(u64, u64)> {
    // SAFETY: D1: channel 2 and its gate drive nothing but the speaker, which stays off.
    unsafe {
        let gate = in8(0x61) & !0b11;
        out8(0x61, gate);
        out8(0x43, 0xb0); // channel 2, both bytes, mode 0: output rises at the end of the count
        out8(0x42, PIT_TICKS as u8);
        out8(0x42, (PIT_TICKS >> 8) as u8);
        write(INITIAL_COUNT, u32::MAX);
        out8(0x61, gate | 1);
        let counter_before = processor::time_stamp();
        let timer_before = read(CURRENT_COUNT);
        let ended = (0..LARGEST_POLLS).any(|_| in8(0x61) & 1 << 5 != 0);
        let counter = processor::time_stamp().wrapping_sub(counter_before);
        let timer = timer_before.wrapping_sub(read(CURRENT_COUNT));
        out8(0x61, gate);
        write(INITIAL_COUNT, 0);
        let hertz = |ticks: u64| ticks.saturating_mul(PIT_HERTZ) / PIT_TICKS;
        // Anything below a megahertz is no clock but a device that is not there.
        let (counter, timer) = (hertz(counter), hertz(u64::from(timer)));
        (ended && counter >= 1_000_000 && timer >= 1_000_000).then_some((counter, timer))
    }
}
