//! Tests of the checks on the simulated machine.

mod random;
mod rules;
