//! What root decides about the programs that it starts: what belongs at which of their addresses,
//! what their arguments allow, and how their output looks.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arguments;
pub mod console;
pub mod image;
