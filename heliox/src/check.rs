//! `heliox check`: whether the HAL does what the formal model says, and whether that is secure.
//!
//! Hides the way from options to the checks of `heliox-model`, and from their reports to text.
//! Reports go to standard output, progress to standard error. The exit status is 0 exactly if
//! nothing was found that should not be.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::{Args, Subcommand};
use heliox_model::check::mutants::{Effort, Fate, mutants};
use heliox_model::check::{self, Condition, Exhaustive, Progress, Random, Report};
use heliox_model::layers::{Layer, Layers};
use heliox_model::log::{self, Log};
use heliox_model::machine::{BadSizes, Machine, Sizes};
use heliox_model::{thesis, unwinding};
use indicatif::{ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::terminal;

/// What is checked, and how.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    check: Check,
}

/// Examples for the end of the help.
pub const HELP: &str = "Examples:
  heliox check exhaustive                          every state of a tiny machine, all layers
  heliox check exhaustive --layers none --pages 5  the thesis's interface
  heliox check exhaustive --faithful               the thesis's own definitions, and what fails
  heliox check random --steps 100000 --seed 7      a long run on page tables of real size
  heliox check mutants                             whether faults in the HAL would be found
  heliox check replay audit.log                    a log of HAL operations against the model

Layers: permissions, modify, kernel-removal, superpages, tlb, devices, owners; all; none.";

#[derive(Subcommand, Clone, Debug)]
enum Check {
    /// Visit every state that a tiny machine can reach, with the HAL's checks in the loop
    Exhaustive(Box<ExhaustiveArguments>),
    /// A long random run, by default on page tables of real size
    Random(Box<RandomArguments>),
    /// Plant faults in the HAL's checks, one at a time, and look for each
    Mutants(MutantsArguments),
    /// Compare a log of HAL operations with the model
    Replay(ReplayArguments),
}

#[derive(Args, Clone, Debug)]
struct MachineArguments {
    /// Levels of page tables
    #[arg(long, value_name = "N")]
    levels: Option<u8>,
    /// Entries of a table
    #[arg(long, value_name = "N")]
    entries: Option<u32>,
    /// Entries of a root that are for programs
    #[arg(long, value_name = "N")]
    user_entries: Option<u32>,
    /// Pages of memory for clients
    #[arg(long, value_name = "N")]
    pages: Option<u32>,
    /// Pages of device memory
    #[arg(long, value_name = "N")]
    devices: Option<u32>,
    /// Processors
    #[arg(long, value_name = "N")]
    cpus: Option<u8>,
    /// Domains that can own memory
    #[arg(long, value_name = "N")]
    domains: Option<u16>,
    /// What is checked beyond the thesis's interface: names with commas between, `all` or `none`
    #[arg(long, value_name = "LAYERS", default_value = "all")]
    layers: Layers,
}

impl MachineArguments {
    fn machine(&self, default: Sizes) -> Result<Machine, Error> {
        let sizes = Sizes {
            levels: self.levels.unwrap_or(default.levels),
            entries: self.entries.unwrap_or(default.entries),
            user_entries: self.user_entries.unwrap_or(default.user_entries),
            pages: self.pages.unwrap_or(default.pages),
            devices: self.devices.unwrap_or(default.devices),
            cpus: self.cpus.unwrap_or(default.cpus),
            domains: self.domains.unwrap_or(default.domains),
            ..default
        };
        Machine::new(sizes, self.layers).map_err(usage)
    }
}

fn usage(bad: BadSizes) -> Error {
    Error::Usage(bad.to_string())
}

#[derive(Args, Clone, Debug)]
struct ExhaustiveArguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// Use only so many pages of user space
    #[arg(long, value_name = "N")]
    used_pages: Option<u64>,
    /// Visit only states with at most so many things out of the ordinary: contents that are not
    /// zero, other owners, kernel mappings, shares, restricted or large mappings, second
    /// directories, flushes that are owed; or `any` number [default: 2 with all layers, else any]
    #[arg(long, value_name = "N")]
    extras: Option<String>,
    /// Stop when so many states are known
    #[arg(long, value_name = "N")]
    most_states: Option<u64>,
    /// Check the thesis's own definitions instead, and show what fails
    #[arg(long)]
    faithful: bool,
}

#[derive(Args, Clone, Debug)]
struct RandomArguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// Number of operations
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    steps: u64,
    /// Which of all runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write a log of all operations, as `heliox check replay` reads it
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
struct MutantsArguments {
    /// States that are visited for each fault
    #[arg(long, value_name = "N", default_value_t = 1_500)]
    states: u64,
    /// Random operations that follow if that finds nothing
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    steps: u64,
}

#[derive(Args, Clone, Debug)]
struct ReplayArguments {
    /// The log
    #[arg(value_name = "LOG")]
    log: PathBuf,
}

/// Checks, and prints what came of it. Returns the exit status.
///
/// # Errors
///
/// Options that contradict each other, and files that cannot be used.
pub fn run(arguments: &Arguments) -> Result<u8, Error> {
    match &arguments.check {
        Check::Exhaustive(arguments) if arguments.faithful => Ok(faithful()),
        Check::Exhaustive(arguments) => exhaustive(arguments),
        Check::Random(arguments) => random(arguments),
        Check::Mutants(arguments) => look_for_mutants(arguments),
        Check::Replay(arguments) => replay(arguments),
    }
}

/// What a status says: 0, or that something was found.
const FOUND: u8 = 1;

/// Progress on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self(bar)
    }

    fn show(&self, progress: Progress) {
        self.0.set_message(match progress {
            Progress::States { visited, known } => format!("{visited} of {known} states visited"),
            Progress::Consistency { done, all } => {
                format!("weak step consistency: {done} of {all} groups of actions")
            }
            Progress::Steps { done, all } => format!("{done} of {all} operations"),
        });
        self.0.tick();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn print_machine(machine: &Machine) {
    let sizes = machine.sizes();
    println!(
        "geometry: {} levels of {} entries ({} of the root's for programs), {} pages for clients, \
         {} of devices, {} of the environment, {} processors, {} domains",
        sizes.levels,
        sizes.entries,
        sizes.user_entries,
        sizes.pages,
        sizes.devices,
        sizes.environment,
        sizes.cpus,
        sizes.domains
    );
    println!("layers: {}", machine.layers());
}

/// The machine of which all states are visited if nothing else is asked for.
const EXHAUSTIVE: Sizes = Sizes { pages: 3, cpus: 2, ..Sizes::SMALL };

impl MachineArguments {
    /// Whether nothing was said about the machine.
    fn is_default(&self) -> bool {
        let Self { levels, entries, user_entries, pages, devices, cpus, domains, layers } = self;
        levels.is_none()
            && entries.is_none()
            && user_entries.is_none()
            && pages.is_none()
            && devices.is_none()
            && cpus.is_none()
            && domains.is_none()
            && *layers == Layers::ALL
    }
}

/// The searches that are made. Without options there are three: the thesis's interface, with
/// room for two populated address spaces; owners, so that every case of the unwinding
/// conditions has states that differ; and all layers.
fn searches(arguments: &ExhaustiveArguments) -> Result<Vec<Exhaustive>, Error> {
    let search = |machine, extras: Option<u32>| {
        let mut search = Exhaustive::new(machine);
        search.most_states = arguments.most_states.unwrap_or(u64::MAX);
        search.universe.extras = extras;
        search
    };
    let extras = match arguments.extras.as_deref() {
        None if arguments.machine.layers == Layers::ALL => Some(2),
        None | Some("any") => None,
        Some(number) => {
            let bad = |_| Error::Usage(format!("--extras is a number or `any`, not `{number}`"));
            Some(number.parse().map_err(bad)?)
        }
    };
    let default = Sizes { used_pages: arguments.used_pages, ..EXHAUSTIVE };
    let mut searches = Vec::new();
    if arguments.machine.is_default() && arguments.extras.is_none() {
        let owners = Layers::NONE.with(Layer::Owners).with(Layer::Devices);
        for (pages, layers) in [(5, Layers::NONE), (3, owners)] {
            let sizes = Sizes { pages, ..Sizes::SMALL };
            let machine = Machine::new(sizes, layers).map_err(usage)?;
            // A program of the second owner has three pages, and one of a device differs.
            let extras = (layers == owners).then_some(4);
            searches.push(search(machine, extras));
        }
    }
    searches.push(search(arguments.machine.machine(default)?, extras));
    Ok(searches)
}

fn exhaustive(arguments: &ExhaustiveArguments) -> Result<u8, Error> {
    let mut all = Report::default();
    for search in searches(arguments)? {
        print_machine(&search.machine);
        let bar = Bar::new();
        let report = check::exhaustive(&search, &|progress| bar.show(progress)).map_err(usage)?;
        drop(bar);
        print_search(&search, &report);
        if report.violation.is_some() {
            return Ok(print_violation(&report));
        }
        all.add_cases(report);
    }
    print_cases(&all);
    Ok(print_violation(&all))
}

fn print_search(search: &Exhaustive, report: &Report) {
    println!("states: {} ({} with all renamings of frames)", report.states, report.renamed_states);
    println!("transitions: {} ({} more were refused)", report.transitions, report.refusals);
    println!("depth: {} actions", report.depth);
    let complete = if report.complete { "yes" } else { "no" };
    match search.universe.extras {
        None => println!("complete: {complete}"),
        Some(extras) => println!(
            "complete: {complete} (all states with at most {extras} things out of the ordinary, and every \
             transition out of them)"
        ),
    }
    println!("time: {:.1} s\n", report.elapsed.as_secs_f64());
}

fn print_cases(report: &Report) {
    let thesis = report.thesis_cases();
    for condition in [Condition::LocalRespect, Condition::StepConsistency] {
        let (title, what) = match condition {
            Condition::LocalRespect => ("local respect", "transitions"),
            Condition::StepConsistency => ("weak step consistency", "pairs of states"),
        };
        let of = |case: &&heliox_model::check::CaseReport| case.condition == condition;
        println!(
            "\n{title}, the {} cases of the thesis, in {what}:",
            thesis.iter().filter(of).count()
        );
        for case in thesis.iter().filter(of) {
            println!("  {:<24} {} {:>16}", case.kind.name, case.observer, case.checked);
        }
        let others: Vec<_> = report.other_cases().filter(of).collect();
        if !others.is_empty() {
            println!("{title}, {} further cases:", others.len());
        }
        for case in others {
            println!("  {:<24} {} {:>16}", case.kind.name, case.observer, case.checked);
        }
    }
    let empty = thesis.iter().filter(|case| case.checked == 0).count();
    println!("\ncases of the thesis: {}, of which {empty} were checked on nothing", thesis.len());
}

fn print_violation(report: &Report) -> u8 {
    match &report.violation {
        None => {
            println!("violations: none");
            0
        }
        Some(violation) => {
            println!("violation: {violation}");
            FOUND
        }
    }
}

/// The thesis's definitions as they are: findings with their evidence, and the unwinding cases.
fn faithful() -> u8 {
    println!("What does not hold of the thesis's own definitions:");
    let mut unconfirmed = 0;
    for (number, finding) in thesis::findings::FINDINGS.iter().enumerate() {
        let evidence = finding.evidence();
        println!("\n{}. {} (section {})", number + 1, finding.title, finding.section);
        for line in &evidence.lines {
            println!("   {}", line.replace('\n', "\n   "));
        }
        for (claim, holds) in &evidence.claims {
            println!("   {} {claim}", if *holds { "it is so that" } else { "NOT SO:" });
        }
        println!("   mended: {}", finding.mended);
        unconfirmed += u64::from(!evidence.is_confirmed());
    }
    let model = thesis::Model::new(3, 3);
    let explored = unwinding::explore(&model, 1_000_000);
    println!(
        "\nThe thesis's unwinding cases on tables of 3 entries and 3 pages for clients: {} states, \
         complete: {}",
        explored.states.len(),
        if explored.complete { "yes" } else { "no" }
    );
    for case in unwinding::check(&model, &explored) {
        let verdict = match case.broken {
            0 => "holds".to_owned(),
            broken => format!("FAILS, in {broken}"),
        };
        println!(
            "  {:<20} {:<24} {:?} {:>10} compared, {verdict}",
            format!("{:?}", case.condition),
            case.action,
            case.domain,
            case.compared
        );
    }
    if unconfirmed == 0 { 0 } else { FOUND }
}

/// The machine of random runs: page tables as x86-64 has them.
const REAL: Sizes = Sizes {
    levels: 4,
    entries: 512,
    user_entries: 256,
    used_pages: None,
    environment: 2,
    pages: 2048,
    devices: 16,
    cpus: 4,
    domains: 4,
};

fn random(arguments: &RandomArguments) -> Result<u8, Error> {
    let machine = arguments.machine.machine(REAL)?;
    print_machine(&machine);
    let run = Random::new(machine, arguments.steps, arguments.seed);
    let mut text = String::new();
    if arguments.log.is_some() {
        text += &log::header(&run.machine);
    }
    let bar = Bar::new();
    let report = check::random(&run, &|progress| bar.show(progress), &mut |action, accepted| {
        if arguments.log.is_some() {
            text += &log::line(action, accepted);
        }
    });
    let report = report.map_err(usage)?;
    drop(bar);
    if let Some(path) = &arguments.log {
        let write = fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
        write.map_err(|source| Error::File { action: "write", path: path.clone(), source })?;
    }
    println!("steps: {} (seed {})", report.transitions + report.refusals, run.seed);
    println!("time: {:.1} s", report.elapsed.as_secs_f64());
    println!("\n{:<24} {:>10} {:>10}", "operation", "accepted", "refused");
    for kind in heliox_model::action::Kind::ALL {
        let (accepted, refused) = report.kinds[kind.number];
        if accepted + refused > 0 {
            println!("{:<24} {accepted:>10} {refused:>10}", kind.name);
        }
    }
    Ok(print_violation(&report))
}

fn look_for_mutants(arguments: &MutantsArguments) -> Result<u8, Error> {
    let effort = Effort { states: arguments.states, steps: arguments.steps };
    let bar = Mutex::new(Bar::new());
    let result = mutants(effort, &|done, all| {
        if let Ok(bar) = bar.lock() {
            bar.0.set_message(format!("{done} of {all} faults"));
            bar.0.tick();
        }
    });
    drop(bar);
    let (reports, false_alarm) = result.map_err(usage)?;
    println!("{:<32} {:<12} {:>9} {:>6}  property", "fault", "found by", "steps", "trace");
    let mut found = 0;
    for report in &reports {
        let name = report.mutant.name;
        match &report.fate {
            Fate::Found(by) => {
                found += 1;
                let length = by.length.map(|length| length.to_string()).unwrap_or_default();
                println!(
                    "{name:<32} {:<12} {:>9} {length:>6}  {}",
                    by.check, by.steps, by.property
                );
            }
            Fate::Survived => println!("{name:<32} SURVIVED: {}", report.mutant.description),
            Fate::NotSeeded => println!("{name:<32} NOT SEEDED: {}", report.mutant.description),
        }
    }
    println!("\nfaults: {}, found: {found}", reports.len());
    match &false_alarm {
        None => println!("unmutated code: nothing found"),
        Some(alarm) => println!("unmutated code: FALSE ALARM: {}", alarm.property),
    }
    Ok(if found == reports.len() && false_alarm.is_none() { 0 } else { FOUND })
}

fn replay(arguments: &ReplayArguments) -> Result<u8, Error> {
    let path = &arguments.log;
    let text = fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    let input = |line, why| Error::Input { path: path.clone(), line: Some(line), why };
    let mut log = Log::new();
    let bar = Bar::new();
    let all = text.lines().count() as u64;
    for (number, line) in text.lines().enumerate() {
        match log.line(line) {
            Ok(None) => {}
            Ok(Some(deviation)) => {
                drop(bar);
                println!("line {}: {line}\n{deviation}", number + 1);
                return Ok(FOUND);
            }
            Err(why) => return Err(input(number + 1, why.to_string())),
        }
        if number.is_multiple_of(4096) {
            bar.show(Progress::Steps { done: number as u64, all });
        }
    }
    drop(bar);
    println!(
        "{} operations, {} of them refused: as the model says",
        log.operations(),
        log.refusals()
    );
    if log.operations() == 0 {
        terminal::note("the log has no operations in it");
    }
    Ok(0)
}
