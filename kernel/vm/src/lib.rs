//! The memory of virtual machines.
//!
//! This crate decides how much memory a domain is given, where that memory is, and who else may
//! touch it: the memory half of a hypervisor, in safe Rust.
//!
//! - [`breakdown`]: how many pages a domain with given options needs, and what for;
//! - [`balance`]: how memory is divided between domains whose needs can grow and shrink;
//! - [`Domains`]: all domains, with everything that moves memory between them and the machine:
//!   populating, on demand or not, ballooning, targets, claims, grants, sealing, and their end;
//! - [`access`]: the rules that all of that goes by.
//!
//! It rests on two traits, [`Backing`] (the machine and the page allocator) and [`KernelMemory`];
//! [`machine`] has the first on the hardware abstraction layer. Every undesired event is an
//! [`Error`]; no operation recurses, and each is bounded by the size of its extent, by the entries of
//! a table, or by the budget that it is given: but making a domain, by its options.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

pub mod access;
pub mod backing;
pub mod balance;
mod balloon;
pub mod breakdown;
mod demand;
mod domain;
mod domains;
mod driver;
mod error;
mod grant;
mod guest;
mod kinds;
pub mod machine;
mod pool;
mod seal;
mod teardown;
pub mod units;

pub use backing::{Backing, KernelMemory};
pub use domain::{Limit, Measurement, Options, Summary};
pub use domains::{CopyEnd, CopyRequest, Domains, Page, Partial, Progress, Torn};
pub use error::Error;
pub use grant::Version;
pub use guest::{DomainId, Extent, GuestFrame, Order};
pub use kinds::Kind;
