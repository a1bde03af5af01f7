//! A run whose program says which parts of it are to be traced.
//!
//! Hides QEMU's debug stub and execution log. The program calls a function `trace_begin`, then does
//! what is to be measured, and calls `trace_end`; as often as it likes. The machine stands still at
//! both, so the log has that part and nothing else, and no more than [`LOG_LIMIT`]. Neither kernel
//! nor program is changed by being traced: breakpoints are the emulator's.
//!
//! While the machine stands still, the emulator lets the time pass that is left until the next timer
//! interrupt. So one can come at the beginning of a part; [`super::visit`] outvotes it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;

use crate::boot::Boot;
use crate::error::Error;
use crate::outcome::Outcome;

use super::code::Code;
use super::debugger::{Debugger, DebuggerError, Stop};
use super::trace::{self, Step, TraceError};

/// The function of a program from which on is traced.
pub const BEGIN: &str = "trace_begin";
/// The function at which tracing ends.
pub const END: &str = "trace_end";
/// The function at which a round of what is measured begins. Not every program has one.
pub const ROUND: &str = "trace_round";
/// The function at which a round ends before the next one begins. Not every program has one.
pub const REST: &str = "trace_rest";

/// Bytes that the execution log of one part can have: about 90 for each instruction.
pub const LOG_LIMIT: u64 = 128 << 20;

/// Why a traced run gave no traces.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The program does not say what to trace.
    #[error("{} has no function `{name}`: only programs that mark what to trace can be traced", program.display())]
    NoMark {
        /// The program.
        program: PathBuf,
        /// The function.
        name: &'static str,
    },
    /// The debug stub failed.
    #[error(transparent)]
    Debugger(#[from] DebuggerError),
    /// The log is not understood.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The log cannot be read.
    #[error("cannot read QEMU's execution log: {0}")]
    Log(#[from] io::Error),
    /// Too much happened between the marks.
    #[error("more than {} MiB of execution log between `{BEGIN}` and `{END}`", LOG_LIMIT >> 20)]
    TooLong,
    /// This QEMU cannot execute one instruction at a time.
    #[error("QEMU's monitor has neither `singlestep` nor `one-insn-per-tb`")]
    NoSingleStep,
}

/// A run and its traces.
pub struct Traced {
    /// How the run ended.
    pub outcome: Outcome,
    /// What was executed between each pair of marks.
    pub sections: Vec<Vec<Step>>,
    /// The code that was executed.
    pub code: Code,
}

/// Boots, and traces what the program of `code` says. `boot` boots that program on the kernel of
/// `code`, on one CPU.
///
/// # Errors
///
/// The run could not start, or not be traced. However it ends once started is in the outcome.
pub fn run(boot: Boot, mut code: Code) -> Result<Traced, Error> {
    let mark = |name: &'static str| {
        let address = code.program.function(name);
        address.ok_or_else(|| {
            let program = code.program.path().to_path_buf();
            Error::Trace(SessionError::NoMark { program, name })
        })
    };
    let (begin, end) = (mark(BEGIN)?, mark(END)?);
    let directory = tempfile::tempdir().map_err(|source| Error::File {
        action: "make a directory in",
        path: std::env::temp_dir(),
        source,
    })?;
    let (socket, log) = (directory.path().join("stub"), directory.path().join("log"));
    let boot = boot
        .qemu_argument("-S")
        .qemu_argument("-gdb")
        .qemu_argument(format!("unix:{},server=on,wait=off", socket.display()))
        .qemu_argument("-D")
        .qemu_argument(&log);
    thread::scope(|scope| {
        let run = scope.spawn(move || boot.run());
        let sections = match Debugger::connect(&socket, || run.is_finished()) {
            Ok(Some(debugger)) => Tracer { debugger, log: Log::new(&log), code: &mut code }
                .sections(begin, end)
                .map_err(Error::Trace),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(Error::Trace(error.into())),
        };
        let outcome = match run.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // What went wrong with the run is the cause of what then went wrong with its traces.
        let outcome = outcome?;
        Ok((outcome, sections?))
    })
    .map(|(outcome, sections)| Traced { outcome, sections, code })
}

struct Tracer<'code> {
    debugger: Debugger,
    log: Log,
    code: &'code mut Code,
}

impl Tracer<'_> {
    /// Lets the machine run to its end.
    fn sections(mut self, begin: u64, end: u64) -> Result<Vec<Vec<Step>>, SessionError> {
        let sections = self.trace(begin, end);
        if sections.is_err() {
            self.debugger.kill();
        }
        sections
    }

    fn trace(&mut self, begin: u64, end: u64) -> Result<Vec<Vec<Step>>, SessionError> {
        let mut sections = Vec::new();
        self.debugger.set_breakpoint(begin)?;
        loop {
            if self.debugger.go_on(|| Ok::<_, SessionError>(()))? == Stop::Ended {
                return Ok(sections);
            }
            self.move_breakpoint(begin, end)?;
            self.step_singly(true)?;
            self.debugger.monitor("log exec,nochain")?;
            let log = &self.log;
            let stop = self.debugger.go_on(|| log.check())?;
            if stop == Stop::Ended {
                // The program did not reach its mark: the outcome tells why.
                return Ok(sections);
            }
            self.debugger.monitor("log none")?;
            self.step_singly(false)?;
            self.move_breakpoint(end, begin)?;
            let steps = trace::parse(&self.log.read()?)?;
            self.read_code(&steps)?;
            sections.push(steps);
        }
    }

    /// The instruction at a breakpoint is executed only when the breakpoint is gone.
    fn move_breakpoint(&mut self, from: u64, to: u64) -> Result<(), DebuggerError> {
        self.debugger.remove_breakpoint(from)?;
        self.debugger.set_breakpoint(to)
    }

    /// Whether QEMU makes a block of each single instruction.
    fn step_singly(&mut self, on: bool) -> Result<(), SessionError> {
        let state = if on { "on" } else { "off" };
        // The name until QEMU 8.0, and since.
        for command in ["singlestep", "one-insn-per-tb"] {
            if !self.debugger.monitor(&format!("{command} {state}"))?.contains("unknown command") {
                return Ok(());
            }
        }
        Err(SessionError::NoSingleStep)
    }

    /// Reads what is executed but in no file.
    fn read_code(&mut self, steps: &[Step]) -> Result<(), DebuggerError> {
        for step in steps {
            if let Some(page) = self.code.missing(step.address) {
                let contents = self.debugger.memory(page, Code::page_bytes())?;
                self.code.add_memory(page, contents);
            }
        }
        Ok(())
    }
}

/// QEMU's log, read as it grows.
struct Log {
    path: PathBuf,
    read: u64,
}

impl Log {
    fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), read: 0 }
    }

    /// Fails if it grew too much since it was read.
    fn check(&self) -> Result<(), SessionError> {
        let bytes = self.path.metadata().map_or(0, |metadata| metadata.len());
        if bytes.saturating_sub(self.read) > LOG_LIMIT {
            return Err(SessionError::TooLong);
        }
        Ok(())
    }

    /// What was written since the last call.
    fn read(&mut self) -> Result<String, SessionError> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        self.read += file.read_to_string(&mut text)? as u64;
        Ok(text)
    }
}
