//! Programs that a test writes itself: freestanding C, compiled by the host's C compiler.
//!
//! Shows that Heliox runs what an ordinary compiler makes, not only what its own build makes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::error::Error;

/// A compiled program; its file is removed when this is dropped.
#[derive(Debug)]
pub struct CompiledProgram {
    path: PathBuf,
    _directory: TempDir,
}

impl CompiledProgram {
    /// The ELF file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Compiles C source into a static ELF64 program at the linker's usual fixed addresses
/// (0x400000 and up) that starts at `_start`. `name` is the file's name, and so the module's.
/// `options` are given to the compiler last, `-Wl,...` among them.
///
/// The program has no C library and no start files, and may use SSE, as any program of the
/// host's compiler.
///
/// # Errors
///
/// There is no C compiler (`cc`), or it refuses the source.
pub fn compile_c(name: &str, source: &str, options: &[&str]) -> Result<CompiledProgram, Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        |source| Error::File { action: "write", path, source }
    };
    let directory = tempfile::tempdir().map_err(failed(&std::env::temp_dir()))?;
    let input = directory.path().join(format!("{name}.c"));
    fs::write(&input, source).map_err(failed(&input))?;
    let path = directory.path().join(name);
    let output = Command::new("cc")
        .args(arguments(&input, &path, options))
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn {
            command: "the C compiler cc (install gcc)".to_owned(),
            source,
        })?;
    if !output.status.success() {
        return Err(Error::Compile {
            name: name.to_owned(),
            messages: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(CompiledProgram { path, _directory: directory })
}

fn arguments(input: &Path, output: &Path, options: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-pie",
        "-no-pie",
        "-static",
        "-nostdlib",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        "-o",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    arguments.extend([output.into(), input.into()]);
    arguments.extend(options.iter().map(OsString::from));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_static_elf_at_the_usual_address() {
        let program = compile_c("spin", "void _start(void) { for (;;); }", &[]).unwrap();
        let elf = fs::read(program.path()).unwrap();
        let half = |at: usize| u16::from_le_bytes([elf[at], elf[at + 1]]);
        assert_eq!(&elf[..5], b"\x7fELF\x02");
        assert_eq!((half(16), half(18)), (2, 62), "ET_EXEC for x86-64");
        let entry = u64::from_le_bytes(elf[24..32].try_into().unwrap());
        assert!((0x40_0000..0x50_0000).contains(&entry), "{entry:#x}");
        let path = program.path().to_path_buf();
        drop(program);
        assert!(!path.exists());
    }

    #[test]
    fn options_reach_the_linker() {
        let source = "void _start(void) { for (;;); }";
        let program = compile_c("high", source, &["-Wl,-Ttext-segment=0x2000000"]).unwrap();
        let elf = fs::read(program.path()).unwrap();
        let entry = u64::from_le_bytes(elf[24..32].try_into().unwrap());
        assert!((0x200_0000..0x210_0000).contains(&entry), "{entry:#x}");
    }

    #[test]
    fn what_does_not_compile_says_why() {
        let error = compile_c("wrong", "int x = ;", &[]).unwrap_err();
        assert!(error.to_string().contains("wrong.c:1"), "{error}");
    }
}
