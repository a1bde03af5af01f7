//! Measures what the kernel costs, in instructions.
//!
//! A run boots a benchmark program under QEMU's instruction counter. The program does each thing to
//! be measured in a loop, and says where the loop begins and ends; the emulator logs every instruction
//! in between. So a count is that of the instructions themselves, and two runs agree exactly.
//!
//! - [`session`] runs it, [`debugger`] and [`trace`] speak with QEMU;
//! - [`report`] reads what the program says;
//! - [`visit`] cuts traces into visits to the kernel and counts, with [`code`], [`image`] and
//!   [`instruction`];
//! - [`row`] is the result; [`phase`] tells where instructions go; [`table`] compares with counts
//!   that are checked in; [`mod@reference`] has what others measured;
//! - [`text`] and [`plot`] show it.

pub mod code;
pub mod debugger;
pub mod image;
pub mod instruction;
pub mod phase;
pub mod plot;
pub mod reference;
pub mod report;
pub mod row;
pub mod session;
pub mod table;
pub mod text;
pub mod trace;
pub mod visit;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::bare;
use crate::boot::Boot;
use crate::error::Error;
use crate::outcome::{Ending, Outcome};
use crate::provision::Consent;
use crate::terminal;

use code::Code;
use image::Image;
use phase::{Attribution, Phase, RULES};
use report::Line;
use row::Row;
use table::{NOTHING, Table};

/// The program that measures, as root task, and the one that it needs before it.
const PROGRAM: &str = "bench";
const SIGMA0: &str = "sigma0";

/// Most untyped words of a message.
const MOST_WORDS: u32 = 63;
/// How often the program does what it measures: in all, and while it is traced.
const ROUNDS: u32 = 200;
const TRACED_ROUNDS: u32 = 8;
/// How often, if time is to be measured.
const TIMED_ROUNDS: u32 = 20_000;
/// Messages longer than 7 words have the others in memory.
const DENSE_WORDS: u32 = 8;

/// Where the counts are that are checked in, from the workspace on.
const TABLE: &str = "heliox/counts.txt";
const TABLE_INTRODUCTION: &str = "\
Instructions that operations of the kernel cost, as `heliox bench ipc` and `heliox bench kernel` count
them. `heliox bench ipc --check` compares; a change that is meant to change them updates this file with
`heliox bench ipc --update` and `heliox bench kernel --update` (and with `--under ...` for the other
conditions), and the reader of the change sees each count that moved.
";

/// The part of instructions that may belong to no phase.
const MOST_UNATTRIBUTED: f64 = 0.05;

/// Exit status if counts differ from the table.
const DIFFERENT: u8 = 1;

/// What to measure, and how to show it.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One-way IPC: call, reply-and-wait and Lipc, within and between address spaces
    Ipc(MessageArguments),
    /// Other operations: system calls, mappings, faults, interrupts, threads and spaces
    Kernel(OperationArguments),
    /// Where the instructions of one IPC between address spaces go
    Phases(PhaseArguments),
}

#[derive(Args, Debug)]
struct MessageArguments {
    /// Untyped words of the messages: numbers and ranges, such as 0,4,8-16
    #[arg(long, value_name = "LIST")]
    words: Option<Words>,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Args, Debug)]
struct OperationArguments {
    /// Also list the functions that the instructions belong to
    #[arg(long)]
    functions: bool,
    #[command(flatten)]
    common: CommonArguments,
}

#[derive(Args, Debug)]
struct PhaseArguments {
    /// Also list the functions that the instructions belong to
    #[arg(long)]
    functions: bool,
    #[command(flatten)]
    messages: MessageArguments,
}

#[derive(Args, Debug)]
struct CommonArguments {
    /// Print an object of JSON on a line for each row
    #[arg(long)]
    json: bool,
    /// Draw the result, by the file's extension as SVG or PNG
    #[arg(long, value_name = "FILE.svg|.png")]
    plot: Option<PathBuf>,
    /// What else is going on meanwhile
    #[arg(long, value_name = "CONDITION", value_enum, default_value_t)]
    under: Condition,
    /// Also measure time, in a second run that counts no instructions
    #[arg(long)]
    time: bool,
    /// Compare with the counts that are checked in; status 1 if some differ
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Replace the counts that are checked in
    #[arg(long)]
    update: bool,
    /// Measure this kernel's ELF file instead of building the one of the sources
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Stop each run after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Install nothing and fetch nothing; say what is missing instead
    #[arg(long)]
    offline: bool,
}

/// What else is going on while something is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Condition {
    /// Nothing else.
    #[default]
    Nothing,
    /// A thousand other threads are alive.
    Threads,
    /// Other threads wait with timeouts.
    Timers,
    /// Both sides use floating-point registers.
    Fpu,
    /// The server has a higher priority than the client.
    Priorities,
}

impl Condition {
    /// As the program and the table know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => NOTHING,
            Self::Threads => "threads",
            Self::Timers => "timers",
            Self::Fpu => "fpu",
            Self::Priorities => "priorities",
        }
    }
}

/// Numbers of untyped words: each once, rising, none above 63.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(Vec<u32>);

impl Default for Words {
    fn default() -> Self {
        let sparse = (DENSE_WORDS..MOST_WORDS).filter(|words| words % 4 == 0);
        Self((0..DENSE_WORDS).chain(sparse).chain([MOST_WORDS]).collect())
    }
}

impl FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let words = text.parse::<u32>().ok().filter(|words| *words <= MOST_WORDS);
            words.ok_or(format!("`{text}` is no number from 0 to {MOST_WORDS}"))
        };
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("`{part}` begins above its end"));
            }
            all.extend(first..=last);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self(all))
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.0.iter().map(u32::to_string).collect();
        formatter.write_str(&words.join(","))
    }
}

/// Rows, and the code that they were counted in.
pub struct Measured {
    /// Rows, in the order of measuring.
    pub rows: Vec<Row>,
    /// What could not be measured: name and reason.
    pub skipped: Vec<(String, String)>,
    /// The code.
    pub code: Code,
}

/// Measures what a benchmark program does: boots `boot`, whose kernel is the ELF file `kernel` and one of
/// whose modules is the benchmark program `program`, under the instruction counter.
///
/// # Errors
///
/// The run could not start, the program did not end well, or what it says contradicts its trace.
pub fn measure(boot: Boot, kernel: &Path, program: &Path) -> Result<Measured, Error> {
    let open = |path: &Path| Image::open(path).map_err(|error| Error::Bench(error.to_string()));
    let code = Code::new(open(kernel)?, open(program)?);
    let session::Traced { outcome, sections, code } =
        session::run(boot.kernel(kernel).icount(true), code)?;
    let lines = lines(&outcome)?;
    let rows = row::rows(&lines, &sections, &code);
    let rows = rows.map_err(|error| Error::Bench(error.to_string()))?;
    let skipped = lines.into_iter().filter_map(|line| match line {
        Line::Skipped { name, why } => Some((name, why)),
        _ => None,
    });
    Ok(Measured { rows, skipped: skipped.collect(), code })
}

/// What the program of a run that ended well reported.
fn lines(outcome: &Outcome) -> Result<Vec<Line>, Error> {
    if outcome.ending != Ending::Status(0) {
        return Err(Error::Bench(format!("the benchmark did not end well\n{outcome}")));
    }
    let lines = outcome.lines().filter_map(|line| report::parse(&line).transpose());
    lines.collect::<Result<_, _>>().map_err(|error| Error::Bench(error.to_string()))
}

/// Does what the command line says; the exit status.
///
/// # Errors
///
/// As [`measure`], or a file cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<u8, Error> {
    match &arguments.what {
        What::Ipc(MessageArguments { words, common }) => {
            let complete = words.is_none();
            let words = words.clone().unwrap_or_default();
            let measured = measure_with(&format!("ipc words={words}"), common)?;
            show_rows(&measured, common, complete, &text::ipc(&measured.rows), plot::ipc)
        }
        What::Kernel(OperationArguments { functions, common }) => {
            let measured = measure_with("kernel", common)?;
            if *functions && !common.json {
                let mut attribution = Attribution::new(&measured.code, RULES);
                let profiles =
                    measured.rows.iter().map(|row| (row, attribution.profile(&row.round)));
                print(&text::functions(&profiles.collect::<Vec<_>>()));
            }
            show_rows(&measured, common, true, &text::kernel(&measured.rows), plot::kernel)
        }
        What::Phases(PhaseArguments { functions, messages }) => {
            let MessageArguments { words, common } = messages;
            if common.check || common.update || common.time {
                let message = "only `ipc` and `kernel` have --check, --update and --time";
                return Err(Error::Usage(message.to_owned()));
            }
            let words = words.clone().unwrap_or_default();
            let measured = measure_with(&format!("phases words={words}"), common)?;
            show_phases(&measured, common, *functions)
        }
    }
}

/// Boots the benchmark program to do `task`.
fn measure_with(task: &str, common: &CommonArguments) -> Result<Measured, Error> {
    if let Some(path) = &common.plot {
        plot::check(path)?;
    }
    let consent = Consent::here(common.offline);
    let kernel = match &common.kernel {
        Some(file) => file.clone(),
        None => bare::kernel(consent)?,
    };
    let program = bare::program(PROGRAM, consent)?;
    let boot = |rounds: u32, traced: u32| {
        let under = common.under.name();
        let task = format!("{task} under={under} rounds={rounds} traced={traced}");
        Boot::new()
            .consent(consent)
            .program(SIGMA0, "")
            .program(PROGRAM, &task)
            .timeout(Duration::from_secs(common.timeout))
    };
    terminal::status("Counting", task);
    let mut measured = measure(boot(ROUNDS, TRACED_ROUNDS), &kernel, &program)?;
    if common.time {
        terminal::status("Timing", task);
        let outcome = boot(TIMED_ROUNDS, 0).kernel(&kernel).run()?;
        let times = lines(&outcome)?;
        let added = row::add_times(&mut measured.rows, &times);
        added.map_err(|error| Error::Bench(error.to_string()))?;
    }
    for (name, why) in &measured.skipped {
        terminal::note(format!("{name} was not measured: {why}"));
    }
    for row in measured.rows.iter().filter(|row| !row.is_steady()) {
        let (alike, all) = row.alike;
        let title = row.title();
        terminal::note(format!("{title}: only {alike} rounds of {all} were alike"));
    }
    Ok(measured)
}

fn show_rows(
    measured: &Measured,
    common: &CommonArguments,
    complete: bool,
    text: &str,
    plot: fn(&[Row], &Path) -> Result<(), Error>,
) -> Result<u8, Error> {
    let rows = &measured.rows;
    if common.json {
        print(&json_lines(rows)?);
    } else {
        print(text);
    }
    if let Some(path) = &common.plot {
        plot(rows, path)?;
    }
    let under = common.under.name();
    if common.update {
        let path = bare::workspace()?.join(TABLE);
        let mut table = read_table(&path)?;
        table.update(under, rows, complete);
        let introduction = format!("{TABLE_INTRODUCTION}{}\n", counted_with());
        let written = fs::write(&path, table.text(&introduction));
        written.map_err(|source| Error::File { action: "write", path: path.clone(), source })?;
        terminal::status("Updated", path.display());
    }
    if common.check {
        let table = checked_in()?;
        let differences = table.compare(under, rows, complete);
        if !differences.is_empty() {
            let mut message = "counts differ from those that are checked in:".to_owned();
            for difference in &differences {
                let _ = write!(message, "\n  {difference}");
            }
            message.push_str("\nif that is meant, repeat this with --update instead of --check");
            terminal::error(message);
            return Ok(DIFFERENT);
        }
        terminal::status("Checked", format!("{} rows are as in {TABLE}", rows.len()));
    }
    Ok(0)
}

fn show_phases(
    measured: &Measured,
    common: &CommonArguments,
    functions: bool,
) -> Result<u8, Error> {
    let mut attribution = Attribution::new(&measured.code, RULES);
    let shares: Vec<_> =
        measured.rows.iter().map(|row| (row, attribution.shares(&row.round))).collect();
    if common.json {
        let mut objects = Vec::new();
        for (row, shares) in &shares {
            objects.extend(shares.iter().map(|(phase, instructions)| {
                serde_json::json!({
                    "operation": row.operation,
                    "words": row.words,
                    "receive": row.receive,
                    "phase": phase.name(),
                    "instructions": instructions,
                })
            }));
        }
        print(&json_lines(&objects)?);
    } else {
        print(&text::phases(&shares));
        if functions {
            let profiles = measured.rows.iter().map(|row| (row, attribution.profile(&row.round)));
            print(&text::functions(&profiles.collect::<Vec<_>>()));
        }
    }
    if let Some(path) = &common.plot {
        plot::phases(&shares, path)?;
    }
    let worst = shares.iter().max_by(|(_, one), (_, other)| {
        phase::unattributed(one).total_cmp(&phase::unattributed(other))
    });
    if let Some((row, shares)) = worst
        && phase::unattributed(shares) > MOST_UNATTRIBUTED
    {
        let profile = attribution.profile(&row.round);
        let missed = profile.iter().filter(|(phase, ..)| *phase == Phase::Unattributed);
        let functions: Vec<_> =
            missed.map(|(_, name, count)| format!("{count} in {name}")).collect();
        terminal::note(format!(
            "the rules of phases miss much of {}: {}",
            row.title(),
            functions.join(", ")
        ));
    }
    Ok(0)
}

fn json_lines(objects: &[impl serde::Serialize]) -> Result<String, Error> {
    let mut text = String::new();
    for object in objects {
        let line =
            serde_json::to_string(object).map_err(|error| Error::Bench(error.to_string()))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// A reader of standard output that has gone away does not matter.
fn print(text: &str) {
    let mut output = anstream::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Whether the counts that are checked in were made with the compiler that is here: another one may
/// make other instructions of the same sources.
///
/// # Errors
///
/// The table cannot be read.
pub fn is_counted_with_this_compiler() -> Result<bool, Error> {
    let path = bare::workspace()?.join(TABLE);
    let text = fs::read_to_string(&path);
    let text = text.map_err(|source| Error::File { action: "read", path, source })?;
    Ok(text.contains(&counted_with()))
}

/// The line of the table that names the compiler.
fn counted_with() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("Counted with {}.", version.unwrap_or_else(|_| "an unknown compiler".to_owned()))
}

/// The table that is checked in.
///
/// # Errors
///
/// It cannot be read.
pub fn checked_in() -> Result<Table, Error> {
    read_table(&bare::workspace()?.join(TABLE))
}

fn read_table(path: &Path) -> Result<Table, Error> {
    let text = fs::read_to_string(path);
    let text =
        text.map_err(|source| Error::File { action: "read", path: path.to_path_buf(), source })?;
    let table = Table::parse(&text);
    table.map_err(|error| Error::Bench(format!("{}, {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbers_and_ranges() {
        for (text, words) in
            [("0", &[0][..]), ("4,0,4", &[0, 4]), ("8-11,63", &[8, 9, 10, 11, 63]), ("7-7", &[7])]
        {
            assert_eq!(text.parse::<Words>().unwrap().0, words);
        }
        for text in ["", "64", "1,", "a", "5-4", "1-", "-1", "1 2", "0-64"] {
            assert!(text.parse::<Words>().is_err(), "{text}");
        }
        assert_eq!("0,2-4".parse::<Words>().unwrap().to_string(), "0,2,3,4");
        let default = Words::default().to_string();
        assert_eq!(default, "0,1,2,3,4,5,6,7,8,12,16,20,24,28,32,36,40,44,48,52,56,60,63");
    }

    #[test]
    fn conditions_are_called_alike_everywhere() {
        for condition in Condition::value_variants() {
            let value = condition.to_possible_value().unwrap();
            assert_eq!(value.get_name(), condition.name());
        }
    }

    #[test]
    fn the_table_that_is_checked_in_can_be_read() {
        let path = bare::workspace().unwrap().join(TABLE);
        let table = read_table(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let compiler = text.lines().find_map(|line| line.strip_prefix("# Counted with "));
        let introduction = format!("{TABLE_INTRODUCTION}Counted with {}\n", compiler.unwrap());
        // Written by hand, or not by --update, it would not be the same.
        assert_eq!(text, table.text(&introduction));
    }
}
