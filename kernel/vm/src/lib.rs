//! The memory of virtual machines.
//!
//! This crate decides how much memory a domain is given, where that memory is, and who else may
//! touch it: the memory half of a hypervisor, in safe Rust.
//!
//! - [`breakdown`]: how many pages a domain with given options needs, and what for;
//! - [`balance`]: how memory is divided between domains whose needs can grow and shrink.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

pub mod balance;
pub mod breakdown;
pub mod units;
