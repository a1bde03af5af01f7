//! Root: starts the boot modules as programs, gives them memory when they touch it, prints what
//! they print, tells how each of them ended, and ends the machine with the first status that was
//! not 0.
//!
//! What programs can ask of it is in `docs/root-protocol.md`. Each program has one or two address
//! spaces, which have the same memory; its memory is freed when it has ended.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod server;

#[cfg(target_os = "none")]
heliox_l4::program!(server::main);
