use super::*;
use crate::action::Kind;
use crate::layers::{Layer, Layers};
use crate::machine::{Machine, Sizes};

fn machine(sizes: Sizes, layers: Layers) -> Machine {
    Machine::new(sizes, layers).unwrap()
}

fn search(sizes: Sizes, layers: Layers, extras: Option<u32>) -> Report {
    let mut search = Exhaustive::new(machine(sizes, layers));
    search.universe.extras = extras;
    let report = exhaustive(&search, &|_| {}).unwrap();
    if let Some(violation) = &report.violation {
        panic!("{violation}");
    }
    assert!(report.complete);
    report
}

/// How many of the thesis's 52 cases were checked on something.
fn cases_of_thesis(report: &Report) -> usize {
    assert_eq!(report.thesis_cases().len(), 52);
    report.thesis_cases().iter().filter(|case| case.checked > 0).count()
}

/// What H and one of domain 0's observe together is all that differs between states of the
/// thesis's interface: some cases are empty.
#[test]
fn the_thesiss_interface_is_secure() {
    let report = search(Sizes { pages: 5, ..Sizes::SMALL }, Layers::NONE, None);
    assert_eq!(report.states, 6798);
    assert!(cases_of_thesis(&report) >= 34);
}

/// With a second owner, of whose memory nobody else knows, and a device that he does not know, each
/// case has pairs of states that differ.
#[test]
fn none_of_the_52_cases_is_empty() {
    let layers = Layers::NONE.with(Layer::Owners).with(Layer::Devices);
    let report = search(Sizes { pages: 3, ..Sizes::SMALL }, layers, Some(4));
    assert_eq!(cases_of_thesis(&report), 52);
}

#[test]
fn with_all_layers_two_processors_are_secure() {
    let sizes = Sizes { pages: 3, cpus: 2, ..Sizes::SMALL };
    let report = search(sizes, Layers::ALL, Some(1));
    assert!(report.states > 10_000);
    let respected = report.thesis_cases().into_iter().take(12);
    assert!(respected.clone().all(|case| case.condition == Condition::LocalRespect));
    assert_eq!(respected.filter(|case| case.checked == 0).count(), 0);
}

#[test]
fn each_layer_alone_is_secure() {
    for layer in Layer::ALL {
        let cpus = if layer == Layer::Tlb { 2 } else { 1 };
        let pages = if layer == Layer::Owners { 2 } else { 3 };
        let sizes = Sizes { pages, cpus, ..Sizes::SMALL };
        search(sizes, Layers::NONE.with(layer), None);
    }
}

/// Without reduction by symmetry the same is found, of which the states are as many as renamings
/// say.
#[test]
fn symmetry_loses_nothing() {
    let machine = machine(Sizes { pages: 4, ..Sizes::SMALL }, Layers::NONE);
    let mut search = Exhaustive::new(machine);
    let reduced = exhaustive(&search, &|_| {}).unwrap();
    search.without_symmetry = true;
    let whole = exhaustive(&search, &|_| {}).unwrap();
    assert!(reduced.violation.is_none() && whole.violation.is_none());
    assert_eq!(reduced.renamed_states, whole.states);
    assert_eq!(whole.renamed_states, whole.states);
}

fn run(sizes: Sizes, steps: u64, seed: u64) {
    let run = Random::new(machine(sizes, Layers::ALL), steps, seed);
    let report = random(&run, &|_| {}, &mut |_, _| {}).unwrap();
    if let Some(violation) = &report.violation {
        panic!("{violation}");
    }
    let never: Vec<&str> =
        never_accepted(&run.machine, &report).iter().map(|kind: &Kind| kind.name).collect();
    // That a large page is mapped and a table at hand is rare.
    assert!(never.is_empty() || never == ["SplitMappingH"], "{never:?}");
}

#[test]
fn random_runs_find_nothing() {
    let small = Sizes { used_pages: None, user_entries: 2, pages: 7, cpus: 2, ..Sizes::SMALL };
    run(small, 40_000, 1);
    run(Sizes { levels: 3, pages: 22, devices: 2, cpus: 3, ..small }, 40_000, 2);
}

#[test]
fn random_runs_of_real_geometry_find_nothing() {
    let sizes = Sizes {
        levels: 4,
        entries: 512,
        user_entries: 256,
        used_pages: None,
        environment: 2,
        pages: 2048,
        devices: 8,
        cpus: 3,
        domains: 4,
    };
    run(sizes, 10_000, 4);
}

#[test]
fn every_fault_is_seeded() {
    assert_eq!(crate::hal::mutated::NOT_SEEDED, &[] as &[&str]);
    assert!(crate::hal::mutated::MUTANTS.len() >= 30);
}
