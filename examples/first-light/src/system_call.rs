//! The system calls of the first-light kernel (`docs/first-light.md`).
//!
//! The number is in RAX, arguments in RDI, RSI, RDX, R8, R9 and R10; the result comes in RAX.
//! Programs pass data in registers only, so the kernel never touches a program's memory here.

use heliox_hal::Context;
use heliox_hal::execution::{Execution, Registers};
use heliox_types::{Register, VirtualAddress};

use crate::devices;
use crate::program::{Program, State};
use crate::system::System;

/// The result of a call that does not exist or was given nonsense.
const REFUSED: u64 = u64::MAX;

/// Bytes that one `write` can carry.
const WRITE_BYTES: usize = 40;

/// The largest status of a program.
const LARGEST_STATUS: u64 = 63;

/// A system call with its arguments, checked.
enum Call {
    Exit(u8),
    Write([u8; WRITE_BYTES], usize),
    Clock,
    Yield,
    Argument(u64),
    SleepUntil(u64),
    FaultHandler(Option<VirtualAddress>),
    Alarm(Option<u64>),
    Device(u64),
}

impl Call {
    /// The call that the registers ask for; `None` if there is no such call.
    fn parse(context: &Context) -> Option<Self> {
        let argument = context.register(Register::Rdi);
        Some(match context.register(Register::Rax) {
            0 => Self::Exit(u8::try_from(argument.min(LARGEST_STATUS)).ok()?),
            1 => {
                let words =
                    [Register::Rsi, Register::Rdx, Register::R8, Register::R9, Register::R10];
                let mut bytes = [0; WRITE_BYTES];
                for (piece, register) in bytes.chunks_exact_mut(8).zip(words) {
                    piece.copy_from_slice(&context.register(register).to_le_bytes());
                }
                let length = usize::try_from(argument).ok().filter(|&n| n <= WRITE_BYTES)?;
                Self::Write(bytes, length)
            }
            2 => Self::Clock,
            3 => Self::Yield,
            4 => Self::Argument(argument),
            5 => Self::SleepUntil(argument),
            6 if argument == 0 => Self::FaultHandler(None),
            6 => {
                let handler = VirtualAddress::new(argument).filter(|address| address.is_user())?;
                Self::FaultHandler(Some(handler))
            }
            7 => Self::Alarm((argument != 0).then_some(argument)),
            number @ 16.. => Self::Device(number),
            _ => return None,
        })
    }
}

/// Carries out the system call that `program` stopped for. Returns whether the program may go on
/// at once.
pub(crate) fn handle(system: &mut System<'_>, program: &mut Program) -> bool {
    let mut result = 0;
    let mut go_on = true;
    match Call::parse(&program.context) {
        None => result = REFUSED,
        Some(Call::Exit(status)) => {
            program.end(status);
            return false;
        }
        Some(Call::Write(bytes, length)) => program.write(bytes.get(..length).unwrap_or(&[])),
        Some(Call::Clock) => result = system.hal().now(),
        Some(Call::Yield) => go_on = false,
        Some(Call::Argument(index)) => result = program.command_line_word(index),
        Some(Call::SleepUntil(time)) => {
            program.state = State::Sleeping(time);
            go_on = false;
        }
        Some(Call::FaultHandler(handler)) => program.fault_handler = handler,
        Some(Call::Alarm(alarm)) => {
            program.alarm = alarm;
            // The timer is set anew.
            go_on = false;
        }
        Some(Call::Device(number)) => {
            result = devices::handle(system, program, number).unwrap_or(REFUSED);
            go_on = program.state == State::Ready;
        }
    }
    program.context.set_register(Register::Rax, result);
    go_on
}
