//! QEMU's command line and exit status.
//!
//! Hides how a machine is described to QEMU. Everything here is a pure function, so that
//! tables of options and arguments can be compared.
//!
//! The machine is `q35`, not `pc`: it has what a machine of today has (PCI Express with its
//! configuration space in memory, and the places for an IOMMU), and its RAM has a hole below
//! 4 GiB from 2.75 GiB of memory on, as real machines have. Timer, port 0x61, interrupt
//! controllers and the exit port are the same on both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::size::Size;

/// The port whose writes end the run (QEMU's `isa-debug-exit`).
pub const EXIT_PORT: u16 = 0xf4;
/// The least memory that is worth a try.
pub const LEAST_MEMORY: Size = Size::from_mib(16);
/// QEMU rounds memory to this many bytes; the tool asks for it to be exact.
pub const MEMORY_UNIT: Size = Size::from_bytes(8192);
/// Most CPUs of a `q35` machine.
pub const MOST_CPUS: u16 = 255;
/// Where QEMU waits for a debugger with `--gdb`.
pub const GDB_PORT: u16 = 1234;
/// All that QEMU can emulate, but for instructions whose results differ from run to run.
pub const DEFAULT_CPU: &str = "max,-rdrand,-rdseed";

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accelerator {
    /// QEMU emulates the CPU: works everywhere.
    #[default]
    Tcg,
    /// The host's CPU, through /dev/kvm.
    Kvm,
}

/// A machine for QEMU to build.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Size of its RAM.
    pub memory: Size,
    /// Number of CPUs.
    pub cpus: u16,
    /// Who executes instructions.
    pub accelerator: Accelerator,
    /// QEMU's CPU model with features; [`DEFAULT_CPU`] if not given.
    pub cpu: Option<String>,
    /// One instruction is one nanosecond of the guest's time, so that runs through PVH repeat
    /// exactly. When a disc answers depends on the host, so GRUB takes a different time each run.
    pub icount: bool,
    /// Wait for a debugger at [`GDB_PORT`] before the first instruction.
    pub gdb: bool,
    /// A file for what is written to the debug console, port 0xe9.
    pub debug_console: Option<PathBuf>,
    /// Further arguments, after all others.
    pub extra: Vec<OsString>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            memory: Size::from_mib(512),
            cpus: 1,
            accelerator: Accelerator::Tcg,
            cpu: None,
            icount: false,
            gdb: false,
            debug_console: None,
            extra: Vec::new(),
        }
    }
}

/// What the machine is started with.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A kernel that QEMU loads through its PVH note.
    Pvh {
        /// The kernel's ELF file.
        kernel: &'a Path,
        /// The archive of all modules.
        archive: &'a Path,
        /// The kernel's command line.
        command_line: &'a str,
    },
    /// A CD to boot from.
    Disc(&'a Path),
}

impl Machine {
    /// Checks that the options make sense together.
    ///
    /// # Errors
    ///
    /// A sentence that says which option to change.
    pub fn check(&self) -> Result<(), String> {
        if self.memory < LEAST_MEMORY {
            return Err(format!(
                "{} of memory is too little for any machine: give --memory {LEAST_MEMORY} or more",
                self.memory
            ));
        }
        if !self.memory.bytes().is_multiple_of(MEMORY_UNIT.bytes()) {
            return Err(format!(
                "QEMU gives memory in units of {MEMORY_UNIT}: round --memory {} to a multiple",
                self.memory
            ));
        }
        if self.cpus == 0 || self.cpus > MOST_CPUS {
            return Err(format!(
                "a machine has 1 to {MOST_CPUS} CPUs: change --cpus {}",
                self.cpus
            ));
        }
        if self.icount && self.accelerator == Accelerator::Kvm {
            return Err(
                "--icount counts instructions that are emulated: leave out --accel kvm".to_owned()
            );
        }
        Ok(())
    }

    /// QEMU's arguments. `serial` is the file that receives the serial port's output, and
    /// `host_memory` the size of the host's RAM: a guest with more than half of that gets
    /// memory that is not reserved.
    ///
    /// The serial port goes to a file because a file always takes a byte. A pipe can be full,
    /// and the guest would see that as a slow serial port, and two runs would differ.
    #[must_use]
    pub fn arguments(
        &self,
        payload: Payload<'_>,
        serial: &Path,
        host_memory: Size,
    ) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.add("-nodefaults");
        arguments.add("-no-user-config");
        if self.memory.bytes() > host_memory.bytes() / 2 {
            arguments.pair(
                "-object",
                format!("memory-backend-ram,id=memory,size={}B,reserve=off", self.memory.bytes()),
            );
            arguments.pair("-machine", "q35,memory-backend=memory");
        } else {
            arguments.pair("-machine", "q35");
        }
        arguments.pair("-m", format!("{}B", self.memory.bytes()));
        arguments.pair("-smp", self.cpus.to_string());
        arguments.pair("-cpu", self.cpu.as_deref().unwrap_or(DEFAULT_CPU));
        match self.accelerator {
            Accelerator::Tcg if self.icount => {
                arguments.pair("-accel", "tcg,thread=single");
                arguments.pair("-icount", "shift=0,sleep=off");
                arguments.pair("-rtc", "base=2026-01-01T00:00:00,clock=vm");
            }
            Accelerator::Tcg => arguments.pair("-accel", "tcg"),
            Accelerator::Kvm => arguments.pair("-accel", "kvm"),
        }
        for (option, value) in [("-display", "none"), ("-vga", "none"), ("-monitor", "none")] {
            arguments.pair(option, value);
        }
        arguments.add("-no-reboot");
        arguments.pair("-device", format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"));
        arguments.pair("-chardev", with_path("file,id=serial,path=", serial));
        arguments.pair("-serial", "chardev:serial");
        if let Some(file) = &self.debug_console {
            arguments.pair("-chardev", with_path("file,id=debug,path=", file));
            arguments.pair("-device", "isa-debugcon,iobase=0xe9,chardev=debug");
        }
        if self.gdb {
            arguments.add("-S");
            arguments.pair("-gdb", format!("tcp:127.0.0.1:{GDB_PORT}"));
        }
        match payload {
            Payload::Pvh { kernel, archive, command_line } => {
                arguments.pair("-kernel", kernel);
                arguments.pair("-initrd", archive);
                arguments.pair("-append", command_line);
            }
            Payload::Disc(image) => {
                arguments.pair(
                    "-drive",
                    with_path("if=ide,media=cdrom,format=raw,readonly=on,file=", image),
                );
                arguments.pair("-boot", "order=d");
            }
        }
        arguments.0.extend(self.extra.iter().cloned());
        arguments.0
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add(&mut self, argument: impl Into<OsString>) {
        self.0.push(argument.into());
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.add(option);
        self.add(value);
    }
}

/// `prefix` and a path in which commas are doubled, as QEMU's option syntax wants.
fn with_path(prefix: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(prefix);
    for (index, part) in path.as_os_str().as_encoded_bytes().split(|byte| *byte == b',').enumerate()
    {
        if index > 0 {
            argument.push(",,");
        }
        argument.push(OsStr::from_bytes(part));
    }
    argument
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest reported this status, 0 to 63; 63 is a kernel panic.
    Status(u8),
    /// The run took longer than it was given.
    TimedOut,
    /// The machine stopped without a report; the text is a sentence that says how.
    Stopped(String),
}

impl Ending {
    /// What QEMU's exit code says, and what it wrote to its standard error. `None` is a
    /// QEMU that was killed by a signal.
    ///
    /// The guest writes `0x40 | status` to the exit port and QEMU exits with
    /// `(value << 1) | 1`, so no report looks like one of QEMU's own exit codes.
    #[must_use]
    pub fn from_qemu(code: Option<i32>, standard_error: &str) -> Self {
        let message = standard_error.trim();
        match code {
            Some(code @ 0x81..=0xff) if code & 1 == 1 => {
                Self::Status(u8::try_from((code >> 1) & 0x3f).unwrap_or(u8::MAX))
            }
            Some(0) => Self::Stopped(
                "the machine stopped without reporting a status: it reset, shut down, or \
                 triple faulted"
                    .to_owned(),
            ),
            _ if message.contains("initrd is too large") => Self::Stopped(
                "the modules do not fit into the machine's memory below 4 GiB: give more with \
                 --memory, or smaller modules"
                    .to_owned(),
            ),
            Some(code) if message.is_empty() => {
                Self::Stopped(format!("QEMU ended with exit status {code}"))
            }
            None if message.is_empty() => Self::Stopped("QEMU was killed by a signal".to_owned()),
            _ => Self::Stopped(format!(
                "QEMU failed: {}",
                message.strip_prefix("qemu-system-x86_64: ").unwrap_or(message)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Size = Size::from_mib(24 << 10);

    fn line(machine: &Machine, payload: Payload<'_>) -> String {
        let arguments = machine.arguments(payload, Path::new("a,b/serial"), HOST);
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        format!(" {} ", words.join(" "))
    }

    fn pvh() -> Payload<'static> {
        Payload::Pvh {
            kernel: Path::new("/k,ernel"),
            archive: Path::new("/archive"),
            command_line: "log=info",
        }
    }

    #[test]
    fn a_machine_by_default() {
        let expected = " -nodefaults -no-user-config -machine q35 -m 536870912B -smp 1 \
            -cpu max,-rdrand,-rdseed -accel tcg -display none -vga none -monitor none -no-reboot \
            -device isa-debug-exit,iobase=0xf4,iosize=4 \
            -chardev file,id=serial,path=a,,b/serial -serial chardev:serial \
            -kernel /k,ernel -initrd /archive -append log=info ";
        assert_eq!(line(&Machine::default(), pvh()), expected);
    }

    #[test]
    fn each_option_says_what_it_means() {
        let change = |change: fn(&mut Machine)| {
            let mut machine = Machine::default();
            change(&mut machine);
            line(&machine, pvh())
        };
        for (line, expected) in [
            (change(|m| m.cpus = 4), " -smp 4 "),
            (change(|m| m.cpu = Some("qemu64".into())), " -cpu qemu64 "),
            (change(|m| m.accelerator = Accelerator::Kvm), " -accel kvm "),
            (
                change(|m| m.icount = true),
                " -accel tcg,thread=single -icount shift=0,sleep=off \
                 -rtc base=2026-01-01T00:00:00,clock=vm ",
            ),
            (change(|m| m.gdb = true), " -S -gdb tcp:127.0.0.1:1234 "),
            (change(|m| m.extra = vec!["-d".into()]), " log=info -d "),
            (change(|m| m.memory = Size::from_mib(12 << 10)), " -machine q35 -m 12884901888B "),
            (
                change(|m| m.memory = Size::from_mib(64 << 10)),
                " -object memory-backend-ram,id=memory,size=68719476736B,reserve=off \
                 -machine q35,memory-backend=memory -m 68719476736B ",
            ),
        ] {
            assert!(line.contains(expected), "{expected} in {line}");
        }
    }

    #[test]
    fn a_disc_is_booted_from() {
        let line = line(&Machine::default(), Payload::Disc(Path::new("/a,b.iso")));
        assert!(line.contains(
            " -drive if=ide,media=cdrom,format=raw,readonly=on,file=/a,,b.iso -boot order=d "
        ));
        assert!(!line.contains("-kernel"));
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let refused = |change: fn(&mut Machine)| {
            let mut machine = Machine::default();
            change(&mut machine);
            machine.check().is_err()
        };
        assert!(!refused(|_| ()));
        assert!(!refused(|m| m.memory = LEAST_MEMORY));
        assert!(refused(|m| m.memory = Size::from_mib(15)));
        assert!(refused(|m| m.memory = Size::from_bytes((16 << 20) + 4096)));
        assert!(refused(|m| m.cpus = 0));
        assert!(refused(|m| m.cpus = 256));
        assert!(refused(|m| {
            m.icount = true;
            m.accelerator = Accelerator::Kvm;
        }));
    }

    #[test]
    fn every_status_survives_the_exit_port() {
        for status in 0..=63_u8 {
            let code = (i32::from(0x40 | status) << 1) | 1;
            assert_eq!(Ending::from_qemu(Some(code), ""), Ending::Status(status));
        }
    }

    #[test]
    fn other_endings_are_not_taken_for_a_status() {
        for code in (0..=0x80).chain((0x82..=0xfe).step_by(2)) {
            assert!(matches!(Ending::from_qemu(Some(code), ""), Ending::Stopped(_)), "{code:#x}");
        }
        assert!(matches!(Ending::from_qemu(None, ""), Ending::Stopped(_)));
    }

    #[test]
    fn the_sentence_says_what_qemu_said() {
        let sentence = |code, text: &str| match Ending::from_qemu(code, text) {
            Ending::Stopped(sentence) => sentence,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            sentence(Some(1), "qemu-system-x86_64: no such CPU\n"),
            "QEMU failed: no such CPU"
        );
        let large = "qemu: initrd is too large, cannot support it. (max: 1, need 2)\n";
        assert!(sentence(Some(1), large).contains("give more with --memory"));
        assert!(sentence(Some(0), "").contains("without reporting"));
        assert!(sentence(None, "").contains("signal"));
    }
}
