//! Checking an implementation against the specification, and the specification against the
//! policy.

mod consistency;
mod exhaustive;
mod report;

pub use exhaustive::{Exhaustive, explore};
pub use report::{CaseReport, Condition, Progress, Property, Report, Violation};
