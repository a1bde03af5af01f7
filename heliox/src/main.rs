//! The command line of the host tool: options to library calls, errors to sentences.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use heliox::bare;
use heliox::bench;
use heliox::boot::{Boot, DEFAULT_TIMEOUT, KernelOptions, LogLevel, Via};
use heliox::check;
use heliox::disc::{self, OnFailure};
use heliox::error::{Error, status};
use heliox::module::{Module, ModuleError, Modules};
use heliox::outcome::{Ending, PANIC_STATUS};
use heliox::plan;
use heliox::provision::{self, Consent, Need};
use heliox::qemu::{Accelerator, DEFAULT_CPU, Machine};
use heliox::size::Size;
use heliox::terminal;

/// Builds Heliox, boots it in QEMU, and makes images for real machines.
///
/// Heliox is a microhypervisor for x86-64. This tool builds its kernel and the programs that
/// run on it, starts them in an emulated machine, and shows what the machine's serial port
/// says. Without a command it boots the demonstration.
#[derive(Debug, Parser)]
#[command(
    name = "heliox",
    version,
    after_long_help = "Examples:
  heliox                                    boot the demonstration
  heliox boot --module hello,'one two'      boot the program `hello` with two arguments
  heliox boot --memory 64G --cpus 4         on a larger machine
  heliox boot --icount                      so that every run is the same, to the byte
  heliox boot --gdb                         wait for a debugger
  heliox boot -- -d int,cpu_reset           with further options of QEMU
  heliox image -o heliox.iso                a disc for a real machine
  heliox plan --static-max 4GiB             the memory that a domain needs
  heliox bench ipc --plot ipc.svg           what a message costs, in instructions
  heliox check exhaustive                   the memory-safety of every state of a tiny machine

In the repository, `cargo run -- ` stands for `heliox`."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build the kernel and boot it in QEMU, with the serial port on standard output
    ///
    /// The exit status is the one that the booted program reports, 0 to 63 (63 is a kernel
    /// panic). The tool's own: 64 wrong options, 65 something does not build, 66 an input file
    /// cannot be used, 69 something is not installed, 70 the machine stopped without a report,
    /// 124 the run took longer than --timeout.
    #[command(visible_alias = "run")]
    Boot(Box<BootArguments>),
    /// Make a disc image that boots on a real machine
    Image(ImageArguments),
    /// Tell how much memory a domain, or a host with several domains, needs and what for
    #[command(after_long_help = PLAN_HELP)]
    Plan(Box<plan::Arguments>),
    /// Measure what the kernel costs, in instructions
    #[command(after_long_help = BENCH_HELP)]
    Bench(Box<bench::Arguments>),
    /// Check the HAL against the formal model, and the model against its security policy
    #[command(after_long_help = check::HELP)]
    Check(check::Arguments),
    /// Find or install everything that the other commands and the tests need
    Setup(SetupArguments),
    /// Run Clippy on the kernel and its programs, which a plain `cargo clippy` leaves out
    Lint(SetupArguments),
}

const PLAN_HELP: &str = "Examples:
  heliox plan --kind hvm --static-max 4GiB --target 2GiB --vcpus 2
  heliox plan --generation c --kind hvm --static-max 4GiB --target 2GiB --plot domain.svg
  heliox plan --static-max 4GiB --fits 10GiB --change vcpus=8
  heliox plan --static-max 4GiB --target 2GiB --mem-set 3GiB --json
  heliox plan host.toml --plot host.svg

Sizes are bytes, or numbers with KiB, MiB, GiB or TiB. A host file:
  memory = \"16GiB\"
  reserved = \"1GiB\"            # not for domains [default: none]
  generation = \"c\"             # or policy = \"libxl\" [default: libxl]
  [[domain]]                    # options as above, and:
  name = \"web\"
  static-max = \"4GiB\"
  target = \"2GiB\"
  dynamic-min = \"1GiB\"         # how far it can shrink [default: the target]
  dynamic-max = \"4GiB\"         # how far it can grow [default: the target]
  uncooperative = false         # true: balancing goes around it";
const BENCH_HELP: &str = "Examples:
  heliox bench ipc                          all messages, beside what others measured
  heliox bench ipc --words 0,7,8-16 --json
  heliox bench ipc --under fpu              with floating-point registers in use
  heliox bench kernel --time                faults, mappings, threads; with the time they take
  heliox bench phases --words 0,60          where the instructions of a message go
  heliox bench ipc --check                  compare with the counts that are checked in

Counts are of the emulator's instructions, and the same in every run.";

#[derive(Args, Debug, Default)]
struct ModuleArguments {
    /// The program that first owns all memory [default: Heliox's sigma0]
    #[arg(long, value_name = "FILE[,ARGS]")]
    sigma0: Option<OsString>,
    /// The program that is started to start all others [default: Heliox's root, which runs every
    /// module as a program]
    #[arg(long, value_name = "FILE[,ARGS]")]
    root: Option<OsString>,
    /// A program or file to load beside them, with its arguments; may be repeated. Without --root
    /// and modules the demonstration is loaded. Wherever there is no file of that name, `conformance`,
    /// `bench` and the other programs of this repository are meant by their names
    #[arg(long, value_name = "FILE[,ARGS]")]
    module: Vec<OsString>,
}

impl ModuleArguments {
    fn modules(&self) -> Result<Modules, ModuleError> {
        let mut modules = Modules::default();
        for (given, ours) in [(&self.sigma0, bare::SIGMA0), (&self.root, bare::ROOT)] {
            match given {
                Some(text) => modules.add_named(Module::parse(text)?),
                None => modules.add_program(ours, ""),
            }
        }
        for text in &self.module {
            modules.add_named(Module::parse(text)?);
        }
        if self.root.is_none() && self.module.is_empty() {
            modules.add_program(bare::DEMONSTRATION, "");
        }
        Ok(modules)
    }
}

#[derive(Args, Debug, Default)]
struct KernelArguments {
    /// Memory for the kernel's own objects [default: the kernel decides by the machine's]
    #[arg(long, value_name = "SIZE")]
    kernel_memory: Option<Size>,
    /// How much the kernel logs
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t)]
    log: LogLevel,
    /// A further word of the kernel's command line, such as `unsafe-dma`; can be repeated
    #[arg(long = "kernel-option", value_name = "WORD")]
    words: Vec<String>,
}

impl KernelArguments {
    fn options(&self) -> KernelOptions {
        KernelOptions {
            log: self.log,
            kernel_memory: self.kernel_memory,
            words: self.words.clone(),
        }
    }
}

#[derive(Args, Debug, Default)]
struct SetupArguments {
    /// Install nothing and fetch nothing; say what is missing instead
    #[arg(long)]
    offline: bool,
}

#[derive(Args, Debug)]
struct BootArguments {
    #[command(flatten)]
    modules: ModuleArguments,
    #[command(flatten)]
    kernel: KernelArguments,
    #[command(flatten)]
    setup: SetupArguments,
    /// Memory of the machine: bytes, or a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u16,
    /// Count time in instructions (1 ns each), so that every run is the same. With --via
    /// multiboot2, how long GRUB reads from its CD still differs
    #[arg(long)]
    icount: bool,
    /// Who executes instructions: QEMU (tcg) or the host's CPU (kvm)
    #[arg(long, value_enum, default_value_t)]
    accel: Accelerator,
    /// QEMU's CPU model with features; the default leaves out what makes runs differ
    #[arg(long, value_name = "MODEL", default_value = DEFAULT_CPU)]
    cpu: String,
    /// Stop the run after this many seconds [default: 60; none with --gdb]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Copy what the serial port says to a file
    #[arg(long, value_name = "FILE")]
    serial: Option<PathBuf>,
    /// Log every operation of the kernel on memory to a file, for `heliox check replay`
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Wait for gdb before the first instruction, and print the command to start it
    #[arg(long)]
    gdb: bool,
    /// How the kernel is loaded: by QEMU (pvh) or by GRUB from a CD (multiboot2)
    #[arg(long, value_enum, default_value_t)]
    via: Via,
    /// Further arguments of QEMU
    #[arg(last = true, value_name = "QEMU-ARGS")]
    qemu: Vec<OsString>,
}

#[derive(Args, Debug)]
struct ImageArguments {
    /// The image to write
    #[arg(short, long, value_name = "FILE.iso")]
    output: PathBuf,
    #[command(flatten)]
    modules: ModuleArguments,
    #[command(flatten)]
    kernel: KernelArguments,
    #[command(flatten)]
    setup: SetupArguments,
}

fn main() -> ExitCode {
    let action = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => status::USAGE,
            });
        }
    };
    let result = match action.unwrap_or_else(demonstration) {
        Action::Boot(arguments) => boot(*arguments),
        Action::Image(arguments) => image(&arguments),
        Action::Plan(arguments) => plan::run(&arguments).map(|()| 0),
        Action::Bench(arguments) => bench::run(&arguments),
        Action::Check(arguments) => check::run(&arguments),
        Action::Setup(arguments) => setup(&arguments),
        Action::Lint(arguments) => bare::lint(Consent::here(arguments.offline)).map(|()| 0),
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        terminal::error(&error);
        error.status()
    }))
}

/// What no command means: `boot` without options, defaults and all.
fn demonstration() -> Action {
    let line = CommandLine::parse_from(["heliox", "boot"].map(OsStr::new));
    line.command.unwrap_or(Action::Setup(SetupArguments::default()))
}

fn boot(arguments: BootArguments) -> Result<u8, Error> {
    let limit = match arguments.timeout {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None if arguments.gdb => None,
        None => Some(DEFAULT_TIMEOUT),
    };
    let mut boot = Boot::new()
        .modules(arguments.modules.modules()?)
        .options(arguments.kernel.options())
        .machine(Machine {
            memory: arguments.memory,
            cpus: arguments.cpus,
            accelerator: arguments.accel,
            cpu: Some(arguments.cpu),
            icount: arguments.icount,
            gdb: arguments.gdb,
            debug_console: None,
            extra: arguments.qemu,
        })
        .via(arguments.via)
        .timeout(limit)
        .consent(Consent::here(arguments.setup.offline))
        .echo(true);
    if let Some(file) = arguments.serial {
        boot = boot.serial(file);
    }
    if let Some(file) = arguments.audit {
        boot = boot.audit(file);
    }
    Ok(match boot.run()?.ending {
        Ending::Status(0) => 0,
        Ending::Status(PANIC_STATUS) => {
            terminal::error("the kernel panicked: the log above says where");
            PANIC_STATUS
        }
        Ending::Status(reported) => {
            terminal::error(format!("the run ended with status {reported}"));
            reported
        }
        Ending::TimedOut => {
            terminal::error(format!(
                "the run was stopped after {} s: if it needs longer, give more with --timeout",
                limit.unwrap_or_default().as_secs()
            ));
            status::TIMEOUT
        }
        Ending::Stopped(how) => {
            terminal::error(how);
            status::MACHINE
        }
    })
}

fn image(arguments: &ImageArguments) -> Result<u8, Error> {
    let consent = Consent::here(arguments.setup.offline);
    let modules = arguments.modules.modules()?.resolve(consent)?;
    provision::ensure(Need::Grub, consent)?;
    let uefi = provision::ensure(Need::GrubUefi, consent);
    let kernel = bare::kernel(consent)?;
    let command_line = arguments.kernel.options().command_line(false);
    terminal::status("Writing", arguments.output.display());
    let spinner = terminal::Spinner::start("grub-mkrescue");
    disc::write(&kernel, &modules, &command_line, OnFailure::Prompt, &arguments.output)?;
    drop(spinner);
    if let Err(error) = uefi {
        terminal::note(format!("the image boots on BIOS machines only: {error}"));
    }
    terminal::note(try_it(&arguments.output));
    Ok(0)
}

fn try_it(image: &Path) -> String {
    format!(
        "try it with `qemu-system-x86_64 -M q35 -cpu max -m 512M -serial stdio -cdrom {}`",
        image.display()
    )
}

fn setup(arguments: &SetupArguments) -> Result<u8, Error> {
    let consent = Consent::here(arguments.offline);
    let mut worst = 0;
    for need in [Need::BareTarget, Need::Qemu, Need::Grub, Need::GrubUefi] {
        match provision::ensure(need, consent) {
            Ok(()) => terminal::status("Found", need),
            Err(error) => {
                terminal::error(&error);
                worst = error.status();
            }
        }
    }
    Ok(worst)
}
