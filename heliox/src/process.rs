//! QEMU's process, and what it writes while it runs.
//!
//! Invariants: the process does not outlive the value that stands for it, and nothing that it
//! wrote before its end is lost.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::outcome::{Ending, Outcome};
use crate::provision::{self, QEMU};

/// How often to look for output and for the end.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running QEMU.
pub(crate) struct Process {
    child: Child,
    started: Instant,
    serial: Tail,
    messages: Tail,
}

impl Process {
    /// Starts QEMU, without input, with arguments that send the serial port to the file
    /// `serial`; its own messages go to the file `messages`. Where `setpriv` is installed, the
    /// host ends QEMU if the calling thread is gone, however it went.
    pub(crate) fn start(
        arguments: &[OsString],
        serial: &Path,
        messages: &Path,
    ) -> Result<Self, Error> {
        let mut command = match provision::find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--", QEMU]);
                command
            }
            None => Command::new(QEMU),
        };
        let (serial, _) = Tail::create(serial)?;
        let (messages, writer) = Tail::create(messages)?;
        let started = Instant::now();
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .map_err(spawn_error)?;
        Ok(Self { child, started, serial, messages })
    }

    /// Waits for the end, or until `limit` is over and then kills QEMU. Meanwhile gives `show`
    /// what is new from the serial port, and of QEMU's messages.
    ///
    /// # Errors
    ///
    /// What reading, or `show`, failed with.
    pub(crate) fn watch(
        mut self,
        limit: Option<Duration>,
        mut show: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<Outcome, Error> {
        let mut timed_out = false;
        let code = loop {
            // In this order: what was written before the end is read after it was seen.
            let ended = self.child.try_wait().map_err(spawn_error)?;
            show(self.serial.read()?, self.messages.read()?)?;
            if let Some(status) = ended {
                break status.code();
            }
            if !timed_out && limit.is_some_and(|limit| self.started.elapsed() >= limit) {
                timed_out = true;
                self.child.kill().map_err(spawn_error)?;
            }
            thread::sleep(POLL_INTERVAL);
        };
        let ending = if timed_out {
            Ending::TimedOut
        } else {
            Ending::from_qemu(code, &String::from_utf8_lossy(&self.messages.all))
        };
        Ok(Outcome {
            ending,
            serial: std::mem::take(&mut self.serial.all),
            elapsed: self.started.elapsed(),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail for a child that has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_error(source: std::io::Error) -> Error {
    Error::Spawn { command: QEMU.to_owned(), source }
}

/// A file that another process is still writing.
struct Tail {
    file: File,
    path: PathBuf,
    all: Vec<u8>,
}

impl Tail {
    /// Makes the file, empty, and returns what reads it and what writes it.
    fn create(path: &Path) -> Result<(Self, File), Error> {
        let failed =
            |action| move |source| Error::File { action, path: path.to_path_buf(), source };
        let writer = File::create(path).map_err(failed("write"))?;
        let tail = Self {
            file: File::open(path).map_err(failed("read"))?,
            path: path.to_path_buf(),
            all: Vec::new(),
        };
        Ok((tail, writer))
    }

    /// What was written since the last call.
    fn read(&mut self) -> Result<&[u8], Error> {
        let known = self.all.len();
        self.file.read_to_end(&mut self.all).map_err(|source| Error::File {
            action: "read",
            path: self.path.clone(),
            source,
        })?;
        Ok(self.all.get(known..).unwrap_or_default())
    }
}
