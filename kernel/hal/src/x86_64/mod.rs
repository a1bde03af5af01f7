//! The x86-64 machine: everything in the kernel that is `unsafe`.
//!
//! | module | hides |
//! |---|---|
//! | `boot.s`, `start` | how the machine is taken over from the boot loader |
//! | `processor`, `features` | single instructions, and which of them this processor has |
//! | `environment`, `slots`, `heap` | where the kernel's own memory lies and how it is mapped |
//! | `machine` | the raw operations on page tables and memory |
//! | `entry.s`, `cpu` | how the processor gets into the kernel and back |
//! | `context`, `extended_state`, `execution` | how a program's registers are kept and run |
//! | `timer`, `pci`, `ports`, `log`, `shutdown`, `panic` | the few devices that the kernel drives |
//!
//! The numbers in `SAFETY` comments are those of `docs/soundness.md`. Two are kept by no module
//! alone:
//!
//! - U1: one CPU runs kernel code, with interrupts off; the others are parked by the firmware.
//! - D1: a port that the kernel writes belongs to a device that cannot reach memory, or the value
//!   written takes the device's reach away.

use core::arch::global_asm;

mod context;
mod cpu;
mod environment;
mod execution;
mod extended_state;
mod features;
mod hal;
mod heap;
pub mod log;
mod machine;
mod panic;
mod pci;
mod ports;
mod processor;
mod shutdown;
mod slots;
mod start;
mod timer;

pub use context::{Context, Register, RegisterError};
pub use execution::{Interrupt, PageFaultError};
pub use hal::{BootCost, BootReport, Hal, RealMemory};
pub use heap::{Box, HeapError};
pub use machine::RealMachine;

pub use panic::PANIC_STATUS;
pub use shutdown::stop;
pub use timer::Timer;

global_asm!(include_str!("boot.s"), start = sym start::start);
