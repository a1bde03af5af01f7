//! The table of instruction counts that is checked in, and how measured rows differ from it.
//!
//! Hides the file's format: a line for each row, words separated by spaces, sorted, so that a change
//! of one count is a change of one line.
//!
//! ```text
//! # under  operation  words  space  receive  kernel  one-way  cr3  flushes
//! nothing  call       4      other  closed   61      75       1    0
//! ```
//!
//! `-` stands for a field that an operation does not have, and `~` in front of a count for one that is not
//! the same in every round; that may differ by a fiftieth.

use std::collections::BTreeMap;
use std::fmt;

use super::report::Receive;
use super::row::Row;

/// What names a row: the condition it was measured under, and its own name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    under: String,
    operation: String,
    words: Option<u32>,
    same_space: Option<bool>,
    receive: Option<Receive>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    steady: bool,
    /// Instructions in the kernel, one-way instructions, loads of CR3, flushes.
    counts: [u64; 4],
}

/// Names of [`Entry::counts`].
const COUNTS: [&str; 4] = ["kernel instructions", "one-way instructions", "CR3 writes", "flushes"];

const HEADING: [&str; 9] =
    ["# under", "operation", "words", "space", "receive", "kernel", "one-way", "cr3", "flushes"];

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<Key, Entry>);

/// A line of the table is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct TableError {
    /// Number of the line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// How a measured row differs from the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A count is another.
    Changed {
        /// The row.
        key: Key,
        /// Which count.
        count: &'static str,
        /// What the table says.
        expected: u64,
        /// What was measured.
        found: u64,
    },
    /// The row is not in the table.
    New(Key),
    /// The row is in the table and was to be measured, but was not.
    Missing(Key),
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.operation)?;
        if let Some(words) = self.words {
            write!(formatter, ", {words} words")?;
        }
        if let Some(same) = self.same_space {
            write!(formatter, ", {} space", space(same))?;
        }
        if let Some(receive) = self.receive {
            write!(formatter, ", {} receive", receive.name())?;
        }
        if self.under != NOTHING {
            write!(formatter, ", under {}", self.under)?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { key, count, expected, found } => {
                write!(formatter, "{key}: {found} {count}, not {expected}")
            }
            Self::New(key) => write!(formatter, "{key}: is not in the table"),
            Self::Missing(key) => write!(formatter, "{key}: was not measured"),
        }
    }
}

/// The condition of rows that were measured without any.
pub const NOTHING: &str = "nothing";

fn space(same: bool) -> &'static str {
    if same { "same" } else { "other" }
}

impl Key {
    fn of(under: &str, row: &Row) -> Self {
        let (operation, words, same_space, receive) = row.name();
        let (under, operation) = (under.to_owned(), operation.to_owned());
        Self { under, operation, words, same_space, receive }
    }

    fn words(&self) -> [String; 5] {
        let none = || "-".to_owned();
        [
            self.under.clone(),
            self.operation.clone(),
            self.words.map_or_else(none, |words| words.to_string()),
            self.same_space.map_or_else(none, |same| space(same).to_owned()),
            self.receive.map_or_else(none, |receive| receive.name().to_owned()),
        ]
    }
}

impl Entry {
    fn of(row: &Row) -> Self {
        let counts = [row.kernel_instructions, row.instructions, row.cr3_writes, row.tlb_flushes];
        Self { steady: row.is_steady(), counts }
    }

    /// Whether a measured count is good enough.
    fn allows(&self, expected: u64, found: u64) -> bool {
        let most = if self.steady { 0 } else { expected / 50 };
        expected.abs_diff(found) <= most
    }
}

impl Table {
    /// Reads the file's text.
    ///
    /// # Errors
    ///
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let mut entries = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.starts_with('#') {
                continue;
            }
            let failed = |why: String| TableError { line, why };
            let (key, entry) = read(text).map_err(failed)?;
            if let Some(_twice) = entries.insert(key.clone(), entry) {
                return Err(failed(format!("{key} is there twice")));
            }
        }
        Ok(Self(entries))
    }

    /// The file's text, after the comment in `introduction`.
    #[must_use]
    pub fn text(&self, introduction: &str) -> String {
        let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
        for (key, entry) in &self.0 {
            let mark = if entry.steady { "" } else { "~" };
            let mut row = key.words().to_vec();
            row.extend(entry.counts.iter().map(|count| format!("{mark}{count}")));
            rows.push(row);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..HEADING.len()).map(width).collect();
        let mut text: String = introduction
            .lines()
            .map(|line| format!("# {line}").trim_end().to_owned() + "\n")
            .collect();
        for row in rows {
            let padded: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(word, width)| format!("{word:width$}", width = *width))
                .collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// How rows that were measured under a condition differ from the table. With `complete` they are
    /// all that the table has to have for the operations of `rows` under that condition.
    #[must_use]
    pub fn compare(&self, under: &str, rows: &[Row], complete: bool) -> Vec<Difference> {
        let mut differences = Vec::new();
        for row in rows {
            let key = Key::of(under, row);
            let Some(expected) = self.0.get(&key) else {
                differences.push(Difference::New(key));
                continue;
            };
            let found = Entry::of(row);
            for (index, count) in COUNTS.into_iter().enumerate() {
                let (expected_count, found) = (expected.counts[index], found.counts[index]);
                if !expected.allows(expected_count, found) {
                    differences.push(Difference::Changed {
                        key: key.clone(),
                        count,
                        expected: expected_count,
                        found,
                    });
                }
            }
        }
        if complete {
            let ipc = rows.iter().any(|row| row.words.is_some());
            let measured: Vec<_> = rows.iter().map(|row| Key::of(under, row)).collect();
            let expected = self.0.keys().filter(|key| {
                key.under == under && key.words.is_some() == ipc && !measured.contains(key)
            });
            differences.extend(expected.cloned().map(Difference::Missing));
        }
        differences
    }

    /// Takes rows over. With `complete`, what the table had for such operations under the condition
    /// and was not measured goes.
    pub fn update(&mut self, under: &str, rows: &[Row], complete: bool) {
        if complete {
            let ipc = rows.iter().any(|row| row.words.is_some());
            self.0.retain(|key, _| key.under != under || key.words.is_some() != ipc);
        }
        self.0.extend(rows.iter().map(|row| (Key::of(under, row), Entry::of(row))));
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read(text: &str) -> Result<(Key, Entry), String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [under, operation, count, space, receive, numbers @ ..] = words.as_slice() else {
        return Err(format!("{} words, not {}", words.len(), HEADING.len()));
    };
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no number"));
    let key = Key {
        under: (*under).to_owned(),
        operation: (*operation).to_owned(),
        words: match *count {
            "-" => None,
            text => Some(text.parse().map_err(|_| format!("`{text}` is no number"))?),
        },
        same_space: match *space {
            "-" => None,
            "same" => Some(true),
            "other" => Some(false),
            text => return Err(format!("`{text}` is no space")),
        },
        receive: match *receive {
            "-" => None,
            "closed" => Some(Receive::Closed),
            "open" => Some(Receive::Open),
            text => return Err(format!("`{text}` is no way to receive")),
        },
    };
    let steady = !numbers.iter().any(|number| number.starts_with('~'));
    let counts: Result<Vec<u64>, _> =
        numbers.iter().map(|text| number(text.trim_start_matches('~'))).collect();
    let counts = counts?.try_into().map_err(|_| format!("{} counts, not 4", numbers.len()))?;
    Ok((key, Entry { steady, counts }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::row::tests::sample;

    fn rows() -> Vec<Row> {
        let message = |words, receive| Some((words, false, receive));
        vec![
            sample("call", message(4, Receive::Closed), 61),
            sample("call", message(32, Receive::Closed), 100),
            sample("reply-and-wait", message(4, Receive::Open), 63),
        ]
    }

    fn table() -> Table {
        let mut table = Table::default();
        table.update(NOTHING, &rows(), true);
        table.update("threads", &rows(), true);
        table.update(NOTHING, &[sample("unmap", None, 300)], true);
        table
    }

    #[test]
    fn the_file_says_what_the_table_has() {
        let table = table();
        let text = table.text("Counts.\n\nMore.");
        assert_eq!(Table::parse(&text), Ok(table));
        let start = "# Counts.\n#\n# More.\n\
            # under  operation       words  space  receive  kernel  one-way  cr3  flushes\n\
            nothing  call            4      other  closed   61      75       1    0\n\
            nothing  call            32     other  closed   100     114      1    0\n";
        assert_eq!(text.get(..start.len()), Some(start));
        assert!(text.contains("nothing  unmap           -      -      -        300 "), "{text}");
    }

    #[test]
    fn what_was_measured_again_is_no_difference() {
        assert_eq!(table().compare(NOTHING, &rows(), true), []);
        assert_eq!(table().compare(NOTHING, &[sample("unmap", None, 300)], true), []);
        // A part of it, if that was asked for.
        assert_eq!(table().compare(NOTHING, &rows()[1..], false), []);
    }

    #[test]
    fn every_difference_is_told() {
        let table = table();
        let mut rows = rows();
        rows[0].kernel_instructions += 1;
        rows[2].cr3_writes = 0;
        rows.remove(1);
        rows.push(sample("call", Some((5, false, Receive::Closed)), 61));
        let told: Vec<_> =
            table.compare("threads", &rows, true).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "call, 4 words, other space, closed receive, under threads: \
                 62 kernel instructions, not 61",
                "reply-and-wait, 4 words, other space, open receive, under threads: \
                 0 CR3 writes, not 1",
                "call, 5 words, other space, closed receive, under threads: is not in the table",
                "call, 32 words, other space, closed receive, under threads: was not measured",
            ]
        );
        assert_eq!(table.compare("threads", &rows, false).len(), 3);
    }

    #[test]
    fn only_counts_that_vary_may_differ_a_little() {
        let mut row = sample("create-and-delete", None, 5000);
        row.alike = (5, 10);
        let mut table = Table::default();
        table.update(NOTHING, std::slice::from_ref(&row), true);
        assert!(table.text("").contains("~5000"));
        let table = Table::parse(&table.text("")).unwrap();
        row.kernel_instructions += 100;
        assert_eq!(table.compare(NOTHING, std::slice::from_ref(&row), true), []);
        row.kernel_instructions += 1;
        assert_eq!(table.compare(NOTHING, std::slice::from_ref(&row), true).len(), 1);
    }

    #[test]
    fn updating_keeps_what_was_not_measured() {
        let mut table = table();
        let before = table.clone();
        let one = [sample("call", Some((4, false, Receive::Closed)), 59)];
        table.update(NOTHING, &one, false);
        assert_eq!(table.0.len(), before.0.len());
        table.update(NOTHING, &one, true);
        assert_eq!(table.0.len(), before.0.len() - 2);
        assert_eq!(table.compare(NOTHING, &one, true), []);
        assert_eq!(table.compare("threads", &rows(), true), []);
        assert!(!table.is_empty());
    }

    #[test]
    fn wrong_lines_are_told() {
        for (text, why) in [
            ("nothing call", "line 1: 2 words"),
            ("\nnothing call 4 other closed 61 75 1", "line 2: 3 counts"),
            ("nothing call four other closed 61 75 1 0", "`four` is no number"),
            ("nothing call 4 near closed 61 75 1 0", "`near` is no space"),
            ("nothing call 4 other shut 61 75 1 0", "`shut` is no way"),
            ("nothing call 4 other closed 61 75 1 many", "`many` is no number"),
            ("a b - - - 1 1 1 1\na b - - - 1 1 1 1", "line 2: b, under a is there twice"),
        ] {
            let error = Table::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
