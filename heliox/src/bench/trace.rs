//! What QEMU's log of executed blocks says, as the sequence of instructions that were executed.
//!
//! Hides the log's format (`-d exec,nochain`, with one instruction for each block):
//!
//! ```text
//! Trace 0: 0x7f0ca4000100 [0000000000000000/ffffffff80201440/18c0c290/ff020201] NAME
//! ```
//!
//! where the numbers in brackets are the base of CS, the instruction's address, flags whose lowest
//! two bits are the privilege level, and flags of the translation. A line is written before the
//! instruction is executed; if it then is not, another line says so.

/// An instruction that was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Its address.
    pub address: u64,
    /// Whether it was a program's.
    pub user: bool,
}

/// The log does not have the expected form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line is of no known kind.
    #[error("line {line} of the execution log is not understood: {text}")]
    Line {
        /// Number of the line, from 1 on.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A line takes back another instruction than the last.
    #[error("line {line} of the execution log takes back {address:#x}, which is not the last")]
    TakenBack {
        /// Number of the line, from 1 on.
        line: usize,
        /// The instruction's address.
        address: u64,
    },
    /// More than one CPU was executing.
    #[error("line {line} of the execution log is of a second CPU")]
    SecondCpu {
        /// Number of the line, from 1 on.
        line: usize,
    },
}

/// Reads a log of one CPU.
///
/// # Errors
///
/// It has another form.
pub fn parse(log: &str) -> Result<Vec<Step>, TraceError> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, text) in (1..).zip(log.lines()) {
        let unknown = || TraceError::Line { line: number, text: text.to_owned() };
        if let Some(rest) = text.strip_prefix("Trace ") {
            let (cpu, rest) = rest.split_once(": ").ok_or_else(unknown)?;
            if cpu != "0" {
                return Err(TraceError::SecondCpu { line: number });
            }
            steps.push(executed(rest).ok_or_else(unknown)?);
        } else if let Some(address) = taken_back(text).ok_or_else(unknown)?
            && steps.pop().is_none_or(|last| last.address != address)
        {
            return Err(TraceError::TakenBack { line: number, address });
        }
    }
    Ok(steps)
}

/// Reads `0x7f... [CS/ADDRESS/FLAGS/...] NAME`.
fn executed(text: &str) -> Option<Step> {
    let (_, rest) = text.split_once('[')?;
    let mut fields = rest.split(']').next()?.split('/').skip(1);
    let address = u64::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u64::from_str_radix(fields.next()?, 16).ok()?;
    Some(Step { address, user: flags & 3 == 3 })
}

/// The address of an instruction that was logged and then not executed, if the line says that.
/// `None` for a line of an unknown kind.
fn taken_back(text: &str) -> Option<Option<u64>> {
    let address = |text: &str| u64::from_str_radix(text, 16).ok();
    if let Some(rest) = text.strip_prefix("cpu_io_recompile: rewound execution of TB to ") {
        return address(rest.trim()).map(Some);
    }
    if let Some(rest) = text.strip_prefix("Stopped execution of TB chain before ") {
        let (_, rest) = rest.split_once('[')?;
        return address(rest.split(']').next()?).map(Some);
    }
    // A breakpoint or an emptied cache of translations: nothing was executed.
    text.is_empty().then_some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_instructions() {
        let log = "\
            Trace 0: 0x7f0ca4000100 [0000000000000000/ffffffff80201440/18c0c290/ff020201] \n\
            Trace 0: 0x7f0ca4000280 [0000000000000000/0000000000401170/18c0c2b3/ff020201] main\n";
        let expected = [
            Step { address: 0xffff_ffff_8020_1440, user: false },
            Step { address: 0x40_1170, user: true },
        ];
        assert_eq!(parse(log).unwrap(), expected);
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn what_was_not_executed_does_not_count() {
        let line = |address: &str| format!("Trace 0: 0x7f [0/{address}/0/ff020201] \n");
        let log = line("10")
            + &line("12")
            + "cpu_io_recompile: rewound execution of TB to 0000000000000012\n"
            + &line("12")
            + &line("14")
            + "Stopped execution of TB chain before 0x7f0ca4000100 [0000000000000014] name\n"
            + &line("14");
        let addresses: Vec<_> = parse(&log).unwrap().iter().map(|step| step.address).collect();
        assert_eq!(addresses, [0x10, 0x12, 0x14]);
    }

    #[test]
    fn another_form_is_refused() {
        let taken_back = "cpu_io_recompile: rewound execution of TB to 12\n";
        for (log, error) in [
            ("Trace 0: 0x7f [0/zz/0/0]\n", "not understood"),
            ("Trace 0: 0x7f\n", "not understood"),
            ("IN: main\n", "not understood"),
            ("Trace 1: 0x7f [0/10/0/0]\n", "second CPU"),
            (taken_back, "takes back 0x12"),
        ] {
            let found = parse(log).unwrap_err().to_string();
            assert!(found.contains(error), "{found}");
        }
    }
}
