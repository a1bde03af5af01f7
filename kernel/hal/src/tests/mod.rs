//! Tests of the checks on the simulated machine.
//!
//! Not under Miri: the checks and the simulated machine are safe code, and these machines are
//! large for it.

mod random;
mod rules;
