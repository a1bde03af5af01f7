//! What is checked against the specification.

use std::fmt::{Debug, Display};

use crate::action::Action;
use crate::facts::Facts;
use crate::machine::Machine;
use crate::state::State;

/// An implementation of the actions, on a machine of its own, with everything that a client can
/// hold of it: so that it can be copied, tried, and thrown away.
pub trait Implementation: Clone + Send {
    /// Why an action was refused.
    type Refusal: Display + Debug;

    /// Carries out an action: through the interface that clients have, or, for what programs and
    /// devices do, as the hardware does it.
    ///
    /// # Errors
    ///
    /// The action was refused. The implementation claims that nothing changed.
    fn apply(&mut self, machine: &Machine, action: &Action) -> Result<(), Self::Refusal>;

    /// The abstraction function: the state of the model that this is.
    fn abstraction(&self, machine: &Machine) -> State;

    /// Whether nothing at all differs.
    fn is_same(&self, other: &Self) -> bool;

    /// Adds what is remembered beyond the state of the model and may decide what happens later.
    /// States that differ only in that are visited apart.
    fn remembers(&self, machine: &Machine, state: &State, facts: &mut Facts);

    /// What the hardware would not have survived since the last call, if anything.
    fn complaint(&mut self) -> Option<String>;

    /// Counts everything anew that is recorded.
    ///
    /// # Errors
    ///
    /// What does not agree.
    fn audit(&self) -> Result<(), String>;
}
