//! Weak step consistency of all states that were reached.
//!
//! What a domain observes after an action must be a function of what it and the action's authors
//! observed before (thesis, Figure 5.3). States that look the same to both are found by sorting the
//! keys of the two views together; in each class of such states every action must lead to the
//! same view, or, where it is impossible, to the view as it was.
//!
//! States are known up to renaming of frames, and a class contains with a state all its renamings
//! that keep the two views. So an outcome is compared together with the views and the action, up
//! to renaming; and it may not tell frames apart that these do not ([`Outcome::Changed`] with as many
//! automorphisms). With both the check says the same as one that visits every renaming, which
//! the tests confirm on machines that are small enough.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::action::{Action, Domain, Kind};
use crate::facts::{Canonical, Facts, Symmetry};
use crate::hash::FastMap;
use crate::state::State;
use crate::view;

use super::exhaustive::{Exhaustive, Known};
use super::report::{CaseReport, Condition, Progress, Property, Report, Violation};

/// A group of actions with the same authors.
struct Group {
    authors: Vec<Domain>,
}

/// All groups of a machine.
fn groups(domains: &[Domain]) -> Vec<Group> {
    let alone = domains.iter().map(|domain| vec![*domain]);
    let programs = domains.iter().filter(|domain| matches!(domain, Domain::U(_)));
    let sharing = programs.map(|domain| vec![Domain::H, *domain]);
    let showing = [vec![Domain::H, Domain::K]];
    alone.chain(sharing).chain(showing).map(|authors| Group { authors }).collect()
}

/// What is looked at: one group of actions, one observer.
struct Check<'search> {
    search: &'search Exhaustive,
    symmetry: &'search Symmetry,
    known: &'search Known,
    group: &'search Group,
    observer: Domain,
}

/// How an action turned out for an observer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The view is as it was.
    Same,
    /// The view, together with the views before and the action.
    Changed(u128),
}

/// The actions that are possible in a state, by its number, and where they change the view, the state
/// after.
type Tried = (usize, Vec<(Action, Option<State>)>);

/// What is broken: by which action, from which state, and what it disagrees with.
struct Broken {
    state: usize,
    action: Action,
    explanation: String,
}

/// Checks all pairs of states, adds the cases to the report, and the first violation.
pub(super) fn check(
    search: &Exhaustive,
    symmetry: &Symmetry,
    domains: &[Domain],
    known: &Known,
    report: &mut Report,
    progress: &(dyn Fn(Progress) + Sync),
) {
    let groups = groups(domains);
    let all = groups.len() as u64;
    let done = AtomicU64::new(0);
    for group in &groups {
        progress(Progress::Consistency { done: done.load(Ordering::Relaxed), all });
        let keys = class_keys(search, symmetry, domains, known, group);
        for (observer, keys) in domains.iter().zip(keys) {
            let check = Check { search, symmetry, known, group, observer: *observer };
            let (pairs, broken) = check.all_classes(keys);
            for (kind, pairs) in Kind::ALL.into_iter().zip(pairs) {
                if pairs > 0 {
                    add_case(report, kind, observer.letter(), pairs);
                }
            }
            if let Some(Broken { state, action, explanation }) = broken {
                let own = action.dom() == *observer;
                report.violation = Some(Violation {
                    property: match own {
                        true => Property::OutputConsistency(*observer),
                        false => Property::StepConsistency(*observer),
                    },
                    trace: known.trace(search, state),
                    action,
                    steps: report.transitions + report.refusals,
                    explanation,
                });
                return;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn add_case(report: &mut Report, kind: Kind, observer: char, pairs: u64) {
    let case = report.cases.iter_mut().find(|case| {
        case.condition == Condition::StepConsistency
            && case.kind == kind
            && case.observer == observer
    });
    match case {
        Some(case) => case.checked += pairs,
        None => report.cases.push(CaseReport {
            condition: Condition::StepConsistency,
            kind,
            observer,
            checked: pairs,
        }),
    }
}

/// Adds the views of the authors and of the observer, each as part of its own.
fn add_views(views: &[Facts], authors: &[usize], observer: usize, facts: &mut Facts) {
    facts.clear();
    for author in authors {
        facts.add_all(&views[*author], 1 + *author as u64);
    }
    if !authors.contains(&observer) {
        facts.add_all(&views[observer], 1 + observer as u64);
    }
}

/// For each observer, the key of the class of each state, with the number of the state.
fn class_keys(
    search: &Exhaustive,
    symmetry: &Symmetry,
    domains: &[Domain],
    known: &Known,
    group: &Group,
) -> Vec<Vec<ClassKey>> {
    let position = |author: &Domain| domains.iter().position(|domain| domain == author);
    let authors: Vec<usize> = group.authors.iter().filter_map(position).collect();
    let threads = search.threads.max(1);
    let share = known.count().div_ceil(threads).max(1);
    let work = |first: usize| {
        let mut keys: Vec<Vec<ClassKey>> = domains.iter().map(|_| Vec::new()).collect();
        let mut views: Vec<Facts> = domains.iter().map(|_| Facts::new()).collect();
        let mut facts = Facts::new();
        for number in first..known.count().min(first + share) {
            let state = known.state(&search.machine, number);
            for (domain, view) in domains.iter().zip(&mut views) {
                view.clear();
                view::observe(&search.machine, &state, *domain, view);
            }
            for (observer, keys) in keys.iter_mut().enumerate() {
                add_views(&views, &authors, observer, &mut facts);
                let Canonical { key, automorphisms } = symmetry.canonical(&mut facts);
                let automorphisms = u32::try_from(automorphisms).unwrap_or(u32::MAX);
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                keys.push(ClassKey { key, number, automorphisms });
            }
        }
        keys
    };
    thread::scope(|scope| {
        let firsts = (0..known.count()).step_by(share).skip(1);
        let work = &work;
        let others: Vec<_> = firsts.map(|first| scope.spawn(move || work(first))).collect();
        let mut keys = work(0);
        for other in others {
            let more = other.join().expect("a thread of the search does not panic");
            for (keys, more) in keys.iter_mut().zip(more) {
                keys.extend(more);
            }
        }
        keys
    })
}

/// The class of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ClassKey {
    key: u128,
    number: u32,
    /// Of the views together.
    automorphisms: u32,
}

impl Check<'_> {
    /// Checks all classes. Returns the number of pairs by kind of action.
    fn all_classes(&self, mut keys: Vec<ClassKey>) -> (Vec<u64>, Option<Broken>) {
        keys.sort_unstable();
        let classes: Vec<&[ClassKey]> = keys
            .chunk_by(|one, other| one.key == other.key)
            .filter(|class| {
                // A class of one state has others in it if a renaming keeps the views and changes
                // the state.
                class.len() > 1
                    || class[0].automorphisms != self.known.automorphisms[class[0].number as usize]
            })
            .collect();
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let broken: Mutex<Option<Broken>> = Mutex::new(None);
        let work = || {
            let mut pairs = vec![0; Kind::COUNT];
            let mut facts = Facts::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(class) = classes.get(at) else {
                    return pairs;
                };
                if stop.load(Ordering::Relaxed) {
                    return pairs;
                }
                if let Some(found) = self.class(class, &mut pairs, &mut facts) {
                    let mut broken = broken.lock().unwrap_or_else(|poison| poison.into_inner());
                    if broken.as_ref().is_none_or(|other| found.state < other.state) {
                        *broken = Some(found);
                    }
                    stop.store(true, Ordering::Relaxed);
                }
            }
        };
        let pairs = thread::scope(|scope| {
            let others: Vec<_> = (1..self.search.threads).map(|_| scope.spawn(work)).collect();
            let mut pairs = work();
            for other in others {
                let more = other.join().expect("a thread of the search does not panic");
                for (pairs, more) in pairs.iter_mut().zip(more) {
                    *pairs += more;
                }
            }
            pairs
        });
        (pairs, broken.into_inner().unwrap_or(None))
    }

    /// Checks the states of a class against each other.
    fn class(&self, class: &[ClassKey], pairs: &mut [u64], facts: &mut Facts) -> Option<Broken> {
        let machine = &self.search.machine;
        let mut possible = vec![0_u64; Kind::COUNT];
        let mut changes = false;
        let mut outcomes: Vec<Tried> = Vec::new();
        for member in class {
            let number = member.number as usize;
            let state = self.known.state(machine, number);
            let mut here = [false; Kind::COUNT];
            let mut view = None;
            let mut own = Vec::new();
            for action in self.search.universe.actions_of(machine, &state, &self.group.authors) {
                let Ok(after) = state.successor(machine, &action) else {
                    continue;
                };
                here[action.kind().number] = true;
                let before = *view.get_or_insert_with(|| self.view(&state, facts));
                let has_changed = after != state && self.view(&after, facts) != before;
                changes |= has_changed;
                own.push((action, has_changed.then_some(after)));
            }
            outcomes.push((number, own));
            for (possible, here) in possible.iter_mut().zip(here) {
                *possible += u64::from(here);
            }
        }
        let all = class.len() as u64;
        let two_of = |count: u64| count * count.saturating_sub(1) / 2;
        for (pairs, possible) in pairs.iter_mut().zip(possible) {
            *pairs += two_of(all) - two_of(all - possible);
        }
        if changes { self.compare(class, outcomes, facts) } else { None }
    }

    fn view(&self, state: &State, facts: &mut Facts) -> u128 {
        facts.clear();
        view::observe(&self.search.machine, state, self.observer, facts);
        facts.key()
    }

    /// Compares the outcomes of all actions in the states of a class.
    fn compare(
        &self,
        class: &[ClassKey],
        outcomes: Vec<Tried>,
        facts: &mut Facts,
    ) -> Option<Broken> {
        struct Known {
            outcome: Outcome,
            state: usize,
            action: Action,
            possible: u64,
            automorphisms: u64,
        }
        let machine = &self.search.machine;
        let mut known: FastMap<u128, Known> = FastMap::default();
        for (number, own) in outcomes {
            let state = self.known.state(machine, number);
            let mut view = Facts::new();
            let mut views = Facts::new();
            for (place, author) in self.group.authors.iter().enumerate() {
                view.clear();
                view::observe(machine, &state, *author, &mut view);
                views.add_all(&view, 1 + place as u64);
            }
            view.clear();
            view::observe(machine, &state, self.observer, &mut view);
            views.add_all(&view, 10);
            for (action, after) in own {
                facts.clear();
                facts.add_all(&views, 1);
                view::add_action(machine, &action, facts);
                let before = self.symmetry.canonical(facts);
                let outcome = match &after {
                    None => Outcome::Same,
                    Some(after) => {
                        view.clear();
                        view::observe(machine, after, self.observer, &mut view);
                        facts.add_all(&view, 2);
                        let together = self.symmetry.canonical(facts);
                        if together.automorphisms != before.automorphisms {
                            return Some(Broken {
                                state: number,
                                explanation: format!(
                                    "{:?} then tells frames apart that it and the actor did not:\n\
                                     before: {state:?}\nafter: {after:?}",
                                    self.observer
                                ),
                                action,
                            });
                        }
                        Outcome::Changed(together.key)
                    }
                };
                let entry = known.entry(before.key).or_insert_with(|| Known {
                    outcome,
                    state: number,
                    action: action.clone(),
                    possible: 0,
                    automorphisms: before.automorphisms,
                });
                entry.possible += 1;
                if entry.outcome != outcome {
                    let other = self.known.state(machine, entry.state);
                    return Some(Broken {
                        state: number,
                        explanation: format!(
                            "{:?} sees different things after it in\n{state:?}\nand after {:?} in\n{other:?}",
                            self.observer, entry.action
                        ),
                        action,
                    });
                }
            }
        }
        // An action that changes something must be possible in every state of the class, each
        // way of renaming its arguments that keeps the views.
        let ways = u64::from(class[0].automorphisms);
        let states = class.len() as u64;
        let missing = known.into_values().find(|known| {
            known.outcome != Outcome::Same && known.possible * known.automorphisms != states * ways
        });
        missing.map(|known| {
            let state = self.known.state(machine, known.state);
            Broken {
                state: known.state,
                explanation: format!(
                    "{:?} sees a change after it in\n{state:?}\nbut in a state that looks the same to it \
                     and to the actor it is impossible",
                    self.observer
                ),
                action: known.action,
            }
        })
    }
}
