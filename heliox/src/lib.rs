//! The host side of Heliox: builds the kernel and its programs, boots them in QEMU, and says
//! what happened.
//!
//! The binary `heliox` is a command line on top of this library; the system tests use it
//! directly:
//!
//! ```no_run
//! use heliox::boot::Boot;
//!
//! let outcome = Boot::new().program("first-light", "").icount(true).run()?;
//! outcome.require_status(0);
//! # Ok::<(), heliox::error::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod archive;
pub mod bare;
pub mod bench;
pub mod boot;
pub mod check;
pub mod disc;
pub mod error;
pub mod module;
pub mod outcome;
pub mod plan;
mod process;
pub mod programs;
pub mod provision;
pub mod qemu;
pub mod size;
pub mod terminal;
pub mod toolchain;
