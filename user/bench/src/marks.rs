//! Marks in the program's code, by which the host tool tells what to trace.
//!
//! Nothing happens in them: that a thread passes one is all. The host finds them by their names, so
//! they must stay functions of their own, and differ from each other.

use core::hint::black_box;

/// What is between this and [`trace_end`] is traced.
#[inline(never)]
pub(crate) fn trace_begin() {
    black_box(1);
}

/// See [`trace_begin`].
#[inline(never)]
pub(crate) fn trace_end() {
    black_box(2);
}

/// A round of what is measured begins.
#[inline(never)]
pub(crate) fn trace_round() {
    black_box(3);
}

/// A round has ended: what follows prepares the next one.
#[inline(never)]
pub(crate) fn trace_rest() {
    black_box(4);
}
