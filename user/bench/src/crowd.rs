//! What else is going on while something is measured.

use heliox_l4::control::Space;
use heliox_l4::thread::Stack;
use heliox_l4::{Flexpage, ThreadId, Time, sleep, utcb};

use crate::plan::Under;
use crate::serving::{Failure, KERNEL_INTERFACE_PAGE, PRIORITY, start_here, thread_id};

/// Other threads that are alive.
const THREADS: u32 = 1000;
/// Their first number, behind those of all threads that measure.
const FIRST: u32 = 100;
/// Where they have UTCBs: room for 1,024.
const UTCBS: u64 = 0x8000_0000;
const UTCBS_BITS: u32 = 20;
/// Threads that wait with a timeout.
const SLEEPERS: usize = 6;
/// Their first number.
const FIRST_SLEEPER: u32 = 8;
/// How long they sleep, in microseconds: longer than any measurement.
const SLEEP: u64 = 3_600_000_000;

static STACKS: [Stack<8192>; SLEEPERS] = [const { Stack::new() }; SLEEPERS];

/// Makes what there is to be. It stays until the machine ends.
pub(crate) fn gather(under: Under) -> Result<(), Failure> {
    match under {
        Under::Threads => crowd(),
        Under::Timers => sleepers(),
        // For others to see to.
        Under::Nothing | Under::FloatingPoint | Under::Priorities => Ok(()),
    }
}

/// Threads of one further space, each of which waits for its start message.
fn crowd() -> Result<(), Failure> {
    let me = utcb::global_id();
    let first = thread_id(FIRST)?;
    let space = Space::create(first, me)?;
    let utcbs = Flexpage::memory(UTCBS, UTCBS_BITS, 0);
    space.configure(KERNEL_INTERFACE_PAGE, utcbs, ThreadId::ANY)?;
    for number in 0..THREADS {
        let utcb = UTCBS + (u64::from(number) << heliox_l4::abi::utcb::BITS);
        space.thread(thread_id(FIRST + number)?, me, me, utcb)?;
    }
    Ok(())
}

fn sleepers() -> Result<(), Failure> {
    for (number, stack) in (0..).zip(&STACKS) {
        start_here(FIRST_SLEEPER + number, PRIORITY, stack, sleeper, u64::from(number))?;
    }
    Ok(())
}

fn sleeper(number: u64) {
    loop {
        sleep(Time::from_period(SLEEP + number * (SLEEP >> 4)));
    }
}
