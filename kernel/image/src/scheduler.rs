//! Who runs when: round robin, a millisecond each.

use heliox_hal::irq::Irq;
use heliox_hal::{Hal, Interrupt, Register};

use crate::pages::Pages;
use crate::program::{Program, State};
use crate::system_call;

/// How many programs there can be.
const PROGRAMS: usize = 16;

/// How long a program may run before the next one does, in microseconds.
const SLICE: u64 = 1000;

/// All programs.
#[derive(Debug)]
pub(crate) struct Scheduler {
    programs: [Option<Program>; PROGRAMS],
}

impl Scheduler {
    /// No programs.
    pub(crate) const fn new() -> Self {
        Self {
            programs: [const { None }; PROGRAMS],
        }
    }

    /// A place for one more program; `None` if there are too many.
    pub(crate) fn place(&mut self) -> Option<&mut Option<Program>> {
        self.programs.iter_mut().find(|slot| slot.is_none())
    }

    /// Whether there are no programs.
    pub(crate) fn is_empty(&self) -> bool {
        self.programs.iter().all(Option::is_none)
    }

    /// Runs all programs until the last has ended. The first status that is not 0, else 0.
    pub(crate) fn run(&mut self, hal: &mut Hal, pages: &mut Pages) -> u8 {
        let mut status = 0;
        // A bit for every line that fired and that nobody has waited for since.
        let mut fired = 0_u32;
        loop {
            let mut ran = false;
            let mut alive = false;
            let mut next_wake: Option<u64> = None;
            for slot in &mut self.programs {
                let Some(program) = slot else { continue };
                if let State::Sleeping(until) | State::WaitingFor(_, until) = program.state {
                    let bit = match program.state {
                        State::WaitingFor(irq, _) => 1 << irq.number(),
                        _ => 0,
                    };
                    if fired & bit != 0 {
                        fired &= !bit;
                        program.state = State::Ready;
                    } else if hal.timer().now() >= until {
                        if bit != 0 {
                            program.context.set_register(Register::Rax, 1);
                        }
                        program.state = State::Ready;
                    } else {
                        next_wake = Some(next_wake.map_or(until, |wake| wake.min(until)));
                    }
                }
                if program.state == State::Ready {
                    if let Some(irq) = run_slice(hal, program) {
                        fired |= 1 << irq.number();
                    }
                    ran = true;
                }
                if let State::Ended(ended) = program.state {
                    if status == 0 {
                        status = ended;
                    }
                    if let Some(program) = slot.take() {
                        program.free(hal, pages);
                    }
                } else {
                    alive = true;
                }
            }
            if !alive {
                return status;
            }
            if !ran {
                hal.timer().set_deadline(next_wake);
                if let Some(Interrupt::External(irq)) = hal.wait_for_interrupt() {
                    fired |= 1 << irq.number();
                }
            }
        }
    }
}

/// Runs one program until its time is over, it ends, it gives way, or a device asks for attention:
/// on the line that is returned.
fn run_slice(hal: &mut Hal, program: &mut Program) -> Option<Irq> {
    let deadline = hal.timer().now() + SLICE;
    hal.timer().set_deadline(Some(deadline));
    while program.state == State::Ready {
        let go_on = match program.run(hal) {
            Interrupt::SystemCall => system_call::handle(hal, program),
            Interrupt::Timer => false,
            Interrupt::External(irq) => return Some(irq),
            fault => program.take_fault(hal, fault),
        };
        if !go_on {
            break;
        }
    }
    None
}
