//! The unwinding conditions (thesis 5.1.3), checked on a set of states without any reduction.
//!
//! Everything is compared as it is: no symmetry, no hashing that could confuse two states. That is
//! slow, and small enough to be read: it is how the thesis's own definitions are examined
//! ([`crate::thesis`]), and what the fast checks of `crate::check` are measured against.
//!
//! Conditions are in the relational form of the thesis (5.8.3): they must hold for *every* state
//! that the specification relates to a state before. An action that relates a state to nothing
//! leaves it as it is. The thesis drops that case from weak step consistency ("trivially true");
//! it is not trivial if the action is possible in one state and not in the other, and is checked
//! here.

use std::collections::{BTreeMap, BTreeSet};

use crate::hash::FastMap;
use crate::rushby::System;

/// A system whose actions may have several outcomes.
pub trait Relation: System {
    /// All actions that may be possible in `state`. Those left out must be impossible.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    /// The states that `action` may lead to (`relatedStates`); none if it is impossible.
    fn related_states(&self, state: &Self::State, action: &Self::Action) -> Vec<Self::State>;

    /// The name of an action without its arguments.
    fn name(&self, action: &Self::Action) -> &'static str;

    /// The names of all actions.
    fn names(&self) -> Vec<&'static str>;

    /// Whether `action`, in `state`, may interfere with `domain`: the policy, unless it depends
    /// on the state.
    fn may_interfere(
        &self,
        _state: &Self::State,
        action: &Self::Action,
        domain: Self::Domain,
    ) -> bool {
        self.interferes(self.dom(action), domain)
    }

    /// The domains whose knowledge `action` expresses: its own, unless others have to agree.
    fn authors(&self, action: &Self::Action) -> Vec<Self::Domain> {
        vec![self.dom(action)]
    }
}

/// All states that can be reached, and how.
#[derive(Debug)]
pub struct Explored<S, A> {
    /// The states; the initial state is the first, and a state follows those nearer to it.
    pub states: Vec<S>,
    /// All actions that are possible in some state.
    pub actions: Vec<A>,
    /// For each state the numbers of the actions that are possible in it, with the numbers of
    /// the states that they lead to.
    pub transitions: Vec<Vec<(usize, Vec<usize>)>>,
    /// Whether these are all.
    pub complete: bool,
}

/// Visits states until all are known, or more than `limit`.
pub fn explore<R: Relation>(system: &R, limit: usize) -> Explored<R::State, R::Action> {
    let start = system.initial_state();
    let mut numbers = FastMap::from_iter([(start.clone(), 0)]);
    let mut action_numbers = FastMap::default();
    let mut explored = Explored {
        states: vec![start],
        actions: Vec::new(),
        transitions: Vec::new(),
        complete: true,
    };
    while explored.transitions.len() < explored.states.len() {
        if explored.states.len() > limit {
            explored.complete = false;
            break;
        }
        let state = explored.states[explored.transitions.len()].clone();
        let mut transitions = Vec::new();
        for action in system.actions(&state) {
            let mut targets = Vec::new();
            for next in system.related_states(&state, &action) {
                let target = *numbers.entry(next).or_insert_with_key(|next| {
                    explored.states.push(next.clone());
                    explored.states.len() - 1
                });
                targets.push(target);
            }
            if !targets.is_empty() {
                let number = *action_numbers.entry(action).or_insert_with_key(|action| {
                    explored.actions.push(action.clone());
                    explored.actions.len() - 1
                });
                transitions.push((number, targets));
            }
        }
        explored.transitions.push(transitions);
    }
    // States that were seen and not visited have no transitions, and are left out.
    let visited = explored.transitions.len();
    explored.states.truncate(visited);
    for transitions in &mut explored.transitions {
        for (_, targets) in &mut *transitions {
            targets.retain(|target| *target < visited);
        }
        transitions.retain(|(_, targets)| !targets.is_empty());
    }
    explored
}

/// Which condition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Condition {
    /// Definition 6.
    LocalRespect,
    /// Definition 7.
    WeakStepConsistency,
}

/// How a case turned out: one action, seen by one domain.
#[derive(Debug)]
pub struct Case<D> {
    /// The condition.
    pub condition: Condition,
    /// The action's name.
    pub action: &'static str,
    /// The domain that observes.
    pub domain: D,
    /// Transitions (local respect) or pairs of different states with an action (weak step
    /// consistency) that were compared.
    pub compared: u64,
    /// Those transitions that broke the condition, or disagreed with another one.
    pub broken: u64,
    /// The first of these.
    pub counterexample: Option<Counterexample>,
}

/// What breaks a condition, by numbers of states and actions.
#[derive(Clone, Copy, Debug)]
pub struct Counterexample {
    /// The action.
    pub action: usize,
    /// A state, and one that the action leads to: itself if the action is impossible.
    pub first: (usize, usize),
    /// For weak step consistency an equivalent state, possibly the same, and one that the action
    /// leads to from it.
    pub second: Option<(usize, usize)>,
}

/// Checks local respect and weak step consistency in all cases that the policy and the actions
/// give. Output consistency is the part of weak step consistency in which the action's own
/// domain observes (thesis 5.8.3, step 2).
pub fn check<R: Relation>(
    system: &R,
    explored: &Explored<R::State, R::Action>,
) -> Vec<Case<R::Domain>> {
    let domains = system.domains();
    // Views as numbers, by domain and state.
    let views: Vec<Vec<usize>> = domains
        .iter()
        .map(|domain| {
            let mut numbers = FastMap::default();
            let number = |state| {
                let next = numbers.len();
                *numbers.entry(system.view(*domain, state)).or_insert(next)
            };
            explored.states.iter().map(number).collect()
        })
        .collect();
    let mut cases = Vec::new();
    for name in system.names() {
        for (observer, domain) in domains.iter().enumerate() {
            cases.extend(local_respect(system, explored, name, *domain, &views[observer]));
            cases.extend(step_consistency(system, explored, name, observer, &views));
        }
    }
    cases.sort_by_key(|case| case.condition);
    cases
}

/// The case of local respect, if the policy keeps some action of that name from `domain`.
fn local_respect<R: Relation>(
    system: &R,
    explored: &Explored<R::State, R::Action>,
    name: &'static str,
    domain: R::Domain,
    view: &[usize],
) -> Option<Case<R::Domain>> {
    let mut case = Case {
        condition: Condition::LocalRespect,
        action: name,
        domain,
        compared: 0,
        broken: 0,
        counterexample: None,
    };
    for (state, transitions) in explored.transitions.iter().enumerate() {
        for (number, targets) in transitions {
            let action = &explored.actions[*number];
            if system.name(action) != name
                || system.may_interfere(&explored.states[state], action, domain)
            {
                continue;
            }
            for target in targets {
                case.compared += 1;
                if view[state] != view[*target] {
                    case.broken += 1;
                    case.counterexample.get_or_insert(Counterexample {
                        action: *number,
                        first: (state, *target),
                        second: None,
                    });
                }
            }
        }
    }
    (case.compared > 0).then_some(case)
}

/// The case of weak step consistency.
fn step_consistency<R: Relation>(
    system: &R,
    explored: &Explored<R::State, R::Action>,
    name: &'static str,
    observer: usize,
    views: &[Vec<usize>],
) -> Option<Case<R::Domain>> {
    let domains = system.domains();
    let mut case = Case {
        condition: Condition::WeakStepConsistency,
        action: name,
        domain: domains[observer],
        compared: 0,
        broken: 0,
        counterexample: None,
    };
    // Authors may differ between actions of the same name, and with them the classes.
    let authors: Vec<Option<Vec<usize>>> = explored
        .actions
        .iter()
        .map(|action| {
            let authors = || system.authors(action);
            let position = |author| domains.iter().position(|domain| *domain == author);
            (system.name(action) == name)
                .then(|| authors().into_iter().filter_map(position).collect())
        })
        .collect();
    let groups: BTreeSet<&Vec<usize>> = authors.iter().flatten().collect();
    for group in groups {
        let mut classes: FastMap<Vec<usize>, Vec<usize>> = FastMap::default();
        for (state, observed) in views[observer].iter().enumerate() {
            let mut key = vec![*observed];
            key.extend(group.iter().map(|author| views[*author][state]));
            classes.entry(key).or_default().push(state);
        }
        let mut classes: Vec<Vec<usize>> = classes.into_values().collect();
        classes.sort_unstable();
        let is_of_group = |action: usize| authors[action].as_ref() == Some(group);
        for class in &classes {
            compare_class(explored, is_of_group, class, &views[observer], &mut case);
        }
    }
    (case.compared > 0).then_some(case)
}

/// What an action led to so far from states of a class.
struct Outcome {
    /// Number of states in which it is possible.
    possible: u64,
    /// The first state, and the first of those that the action leads to.
    first: (usize, usize),
}

/// Compares what each action of a group leads to from all states of a class.
fn compare_class<S, A, D>(
    explored: &Explored<S, A>,
    is_of_group: impl Fn(usize) -> bool,
    class: &[usize],
    view: &[usize],
    case: &mut Case<D>,
) {
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let mut report = |action, first, second| {
        case.broken += 1;
        case.counterexample.get_or_insert(Counterexample { action, first, second: Some(second) });
    };
    for state in class {
        for (action, targets) in &explored.transitions[*state] {
            if !is_of_group(*action) {
                continue;
            }
            let outcome = outcomes
                .entry(*action)
                .or_insert(Outcome { possible: 0, first: (*state, targets[0]) });
            outcome.possible += 1;
            for target in targets {
                if view[*target] != view[outcome.first.1] {
                    report(*action, outcome.first, (*state, *target));
                }
            }
        }
    }
    let all = class.len() as u64;
    for (action, outcome) in outcomes {
        // Where the action is impossible nothing changes.
        let changes = view[outcome.first.1] != view[outcome.first.0];
        if outcome.possible < all && changes {
            let possible = |state: usize| {
                explored.transitions[state].iter().any(|(other, _)| *other == action)
            };
            if let Some(unchanged) = class.iter().find(|state| !possible(**state)) {
                report(action, outcome.first, (*unchanged, *unchanged));
            }
        }
        // Pairs of different states of which the action is possible in at least one.
        let impossible = all - outcome.possible;
        case.compared += all * (all - 1) / 2 - impossible * impossible.saturating_sub(1) / 2;
    }
}
