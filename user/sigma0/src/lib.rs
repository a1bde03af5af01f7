//! What sigma0 decides: who gets which memory (rules SIGMA0-1 to SIGMA0-15).
//!
//! The memory is described by *extents*: sorted, disjoint ranges of pages, each of one kind and
//! one owner. Invariants: neighbours differ; an extent has at least one page; memory that is
//! in no extent is given to nobody; a page changes its owner once, from nobody to who asked first.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod pool;
pub mod server;
