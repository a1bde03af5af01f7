//! The Rust toolchain for the bare machine, and the environment it runs in.
//!
//! Hides that there are two: the one in use, if it has `core` prebuilt for the target, and
//! Debian's, which compiles `core` from its package of sources. A nested cargo sees nothing of
//! what the cargo that runs this process put into the environment.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::provision::find_program;

/// The target that the kernel and its programs are compiled for.
pub const BARE_TARGET: &str = "x86_64-unknown-none";
/// Where Debian's packages of the Rust toolchain put it.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

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
    let stays = ["CARGO_HOME", "CARGO_BUILD_JOBS"].contains(&name)
        || ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
    let set_by_cargo = name == "CARGO"
        || name.starts_with("CARGO_")
        || name.starts_with("DEP_")
        || ["RUSTC", "RUSTC_BOOTSTRAP", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"].contains(&name)
        || ["RUSTFLAGS", "RUSTDOCFLAGS", "CLIPPY_ARGS", "MAKEFLAGS", "MFLAGS"].contains(&name)
        || ["OUT_DIR", "TARGET", "HOST", "PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS"]
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
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "CARGO_BUILD_JOBS",
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
