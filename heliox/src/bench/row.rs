//! What was measured, a row for each operation.

use serde::Serialize;

use super::code::Code;
use super::reference::RowName;
use super::report::{Call, Line, Receive, Time};
use super::session::{REST, ROUND};
use super::trace::Step;
use super::visit::{self, Counts, Round};

/// A row. As JSON it has the fields that are not of this tool's own concern.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `call`, `reply-and-wait`, `lipc`, or an operation of the kernel.
    pub operation: String,
    /// Untyped words of the message.
    pub words: Option<u32>,
    /// Whether both threads are in the same address space.
    pub same_space: Option<bool>,
    /// How the server receives.
    pub receive: Option<Receive>,
    /// Instructions from SYSCALL to SYSRET, both included.
    pub kernel_instructions: u64,
    /// Those and the programs' since the visit to the kernel before.
    pub instructions: u64,
    /// Loads of CR3.
    pub cr3_writes: u64,
    /// Other invalidations of translations.
    pub tlb_flushes: u64,
    /// Time without counting instructions, where that was measured.
    pub nanoseconds: Option<u64>,
    /// What else the instructions are.
    #[serde(skip)]
    pub counts: Counts,
    /// How many rounds of those that were traced were like this, and how many there were.
    #[serde(skip)]
    pub alike: (usize, usize),
    /// One of them.
    #[serde(skip)]
    pub round: Round,
}

/// A measurement contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// Not as many lines as sections.
    #[error("the program reported {lines} measurements and marked {sections}")]
    Lines {
        /// Lines that it printed.
        lines: usize,
        /// Sections of its trace.
        sections: usize,
    },
    /// A section does not have what the line says.
    #[error("{name}: {why}")]
    Section {
        /// What was measured.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl Row {
    /// What names the row.
    #[must_use]
    pub fn name(&self) -> (&str, Option<u32>, Option<bool>, Option<Receive>) {
        (&self.operation, self.words, self.same_space, self.receive)
    }

    /// Whether it is the row that a table names.
    #[must_use]
    pub fn is(&self, name: RowName) -> bool {
        let open = self.receive.map(|receive| receive == Receive::Open);
        name == (self.operation.as_str(), self.words, self.same_space, open)
    }

    /// Whether most rounds were alike, so that the counts are those of every ordinary round.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        self.alike.0 * 2 > self.alike.1
    }

    /// The name, for people.
    #[must_use]
    pub fn title(&self) -> String {
        let mut title = self.operation.clone();
        if let Some(words) = self.words {
            title.push_str(&format!(", {words} words"));
        }
        if let Some(same) = self.same_space {
            title.push_str(if same { ", same space" } else { ", other space" });
        }
        if let Some(receive) = self.receive {
            title.push_str(&format!(", {} receive", receive.name()));
        }
        title
    }
}

/// Rows from what the program reported and what was traced meanwhile, in that order. Parts that were
/// skipped have none.
///
/// # Errors
///
/// The two contradict each other.
pub fn rows(lines: &[Line], sections: &[Vec<Step>], code: &Code) -> Result<Vec<Row>, RowError> {
    let measured = lines.iter().filter(|line| !matches!(line, Line::Skipped { .. }));
    let count = measured.clone().count();
    if count != sections.len() {
        return Err(RowError::Lines { lines: count, sections: sections.len() });
    }
    let mut rows = Vec::new();
    for (line, steps) in measured.zip(sections) {
        match line {
            Line::Ipc { call, words, same_space, receive, time } => {
                let names = match call {
                    Call::Ipc => ["call", "reply-and-wait"],
                    Call::Lipc => ["lipc", "lipc"],
                };
                let name = format!("{} of {words} words", names[0]);
                let failed = |why: String| RowError::Section { name: name.clone(), why };
                let groups = visit::by_site(visit::visits(steps, code));
                let [client, server] = two_sides(&groups).map_err(failed)?;
                let mut sides = Vec::new();
                for (operation, rounds) in names.into_iter().zip([client, server]) {
                    let mut row =
                        row(operation, rounds, code).ok_or_else(|| failed(no_rounds()))?;
                    row.words = Some(*words);
                    row.same_space = Some(*same_space);
                    row.receive = Some(*receive);
                    sides.push(row);
                }
                let both = sides.iter().map(|row| row.instructions).sum();
                agrees(*time, both).map_err(failed)?;
                // The answers by Lipc are no operation of their own.
                sides.truncate(if *call == Call::Lipc { 1 } else { 2 });
                rows.extend(sides);
            }
            Line::Operation { name, time } => {
                let failed = |why: String| RowError::Section { name: name.clone(), why };
                let mark = code.program.function(ROUND);
                let mark = mark.ok_or_else(|| failed(format!("no function `{ROUND}`")))?;
                let rest = code.program.function(REST);
                let rounds = visit::by_marks(steps, mark, rest, code);
                let row = row(name, &rounds, code).ok_or_else(|| failed(no_rounds()))?;
                agrees(*time, row.instructions).map_err(failed)?;
                rows.push(row);
            }
            Line::Skipped { .. } => {}
        }
    }
    Ok(rows)
}

fn no_rounds() -> String {
    "its trace has no complete round".to_owned()
}

/// Client and server: the two places with as many system calls as there are rounds. A third one
/// with fewer, such as a client's giving way, is neither.
fn two_sides(groups: &[Vec<Round>]) -> Result<[&[Round]; 2], String> {
    match groups {
        [client, server, ..] => Ok([client, server]),
        _ => Err(format!("system calls came from {} places, not two", groups.len())),
    }
}

fn row(operation: &str, rounds: &[Round], code: &Code) -> Option<Row> {
    let (round, times) = visit::most_frequent(rounds)?;
    let counts = Counts::of(round, code);
    Some(Row {
        operation: operation.to_owned(),
        words: None,
        same_space: None,
        receive: None,
        kernel_instructions: counts.kernel,
        instructions: counts.all,
        cr3_writes: counts.root_loads,
        tlb_flushes: counts.flushes,
        nanoseconds: None,
        counts,
        alike: (times, rounds.len()),
        round: round.clone(),
    })
}

/// Whether the ticks that the program counted are those of the trace, give or take what its own
/// loop and interrupts add.
fn agrees(time: Time, traced: u64) -> Result<(), String> {
    let Some(ticks) = time.ticks else { return Ok(()) };
    let counted = ticks / time.rounds;
    if counted.abs_diff(traced) > 8 + traced / 10 {
        return Err(format!("the program counted {counted} instructions, the trace has {traced}"));
    }
    Ok(())
}

/// Fills in the times of another run of the same program, which counted no instructions.
///
/// # Errors
///
/// It measured other things.
pub fn add_times(rows: &mut [Row], lines: &[Line]) -> Result<(), RowError> {
    for line in lines {
        let (time, half) = match line {
            Line::Ipc { time, .. } => (time, 2),
            Line::Operation { time, .. } => (time, 1),
            Line::Skipped { .. } => continue,
        };
        let Some(microseconds) = time.microseconds else { continue };
        let nanoseconds = microseconds.saturating_mul(1000) / (time.rounds * half);
        let mut found = false;
        for row in rows.iter_mut().filter(|row| belongs(row, line)) {
            row.nanoseconds = Some(nanoseconds);
            found = true;
        }
        if !found {
            let why = "only the run without counting measured it".to_owned();
            return Err(RowError::Section { name: format!("{line:?}"), why });
        }
    }
    Ok(())
}

fn belongs(row: &Row, line: &Line) -> bool {
    match line {
        Line::Ipc { call, words, same_space, receive, .. } => {
            (row.operation == "lipc") == (*call == Call::Lipc)
                && (row.words, row.same_space, row.receive)
                    == (Some(*words), Some(*same_space), Some(*receive))
        }
        Line::Operation { name, .. } => row.words.is_none() && row.operation == *name,
        Line::Skipped { .. } => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row with the fields that its name and counts have.
    pub(crate) fn sample(
        operation: &str,
        message: Option<(u32, bool, Receive)>,
        kernel: u64,
    ) -> Row {
        Row {
            operation: operation.to_owned(),
            words: message.map(|(words, ..)| words),
            same_space: message.map(|(_, same, _)| same),
            receive: message.map(|(.., receive)| receive),
            kernel_instructions: kernel,
            instructions: kernel + 14,
            cr3_writes: 1,
            tlb_flushes: 0,
            nanoseconds: None,
            counts: Counts { kernel, all: kernel + 14, root_loads: 1, ..Counts::default() },
            alike: (9, 10),
            round: Round::default(),
        }
    }

    #[test]
    fn json_has_the_fields_that_were_promised() {
        let row = sample("call", Some((4, false, Receive::Closed)), 61);
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"operation":"call","words":4,"same_space":false,"receive":"closed","kernel_instructions":61,"instructions":75,"cr3_writes":1,"tlb_flushes":0,"nanoseconds":null}"#
        );
        let row = sample("unmap", None, 300);
        assert!(
            serde_json::to_string(&row).unwrap().starts_with(
                r#"{"operation":"unmap","words":null,"same_space":null,"receive":null,"#
            )
        );
    }

    #[test]
    fn rows_are_found_by_name() {
        let row = sample("call", Some((4, false, Receive::Open)), 61);
        assert!(row.is(("call", Some(4), Some(false), Some(true))));
        assert!(!row.is(("call", Some(4), Some(false), Some(false))));
        assert!(!row.is(("call", None, None, None)));
        assert_eq!(row.title(), "call, 4 words, other space, open receive");
        assert!(row.is_steady());
    }

    #[test]
    fn a_counter_that_disagrees_with_the_trace_is_told() {
        let time = |ticks| Time { rounds: 100, ticks, microseconds: None };
        assert!(agrees(time(Some(15_200)), 150).is_ok());
        assert!(agrees(time(None), 150).is_ok());
        let error = agrees(time(Some(20_000)), 150).unwrap_err();
        assert!(error.contains("200") && error.contains("150"), "{error}");
    }

    #[test]
    fn times_go_to_the_rows_of_both_directions() {
        let message = Some((4, false, Receive::Closed));
        let mut rows = [
            sample("call", message, 61),
            sample("reply-and-wait", message, 63),
            sample("lipc", message, 61),
            sample("unmap", None, 300),
        ];
        let time = Time { rounds: 1000, ticks: None, microseconds: Some(500) };
        let ipc = |words| Line::Ipc {
            call: Call::Ipc,
            words,
            same_space: false,
            receive: Receive::Closed,
            time,
        };
        let unmap = Line::Operation { name: "unmap".to_owned(), time };
        add_times(&mut rows, &[ipc(4), unmap]).unwrap();
        let times = rows.map(|row| row.nanoseconds);
        assert_eq!(times, [Some(250), Some(250), None, Some(500)]);
        assert!(add_times(&mut [sample("call", message, 61)], &[ipc(8)]).is_err());
    }
}
