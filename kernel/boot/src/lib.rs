//! Parsers of everything that the kernel reads at boot and did not write itself.
//!
//! This crate hides the formats in which boot loaders and users hand things over: Xen's PVH
//! start information, Multiboot2, ACPI tables, "newc" cpio archives, the kernel command line and ELF
//! programs. It turns them into types that cannot be wrong: a sorted, disjoint
//! [`MemoryMap`](memory_map::MemoryMap), checked
//! modules in a [`BootInformation`](information::BootInformation), an
//! [`elf::Program`] without writable code.
//!
//! Every byte is treated as hostile. For any input at all:
//!
//! - nothing panics, overflows, allocates or recurses;
//! - every loop is bounded by a constant or by the size of what it walks;
//! - memory that the loader called unusable is never usable in the result, whatever the order,
//!   overlap or number of its entries;
//! - what was refused or changed is recorded as a [`Diagnostic`] for the kernel to log; what
//!   makes it impossible to boot is an error that says why.
//!
//! Physical memory is not mapped when the parsers run, so they read it through
//! [`PhysicalMemory`].

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod cpio;
mod diagnostic;
pub mod elf;
pub mod environment;
pub mod information;
mod list;
pub mod memory_map;
mod multiboot2;
pub mod options;
mod physical_memory;
mod prepare;
mod pvh;
mod report;
mod text;

pub use diagnostic::{Diagnostic, Diagnostics, ModuleRefusal};
pub use physical_memory::{PhysicalMemory, PhysicalRange, Unreadable};
pub use prepare::{IoApicLines, Prepared};
pub use report::BootReport;
