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
//! The numbers in `SAFETY` comments are those of `docs/soundness.md`. The modules belong together;
//! what they use of each other and from outside is imported here once.

mod context;
mod cpu;
mod hal;
mod heap;
mod interrupts;
mod memory;
mod processor;

use core::arch::{asm, naked_asm};
use core::marker::PhantomData;
use core::mem::{self, offset_of};
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU64};

use self::cpu::CPU;
use self::memory::Slot;
#[cfg(feature = "audit")]
pub(crate) use self::processor::put_audit;
use self::processor::{read, set, write_msr};
use crate::irq::IrqControl;
use crate::pci::{PciConfiguration, PciFunction, PciRegister, WriteRefused, check_write};
use crate::port::{self, NotInRange, PortRange, Ports};
use crate::prelude::*;
use heliox_boot::acpi::Wiring;
use heliox_boot::environment::{BLOCK_FRAMES, EnvironmentPlan, MemoryRanges};
use heliox_boot::information::{BootError, BootInformation, BootProtocol};
use heliox_boot::memory_map::{Limits, MemoryMap};
use heliox_boot::options::Options;
use heliox_boot::{BootReport, IoApicLines, PhysicalMemory, Prepared, Unreadable};
use heliox_types::execution::{
    self, Change, Execution, Heap, Kernel, LightReturn, OneProgram, Running,
};
use heliox_types::port_bitmap;

pub use self::context::{Context, PortPermissions};
pub use self::hal::{Hal, RealMemory, failure_registers, read_debug_port, stop, write_debug_port};
pub use self::heap::Box;
pub use self::memory::RealMachine;

core::arch::global_asm!(include_str!("boot.s"), start = sym hal::start, slots = sym memory::SLOT_TABLE);
