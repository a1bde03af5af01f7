//! Ping-pong: how long messages between two threads take (thesis, chapter 8).
//!
//! Two threads, ping and pong, send each other messages of 0 to 63 words, in three ways: by Ipc
//! between two address spaces, by Ipc within one, and by Lipc within one. The table that it prints
//! has the averages for one message, one way: ticks of the time-stamp counter (which under `heliox
//! boot --icount` are instructions) and microseconds of the clock.
//!
//! Arguments: `rounds=N` (messages there and back for each length), `step=N` (lengths are multiples
//! of it, and 63). It runs under root, which then makes the threads, or as root itself.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod program;

#[cfg(target_os = "none")]
heliox_l4::program!(program::main);
