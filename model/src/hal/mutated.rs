//! The checks with faults.

use heliox_hal_mutants as hal;

#[path = "adapter.rs"]
mod adapter;

pub use adapter::Checks;
pub use heliox_hal_mutants::{MUTANTS, Mutant, NOT_SEEDED, plant};
