//! Measured rows as tables for people, beside what others measured.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::phase::{self, PHASES, Phase, Profile, Shares};
use super::reference::{
    CONTEXT_SWITCH, FIRST_PHASES, IPC_TARGETS, KERNEL_TARGETS, LAST_PHASES, PHASE_COLUMNS, THESIS,
    Target, WORDS,
};
use super::report::Receive;
use super::row::Row;

/// The operations on IPC, each a column: name, same space, receive, and two lines of heading.
const COLUMNS: [(&str, bool, Receive, [&str; 2]); 10] = [
    ("call", false, Receive::Closed, ["call", "closed"]),
    ("reply-and-wait", false, Receive::Closed, ["reply", "closed"]),
    ("call", false, Receive::Open, ["call", "open"]),
    ("reply-and-wait", false, Receive::Open, ["reply", "open"]),
    ("call", true, Receive::Closed, ["call", "closed"]),
    ("reply-and-wait", true, Receive::Closed, ["reply", "closed"]),
    ("call", true, Receive::Open, ["call", "open"]),
    ("reply-and-wait", true, Receive::Open, ["reply", "open"]),
    ("lipc", true, Receive::Closed, ["Lipc", "closed"]),
    ("lipc", true, Receive::Open, ["Lipc", "open"]),
];

/// Lines of cells, aligned to the right, but for the first `left` columns.
fn columns(rows: &[Vec<String>], left: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let _ = match column < left {
                true => write!(line, "{cell:width$}"),
                false => write!(line, "{cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn strings(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A number with commas between groups of three digits.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The rows of `heliox bench ipc`.
#[must_use]
pub fn ipc(rows: &[Row]) -> String {
    let mut text = String::from(
        "One-way IPC, in instructions: in the kernel (SYSCALL to SYSRET) and, behind the stroke, with \
         the\nprogram's own since the visit to the kernel before. `closed` and `open` tell how the \
         server receives.\n\n",
    );
    text.push_str(&words_by_operation(rows));
    text.push('\n');
    text.push_str(&remarks(rows));
    text.push_str(
        "\nInstructions in the kernel, counted alike elsewhere (through C / through assembly), and the \
         most\nthat is allowed here:\n\n",
    );
    text.push_str(&targets(IPC_TARGETS, rows));
    text.push_str(
        "\nThe thesis (M. Leslie, A Functional Approach to Memory-Safe Operating Systems, chapter 8): \
         cycles of\na 1.66 GHz Atom for one-way IPC between address spaces. Cycles are not instructions.\
         \n\n",
    );
    let mut table = vec![strings(&["words"]), strings(&[""])];
    for curve in THESIS {
        table[0].push(curve.name.to_owned());
        table[1].push(curve.source.to_owned());
    }
    for (index, words) in WORDS.iter().enumerate() {
        let cycles = THESIS.iter().map(|curve| grouped(u64::from(curve.cycles[index])));
        table.push(std::iter::once(words.to_string()).chain(cycles).collect());
    }
    text.push_str(&columns(&table, 0));
    text.push_str(&context_switches());
    text
}

fn context_switches() -> String {
    let [(one, fast), (other, slow)] = CONTEXT_SWITCH;
    format!(
        "\nOne crossing from a program into the thesis's kernel or back: {} cycles ({one}), {} ({other}).\n",
        grouped(u64::from(fast)),
        grouped(u64::from(slow)),
    )
}

fn words_by_operation(rows: &[Row]) -> String {
    let find = |operation: &str, words: u32, same: bool, receive: Receive| {
        let name = (operation, Some(words), Some(same), Some(receive));
        rows.iter().find(|row| row.name() == name)
    };
    let all: BTreeSet<u32> = rows.iter().filter_map(|row| row.words).collect();
    let measured = |(operation, same, receive, _): &(&str, bool, Receive, _)| {
        all.iter().any(|words| find(operation, *words, *same, *receive).is_some())
    };
    let shown: Vec<_> = COLUMNS.iter().filter(|column| measured(column)).collect();
    let mut table = vec![strings(&[""]), strings(&[""]), strings(&["words"])];
    let mut last = None;
    for (_, same, _, [first, second]) in &shown {
        let space = if *same { "same space" } else { "other space" };
        table[0].push(if last == Some(same) { String::new() } else { space.to_owned() });
        last = Some(same);
        table[1].push((*first).to_owned());
        table[2].push((*second).to_owned());
    }
    for words in all {
        let cells = shown.iter().map(|(operation, same, receive, _)| {
            find(operation, words, *same, *receive).map_or(String::new(), |row| {
                format!("{}/{}", row.kernel_instructions, row.instructions)
            })
        });
        table.push(std::iter::once(words.to_string()).chain(cells).collect());
    }
    columns(&table, 0)
}

/// What the counts have in common, and what they do not show.
fn remarks(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut remark = |what: &str, select: &dyn Fn(&Row) -> bool, count: &dyn Fn(&Row) -> u64| {
        let values: BTreeSet<u64> = rows.iter().filter(|row| select(row)).map(count).collect();
        let text_of = match (values.first(), values.last()) {
            (Some(least), Some(most)) if least == most => least.to_string(),
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => return,
        };
        let _ = writeln!(text, "{what}: {text_of}");
    };
    let other = |row: &Row| row.same_space == Some(false);
    let same = |row: &Row| row.same_space == Some(true);
    let any = |_: &Row| true;
    remark("CR3 writes, other space", &other, &|row| row.cr3_writes);
    remark("CR3 writes, same space", &same, &|row| row.cr3_writes);
    remark("other TLB invalidations", &any, &|row| row.tlb_flushes);
    remark("elements of REP-string instructions among the counts", &any, &|row| row.counts.repeats);
    remark("writes of model-specific registers", &any, &|row| row.counts.model_specific);
    remark("divisions", &any, &|row| row.counts.divisions);
    remark("indirect calls and jumps", &any, &|row| row.counts.indirect);
    remark("locked instructions", &any, &|row| row.counts.locked);
    let timed = |row: &Row| row.nanoseconds.is_some();
    remark("nanoseconds", &timed, &|row| row.nanoseconds.unwrap_or(0));
    text
}

fn targets(targets: &[Target], rows: &[Row]) -> String {
    let headings = ["", "Pistachio", "seL4", "L4Re", "at most", "Heliox", ""];
    let mut table = vec![strings(&headings)];
    for target in targets {
        let found = reached(target, rows);
        let verdict = match found {
            None => "not measured",
            Some(count) if count <= target.most => "reached",
            Some(_) => "missed",
        };
        table.push(vec![
            target.title.to_owned(),
            target.pistachio.to_owned(),
            target.sel4.to_owned(),
            target.l4re.to_owned(),
            grouped(target.most),
            found.map_or(String::new(), grouped),
            verdict.to_owned(),
        ]);
    }
    columns(&table, 1)
}

/// What the rows of a target cost together, if all of them were measured.
#[must_use]
pub fn reached(target: &Target, rows: &[Row]) -> Option<u64> {
    let cost = |name| rows.iter().find(|row| row.is(name)).map(|row| row.kernel_instructions);
    target.rows.iter().map(|name| cost(*name)).sum()
}

/// The rows of `heliox bench kernel`.
#[must_use]
pub fn kernel(rows: &[Row]) -> String {
    let mut text = String::from(
        "Operations, in instructions: in the kernel (all visits of one round), and with the programs' \
         own.\n\n",
    );
    let headings = [
        "operation",
        "kernel",
        "all",
        "CR3",
        "flushes",
        "REP",
        "MSR",
        "div",
        "indirect",
        "locked",
        "ns",
        "alike",
    ];
    let mut table = vec![strings(&headings)];
    for row in rows {
        let counts = &row.counts;
        table.push(vec![
            row.operation.clone(),
            grouped(row.kernel_instructions),
            grouped(row.instructions),
            row.cr3_writes.to_string(),
            row.tlb_flushes.to_string(),
            grouped(counts.repeats),
            counts.model_specific.to_string(),
            counts.divisions.to_string(),
            counts.indirect.to_string(),
            counts.locked.to_string(),
            row.nanoseconds.map_or(String::new(), grouped),
            format!("{}/{}", row.alike.0, row.alike.1),
        ]);
    }
    text.push_str(&columns(&table, 1));
    text.push_str(
        "\nREP: elements of REP-string instructions, each counted as one instruction. MSR: writes of \
         model-specific\nregisters. alike: rounds of those traced that were the same, instruction for \
         instruction.\n\nInstructions in the kernel, counted alike elsewhere, and the most that is \
         allowed here:\n\n",
    );
    text.push_str(&targets(KERNEL_TARGETS, rows));
    text.push_str(&context_switches());
    text
}

/// The rows of `heliox bench phases` with the instructions of each phase.
#[must_use]
pub fn phases(shares: &[(&Row, Shares)]) -> String {
    let mut text = String::from("Instructions of one-way IPC between address spaces by phase.\n");
    let operations: Vec<_> = {
        let mut all: Vec<_> =
            shares.iter().map(|(row, _)| (row.operation.as_str(), row.receive)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    for (operation, receive) in operations {
        let open = receive.map_or("", Receive::name);
        let _ = writeln!(text, "\n{operation}, {open} receive:\n");
        let mut table = vec![strings(&["words"])];
        table[0].extend(PHASES.iter().map(|phase| phase.name().to_owned()));
        table[0].push("all".to_owned());
        for (row, shares) in
            shares.iter().filter(|(row, _)| row.operation == operation && row.receive == receive)
        {
            let mut line = vec![row.words.map_or(String::new(), |words| words.to_string())];
            line.extend(PHASES.iter().map(|phase| {
                let count = shares.get(phase).copied().unwrap_or(0);
                match phase {
                    Phase::Unattributed => {
                        format!("{count} ({:.0} %)", 100.0 * phase::unattributed(shares))
                    }
                    _ => count.to_string(),
                }
            }));
            line.push(shares.values().sum::<u64>().to_string());
            table.push(line);
        }
        text.push_str(&columns(&table, 0));
    }
    text.push_str("\nThe thesis's, in cycles of its 1.66 GHz Atom: first (table 8.3) and last (table 8.8).\n\n");
    let mut table = vec![strings(&["", "words"])];
    table[0].extend(strings(&PHASE_COLUMNS));
    table[0].push("all".to_owned());
    for (name, rows) in [("first", FIRST_PHASES), ("last", LAST_PHASES)] {
        for (words, parts) in rows {
            let mut line = vec![name.to_owned(), words.to_string()];
            line.extend(parts.iter().map(|part| grouped(u64::from(*part))));
            line.push(grouped(u64::from(parts.iter().sum::<u32>())));
            table.push(line);
        }
    }
    text.push_str(&columns(&table, 1));
    text
}

/// The functions that the instructions of rows belong to, a table for each row.
#[must_use]
pub fn functions(profiles: &[(&Row, Profile)]) -> String {
    let mut text = String::new();
    for (row, profile) in profiles {
        let _ = writeln!(text, "\n{}, by function:\n", row.title());
        let lines = profile.iter().map(|(phase, name, count)| {
            vec![name.clone(), phase.name().to_owned(), count.to_string()]
        });
        text.push_str(&columns(&lines.collect::<Vec<_>>(), 2));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::row::tests::sample;

    /// Rows as a kernel that reaches its aims would give them.
    pub(crate) fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        for words in [0, 7, 8, 32, 60_u32] {
            let beyond = u64::from(words.saturating_sub(7));
            let longer = if beyond > 0 { 30 + beyond } else { 0 };
            for (operation, same, receive, _) in COLUMNS {
                let start = if operation == "reply-and-wait" { 63 } else { 61 };
                let kernel = start + longer - if same { 4 } else { 0 };
                let mut row = sample(operation, Some((words, same, receive)), kernel);
                row.cr3_writes = u64::from(!same);
                rows.push(row);
            }
        }
        rows
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [strings(&["a", "bb", "c"]), strings(&["aaa", "b", "ccc"])];
        assert_eq!(columns(&rows, 1), "a    bb    c\naaa   b  ccc\n");
    }

    #[test]
    fn ipc_has_a_line_for_each_number_of_words_and_tells_what_was_reached() {
        let text = ipc(&rows());
        for expected in [
            "other space",
            "   32      116/130  118/132",
            "CR3 writes, other space: 1\nCR3 writes, same space: 0\n",
            "call, 0 words, other space                       218 / 73       184 to 205   587       72      61  reached",
            "the same, 32 words                        about 257 / 109  912 (slow path)            112     118   missed",
            "   60            1,446              532,215",
            "3,289 cycles",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        let some = ipc(&rows()[..2]);
        assert!(some.contains("not measured"), "{some}");
        assert!(!some.contains("same space\n"), "{some}");
    }

    #[test]
    fn operations_are_listed_and_sums_compared() {
        let rows = [sample("map", None, 250), sample("unmap", None, 300)];
        let text = kernel(&rows);
        let line = text.lines().find(|line| line.starts_with("map one page + unmap it")).unwrap();
        assert!(line.contains("600") && line.contains("550"), "{line}");
        assert!(line.ends_with("reached"), "{line}");
        assert!(text.contains("9/10"), "{text}");
    }

    #[test]
    fn phases_are_shown_with_what_is_unattributed() {
        let row = sample("call", Some((4, false, Receive::Closed)), 61);
        let mut shares: Shares = PHASES.iter().map(|phase| (*phase, 8)).collect();
        shares.insert(Phase::Unattributed, 3);
        let text = phases(&[(&row, shares)]);
        assert!(text.contains("call, closed receive:"), "{text}");
        assert!(text.contains("3 (5 %)"), "{text}");
        assert!(text.contains("450,265"), "{text}");
        let profile = vec![(Phase::Receive, "a::b".to_owned(), 61)];
        let text = functions(&[(&row, profile)]);
        assert!(text.ends_with("by function:\n\na::b  receive  61\n"), "{text}");
    }
}
