//! The L4 kernel: version X.2 of the interface, in safe Rust on the abstraction layer.
//!
//! The binary interface is `heliox-abi`'s, the behaviour is `docs/l4-rules.md`'s, and how the kernel
//! is built is told in `docs/l4-kernel.md`. The kernel knows the machine by the abstraction layer's traits
//! only, so that the same code runs on the bare machine and on the simulated one.
//!
//! | module | what it hides |
//! |---|---|
//! | `kernel` | the main loop, and how threads' words are reached |
//! | `thread`, `threads`, `space`, `utcb` | what is known of threads, spaces and their control blocks |
//! | `scheduling`, `run_queue`, `timers` | who runs, and when |
//! | `ipc`, `transfer` | how sender and receiver meet, and how messages move |
//! | `faults`, `interrupts` | what the kernel does for threads: faults, exceptions, interrupts |
//! | `memory`, `revoke`, `ports`, `database` | what spaces have, and from whom |
//! | `calls`, `stubs` | system calls other than IPC, and how they are made |
//! | `boot`, `boot_information` | the beginning |

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(not(target_os = "none"))]
mod audit;
mod boot;
pub mod boot_information;
mod calls;
mod database;
mod direct;
mod faults;
mod interrupts;
mod ipc;
mod kernel;
mod light;
mod memory;
mod planted;
mod ports;
mod revoke;
mod run_queue;
mod scheduling;
mod space;
mod stubs;
mod thread;
mod threads;
mod timers;
mod transfer;
mod utcb;

#[cfg(not(target_os = "none"))]
pub use audit::{Census, ThreadView};
pub use boot::{Beginning, Server, StartError};
pub use database::{EMPTY_BUCKET, Node, NodeId};
pub use kernel::{DatabaseParts, Kernel, Machine, Objects, Surroundings};
pub use memory::MemoryNote;
pub use planted::Fault;
#[cfg(feature = "planted-faults")]
pub use planted::plant;
pub use space::Space;
pub use thread::Thread;
pub use timers::Deadline;
pub use transfer::Transfer;
pub use utcb::UtcbPage;
