//! Finds what the tool needs on this host, or installs it.
//!
//! Hides packages and package managers. What to do is decided by [`plan`], a pure function of
//! [`Facts`]; the rest of the file gathers facts and carries plans out.
//!
//! Who is asked: on a terminal the person is, before anything is installed. Without one (a
//! script, a container) root's own commands run and say what they do, and nobody else's do.
//! `--offline` never installs. Every refusal names the command to type.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::error::Error;
use crate::size::Size;
use crate::terminal;
use crate::toolchain::{BARE_TARGET, Toolchain, toolchain};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

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
    /// The command works for root only, and this process has no way to become root.
    only_root: bool,
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is not installed: ", self.need.title())?;
        match &self.command {
            Some(command) if self.only_root => write!(formatter, "as root, type `{command}`"),
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
            Privilege::Root | Privilege::None => &["apt-get"],
            Privilege::Sudo => &["sudo", "apt-get"],
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
        return Plan::Refuse(Refusal { need, command: None, only_root: false });
    };
    match facts.consent {
        Consent::Ask | Consent::Unattended if allowed => {
            Plan::Install { commands, ask: facts.consent == Consent::Ask }
        }
        _ => Plan::Refuse(refusal(need, &commands, facts.privilege)),
    }
}

fn refusal(need: Need, commands: &[Vec<&str>], privilege: Privilege) -> Refusal {
    let lines: Vec<_> = commands.iter().map(|words| words.join(" ")).collect();
    let by_rustup = commands.iter().all(|words| words.first() == Some(&"rustup"));
    Refusal {
        need,
        only_root: privilege == Privilege::None && !by_rustup,
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
        let refused = refusal(need, &commands, facts.privilege);
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
    let output = result.map_err(|source| Error::Spawn { command: shown.clone(), source })?;
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
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
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

/// Where a program is, as a shell would find it.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|file| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(file)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
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
                let facts = Facts { present: true, consent, privilege, ..CLEAN };
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
            (None, Unattended, "refuse", ""),
            (None, Ask, "refuse", ""),
            (None, Offline, "refuse", ""),
        ] {
            let facts = Facts { privilege, consent, ..CLEAN };
            assert_eq!(planned(Need::Qemu, facts), format!("{verb} {sudo}{QEMU_INSTALL}"));
        }
    }

    #[test]
    fn package_lists_come_first() {
        let facts = Facts { package_lists: false, ..CLEAN };
        assert_eq!(planned(Need::Qemu, facts), format!("run apt-get update && {QEMU_INSTALL}"));
    }

    #[test]
    fn the_target_comes_from_rustup_or_else_from_packages() {
        let packages = "apt-get install --yes --no-install-recommends \
             rustc-web cargo-web rust-web-src binutils";
        let without_rustup = Facts { rustup: false, ..CLEAN };
        let rustup = "rustup target add x86_64-unknown-none";
        for (facts, expected) in [
            (CLEAN, format!("run {rustup}")),
            (Facts { privilege: Privilege::None, ..CLEAN }, format!("run {rustup}")),
            (Facts { consent: Consent::Ask, ..CLEAN }, format!("ask {rustup}")),
            (Facts { consent: Consent::Offline, ..CLEAN }, format!("refuse {rustup}")),
            (without_rustup, format!("run {packages}")),
            (Facts { consent: Consent::Offline, ..without_rustup }, format!("refuse {packages}")),
        ] {
            assert_eq!(planned(Need::BareTarget, facts), expected);
        }
    }

    #[test]
    fn lints_come_from_where_the_toolchain_came_from() {
        let rustup = "run rustup component add clippy";
        assert_eq!(planned(Need::BareLints, CLEAN), rustup);
        let from_source = Facts { rustup: false, ..CLEAN };
        let packages = "run apt-get install --yes --no-install-recommends rust-web-clippy";
        assert_eq!(planned(Need::BareLints, from_source), packages);
    }

    #[test]
    fn a_refusal_is_one_sentence_with_the_command() {
        let says = |need, privilege| {
            let facts = Facts { privilege, consent: Consent::Offline, ..CLEAN };
            match plan(need, &facts) {
                Plan::Refuse(refusal) => refusal.to_string(),
                other => panic!("{other:?}"),
            }
        };
        let prefix = "QEMU (qemu-system-x86_64) is not installed:";
        for (privilege, expected) in [
            (Privilege::Root, format!("{prefix} type `{QEMU_INSTALL}`")),
            (Privilege::Sudo, format!("{prefix} type `sudo {QEMU_INSTALL}`")),
            (Privilege::None, format!("{prefix} as root, type `{QEMU_INSTALL}`")),
        ] {
            assert_eq!(says(Need::Qemu, privilege), expected);
        }
        assert!(
            says(Need::BareTarget, Privilege::None)
                .ends_with("is not installed: type `rustup target add x86_64-unknown-none`")
        );
    }

    #[test]
    fn other_systems_are_told_what_to_look_for() {
        let facts = Facts { apt: false, ..CLEAN };
        let Plan::Refuse(refusal) = plan(Need::Qemu, &facts) else {
            panic!("nothing can be installed without apt-get");
        };
        assert_eq!(
            refusal.to_string(),
            "QEMU (qemu-system-x86_64) is not installed: install it with this system's package \
             manager"
        );
    }
}
