//! What a check found.

use std::fmt;
use std::time::Duration;

use crate::action::{Action, Domain, Kind};

/// What can be broken.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Property {
    /// The implementation did what the specification does not allow.
    Accepted,
    /// The implementation refused what the specification allows.
    Refused,
    /// A refused action changed something.
    RefusalChanges,
    /// The implementation did what the hardware would not have survived.
    Hardware,
    /// What the implementation records is not so.
    Audit,
    /// The implementation's state after an action is not the specification's.
    Successor,
    /// The specification as a relation does not relate the states that the specification as a
    /// function does.
    Relation,
    /// The state after an action is not well-formed.
    WellFormed(&'static str),
    /// The environment can be written.
    EnvironmentIntegrity,
    /// Tables can be written.
    AddressSpaceIntegrity,
    /// A domain observes what it must not.
    LocalRespect(Domain),
    /// What a domain observes after an action depends on what neither it nor the actor observed
    /// before.
    StepConsistency(Domain),
    /// The actor observes more than its own view (Definition 5).
    OutputConsistency(Domain),
}

impl fmt::Display for Property {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => formatter.write_str("accepted against the specification"),
            Self::Refused => formatter.write_str("refused against the specification"),
            Self::RefusalChanges => formatter.write_str("refusal changes the state"),
            Self::Hardware => formatter.write_str("a precondition of the hardware is broken"),
            Self::Audit => formatter.write_str("records do not agree with what they are about"),
            Self::Successor => formatter.write_str("state after differs from the specification"),
            Self::Relation => formatter.write_str("the two specifications differ"),
            Self::WellFormed(name) => write!(formatter, "not well-formed: {name}"),
            Self::EnvironmentIntegrity => formatter.write_str("environment integrity"),
            Self::AddressSpaceIntegrity => formatter.write_str("address space integrity"),
            Self::LocalRespect(domain) => write!(formatter, "local respect for {domain:?}"),
            Self::StepConsistency(domain) => {
                write!(formatter, "weak step consistency for {domain:?}")
            }
            Self::OutputConsistency(domain) => {
                write!(formatter, "output consistency for {domain:?}")
            }
        }
    }
}

/// A property is broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// The actions that lead from the boot to the state in which it happens.
    pub trace: Vec<Action>,
    /// The action that breaks it.
    pub action: Action,
    /// Number of actions that were tried until it was found.
    pub steps: u64,
    /// What was expected and what was found.
    pub explanation: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.property)?;
        for (number, action) in self.trace.iter().enumerate() {
            writeln!(formatter, "  {:>3}. {action:?}", number + 1)?;
        }
        writeln!(formatter, "  then {:?}", self.action)?;
        write!(formatter, "{}", self.explanation)
    }
}

/// One of the unwinding conditions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Condition {
    /// Definition 6.
    LocalRespect,
    /// Definition 7.
    StepConsistency,
}

/// A case of an unwinding condition: an action and an observer.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// The condition.
    pub condition: Condition,
    /// The action.
    pub kind: Kind,
    /// The letter of the observing domains.
    pub observer: char,
    /// Number of transitions, for local respect; of pairs of different states that look the
    /// same to the observer and to the actor, for weak step consistency.
    pub checked: u64,
}

/// What a search covered and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states, up to renaming of frames.
    pub states: u64,
    /// The same, with all renamings counted.
    pub renamed_states: u64,
    /// Actions that were carried out.
    pub transitions: u64,
    /// Actions that were refused.
    pub refusals: u64,
    /// Most actions that are needed to reach a state.
    pub depth: u64,
    /// Whether all states that can be reached were visited.
    pub complete: bool,
    /// The cases of the unwinding conditions.
    pub cases: Vec<CaseReport>,
    /// Of a random run: how often each kind of action was accepted and refused.
    pub kinds: [(u64, u64); Kind::COUNT],
    /// What is broken, if anything.
    pub violation: Option<Violation>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// The cases of the thesis: local respect of an action for the domains that it must not
    /// interfere with (12), and weak step consistency of each action for each domain (40). Each
    /// once, also those that were checked on nothing.
    #[must_use]
    pub fn thesis_cases(&self) -> Vec<CaseReport> {
        let respects = |kind: &Kind, observer| match kind.domain {
            'E' => observer == 'U',
            'H' => observer == 'E',
            _ => observer == 'E' || observer == 'H',
        };
        let mut cases = Vec::new();
        for condition in [Condition::LocalRespect, Condition::StepConsistency] {
            for kind in Kind::ALL.into_iter().filter(|kind| kind.is_in_thesis) {
                for observer in ['E', 'H', 'K', 'U'] {
                    if condition == Condition::LocalRespect && !respects(&kind, observer) {
                        continue;
                    }
                    let is_it = |case: &&CaseReport| {
                        (case.condition, case.kind, case.observer) == (condition, kind, observer)
                    };
                    let checked = self.cases.iter().find(is_it).map_or(0, |case| case.checked);
                    cases.push(CaseReport { condition, kind, observer, checked });
                }
            }
        }
        cases
    }

    /// Adds the cases of another search to those of this one.
    pub fn add_cases(&mut self, other: Self) {
        for case in other.cases {
            let is_it = |own: &&mut CaseReport| {
                (own.condition, own.kind, own.observer)
                    == (case.condition, case.kind, case.observer)
            };
            match self.cases.iter_mut().find(is_it) {
                Some(own) => own.checked += case.checked,
                None => self.cases.push(case),
            }
        }
    }

    /// The cases of what the thesis left out: other actions, and devices.
    pub fn other_cases(&self) -> impl Iterator<Item = &CaseReport> {
        let thesis = self.thesis_cases();
        self.cases.iter().filter(move |case| {
            !thesis.iter().any(|other| {
                (other.condition, other.kind, other.observer)
                    == (case.condition, case.kind, case.observer)
            })
        })
    }
}

/// How far a check is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// States visited, and states known.
    States {
        /// Visited.
        visited: u64,
        /// Known.
        known: u64,
    },
    /// Work on weak step consistency.
    Consistency {
        /// Done.
        done: u64,
        /// Of that much.
        all: u64,
    },
    /// Steps of a random run or lines of a log.
    Steps {
        /// Done.
        done: u64,
        /// Of that many.
        all: u64,
    },
}
