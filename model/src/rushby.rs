//! Rushby's noninterference framework (thesis 5.1), for any instantiation.
//!
//! A [`System`] is a machine with protection domains, a policy between them and a view for each.
//! [`is_secure_for`] is Definition 4 itself, tried on one sequence of actions; the *unwinding
//! conditions* that imply it for all sequences (Theorem 1) are checked by [`crate::unwinding`] and
//! `crate::check`.

use std::fmt::Debug;
use std::hash::Hash;

/// A machine and its protection domains (Definition 1).
pub trait System {
    /// States.
    type State: Clone + Eq + Hash + Debug;
    /// Actions.
    type Action: Clone + Eq + Hash + Debug;
    /// Protection domains.
    type Domain: Copy + Eq + Debug;
    /// What a domain observes of a state. Two states are equivalent for a domain (`s ~u t`) if
    /// their views are equal.
    type View: Eq + Hash + Debug;

    /// The state in which the machine starts.
    fn initial_state(&self) -> Self::State;

    /// A single transition. An action that cannot be carried out changes nothing.
    fn step(&self, state: &Self::State, action: &Self::Action) -> Self::State;

    /// The domain that an action belongs to.
    fn dom(&self, action: &Self::Action) -> Self::Domain;

    /// All domains.
    fn domains(&self) -> Vec<Self::Domain>;

    /// The policy: whether information may flow from `from` to `to` (`from ⇝ to`).
    fn interferes(&self, from: Self::Domain, to: Self::Domain) -> bool;

    /// What `domain` observes of `state`.
    fn view(&self, domain: Self::Domain, state: &Self::State) -> Self::View;

    /// The result of an action: what its own domain observes afterwards (thesis 5.4.1).
    fn output(&self, state: &Self::State, action: &Self::Action) -> Self::View {
        self.view(self.dom(action), &self.step(state, action))
    }
}

/// Through which domains information can reach `domain` while `actions` are carried out
/// (Definition 2). In no particular order, each domain once.
pub fn sources<S: System>(system: &S, actions: &[S::Action], domain: S::Domain) -> Vec<S::Domain> {
    let mut found = vec![domain];
    // The definition recurs on the tail first, so the last action is the first to be looked at.
    for action in actions.iter().rev() {
        let acting = system.dom(action);
        if !found.contains(&acting) && found.iter().any(|to| system.interferes(acting, *to)) {
            found.push(acting);
        }
    }
    found
}

/// `actions` without those that may not interfere with `domain` (Definition 3).
pub fn ipurge<S: System>(system: &S, actions: &[S::Action], domain: S::Domain) -> Vec<S::Action> {
    let is_source = |(at, action): &(usize, &S::Action)| {
        sources(system, &actions[*at..], domain).contains(&system.dom(action))
    };
    actions.iter().enumerate().filter(is_source).map(|(_, action)| action.clone()).collect()
}

/// The state that `actions` lead to from `state` (`run`).
pub fn run<S: System>(system: &S, state: &S::State, actions: &[S::Action]) -> S::State {
    actions.iter().fold(state.clone(), |state, action| system.step(&state, action))
}

/// The state that `actions` lead to from the initial state (`do`).
pub fn run_from_start<S: System>(system: &S, actions: &[S::Action]) -> S::State {
    run(system, &system.initial_state(), actions)
}

/// The output of `last` after `actions` (`test`).
pub fn test<S: System>(system: &S, actions: &[S::Action], last: &S::Action) -> S::View {
    system.output(&run_from_start(system, actions), last)
}

/// Whether `last` has the same output after `actions` as after those of them that may interfere
/// with its domain (Definition 4, for one sequence and one action).
pub fn is_secure_for<S: System>(system: &S, actions: &[S::Action], last: &S::Action) -> bool {
    let purged = ipurge(system, actions, system.dom(last));
    test(system, actions, last) == test(system, &purged, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three domains of Figure 5.1: A may tell B, and B may tell C. Each has a register; an
    /// action copies the register of the domain in front, or sets A's. With `leak`, C looks at A.
    struct Chain {
        leak: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Step {
        Set(u8),
        ToB,
        ToC,
    }

    impl System for Chain {
        type State = [u8; 3];
        type Action = Step;
        type Domain = usize;
        type View = u8;

        fn initial_state(&self) -> [u8; 3] {
            [0; 3]
        }

        fn step(&self, &[a, b, c]: &[u8; 3], action: &Step) -> [u8; 3] {
            match action {
                Step::Set(value) => [*value, b, c],
                Step::ToB => [a, a, c],
                Step::ToC if self.leak => [a, b, a],
                Step::ToC => [a, b, b],
            }
        }

        fn dom(&self, action: &Step) -> usize {
            match action {
                Step::Set(_) => 0,
                Step::ToB => 1,
                Step::ToC => 2,
            }
        }

        fn domains(&self) -> Vec<usize> {
            vec![0, 1, 2]
        }

        fn interferes(&self, from: usize, to: usize) -> bool {
            to == from || to == from + 1
        }

        fn view(&self, domain: usize, state: &[u8; 3]) -> u8 {
            state[domain]
        }
    }

    #[test]
    fn information_passes_only_through_an_action_between() {
        let chain = Chain { leak: false };
        let (set, to_b, to_c) = (Step::Set(1), Step::ToB, Step::ToC);
        assert_eq!(ipurge(&chain, &[set, to_b], 2), [set, to_b]);
        assert_eq!(ipurge(&chain, &[to_b, set], 2), [to_b]);
        assert_eq!(sources(&chain, &[set, to_b], 2), [2, 1, 0]);
        assert_eq!(sources(&chain, &[to_b, set], 2), [2, 1]);
        assert_eq!(test(&chain, &[set, to_b], &to_c), 1);
    }

    #[test]
    fn a_leak_is_insecure_and_nothing_else_is() {
        let all = [Step::Set(0), Step::Set(1), Step::ToB, Step::ToC];
        let mut sequences: Vec<Vec<Step>> = vec![vec![]];
        for length in 0..4 {
            let longer: Vec<Vec<Step>> = (sequences.iter().filter(|s| s.len() == length))
                .flat_map(|s| all.map(|last| [s.as_slice(), &[last]].concat()))
                .collect();
            sequences.extend(longer);
        }
        let insecure = |leak| {
            let chain = Chain { leak };
            let pairs = sequences.iter().flat_map(|s| all.map(|last| (s, last)));
            pairs.filter(|(s, last)| !is_secure_for(&chain, s, last)).count()
        };
        assert_eq!(insecure(false), 0);
        assert!(insecure(true) > 0);
    }
}
