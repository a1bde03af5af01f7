//! The HAL, with faults in it: `build.rs` copies `kernel/hal` and edits it as `table.rs` says.
//! A fault is dormant until it is planted ([`plant`]). Nothing of this is in a kernel.

#![forbid(unsafe_code)]
#![allow(
    missing_docs,
    unreachable_pub,
    unused,
    clippy::all,
    reason = "edited copies; the original is what is linted"
)]

use std::cell::Cell;

mod table;

pub use table::{MUTANTS, Mutant};

/// Which of [`MUTANTS`] could not be seeded, since the text that they change is not there (any more).
pub const NOT_SEEDED: &[&str] = &include!(concat!(env!("OUT_DIR"), "/not_seeded.rs"));

thread_local! {
    static PLANTED: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Plants the fault with this number in [`MUTANTS`], and no other, in this thread.
pub fn plant(number: Option<usize>) {
    PLANTED.set(number.unwrap_or(usize::MAX));
}

/// Whether the fault with this number is planted.
pub(crate) fn planted(number: usize) -> bool {
    PLANTED.get() == number
}

/// Whether a region of `1 << order` frames from `first` on contains another one, with two
/// faults.
pub(crate) const fn contains(
    first: u64,
    order: u32,
    other: u64,
    other_order: u32,
    larger: bool,
    next: bool,
) -> bool {
    let (this, that) = (first >> order, other >> order);
    (other_order <= order || larger) && (this == that || (next && this + 1 == that))
}

include!(concat!(env!("OUT_DIR"), "/hal.rs"));
