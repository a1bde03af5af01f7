//! The conformance suite: checks that the kernel keeps the rules of L4 (`docs/l4-rules.md`).
//!
//! It is the root task. Every case names the rules that it shows, runs in a thread of its own with
//! a time limit, and has everything that could go wrong done by *probes*, threads in other address
//! spaces (`heliox_l4::probe`). So a case that fails, hangs or crashes does not end the run: it is
//! reported, what it made is taken apart, and the next one begins.
//!
//! Output: a line `GROUP: n passed` for each group of rules, with the number of failures if there
//! are any, and a line that begins with `FAILED` for each case that failed: its rules, what was
//! looked at, what was expected and what was found. The status is 0 if all passed. The argument
//! `only=IPC` runs one group, `only=IPC-7` the cases of one rule, and `list` prints the cases as
//! they run.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod case;
#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod stage;
#[cfg(target_os = "none")]
mod steps;
#[cfg(target_os = "none")]
mod supervisor;

#[cfg(target_os = "none")]
heliox_l4::program!(supervisor::main);
