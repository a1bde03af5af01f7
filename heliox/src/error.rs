//! What can go wrong before, around and after a run, and the exit status that says so.
//!
//! Programs that run on Heliox report statuses 0 to 63. The tool's own are outside that
//! range, so that a status tells who speaks; they follow `sysexits.h` and `timeout`.

use std::path::PathBuf;

use crate::bench::session::SessionError;
use crate::module::ModuleError;
use crate::provision::Refusal;
use crate::size::Size;

/// Why the tool could not do what it was asked to. Displays as one sentence that says what
/// to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options contradict each other or ask for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A module cannot be used.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// The modules leave no room in the guest's memory.
    #[error(
        "the modules take {modules} bytes, which leaves no room for the kernel in {memory} of \
         memory: give more with --memory"
    )]
    ModulesTooLarge {
        /// Bytes of all modules together.
        modules: u64,
        /// Memory of the machine.
        memory: Size,
    },
    /// An input file does not say what it should.
    #[error("{}{}: {why}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Input {
        /// Which file.
        path: PathBuf,
        /// Where in it, if that is known.
        line: Option<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// Something that is needed is not installed, and was not installed now.
    #[error(transparent)]
    Missing(#[from] Refusal),
    /// A command that was to install something failed.
    #[error("`{command}` failed: {detail}")]
    Install {
        /// The command as one would type it.
        command: String,
        /// Its exit status, or why it did not start, and the end of its output.
        detail: String,
    },
    /// A package of the workspace did not build; cargo has shown why.
    #[error("{package} does not build: the messages above say why")]
    Build {
        /// The package.
        package: String,
    },
    /// A package of the workspace has warnings; Clippy has shown which.
    #[error("{package} has warnings: the messages above say which")]
    Lint {
        /// The package's directory.
        package: String,
    },
    /// A C program of a test did not compile.
    #[error("the C program {name} does not compile:\n{messages}")]
    Compile {
        /// The program.
        name: String,
        /// What the compiler said.
        messages: String,
    },
    /// The sources are not where they can be found.
    #[error(
        "cannot find the sources of Heliox: run this from inside the repository (the directory \
         with kernel/image)"
    )]
    NoWorkspace,
    /// A file of the tool's own could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read`, `write` ...
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A command could not be started.
    #[error("cannot run {command}: {source}")]
    Spawn {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// A benchmark did not run, or contradicts itself.
    #[error("{0}")]
    Bench(String),
    /// What a program executes could not be traced.
    #[error(transparent)]
    Trace(#[from] SessionError),
    /// The tools that make an image failed.
    #[error("grub-mkrescue could not make the image: {0}")]
    Image(String),
    /// KVM was asked for and cannot be used.
    #[error(
        "--accel kvm needs to read and write /dev/kvm, and that failed: {0}. Leave out --accel \
         kvm to emulate the machine"
    )]
    Kvm(std::io::Error),
}

impl Error {
    /// The exit status with which the tool reports this error.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => status::USAGE,
            Self::Build { .. } | Self::Lint { .. } | Self::Compile { .. } => status::BUILD,
            Self::Module(_)
            | Self::ModulesTooLarge { .. }
            | Self::NoWorkspace
            | Self::Input { .. } => status::INPUT,
            Self::Missing(_) | Self::Install { .. } | Self::Kvm(_) => status::MISSING,
            Self::Bench(_) | Self::Trace(_) => status::MACHINE,
            Self::File { .. } | Self::Spawn { .. } | Self::Image(_) => status::MACHINE,
        }
    }
}

/// The tool's own exit statuses.
pub mod status {
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// Something does not build.
    pub const BUILD: u8 = 65;
    /// An input file cannot be used.
    pub const INPUT: u8 = 66;
    /// Something that is needed is not installed.
    pub const MISSING: u8 = 69;
    /// The machine, or a file or command of the host, failed.
    pub const MACHINE: u8 = 70;
    /// The run took longer than `--timeout`.
    pub const TIMEOUT: u8 = 124;
}
