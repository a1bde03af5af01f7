//! The hardware abstraction layer.
//!
//! This crate hides the processor's memory management from the kernel above it, and lets no
//! client, however wrong, break memory-safety. It has two halves:
//!
//! - *checks*: every decision that memory-safety rests on, in safe Rust, generic over a
//!   [`Machine`](machine::Machine);
//! - *machines*: the raw operations, for the x86-64 processor and, for hosts, simulated.
//!
//! The same checks run on both, so that what is tested on a host is what boots. Operations deal
//! with one entry of a table at a time; ranges are the business of the crate `heliox-memory`. A
//! client kernel for the bare machine begins with [`kernel_main!`] and gets a `Hal`.

#![no_std]
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(not(target_os = "none"))]
pub mod audit;
#[cfg(all(target_os = "none", feature = "audit"))]
mod audited;
pub mod cpu;
pub mod kernel_mapping;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod page;
pub mod page_map;
pub mod pci;
pub mod port;
pub mod region;
pub mod share;
#[cfg(not(target_os = "none"))]
pub mod simulated;
pub mod state;
#[cfg(all(test, not(miri)))]
mod tests;
pub mod translation;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the real machine: the kernel's only unsafe code")]
mod x86_64;

/// What the modules use of each other and of the vocabulary.
mod prelude {
    pub(crate) use heliox_types::{cpu::*, domain::*, entry::*, error::*, few::*, flexpage::*};
    pub(crate) use heliox_types::{geometry::*, mapping::*, rights::*, status::*, *};

    pub(crate) use crate::{cpu::*, machine::*, memory::*};
    pub(crate) use crate::{page::*, page_map::*, region::*, share::*, state::*, translation::*};
}

pub use heliox_types::{domain, entry, error, execution, flexpage, geometry, irq, rights};

#[cfg(target_os = "none")]
pub use heliox_boot::information::BootError;
#[cfg(target_os = "none")]
pub use x86_64::*;

/// Makes `$main`, a `fn(Result<Hal, BootError>) -> !`, the client kernel: the HAL calls it when the
/// machine is its, or says why that cannot be. (`heliox-log` has a macro that says it to the user.)
#[macro_export]
macro_rules! kernel_main {
    ($main:expr) => {
        #[unsafe(no_mangle)]
        fn heliox_kernel_main(boot: ::core::result::Result<$crate::Hal, $crate::BootError>) -> ! {
            let main: fn(::core::result::Result<$crate::Hal, $crate::BootError>) -> ! = $main;
            main(boot)
        }
    };
}
