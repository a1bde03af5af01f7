//! Tests of the checks on the simulated machine.
//!
//! Not under Miri: the checks and the simulated machine are safe code, and these machines are
//! large for it.

#![cfg(not(miri))]

mod random;
mod rules;
