//! What came out of a run: how it ended, and what the serial port said.
//!
//! Kernel log and program output share the serial port. A line of the kernel's log starts
//! with its level, `[info] `; a program's line may start with the program's name, `name: `.
//! A test program reports each of its tests as a line
//!
//! ```text
//! test NAME ok
//! test NAME FAILED: why
//! ```

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

pub use crate::qemu::Ending;

/// The status with which a kernel panic ends a run.
pub const PANIC_STATUS: u8 = 63;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Every byte that the serial port sent.
    pub serial: Vec<u8>,
    /// Host time from QEMU's start to its end. For people to look at: how busy the host is
    /// decides it.
    pub elapsed: Duration,
}

/// One line of a test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestReport {
    /// The test's name.
    pub name: String,
    /// What it says went wrong, if anything did.
    pub result: Result<(), String>,
}

impl Outcome {
    /// The status that the guest reported, if it did.
    #[must_use]
    pub fn status(&self) -> Option<u8> {
        match self.ending {
            Ending::Status(status) => Some(status),
            Ending::TimedOut | Ending::Stopped(_) => None,
        }
    }

    /// What the serial port said, as text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.serial)
    }

    /// The lines of the serial port, without their line ends.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let text = self.text().into_owned();
        let lines: Vec<_> =
            text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
        lines.into_iter()
    }

    /// What the test programs reported, in order.
    #[must_use]
    pub fn tests(&self) -> Vec<TestReport> {
        self.lines().filter_map(|line| report(&line)).collect()
    }

    /// Fails the calling test, with the serial log, unless the guest reported `status`.
    ///
    /// # Panics
    ///
    /// It reported another status, or none.
    #[track_caller]
    pub fn require_status(&self, status: u8) -> &Self {
        if self.status() != Some(status) {
            self.fail(&format!("expected the run to end with status {status}"));
        }
        self
    }

    /// Fails the calling test, with the serial log, unless some line contains `text`.
    ///
    /// # Panics
    ///
    /// No line does.
    #[track_caller]
    pub fn require_line(&self, text: &str) -> &Self {
        if !self.lines().any(|line| line.contains(text)) {
            self.fail(&format!("expected a line with `{text}`"));
        }
        self
    }

    /// Fails the calling test, with the serial log, unless the run ended with status 0, every
    /// test in `names` reported, once, and no test of the run failed.
    ///
    /// # Panics
    ///
    /// Otherwise.
    #[track_caller]
    pub fn require_tests(&self, names: &[&str]) -> &Self {
        self.require_status(0);
        let tests = self.tests();
        if let Some(test) = tests.iter().find(|test| test.result.is_err()) {
            self.fail(&format!("test {} failed", test.name));
        }
        for name in names {
            let times = tests.iter().filter(|test| test.name == *name).count();
            if times != 1 {
                self.fail(&format!("test {name} reported {times} times, not once"));
            }
        }
        self
    }

    /// Fails the calling test with a reason and the serial log.
    ///
    /// # Panics
    ///
    /// Always.
    #[track_caller]
    pub fn fail(&self, reason: &str) -> ! {
        panic!("{reason}\n{self}");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "ended with {:?} after {:.1} s; the serial port said:",
            self.ending,
            self.elapsed.as_secs_f64()
        )?;
        for line in self.lines() {
            writeln!(formatter, "  | {}", line.escape_debug())?;
        }
        Ok(())
    }
}

/// Reads a line of a test program, with or without the program's name in front.
fn report(line: &str) -> Option<TestReport> {
    let rest = match line.strip_prefix("test ") {
        Some(rest) => rest,
        None => {
            let (program, rest) = line.split_once(": test ")?;
            if program.is_empty() || program.contains([' ', '[']) {
                return None;
            }
            rest
        }
    };
    let (name, result) = match rest.split_once(" FAILED: ") {
        Some((name, why)) => (name, Err(why.to_owned())),
        None => (rest.strip_suffix(" ok")?, Ok(())),
    };
    Some(TestReport { name: name.to_owned(), result })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u8, serial: &str) -> Outcome {
        Outcome {
            ending: Ending::Status(status),
            serial: serial.as_bytes().to_vec(),
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn reports_are_found_among_other_lines() {
        let outcome = outcome(
            0,
            "[info] test of the log ok\r\n\
             test one ok\r\n\
             first-light: test two ok\n\
             test three FAILED: got 1, expected 2\n\
             test four maybe\n\
             test five\n\
             some words: test six ok\n\
             [info] x: test seven ok\n\
             test eight okay\n",
        );
        let report = |name: &str, result: Result<(), &str>| TestReport {
            name: name.to_owned(),
            result: result.map_err(str::to_owned),
        };
        assert_eq!(
            outcome.tests(),
            [
                report("one", Ok(())),
                report("two", Ok(())),
                report("three", Err("got 1, expected 2")),
            ]
        );
    }

    #[test]
    fn tests_that_passed_are_accepted() {
        outcome(0, "test a ok\ntest b ok\n").require_tests(&["a", "b"]).require_line("test b");
    }

    fn refused(check: fn(&Outcome), status: u8, serial: &str) -> String {
        let outcome = outcome(status, serial);
        let panic = std::panic::catch_unwind(|| check(&outcome)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    #[test]
    fn what_did_not_pass_is_refused_and_the_log_is_shown() {
        let tests = |outcome: &Outcome| {
            outcome.require_tests(&["a"]);
        };
        for (status, serial) in [
            (1, "test a ok\n"),
            (0, ""),
            (0, "test b ok\n"),
            (0, "test a ok\ntest a ok\n"),
            (0, "test a FAILED: x\n"),
            (0, "test a ok\ntest b FAILED: x\n"),
        ] {
            refused(tests, status, serial);
        }
        let message = refused(tests, 3, "[info] hello\n");
        assert!(message.contains("  | [info] hello\n"), "{message}");
        assert!(message.contains("Status(3)"), "{message}");
        refused(
            |outcome| {
                outcome.require_line("absent");
            },
            0,
            "present\n",
        );
    }
}
