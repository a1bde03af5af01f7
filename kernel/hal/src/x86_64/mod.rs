//! The x86-64 machine: everything in the kernel that is `unsafe`.
//!
//! | module | hides |
//! |---|---|
//! | `boot.s`, `start` | how the machine is taken over from the boot loader |
//! | `processor`, `features` | single instructions, and which of them this processor has |
//! | `environment`, `slots`, `heap` | where the kernel's own memory lies and how it is mapped |
//! | `machine` | the raw operations on page tables and memory |
//! | `entry.s`, `cpu` | how the processor gets into the kernel and back |
//! | `context`, `extended_state`, `debug`, `execution` | how a program's registers are kept and run |
//! | `irq`, `port_permissions`, `device_access`, `measure` | what clients do with devices, and to measure |
//! | `timer`, `pci`, `log`, `shutdown`, `panic` | the few devices that the kernel drives |
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
mod debug;
mod device_access;
mod environment;
mod execution;
mod extended_state;
mod features;
mod hal;
mod heap;
mod irq;
pub mod log;
mod machine;
mod measure;
mod panic;
mod pci;
mod port_permissions;
mod processor;
mod shutdown;
mod slots;
mod start;
mod timer;

pub use context::{Context, Register, RegisterError};
pub use debug::{BreakpointError, BreakpointKind, BreakpointLength};
pub use execution::{Interrupt, PageFaultError};
pub use hal::{BootCost, BootReport, Hal, RealMemory};
pub use heap::{Box, HeapError};
pub use machine::RealMachine;
pub use measure::{Events, Measurement};
pub use port_permissions::PortPermissions;

pub use panic::PANIC_STATUS;
pub use shutdown::stop;
pub use timer::Timer;

global_asm!(include_str!("boot.s"), start = sym start::start);
