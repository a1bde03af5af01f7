//! Whether the checks find faults: each of a table of faults is planted in the HAL, alone, and
//! looked for, first by visiting states and then by a random run.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::hal::geometry::Shape;
use crate::hal::mutated::{Checks, MUTANTS, Mutant, NOT_SEEDED, plant};
use crate::layers::{Layer, Layers};
use crate::machine::{BadSizes, Machine, Sizes};

use super::exhaustive::{Exhaustive, explore};
use super::random_run::Random;
use super::report::Report;

/// How a fault was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// By which check.
    pub check: &'static str,
    /// Which property it broke.
    pub property: String,
    /// Number of actions that were tried until then.
    pub steps: u64,
    /// Number of actions that lead to it from the boot, if that is known.
    pub length: Option<usize>,
}

/// What became of a fault.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It was found.
    Found(Found),
    /// It was not found.
    Survived,
    /// The text that it changes is not in the HAL.
    NotSeeded,
}

/// The result for one fault.
#[derive(Clone, Debug)]
pub struct MutantReport {
    /// The fault.
    pub mutant: Mutant,
    /// Its fate.
    pub fate: Fate,
}

/// The machine on which faults are looked for: all layers, two processors, room for a large page.
pub const SIZES: Sizes = Sizes {
    levels: 2,
    entries: 4,
    user_entries: 2,
    used_pages: Some(5),
    environment: 1,
    pages: 7,
    devices: 1,
    cpus: 2,
    domains: 2,
};

/// How hard is looked.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// States that are visited.
    pub states: u64,
    /// Steps of random runs.
    pub steps: u64,
}

struct Look {
    machine: Machine,
    effort: Effort,
}

/// The shape that [`SIZES`] say.
type Tables = Shape<2, 2, 2, 2>;

impl Look {
    fn run(self) -> Result<Option<Found>, BadSizes> {
        let boot = |machine: &Machine| Checks::<Tables>::boot(machine, true);
        let search = |machine: &Machine, states| {
            let mut search = Exhaustive::new(machine.clone());
            search.threads = 1;
            search.most_states = states;
            search.universe.extras = Some(1);
            search.with_audit = false;
            search.with_relation = false;
            search.with_consistency = false;
            search
        };
        let found = |check, report: Report| {
            report.violation.map(|violation| Found {
                check,
                property: violation.property.to_string(),
                steps: violation.steps,
                length: (check == "exhaustive").then_some(violation.trace.len() + 1),
            })
        };
        let wide = search(&self.machine, self.effort.states);
        if let Some(found) = found("exhaustive", explore(&wide, boot(&self.machine)?, &|_| {})) {
            return Ok(Some(found));
        }
        let mut run = Random::new(self.machine.clone(), self.effort.steps, 1);
        run.with_audit = false;
        if let Some(found) = found("random", run.run(boot(&self.machine)?, &|_| {}, &mut |_, _| {}))
        {
            return Ok(Some(found));
        }
        // Large pages take long to come by, but with few layers not many actions.
        let few = Layers::NONE.with(Layer::Superpages).with(Layer::Tlb);
        let machine = Machine::new(Sizes { pages: 6, ..SIZES }, few)?;
        let deep = search(&machine, 16 * self.effort.states);
        Ok(found("exhaustive", explore(&deep, boot(&machine)?, &|_| {})))
    }
}

fn look(effort: Effort, mutant: Option<usize>) -> Result<Option<Found>, BadSizes> {
    plant(mutant);
    let machine = Machine::new(SIZES, Layers::ALL)?;
    // What a kernel must never do is a finding too.
    let found = catch_unwind(|| Look { machine, effort }.run());
    plant(None);
    found.unwrap_or_else(|_| {
        let property = "the code panics".to_owned();
        Ok(Some(Found { check: "any", property, steps: 0, length: None }))
    })
}

/// Looks for every fault, and for none: the last report's `None` is the unmutated code, with what
/// was found there, which is a false alarm.
///
/// # Errors
///
/// [`BadSizes`] does not occur.
pub fn mutants(
    effort: Effort,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(Vec<MutantReport>, Option<Found>), BadSizes> {
    let false_alarm = look(effort, None)?;
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(mutant) = MUTANTS.get(number).copied() else {
                return Ok(());
            };
            let fate = match NOT_SEEDED.contains(&mutant.name) {
                true => Fate::NotSeeded,
                false => look(effort, Some(number))?.map_or(Fate::Survived, Fate::Found),
            };
            let mut reports = reports.lock().unwrap_or_else(|broken| broken.into_inner());
            reports.push((number, MutantReport { mutant, fate }));
            progress(reports.len(), MUTANTS.len());
        }
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
    thread::scope(|scope| -> Result<(), BadSizes> {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            result = result.and(other.join().expect("a thread of the search does not panic"));
        }
        result
    })?;
    let mut reports = reports.into_inner().unwrap_or_else(|broken| broken.into_inner());
    reports.sort_by_key(|(number, _)| *number);
    Ok((reports.into_iter().map(|(_, report)| report).collect(), false_alarm))
}
