//! Builds the kernel and the programs that run on it.
//!
//! Hides cargo. Both are packages of this workspace, compiled for the bare machine, always
//! optimised, in a target directory of their own: a nested cargo must not wait for the lock
//! of the one that runs the tool. Each package is built at most once per process.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use crate::error::Error;
use crate::provision::{self, Consent, Need};
use crate::terminal;
use crate::toolchain::{BARE_TARGET, Toolchain, toolchain};

/// The kernel's package, and the name of its ELF file.
pub const KERNEL: &str = "heliox-kernel";
/// The programs that `heliox boot` starts first unless others are given: the one that owns all
/// memory, and the one that starts all others. The program `x` is the binary `x` of the package
/// `heliox-x`.
pub const SIGMA0: &str = "sigma0";
/// See [`SIGMA0`].
pub const ROOT: &str = "root";
/// All programs of this repository.
pub const PROGRAMS: [&str; 6] =
    [SIGMA0, ROOT, DEMONSTRATION, "bench", "conformance", "first-light"];
/// What `heliox boot` loads besides if no module is given.
pub const DEMONSTRATION: &str = "pingpong";
/// The profile of the workspace's Cargo.toml.
const PROFILE: &str = "bare";

/// The kernel's ELF file, built now if this process has not built it yet.
///
/// # Errors
///
/// Something to build it with is missing, or it does not build.
pub fn kernel(consent: Consent) -> Result<PathBuf, Error> {
    package(KERNEL, KERNEL, None, consent)
}

/// The kernel with a log of every operation on memory (feature `audit`).
///
/// # Errors
///
/// As [`kernel`].
pub fn audited_kernel(consent: Consent) -> Result<PathBuf, Error> {
    package(KERNEL, KERNEL, Some("audit"), consent)
}

/// The ELF file of an in-tree program or of a kernel among the examples, built now if this process has not built it yet.
///
/// # Errors
///
/// As [`kernel`].
pub fn program(name: &str, consent: Consent) -> Result<PathBuf, Error> {
    package(&format!("heliox-{name}"), name, None, consent)
}

fn package(
    package: &str,
    binary: &str,
    feature: Option<&str>,
    consent: Consent,
) -> Result<PathBuf, Error> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{package} {}", feature.unwrap_or_default());
    if let Some(file) = built.get(&key) {
        return Ok(file.clone());
    }
    provision::ensure(Need::BareTarget, consent)?;
    let toolchain = toolchain().unwrap_or(Toolchain::Prebuilt);
    let root = workspace()?;
    let target_directory = target_directory(&root, env::var_os("CARGO_TARGET_DIR").as_deref());
    // What is built with a feature must not take the place of what is built without.
    let target_directory = target_directory.join(feature.unwrap_or_default());
    let mut command = toolchain.cargo();
    command
        .args(["build", "--profile", PROFILE, "--package", package])
        .args(feature.map(|feature| format!("--features={feature}")))
        .args(arguments(toolchain, &target_directory, consent))
        .current_dir(&root)
        .stdin(Stdio::null())
        // Standard output is the guest's.
        .stdout(Stdio::null());
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    terminal::status("Building", package);
    let status =
        command.status().map_err(|source| Error::Spawn { command: "cargo".to_owned(), source })?;
    if !status.success() {
        return Err(Error::Build { package: package.to_owned() });
    }
    let file = target_directory.join(BARE_TARGET).join(PROFILE).join(binary);
    built.insert(key, file.clone());
    Ok(file)
}

/// Runs Clippy on the packages that only the bare machine can run, and so are not linted with
/// the others: the kernel's image, and the programs. Warnings are errors.
///
/// # Errors
///
/// Something is missing, or a package has a warning.
pub fn lint(consent: Consent) -> Result<(), Error> {
    provision::ensure(Need::BareTarget, consent)?;
    provision::ensure(Need::BareLints, consent)?;
    let toolchain = toolchain().unwrap_or(Toolchain::Prebuilt);
    let root = workspace()?;
    let target_directory = target_directory(&root, env::var_os("CARGO_TARGET_DIR").as_deref());
    for directory in bare_packages(&root) {
        let package = directory.strip_prefix(&root).unwrap_or(&directory).display();
        terminal::status("Linting", &package);
        let mut command = toolchain.clippy();
        command
            .arg("--manifest-path")
            .arg(directory.join("Cargo.toml"))
            .args(arguments(toolchain, &target_directory, consent))
            .args(["--", "-D", "warnings"])
            .current_dir(&root)
            .stdin(Stdio::null());
        let status = command
            .status()
            .map_err(|source| Error::Spawn { command: "cargo clippy".to_owned(), source })?;
        if !status.success() {
            return Err(Error::Lint { package: package.to_string() });
        }
    }
    Ok(())
}

/// The directories of the packages that only the bare machine can run.
fn bare_packages(root: &Path) -> Vec<PathBuf> {
    let directories = ["examples", "user"].map(|directory| fs::read_dir(root.join(directory)));
    let entries = directories.into_iter().flatten().flatten().flatten();
    let mut packages: Vec<_> = entries.map(|entry| entry.path()).collect();
    packages.push(root.join("kernel/image"));
    packages.retain(|directory| directory.join("Cargo.toml").exists());
    packages.sort();
    packages
}

/// What every call of cargo for the bare machine has in common.
fn arguments(toolchain: Toolchain, target_directory: &Path, consent: Consent) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["--target", BARE_TARGET, "--target-dir"].iter().map(OsString::from).collect();
    arguments.push(target_directory.into());
    arguments.extend(toolchain.build_options().iter().map(OsString::from));
    if consent == Consent::Offline {
        arguments.push("--offline".into());
    }
    arguments
}

/// The target directory of what is built for the bare machine: inside the workspace's own.
fn target_directory(root: &Path, configured: Option<&OsStr>) -> PathBuf {
    match configured {
        Some(directory) if !directory.is_empty() => root.join(directory).join(PROFILE),
        _ => root.join("target").join(PROFILE),
    }
}

/// The root of the workspace: the one that this tool was built from, or, if that is gone, the
/// one around the current directory.
///
/// # Errors
///
/// There is neither.
pub fn workspace() -> Result<PathBuf, Error> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let current = env::current_dir().ok();
    built_from
        .into_iter()
        .chain(current.iter().flat_map(|directory| directory.ancestors()))
        .find(|directory| is_workspace(directory))
        .map(Path::to_path_buf)
        .ok_or(Error::NoWorkspace)
}

fn is_workspace(directory: &Path) -> bool {
    directory.join("Cargo.toml").exists()
        && directory.join("heliox/Cargo.toml").exists()
        && directory.join("kernel").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(toolchain: Toolchain, consent: Consent) -> String {
        let arguments = arguments(toolchain, Path::new("/t/bare"), consent);
        let words: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn cargo_is_told_where_core_comes_from() {
        let common = "--target x86_64-unknown-none --target-dir /t/bare";
        assert_eq!(line(Toolchain::Prebuilt, Consent::Unattended), common);
        assert_eq!(line(Toolchain::Prebuilt, Consent::Offline), format!("{common} --offline"));
        assert_eq!(
            line(Toolchain::FromSource, Consent::Ask),
            format!(
                "{common} -Zbuild-std=core,alloc \
                 -Zbuild-std-features=compiler-builtins-mem \
                 --config=target.x86_64-unknown-none.linker=\"ld\""
            )
        );
    }

    #[test]
    fn the_target_directory_is_inside_the_workspaces() {
        let root = Path::new("/heliox");
        for (configured, expected) in [
            (None, "/heliox/target/bare"),
            (Some(""), "/heliox/target/bare"),
            (Some("build"), "/heliox/build/bare"),
            (Some("/elsewhere"), "/elsewhere/bare"),
        ] {
            assert_eq!(target_directory(root, configured.map(OsStr::new)), Path::new(expected));
        }
    }

    #[test]
    fn the_workspace_is_found() {
        assert!(is_workspace(&workspace().unwrap()));
        assert!(!is_workspace(Path::new("/")));
    }
}
