//! Ranges of memory, on the abstraction layer's operations for single pages.
//!
//! This crate hides which pages, and of which sizes, a range consists of. It decides nothing that
//! memory-safety rests on: every step is made of operations of the abstraction layer, each of
//! which is checked there.
//!
//! An operation on a range is a value that remembers how far it came, so that its client can stop
//! at any time and go on later. Each call of its `step` does one single operation, or passes over
//! one hole, and says whether there is more. A step that is refused did nothing; the next one
//! tries the same again, when the reason is gone (more pages for tables, say).

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

mod adding;
mod freeing;
mod parts;
mod ranges;
#[cfg(test)]
mod tests;

pub use adding::Adding;
pub use freeing::{FreeStep, Freeing};
pub use parts::Parts;
pub use ranges::{Modifying, Removing};

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "there may be more to do"]
pub enum Progress {
    /// There is more to do.
    More,
    /// Nothing is left.
    Done,
}

/// What a step gave.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "there may be more to do"]
pub enum Step<T> {
    /// There is more to do. What was done, unless it was a hole that was passed over or a large
    /// page that was split.
    More(Option<T>),
    /// Nothing is left; nothing was done.
    Done,
}
