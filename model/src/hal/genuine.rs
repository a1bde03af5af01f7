//! The checks as they are.

use heliox_hal as hal;

#[path = "adapter.rs"]
mod adapter;

pub use adapter::{Checks, Refusal};
