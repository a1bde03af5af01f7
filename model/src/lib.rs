//! Memory-safety as noninterference: the formal model of Heliox, executable.

#![forbid(unsafe_code)]

mod hash;
pub mod rushby;
pub mod thesis;
pub mod unwinding;
