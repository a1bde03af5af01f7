//! Visiting every state that can be reached, with an implementation in the loop.
//!
//! States are visited breadth first, once up to renaming of frames; the implementation's own
//! states are kept only for the states that wait to be visited. In every state every action is
//! tried with every argument, and the implementation must accept exactly those that the
//! specification allows, and then be in the state that the specification says. A state that was
//! reached is then left to `consistency`, which compares it with all others that look the same.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crate::action::{Action, Domain, Kind, Universe, extras as extras_of};
use crate::codec;
use crate::facts::{Facts, Symmetry};
use crate::hash::FastSet;
use crate::implementation::Implementation;
use crate::machine::Machine;
use crate::policy;
use crate::specification::action_spec;
use crate::state::State;
use crate::view;
use crate::well_formed::{address_spaces_are_integral, environment_is_integral, well_formed};

use super::consistency;
use super::report::{CaseReport, Condition, Progress, Property, Report, Violation};

/// A search.
#[derive(Clone, Debug)]
pub struct Exhaustive {
    /// The machine.
    pub machine: Machine,
    /// What is tried.
    pub universe: Universe,
    /// The search ends when it knows more states than this.
    pub most_states: u64,
    /// Threads.
    pub threads: usize,
    /// Whether renamings of frames are states of their own. For comparison, and slow.
    pub without_symmetry: bool,
    /// Whether every transition is also looked up in the specification as a relation.
    pub with_relation: bool,
    /// Whether weak step consistency is checked.
    pub with_consistency: bool,
    /// Whether the implementation counts everything anew in each state.
    pub with_audit: bool,
}

impl Exhaustive {
    /// A search that tries everything on `machine`.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let universe = Universe::of(&machine);
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
        Self {
            machine,
            universe,
            most_states: u64::MAX,
            threads,
            without_symmetry: false,
            with_relation: true,
            with_consistency: true,
            with_audit: true,
        }
    }
}

/// All states that were reached, in the order in which they were found.
pub(super) struct Known {
    bytes: Vec<u8>,
    /// Where each state begins.
    starts: Vec<usize>,
    /// From which state it was reached first, by which of its actions; itself for the first.
    parents: Vec<(u32, u16)>,
    /// Number of renamings that change nothing.
    pub(super) automorphisms: Vec<u32>,
}

impl Known {
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn state(&self, machine: &Machine, number: usize) -> State {
        codec::decode(machine, &self.bytes[self.starts[number]..])
    }

    fn add(&mut self, state: &State, parent: (u32, u16), automorphisms: u64) {
        self.starts.push(self.bytes.len());
        codec::encode(state, &mut self.bytes);
        self.parents.push(parent);
        self.automorphisms.push(u32::try_from(automorphisms).unwrap_or(u32::MAX));
    }

    /// The actions that lead from the first state to this one.
    pub(super) fn trace(&self, search: &Exhaustive, number: usize) -> Vec<Action> {
        let mut trace = Vec::new();
        let mut at = number;
        while at != 0 {
            let (parent, action) = self.parents[at];
            at = parent as usize;
            let state = self.state(&search.machine, at);
            let mut actions = search.universe.actions(&search.machine, &state);
            trace.push(actions.swap_remove(action.into()));
        }
        trace.reverse();
        trace
    }
}

/// A state that waits to be visited.
struct Waiting<I> {
    number: u32,
    state: State,
    implementation: I,
}

/// A state that was found.
struct Found<I> {
    parent: (u32, u16),
    automorphisms: u64,
    state: State,
    implementation: I,
}

/// Number of parts of the set of keys, each behind a lock of its own.
const SHARDS: usize = 64;

/// What the threads share.
struct Shared<'search> {
    search: &'search Exhaustive,
    symmetry: &'search Symmetry,
    domains: &'search [Domain],
    keys: Vec<Mutex<FastSet<u128>>>,
    visited: AtomicU64,
    transitions: AtomicU64,
    refusals: AtomicU64,
    /// Transitions by kind of the action and observing domain.
    respect: Vec<AtomicU64>,
    stop: AtomicBool,
    violation: Mutex<Option<(u32, Broken)>>,
}

/// What was found broken in a state.
struct Broken {
    property: Property,
    action: Action,
    explanation: String,
    steps: u64,
}

/// Visits all states of `I`, and checks everything.
///
/// # Panics
///
/// If the machine has too many frames for a search ([`crate::facts::MAX_FRAMES`]).
pub fn explore<I: Implementation>(
    search: &Exhaustive,
    start: I,
    progress: &(dyn Fn(Progress) + Sync),
) -> Report {
    let begin = Instant::now();
    let machine = &search.machine;
    let symmetry = match search.without_symmetry {
        true => Symmetry::none(machine),
        false => Symmetry::of(machine),
    };
    let symmetry = symmetry.expect("few frames");
    let domains = Domain::all(machine);
    let shared = Shared {
        search,
        symmetry: &symmetry,
        domains: &domains,
        keys: (0..SHARDS).map(|_| Mutex::default()).collect(),
        visited: AtomicU64::new(0),
        transitions: AtomicU64::new(0),
        refusals: AtomicU64::new(0),
        respect: (0..Kind::COUNT * domains.len()).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
        violation: Mutex::new(None),
    };
    let mut known = Known {
        bytes: Vec::new(),
        starts: Vec::new(),
        parents: Vec::new(),
        automorphisms: Vec::new(),
    };
    let state = start.abstraction(machine);
    let mut report = Report { complete: true, ..Report::default() };
    let mut facts = Facts::new();
    let (_, automorphisms) = shared.note(&state, &start, &mut facts);
    known.add(&state, (0, 0), automorphisms);
    if state != State::initial(machine) {
        shared.report(
            0,
            Broken {
                property: Property::Successor,
                action: Action::EnterH { cpu: crate::machine::Cpu(0) },
                explanation: format!("after the boot it is {state:?}"),
                steps: 0,
            },
        );
    }
    let mut waiting = vec![Waiting { number: 0, state, implementation: start }];
    while !waiting.is_empty() && !shared.stop.load(Ordering::Relaxed) {
        if known.count() as u64 > search.most_states {
            report.complete = false;
            break;
        }
        let found = shared.visit_all(waiting, &|visited| {
            progress(Progress::States { visited, known: known.count() as u64 });
        });
        waiting = Vec::with_capacity(found.len());
        for Found { parent, automorphisms, state, implementation } in found {
            let number = u32::try_from(known.count()).expect("less than 2^32 states");
            known.add(&state, parent, automorphisms);
            waiting.push(Waiting { number, state, implementation });
        }
        report.depth += u64::from(!waiting.is_empty());
    }
    report.complete &= waiting.is_empty() || shared.stop.load(Ordering::Relaxed);
    drop(waiting);
    report.states = known.count() as u64;
    let renamings = symmetry.renamings();
    report.renamed_states =
        known.automorphisms.iter().map(|automorphisms| renamings / u64::from(*automorphisms)).sum();
    report.transitions = shared.transitions.load(Ordering::Relaxed);
    report.refusals = shared.refusals.load(Ordering::Relaxed);
    report.cases = shared.respect_cases();
    let violation = shared.violation.into_inner().unwrap_or(None);
    report.violation = violation.map(|(number, broken)| Violation {
        property: broken.property,
        trace: known.trace(search, number as usize),
        action: broken.action,
        steps: broken.steps,
        explanation: broken.explanation,
    });
    if report.violation.is_none() && search.with_consistency {
        consistency::check(search, &symmetry, &domains, &known, &mut report, progress);
    }
    if report.violation.is_some() {
        report.complete = false;
    }
    report.elapsed = begin.elapsed();
    report
}

impl Shared<'_> {
    /// Notes a state: whether it is new, and its automorphisms.
    fn note<I: Implementation>(
        &self,
        state: &State,
        implementation: &I,
        facts: &mut Facts,
    ) -> (bool, u64) {
        let machine = &self.search.machine;
        facts.clear();
        view::whole(machine, state, facts);
        let count = facts.count();
        implementation.remembers(machine, state, facts);
        let canonical = self.symmetry.canonical(facts);
        let shard = (canonical.key >> 64) as usize % SHARDS;
        let mut keys = self.keys[shard].lock().unwrap_or_else(|broken| broken.into_inner());
        let is_new = keys.insert(canonical.key);
        drop(keys);
        let mut automorphisms = canonical.automorphisms;
        if is_new && facts.count() != count {
            // What is remembered is not part of the model's state.
            facts.truncate(count);
            automorphisms = self.symmetry.canonical(facts).automorphisms;
        }
        (is_new, automorphisms)
    }

    fn report(&self, number: u32, broken: Broken) {
        let mut violation = self.violation.lock().unwrap_or_else(|broken| broken.into_inner());
        // The one that is reached first, whatever thread found it.
        if violation.as_ref().is_none_or(|(other, _)| number < *other) {
            *violation = Some((number, broken));
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Visits all states that wait, and returns those that were found.
    fn visit_all<I: Implementation>(
        &self,
        waiting: Vec<Waiting<I>>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Vec<Found<I>> {
        let threads = self.search.threads.clamp(1, waiting.len().div_ceil(16).max(1));
        let queue = Mutex::new(waiting.into_iter());
        let next = || queue.lock().unwrap_or_else(|broken| broken.into_inner()).next();
        let work = |report: bool| {
            let mut found = Vec::new();
            let mut facts = Facts::new();
            loop {
                let Some(waiting) = next() else {
                    return found;
                };
                if self.stop.load(Ordering::Relaxed) {
                    return found;
                }
                self.visit(&waiting, &mut found, &mut facts);
                let visited = self.visited.fetch_add(1, Ordering::Relaxed);
                if report && visited.is_multiple_of(256) {
                    progress(visited);
                }
            }
        };
        let mut all: Vec<Found<I>> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| work(false))).collect();
            let mut all = work(true);
            for other in others {
                all.extend(other.join().expect("a thread of the search does not panic"));
            }
            all
        });
        // The same order whatever the threads did, as far as states were found by one of them only.
        all.sort_by_key(|found| found.parent);
        all
    }

    /// Tries all actions in a state.
    fn visit<I: Implementation>(
        &self,
        waiting: &Waiting<I>,
        found: &mut Vec<Found<I>>,
        facts: &mut Facts,
    ) {
        let machine = &self.search.machine;
        let state = &waiting.state;
        let mut trial = waiting.implementation.clone();
        let (mut transitions, mut refusals) = (0, 0);
        let mut respect = Respect::new(self.domains.len());
        let actions = self.search.universe.actions(machine, state);
        for (number, action) in (0_u16..).zip(actions) {
            let expected = state.successor(machine, &action);
            let result = trial.apply(machine, &action);
            if let Some(complaint) = trial.complaint() {
                let explanation = format!("before: {state:?}\n{complaint}");
                let steps = self.steps(transitions + refusals);
                let property = Property::Hardware;
                self.report(waiting.number, Broken { property, action, explanation, steps });
                return;
            }
            let broken = match (&expected, &result) {
                (Err(_), Err(_)) => {
                    refusals += 1;
                    if trial.is_same(&waiting.implementation) {
                        continue;
                    }
                    Some((Property::RefusalChanges, trial.abstraction(machine)))
                }
                (Err(refusal), Ok(())) => {
                    let after = trial.abstraction(machine);
                    self.report(
                        waiting.number,
                        Broken {
                            property: Property::Accepted,
                            explanation: format!(
                                "should be refused: {refusal}\nbefore: {state:?}\nafter: {after:?}"
                            ),
                            action,
                            steps: self.steps(transitions + refusals),
                        },
                    );
                    return;
                }
                (Ok(after), Err(refusal)) => {
                    self.report(
                        waiting.number,
                        Broken {
                            property: Property::Refused,
                            explanation: format!(
                                "refused: {refusal}\nbefore: {state:?}\nshould be: {after:?}"
                            ),
                            action,
                            steps: self.steps(transitions + refusals),
                        },
                    );
                    return;
                }
                (Ok(after), Ok(())) => {
                    transitions += 1;
                    if after == state && trial.is_same(&waiting.implementation) {
                        self.count_respect(state, &action, &mut respect);
                        if !self.search.with_relation || action_spec(machine, &action, state, after)
                        {
                            continue;
                        }
                    }
                    self.broken_by(state, &action, after, &trial, &mut respect, facts)
                }
            };
            if let Some((property, after)) = broken {
                let expected =
                    expected.map_or_else(|refusal| format!("{refusal}"), |s| format!("{s:?}"));
                self.report(
                    waiting.number,
                    Broken {
                        property,
                        explanation: format!(
                            "before: {state:?}\nafter: {after:?}\nspecified: {expected}"
                        ),
                        action,
                        steps: self.steps(transitions + refusals),
                    },
                );
                return;
            }
            let after = trial;
            trial = waiting.implementation.clone();
            let Ok(expected) = expected else {
                continue;
            };
            let extras = self.search.universe.extras;
            if extras.is_some_and(|most| extras_of(machine, &expected) > most) {
                if let Some(property) = broken_in(machine, &expected) {
                    self.report_broken(
                        waiting,
                        property,
                        action,
                        &expected,
                        transitions + refusals,
                    );
                    return;
                }
                continue;
            }
            let (is_new, automorphisms) = self.note(&expected, &after, facts);
            if is_new {
                if self.search.with_audit
                    && let Err(found) = after.audit()
                {
                    let explanation = format!("before: {state:?}\nafter: {expected:?}\n{found}");
                    let steps = self.steps(transitions + refusals);
                    let property = Property::Audit;
                    self.report(waiting.number, Broken { property, action, explanation, steps });
                    return;
                }
                if let Some(property) = broken_in(machine, &expected) {
                    self.report_broken(
                        waiting,
                        property,
                        action,
                        &expected,
                        transitions + refusals,
                    );
                    return;
                }
                let parent = (waiting.number, number);
                found.push(Found { parent, automorphisms, state: expected, implementation: after });
            }
        }
        self.transitions.fetch_add(transitions, Ordering::Relaxed);
        self.refusals.fetch_add(refusals, Ordering::Relaxed);
        for (total, count) in self.respect.iter().zip(respect.counts) {
            total.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn report_broken<I>(
        &self,
        waiting: &Waiting<I>,
        property: Property,
        action: Action,
        after: &State,
        here: u64,
    ) {
        let explanation = format!("before: {:?}\nafter: {after:?}", waiting.state);
        let steps = self.steps(here);
        self.report(waiting.number, Broken { property, action, explanation, steps });
    }

    fn steps(&self, here: u64) -> u64 {
        self.transitions.load(Ordering::Relaxed) + self.refusals.load(Ordering::Relaxed) + here
    }

    /// What a transition breaks, with the state that the implementation is in.
    fn broken_by<I: Implementation>(
        &self,
        state: &State,
        action: &Action,
        expected: &State,
        implementation: &I,
        respect: &mut Respect,
        facts: &mut Facts,
    ) -> Option<(Property, State)> {
        let machine = &self.search.machine;
        let after = implementation.abstraction(machine);
        if after != *expected {
            let property = match well_formed(machine, &after) {
                Err(condition) => Property::WellFormed(condition.name),
                Ok(()) => Property::Successor,
            };
            return Some((property, after));
        }
        if self.search.with_relation && !action_spec(machine, action, state, &after) {
            return Some((Property::Relation, after));
        }
        for (observer, domain) in self.domains.iter().enumerate() {
            if policy::may_interfere(machine, state, action, *domain) {
                continue;
            }
            respect.counts[action.kind().number * self.domains.len() + observer] += 1;
            let before = respect.key(machine, state, observer, *domain, facts);
            facts.clear();
            view::observe(machine, &after, *domain, facts);
            if facts.key() != before {
                return Some((Property::LocalRespect(*domain), after));
            }
        }
        None
    }

    /// Counts a transition that changes nothing.
    fn count_respect(&self, state: &State, action: &Action, respect: &mut Respect) {
        for (observer, domain) in self.domains.iter().enumerate() {
            let may = policy::may_interfere(&self.search.machine, state, action, *domain);
            respect.counts[action.kind().number * self.domains.len() + observer] += u64::from(!may);
        }
    }

    fn respect_cases(&self) -> Vec<CaseReport> {
        let mut cases: Vec<CaseReport> = Vec::new();
        for kind in Kind::ALL {
            for (observer, domain) in self.domains.iter().enumerate() {
                let checked = self.respect[kind.number * self.domains.len() + observer]
                    .load(Ordering::Relaxed);
                if checked == 0 {
                    continue;
                }
                let letter = domain.letter();
                match cases.iter_mut().find(|c| c.kind == kind && c.observer == letter) {
                    Some(case) => case.checked += checked,
                    None => cases.push(CaseReport {
                        condition: Condition::LocalRespect,
                        kind,
                        observer: letter,
                        checked,
                    }),
                }
            }
        }
        cases
    }
}

/// What a state breaks by itself.
fn broken_in(machine: &Machine, state: &State) -> Option<Property> {
    if let Err(condition) = well_formed(machine, state) {
        return Some(Property::WellFormed(condition.name));
    }
    if !environment_is_integral(machine, state) {
        return Some(Property::EnvironmentIntegrity);
    }
    (!address_spaces_are_integral(machine, state)).then_some(Property::AddressSpaceIntegrity)
}

/// Counts of local respect in one state, and the views of that state.
struct Respect {
    counts: Vec<u64>,
    keys: Vec<Option<u128>>,
}

impl Respect {
    fn new(domains: usize) -> Self {
        Self { counts: vec![0; Kind::COUNT * domains], keys: vec![None; domains] }
    }

    fn key(
        &mut self,
        machine: &Machine,
        state: &State,
        observer: usize,
        domain: Domain,
        facts: &mut Facts,
    ) -> u128 {
        *self.keys[observer].get_or_insert_with(|| {
            facts.clear();
            view::observe(machine, state, domain, facts);
            facts.key()
        })
    }
}
