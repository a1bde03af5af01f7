//! The L4 kernel.
#![no_std]
#![forbid(unsafe_code)]
#[cfg(test)]
extern crate std;
pub mod database;
pub mod run_queue;
pub mod timers;
