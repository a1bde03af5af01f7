//! The vocabulary of the kernel: types that give no authority and decide nothing.
//!
//! Addresses, frames and sizes, rights, owners, statuses, errors. This crate hides how many bits an address has and how pages are cut out of memory. Every
//! other crate of the kernel speaks of [`PhysicalAddress`], [`VirtualAddress`], [`Frame`] and
//! [`FrameRange`], so that a physical address cannot be taken for a virtual one, nor a byte
//! count for a page count. It also names what the kernel and the machine tell each other: why a
//! program stopped ([`Interrupt`]), its registers, lines of interrupts, breakpoints, time.
//!
//! Invariants, kept by private fields and checked constructors:
//!
//! - a [`PhysicalAddress`] is below 2^52 (the architectural limit, AMD64 manual volume 2,
//!   section 5.1), and a [`Frame`] is the number of a page below that limit;
//! - a [`VirtualAddress`] is canonical for four-level paging: bits 63 to 47 are equal;
//! - a [`FrameRange`] never ends before it starts;
//! - an [`Irq`] is below [`Irq::COUNT`];
//! - a [`Breakpoint`] watches aligned addresses of programs.
//!
//! No operation wraps: where a result would leave the type, the operation returns `None`.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod breakpoint;
mod clock;
pub mod cpu;
pub mod domain;
pub mod entry;
pub mod error;
mod events;
pub mod execution;
pub mod few;
pub mod flexpage;
mod frame;
pub mod geometry;
mod heap_error;
mod interrupt;
pub mod irq;
mod irq_lines;
mod light_call;
pub mod mapping;
mod offset;
mod page_size;
pub mod pci;
mod physical_address;
pub mod port_bitmap;
mod processor;
pub mod record;
mod register;
pub mod rights;
pub mod status;
mod virtual_address;

#[cfg(test)]
extern crate std;

pub use breakpoint::{Breakpoint, BreakpointError, BreakpointKind, BreakpointLength};
pub use clock::Clock;
pub use events::{Events, Measurement};
pub use frame::{Blocks, Frame, FrameRange, Frames};
pub use heap_error::HeapError;
pub use interrupt::{Interrupt, PageFaultError, exception_name};
pub use irq::{Irq, NoSuchLine};
pub use irq_lines::{IrqLines, IrqTaken};
pub use light_call::LightCall;
pub use offset::{Offset, PAGE_WORDS};
pub use page_size::PageSize;
pub use physical_address::PhysicalAddress;
pub use processor::{Cpuid, ProcessorFeatures};
pub use register::{Register, RegisterError, SavedRegisters};
pub use virtual_address::{USER_END, VirtualAddress};

/// Log2 of the size in bytes of the smallest page.
pub const PAGE_BITS: u32 = 12;

/// Size in bytes of the smallest page.
pub const PAGE_BYTES: u64 = 1 << PAGE_BITS;

/// Number of bits that a physical address can have at most (AMD64 manual volume 2, 5.1).
pub const PHYSICAL_BITS: u32 = 52;
