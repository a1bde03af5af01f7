//! The x86-64 machine: everything in the kernel that is `unsafe`.
//!
//! | module | hides |
//! |---|---|
//! | `boot.s`, `hal` | how the machine is taken over from the boot loader, and what clients can do |
//! | `processor` | single instructions, and which features this processor has |
//! | `memory` | where the kernel's own memory is mapped, and the raw operations on tables and memory |
//! | `heap` | memory for kernel objects |
//! | `cpu` | how the processor gets into the kernel and back |
//! | `context` | how a program's registers are kept and switched |
//! | `interrupts` | the controllers of interrupts, and the timer |
//!
//! The numbers in `SAFETY` comments are those of `docs/soundness.md`.

mod context;
mod cpu;
mod hal;
mod heap;
mod interrupts;
mod memory;
mod processor;

pub use context::{Context, PortPermissions};
pub use hal::{Hal, RealMemory, failure_registers, read_debug_port, stop, write_debug_port};
pub use heap::Box;
pub use memory::RealMachine;

core::arch::global_asm!(
    include_str!("boot.s"),
    start = sym hal::start,
    descriptors = sym cpu::DESCRIPTORS,
    slots = sym memory::SLOT_TABLE,
);
