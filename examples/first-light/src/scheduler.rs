//! Who runs when: round robin, a millisecond each.

use heliox_hal::execution::{Execution, Registers};
use heliox_log::{debug, error};
use heliox_types::{Interrupt, Irq, Register};

use crate::loader::{self, LoadError};
use crate::program::{Program, State};
use crate::system::System;
use crate::system_call;

/// How many programs there can be.
const PROGRAMS: usize = 16;

/// The status of a machine with a module that could not be started.
pub(crate) const NOT_STARTED: u8 = 2;

/// How long a program may run before the next one does, in microseconds.
const SLICE: u64 = 1000;

/// All programs, and the modules that have not become programs yet.
pub(crate) struct Scheduler {
    programs: [Option<Program>; PROGRAMS],
    /// The next module to be started.
    next_module: usize,
    /// The first status of a program that was not 0, or of this kernel if a module was refused.
    status: u8,
    /// The time-stamp counter when the first program was entered.
    first_entry: Option<u64>,
}

impl Scheduler {
    /// No programs yet.
    pub(crate) const fn new() -> Self {
        Self { programs: [const { None }; PROGRAMS], next_module: 0, status: 0, first_entry: None }
    }

    /// The time-stamp counter when the first program was entered.
    pub(crate) const fn first_entry(&self) -> Option<u64> {
        self.first_entry
    }

    /// Whether there are no programs.
    pub(crate) fn is_empty(&self) -> bool {
        self.programs.iter().all(Option::is_none)
    }

    /// Starts modules in their order, as long as there are place and memory; the others wait until
    /// a program has ended. A module that cannot be started is refused.
    pub(crate) fn start_modules(&mut self, system: &mut System<'_>) {
        let information = system.hal().report.information;
        for module in information.modules().skip(self.next_module) {
            let alone = self.is_empty();
            let Some(place) = self.programs.iter_mut().find(|place| place.is_none()) else {
                return;
            };
            let mut loaded = loader::load(system, self.next_module);
            if matches!(loaded, Err(LoadError::NoMemory { .. })) {
                // What dead programs had may be enough, once it has been cleared. It is tried once:
                // an attempt itself leaves pages to clear.
                while system.scrub() {}
                loaded = loader::load(system, self.next_module);
            }
            match loaded {
                Ok(program) => *place = Some(program),
                Err(LoadError::NoMemory { .. }) if !alone => {
                    debug!("{}: waits for memory", module.name());
                    return;
                }
                Err(error) => {
                    error!("{}: not started: {error}", module.name());
                    self.note(NOT_STARTED);
                }
            }
            self.next_module += 1;
        }
    }

    fn note(&mut self, status: u8) {
        if self.status == 0 {
            self.status = status;
        }
    }

    /// Runs all programs until the last has ended. The first status that is not 0, else 0.
    pub(crate) fn run(&mut self, system: &mut System<'_>) -> u8 {
        // A bit for every line that fired and that nobody has waited for since.
        let mut fired = 0_u32;
        while !self.is_empty() {
            let mut ran = false;
            let mut ended = false;
            let mut next_wake: Option<u64> = None;
            for place in &mut self.programs {
                let Some(program) = place else { continue };
                if let State::Sleeping(until) | State::WaitingFor(_, until) = program.state {
                    let bit = match program.state {
                        State::WaitingFor(irq, _) => 1 << irq.number(),
                        _ => 0,
                    };
                    if fired & bit != 0 {
                        fired &= !bit;
                        program.state = State::Ready;
                    } else if system.hal().now() >= until {
                        if bit != 0 {
                            program.context.set_register(Register::Rax, 1);
                        }
                        program.state = State::Ready;
                    } else {
                        next_wake = Some(next_wake.map_or(until, |wake| wake.min(until)));
                    }
                }
                if program.state == State::Ready {
                    self.first_entry.get_or_insert_with(|| system.hal().events().ticks);
                    if let Some(irq) = run_slice(system, program) {
                        fired |= 1 << irq.number();
                    }
                    ran = true;
                }
                if let State::Ended(status) = program.state {
                    if self.status == 0 {
                        self.status = status;
                    }
                    if let Some(program) = place.take() {
                        program.free(system);
                    }
                    ended = true;
                }
            }
            let more = system.scrub();
            if ended {
                self.start_modules(system);
            } else if !ran && !more {
                system.hal().set_deadline(next_wake);
                if let Some(Interrupt::External(irq)) = system.hal().wait_for_interrupt() {
                    fired |= 1 << irq.number();
                }
            }
        }
        self.status
    }
}

/// Runs one program until its time is over, it ends, it gives way, or a device asks for attention:
/// on the line that is returned.
fn run_slice(system: &mut System<'_>, program: &mut Program) -> Option<Irq> {
    let slice_end = system.hal().now().saturating_add(SLICE);
    let deadline = program.alarm.map_or(slice_end, |alarm| alarm.min(slice_end));
    system.hal().set_deadline(Some(deadline));
    while program.state == State::Ready {
        let go_on = match program.run(system.hal()) {
            Interrupt::SystemCall => system_call::handle(system, program),
            Interrupt::Timer => program.take_alarm(system.hal().now()),
            Interrupt::External(irq) => return Some(irq),
            fault => program.take_fault(system.hal(), fault),
        };
        if !go_on {
            break;
        }
    }
    None
}
