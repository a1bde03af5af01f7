//! Checking an implementation against the specification, and the specification against the
//! policy.

mod consistency;
mod exhaustive;
pub mod mutants;
mod random_run;
mod report;
mod run;

pub use exhaustive::{Exhaustive, explore};
pub use random_run::{Random, never_accepted};
pub use report::{CaseReport, Condition, Progress, Property, Report, Violation};
pub use run::{exhaustive, random};

#[cfg(test)]
mod tests;
