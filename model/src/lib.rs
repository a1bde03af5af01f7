//! Memory-safety as noninterference: the formal model of Heliox, executable.

#![forbid(unsafe_code)]
#![allow(
    clippy::duplicate_mod,
    reason = "the adapter is for two crates: the HAL, and the HAL with faults"
)]

pub mod action;
pub mod check;
mod codec;
pub mod facts;
pub mod hal;
mod hash;
pub mod implementation;
pub mod layers;
pub mod log;
pub mod machine;
pub mod policy;
pub mod rushby;
pub mod specification;
pub mod state;
pub mod step;
pub mod thesis;
pub mod unwinding;
pub mod view;
pub mod well_formed;
