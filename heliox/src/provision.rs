//! Finds what the tool needs on this host, or installs it.
//!
//! Hides packages and package managers. What to do is decided by [`plan`], a pure function of
//! [`Facts`]; the rest of the file gathers facts and carries plans out.
//!
//! Who is asked: on a terminal the person is, before anything is installed. Without one (a
//! script, a container) root's own commands run and say what they do, and nobody else's do.
//! `--offline` never installs. Every refusal names the command to type.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::error::Error;
use crate::size::Size;
use crate::terminal;

/// The target that the kernel and its programs are compiled for.
pub const BARE_TARGET: &str = "x86_64-unknown-none";
/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// Where Debian's packages of the Rust toolchain put it.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Something that the tool cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `core` and `alloc` for the bare machine: prebuilt, or sources to build them from.
    BareTarget,
    /// Clippy for the toolchain that compiles for the bare machine.
    BareLints,
    /// The emulator.
    Qemu,
    /// What makes a disc that a BIOS boots.
    Grub,
    /// What makes that disc boot on UEFI too.
    GrubUefi,
}

impl Need {
    /// What it is, for a sentence.
    fn title(self) -> &'static str {
        match self {
            Self::BareTarget => "Rust's core library for x86_64-unknown-none",
            Self::BareLints => "Clippy for the bare machine's toolchain",
            Self::Qemu => "QEMU (qemu-system-x86_64)",
            Self::Grub => "GRUB's grub-mkrescue for BIOS, with xorriso and mtools",
            Self::GrubUefi => "GRUB for UEFI (x86_64-efi)",
        }
    }

    /// The Debian packages that have it.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::BareTarget => &["rustc-web", "cargo-web", "rust-web-src", "binutils"],
            Self::BareLints => &["rust-web-clippy"],
            Self::Qemu => &["qemu-system-x86"],
            Self::Grub => &["grub-common", "grub-pc-bin", "xorriso", "mtools"],
            Self::GrubUefi => &["grub-efi-amd64-bin"],
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.title())
    }
}

/// How far the tool may go on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Ask the person at the terminal before installing.
    Ask,
    /// Nobody can be asked: what needs no password is installed, and said.
    Unattended,
    /// Never install.
    Offline,
}

impl Consent {
    /// What fits this process: asks where somebody can be asked.
    #[must_use]
    pub fn here(offline: bool) -> Self {
        match offline {
            true => Self::Offline,
            false if terminal::can_ask() => Self::Ask,
            false => Self::Unattended,
        }
    }
}

/// How this process may become root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// It is.
    Root,
    /// By `sudo`, which may want a password.
    Sudo,
    /// It may not.
    None,
}

/// What [`plan`] decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What is needed is there.
    pub present: bool,
    /// There is a `rustup` that could have it, and it has not failed at this yet.
    pub rustup: bool,
    /// There is an `apt-get`.
    pub apt: bool,
    /// Its lists of packages are there, and installing from them has not failed yet.
    pub package_lists: bool,
    /// How this process may become root.
    pub privilege: Privilege,
    /// How far the tool may go.
    pub consent: Consent,
}

/// What to do about a need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it is there.
    Ready,
    /// Run these commands one after the other, after asking if `ask`.
    Install {
        /// Program and arguments of each.
        commands: Vec<Vec<&'static str>>,
        /// Whether a person has to agree.
        ask: bool,
    },
    /// Give up.
    Refuse(Refusal),
}

/// Why something that is missing is not being installed, and what to type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    need: Need,
    command: Option<String>,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is not installed: ", self.need.title())?;
        match &self.command {
            Some(command) => write!(formatter, "type `{command}`"),
            None => formatter.write_str("install it with this system's package manager"),
        }
    }
}

/// Decides how to meet a need.
#[must_use]
pub fn plan(need: Need, facts: &Facts) -> Plan {
    if facts.present {
        return Plan::Ready;
    }
    let by_rustup: Option<&[&str]> = match need {
        Need::BareTarget => Some(&["rustup", "target", "add", BARE_TARGET]),
        Need::BareLints => Some(&["rustup", "component", "add", "clippy"]),
        Need::Qemu | Need::Grub | Need::GrubUefi => None,
    };
    let (commands, allowed) = if let (Some(command), true) = (by_rustup, facts.rustup) {
        // rustup installs into its user's home and needs nobody's password.
        (vec![command.to_vec()], true)
    } else if facts.apt {
        let prefix: &[&str] = match facts.privilege {
            Privilege::Root => &["apt-get"],
            Privilege::Sudo | Privilege::None => &["sudo", "apt-get"],
        };
        let mut install = prefix.to_vec();
        install.extend(["install", "--yes", "--no-install-recommends"]);
        install.extend(need.packages());
        let mut commands = Vec::new();
        if !facts.package_lists {
            commands.push([prefix, &["update"]].concat());
        }
        commands.push(install);
        let allowed = match facts.privilege {
            Privilege::Root => true,
            Privilege::Sudo => facts.consent == Consent::Ask,
            Privilege::None => false,
        };
        (commands, allowed)
    } else {
        return Plan::Refuse(Refusal {
            need,
            command: None,
        });
    };
    match facts.consent {
        Consent::Ask | Consent::Unattended if allowed => Plan::Install {
            commands,
            ask: facts.consent == Consent::Ask,
        },
        _ => Plan::Refuse(refusal(need, &commands)),
    }
}

fn refusal(need: Need, commands: &[Vec<&str>]) -> Refusal {
    let lines: Vec<_> = commands.iter().map(|words| words.join(" ")).collect();
    Refusal {
        need,
        command: Some(lines.join(" && ")),
    }
}

/// Sees to it that a need is met.
///
/// # Errors
///
/// A refusal with the command to type, or the command that failed.
pub fn ensure(need: Need, consent: Consent) -> Result<(), Error> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let mut facts = gather(need, consent);
    loop {
        let (commands, ask) = match plan(need, &facts) {
            Plan::Ready => return Ok(()),
            Plan::Refuse(refusal) => return Err(refusal.into()),
            Plan::Install { commands, ask } => (commands, ask),
        };
        let refused = refusal(need, &commands);
        let by_rustup = commands[0][0] == "rustup";
        if ask && !terminal::confirm(&question(need, &refused)) {
            return Err(refused.into());
        }
        // What failed is not tried twice: rustup gives way to packages, and package lists are
        // fetched anew once.
        match commands.iter().try_for_each(|words| install(need, words)) {
            Ok(()) if is_present(need) => return Ok(()),
            Ok(()) => {
                return Err(Error::Install {
                    command: refused.command.unwrap_or_default(),
                    detail: format!("it ended well, but {} is not there", need.title()),
                });
            }
            Err(_) if by_rustup && facts.apt => facts.rustup = false,
            Err(_) if !by_rustup && facts.package_lists => facts.package_lists = false,
            Err(error) => return Err(error),
        }
    }
}

fn question(need: Need, refusal: &Refusal) -> String {
    format!(
        "{} is not installed. Run `{}` now?",
        need.title(),
        refusal.command.as_deref().unwrap_or_default()
    )
}

fn install(need: Need, words: &[&str]) -> Result<(), Error> {
    let shown = words.join(" ");
    terminal::status("Installing", format!("{}: {shown}", need.title()));
    let spinner = terminal::Spinner::start(&shown);
    let result = Command::new(words[0])
        .args(&words[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output();
    drop(spinner);
    let output = result.map_err(|source| Error::Spawn {
        command: shown.clone(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    Err(Error::Install {
        command: shown,
        detail: format!(
            "{}\n{}",
            output.status,
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        ),
    })
}

fn gather(need: Need, consent: Consent) -> Facts {
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| is_root(&metadata));
    Facts {
        present: is_present(need),
        rustup: find_program("rustup").is_some()
            && !(need == Need::BareLints && toolchain() == Some(Toolchain::FromSource)),
        apt: find_program("apt-get").is_some(),
        package_lists: has_package_lists(),
        privilege: match root {
            true => Privilege::Root,
            false if find_program("sudo").is_some() => Privilege::Sudo,
            false => Privilege::None,
        },
        consent,
    }
}

fn is_root(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::uid(metadata) == 0
}

fn has_package_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn is_present(need: Need) -> bool {
    match need {
        Need::BareTarget => toolchain().is_some(),
        Need::BareLints => toolchain().is_some_and(|toolchain| {
            let version = toolchain.clippy().arg("--version").output();
            version.is_ok_and(|output| output.status.success())
        }),
        Need::Qemu => find_program(QEMU).is_some(),
        Need::Grub => {
            ["grub-mkrescue", "xorriso", "mformat"]
                .iter()
                .all(|program| find_program(program).is_some())
                && Path::new("/usr/lib/grub/i386-pc/multiboot2.mod").exists()
        }
        Need::GrubUefi => Path::new("/usr/lib/grub/x86_64-efi/multiboot2.mod").exists(),
    }
}

/// How to compile for the bare machine on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain in use has a prebuilt `core` for the target.
    Prebuilt,
    /// Debian's toolchain compiles `core` and `alloc` from its package of sources.
    FromSource,
}

impl Toolchain {
    /// `cargo`, not told yet what to do, in an environment without what an outer cargo set.
    #[must_use]
    pub fn cargo(self) -> Command {
        match self {
            Self::Prebuilt => self.clean(find_program("cargo").map_or_else(
                || env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
                PathBuf::into_os_string,
            )),
            Self::FromSource => self.clean(DEBIAN_CARGO.into()),
        }
    }

    /// `cargo clippy`, not told yet on what, in the same environment.
    #[must_use]
    pub fn clippy(self) -> Command {
        let mut command = match self {
            Self::Prebuilt => self.cargo(),
            // Through `cargo`, this could be another toolchain's.
            Self::FromSource => self.clean(DEBIAN_CLIPPY.into()),
        };
        command.arg("clippy");
        command
    }

    fn clean(self, program: OsString) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_outer_cargo) {
                command.env_remove(name);
            }
        }
        if self == Self::FromSource {
            command
                .env("CARGO", DEBIAN_CARGO)
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// The options of `cargo build` that this toolchain needs.
    #[must_use]
    pub fn build_options(self) -> &'static [&'static str] {
        match self {
            Self::Prebuilt => &[],
            Self::FromSource => &[
                "-Zbuild-std=core,alloc",
                "-Zbuild-std-features=compiler-builtins-mem",
                // Debian does not ship the linker that comes with Rust.
                "--config=target.x86_64-unknown-none.linker=\"ld\"",
            ],
        }
    }
}

/// Whether a variable was set by, or for, the cargo that runs this process: a nested cargo
/// that saw it would build something else, or everything again. Variables that say where
/// cargo keeps its files and how it reaches the network stay.
fn belongs_to_outer_cargo(name: &str) -> bool {
    let stays = ["CARGO_HOME", "CARGO_INSTALL_ROOT"].contains(&name)
        || [
            "CARGO_HTTP_",
            "CARGO_NET_",
            "CARGO_REGISTR",
            "CARGO_SOURCE_",
            "CARGO_TERM_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let set_by_cargo = name == "CARGO"
        || name.starts_with("CARGO_")
        || name.starts_with("DEP_")
        || [
            "RUSTC",
            "RUSTC_BOOTSTRAP",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ]
        .contains(&name)
        || [
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "CLIPPY_ARGS",
            "MAKEFLAGS",
            "MFLAGS",
        ]
        .contains(&name)
        || [
            "OUT_DIR",
            "TARGET",
            "HOST",
            "PROFILE",
            "OPT_LEVEL",
            "DEBUG",
            "NUM_JOBS",
        ]
        .contains(&name);
    set_by_cargo && !stays
}

/// The toolchain that this host has for the bare machine, if it has one.
#[must_use]
pub fn toolchain() -> Option<Toolchain> {
    static FOUND: Mutex<Option<Toolchain>> = Mutex::new(None);
    let mut found = FOUND.lock().ok()?;
    if found.is_none() {
        *found = find_toolchain();
    }
    *found
}

fn find_toolchain() -> Option<Toolchain> {
    let print = |rustc: &str, arguments: &[&str]| -> Option<PathBuf> {
        let output = Command::new(rustc).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(text.trim()))
    };
    let library = ["--print", "target-libdir", "--target", BARE_TARGET];
    let prebuilt = print("rustc", &library).is_some_and(|directory| has_core(&directory));
    if prebuilt {
        return Some(Toolchain::Prebuilt);
    }
    let sysroot = print(DEBIAN_RUSTC, &["--print", "sysroot"])?;
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    (sources.exists() && Path::new(DEBIAN_CARGO).exists() && find_program("ld").is_some())
        .then_some(Toolchain::FromSource)
}

fn has_core(library: &Path) -> bool {
    fs::read_dir(library).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

/// Where a program is, as a shell would find it.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| {
            use std::os::unix::fs::PermissionsExt;
            fs::metadata(file).is_ok_and(|metadata| {
                metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
            })
        })
}

/// The size of the host's RAM; zero, so that no memory is reserved, where it does not say.
#[must_use]
pub fn host_memory() -> Size {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| {
        let line = line.strip_prefix("MemTotal:")?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    Size::from_bytes(kilobytes.unwrap_or(0).saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh Debian container with rustup, where somebody runs a script as root.
    const CLEAN: Facts = Facts {
        present: false,
        rustup: true,
        apt: true,
        package_lists: true,
        privilege: Privilege::Root,
        consent: Consent::Unattended,
    };

    /// A plan as text: `ready`, `run COMMANDS`, `ask COMMANDS` or `refuse COMMANDS`.
    fn planned(need: Need, facts: Facts) -> String {
        match plan(need, &facts) {
            Plan::Ready => "ready".to_owned(),
            Plan::Install { commands, ask } => {
                let lines: Vec<_> = commands.iter().map(|words| words.join(" ")).collect();
                format!("{} {}", if ask { "ask" } else { "run" }, lines.join(" && "))
            }
            Plan::Refuse(Refusal { command, .. }) => {
                format!("refuse {}", command.unwrap_or_default())
            }
        }
    }

    const QEMU_INSTALL: &str = "apt-get install --yes --no-install-recommends qemu-system-x86";

    #[test]
    fn what_is_there_is_not_installed_whoever_asks() {
        for consent in [Consent::Ask, Consent::Unattended, Consent::Offline] {
            for privilege in [Privilege::Root, Privilege::Sudo, Privilege::None] {
                let facts = Facts {
                    present: true,
                    consent,
                    privilege,
                    ..CLEAN
                };
                for need in [Need::BareTarget, Need::Qemu, Need::Grub, Need::GrubUefi] {
                    assert_eq!(planned(need, facts), "ready");
                }
            }
        }
    }

    #[test]
    fn who_may_install_packages() {
        use Consent::{Ask, Offline, Unattended};
        use Privilege::{None, Root, Sudo};
        for (privilege, consent, verb, sudo) in [
            (Root, Unattended, "run", ""),
            (Root, Ask, "ask", ""),
            (Root, Offline, "refuse", ""),
            (Sudo, Unattended, "refuse", "sudo "),
            (Sudo, Ask, "ask", "sudo "),
            (Sudo, Offline, "refuse", "sudo "),
            (None, Unattended, "refuse", "sudo "),
            (None, Ask, "refuse", "sudo "),
            (None, Offline, "refuse", "sudo "),
        ] {
            let facts = Facts {
                privilege,
                consent,
                ..CLEAN
            };
            assert_eq!(
                planned(Need::Qemu, facts),
                format!("{verb} {sudo}{QEMU_INSTALL}")
            );
        }
    }

    #[test]
    fn package_lists_come_first() {
        let facts = Facts {
            package_lists: false,
            ..CLEAN
        };
        assert_eq!(
            planned(Need::Qemu, facts),
            format!("run apt-get update && {QEMU_INSTALL}")
        );
    }

    #[test]
    fn the_target_comes_from_rustup_or_else_from_packages() {
        let packages = "apt-get install --yes --no-install-recommends \
             rustc-web cargo-web rust-web-src binutils";
        let without_rustup = Facts {
            rustup: false,
            ..CLEAN
        };
        let rustup = "rustup target add x86_64-unknown-none";
        for (facts, expected) in [
            (CLEAN, format!("run {rustup}")),
            (
                Facts {
                    privilege: Privilege::None,
                    ..CLEAN
                },
                format!("run {rustup}"),
            ),
            (
                Facts {
                    consent: Consent::Ask,
                    ..CLEAN
                },
                format!("ask {rustup}"),
            ),
            (
                Facts {
                    consent: Consent::Offline,
                    ..CLEAN
                },
                format!("refuse {rustup}"),
            ),
            (without_rustup, format!("run {packages}")),
            (
                Facts {
                    consent: Consent::Offline,
                    ..without_rustup
                },
                format!("refuse {packages}"),
            ),
        ] {
            assert_eq!(planned(Need::BareTarget, facts), expected);
        }
    }

    #[test]
    fn lints_come_from_where_the_toolchain_came_from() {
        let rustup = "run rustup component add clippy";
        assert_eq!(planned(Need::BareLints, CLEAN), rustup);
        let from_source = Facts {
            rustup: false,
            ..CLEAN
        };
        let packages = "run apt-get install --yes --no-install-recommends rust-web-clippy";
        assert_eq!(planned(Need::BareLints, from_source), packages);
    }

    #[test]
    fn other_systems_are_told_what_to_look_for() {
        let facts = Facts {
            apt: false,
            ..CLEAN
        };
        let Plan::Refuse(refusal) = plan(Need::Qemu, &facts) else {
            panic!("nothing can be installed without apt-get");
        };
        assert_eq!(
            refusal.to_string(),
            "QEMU (qemu-system-x86_64) is not installed: install it with this system's package \
             manager"
        );
    }

    #[test]
    fn only_what_an_outer_cargo_set_is_removed() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "RUSTFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "OUT_DIR",
        ] {
            assert!(belongs_to_outer_cargo(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "HTTPS_PROXY",
            "PATH",
        ] {
            assert!(!belongs_to_outer_cargo(name), "{name}");
        }
    }
}
