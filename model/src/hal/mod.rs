//! The real checks as an implementation: `kernel/hal` on its simulated machine.
//!
//! What a client kernel can do is done through the HAL's traits, with the handles that they give
//! out. What programs and devices do is done by the simulated hardware, through its tables and
//! caches. What is read for the abstraction are tables, caches, and the records of pages.
//!
//! The abstraction leaves out, of the simulated machine:
//!
//! - marks (accessed and dirty) in entries, which decide nothing;
//! - window entries that only the kernel can use and that are the HAL's own: of pages that make up
//!   address spaces. Nobody has a handle to them;
//! - the numbers of epochs: only which processor owes what a page waits for makes a difference.
//!
//! It adds two things that the simulated machine has not: the environment's mapping of its own
//! pages (the simulated kernel is a program of the host), and for each kernel mapping whether it
//! was made by a share, and its rights, if programs cannot use it: they are in the handle only.

mod genuine;
pub mod geometry;
pub mod mutated;

pub use genuine::{Checks, Refusal};
