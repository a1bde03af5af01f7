//! One run of Heliox in QEMU, from sources to exit status.
//!
//! Hides building, temporary files, QEMU's process and its output. Invariants: no run outlasts
//! its time limit, no QEMU outlasts its run, and at most [`MOST_RUNS`] of a process run at a
//! time.

use std::env;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;

use crate::archive;
use crate::bare;
use crate::disc::{self, OnFailure};
use crate::error::Error;
use crate::module::{Module, Modules};
use crate::outcome::Outcome;
use crate::process::Process;
use crate::provision::{self, Consent, Need};
use crate::qemu::{Accelerator, EXIT_PORT, GDB_PORT, Machine, Payload};
use crate::size::Size;
use crate::terminal;

/// How many machines of one process run at a time.
pub const MOST_RUNS: u32 = 2;
/// How long a run may take if nobody says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// What modules leave free of the machine's memory at least: the kernel and its tables.
const KERNEL_ROOM: Size = Size::from_mib(8);

/// The way the kernel is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// QEMU loads the kernel itself, as other virtual machine monitors do.
    #[default]
    Pvh,
    /// GRUB loads it from a CD, as on a real machine.
    Multiboot2,
}

/// How much the kernel logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Options of the kernel itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelOptions {
    /// How much it logs.
    pub log: LogLevel,
    /// Memory for its own objects; it decides if not given.
    pub kernel_memory: Option<Size>,
    /// Further words of its command line (`kernel/boot/src/options.rs` has them all).
    pub words: Vec<String>,
}

impl KernelOptions {
    /// The kernel's command line. With `exit_port` the kernel ends the run through
    /// [`EXIT_PORT`]; a real machine has no such port.
    #[must_use]
    pub fn command_line(&self, exit_port: bool) -> String {
        let mut words = vec![format!("log={}", self.log.name())];
        if let Some(size) = self.kernel_memory {
            words.push(format!("kernel-memory={}", size.bytes()));
        }
        words.extend(self.words.iter().cloned());
        if exit_port {
            words.push(format!("exit-port={EXIT_PORT:#x}"));
        }
        words.join(" ")
    }
}

/// A run to be: a builder, consumed by [`Boot::run`].
#[derive(Debug)]
pub struct Boot {
    kernel: Option<PathBuf>,
    modules: Modules,
    machine: Machine,
    options: KernelOptions,
    via: Via,
    timeout: Option<Duration>,
    serial: Option<PathBuf>,
    echo: bool,
    consent: Consent,
}

impl Default for Boot {
    fn default() -> Self {
        Self::new()
    }
}

impl Boot {
    /// A run of the workspace's kernel without modules, on a machine with one CPU and 512 MiB,
    /// that is stopped after [`DEFAULT_TIMEOUT`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            kernel: None,
            modules: Modules::default(),
            machine: Machine::default(),
            options: KernelOptions::default(),
            via: Via::Pvh,
            timeout: Some(DEFAULT_TIMEOUT),
            serial: None,
            echo: false,
            consent: Consent::here(false),
        }
    }

    /// Boots this ELF file instead of the workspace's kernel.
    #[must_use]
    pub fn kernel(mut self, file: impl Into<PathBuf>) -> Self {
        self.kernel = Some(file.into());
        self
    }

    /// Adds a module: a file, and its arguments separated by spaces.
    #[must_use]
    pub fn module(mut self, file: impl Into<PathBuf>, arguments: &str) -> Self {
        self.modules.add_file(file, arguments);
        self
    }

    /// Adds a program of this repository as a module: `x` is the binary of package `heliox-x`.
    #[must_use]
    pub fn program(mut self, name: &str, arguments: &str) -> Self {
        self.modules.add_program(name, arguments);
        self
    }

    /// Replaces all modules.
    #[must_use]
    pub fn modules(mut self, modules: Modules) -> Self {
        self.modules = modules;
        self
    }

    /// Replaces the whole machine.
    #[must_use]
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// The size of the machine's memory.
    #[must_use]
    pub fn memory(mut self, size: Size) -> Self {
        self.machine.memory = size;
        self
    }

    /// The number of CPUs.
    #[must_use]
    pub fn cpus(mut self, count: u16) -> Self {
        self.machine.cpus = count;
        self
    }

    /// QEMU's CPU model with features.
    #[must_use]
    pub fn cpu(mut self, model: &str) -> Self {
        self.machine.cpu = Some(model.to_owned());
        self
    }

    /// Whether time is counted in instructions, so that runs repeat exactly.
    #[must_use]
    pub fn icount(mut self, on: bool) -> Self {
        self.machine.icount = on;
        self
    }

    /// Adds an argument of QEMU.
    #[must_use]
    pub fn qemu_argument(mut self, argument: impl Into<OsString>) -> Self {
        self.machine.extra.push(argument.into());
        self
    }

    /// The way the kernel is loaded.
    #[must_use]
    pub fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }

    /// How much the kernel logs.
    #[must_use]
    pub fn log(mut self, level: LogLevel) -> Self {
        self.options.log = level;
        self
    }

    /// Memory for the kernel's own objects.
    #[must_use]
    pub fn kernel_memory(mut self, size: Size) -> Self {
        self.options.kernel_memory = Some(size);
        self
    }

    /// Adds a word to the kernel's command line.
    #[must_use]
    pub fn kernel_option(mut self, word: &str) -> Self {
        self.options.words.push(word.to_owned());
        self
    }

    /// Replaces the kernel's options.
    #[must_use]
    pub fn options(mut self, options: KernelOptions) -> Self {
        self.options = options;
        self
    }

    /// How long the run may take; `None` is for a debugger's patience only.
    #[must_use]
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        self
    }

    /// Boots the kernel that logs every operation on memory, to this file, unless another kernel is
    /// given.
    #[must_use]
    pub fn audit(mut self, file: impl Into<PathBuf>) -> Self {
        self.machine.debug_console = Some(file.into());
        self
    }

    /// Copies the serial port's output to a file.
    #[must_use]
    pub fn serial(mut self, file: impl Into<PathBuf>) -> Self {
        self.serial = Some(file.into());
        self
    }

    /// Whether the serial port's output goes to standard output as it comes, and QEMU's
    /// messages, if it was given arguments, to standard error.
    #[must_use]
    pub fn echo(mut self, on: bool) -> Self {
        self.echo = on;
        self
    }

    /// How far the tool may go to get what it needs.
    #[must_use]
    pub fn consent(mut self, consent: Consent) -> Self {
        self.consent = consent;
        self
    }

    /// Builds what is to be built, boots it, and waits for the end.
    ///
    /// # Errors
    ///
    /// The run could not start. However it ends once started is in the [`Outcome`].
    pub fn run(self) -> Result<Outcome, Error> {
        self.machine.check().map_err(Error::Usage)?;
        if self.machine.accelerator == Accelerator::Kvm {
            let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
            device.map_err(Error::Kvm)?;
        }
        let modules = self.modules.resolve(self.consent)?;
        check_room(&modules, self.machine.memory)?;
        let copy = match &self.serial {
            Some(path) => Some((path.as_path(), create(path)?)),
            None => None,
        };
        provision::ensure(Need::Qemu, self.consent)?;
        if self.via == Via::Multiboot2 {
            provision::ensure(Need::Grub, self.consent)?;
        }
        let kernel = match self.kernel {
            Some(file) => file,
            None if self.machine.debug_console.is_some() => bare::audited_kernel(self.consent)?,
            None => bare::kernel(self.consent)?,
        };

        let _turn = Turn::take();
        let directory = tempfile::tempdir().map_err(|source| Error::File {
            action: "make a directory in",
            path: env::temp_dir(),
            source,
        })?;
        let file = |name: &str| directory.path().join(name);
        let command_line = self.options.command_line(true);
        let (archive, image) = (file("archive"), file("image"));
        let payload = match self.via {
            Via::Pvh => {
                write_archive(&modules, &archive)?;
                Payload::Pvh { kernel: &kernel, archive: &archive, command_line: &command_line }
            }
            Via::Multiboot2 => {
                disc::write(&kernel, &modules, &command_line, OnFailure::Halt, &image)?;
                Payload::Disc(&image)
            }
        };
        if self.machine.gdb {
            terminal::note(format!(
                "the machine waits for a debugger; in another terminal type\n  gdb -ex 'target \
                 remote :{GDB_PORT}' {}",
                kernel.display()
            ));
        }
        let serial = file("serial");
        let host_memory = provision::host_memory();
        let arguments = self.machine.arguments(payload, &serial, host_memory);
        let process = Process::start(&arguments, &serial, &file("messages"))?;
        let messages_wanted = !self.machine.extra.is_empty();
        process.watch(self.timeout, |serial, messages| {
            if let Some((path, file)) = &copy {
                let written = (&*file).write_all(serial);
                written.map_err(|source| Error::File {
                    action: "write",
                    path: path.to_path_buf(),
                    source,
                })?;
            }
            // A reader that has gone away does not change what the guest does.
            if self.echo && !serial.is_empty() {
                let mut output = std::io::stdout().lock();
                let _ = output.write_all(serial).and_then(|()| output.flush());
            }
            if self.echo && messages_wanted {
                let _ = std::io::stderr().write_all(messages);
            }
            Ok(())
        })
    }
}

fn check_room(modules: &[Module], memory: Size) -> Result<(), Error> {
    let mut total: u64 = 0;
    for module in modules {
        total = total.saturating_add(module.size()?);
    }
    if total.saturating_add(KERNEL_ROOM.bytes()) > memory.bytes() {
        return Err(Error::ModulesTooLarge { modules: total, memory });
    }
    Ok(())
}

fn create(path: &Path) -> Result<File, Error> {
    File::create(path).map_err(|source| Error::File {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

fn write_archive(modules: &[Module], path: &Path) -> Result<(), Error> {
    let mut writer = archive::Writer::new(BufWriter::new(create(path)?));
    let mut write = || {
        for module in modules {
            let data = module.read().map_err(std::io::Error::other)?;
            writer.add(&module.command_line(), &data)?;
        }
        Ok(())
    };
    write().and_then(|()| writer.finish()).map_err(|source| Error::File {
        action: "write",
        path: path.to_path_buf(),
        source,
    })
}

static FREE_TURNS: Mutex<u32> = Mutex::new(MOST_RUNS);
static TURN_GIVEN_BACK: Condvar = Condvar::new();

/// The right to run one machine.
struct Turn;

impl Turn {
    /// Waits for one. Every run is bounded, so it comes.
    fn take() -> Self {
        let free = FREE_TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = TURN_GIVEN_BACK
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE_TURNS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        TURN_GIVEN_BACK.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_command_line() {
        let options = KernelOptions::default();
        assert_eq!(options.command_line(true), "log=info exit-port=0xf4");
        let options = KernelOptions {
            log: LogLevel::Trace,
            kernel_memory: Some(Size::from_mib(4)),
            words: vec!["unsafe-dma".to_owned()],
        };
        assert_eq!(options.command_line(false), "log=trace kernel-memory=4194304 unsafe-dma");
    }

    #[test]
    fn level_names_are_what_the_command_line_takes() {
        for level in LogLevel::value_variants() {
            let value = level.to_possible_value().unwrap();
            assert_eq!(value.get_name(), level.name());
        }
    }

    #[test]
    fn modules_leave_room_for_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        create(&path).unwrap().set_len(8 << 20).unwrap();
        let module = Module::new(&path, "").unwrap();
        assert!(check_room(std::slice::from_ref(&module), Size::from_mib(16)).is_ok());
        let two = [module.clone(), module];
        assert!(matches!(check_room(&two, Size::from_mib(16)), Err(Error::ModulesTooLarge { .. })));
        assert!(check_room(&two, Size::from_mib(24)).is_ok());
    }
}
